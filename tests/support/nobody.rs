//! What a user without any privilege can do: programs that are run as nobody.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use tempfile::TempDir;

/// Its user and its group.
pub const NOBODY: u32 = 65_534;

/// A copy of a program where everybody reaches it: the tests' own are below /root, say.
#[derive(Debug)]
pub struct Reachable {
    path: PathBuf,
    _folder: TempDir,
}

impl Reachable {
    /// Copies it.
    pub fn copy_of(program: &Path) -> Result<Self> {
        let folder = TempDir::with_prefix("reachable-").context("create a folder")?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let name = program.file_name().context("a program without name")?;
        let path = folder.path().join(name);
        fs::copy(program, &path).with_context(|| format!("copy {}", program.display()))?;
        Ok(Self { path, _folder: folder })
    }

    /// The copy.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A command that nobody runs.
pub fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    command
}

/// Does something in a thread that is nobody's.
pub fn in_a_thread<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<T> {
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            set_thread_groups(&[]).context("leave all groups")?;
            set_thread_gid(group).context("become nobody's group")?;
            set_thread_uid(user).context("become nobody")?;
            Ok(run())
        });
        thread.join().map_err(|_| anyhow!("nobody panicked"))?
    })
}

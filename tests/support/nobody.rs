//! Programs and threads of the user nobody, who has no privilege.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use tempfile::TempDir;

/// The number of the user nobody, and of its group.
pub const NOBODY: u32 = 65_534;

/// Arguments of setpriv(1) for a program to be nobody's.
pub(crate) const BECOME_NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// A program at a place of its own: every user can enter it, unlike /root.
#[derive(Debug)]
pub struct Reachable {
    path: PathBuf,
    _folder: TempDir,
}

impl Reachable {
    /// Copies a program.
    pub fn copy_of(program: &Path) -> Result<Self> {
        let folder = TempDir::with_prefix("reachable-").context("create a folder")?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let name = program.file_name().context("a program without name")?;
        let path = folder.path().join(name);
        fs::copy(program, &path).with_context(|| format!("copy {}", program.display()))?;
        Ok(Self { path, _folder: folder })
    }

    /// Links to a program by another name, which the kernel gives its process.
    pub fn named(name: &str, program: &Path) -> Result<Self> {
        let folder = TempDir::with_prefix("named-").context("create a folder")?;
        let path = folder.path().join(name);
        symlink(program, &path).context("name a program")?;
        Ok(Self { path, _folder: folder })
    }

    /// The path of the copy or link.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A command that runs a program as nobody.
pub fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    command
}

/// Runs a function in a thread that is nobody's, and waits for it.
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

//! What a user without any privilege can do: programs that are run as nobody.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
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

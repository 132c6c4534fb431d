//! SIGHUP: reopens the files of stdout and stderr, and reads the descriptor set again.
//!
//! The web configuration with its files, and the files for Kubernetes, are read whenever they are used and need no
//! signal. Flags, variables and the config file are read only at the start.

#![forbid(unsafe_code)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use tracing::{info, warn};

use crate::{config::Config, metrics::Descriptors, worker::Workers};

/// The files that are opened or read again.
#[derive(Debug)]
pub struct Reload {
    descriptor_set: Option<PathBuf>,
    stdout: Option<PathBuf>,
    stderr: Option<PathBuf>,
    /// Whether the daemon was started at a terminal.
    at_terminal: bool,
}

impl Reload {
    /// Finds the names of the files. To be called at the start: after a file was renamed, its old name is not known.
    pub fn new(config: &Config) -> Self {
        Self {
            descriptor_set: config.descriptor_set.clone(),
            stdout: file_behind(Path::new("/proc/self/fd/1")),
            stderr: file_behind(Path::new("/proc/self/fd/2")),
            at_terminal: is_at_terminal(),
        }
    }

    /// The files that are opened again for writing.
    pub fn outputs(&self) -> Vec<PathBuf> {
        self.stdout.iter().chain(&self.stderr).cloned().collect()
    }

    /// Whether the terminal was closed that the daemon was started at. Then SIGHUP means that, not a reload.
    pub fn is_terminal_gone(&self) -> bool {
        self.at_terminal && !is_at_terminal()
    }

    /// Reopens and reads the files. A file that fails stays as it was, and is logged.
    pub fn run(&self, workers: &Workers) {
        for (name, path, replace) in [
            ("stdout", &self.stdout, dup2_stdout as fn(File) -> _),
            ("stderr", &self.stderr, dup2_stderr),
        ] {
            let Some(path) = path else { continue };
            match reopened(path).and_then(|file| Ok(replace(file)?)) {
                Ok(()) => info!("SIGHUP: reopened {name} at {}", path.display()),
                Err(error) => warn!(
                    "SIGHUP: {name} keeps its file, because {} cannot be opened: {error}",
                    path.display()
                ),
            }
        }
        if let Some(path) = &self.descriptor_set {
            match Descriptors::read(path) {
                Ok(descriptors) => {
                    workers.describe(descriptors);
                    info!("SIGHUP: read the descriptor set {}", path.display());
                }
                Err(error) => {
                    warn!("SIGHUP: keeping the previous declared types: {error:#}");
                }
            }
        }
        info!("SIGHUP: done; changes of flags, variables or the config file need a restart");
    }
}

fn is_at_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// The name of the regular file behind a file descriptor, if it still has that name.
fn file_behind(descriptor: &Path) -> Option<PathBuf> {
    let name = fs::read_link(descriptor).ok()?;
    let (open, named) = (fs::metadata(descriptor).ok()?, fs::metadata(&name).ok()?);
    let same = |a: &fs::Metadata, b: &fs::Metadata| {
        use std::os::unix::fs::MetadataExt as _;
        (a.dev(), a.ino()) == (b.dev(), b.ino())
    };
    (open.is_file() && same(&open, &named)).then_some(name)
}

/// Opens the file for appending. If it was renamed, creates a new one.
fn reopened(path: &Path) -> Result<File> {
    let mode = fs::metadata(path).map_or(0o640, |metadata| metadata.permissions().mode());
    let file = OpenOptions::new().append(true).create(true).mode(mode).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, os::fd::AsRawFd as _};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_file_is_opened_again_by_the_name_that_it_had() {
        let dir = TempDir::new().unwrap();
        let (path, old) = (dir.path().join("lines"), dir.path().join("lines.1"));
        let file = File::create(&path).unwrap();
        let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(file_behind(Path::new(&descriptor)), Some(path.clone()));
        fs::rename(&path, &old).unwrap();
        reopened(&path).unwrap().write_all(b"1").unwrap();
        reopened(&path).unwrap().write_all(b"2").unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), fs::read(&old).unwrap()),
            (b"12".to_vec(), Vec::new())
        );
        assert!(reopened(dir.path()).is_err());
    }

    #[test]
    fn what_is_no_file_is_not_opened_again() {
        let (read, _write) = io::pipe().unwrap();
        let pipe = format!("/proc/self/fd/{}", read.as_raw_fd());
        let null = File::open("/dev/null").unwrap();
        let null = format!("/proc/self/fd/{}", null.as_raw_fd());
        let dir = TempDir::new().unwrap();
        let gone = File::create(dir.path().join("gone")).unwrap();
        fs::remove_file(dir.path().join("gone")).unwrap();
        let gone = format!("/proc/self/fd/{}", gone.as_raw_fd());
        for descriptor in [&pipe, &null, &gone, "/proc/self/fd/9999"] {
            assert_eq!(file_behind(Path::new(descriptor)), None, "{descriptor}");
        }
    }
}

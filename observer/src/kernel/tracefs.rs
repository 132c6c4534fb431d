//! Access to tracefs, where aya reads the ids of tracepoints, even if the machine has not mounted it.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};
use tracing::debug;

/// Runs `attach` with tracefs mounted at one of the `candidates`.
///
/// If it is not mounted, a thread with a mount namespace of its own mounts it at the first candidate and runs `attach`.
/// No other process sees this mount, and it ends with the thread. It needs `CAP_SYS_ADMIN`; without that, the error is
/// that tracefs is not mounted.
pub(super) fn at_hand<T: Send>(
    candidates: &[PathBuf],
    attach: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let Err(absent) = mounted(candidates) else { return attach() };
    let Some(place) = candidates.first() else { return Err(absent) };
    let alone = || {
        if let Err(error) = mount_for_this_thread(place) {
            debug!("cannot mount tracefs at {}: {error}", place.display());
            return Err(absent);
        }
        mounted(candidates)?;
        attach()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("attach".into()).spawn_scoped(scope, alone);
        let done = thread.context("cannot start a thread")?.join();
        done.unwrap_or_else(|_| Err(anyhow!("a panic occurred while the programs were attached")))
    })
}

/// The candidate where tracefs is mounted: like aya 0.14, the first one that is a directory with entries. The error is
/// for a daemon that cannot mount tracefs itself.
fn mounted(candidates: &[PathBuf]) -> Result<&Path> {
    let mut denied = None;
    for path in candidates {
        match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => denied = Some(path),
            Ok(false) | Err(_) => {}
        }
    }
    match denied {
        Some(path) => {
            bail!("cannot read {}: run as root, or add CAP_DAC_READ_SEARCH", path.display())
        }
        None => bail!(
            "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing (in a \
             container, mount the host's /sys/kernel/tracing)"
        ),
    }
}

/// Gives this thread a mount namespace of its own (mount_namespaces(7)) and mounts tracefs in it.
fn mount_for_this_thread(place: &Path) -> io::Result<()> {
    // SAFETY: only UnshareFlags::FILES asks for care, and the file descriptors stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Otherwise the mount would propagate to the namespace that this one is a copy of.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("tracefs", place, "tracefs", flags, None)?)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn tracefs_is_a_directory_with_something_in_it() {
        let dir = TempDir::new().expect("a directory");
        let empty = dir.path().join("empty");
        let place = dir.path().join("mounted");
        let candidates = [dir.path().join("absent"), empty.clone(), place.clone()];
        fs::create_dir(&empty).expect("created");
        let absent = mounted(&candidates).expect_err("it is empty").to_string();
        assert!(absent.contains("mount -t tracefs tracefs /sys/kernel/tracing"), "{absent}");
        fs::create_dir_all(place.join("events")).expect("created");
        assert_eq!(mounted(&candidates).expect("mounted"), place);
    }

    #[test]
    fn where_it_is_mounted_no_thread_is_needed() {
        let dir = TempDir::new().expect("a directory");
        fs::create_dir(dir.path().join("events")).expect("created");
        let this = thread::current().id();
        let by = at_hand(&[dir.path().into()], || Ok(thread::current().id())).expect("attached");
        assert_eq!(by, this);
    }

    #[test]
    fn where_it_cannot_be_mounted_nothing_is_attached() {
        let dir = TempDir::new().expect("a directory");
        let absent = dir.path().join("absent");
        let attached = at_hand(&[absent], || -> Result<()> { panic!("attached") });
        let error = attached.expect_err("there is no such directory").to_string();
        assert!(error.contains("tracefs is not mounted"), "{error}");
    }
}

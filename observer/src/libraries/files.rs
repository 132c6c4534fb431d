//! The files that the opener knows: what is in them, and the links of those that are probed.
//!
//! A place that is probed twice would count its bytes twice, so a file must not be probed by two links. The kernel probes
//! an *inode*, and several files may have the same one: overlayfs shows the file of an image with another device number
//! in each container. The number of the inode, the size and the time of its last change are the same in all. If they
//! are, and the process already has a breakpoint where the instruction should be, it is the same inode.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    os::fd::OwnedFd,
    sync::Arc,
};

use rustix::fs::{Stat, fstat, fstatfs};

use super::messages::{Found, Report};
use crate::kernel::FileLinks;

/// The most files that are known. With more, those without a library are searched again.
const MAX_FILES: usize = 8192;

/// The most files that are probed.
pub(super) const MAX_PROBED: usize = 512;

/// The most processes of a file that are remembered.
const MAX_PIDS: usize = 256;

/// `OVERLAYFS_SUPER_MAGIC` (`include/uapi/linux/magic.h`).
const OVERLAYFS: u64 = 0x794c_7630;

/// What distinguishes a file from others that exist at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    device: u64,
    inode: u64,
}

/// What changes if a file gets other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    size: u64,
    modified: (i64, u64),
}

/// The kernel's name of a mapped file: its device as `/proc/PID/maps` shows it, and its inode.
pub(super) type Mapped = (Vec<u8>, u64);

/// A file, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) key: Key,
    version: Version,
}

impl Identity {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            key: Key { device: stat.st_dev, inode: stat.st_ino },
            version: Version {
                size: stat.st_size.cast_unsigned(),
                modified: (stat.st_mtime, stat.st_mtime_nsec),
            },
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.version.size
    }

    /// Whether this may be another name of the same inode.
    fn may_be(&self, other: &Self) -> bool {
        self.key.inode == other.key.inode
            && self.key.device != other.key.device
            && self.version == other.version
    }
}

/// A file that was searched.
struct Known {
    version: Version,
    probed: Option<Probed>,
    /// What was reported about it, as far as it matters to other processes that have it.
    told: Box<[Report]>,
}

/// A file that is probed.
struct Probed {
    found: Arc<Found>,
    by: By,
}

enum By {
    /// A link of its own.
    Own(Box<Own>),
    /// The link of this file, which has the same inode.
    Other(Key),
}

struct Own {
    _links: FileLinks,
    file: OwnedFd,
    mapped: Mapped,
    /// Processes that have it mapped.
    pids: BTreeSet<u32>,
}

impl Own {
    /// Whether the file may disappear while it is probed: it is deleted, or of a container. The link would keep it.
    fn is_temporary(&self) -> bool {
        let is_deleted = fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0);
        is_deleted || fstatfs(&self.file).is_ok_and(|of| of.f_type.cast_unsigned() == OVERLAYFS)
    }

    fn version(&self) -> Option<Version> {
        fstat(&self.file).ok().map(|stat| Identity::of(&stat).version)
    }
}

/// The files that are known.
#[derive(Default)]
pub(super) struct Files {
    known: HashMap<Key, Known>,
}

impl Files {
    /// If the file was searched and has not changed since: what was reported about it. If it is probed, `pid` has it
    /// mapped, too.
    pub(super) fn known(&mut self, file: &Identity, pid: u32) -> Option<Vec<Report>> {
        let known = self.known.get(&file.key)?;
        if known.version != file.version {
            // Its probes are no longer at instructions.
            self.forget(file.key);
            return None;
        }
        let told = known.told.iter().map(|report| report.again(pid)).collect();
        self.note(file.key, pid);
        Some(told)
    }

    fn note(&mut self, key: Key, pid: u32) {
        let other = match self.known.get_mut(&key).and_then(|known| known.probed.as_mut()) {
            Some(Probed { by: By::Own(own), .. }) => {
                if own.pids.len() < MAX_PIDS {
                    own.pids.insert(pid);
                }
                return;
            }
            Some(Probed { by: By::Other(other), .. }) => *other,
            None => return,
        };
        if other != key {
            self.note(other, pid);
        }
    }

    /// Removes a file and its links, and the files that are probed by these.
    fn forget(&mut self, key: Key) {
        self.known.remove(&key);
        self.known.retain(|_, known| match &known.probed {
            Some(Probed { by: By::Other(other), .. }) => *other != key,
            _ => true,
        });
    }

    /// Probed files that may have the same inode.
    pub(super) fn twins(&self, file: &Identity) -> Vec<(Key, Arc<Found>)> {
        let own = self.known.iter().filter_map(|(key, known)| {
            let Probed { found, by: By::Own(_) } = known.probed.as_ref()? else { return None };
            let other = Identity { key: *key, version: known.version };
            other.may_be(file).then(|| (*key, Arc::clone(found)))
        });
        own.collect()
    }

    /// The number of files that are probed by links of their own.
    pub(super) fn probed(&self) -> usize {
        let is_own = |known: &&Known| matches!(known.probed, Some(Probed { by: By::Own(_), .. }));
        self.known.values().filter(is_own).count()
    }

    /// Remembers that a file is not to be probed, and what was reported about it.
    pub(super) fn add_without(&mut self, file: &Identity, told: &[Report]) {
        self.add(file, None, told);
    }

    fn add(&mut self, file: &Identity, probed: Option<Probed>, told: &[Report]) {
        self.make_room();
        let told = told.iter().filter(|report| report.matters()).copied().collect();
        self.known.insert(file.key, Known { version: file.version, probed, told });
    }

    /// Remembers that a file is probed by the link of another one.
    pub(super) fn add_same(
        &mut self,
        file: &Identity,
        other: Key,
        found: Arc<Found>,
        pid: u32,
        told: &[Report],
    ) {
        self.add(file, Some(Probed { found, by: By::Other(other) }), told);
        self.note(other, pid);
    }

    /// Remembers that a file is probed.
    pub(super) fn add_probed(
        &mut self,
        identity: &Identity,
        found: Arc<Found>,
        links: FileLinks,
        file: OwnedFd,
        (mapped, pid): (Mapped, u32),
        told: &[Report],
    ) {
        let own = Own { _links: links, file, mapped, pids: [pid].into() };
        self.add(identity, Some(Probed { found, by: By::Own(Box::new(own)) }), told);
    }

    fn make_room(&mut self) {
        if self.known.len() >= MAX_FILES {
            self.known.retain(|_, known| known.probed.is_some());
        }
        if self.known.len() >= MAX_FILES {
            self.known
                .retain(|_, known| matches!(known.probed, Some(Probed { by: By::Own(_), .. })));
        }
    }

    /// Drops the links of files that have changed, and of files that the links keep from disappearing. `is_running` says
    /// whether there is a process, `search` returns those that have one of these files mapped.
    pub(super) fn sweep(
        &mut self,
        is_running: impl Fn(u32) -> bool,
        search: impl FnOnce(&HashSet<Mapped>) -> Vec<(u32, Mapped)>,
    ) {
        let mut unused: HashMap<Mapped, Key> = HashMap::new();
        let mut changed = Vec::new();
        for (key, known) in &mut self.known {
            let Some(Probed { by: By::Own(own), .. }) = &mut known.probed else { continue };
            own.pids.retain(|pid| is_running(*pid));
            if own.version() != Some(known.version) {
                changed.push(*key);
            } else if own.pids.is_empty() && own.is_temporary() {
                unused.insert(own.mapped.clone(), *key);
            }
        }
        if !unused.is_empty() {
            let names: HashSet<Mapped> = unused.keys().cloned().collect();
            for (pid, mapped) in search(&names) {
                if let Some(key) = unused.remove(&mapped) {
                    self.note(key, pid);
                }
            }
        }
        for key in changed.into_iter().chain(unused.into_values()) {
            self.forget(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs::File};

    use observer_tls::Refusal;

    use super::{
        super::messages::{Failure, Outcome},
        *,
    };

    fn identity(device: u64, inode: u64, size: u64) -> Identity {
        Identity { key: Key { device, inode }, version: Version { size, modified: (1, 2) } }
    }

    fn found() -> Arc<Found> {
        Arc::new(Found::default())
    }

    /// A file, and what it is.
    fn on_disk(is_deleted: bool) -> (OwnedFd, Identity) {
        let named = tempfile::NamedTempFile::new().unwrap();
        // This file is on no overlay, and stays.
        let path = if is_deleted { named.path() } else { "/proc/self/maps".as_ref() };
        let file: OwnedFd = File::open(path).unwrap().into();
        let identity = Identity::of(&fstat(&file).unwrap());
        (file, identity)
    }

    fn probed(files: &mut Files, is_deleted: bool, pid: u32) -> Identity {
        let (file, identity) = on_disk(is_deleted);
        let mapped = (b"fe:01".to_vec(), identity.key.inode);
        files.add_probed(&identity, found(), FileLinks::none(), file, (mapped, pid), &[]);
        identity
    }

    #[test]
    fn a_file_is_searched_once_until_it_changes() {
        let mut files = Files::default();
        let file = identity(1, 7, 100);
        assert!(files.known(&file, 1).is_none());
        files.add_without(&file, &[]);
        assert!(files.known(&file, 1).is_some());
        assert!(files.known(&identity(2, 7, 100), 1).is_none(), "on another device");
        assert!(files.known(&identity(1, 7, 101), 1).is_none(), "with another size");
        assert!(files.known(&file, 1).is_none(), "it was forgotten");
    }

    #[test]
    fn what_matters_is_reported_again_for_other_processes() {
        let mut files = Files::default();
        let file = identity(1, 7, 100);
        let told = [Outcome::Failed(Failure::Jvm), Outcome::Refused(Refusal::NoLibrary)]
            .map(|outcome| Report::file(1, None, outcome, "", b"/a", 0));
        files.add_without(&file, &told);
        assert_eq!(files.known(&file, 2), Some(vec![told[0].again(2)]));
    }

    #[test]
    fn twins_have_the_same_inode_elsewhere() {
        let mut files = Files::default();
        let own = probed(&mut files, false, 1);
        let elsewhere = |of: Identity| {
            let key = Key { device: of.key.device + 1, ..of.key };
            Identity { key, ..of }
        };
        let twin = elsewhere(own);
        assert_eq!(files.twins(&twin).len(), 1);
        assert!(files.twins(&own).is_empty(), "itself");
        let mut longer = twin;
        longer.version.size += 1;
        assert!(files.twins(&longer).is_empty(), "with other bytes");
        files.add_same(&twin, own.key, found(), 2, &[]);
        assert!(files.known(&twin, 3).is_some());
        assert_eq!(files.probed(), 1);
        assert_eq!(files.twins(&elsewhere(twin)).len(), 1, "only the one with the link counts");
        files.forget(own.key);
        assert!(files.known(&twin, 3).is_none(), "without the link it is not probed");
    }

    #[test]
    fn deleted_files_are_kept_while_a_process_has_them() {
        let mut files = Files::default();
        let deleted = probed(&mut files, true, 1);
        let kept = probed(&mut files, false, 1);
        let none = |_: &HashSet<Mapped>| -> Vec<(u32, Mapped)> { panic!("searched") };
        files.sweep(|_| true, none);
        assert_eq!(files.probed(), 2);
        // The process has ended, but a child of it is left.
        let searched = Cell::new(0);
        files.sweep(
            |_| false,
            |names| {
                searched.set(names.len());
                names.iter().map(|name| (2, name.clone())).collect()
            },
        );
        assert_eq!((files.probed(), searched.get()), (2, 1));
        files.sweep(|pid| pid == 2, none);
        assert_eq!(files.probed(), 2);
        files.sweep(|_| false, |_| Vec::new());
        assert!(files.known(&deleted, 3).is_none());
        assert!(files.known(&kept, 3).is_some());
    }

    #[test]
    fn a_file_that_is_written_is_no_longer_probed() {
        let mut files = Files::default();
        let named = tempfile::NamedTempFile::new().unwrap();
        let file: OwnedFd = File::open(named.path()).unwrap().into();
        let identity = Identity::of(&fstat(&file).unwrap());
        let mapped = (b"fe:01".to_vec(), identity.key.inode);
        files.add_probed(&identity, found(), FileLinks::none(), file, (mapped, 1), &[]);
        std::fs::write(named.path(), b"other bytes").unwrap();
        files.sweep(|_| true, |_| Vec::new());
        assert_eq!(files.probed(), 0);
    }

    #[test]
    fn there_is_room_for_new_files_and_those_that_are_probed_stay() {
        let mut files = Files::default();
        let own = probed(&mut files, false, 1);
        for inode in 0..2 * MAX_FILES as u64 {
            files.add_without(&identity(u64::MAX, inode, 1), &[]);
            assert!(files.known.len() <= MAX_FILES);
        }
        assert!(files.known(&own, 1).is_some());
    }
}

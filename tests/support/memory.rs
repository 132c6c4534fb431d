//! A control group with a memory limit, as `MemoryMax=` of a systemd unit or the limit of a container makes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

/// A control group with a memory limit. Drop removes it; its processes must have ended.
#[derive(Debug)]
pub struct MemoryLimit {
    folder: PathBuf,
    files: &'static Files,
}

/// The names of a group's files.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    /// Swap would hide how much memory was asked for.
    swap: Option<&'static str>,
    peak: &'static str,
    /// The file with a line `oom_kill N`.
    events: &'static str,
}

/// Version 1, which has a hierarchy for memory.
const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    swap: Some("memory.swappiness"),
    peak: "memory.max_usage_in_bytes",
    events: "memory.oom_control",
};

/// Version 2, which has a peak since Linux 5.19.
const V2: Files = Files {
    limit: "memory.max",
    swap: Some("memory.swap.max"),
    peak: "memory.peak",
    events: "memory.events",
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl MemoryLimit {
    /// Whether this machine has control groups with a memory limit and a peak.
    pub fn is_possible() -> bool {
        Self::new(u64::from(u32::MAX)).is_ok_and(|limit| limit.peak().is_ok())
    }

    /// Creates a group with a limit of this many bytes.
    pub fn new(bytes: u64) -> Result<Self> {
        let (parent, files) = hierarchy()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("observer-test-{}-{number}", process::id()));
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        let limit = Self { folder, files };
        limit.write(files.limit, &bytes.to_string())?;
        if let Some(swap) = files.swap.filter(|swap| limit.folder.join(swap).exists()) {
            limit.write(swap, "0")?;
        }
        Ok(limit)
    }

    /// The file into which a process's number is written to add it to the group.
    pub fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The peak of the group's memory, in bytes; it includes what the kernel allocated for the processes.
    pub fn peak(&self) -> Result<u64> {
        self.read(self.files.peak)?.trim().parse().context("a peak that is not a number")
    }

    /// The number of processes that were killed at the limit.
    pub fn kills(&self) -> Result<u64> {
        let events = self.read(self.files.events)?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.context("kills are not counted")?.parse().context("kills that are not a number")
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // A group that is still in use stays: nothing can be done about it.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The folder below which groups with a memory limit can be created.
fn hierarchy() -> Result<(PathBuf, &'static Files)> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let mut found = None;
    for mount in mounts.lines() {
        let [_, place, kind, options, ..] = *mount.split(' ').collect::<Vec<_>>() else { continue };
        let place = Path::new(place);
        if kind == "cgroup" && options.split(',').any(|option| option == "memory") {
            found = Some((place.to_owned(), &V1));
        } else if kind == "cgroup2" && gives_memory(place) {
            found = Some((place.to_owned(), &V2));
        }
    }
    found.context("no control groups that limit memory")
}

/// Whether the groups below this one can limit memory; enables that if it has to.
fn gives_memory(root: &Path) -> bool {
    let has = |name: &str| {
        fs::read_to_string(root.join(name))
            .is_ok_and(|text| text.split_whitespace().any(|controller| controller == "memory"))
    };
    let allowed = root.join("cgroup.subtree_control");
    has("cgroup.subtree_control")
        || has("cgroup.controllers") && fs::write(allowed, "+memory").is_ok()
}

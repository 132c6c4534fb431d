//! A control group whose processes may have so much memory together, as a unit's `MemoryMax=` and a
//! container's limit make it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

/// The group, which is gone once it is dropped; its processes must have ended.
#[derive(Debug)]
pub struct MemoryLimit {
    folder: PathBuf,
    files: &'static Files,
}

/// What the files of a group are called.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    /// Swap would hide how much was asked for.
    swap: Option<&'static str>,
    peak: &'static str,
    /// Has a line `oom_kill N`.
    events: &'static str,
}

/// Version 1, with a hierarchy of its own for memory.
const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    swap: Some("memory.swappiness"),
    peak: "memory.max_usage_in_bytes",
    events: "memory.oom_control",
};

/// Version 2, since Linux 5.19 with a peak.
const V2: Files = Files {
    limit: "memory.max",
    swap: Some("memory.swap.max"),
    peak: "memory.peak",
    events: "memory.events",
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl MemoryLimit {
    /// Whether this machine has such groups.
    pub fn is_possible() -> bool {
        Self::new(u64::from(u32::MAX)).is_ok_and(|limit| limit.peak().is_ok())
    }

    /// A group that may have so many bytes.
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

    /// Where a process's number is written for it to be in the group.
    pub fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The most that they have had at once, in bytes: with what the kernel keeps for them.
    pub fn peak(&self) -> Result<u64> {
        self.read(self.files.peak)?.trim().parse().context("a peak that is no number")
    }

    /// How many of them were killed because they wanted more.
    pub fn kills(&self) -> Result<u64> {
        let events = self.read(self.files.events)?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.context("kills are not counted")?.parse().context("kills that are no number")
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
        // One that is still in use stays: there is nothing else to be done about it.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Where groups may be made below.
fn hierarchy() -> Result<(PathBuf, &'static Files)> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let mut found = None;
    for mount in mounts.lines() {
        let mut words = mount.split(' ');
        let (Some(_), Some(place), Some(kind), Some(options)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let place = Path::new(place);
        if kind == "cgroup" && options.split(',').any(|option| option == "memory") {
            found = Some((place.to_owned(), &V1));
        } else if kind == "cgroup2" && gives_memory(place) {
            found = Some((place.to_owned(), &V2));
        }
    }
    found.context("no control groups that limit memory")
}

/// Whether the groups below this one can limit memory, which may have to be allowed first.
fn gives_memory(root: &Path) -> bool {
    let has = |name: &str| {
        fs::read_to_string(root.join(name))
            .is_ok_and(|text| text.split_whitespace().any(|controller| controller == "memory"))
    };
    let allowed = root.join("cgroup.subtree_control");
    has("cgroup.subtree_control")
        || has("cgroup.controllers") && fs::write(allowed, "+memory").is_ok()
}

//! The memory limit of the daemon, and whether its memory is near that limit.
//!
//! The kernel kills a process of a unit or a container that exceeds its limit. So that no figure is lost, the daemon
//! takes nothing new once its memory is near the limit: further methods, processes and connections are only counted,
//! until there is memory again.

use std::path::{Path, PathBuf};

use crate::files::first_of;

/// The part of the limit above which the daemon takes nothing new. The rest is for a scrape, and for the maps of the
/// BPF programs, which the kernel counts as the daemon's memory.
const STOP_AT: (u64, u64) = (3, 4);

/// The part of the limit below which the daemon takes new ones again.
const GO_AT: (u64, u64) = (5, 8);

/// Maximum bytes that are read of a file of `/proc` or of a cgroup. There may be many mounts.
const AT_MOST: usize = 1 << 20;

/// More than any machine has: cgroups of version 1 have such a number if there is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// The memory limit of this process's cgroup, and whether the process is near it.
#[derive(Debug)]
pub struct Budget {
    limit: Option<u64>,
    stopped: bool,
}

impl Budget {
    /// Reads the limit of this process.
    pub fn of_this_process() -> Self {
        Self::of(limit(Path::new("/proc")))
    }

    fn of(limit: Option<u64>) -> Self {
        Self { limit, stopped: false }
    }

    /// The limit in bytes; `None` if there is no limit.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Reads the memory of this process. Returns whether the daemon should take nothing new.
    pub fn is_short(&mut self) -> bool {
        if self.limit.is_some()
            && let Some(resident) = resident()
        {
            self.takes(resident);
        }
        self.stopped
    }

    /// Decides for this number of resident bytes.
    fn takes(&mut self, resident: u64) {
        let Some(limit) = self.limit else { return };
        let (parts, of) = if self.stopped { GO_AT } else { STOP_AT };
        self.stopped = resident > limit / of * parts;
    }
}

/// Makes the allocator return free memory to the system.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The resident memory of this process in bytes (proc(5), `statm`).
fn resident() -> Option<u64> {
    let text = first_of(Path::new("/proc/self/statm"), AT_MOST).ok()?;
    let pages: u64 = str::from_utf8(&text).ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * procfs::page_size())
}

/// The lowest limit of this process's cgroup and the cgroups above it, in bytes.
fn limit(proc: &Path) -> Option<u64> {
    let read = |name: &str| String::from_utf8(first_of(&proc.join(name), AT_MOST).ok()?).ok();
    let (groups, mounts) = (read("self/cgroup")?, read("self/mountinfo")?);
    places(&groups, &mounts).iter().flat_map(limits).min()
}

/// A cgroup that limits this process's memory: its folder, the highest folder that is visible, and the name of the file
/// with the limit.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    group: PathBuf,
    root: PathBuf,
    file: &'static str,
}

/// The cgroups of a process, from `/proc/[pid]/cgroup` (cgroups(7)) and `/proc/[pid]/mountinfo` (proc(5)).
fn places(groups: &str, mounts: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (kind, file) = match controllers {
            "" => ("cgroup2", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("cgroup", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mount = mounts.lines().find_map(|mount| {
            let (place, of) = mount.split_once(" - ")?;
            let mut of = of.split(' ');
            let is_it = of.next() == Some(kind)
                && (kind == "cgroup2" || of.nth(1)?.split(',').any(|option| option == "memory"));
            let mut place = place.split(' ').skip(3);
            is_it.then_some((place.next()?, place.next()?))
        });
        let Some((shown, mounted)) = mount else { continue };
        let root = PathBuf::from(mounted);
        // In a container the mount may show only the container's own cgroup.
        let below = Path::new(path).strip_prefix(shown).unwrap_or(Path::new(""));
        places.push(Place { group: root.join(below), root, file });
    }
    places
}

/// The limits of a cgroup and of the cgroups above it.
fn limits(place: &Place) -> impl Iterator<Item = u64> {
    let Place { group, root, file } = place;
    group.ancestors().take_while(move |folder| folder.starts_with(root)).filter_map(move |folder| {
        let text = first_of(&folder.join(file), AT_MOST).ok()?;
        let limit: u64 = str::from_utf8(&text).ok()?.trim().parse().ok()?;
        (limit < NO_LIMIT).then_some(limit)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Budget, Place, limit, places, resident};

    fn place(group: &str, root: &str, file: &'static str) -> Place {
        Place { group: group.into(), root: root.into(), file }
    }

    #[test]
    fn groups_are_found_of_both_versions() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let v1 = "35 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let inside = "35 32 0:30 /docker/1f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let unit = "/sys/fs/cgroup/system.slice/observer.service";
        let (memory, root) = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup");
        let cases = [
            (
                "0::/system.slice/observer.service\n",
                v2.to_owned(),
                vec![place(unit, root, "memory.max")],
            ),
            ("0::/\n", v2.to_owned(), vec![place(root, root, "memory.max")]),
            (
                "5:cpu:/a\n4:memory:/a/b\n0::/\n",
                [v1, v2].concat(),
                vec![
                    place("/sys/fs/cgroup/memory/a/b", memory, "memory.limit_in_bytes"),
                    place(root, root, "memory.max"),
                ],
            ),
            (
                "4:memory:/docker/1f\n",
                inside.to_owned(),
                vec![place(memory, memory, "memory.limit_in_bytes")],
            ),
            ("4:memory:/a\n", v2.to_owned(), vec![]),
            ("nothing\n::\n", "nothing - \n".to_owned(), vec![]),
        ];
        for (groups, mounts, want) in cases {
            assert_eq!(places(groups, &mounts), want, "{groups}");
        }
    }

    #[test]
    fn the_lowest_limit_counts() {
        let folder = tempfile::TempDir::new().unwrap();
        let group = folder.path().join("cgroup/unit/inner");
        fs::create_dir_all(&group).unwrap();
        fs::create_dir(folder.path().join("self")).unwrap();
        let mounted = folder.path().join("cgroup");
        let mount = format!("1 2 0:3 / {} rw - cgroup2 none rw\n", mounted.display());
        fs::write(folder.path().join("self/mountinfo"), mount).unwrap();
        fs::write(folder.path().join("self/cgroup"), "0::/unit/inner\n").unwrap();
        assert_eq!(limit(folder.path()), None);
        fs::write(group.join("memory.max"), "max\n").unwrap();
        assert_eq!(limit(folder.path()), None);
        fs::write(mounted.join("unit/memory.max"), "1000\n").unwrap();
        assert_eq!(limit(folder.path()), Some(1000));
        fs::write(group.join("memory.max"), "400\n").unwrap();
        assert_eq!(limit(folder.path()), Some(400));
        fs::write(group.join("memory.max"), "9223372036854771712\n").unwrap();
        assert_eq!(limit(folder.path()), Some(1000));
    }

    #[test]
    fn near_the_limit_there_is_nothing_new_until_there_is_room() {
        let mut budget = Budget::of(Some(800));
        let short = [500, 600, 601, 550, 501, 500, 600, 601].map(|resident| {
            budget.takes(resident);
            budget.stopped
        });
        assert_eq!(short, [false, false, true, true, true, false, false, true]);
        assert!(!Budget::of(None).is_short());
        assert!(Budget::of(Some(1)).is_short());
        assert!(resident().unwrap() > 256 << 10);
    }
}

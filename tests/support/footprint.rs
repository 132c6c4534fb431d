//! Memory, BPF maps and threads of a process, from `/proc`.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Its anonymous memory (`RssAnon`): neither files nor what it shares with the kernel, as the ring buffer.
    pub memory: u64,
    /// The maps of its BPF programs, ring buffers included.
    pub maps: u64,
}

impl Footprint {
    /// Reads it.
    pub fn of(pid: u32) -> Result<Self> {
        let kib = status(pid, pid, "RssAnon")?;
        let kib = kib.strip_suffix(" kB").context("not in kB")?;
        let memory = kib.parse::<u64>().context("not a number")? * 1024;
        let maps = map_numbers(pid)?.into_iter().map(kernel::size_of_map).sum::<Result<u64>>()?;
        Ok(Self { memory, maps })
    }
}

/// A field of `/proc/PID/task/THREAD/status`, without the spaces around it.
pub fn status(pid: u32, thread: u32, field: &str) -> Result<String> {
    let path = format!("/proc/{pid}/task/{thread}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {field} in {path}"))?.trim().to_owned())
}

/// The numbers of a process's threads.
pub fn threads(pid: u32) -> Result<Vec<u32>> {
    let names = fs::read_dir(format!("/proc/{pid}/task")).context("list threads")?;
    let number = |entry: std::io::Result<fs::DirEntry>| {
        entry?.file_name().to_string_lossy().parse().context("a thread without number")
    };
    names.map(number).collect()
}

/// The numbers of a process's children.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if status(child, child, "PPid").is_ok_and(|parent| parent == pid.to_string()) {
            children.push(child);
        }
    }
    Ok(children)
}

/// The numbers of the BPF programs that a process has open or attached.
pub fn programs(pid: u32) -> Result<BTreeSet<u32>> {
    numbers(pid, "prog_id:")
}

/// The numbers of the maps that a process has open or that its programs use.
pub fn map_numbers(pid: u32) -> Result<BTreeSet<u32>> {
    Ok(&numbers(pid, "map_id:")? | &kernel::maps_of(&programs(pid)?)?)
}

fn numbers(pid: u32, name: &str) -> Result<BTreeSet<u32>> {
    let described = described_in(&format!("/proc/{pid}/fdinfo"))?;
    let numbers = described.iter().filter_map(|text| field(text, name));
    numbers.map(|number| number.parse().context("no number")).collect()
}

/// Requests to the kernel that need root.
#[cfg(feature = "privileged")]
mod kernel {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::fd::{AsFd as _, AsRawFd as _};

    use anyhow::{Context as _, Result};
    use aya::maps::MapInfo;
    use aya::programs::loaded_programs;

    pub(super) fn maps_of(programs: &BTreeSet<u32>) -> Result<BTreeSet<u32>> {
        let mut maps = BTreeSet::new();
        // Other processes load and unload programs at the same time.
        for program in loaded_programs().flatten().filter(|one| programs.contains(&one.id())) {
            maps.extend(program.map_ids()?.context("the kernel does not list a program's maps")?);
        }
        Ok(maps)
    }

    /// The size of a map, in the `fdinfo` of its descriptors (`bpf_map_show_fdinfo`).
    pub(super) fn size_of_map(number: u32) -> Result<u64> {
        let map = MapInfo::from_id(number)?.fd()?;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
        super::field(&text, "memlock:").context("a map without size")?.parse().context("no size")
    }
}

/// A process that is not root's has no maps.
#[cfg(not(feature = "privileged"))]
mod kernel {
    use std::collections::BTreeSet;

    use anyhow::{Result, bail};

    pub(super) fn maps_of(_: &BTreeSet<u32>) -> Result<BTreeSet<u32>> {
        Ok(BTreeSet::new())
    }

    pub(super) fn size_of_map(number: u32) -> Result<u64> {
        bail!("only root can read the size of map {number}")
    }
}

/// The `fdinfo` of each descriptor of a thread, which may have its own descriptors.
pub fn described_of(pid: u32, thread: u32) -> Result<Vec<String>> {
    described_in(&format!("/proc/{pid}/task/{thread}/fdinfo"))
}

fn described_in(folder: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {folder}"))?;
    // Descriptors are opened and closed at the same time.
    Ok(entries.flatten().flat_map(|entry| fs::read_to_string(entry.path())).collect())
}

/// The value after `name` at the start of a line of `fdinfo`.
pub fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Footprint, status, threads};

    #[test]
    fn this_process_has_memory_threads_and_no_maps() {
        let pid = std::process::id();
        let footprint = Footprint::of(pid).unwrap();
        assert!(footprint.memory > 0);
        assert_eq!(footprint.maps, 0);
        assert!(threads(pid).unwrap().contains(&pid));
        assert_eq!(status(pid, pid, "Tgid").unwrap(), pid.to_string());
        assert!(status(pid, pid, "Nothing").is_err());
    }
}

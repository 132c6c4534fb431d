//! What a process takes of the machine, as the kernel tells it.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Its own: neither files nor what it shares with the kernel (the ring buffer).
    pub memory: u64,
    /// That of the maps of its BPF programs, and of its ring buffers.
    pub maps: u64,
}

impl Footprint {
    /// As it is now.
    pub fn of(pid: u32) -> Result<Self> {
        let kib = status(pid, pid, "RssAnon")?;
        let kib = kib.strip_suffix(" kB").context("not in kB")?;
        let memory = kib.parse::<u64>().context("not a number")? * 1024;
        Ok(Self { memory, maps: maps(pid)? })
    }
}

/// A field of a thread's `/proc` status.
pub fn status(pid: u32, thread: u32, field: &str) -> Result<String> {
    let path = format!("/proc/{pid}/task/{thread}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {field} in {path}"))?.trim().to_owned())
}

/// A process's threads.
pub fn threads(pid: u32) -> Result<Vec<u32>> {
    let names = fs::read_dir(format!("/proc/{pid}/task")).context("list threads")?;
    let number = |entry: std::io::Result<fs::DirEntry>| {
        entry?.file_name().to_string_lossy().parse().context("a thread without number")
    };
    names.map(number).collect()
}

/// The numbers of the BPF programs that it has open or attached.
pub fn programs(pid: u32) -> Result<BTreeSet<u32>> {
    let numbers = described(pid)?.into_iter().filter_map(|text| field(&text, "prog_id:"));
    numbers.map(|number| number.parse().context("no number")).collect()
}

/// The numbers of the maps that it has open, and that its programs have: those it has closed.
pub fn map_numbers(pid: u32) -> Result<BTreeSet<u32>> {
    let numbers = described(pid)?.into_iter().filter_map(|text| field(&text, "map_id:"));
    let open: Result<BTreeSet<u32>> =
        numbers.map(|number| number.parse().context("no number")).collect();
    Ok(&open? | &kernel::maps_of(&programs(pid)?)?)
}

fn maps(pid: u32) -> Result<u64> {
    map_numbers(pid)?.into_iter().map(kernel::size_of_map).sum()
}

/// What only root can ask.
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
        // Those of others come and go.
        for program in loaded_programs().flatten().filter(|one| programs.contains(&one.id())) {
            maps.extend(program.map_ids()?.context("the kernel does not tell a program's maps")?);
        }
        Ok(maps)
    }

    /// The kernel tells what a map takes in the `fdinfo` of its descriptors (`bpf_map_show_fdinfo`).
    pub(super) fn size_of_map(number: u32) -> Result<u64> {
        let map = MapInfo::from_id(number)?.fd()?;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
        super::field(&text, "memlock:").context("a map without size")?.parse().context("no size")
    }
}

/// Who is not root has no maps.
#[cfg(not(feature = "privileged"))]
mod kernel {
    use std::collections::BTreeSet;

    use anyhow::{Result, bail};

    pub(super) fn maps_of(_: &BTreeSet<u32>) -> Result<BTreeSet<u32>> {
        Ok(BTreeSet::new())
    }

    pub(super) fn size_of_map(number: u32) -> Result<u64> {
        bail!("the size of map {number} is told to root")
    }
}

/// What the kernel says of each of a thread's descriptors: most threads have those of their process.
pub fn described_of(pid: u32, thread: u32) -> Result<Vec<String>> {
    described_in(&format!("/proc/{pid}/task/{thread}/fdinfo"))
}

fn described(pid: u32) -> Result<Vec<String>> {
    described_in(&format!("/proc/{pid}/fdinfo"))
}

fn described_in(folder: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {folder}"))?;
    // Descriptors come and go.
    Ok(entries.flatten().flat_map(|entry| fs::read_to_string(entry.path())).collect())
}

/// The value behind a name in it.
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

//! The breakpoints in the code of a process: its bytes that are not those of the file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};

/// The number of bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// The addresses of the bytes of a process's code that are not those of its files, which may be deleted or in another
/// mount namespace. Only files with `path` in their paths are read, and there must be one.
pub fn addresses(pid: u32, path: &str) -> Result<Vec<u64>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let (mut files, mut found) = (0, Vec::new());
    for line in maps.lines() {
        // proc_pid_maps(5): the range, the permissions, the offset, the device, the inode, the path.
        let mut words = line.split_whitespace();
        let range = words.next().context("no range")?;
        let (begin, end) = range.split_once('-').context("no range")?;
        let is_code = words.next().context("no permissions")?.contains('x');
        let offset = words.next().context("no offset")?;
        let inode = words.nth(1).context("no inode")?;
        if !is_code || inode == "0" || !words.next().is_some_and(|name| name.contains(path)) {
            continue;
        }
        let number = |text| u64::from_str_radix(text, 16).context("no number");
        let (begin, end, offset) = (number(begin)?, number(end)?, number(offset)?);
        // Without the zeros before it.
        let file = File::open(format!("/proc/{pid}/map_files/{begin:x}-{end:x}"))?;
        differences(&memory, [begin, end], &file, offset, &mut found)?;
        files += 1;
    }
    ensure!(files > 0, "process {pid} has no code of {path:?}");
    Ok(found)
}

/// Adds the addresses of a mapping's bytes that are not those of its file.
fn differences(
    memory: &File,
    [begin, end]: [u64; 2],
    file: &File,
    offset: u64,
    found: &mut Vec<u64>,
) -> Result<()> {
    // The last page goes beyond the end of the file.
    let size = file.metadata()?.len().saturating_sub(offset).min(end - begin);
    let (mut here, mut there) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < size {
        let length = CHUNK.min(usize::try_from(size - at)?);
        here.truncate(length);
        there.truncate(length);
        memory.read_exact_at(&mut here, begin + at)?;
        file.read_exact_at(&mut there, offset + at)?;
        let bytes = here.iter().zip(&there).zip(begin + at..);
        found.extend(bytes.filter(|((here, there), _)| here != there).map(|(_, address)| address));
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn code_without_probes_is_that_of_its_files() {
        let pid = std::process::id();
        assert!(addresses(pid, "/").unwrap().is_empty());
        assert!(addresses(pid, "no such file").is_err());
    }
}

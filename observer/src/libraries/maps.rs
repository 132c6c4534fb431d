//! The files that a process has mapped as code: `/proc/PID/maps` (proc(5)).
//!
//! The kernel writes it, but the names of files in it are chosen by others.

#![forbid(unsafe_code)]

use std::{
    io::{self, BufRead},
    ops::Range,
};

/// The most mappings that are read of one process; by default it can have 65,530 (`vm.max_map_count`).
const MAX_LINES: usize = 1 << 18;

/// The longest line: `PATH_MAX`, each byte of which may be written as 4.
const MAX_LINE: usize = 20_000;

/// A file that is mapped as code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The addresses.
    pub(super) range: Range<u64>,
    /// Where in the file they start.
    pub(super) offset: u64,
    /// The device, as it is written.
    pub(super) device: Vec<u8>,
    pub(super) inode: u64,
    pub(super) path: Vec<u8>,
}

impl Mapping {
    /// The name of the mapping in `/proc/PID/map_files`.
    pub(super) fn name(&self) -> String {
        format!("{:x}-{:x}", self.range.start, self.range.end)
    }

    /// Parses a line such as `7f2c0-7f2c9 r-xp 00002000 fe:01 262 /usr/lib/libssl.so.3`. `None` if it is not of a file,
    /// or not of code.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.splitn(6, |byte| *byte == b' ');
        let (range, rights) = (words.next()?, words.next()?);
        if rights.get(2) != Some(&b'x') {
            return None;
        }
        let (offset, device, inode) = (words.next()?, words.next()?, words.next()?);
        let mut ends = range.splitn(2, |byte| *byte == b'-').map(|end| number(end, 16));
        let range = ends.next()??..ends.next()??;
        let path = words.next()?.trim_ascii_start();
        let inode = number(inode, 10).filter(|inode| *inode != 0)?;
        // Others are no files: [vdso], anon_inode:….
        path.starts_with(b"/").then(|| Self {
            range,
            offset: number(offset, 16).unwrap_or_default(),
            device: device.to_vec(),
            inode,
            path: path.to_vec(),
        })
    }

    /// The address of a place in the file, if this mapping has it.
    pub(super) fn address_of(&self, offset: u64) -> Option<u64> {
        let address = self.range.start.checked_add(offset.checked_sub(self.offset)?)?;
        self.range.contains(&address).then_some(address)
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(digits).ok()?, radix).ok()
}

/// Reads the files that are mapped as code: each mapping, in the order of addresses.
pub(super) fn read(mut maps: impl BufRead, mut take: impl FnMut(Mapping)) -> io::Result<()> {
    let mut line = Vec::new();
    for _ in 0..MAX_LINES {
        line.clear();
        let length = io::Read::take(&mut maps, MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        if let Some(mapping) = line.strip_suffix(b"\n").and_then(Mapping::parse) {
            take(mapping);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &[u8]) -> Vec<Mapping> {
        let mut all = Vec::new();
        read(text, |mapping| all.push(mapping)).unwrap();
        all
    }

    #[test]
    fn files_of_code_are_found() {
        let text = b"\
            55d0c0a00000-55d0c0a28000 r--p 00000000 fe:01 391       /usr/bin/a\n\
            55d0c0a28000-55d0c0b00000 r-xp 00028000 fe:01 391       /usr/bin/a b (deleted)\n\
            7f0000000000-7f0000001000 rwxp 00000000 00:00 0 \n\
            7f0000002000-7f0000003000 r-xp 00000000 00:00 0         [vdso]\n\
            7f0000004000-7f0000005000 r-xp 00000000 00:0f 1027      anon_inode:[x]\n\
            7f0000006000-7f0000007000 r-xs 00001000 00:01 1028      /memfd:x\n";
        let found = all(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name(), "55d0c0a28000-55d0c0b00000");
        assert_eq!(found[0].path, b"/usr/bin/a b (deleted)");
        assert_eq!((&*found[0].device, found[0].inode), (&b"fe:01"[..], 391));
        assert_eq!(found[1].path, b"/memfd:x");
    }

    #[test]
    fn places_have_addresses_in_their_mapping() {
        let mapping = &all(b"1000-3000 r-xp 00005000 fe:01 391 /a\n")[0];
        assert_eq!(mapping.address_of(0x5000), Some(0x1000));
        assert_eq!(mapping.address_of(0x6fff), Some(0x2fff));
        assert_eq!(mapping.address_of(0x7000), None);
        assert_eq!(mapping.address_of(0x4fff), None);
    }

    #[test]
    fn this_process_has_its_program() {
        let own = std::fs::read("/proc/self/maps").unwrap();
        let program = std::env::current_exe().unwrap();
        let program = program.to_str().unwrap().as_bytes();
        assert!(all(&own).iter().any(|mapping| mapping.path == program));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&text);
            let _ = all(&[b"1-2 r-xp 0 1:1 ", &*text, b"\n"].concat());
        }
    }
}

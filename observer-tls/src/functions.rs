//! Where functions start and end: `.eh_frame`, which compilers write for unwinding, and which `strip` leaves.
//!
//! `.eh_frame_hdr` is a table of all functions, sorted by address, and says where in `.eh_frame` the entry of each is
//! (Linux Standard Base 5.0, Core, 10.6). The entry has the function's length.

use std::ops::Range;

use crate::bytes::{i32_at, part, u32_at, u64_at, varint};
use crate::elf::Elf;
use crate::refusal::Refusal;

/// Encodings of pointers (Linux Standard Base 5.0, Core, 10.5.1): signed 32 and 64 bits, relative to where the
/// pointer is, and relative to the table.
const RELATIVE_I32: u8 = 0x1b;
const RELATIVE_I64: u8 = 0x1c;
const TABLE_I32: u8 = 0x3b;
const U32: u8 = 0x03;

/// The functions of a file, as a view of `.eh_frame_hdr`.
pub(crate) struct Functions<'e, 'a> {
    elf: &'e Elf<'a>,
    header: u64,
    /// Pairs of function and entry, relative to the header.
    table: &'a [u8],
}

impl<'e, 'a> Functions<'e, 'a> {
    pub(crate) fn of(elf: &'e Elf<'a>) -> Result<Self, Refusal> {
        let header = elf.eh_frame_header.ok_or(Refusal::NoFunctionTable)?;
        let functions = Self::parse(elf, header).ok_or(Refusal::NoFunctionTable)?;
        if functions.is_sorted() { Ok(functions) } else { Err(Refusal::Malformed) }
    }

    /// ```text
    /// +---------+------------------------------+--------------+-------------+-----------+--------------------+
    /// | version | encodings: frame, count, table | .eh_frame 4 | count n 4   | n × (function 4, entry 4) |
    /// +---------+------------------------------+--------------+-------------+-----------+--------------------+
    /// ```
    fn parse(elf: &'e Elf<'a>, header: u64) -> Option<Self> {
        let bytes = elf.bytes_from(header)?;
        // All linkers write these encodings.
        if bytes.get(..4)? != [1, RELATIVE_I32, U32, TABLE_I32] {
            return None;
        }
        let count = u32_at(bytes, 8)?;
        Some(Self { elf, header, table: part(bytes, 12, u64::from(count) * 8)? })
    }

    fn len(&self) -> usize {
        self.table.len() / 8
    }

    fn start(&self, index: usize) -> Option<u64> {
        let offset = i32_at(self.table, index as u64 * 8)?;
        Some(self.header.wrapping_add_signed(i64::from(offset)))
    }

    /// What is looked up in it is otherwise found more than once.
    fn is_sorted(&self) -> bool {
        let starts = self.table.as_chunks::<8>().0.iter();
        starts.map(|entry| i32_at(entry, 0)).is_sorted()
    }

    /// The function that an address is in. Different functions do not overlap.
    pub(crate) fn around(&self, address: u64) -> Option<Range<u64>> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.start(middle)? <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let index = low.checked_sub(1)?;
        let start = self.start(index)?;
        let end = start.checked_add(self.length(index, start)?)?;
        let is_apart = self.start(low).is_none_or(|next| end <= next);
        (address < end && is_apart).then_some(start..end)
    }

    /// The function that starts at an address.
    pub(crate) fn at(&self, address: u64) -> Option<Range<u64>> {
        self.around(address).filter(|range| range.start == address)
    }

    /// Reads the entry of a function: its length, after its address once more.
    ///
    /// ```text
    /// +--------+-----------------------------+----------------+--------------+---
    /// | length | how far back its common part is | function 4 or 8 | length 4 or 8 | …
    /// +--------+-----------------------------+----------------+--------------+---
    /// ```
    fn length(&self, index: usize, start: u64) -> Option<u64> {
        let offset = i32_at(self.table, index as u64 * 8 + 4)?;
        let at = self.header.wrapping_add_signed(i64::from(offset));
        let entry = self.elf.bytes_from(at)?;
        let back = u32_at(entry, 4)?;
        let common = at.checked_add(4)?.checked_sub(u64::from(back))?;
        let place = at.checked_add(8)?;
        let (function, length) = match pointer_encoding(self.elf.bytes_from(common)?)? {
            RELATIVE_I32 => (i64::from(i32_at(entry, 8)?), u64::from(u32_at(entry, 12)?)),
            RELATIVE_I64 => (u64_at(entry, 8)? as i64, u64_at(entry, 16)?),
            _ => return None,
        };
        (back != 0 && place.wrapping_add_signed(function) == start).then_some(length)
    }
}

/// The encoding of functions' addresses, from what entries have in common (`CIE`).
///
/// ```text
/// +----------+-----+---------+-------------------+----------+-----------+----------+------------------------+
/// | length 4 | 0 4 | version | augmentation … \0 | code leb | data leb  | register | augmentation data      |
/// +----------+-----+---------+-------------------+----------+-----------+----------+------------------------+
/// ```
fn pointer_encoding(common: &[u8]) -> Option<u8> {
    /// "zPLRSB" has all letters that are in use.
    const MAX_AUGMENTATION: usize = 8;
    let version = *common.get(8)?;
    if u32_at(common, 4)? != 0 || !matches!(version, 1 | 3) {
        return None;
    }
    let rest = common.get(9..)?;
    let length = rest.iter().take(MAX_AUGMENTATION + 1).position(|byte| *byte == 0)?;
    let (augmentation, mut rest) = (rest.get(..length)?, rest.get(length + 1..)?);
    let letters = augmentation.strip_prefix(b"z")?;
    // Alignment of code and of data, return address register, length of the augmentation's data.
    for _ in 0..4 {
        rest = rest.get(varint(rest)?.1..)?;
    }
    for letter in letters {
        let encoding = *rest.first()?;
        match letter {
            b'R' => return Some(encoding),
            b'L' => rest = rest.get(1..)?,
            b'P' => rest = rest.get(1 + pointer_length(encoding)?..)?,
            b'S' | b'B' => {}
            _ => return None,
        }
    }
    None
}

fn pointer_length(encoding: u8) -> Option<usize> {
    Some(match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => 8,
        0x02 | 0x0a => 2,
        0x03 | 0x0b => 4,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::tests::fixture::{CODE, Fixture, HEADER};

    /// Two functions, and the file changed at an offset in the table of functions.
    fn with(at: u64, bytes: &[u8]) -> Vec<u8> {
        let mut fixture = Fixture::new(Machine::X86_64);
        fixture.function(&[0xc3]);
        fixture.function(&[0x31, 0xc0, 0xc3]);
        let mut file = fixture.build();
        // The texts are in the file where they are in memory.
        let at = (HEADER + at) as usize;
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    }

    fn around(file: &[u8], address: u64) -> Result<Option<Range<u64>>, Refusal> {
        let elf = Elf::parse(file).unwrap();
        Functions::of(&elf).map(|functions| functions.around(address))
    }

    #[test]
    fn functions_by_address() {
        let file = with(0, &[1]);
        assert_eq!(around(&file, CODE), Ok(Some(CODE..CODE + 1)));
        assert_eq!(around(&file, CODE + 17), Ok(Some(CODE + 16..CODE + 19)));
        for outside in [0, CODE - 1, CODE + 1, CODE + 19, u64::MAX] {
            assert_eq!(around(&file, outside), Ok(None));
        }
        let elf = Elf::parse(&file).unwrap();
        let functions = Functions::of(&elf).unwrap();
        assert_eq!((functions.at(CODE), functions.at(CODE + 17)), (Some(CODE..CODE + 1), None));
    }

    #[test]
    fn tables_that_are_refused() {
        // Another version, another encoding, more entries than there is room for.
        for (at, bytes) in [(0, &[2][..]), (3, &[0x1b]), (8, &[0xff; 4])] {
            assert_eq!(around(&with(at, bytes), CODE), Err(Refusal::NoFunctionTable));
        }
        // The first function behind the second.
        let last = ((CODE + 32 - HEADER) as u32).to_le_bytes();
        assert_eq!(around(&with(12, &last), CODE), Err(Refusal::Malformed));
    }

    #[test]
    fn entries_that_contradict_the_table() {
        let entry = Fixture::FRAMES_BEHIND_HEADER + 20;
        // The first entry: its length reaches into the next function; its address is another one; it has nothing in
        // common; what it has in common has an unknown letter.
        for (at, bytes) in [
            (entry + 12, &[17][..]),
            (entry + 8, &[0; 4]),
            (entry + 4, &[0; 4]),
            (Fixture::FRAMES_BEHIND_HEADER + 10, b"X"),
        ] {
            assert_eq!(around(&with(at, bytes), CODE), Ok(None));
        }
    }
}

//! Reads two facts from a field block without decoding it: which side sent it, and how many entries it inserts into the
//! dynamic table.

use crate::{
    frame::{flag, kind},
    record::{ITEM_ALIGNMENT, ItemHeader, item_kind},
};

/// Whether a field block is a request's (`true`) or a response's (`false`), by its first byte.
///
/// A request or response starts with a pseudo-header field (RFC 9113 §8.3), trailers have none, and the static table
/// has all of them at fixed indices (RFC 7541 appendix A). `None` if the block starts with an entry of the dynamic
/// table, a size update or a literal name.
#[inline(always)]
pub const fn is_request(first: u8) -> Option<bool> {
    let index = match first {
        0x80.. => first & 0x7f,
        0x40.. => first & 0x3f,
        0x20.. => 0,
        _ => first & 0xf,
    };
    match index {
        // :authority, :method, :path, :scheme
        1..=7 => Some(true),
        // :status
        8..=14 => Some(false),
        _ => None,
    }
}

/// Counts the entries that one field block inserts into the dynamic table.
///
/// It looks only at the kinds of representations and the lengths of strings (RFC 7541 §5, §6), so it needs no table
/// and no memory. If a block cannot be sent to the daemon, its count still can, and the daemon's other entries keep
/// their places.
///
/// Pass over `skip` bytes, and subtract as many as were there. Where it is 0, give the next byte to
/// [`byte`](Self::byte). [`count`](Self::count) has the result after the block's last byte.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Inserts {
    phase: u32,
    /// Octets of a string still to be passed over.
    skip: u32,
    /// The string's length as far as it is known, and the place of the next seven bits in it (RFC 7541 §5.1).
    length: u32,
    shift: u32,
    count: u32,
    /// Not 0 if the block changes the table's size, or is invalid.
    unclear: u32,
}

/// Meanings of the next byte.
mod phase {
    /// The first byte of a representation, or the block is over.
    pub(super) const START: u32 = 0;
    /// A later byte of an index that ends the representation.
    pub(super) const INDEX: u32 = 1;
    /// A later byte of the index of a literal's name.
    pub(super) const NAME_INDEX: u32 = 2;
    /// The first byte of the name's length, and a later one.
    pub(super) const NAME: u32 = 3;
    pub(super) const NAME_LENGTH: u32 = 4;
    /// The first byte of the value's length, and a later one.
    pub(super) const VALUE: u32 = 5;
    pub(super) const VALUE_LENGTH: u32 = 6;
}

/// Highest place of seven bits in a string's length: far above the lengths of field blocks.
const MAX_SHIFT: u32 = 21;

impl Inserts {
    /// Takes the next byte.
    #[inline(always)]
    const fn byte(&mut self, byte: u8) {
        match self.phase {
            phase::START => self.representation(byte),
            phase::INDEX => self.index(byte, phase::START),
            phase::NAME_INDEX => self.index(byte, phase::VALUE),
            phase::NAME => self.string(byte, phase::NAME_LENGTH, phase::VALUE),
            phase::NAME_LENGTH => self.length(byte, phase::VALUE),
            phase::VALUE => self.string(byte, phase::VALUE_LENGTH, phase::START),
            _ => self.length(byte, phase::START),
        }
    }

    /// The number of entries that the block inserted; `None` if the block is not over, or does not show it.
    #[inline(always)]
    fn count(&self) -> Option<u32> {
        let is_complete = self.phase == phase::START && self.skip == 0;
        (is_complete && self.unclear == 0).then_some(self.count)
    }

    #[inline(always)]
    const fn representation(&mut self, byte: u8) {
        match byte {
            // Indexed (§6.1).
            0xff => self.phase = phase::INDEX,
            0x80.. => {}
            // Literal with incremental indexing (§6.2.1).
            0x40.. => {
                self.count += 1;
                self.literal(byte & 0x3f, 0x3f);
            }
            // Size update (§6.3).
            0x20.. => {
                self.unclear = 1;
                if byte == 0x3f {
                    self.phase = phase::INDEX;
                }
            }
            // Literal that is not indexed (§6.2.2, §6.2.3).
            _ => self.literal(byte & 0xf, 0xf),
        }
    }

    #[inline(always)]
    const fn literal(&mut self, index: u8, all_ones: u8) {
        self.phase = if index == 0 {
            phase::NAME
        } else if index == all_ones {
            phase::NAME_INDEX
        } else {
            phase::VALUE
        };
    }

    #[inline(always)]
    const fn index(&mut self, byte: u8, next: u32) {
        if byte & 0x80 == 0 {
            self.phase = next;
        }
    }

    #[inline(always)]
    const fn string(&mut self, byte: u8, long: u32, next: u32) {
        let length = (byte & 0x7f) as u32;
        if length == 0x7f {
            self.length = length;
            self.shift = 0;
            self.phase = long;
        } else {
            self.skip = length;
            self.phase = next;
        }
    }

    #[inline(always)]
    const fn length(&mut self, byte: u8, next: u32) {
        if self.shift > MAX_SHIFT {
            self.unclear = 1;
            return;
        }
        self.length += ((byte & 0x7f) as u32) << self.shift;
        self.shift += 7;
        if byte & 0x80 == 0 {
            self.skip = self.length;
            self.phase = next;
        }
    }
}

/// Counts the entries that the field blocks in a record's items insert into the dynamic table.
///
/// Call [`step`](Self::step) until it returns false, at most as many times as the record has bytes; then
/// [`count`](Self::count).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Tally {
    /// Offset in the record of the next byte of a block, and of the block's end.
    at: u32,
    block_end: u32,
    /// Offset of the next item, and of the record's end.
    next: u32,
    end: u32,
    block: Inserts,
    count: u32,
    unclear: u32,
}

impl Tally {
    /// Starts with the items between these two offsets in the record.
    #[inline(always)]
    pub fn new(next: u32, end: u32) -> Self {
        Self { next, end, ..Self::default() }
    }

    /// Continues by a byte, a string or an item; `read` returns the record's byte at an offset. Returns whether there
    /// is more.
    #[inline(always)]
    pub fn step(&mut self, read: impl Fn(u32) -> u8) -> bool {
        if self.at < self.block_end {
            self.byte(&read);
            return true;
        }
        if self.next >= self.end {
            return false;
        }
        self.item(&read);
        true
    }

    /// The number of entries; `None` if a block was cut, or does not show it.
    #[inline(always)]
    pub fn count(&self) -> Option<u32> {
        (self.unclear == 0).then_some(self.count)
    }

    #[inline(always)]
    fn byte(&mut self, read: &impl Fn(u32) -> u8) {
        if self.block.skip == 0 {
            self.block.byte(read(self.at));
            self.at += 1;
        } else {
            let n = self.block.skip.min(self.block_end - self.at);
            self.block.skip -= n;
            self.at += n;
        }
        if self.at == self.block_end {
            match self.block.count() {
                Some(count) => self.count += count,
                None => self.unclear = 1,
            }
        }
    }

    #[inline(always)]
    fn item(&mut self, read: &impl Fn(u32) -> u8) {
        let item = self.next;
        let word = |at| u32::from_ne_bytes([read(at), read(at + 1), read(at + 2), read(at + 3)]);
        let (length, captured) = (word(item + 8), word(item + 12));
        let begin = item + size_of::<ItemHeader>() as u32;
        // No item is longer than a record. The verifier does not know that.
        let captured = captured & 0xffff;
        self.next = begin + ((captured + ITEM_ALIGNMENT - 1) & !(ITEM_ALIGNMENT - 1));
        let (item_kind, frame_kind, flags) = (read(item), read(item + 1), read(item + 2));
        if item_kind == item_kind::GAP || item_kind == item_kind::PART {
            self.unclear = 1;
        }
        let block = matches!(frame_kind, kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION);
        if item_kind != item_kind::FRAME || !block {
            return;
        }
        if frame_kind != kind::HEADERS || flags & flag::END_HEADERS == 0 || captured != length {
            self.unclear = 1;
            return;
        }
        let (mut before, mut after) = (0, 0);
        if flags & flag::PADDED != 0 {
            before = 1;
            after = if captured == 0 { 0 } else { u32::from(read(begin)) };
        }
        if flags & flag::PRIORITY != 0 {
            before += 5;
        }
        if before + after > captured {
            self.unclear = 1;
            return;
        }
        self.at = begin + before;
        self.block_end = begin + captured - after;
        self.block = Inserts::default();
    }
}

#[cfg(test)]
mod tests {
    use super::{Inserts, Tally, is_request, item_kind};

    fn count(block: &[u8]) -> Option<u32> {
        let mut inserts = Inserts::default();
        for &byte in block {
            match inserts.skip {
                0 => inserts.byte(byte),
                _ => inserts.skip -= 1,
            }
        }
        inserts.count()
    }

    #[test]
    fn pseudo_header_fields_show_which_side_sent_a_block() {
        for first in [0x81, 0x83, 0x86, 0x87, 0x41, 0x44, 0x45, 0x04, 0x14, 0x01] {
            assert_eq!(is_request(first), Some(true), "{first:#x}");
        }
        for first in [0x88, 0x8e, 0x48, 0x08, 0x18] {
            assert_eq!(is_request(first), Some(false), "{first:#x}");
        }
        for first in [0x80, 0x8f, 0xbe, 0xff, 0x40, 0x7f, 0x5f, 0x21, 0x3f, 0x00, 0x10, 0x0f, 0x1f]
        {
            assert_eq!(is_request(first), None, "{first:#x}");
        }
    }

    #[test]
    fn only_literals_with_indexing_insert() {
        assert_eq!(count(b""), Some(0));
        assert_eq!(count(b"\x83\x86\xff\x80\x01\xbe"), Some(0), "indexed, one of many bytes");
        assert_eq!(count(b"\x44\x03/ab\x83"), Some(1), "an indexed name");
        assert_eq!(count(b"\x40\x01a\x02bc\x40\x01d\x00"), Some(2), "new names");
        assert_eq!(count(b"\x00\x01a\x02bc\x10\x01a\x00\x04\x01b\x1f\x2b\x01x"), Some(0));
        assert_eq!(count(b"\x7f\x81\x01\x01x\x0f\x2b\x00"), Some(1), "indices of many bytes");
    }

    #[test]
    fn strings_of_any_length_are_passed_over() {
        for length in [0_usize, 1, 126, 127, 128, 254, 255, 16_383, 16_384, 300_000] {
            let mut block = vec![0x44];
            if length < 127 {
                block.push(length as u8);
            } else {
                block.push(0x7f);
                let mut rest = length - 127;
                while rest >= 128 {
                    block.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                block.push(rest as u8);
            }
            block.resize(block.len() + length, 0x44);
            assert_eq!(count(&block), Some(1), "{length}");
            block.push(0x44);
            assert_eq!(count(&block), None, "{length}, and cut off");
        }
    }

    fn item(kind: u8, frame_kind: u8, flags: u8, length: u32, content: &[u8]) -> Vec<u8> {
        let mut item = vec![kind, frame_kind, flags, 0, 0, 0, 0, 0];
        item.extend(length.to_ne_bytes());
        item.extend((content.len() as u32).to_ne_bytes());
        item.extend(content);
        item.resize(item.len().next_multiple_of(8), 0x44);
        item
    }

    fn tally(items: &[Vec<u8>]) -> Option<u32> {
        let record = [vec![0x44; 40], items.concat()].concat();
        let mut tally = Tally::new(40, record.len() as u32);
        let mut steps = 0;
        while tally.step(|at| record[at as usize]) {
            steps += 1;
        }
        assert!(steps <= record.len());
        tally.count()
    }

    #[test]
    fn blocks_of_a_record_are_added_up() {
        let headers = |flags: u8, content: &[u8]| {
            item(item_kind::FRAME, 1, flags, content.len() as u32, content)
        };
        let two = headers(0x5, b"\x83\x44\x01/\x40\x01a\x00");
        let data = item(item_kind::DATA, 0, 1, 0, &[0x44; 16]);
        let reset = item(item_kind::FRAME, 3, 0, 4, &[0x44; 4]);
        assert_eq!(tally(&[]), Some(0));
        assert_eq!(tally(&[two.clone(), data, reset, headers(4, b""), two.clone()]), Some(4));
        let padded = headers(0x2c, b"\x02\0\0\0\0\x10\x44\x01/\x44\x44");
        assert_eq!(tally(&[padded]), Some(1));
        for unclear in [
            headers(0x0, b"\x83"),
            headers(0xc, b"\x09\x83"),
            headers(0xc, b""),
            headers(0x4, b"\x44\x05ab"),
            item(item_kind::FRAME, 1, 4, 9, b"\x83"),
            item(item_kind::FRAME, 5, 4, 5, b"\0\0\0\x02\x83"),
            item(item_kind::FRAME, 9, 4, 1, b"\x83"),
            item(item_kind::PART, 1, 4, 1, b"\x83"),
            item(item_kind::GAP, 0, 0, 100, b""),
        ] {
            assert_eq!(tally(&[two.clone(), unclear.clone()]), None, "{unclear:x?}");
        }
    }

    #[test]
    fn unclear_blocks_have_no_count() {
        assert_eq!(count(b"\x20\x83"), None, "a table size update");
        assert_eq!(count(b"\x3f\xe1\x1f\x83"), None, "a large one");
        assert_eq!(count(b"\x44\x05abc"), None, "cut off");
        assert_eq!(count(b"\x44\x7f\xff\xff\xff\xff\xff\xff"), None, "a length beyond bounds");
    }
}

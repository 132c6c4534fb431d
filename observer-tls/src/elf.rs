//! The parts of an ELF file that the locators read: segments, sections, symbols, relocations, the build id.
//!
//! A reader of its own, because files are hostile and may be at any address in memory: 64-bit little-endian only,
//! no allocation that the file's size does not bound, and no assumption about alignment. The layouts are those of
//! the System V ABI, chapters 4 and 5 (<https://gabi.xinuos.com/>).

use std::collections::BTreeMap;

use memchr::memmem;

use crate::bytes::{part, u16_at, u32_at, u64_at};
use crate::machine::Machine;
use crate::refusal::Refusal;

/// More segments and sections than compilers and linkers write.
const MAX_SEGMENTS: u16 = 64;
const MAX_SECTIONS: u16 = 4096;

/// GNU build ids have 20 bytes, others 8 to 32.
const MAX_BUILD_ID: u64 = 64;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const PF_W: u32 = 2;

const SHT_SYMTAB: u32 = 2;
const SHT_RELA: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHT_DYNSYM: u32 = 11;
const SHT_RELR: u32 = 19;

const NT_GNU_BUILD_ID: u32 = 3;

/// An ELF file whose tables lie inside of it.
pub(crate) struct Elf<'a> {
    pub(crate) file: &'a [u8],
    pub(crate) machine: Machine,
    /// Addresses in the file are those in memory (`ET_EXEC`).
    pub(crate) has_fixed_addresses: bool,
    /// By address, without overlap.
    segments: Vec<Segment>,
    sections: Vec<Section>,
    names: &'a [u8],
    notes: Vec<(u64, u64)>,
    /// The address of `.eh_frame_hdr`.
    pub(crate) eh_frame_header: Option<u64>,
}

/// A part of the file that is mapped into memory.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) address: u64,
    offset: u64,
    length: u64,
    pub(crate) is_code: bool,
    is_writable: bool,
}

#[derive(Clone, Copy)]
struct Section {
    name: u32,
    kind: u32,
    address: u64,
    offset: u64,
    length: u64,
    link: u32,
}

/// A function that a symbol table names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Symbol {
    pub(crate) address: u64,
    /// 0 if the table does not say.
    pub(crate) length: u64,
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, Refusal> {
        if !file.starts_with(b"\x7fELF") {
            return Err(Refusal::NotElf);
        }
        // 64-bit, little-endian.
        if file.get(4..6) != Some(&[2, 1]) {
            return Err(Refusal::Architecture);
        }
        let half = |at| u16_at(file, at).ok_or(Refusal::Malformed);
        let machine = match half(18)? {
            62 => Machine::X86_64,
            183 => Machine::Aarch64,
            _ => return Err(Refusal::Architecture),
        };
        let mut elf = Self {
            file,
            machine,
            has_fixed_addresses: half(16)? == 2,
            segments: Vec::new(),
            sections: Vec::new(),
            names: &[],
            notes: Vec::new(),
            eh_frame_header: None,
        };
        elf.read_segments(half(54)?, half(56)?).ok_or(Refusal::Malformed)?;
        elf.read_sections(half(58)?, half(60)?, half(62)?).ok_or(Refusal::Malformed)?;
        Ok(elf)
    }

    fn read_segments(&mut self, size: u16, count: u16) -> Option<()> {
        if count > MAX_SEGMENTS || (count > 0 && size != 56) {
            return None;
        }
        let table = part(self.file, u64_at(self.file, 32)?, u64::from(count) * 56)?;
        // Segments have different parts of the file, but for pages that two of them share.
        let mut left = self.file.len() as u64 * 2;
        for header in table.chunks_exact(56) {
            let (kind, flags) = (u32_at(header, 0)?, u32_at(header, 4)?);
            let (offset, address) = (u64_at(header, 8)?, u64_at(header, 16)?);
            let length = u64_at(header, 32)?;
            match kind {
                PT_LOAD => {
                    part(self.file, offset, length)?;
                    left = left.checked_sub(length)?;
                    address.checked_add(length)?;
                    if self.segments.last().is_some_and(|last| last.end() > address) {
                        return None;
                    }
                    let (is_code, is_writable) = (flags & PF_X != 0, flags & PF_W != 0);
                    self.segments.push(Segment { address, offset, length, is_code, is_writable });
                }
                PT_NOTE => self.notes.push((offset, length)),
                PT_GNU_EH_FRAME => self.eh_frame_header = Some(address),
                _ => {}
            }
        }
        Some(())
    }

    /// A file without sections is complete to whoever runs it.
    fn read_sections(&mut self, size: u16, count: u16, names: u16) -> Option<()> {
        let offset = u64_at(self.file, 40)?;
        if offset == 0 || count == 0 {
            return Some(());
        }
        if count > MAX_SECTIONS || size != 64 {
            return None;
        }
        let table = part(self.file, offset, u64::from(count) * 64)?;
        for header in table.chunks_exact(64) {
            let section = Section {
                name: u32_at(header, 0)?,
                kind: u32_at(header, 4)?,
                address: u64_at(header, 16)?,
                offset: u64_at(header, 24)?,
                length: u64_at(header, 32)?,
                link: u32_at(header, 40)?,
            };
            self.sections.push(section);
        }
        if let Some(section) = self.sections.get(usize::from(names)).copied() {
            self.names = self.content(&section)?;
        }
        Some(())
    }

    fn content(&self, section: &Section) -> Option<&'a [u8]> {
        if section.kind == SHT_NOBITS {
            return None;
        }
        part(self.file, section.offset, section.length)
    }

    /// The address and the bytes of a section.
    pub(crate) fn section(&self, name: &str) -> Option<(u64, &'a [u8])> {
        let is_it = |section: &&Section| is_string(self.names, section.name, name.as_bytes());
        let section = self.sections.iter().find(is_it)?;
        Some((section.address, self.content(section)?))
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The bytes of a segment.
    pub(crate) fn bytes_of(&self, segment: &Segment) -> &'a [u8] {
        part(self.file, segment.offset, segment.length).unwrap_or_default()
    }

    fn segment_of(&self, address: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.address <= address);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        (address < segment.end()).then_some(segment)
    }

    /// All bytes of the segment from an address on.
    pub(crate) fn bytes_from(&self, address: u64) -> Option<&'a [u8]> {
        let segment = self.segment_of(address)?;
        self.bytes_of(segment).get((address - segment.address) as usize..)
    }

    /// The bytes at an address.
    pub(crate) fn bytes(&self, address: u64, length: u64) -> Option<&'a [u8]> {
        part(self.bytes_from(address)?, 0, length)
    }

    /// The bytes of code at an address.
    pub(crate) fn code(&self, address: u64, length: u64) -> Option<&'a [u8]> {
        self.segment_of(address).filter(|segment| segment.is_code)?;
        self.bytes(address, length)
    }

    /// Where in the file an address is.
    pub(crate) fn offset_of(&self, address: u64) -> Option<u64> {
        let segment = self.segment_of(address)?;
        Some(segment.offset + (address - segment.address))
    }

    /// The address of a place in the file.
    pub(crate) fn address_of(&self, offset: u64) -> Option<u64> {
        let has_it = |segment: &&Segment| {
            (segment.offset..segment.offset + segment.length).contains(&offset)
        };
        let segment = self.segments.iter().find(has_it)?;
        Some(segment.address + (offset - segment.offset))
    }

    /// The note that names this build.
    pub(crate) fn build_id(&self) -> Option<BuildId<'a>> {
        self.notes.iter().find_map(|&(offset, length)| {
            let (at, bytes) = build_id_in(part(self.file, offset, length)?)?;
            Some(BuildId { offset: offset + at, bytes })
        })
    }

    /// The functions of these names that the file defines, for each name. A pass over both symbol tables.
    pub(crate) fn functions_named(&self, names: &[&[u8]]) -> Vec<Vec<Symbol>> {
        let mut found = vec![Vec::new(); names.len()];
        let tables = self.sections.iter().filter(|it| matches!(it.kind, SHT_DYNSYM | SHT_SYMTAB));
        for table in tables.take(2) {
            let strings = self.sections.get(table.link as usize);
            let Some(strings) = strings.and_then(|it| self.content(it)) else { continue };
            for entry in self.content(table).unwrap_or_default().chunks_exact(24) {
                let Some((name, symbol)) = function_symbol(entry) else { continue };
                let is_it = |wanted: &&[u8]| is_string(strings, name, wanted);
                if let Some(at) = names.iter().position(is_it)
                    && let Some(found) = found.get_mut(at)
                    && !found.contains(&symbol)
                    && found.len() < 2
                {
                    found.push(symbol);
                }
            }
        }
        found
    }

    /// The words that the loader sets to the address of one of these functions, with the position of its name.
    pub(crate) fn slots_of(&self, names: &[&[u8]]) -> Result<BTreeMap<u64, usize>, Refusal> {
        let mut slots = BTreeMap::new();
        let Some(table) = self.sections.iter().find(|it| it.kind == SHT_DYNSYM) else {
            return Ok(slots);
        };
        let strings = self.sections.get(table.link as usize).and_then(|it| self.content(it));
        let entries = self.content(table).unwrap_or_default().chunks_exact(24);
        let position = |entry: &[u8]| {
            let name = u32_at(entry, 0).unwrap_or_default();
            names.iter().position(|wanted| is_string(strings.unwrap_or_default(), name, wanted))
        };
        let wanted: BTreeMap<u32, usize> =
            (0..).zip(entries).filter_map(|(index, it)| Some((index, position(it)?))).collect();
        let mut left = self.file.len();
        for section in self.sections.iter().filter(|it| it.kind == SHT_RELA) {
            let content = self.content(section).ok_or(Refusal::Malformed)?;
            // Sections do not overlap.
            left = left.checked_sub(content.len()).ok_or(Refusal::Malformed)?;
            for entry in content.chunks_exact(24) {
                let symbol = u32_at(entry, 12).unwrap_or_default();
                if let Some(name) = wanted.get(&symbol) {
                    slots.extend(u64_at(entry, 0).map(|slot| (slot, *name)));
                }
            }
        }
        Ok(slots)
    }

    /// The addresses of a text in the file, the first `most` of them, sorted.
    pub(crate) fn find(&self, text: &[u8], most: usize) -> Vec<u64> {
        let found = memmem::find_iter(self.file, text).take(most);
        let mut addresses: Vec<u64> = found.filter_map(|at| self.address_of(at as u64)).collect();
        addresses.sort_unstable();
        addresses
    }
}

impl Segment {
    fn end(&self) -> u64 {
        self.address + self.length
    }
}

/// If a string table has this string there.
fn is_string(strings: &[u8], at: u32, wanted: &[u8]) -> bool {
    let rest = strings.get(at as usize..).unwrap_or_default();
    rest.strip_prefix(wanted).is_some_and(|rest| rest.first() == Some(&0))
}

/// A symbol's name and place, if it is a function that this file defines.
fn function_symbol(entry: &[u8]) -> Option<(u32, Symbol)> {
    const STT_FUNC: u8 = 2;
    let name = u32_at(entry, 0)?;
    let is_function = entry.get(4)? & 0xf == STT_FUNC;
    let is_defined = u16_at(entry, 6)? != 0;
    let symbol = Symbol { address: u64_at(entry, 8)?, length: u64_at(entry, 16)? };
    (is_function && is_defined && symbol.address != 0).then_some((name, symbol))
}

/// What the linker has named a build by, mostly a hash of its bytes (`ld --build-id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildId<'a> {
    /// Where it is in the file.
    pub offset: u64,
    /// 1 to 64 bytes.
    pub bytes: &'a [u8],
}

/// A build id among notes, and where it is in them.
fn build_id_in(mut notes: &[u8]) -> Option<(u64, &[u8])> {
    let mut at = 0;
    loop {
        let name_length = u64::from(u32_at(notes, 0)?);
        let length = u64::from(u32_at(notes, 4)?);
        let kind = u32_at(notes, 8)?;
        let content = 12 + name_length.next_multiple_of(4);
        if kind == NT_GNU_BUILD_ID && part(notes, 12, name_length)? == b"GNU\0" {
            let id = part(notes, content, length).filter(|_| length <= MAX_BUILD_ID)?;
            return Some((at + content, id));
        }
        let next = content + length.next_multiple_of(4);
        notes = notes.get(usize::try_from(next).ok()?..)?;
        at += next;
    }
}

/// The words of a file that the loader sets to an address of the file itself.
///
/// At most one for each eight bytes of the file: a word is relocated once.
pub(crate) struct Relocations<'e, 'a> {
    elf: &'e Elf<'a>,
    /// Where, and to which address; by place.
    by_place: Vec<(u64, u64)>,
    by_target: Vec<(u64, u64)>,
}

impl<'e, 'a> Relocations<'e, 'a> {
    pub(crate) fn read(elf: &'e Elf<'a>) -> Result<Self, Refusal> {
        let most = elf.file.len() / 8;
        let mut by_place = Vec::new();
        let mut left = elf.file.len();
        for section in &elf.sections {
            let content = match section.kind {
                SHT_RELA | SHT_RELR => elf.content(section).ok_or(Refusal::Malformed)?,
                _ => continue,
            };
            // Sections do not overlap.
            left = left.checked_sub(content.len()).ok_or(Refusal::Malformed)?;
            if section.kind == SHT_RELA {
                read_rela(elf.machine, content, most, &mut by_place)
            } else {
                read_relr(elf, content, most, &mut by_place)
            }
            .ok_or(Refusal::Malformed)?;
        }
        by_place.sort_unstable();
        by_place.dedup_by_key(|(place, _)| *place);
        let mut by_target: Vec<_> =
            by_place.iter().map(|&(place, target)| (target, place)).collect();
        by_target.sort_unstable();
        Ok(Self { elf, by_place, by_target })
    }

    /// The address that a word has once the file is loaded, if the loader sets it.
    pub(crate) fn pointer_at(&self, place: u64) -> Option<u64> {
        let at = self.by_place.binary_search_by_key(&place, |&(place, _)| place).ok()?;
        self.by_place.get(at).map(|&(_, target)| target)
    }

    /// A word as it is once the file is loaded.
    pub(crate) fn word_at(&self, place: u64) -> Option<u64> {
        self.pointer_at(place).or_else(|| u64_at(self.elf.bytes(place, 8)?, 0))
    }

    /// Where pointers to these addresses are: pairs of target and place.
    pub(crate) fn pointers_to(&self, targets: std::ops::Range<u64>) -> &[(u64, u64)] {
        let from = self.by_target.partition_point(|&(target, _)| target < targets.start);
        let to = self.by_target.partition_point(|&(target, _)| target < targets.end);
        self.by_target.get(from..to).unwrap_or_default()
    }
}

fn read_rela(
    machine: Machine,
    content: &[u8],
    most: usize,
    found: &mut Vec<(u64, u64)>,
) -> Option<()> {
    // R_X86_64_RELATIVE, R_AARCH64_RELATIVE
    let relative = match machine {
        Machine::X86_64 => 8,
        Machine::Aarch64 => 1027,
    };
    for entry in content.chunks_exact(24) {
        if u32_at(entry, 8)? == relative {
            if found.len() == most {
                return None;
            }
            found.push((u64_at(entry, 0)?, u64_at(entry, 16)?));
        }
    }
    Some(())
}

/// Relocations packed as bitmaps: an even word is a place, an odd one says which of the next 63 words follow.
fn read_relr(elf: &Elf, content: &[u8], most: usize, found: &mut Vec<(u64, u64)>) -> Option<()> {
    let mut next = 0_u64;
    let mut add = |place: u64| {
        if found.len() == most {
            return None;
        }
        // The word itself has the address that it is to have, relative to the file.
        let target = u64_at(elf.bytes(place, 8)?, 0)?;
        found.push((place, target));
        Some(())
    };
    for entry in content.chunks_exact(8) {
        let entry = u64_at(entry, 0)?;
        if entry & 1 == 0 {
            add(entry)?;
            next = entry.checked_add(8)?;
        } else {
            for bit in 0..63 {
                if entry >> (bit + 1) & 1 == 1 {
                    add(next.checked_add(8 * bit)?)?;
                }
            }
            next = next.checked_add(63 * 8)?;
        }
    }
    Some(())
}

impl Elf<'_> {
    /// Where the words of writable segments are that have this value in the file.
    pub(crate) fn words_equal(&self, value: u64, most: usize) -> Vec<u64> {
        let mut found = Vec::new();
        for segment in self.segments.iter().filter(|segment| segment.is_writable) {
            let bytes = self.bytes_of(segment);
            for at in memmem::find_iter(bytes, &value.to_le_bytes()) {
                let address = segment.address + at as u64;
                if found.len() < most && address.is_multiple_of(8) {
                    found.push(address);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::{CODE, DATA, Fixture, TEXTS, Word, offset};

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new(Machine::X86_64);
        fixture.text(b"text\0");
        fixture.named("first", &[0xc3]);
        fixture.named("second", &[0x31, 0xc0, 0xc3]);
        fixture.words(&[Word::Number(7), Word::Pointer(CODE), Word::Pointer(TEXTS)]);
        fixture.section(".name", DATA, 8);
        fixture
    }

    /// Writes a number into a file.
    fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn refused(file: &[u8]) -> Option<Refusal> {
        Elf::parse(file).err()
    }

    #[test]
    fn addresses_and_offsets() {
        let file = fixture().build();
        let elf = Elf::parse(&file).unwrap();
        assert_eq!(elf.offset_of(CODE + 16), Some(offset(CODE + 16)));
        assert_eq!(elf.address_of(offset(CODE + 16)), Some(CODE + 16));
        assert_eq!(elf.code(CODE, 1), Some(&[0xc3][..]));
        // Behind the last function, before the first segment, in no segment, no code.
        assert_eq!(elf.code(CODE + 16, 4), None);
        assert_eq!(elf.offset_of(TEXTS - 1), None);
        assert_eq!(elf.offset_of(CODE + 0x1000), None);
        assert_eq!(elf.code(DATA, 1), None);
        assert_eq!(elf.bytes(u64::MAX, 1), None);
        assert_eq!(elf.section(".name"), Some((DATA, &7_u64.to_le_bytes()[..])));
        assert_eq!(elf.section(".nam"), None);
        assert_eq!(elf.find(b"text\0", 9), [TEXTS + 1]);
        assert_eq!(elf.words_equal(7, 9), [DATA]);
    }

    #[test]
    fn symbols_by_name() {
        let file = fixture().build();
        let elf = Elf::parse(&file).unwrap();
        let found = elf.functions_named(&[b"second", b"first", b"fir"]);
        let places: Vec<Vec<_>> =
            found.iter().map(|it| it.iter().map(|it| (it.address, it.length)).collect()).collect();
        assert_eq!(places, [vec![(CODE + 16, 3)], vec![(CODE, 1)], vec![]]);
    }

    #[test]
    fn pointers_that_the_loader_sets() {
        let file = fixture().build();
        let elf = Elf::parse(&file).unwrap();
        let relocations = Relocations::read(&elf).unwrap();
        assert_eq!(relocations.pointer_at(DATA), None);
        assert_eq!(relocations.word_at(DATA), Some(7));
        assert_eq!(relocations.word_at(DATA + 8), Some(CODE));
        assert_eq!(relocations.pointers_to(TEXTS..CODE), [(TEXTS, DATA + 16)]);
        assert_eq!(relocations.pointers_to(TEXTS..CODE + 1).len(), 2);
    }

    #[test]
    fn packed_relocations() {
        let file = fixture().build();
        let elf = Elf::parse(&file).unwrap();
        let read = |words: &[u64], most| {
            let content: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut found = Vec::new();
            read_relr(&elf, &content, most, &mut found).map(|()| found)
        };
        // The first word, and the second of those that follow.
        assert_eq!(read(&[DATA, 0b101], 9), Some(vec![(DATA, 7), (DATA + 16, 0)]));
        assert_eq!(read(&[DATA, 0b101], 1), None);
        assert_eq!(read(&[u64::MAX - 1], 9), None);
        assert_eq!(read(&[DATA, 0b1000_0001], 9), None);
    }

    #[test]
    fn tables_that_are_not_in_the_file() {
        let file = fixture().build();
        // The places of the two tables, the sizes and the numbers of their entries.
        for (at, bytes) in [
            (32, &[0xff; 8][..]),
            (40, &[0xff; 8]),
            (54, &[1, 0]),
            (56, &[0xff; 2]),
            (58, &[1, 0]),
            (60, &[0xff; 2]),
        ] {
            let mut file = file.clone();
            put(&mut file, at, bytes);
            assert_eq!(refused(&file), Some(Refusal::Malformed), "at {at}");
        }
    }

    #[test]
    fn segments_that_overlap() {
        let file = fixture().build();
        // The address of the second segment.
        let second = 64 + 56;
        let mut other = file.clone();
        put(&mut other, second + 16, &(TEXTS + 1).to_le_bytes());
        assert_eq!(refused(&other), Some(Refusal::Malformed));
        // Segments that have the whole file, at different addresses.
        let mut other = file.clone();
        for segment in 0..3_u64 {
            let at = 64 + 56 * segment as usize;
            put(&mut other, at + 8, &[0; 8]);
            put(&mut other, at + 16, &(segment << 32).to_le_bytes());
            put(&mut other, at + 32, &(file.len() as u64).to_le_bytes());
        }
        assert_eq!(refused(&other), Some(Refusal::Malformed));
    }

    #[test]
    fn build_ids() {
        let file = |id: Vec<u8>| {
            let mut fixture = fixture();
            fixture.build_id = id;
            fixture.build()
        };
        let id = |file: &[u8]| {
            let BuildId { offset, bytes } = Elf::parse(file).unwrap().build_id()?;
            assert_eq!(part(file, offset, bytes.len() as u64), Some(bytes));
            Some(bytes.to_vec())
        };
        assert_eq!(id(&file(vec![1; 8])), Some(vec![1; 8]));
        assert_eq!(id(&file(vec![2; 64])), Some(vec![2; 64]));
        assert_eq!(id(&file(vec![2; 65])), None);
    }
}

//! The dynamic table (RFC 7541 section 2.3.2), as far as it is known.
//!
//! # Why a late join is never wrong
//!
//! An index counts from the newest entry. The known entries are the newest ones, without a gap. So an index among them
//! refers to the same entry here as in the encoder's table, whatever comes after them and however large the tables are.
//! An index past them is unknown. Two things can differ, and both are harmless:
//!
//! - We keep an entry that the encoder has evicted: the encoder does not refer to it any more.
//! - We have evicted an entry that the encoder keeps: a reference to it is past our entries, so it is unknown.
//!
//! # Unknown entries that the encoder's table can still have
//!
//! `older` bounds the size of the unknown entries in the encoder's table. They are older than all known ones and are
//! evicted first: if there is one, all known entries are there too. Hence, once the maximum size is certain:
//!
//! - known and unknown entries together fit into it, so `older` ≤ maximum − known;
//! - when a known entry has to go, or an entry comes that does not fit at all, then `older` = 0;
//! - `older` never grows.
//!
//! If it is below 32, the size of the smallest entry, there is no unknown entry, and the table is complete. A table
//! size update to 0 does that at once.
//!
//! The maximum size is certain from the start of a connection, when it is 4096 (RFC 9113 section 6.5.2), and from a
//! table size update on. Otherwise it may have any value, and nothing is concluded from ours.
//!
//! A name that was only a reference to an unknown entry counts with length 0. Our sizes are then lower bounds. The
//! conclusions above need no more.

use std::collections::VecDeque;

use super::{Error, Field, field::Name};

/// The largest dynamic table that is followed: 1 MiB.
///
/// The default is 4096 bytes, and peers that raise it raise it to 64 KiB. An entry does not take more memory here than
/// it counts for there, so this also bounds the memory of one table.
pub const MAX_TABLE_SIZE: u32 = 1 << 20;

/// The maximum size before any table size update.
const INITIAL_MAX_SIZE: u32 = 4096;

/// The overhead of an entry (RFC 7541 section 4.1).
const ENTRY_OVERHEAD: u32 = 32;

/// An entry, by the meaning of its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) field: Field,
    pub(super) name: Name,
    pub(super) name_len: u32,
    /// As RFC 7541 section 4.1 counts it; a lower bound if the name is unknown.
    pub(super) size: u32,
}

const _: () = assert!(size_of::<Entry>() <= ENTRY_OVERHEAD as usize);

impl Entry {
    pub(super) fn new(name: Name, field: Field, name_len: usize, value_len: usize) -> Self {
        // An entry whose size does not fit into 32 bits does not fit into any table.
        let saturated = |len| u32::try_from(len).unwrap_or(u32::MAX);
        let name_len = saturated(name_len);
        let size = ENTRY_OVERHEAD.saturating_add(name_len).saturating_add(saturated(value_len));
        Self { field, name, name_len, size }
    }
}

/// The known entries, and bounds on the others.
#[derive(Debug)]
pub(super) struct Table {
    /// Newest first, as indices count.
    entries: VecDeque<Entry>,
    /// The sum of the entries' sizes, at most `max_size`.
    size: u32,
    /// The encoder's maximum size if it is certain, else the size that we choose to keep.
    max_size: u32,
    /// The largest size that unknown entries can have in the encoder's table.
    older: u32,
    /// Whether `max_size` is the encoder's.
    certain: bool,
    /// While it is not certain: whether we have evicted an entry since `max_size` changed.
    evicted: bool,
}

const _: () = assert!(size_of::<Table>() <= 64);

impl Table {
    /// Creates a table that is known to be empty.
    pub(super) fn empty() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max_size: INITIAL_MAX_SIZE,
            older: 0,
            certain: true,
            evicted: false,
        }
    }

    /// Creates a table without any known entry.
    pub(super) fn unknown() -> Self {
        let mut this = Self::empty();
        this.forget();
        this
    }

    /// Forgets all entries, but not the size of the encoder's table: it is a good guess of the size now.
    pub(super) fn forget(&mut self) {
        self.entries.clear();
        self.size = 0;
        self.max_size = self.max_size.max(INITIAL_MAX_SIZE);
        self.older = MAX_TABLE_SIZE;
        self.certain = false;
        self.evicted = false;
    }

    /// The `position`th newest entry, from 0, if it is known.
    #[inline]
    pub(super) fn get(&self, position: usize) -> Option<&Entry> {
        self.entries.get(position)
    }

    /// Records a reference to an entry that is not known; an error if there cannot be such an entry.
    #[cold]
    pub(super) fn refer_to_unknown(&mut self, position: usize) -> Result<(), Error> {
        let beyond = position.saturating_sub(self.entries.len()).saturating_add(1);
        let needed = beyond.saturating_mul(ENTRY_OVERHEAD as usize);
        if needed > self.older as usize {
            return Err(Error::IndexOutOfRange);
        }
        // The encoder still has the entry that we evicted last, and all newer ones. They do not fit into our maximum
        // size, or we would not have evicted it. So the encoder's maximum is larger.
        if self.evicted {
            self.max_size = (self.max_size * 2).min(MAX_TABLE_SIZE);
            self.evicted = false;
        }
        Ok(())
    }

    /// Inserts an entry (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        if let Some(room) = self.max_size.checked_sub(entry.size) {
            self.evict_to(room);
            self.entries.push_front(entry);
            self.size += entry.size;
        } else {
            self.evict_to(0);
            self.note_eviction();
        }
        self.bound_older();
    }

    /// Inserts `count` entries that were not seen. The known entries keep their places after them.
    pub(super) fn insert_unknown(&mut self, count: u32) {
        // This many evict all others.
        for _ in 0..count.min(self.max_size / ENTRY_OVERHEAD + 1) {
            self.insert(Entry::new(Name::Unknown, Field::Unknown, 0, 0));
        }
    }

    /// Carries out a table size update (RFC 7541 section 4.3).
    pub(super) fn set_max_size(&mut self, max_size: u32) -> Result<(), Error> {
        if max_size > MAX_TABLE_SIZE {
            return Err(Error::TableSizeTooLarge);
        }
        self.max_size = max_size;
        self.certain = true;
        self.evicted = false;
        self.evict_to(max_size);
        self.bound_older();
        Ok(())
    }

    fn evict_to(&mut self, size: u32) {
        while self.size > size
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
            self.note_eviction();
        }
    }

    fn note_eviction(&mut self) {
        if self.certain {
            self.older = 0;
        } else {
            self.evicted = true;
        }
    }

    fn bound_older(&mut self) {
        if self.certain {
            self.older = self.older.min(self.max_size - self.size);
        }
    }

    /// The fields of the known entries, newest first.
    pub(super) fn fields(&self) -> impl Iterator<Item = Field> {
        self.entries.iter().map(|entry| entry.field)
    }

    /// The memory that the entries have allocated, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    /// Whether all entries of the encoder's table are known.
    #[cfg(test)]
    pub(super) fn is_complete(&self) -> bool {
        self.older < ENTRY_OVERHEAD
    }

    /// How many entries are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(super) fn view(&self) -> (Vec<(Field, u32)>, u32) {
        (self.entries.iter().map(|entry| (entry.field, entry.size)).collect(), self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of this size, with a mark that distinguishes it from others.
    fn entry(mark: u16, size: u32) -> Entry {
        let value_len = (size - ENTRY_OVERHEAD) as usize;
        Entry::new(Name::Status, Field::Status(mark), 0, value_len)
    }

    /// The entry at a position; `None` if it is not known and may exist.
    fn refer(table: &mut Table, position: usize) -> Result<Option<Entry>, Error> {
        match table.get(position) {
            Some(entry) => Ok(Some(*entry)),
            None => table.refer_to_unknown(position).map(|()| None),
        }
    }

    fn marks(table: &Table) -> Vec<u16> {
        let mark = |field| match field {
            Field::Status(mark) => mark,
            other => panic!("{other:?} was not inserted"),
        };
        table.fields().map(mark).collect()
    }

    #[test]
    fn the_oldest_go_first() {
        let mut table = Table::empty();
        table.set_max_size(100).expect("in bounds");
        table.insert(entry(1, 50));
        table.insert(entry(2, 50));
        assert_eq!(marks(&table), [2, 1], "exactly full");
        table.insert(entry(3, 51));
        assert_eq!(marks(&table), [3], "101 with either of the others");
        table.insert(entry(4, 101));
        assert_eq!(marks(&table), [0_u16; 0], "an entry that does not fit empties the table");
        table.insert(entry(5, 100));
        assert_eq!(marks(&table), [5]);
        table.set_max_size(99).expect("in bounds");
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn size_update_bound() {
        let mut table = Table::empty();
        assert_eq!(table.set_max_size(MAX_TABLE_SIZE), Ok(()));
        assert_eq!(table.set_max_size(MAX_TABLE_SIZE + 1), Err(Error::TableSizeTooLarge));
    }

    #[test]
    fn past_the_end_of_a_complete_table() {
        let mut table = Table::empty();
        assert_eq!(refer(&mut table, 0), Err(Error::IndexOutOfRange));
        table.insert(entry(1, 40));
        assert_eq!(refer(&mut table, 0), Ok(Some(entry(1, 40))));
        assert_eq!(refer(&mut table, 1), Err(Error::IndexOutOfRange));
        assert_eq!(refer(&mut table, usize::MAX / 64), Err(Error::IndexOutOfRange));
    }

    #[test]
    fn past_the_end_of_an_unknown_table() {
        let mut table = Table::unknown();
        table.insert(entry(1, 40));
        assert_eq!(refer(&mut table, 0), Ok(Some(entry(1, 40))));
        assert_eq!(refer(&mut table, 1), Ok(None));
        let most = (MAX_TABLE_SIZE / 32) as usize;
        assert_eq!(refer(&mut table, most), Ok(None));
        assert_eq!(refer(&mut table, most + 1), Err(Error::IndexOutOfRange));
    }

    #[test]
    fn a_size_update_says_how_much_can_be_unknown() {
        let mut table = Table::unknown();
        table.insert(entry(1, 40));
        table.set_max_size(40 + 2 * 32).expect("in bounds");
        assert_eq!(refer(&mut table, 2), Ok(None));
        assert_eq!(refer(&mut table, 3), Err(Error::IndexOutOfRange));
        // Raised again, but what was evicted does not come back.
        table.set_max_size(4096).expect("in bounds");
        assert_eq!(refer(&mut table, 3), Err(Error::IndexOutOfRange));
        assert!(!table.is_complete());
    }

    #[test]
    fn complete_once_no_unknown_entry_can_be_left() {
        // Sizes of entries before and after a table size update.
        let rows = [
            (&[40][..], 0, &[][..], true, "nothing fits"),
            (&[40], 31, &[], true, "nothing fits"),
            (&[], 32, &[], false, "one empty field fits"),
            (&[], 200, &[100, 68], false, "32 are left"),
            (&[], 200, &[100, 69], true, "31 are left"),
            (&[], 200, &[150, 60], true, "a known entry went, though 140 are left"),
            (&[], 200, &[201], true, "an entry did not fit"),
        ];
        for (before, max_size, after, is_complete, why) in rows {
            let mut table = Table::unknown();
            for size in before {
                table.insert(entry(1, *size));
            }
            table.set_max_size(max_size).expect("in bounds");
            for size in after {
                table.insert(entry(2, *size));
            }
            assert_eq!(table.is_complete(), is_complete, "{max_size}: {why}");
            let kept = after.iter().rev().scan(0, |sum, size| {
                *sum += size;
                (*sum <= max_size).then_some(())
            });
            assert_eq!(table.len(), kept.count(), "{max_size}: {why}");
        }
    }

    #[test]
    fn never_complete_while_the_size_is_not_certain() {
        let mut table = Table::unknown();
        for mark in 0..1000 {
            table.insert(entry(mark, 100));
            assert!(!table.is_complete());
            assert!(table.size <= INITIAL_MAX_SIZE);
        }
        table.insert(entry(0, 5000));
        assert!(!table.is_complete(), "it may have fitted");
        assert_eq!(refer(&mut table, 0), Ok(None));
    }

    #[test]
    fn grows_when_the_encoder_shows_to_keep_more() {
        let mut table = Table::unknown();
        for mark in 0..40 {
            table.insert(entry(mark, 100));
        }
        assert_eq!(refer(&mut table, 40), Ok(None));
        assert_eq!(table.max_size, 4096, "that was from before");
        table.insert(entry(40, 100));
        assert_eq!(refer(&mut table, 39), Ok(Some(entry(1, 100))));
        assert_eq!(table.max_size, 4096, "that was known");
        assert_eq!(refer(&mut table, 40), Ok(None), "entry 0");
        assert_eq!(table.max_size, 8192);
        assert_eq!(refer(&mut table, 40), Ok(None));
        assert_eq!(table.max_size, 8192, "nothing new was learned");
        for mark in 41..60 {
            table.insert(entry(mark, 100));
        }
        assert_eq!(refer(&mut table, 58), Ok(Some(entry(1, 100))));
    }

    #[test]
    fn keeps_as_much_as_before_after_forgetting() {
        let mut table = Table::empty();
        table.set_max_size(0).expect("in bounds");
        table.forget();
        table.insert(entry(1, 4096));
        assert_eq!(marks(&table), [1], "at least as much as the default");
        table.set_max_size(10_000).expect("in bounds");
        table.forget();
        assert_eq!(table.len(), 0);
        table.insert(entry(2, 10_000));
        assert_eq!(marks(&table), [2]);
    }

    #[test]
    fn growth_is_bounded() {
        let mut table = Table::unknown();
        for _ in 0..20 {
            table.insert(entry(1, MAX_TABLE_SIZE));
            table.insert(entry(2, MAX_TABLE_SIZE + 1));
            assert_eq!(refer(&mut table, 100), Ok(None));
        }
        assert_eq!(table.max_size, MAX_TABLE_SIZE);
    }

    #[test]
    fn known_entries_keep_their_places_behind_unknown_ones() {
        let mut table = Table::empty();
        table.insert(entry(1, 40));
        table.insert(entry(2, 40));
        table.insert_unknown(3);
        table.insert(entry(3, 40));
        let field = |position| table.get(position).map(|entry| entry.field);
        assert_eq!(field(0), Some(Field::Status(3)));
        for position in 1..4 {
            assert_eq!(field(position), Some(Field::Unknown));
        }
        assert_eq!(field(4), Some(Field::Status(2)));
        assert_eq!(field(5), Some(Field::Status(1)));
        table.insert_unknown(u32::MAX);
        assert!(table.entries.iter().all(|entry| entry.field == Field::Unknown));
        assert!(table.memory() <= 8192);
    }

    #[test]
    fn memory_is_bounded_by_the_size() {
        let mut table = Table::empty();
        assert_eq!(table.memory(), 0);
        for (max_size, memory) in [(128, 128), (4096, 4096), (5000, 8192), (1 << 20, 1 << 20)] {
            table.set_max_size(max_size).expect("in bounds");
            for mark in 0..40_000 {
                table.insert(entry(mark, 32));
            }
            assert_eq!(table.len(), (max_size / 32) as usize);
            assert!(table.memory() <= memory, "{max_size}");
        }
    }
}

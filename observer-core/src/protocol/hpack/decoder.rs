//! Field blocks and their fields (RFC 7541 section 6).

use super::{
    Error, Field,
    field::{self, Name},
    integer, static_table,
    string::StringLiteral,
    table::{Entry, Table},
};
use crate::names::{Interner, PathId};

/// A decoder for the field blocks of one direction of one connection.
///
/// It needs all blocks, each whole, in the order in which they were sent, also those of trailers and `PUSH_PROMISE`
/// frames: each may change the dynamic table. If a block may be in a gap, call [`gap`](Self::gap).
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// A number that changes whenever the meaning of an index may change.
    pub(super) generation: u64,
}

impl Decoder {
    /// Creates the decoder of a connection that is followed from its first byte: the dynamic table is empty.
    pub fn from_start() -> Self {
        Self { table: Table::empty(), generation: 0 }
    }

    /// Creates the decoder of a connection that joined late: the dynamic table may hold anything.
    pub fn joined_late() -> Self {
        Self { table: Table::unknown(), generation: 0 }
    }

    /// Decodes a field block, and passes its fields to `on_field`, in their order.
    ///
    /// An error has the effect of a [`gap`](Self::gap). Fields before the error have been passed on.
    ///
    /// Takes time linear in the block's length. Allocates only if the dynamic table or the interner grows.
    #[inline]
    pub fn decode(
        &mut self,
        block: &[u8],
        interner: &mut Interner,
        on_field: impl FnMut(Field),
    ) -> Result<(), Error> {
        let result = self.decode_block(block, interner, on_field);
        if result.is_err() {
            self.gap();
        }
        result
    }

    /// Records a gap that may have a field block in it: forgets the dynamic table.
    ///
    /// From here on the decoder is like one that joined late.
    pub fn gap(&mut self) {
        self.change().forget();
    }

    /// Records that field blocks were skipped which inserted `count` entries, and changed nothing else.
    pub fn inserts_dropped(&mut self, count: u32) {
        self.change().insert_unknown(count);
    }

    /// The paths in the dynamic table.
    pub fn paths(&self) -> impl Iterator<Item = PathId> {
        self.table.fields().filter_map(|field| match field {
            Field::Path(path) | Field::ConnectPath(path) | Field::Authority(path) => Some(path),
            _ => None,
        })
    }

    /// The memory of the dynamic table, in bytes: at most [`MAX_TABLE_SIZE`](super::MAX_TABLE_SIZE), and 4096 for a
    /// table of the default size.
    pub fn memory(&self) -> usize {
        self.table.memory()
    }

    /// The table, to change what is in it.
    #[inline]
    fn change(&mut self) -> &mut Table {
        self.generation += 1;
        &mut self.table
    }

    #[inline]
    fn decode_block(
        &mut self,
        block: &[u8],
        interner: &mut Interner,
        mut on_field: impl FnMut(Field),
    ) -> Result<(), Error> {
        let mut input = block;
        let mut at_start = true;
        while let Some(first) = input.first() {
            let field = match first {
                // Indexed (section 6.1).
                0x80.. => self.field_at(integer::take(&mut input, 7)?)?,
                // Literal with incremental indexing (section 6.2.1).
                0x40.. => self.literal_to_insert(&mut input, interner)?,
                // Dynamic table size update (section 6.3).
                0x20.. => {
                    if !at_start {
                        return Err(Error::TableSizeMisplaced);
                    }
                    self.change().set_max_size(integer::take(&mut input, 5)?)?;
                    continue;
                }
                // Literal without indexing, or never indexed (sections 6.2.2 and 6.2.3).
                _ => self.literal(&mut input, interner)?,
            };
            at_start = false;
            on_field(field);
        }
        Ok(())
    }

    fn literal_to_insert(
        &mut self,
        input: &mut &[u8],
        interner: &mut Interner,
    ) -> Result<Field, Error> {
        let (name, name_len) = match integer::take(input, 6)? {
            0 => {
                let text = StringLiteral::take(input)?;
                (Name::of(text), text.len()?)
            }
            index => self.name_at(index)?,
        };
        let value = StringLiteral::take(input)?;
        let (field, value_len) = match name.whatever_the_value() {
            Some(field) => (field, value.len()?),
            None => field::read(name, value, interner)?,
        };
        self.change().insert(Entry::new(name, field, name_len, value_len));
        Ok(field)
    }

    fn literal(&mut self, input: &mut &[u8], interner: &mut Interner) -> Result<Field, Error> {
        let name = match integer::take(input, 4)? {
            0 => Name::of(StringLiteral::take(input)?),
            index => self.name_at(index)?.0,
        };
        let value = StringLiteral::take(input)?;
        match name.whatever_the_value() {
            Some(field) => Ok(field),
            None => field::read(name, value, interner).map(|(field, _)| field),
        }
    }

    #[inline]
    fn field_at(&mut self, index: u32) -> Result<Field, Error> {
        if let Some(entry) = self.entry_at(index) {
            return Ok(entry.field);
        }
        self.refer_to_unknown(index)?;
        Ok(Field::Unknown)
    }

    /// The name at an index, and its length.
    fn name_at(&mut self, index: u32) -> Result<(Name, usize), Error> {
        if let Some(entry) = self.entry_at(index) {
            return Ok((entry.name, entry.name_len as usize));
        }
        self.refer_to_unknown(index)?;
        Ok((Name::Unknown, 0))
    }

    /// The known entry at an index of the common address space (section 2.3.3).
    #[inline]
    fn entry_at(&self, index: u32) -> Option<&Entry> {
        let index = index as usize;
        match index.checked_sub(static_table::FIRST_DYNAMIC) {
            Some(position) => self.table.get(position),
            None => static_table::get(index),
        }
    }

    #[cold]
    fn refer_to_unknown(&mut self, index: u32) -> Result<(), Error> {
        match (index as usize).checked_sub(static_table::FIRST_DYNAMIC) {
            Some(position) => self.table.refer_to_unknown(position),
            None => Err(Error::IndexZero),
        }
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

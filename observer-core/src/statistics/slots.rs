//! The series by ids that stay safe to use after their series were dropped.

use super::Series;
use crate::call::{CallKey, SeriesId};

/// Bits of a [`SeriesId`] that are the slot; those above are the generation.
const SLOT_BITS: u32 = 20;

pub(super) const LAST_GENERATION: u32 = u32::MAX >> SLOT_BITS;

/// Slots for series that [always find room](Slots::push): one per protocol and role.
const RESERVED: usize = 4;

/// The series by their ids.
///
/// Processes are dropped while connections that served them may still hold an id. So an id is a slot and a
/// generation: a slot that is used again has another generation, and an old id finds nothing. A slot whose
/// generations are used up is not used again.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Slot {
    generation: u32,
    taken: Option<(CallKey, Series)>,
}

impl Slot {
    /// Whether the id was given out in this generation of the slot.
    fn is_of(&self, id: SeriesId) -> bool {
        self.generation == id.0 >> SLOT_BITS
    }
}

impl Slots {
    /// The most series that find room.
    pub(super) const MAX: usize = (1 << SLOT_BITS) - RESERVED;

    /// Puts a series into a free slot, or into a new one. `None` if all slots are taken or used up.
    pub(super) fn insert(&mut self, key: CallKey, series: Series) -> Option<SeriesId> {
        if let Some(index) = self.free.pop() {
            let slot = self.slots.get_mut(index as usize)?;
            slot.taken = Some((key, series));
            return Some(SeriesId(slot.generation << SLOT_BITS | index));
        }
        (self.slots.len() < Self::MAX).then(|| self.push(key, series))
    }

    /// Puts a series into a new slot, which there is for at most [`RESERVED`].
    pub(super) fn push(&mut self, key: CallKey, series: Series) -> SeriesId {
        let id = SeriesId(self.slots.len() as u32);
        self.slots.push(Slot { generation: 0, taken: Some((key, series)) });
        id
    }

    /// Takes a series out of its slot.
    pub(super) fn remove(&mut self, id: SeriesId) -> Option<Series> {
        let index = slot_of(id);
        let slot = self.slots.get_mut(index)?;
        if slot.generation < LAST_GENERATION {
            slot.generation += 1;
            self.free.push(index as u32);
        }
        slot.taken.take().map(|(_, series)| series)
    }

    /// The series with this id and its key, unless it was dropped.
    pub(super) fn get(&self, id: SeriesId) -> Option<&(CallKey, Series)> {
        self.slots.get(slot_of(id)).filter(|slot| slot.is_of(id))?.taken.as_ref()
    }

    /// The series with this id and its key, to change them.
    pub(super) fn get_mut(&mut self, id: SeriesId) -> Option<&mut (CallKey, Series)> {
        self.slots.get_mut(slot_of(id)).filter(|slot| slot.is_of(id))?.taken.as_mut()
    }

    /// All series, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(CallKey, Series)> {
        self.slots.iter().filter_map(|slot| slot.taken.as_ref())
    }
}

pub(super) fn slot_of(id: SeriesId) -> usize {
    (id.0 & ((1 << SLOT_BITS) - 1)) as usize
}

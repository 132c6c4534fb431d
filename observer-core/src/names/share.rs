//! A bound on a number of things, which one owner of such things cannot use up for all others.
//!
//! An owner that has a quarter of what is still free gets no more. So the first owner that takes all it can leaves
//! four fifths of the bound to the others, the second leaves four fifths of that, and there is always some left for
//! later ones. Each owner may have a few ([`FEW`]), as long as there is room.

use std::hash::Hash;

use rustc_hash::FxHashMap;

/// The number that each owner may have, however few are left.
const FEW: usize = 16;

/// A bound that is shared by the owners `O` of things: how many each of them has.
#[derive(Debug)]
pub struct Share<O> {
    limit: usize,
    taken: usize,
    owned: FxHashMap<O, usize>,
    stopped: bool,
}

impl<O: Copy + Eq + Hash> Share<O> {
    /// Creates a bound of `limit` things, all of them free.
    pub fn of(limit: usize) -> Self {
        Self { limit, taken: 0, owned: FxHashMap::default(), stopped: false }
    }

    /// Whether there is room for one more, for any owner.
    pub fn has_room(&self) -> bool {
        !self.stopped && self.taken < self.limit
    }

    /// Whether the owner may have one more.
    pub fn admits(&self, owner: O) -> bool {
        let owned = self.owned.get(&owner).copied().unwrap_or(0);
        self.has_room() && owned < FEW.max((self.limit - self.taken) / 4)
    }

    /// Records that the owner has one more.
    pub fn take(&mut self, owner: O) {
        self.taken += 1;
        *self.owned.entry(owner).or_default() += 1;
    }

    /// Records that the owner has one less.
    pub fn give_back(&mut self, owner: O) {
        let Some(owned) = self.owned.get_mut(&owner) else { return };
        self.taken -= 1;
        *owned -= 1;
        if *owned == 0 {
            self.owned.remove(&owner);
        }
    }

    /// Whether three quarters are taken.
    pub fn is_crowded(&self) -> bool {
        4 * self.taken >= 3 * self.limit
    }

    /// Stops admitting more, or goes on with it.
    pub fn stop(&mut self, stopped: bool) {
        self.stopped = stopped;
    }
}

#[cfg(test)]
mod tests {
    use super::{FEW, Share};

    /// The number that an owner gets if it takes as many as it can.
    fn fill(share: &mut Share<u32>, owner: u32) -> usize {
        let mut got = 0;
        while share.admits(owner) {
            share.take(owner);
            got += 1;
        }
        got
    }

    #[test]
    fn each_leaves_four_fifths_of_what_is_left() {
        let mut share = Share::of(10_000);
        assert_eq!([1, 2, 3].map(|owner| fill(&mut share, owner)), [2000, 1600, 1280]);
        assert!(!share.is_crowded());
        for owner in 4..=20 {
            fill(&mut share, owner);
        }
        assert!(share.is_crowded());
        assert!(fill(&mut share, 21) > FEW, "even now");
        for owner in 22..1000 {
            fill(&mut share, owner);
        }
        assert!(!share.has_room(), "a few each are more than the bound");
    }

    #[test]
    fn a_small_bound_is_for_who_comes_first() {
        let mut share = Share::of(FEW);
        assert_eq!([1, 2].map(|owner| fill(&mut share, owner)), [FEW, 0]);
    }

    #[test]
    fn room_that_is_given_back_is_for_all() {
        let mut share = Share::of(100);
        let got = fill(&mut share, 1);
        for _ in 0..got {
            share.give_back(1);
        }
        share.give_back(1);
        assert_eq!(fill(&mut share, 2), got);
    }

    #[test]
    fn stopped_it_has_no_room() {
        let mut share = Share::of(100);
        share.stop(true);
        assert!(!share.has_room() && !share.admits(1));
        share.stop(false);
        assert!(share.admits(1));
    }
}

//! The latest parents of `traceparent`: an entry of a dynamic table has no room for them.

/// The place of a parent among the latest ones. It is kept in octets, so that its alignment does not make a
/// [`Field`](crate::protocol::hpack::Field) larger than 20 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParentId([u8; 2]);

/// The latest 65,536 parents of a worker, with their traces: 1.5 MiB at most.
#[derive(Debug, Default)]
pub struct Parents {
    is_on: bool,
    /// By place.
    kept: Vec<([u8; 16], [u8; 8])>,
    next: u16,
}

impl Parents {
    /// Creates a store; one that is not on keeps nothing.
    pub fn new(is_on: bool) -> Self {
        Self { is_on, ..Self::default() }
    }

    /// Creates another store of the same kind.
    pub(super) fn sharing(&self) -> Self {
        Self::new(self.is_on)
    }

    /// Keeps a parent, in the place of the oldest one if there is no other.
    pub(crate) fn keep(&mut self, trace: [u8; 16], parent: [u8; 8]) -> ParentId {
        let id = ParentId(self.next.to_ne_bytes());
        if self.is_on {
            match self.kept.get_mut(usize::from(self.next)) {
                Some(kept) => *kept = (trace, parent),
                None => self.kept.push((trace, parent)),
            }
            self.next = self.next.wrapping_add(1);
        }
        id
    }

    /// The parent in this trace; `None` if a parent in another trace took its place.
    pub(crate) fn get(&self, ParentId(id): ParentId, trace: [u8; 16]) -> Option<[u8; 8]> {
        let kept = self.kept.get(usize::from(u16::from_ne_bytes(id)));
        kept.filter(|(of, _)| *of == trace).map(|(_, parent)| *parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_a_place_is_of_one_trace() {
        let mut parents = Parents::new(true);
        let [trace, other] = [[1; 16], [2; 16]];
        let first = parents.keep(trace, [3; 8]);
        for _ in 0..u16::MAX {
            parents.keep(other, [4; 8]);
        }
        assert_eq!(parents.get(first, trace), Some([3; 8]));
        assert_eq!(parents.get(first, other), None);
        let again = parents.keep(other, [5; 8]);
        assert_eq!((again, parents.get(first, trace)), (first, None));
        assert_eq!(parents.kept.len(), 1 << 16);
    }

    #[test]
    fn one_that_is_off_keeps_nothing() {
        let mut parents = Parents::default();
        let id = parents.keep([1; 16], [3; 8]);
        assert_eq!((parents.get(id, [1; 16]), parents.kept.capacity()), (None, 0));
    }
}

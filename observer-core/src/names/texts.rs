//! The latest texts that are not labels: those of `grpc-message`, and those of `tracestate`.

use std::collections::VecDeque;

/// The number of bytes of a text that are kept.
const MAX_LEN: usize = 512;

/// The id of a text. The text is gone once later texts took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextId(u32);

/// The latest texts, up to a limit: peers choose them, and can send any number.
#[derive(Debug, Default)]
pub struct Texts {
    limit: usize,
    /// The latest is last.
    kept: VecDeque<Box<[u8]>>,
    /// The id of the next text; ids start again at 0 after 2³².
    next: u32,
}

impl Texts {
    /// Creates a store of at most `limit` texts of at most 512 bytes each.
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Creates another store with the same bound.
    pub(super) fn sharing(&self) -> Self {
        Self::new(self.limit)
    }

    /// Keeps a text, and drops the oldest one if there is no room.
    pub fn keep(&mut self, text: &[u8]) -> TextId {
        let id = TextId(self.next);
        if self.limit > 0 {
            if self.kept.len() >= self.limit {
                self.kept.pop_front();
            }
            self.kept.push_back(text.get(..MAX_LEN).unwrap_or(text).into());
            self.next = self.next.wrapping_add(1);
        }
        id
    }

    /// The text as the peer sent it, cut to 512 bytes; `None` if it is gone.
    pub fn get(&self, id: TextId) -> Option<&[u8]> {
        let age = self.next.wrapping_sub(id.0) as usize;
        let position = self.kept.len().checked_sub(age).filter(|_| age > 0)?;
        self.kept.get(position).map(|text| &**text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept() {
        let mut texts = Texts::new(2);
        let ids: Vec<_> = [b"one", b"two", b"six"].map(|text| texts.keep(text)).into();
        let found: Vec<_> = ids.iter().map(|&id| texts.get(id)).collect();
        assert_eq!(found, [None, Some(&b"two"[..]), Some(b"six")]);
        let long = texts.keep(&[b'x'; 5000]);
        assert_eq!(texts.get(long).map(<[u8]>::len), Some(MAX_LEN));
    }

    #[test]
    fn without_room_nothing_is() {
        let mut texts = Texts::default();
        let id = texts.keep(b"one");
        assert_eq!((texts.get(id), texts.kept.len()), (None, 0));
    }

    #[test]
    fn ids_begin_again() {
        let mut texts = Texts { next: u32::MAX, ..Texts::new(2) };
        let (last, first) = (texts.keep(b"last"), texts.keep(b"first"));
        assert_eq!((texts.get(last), texts.get(first)), (Some(&b"last"[..]), Some(&b"first"[..])));
        texts.keep(b"second");
        assert_eq!(texts.get(last), None);
    }
}

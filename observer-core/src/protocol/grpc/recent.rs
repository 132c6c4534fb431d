//! The streams that were seen last.

/// How many: as many calls as are under way at once on most connections.
const MANY: usize = 16;

/// The last streams of one direction, each once. O(1).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    /// 0 where there is none yet.
    streams: [u32; MANY],
    next: u8,
}

impl Recent {
    /// Something of the stream was seen.
    pub(super) fn add(&mut self, stream: u32) {
        if stream != 0
            && !self.streams.contains(&stream)
            && let Some(slot) = self.streams.get_mut(usize::from(self.next))
        {
            *slot = stream;
            self.next = (self.next + 1) % MANY as u8;
        }
    }

    /// Whether the stream is one of them.
    pub(super) fn contains(&self, stream: u32) -> bool {
        stream != 0 && self.streams.contains(&stream)
    }
}

#[cfg(test)]
mod tests {
    use super::{MANY, Recent};

    #[test]
    fn the_last_ones_are_kept() {
        let mut recent = Recent::default();
        assert!(!recent.contains(0) && !recent.contains(1));
        for stream in 1..=MANY as u32 {
            recent.add(stream);
            recent.add(stream);
        }
        assert!((1..=MANY as u32).all(|stream| recent.contains(stream)));
        recent.add(99);
        assert!(recent.contains(99) && !recent.contains(1) && recent.contains(2));
    }
}

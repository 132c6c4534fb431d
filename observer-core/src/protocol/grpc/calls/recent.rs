//! The streams of the last frames.

/// The number of streams that are kept: most connections do not have more open calls at once.
const MANY: usize = 16;

/// The streams of the last frames in one direction, each once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecentStreams {
    /// 0 is an unused place.
    streams: [u32; MANY],
    next: u8,
}

impl RecentStreams {
    /// Records a frame of the stream.
    pub(super) fn add(&mut self, stream: u32) {
        if stream != 0
            && !self.streams.contains(&stream)
            && let Some(slot) = self.streams.get_mut(usize::from(self.next))
        {
            *slot = stream;
            self.next = (self.next + 1) % MANY as u8;
        }
    }

    /// Whether the stream is one of the last.
    pub(super) fn contains(&self, stream: u32) -> bool {
        stream != 0 && self.streams.contains(&stream)
    }
}

#[cfg(test)]
mod tests {
    use super::{MANY, RecentStreams};

    #[test]
    fn the_last_ones_are_kept() {
        let mut recent = RecentStreams::default();
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

//! The streams that were seen last.

use crate::call::Direction;

/// How many are kept: on most connections no more calls are open at once.
const MANY: usize = 16;

/// The last streams of one direction, each once.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    /// 0 stands for no stream.
    streams: [u32; MANY],
    next: u8,
}

impl Recent {
    /// Records a frame of the stream.
    fn add(&mut self, stream: u32) {
        if stream != 0
            && !self.streams.contains(&stream)
            && let Some(slot) = self.streams.get_mut(usize::from(self.next))
        {
            *slot = stream;
            self.next = (self.next + 1) % MANY as u8;
        }
    }

    /// Whether the stream is one of the last.
    fn contains(&self, stream: u32) -> bool {
        stream != 0 && self.streams.contains(&stream)
    }
}

/// The last streams of both directions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecentStreams {
    received: Recent,
    sent: Recent,
}

impl RecentStreams {
    /// Records a frame of the stream.
    pub(super) fn add(&mut self, direction: Direction, stream: u32) {
        match direction {
            Direction::Received => self.received.add(stream),
            Direction::Sent => self.sent.add(stream),
        }
    }

    /// Whether a frame of the stream was among the last ones.
    pub(super) fn contains(&self, direction: Direction, stream: u32) -> bool {
        match direction {
            Direction::Received => self.received.contains(stream),
            Direction::Sent => self.sent.contains(stream),
        }
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

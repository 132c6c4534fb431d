//! Streams that the client may have started in a gap.

use std::collections::VecDeque;

/// Bound on the ranges of streams, one for each gap in the direction of requests. Calls in older ranges do not count.
const MAX_RANGES: usize = 64;

/// Bound on the streams that ended before the client was seen to start them. There are far fewer at once.
const MAX_ENDED: usize = 64;

/// The streams that the client may have started in a gap.
#[derive(Debug, Default)]
pub(super) struct GapStreams {
    /// The first and last stream of each range, ascending.
    ranges: VecDeque<(u32, u32)>,
    /// The first stream that may have started in the gap that goes on, or that has just ended.
    from: Option<u32>,
    /// The streams that were last counted as ended.
    ended: VecDeque<u32>,
}

impl GapStreams {
    /// Records that a gap begins; the client had started streams up to this one.
    pub(super) fn gap(&mut self, last_stream: u32) {
        let from = last_stream.saturating_add(1);
        self.from = Some(self.from.map_or(from, |before| before.min(from)));
    }

    /// Records that the client was seen to start a stream.
    pub(super) fn began(&mut self, stream: u32) {
        if let Some(from) = self.from.take()
            && from < stream
        {
            if self.ranges.len() == MAX_RANGES {
                self.ranges.pop_front();
            }
            self.ranges.push_back((from, stream - 1));
        }
    }

    /// Whether the client may have started the stream in a gap.
    pub(super) fn contains(&self, stream: u32) -> bool {
        self.from.is_some_and(|from| stream >= from)
            || self.ranges.iter().any(|&(first, last)| (first..=last).contains(&stream))
    }

    /// Records that a stream was counted as ended.
    pub(super) fn ended(&mut self, stream: u32) {
        if self.ended.len() == MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(stream);
    }

    /// Whether the stream was counted as ended. Its start may come later, if the client reads the response in another
    /// thread before its own write has returned.
    pub(super) fn has_ended(&self, stream: u32) -> bool {
        self.ended.contains(&stream)
    }
}

#[cfg(test)]
mod tests {
    use super::{GapStreams, MAX_RANGES};

    #[test]
    fn a_range_ends_with_the_first_stream_that_is_seen_to_begin() {
        let mut gap_streams = GapStreams::default();
        assert!(!gap_streams.contains(1));
        gap_streams.began(1);
        gap_streams.gap(1);
        assert!(gap_streams.contains(3) && gap_streams.contains(99) && !gap_streams.contains(1));
        gap_streams.gap(1);
        gap_streams.began(9);
        assert!(gap_streams.contains(3) && gap_streams.contains(7));
        assert!(!gap_streams.contains(9) && !gap_streams.contains(11));
        gap_streams.gap(9);
        gap_streams.began(11);
        assert!(!gap_streams.contains(11));
    }

    #[test]
    fn a_connection_that_joined_late_may_have_started_all_streams() {
        let mut gap_streams = GapStreams::default();
        gap_streams.gap(0);
        assert!(gap_streams.contains(1));
        gap_streams.began(1001);
        assert!(
            gap_streams.contains(1) && gap_streams.contains(999) && !gap_streams.contains(1001)
        );
    }

    #[test]
    fn ranges_are_bounded() {
        let mut gap_streams = GapStreams::default();
        for stream in (1..100_000).step_by(10) {
            gap_streams.gap(stream);
            gap_streams.began(stream + 6);
        }
        assert_eq!(gap_streams.ranges.len(), MAX_RANGES);
        assert!(!gap_streams.contains(5) && gap_streams.contains(99_991 + 2));
        for stream in 0..1000 {
            gap_streams.ended(stream);
        }
        assert!(gap_streams.has_ended(999) && !gap_streams.has_ended(0));
    }
}

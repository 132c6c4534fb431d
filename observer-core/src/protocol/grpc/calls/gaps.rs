//! Gaps in the connection of calls.

use super::{Call, Calls, End, GAP_TIMEOUT_NS};
use crate::call::{CallSink, Coverage, Direction};

impl Calls {
    /// Begins a gap in this direction, up to [`gap_ended`](Self::gap_ended) or [`resynced`](Self::resynced).
    pub fn gap(&mut self, direction: Direction) {
        self.in_gap.set(direction, true);
        if self.coverage == Coverage::Complete {
            self.coverage = Coverage::Gaps;
        }
        if self.is_request(direction) {
            if self.resynced.contains(direction) {
                self.discard_unproven();
            }
            self.gap_streams.gap(self.last_stream);
        }
        for call in self.open.values_mut() {
            call.gaps.set(direction, true);
            call.touched_ns = self.now_ns;
        }
        self.has_doubtful = !self.open.is_empty();
    }

    /// Ends the gap in this direction.
    pub fn gap_ended(&mut self, direction: Direction) {
        self.in_gap.set(direction, false);
    }

    /// Ends the gap in this direction at a frame boundary that was found again.
    pub fn resynced(&mut self, direction: Direction) {
        self.gap_ended(direction);
        self.resynced.set(direction, true);
    }

    /// Whether a gap in this direction goes on.
    pub fn is_in_gap(&self, direction: Direction) -> bool {
        self.in_gap.contains(direction)
    }

    /// Ends the calls that may have ended in a gap, and had no frame for [`GAP_TIMEOUT_NS`].
    pub fn expire(&mut self, now_ns: u64, sink: &mut impl CallSink) {
        if !self.has_doubtful {
            return;
        }
        let is_doubtful = |call: &Call| call.gaps.any();
        let long_ago = now_ns.saturating_sub(GAP_TIMEOUT_NS);
        for stream in self.streams(|_, call| is_doubtful(call) && call.touched_ns <= long_ago) {
            self.end(now_ns, stream, End::NotSeen, sink);
        }
        self.has_doubtful = self.open.values().any(is_doubtful);
    }
}

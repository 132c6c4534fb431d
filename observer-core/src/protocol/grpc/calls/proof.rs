//! Whether what looks like frames is known to be frames: see [`Calls`].

use super::{Calls, Proof, request_direction};
use crate::call::{CallSink, Direction};

impl Calls {
    /// The proof of a call that begins now.
    pub(super) fn proof(&mut self) -> Proof {
        if !self.resynced.contains(request_direction(self.role)) {
            return Proof::Given;
        }
        let Some(left) = self.credit.checked_sub(1) else { return Proof::Awaited };
        self.credit = left;
        Proof::Assumed
    }

    /// Records a frame of a stream, where frames may need proof.
    pub(super) fn saw(&mut self, direction: Direction, stream: u32, sink: &mut impl CallSink) {
        if !self.resynced.any() {
            return;
        }
        self.note(direction, stream);
        if !self.is_request(direction) {
            self.answered(stream, sink);
        } else if self.agreed && self.gap_streams.contains(stream) {
            self.join_where(sink, |pending| pending.stream == stream);
        }
    }

    /// Records a frame of a stream, whatever the role.
    pub fn note(&mut self, direction: Direction, stream: u32) {
        self.recent.add(direction, stream);
    }

    /// Whether a frame of the stream was seen lately in this direction.
    pub fn has_noted(&self, direction: Direction, stream: u32) -> bool {
        self.recent.contains(direction, stream)
    }

    /// Records that the server answered on the stream: what began it was a frame.
    pub(super) fn answered(&mut self, stream: u32, sink: &mut impl CallSink) {
        let Some(call) = self.open.get_mut(&stream) else { return };
        self.credit += match std::mem::replace(&mut call.proof, Proof::Given) {
            Proof::Given => return,
            Proof::Assumed => 2,
            Proof::Awaited => {
                self.unanswered -= 1;
                if self.shows_grpc {
                    call.start(sink);
                    self.streams.measured += 1;
                }
                1
            }
        };
        self.last_proven = self.last_proven.max(stream);
        if call.shows_grpc {
            self.show_grpc(sink);
        }
    }

    /// Whether the client has not shown yet that it began the stream, in a gap.
    pub(super) fn is_unconfirmed(&self, stream: u32) -> bool {
        let requests = request_direction(self.role);
        let is_begun = stream < self.last_proven || self.has_noted(requests, stream);
        self.resynced.contains(requests.opposite()) && !(self.agreed && is_begun)
    }

    /// Drops calls that were not answered, as a gap follows a boundary that was found: it may not have been one.
    pub(super) fn discard_unproven(&mut self) {
        self.open.retain(|_, call| call.proof != Proof::Awaited);
        self.streams.unconfirmed += std::mem::take(&mut self.unanswered) as u64;
        self.last_stream = self.last_proven;
    }
}

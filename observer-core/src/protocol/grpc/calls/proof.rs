//! Proof that bytes which look like frames are frames: see [`Calls`].

use super::{Calls, Proof};
use crate::call::{CallSink, Direction};

impl Calls {
    /// The proof of a call that starts now.
    pub(super) fn proof(&mut self) -> Proof {
        if !self.resynced.contains(self.role.request_direction()) {
            return Proof::Given;
        }
        let Some(left) = self.credit.checked_sub(1) else { return Proof::Awaited };
        self.credit = left;
        Proof::Assumed
    }

    /// Records a frame of a stream, if frames of the connection need proof.
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

    /// Records a frame of a stream, while the role need not be known.
    pub fn note(&mut self, direction: Direction, stream: u32) {
        self.recent.get_mut(direction).add(stream);
    }

    /// Whether one of the last frames in this direction was on the stream.
    pub fn has_noted(&self, direction: Direction, stream: u32) -> bool {
        self.recent.get(direction).contains(stream)
    }

    /// Records that the server answered on the stream, which proves that a frame started it.
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

    /// Whether the client has not shown yet that it started the stream, in a gap.
    pub(super) fn is_unconfirmed(&self, stream: u32) -> bool {
        let requests = self.role.request_direction();
        let is_begun = stream < self.last_proven || self.has_noted(requests, stream);
        self.resynced.contains(requests.opposite()) && !(self.agreed && is_begun)
    }

    /// Drops the calls that were not answered. To be called at a gap after a resync: the boundary may have been wrong.
    pub(super) fn discard_unproven(&mut self) {
        self.open.retain(|_, call| call.proof != Proof::Awaited);
        self.streams.unconfirmed += std::mem::take(&mut self.unanswered) as u64;
        self.last_stream = self.last_proven;
    }
}

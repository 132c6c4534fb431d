//! Responses on streams that the client was not seen to start, or not yet.

use super::{Calls, Headers, Trailers};
use crate::{
    call::{CallKey, CallSink, Ended},
    names::PathId,
    protocol::{Transfer, grpc::End},
    record::Data,
};

/// A part of a response whose request was not seen yet. Either the request is in a gap; or the client read the
/// response in another thread before its own write returned, which is when the BPF programs see it.
#[derive(Debug)]
pub(super) struct PendingResponse {
    pub(super) at: Transfer,
    pub(super) stream: u32,
    pub(super) what: ResponsePart,
}

/// A part of a response.
#[derive(Debug)]
pub(super) enum ResponsePart {
    Headers { headers: Headers, end_stream: bool },
    Data(Data),
    Trailers(Trailers),
    Reset { error: u32 },
}

/// Bound on the pending parts of responses of a connection: enough for the calls of some threads.
pub(super) const MAX_PENDING: usize = 256;

impl PendingResponse {
    pub(super) fn path(&self) -> Option<PathId> {
        match &self.what {
            ResponsePart::Headers { headers, .. } => headers.path,
            ResponsePart::Data(_) | ResponsePart::Trailers(_) | ResponsePart::Reset { .. } => None,
        }
    }
}

impl Calls {
    /// Keeps a part of a response, if the client may still be seen to start the stream, and there is room.
    pub(super) fn keep_pending(&mut self, at: Transfer, stream: u32, what: ResponsePart) {
        let may_begin = stream > self.last_stream && !stream.is_multiple_of(2);
        if may_begin && self.pending.len() < MAX_PENDING {
            self.pending.push(PendingResponse { at, stream, what });
        }
    }

    /// Keeps the end of a stream that started in a gap; without room it counts as unconfirmed.
    pub(super) fn keep_pending_end(&mut self, at: Transfer, stream: u32, headers: &Headers) {
        if self.pending.len() < MAX_PENDING {
            let what = ResponsePart::Headers { headers: *headers, end_stream: true };
            self.pending.push(PendingResponse { at, stream, what });
        } else {
            self.streams.unconfirmed += 1;
        }
    }

    /// The number of pending ends of streams that started in a gap.
    pub(super) fn pending_ends(&self) -> u64 {
        let is_end = |pending: &&PendingResponse| {
            matches!(pending.what, ResponsePart::Headers { end_stream: true, .. })
                && self.gap_streams.contains(pending.stream)
        };
        self.pending.iter().filter(is_end).count() as u64
    }

    /// Takes the pending responses on streams that the client has started since. To be called after all items of a
    /// record.
    pub fn replay_pending(&mut self, sink: &mut impl CallSink) {
        if !std::mem::take(&mut self.pending_ready) {
            return;
        }
        let Self { pending, open, .. } = self;
        let begun: Vec<PendingResponse> =
            pending.extract_if(.., |pending| open.contains_key(&pending.stream)).collect();
        for PendingResponse { at, stream, what } in begun {
            match what {
                ResponsePart::Headers { headers, end_stream } => {
                    self.answered(stream, sink);
                    self.response_headers(at, stream, &headers, end_stream, sink);
                }
                ResponsePart::Data(data) => self.data(at, &data, sink),
                ResponsePart::Trailers(trailers) => self.trailers(at, stream, trailers),
                ResponsePart::Reset { error } => self.reset(at, stream, error, sink),
            }
        }
    }

    /// Counts the pending ends of streams below this one: the client starts streams in their order, so it will not be
    /// seen to start these.
    pub(super) fn join_pending(&mut self, below: u32, sink: &mut impl CallSink) {
        self.join_where(sink, |pending| pending.stream < below);
    }

    /// Takes out the wanted pending responses, and counts those that end a stream which started in a gap. Responses on
    /// streams that the client has started stay: they are [replayed](Self::replay_pending) after the record.
    pub(super) fn join_where(
        &mut self,
        sink: &mut impl CallSink,
        is_wanted: impl Fn(&PendingResponse) -> bool,
    ) {
        if self.pending.is_empty() {
            return;
        }
        let Self { pending, open, .. } = self;
        let is_wanted = |pending: &mut PendingResponse| {
            is_wanted(pending) && !open.contains_key(&pending.stream)
        };
        let wanted: Vec<PendingResponse> = pending.extract_if(.., is_wanted).collect();
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        for PendingResponse { at, stream, what } in wanted {
            if let ResponsePart::Headers { headers, end_stream: true } = what
                && self.gap_streams.contains(stream)
            {
                self.join(at, stream, &headers, sink);
            }
        }
    }

    /// Counts the end of a stream that started in a gap. Nothing else of the stream counts: the end happens once, and
    /// nothing else shows that the call had not ended before.
    pub(super) fn join(
        &mut self,
        at: Transfer,
        stream: u32,
        headers: &Headers,
        sink: &mut impl CallSink,
    ) {
        let may_be_grpc = headers.grpc_status.is_some() || headers.incomplete;
        // A stream ends once, even if the server writes more ends.
        if !self.shows_grpc || !may_be_grpc || self.gap_streams.has_ended(stream) {
            return;
        }
        self.gap_streams.ended(stream);
        self.streams.measured += 1;
        let path = PathId::NOT_SEEN;
        let series = sink.joined(CallKey {
            protocol: headers.kind().unwrap_or_default().protocol(),
            process: at.process,
            role: self.role,
            path,
        });
        let ended = Ended {
            code: End::trailers(None, headers).code(),
            coverage: self.coverage,
            message: headers.message,
            stream,
            ..Ended::default()
        };
        sink.ended(series, ended);
    }

    /// Counts all pending ends of streams, because the connection ends.
    pub(super) fn end_pending(&mut self, sink: &mut impl CallSink) {
        for PendingResponse { at, stream, what } in std::mem::take(&mut self.pending) {
            let ResponsePart::Headers { headers, end_stream: true } = what else { continue };
            if self.is_unconfirmed(stream) {
                self.streams.unconfirmed += 1;
            } else if self.gap_streams.contains(stream) {
                self.join(at, stream, &headers, sink);
            }
        }
    }
}

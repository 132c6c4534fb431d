//! The truth: the rules of gRPC and HTTP/2, applied to what the simulated peers meant, at the time at which each end of
//! a connection read or wrote it.

use std::collections::BTreeMap;

use observer_core::call::Code;

use crate::writer::{Happening, Mark, Request};

/// Whether a method's requests and responses are streams; `None` if it is not gRPC.
type Streams = Option<(bool, bool)>;

/// The methods: path, and whether requests and responses are streams.
pub const METHODS: &[(&str, Streams)] = &[
    ("/sim.Greeter/Unary", Some((false, false))),
    ("/sim.Greeter/Collect", Some((true, false))),
    ("/sim.Greeter/List", Some((false, true))),
    ("/sim.Greeter/Chat", Some((true, true))),
    ("/sim.other.Service/WithALongerName", Some((false, false))),
    ("/index.html", None),
    ("/upload", None),
];

pub const CANCELED: usize = 1;
pub const UNKNOWN: usize = 2;
pub const DEADLINE_EXCEEDED: usize = 4;
/// Canceled or DeadlineExceeded.
pub const EITHER: usize = 17;
pub const UNAVAILABLE: usize = 14;

/// gRPC's "HTTP to gRPC Status Code Mapping".
pub fn code_of_http(status: u16) -> usize {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// "Errors" of gRPC over HTTP2.
fn code_of_reset(error: u32) -> usize {
    match error {
        0x7 => UNAVAILABLE,
        0xb => 8,
        0xc => 7,
        0x5 | 0xd.. => UNKNOWN,
        _ => 13,
    }
}

/// A process: position in the list of all that ever ran.
pub type Process = usize;

/// A series: process, whether it is the server, position in [`METHODS`].
pub type Label = (Process, bool, usize);

/// The figures of a series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub started: u64,
    pub handled: [u64; Code::ALL.len()],
    /// Count and bytes.
    pub received: (u64, u64),
    pub sent: (u64, u64),
    pub handling_ns: u128,
    pub first_messages: u64,
}

/// The amounts by which the figures of a series may be higher because of gaps.
#[derive(Clone, Default)]
pub struct Tolerance {
    /// Calls that also got an answer after a reset: the reset may be in a gap, and then the answer's code is right too.
    pub handled: [u64; Code::ALL.len()],
    /// Calls for which any code is right: those that are not gRPC, and those that crossed a GOAWAY, because what shows
    /// this may be in a gap.
    pub any: u64,
    /// Messages after the end of their call, which may be in a gap: count and bytes.
    pub received: (u64, u64),
    pub sent: (u64, u64),
}

/// Everything that is true.
#[derive(Default)]
pub struct Truth {
    pub figures: BTreeMap<Label, Figures>,
    pub tolerance: BTreeMap<Label, Tolerance>,
    /// Open connections with calls: process, whether it is the server.
    pub connections: BTreeMap<(Process, bool), u64>,
    /// For a method's requests and responses: how many calls showed that it is a stream, and how many that it is not.
    pub types: BTreeMap<usize, [(u64, u64); 2]>,
    pub in_flight: u64,
    pub starts: Vec<Start>,
    /// Prints everything that happens.
    pub prints: bool,
}

/// The place of a call's request headers.
pub struct Start {
    pub process: Process,
    pub server: bool,
    pub sock: u64,
    pub begin: u64,
    pub end: u64,
}

/// The time and the process of a transfer.
#[derive(Clone, Copy)]
pub struct At {
    pub time_ns: u64,
    pub process: Process,
}

struct Call {
    label: Label,
    started_ns: u64,
    timeout_ns: Option<u64>,
    requests: u64,
    responses: u64,
    half_closed: bool,
    /// Its end may be in a gap that does not show in time.
    in_doubt: bool,
}

/// One end of a connection.
#[derive(Default)]
pub struct End {
    pub sock: u64,
    server: bool,
    open: BTreeMap<u32, Call>,
    /// Calls that ended, and whether a reset ended them.
    over: BTreeMap<u32, (Label, bool)>,
    refused_above: Option<u32>,
    counted_for: Option<Process>,
    in_doubt: [bool; 2],
}

impl End {
    pub fn new(sock: u64, server: bool) -> Self {
        Self { sock, server, ..Self::default() }
    }

    /// Records whether the BPF programs captured a transfer in this direction.
    pub fn was_seen(&mut self, sent: bool, seen: bool) {
        self.in_doubt[usize::from(sent)] = !seen;
        if !seen {
            self.open.values_mut().for_each(|call| call.in_doubt = true);
        }
    }

    /// Handles that the process read or wrote the last byte of something.
    pub fn observe(&mut self, truth: &mut Truth, at: At, mark: &Mark) {
        if truth.prints {
            let At { time_ns, process } = at;
            eprintln!("{time_ns:>14} process {process} at socket {}: {mark:?}", self.sock);
        }
        match mark.happening {
            Happening::Begins { stream, request, half_closed } => {
                let bytes = (mark.begin, mark.end);
                self.begin(truth, at, stream, request, half_closed, bytes);
            }
            Happening::HalfClosed { stream } => {
                if let Some(call) = self.open.get_mut(&stream) {
                    call.half_closed = true;
                }
            }
            Happening::Message { stream, from_client, length } => {
                self.message(truth, stream, from_client, length);
            }
            Happening::Answered { stream, code } => {
                if let Some((label, reset @ true)) = self.over.get_mut(&stream) {
                    truth.tolerance.entry(*label).or_default().handled[code] += 1;
                    *reset = false;
                }
                self.end(truth, at.time_ns, stream, code);
            }
            Happening::Reset { stream, by_client, error } => {
                self.reset(truth, at, stream, by_client, error);
            }
            Happening::GoAway { last_stream } => {
                self.refused_above = Some(last_stream);
                while let Some((&stream, _)) = self.open.range(last_stream + 1..).next() {
                    self.end(truth, at.time_ns, stream, UNAVAILABLE);
                }
            }
        }
    }

    fn begin(
        &mut self,
        truth: &mut Truth,
        at: At,
        stream: u32,
        request: Request,
        half_closed: bool,
        (begin, end): (u64, u64),
    ) {
        let label = (at.process, self.server, request.method);
        let crossed = self.refused_above.is_some_and(|last_stream| stream > last_stream);
        let grpc = METHODS[request.method].1.is_some();
        if !grpc || crossed {
            truth.tolerance.entry(label).or_default().any += 1;
        }
        if !grpc {
            return;
        }
        truth.figures.entry(label).or_default().started += 1;
        truth.in_flight += 1;
        let Self { sock, server, .. } = *self;
        truth.starts.push(Start { process: at.process, server, sock, begin, end });
        if self.counted_for.is_none() {
            self.counted_for = Some(at.process);
            *truth.connections.entry((at.process, server)).or_default() += 1;
        }
        let call = Call {
            label,
            started_ns: at.time_ns,
            timeout_ns: request.timeout_ns,
            requests: 0,
            responses: 0,
            half_closed,
            in_doubt: self.in_doubt[0] || self.in_doubt[1],
        };
        self.open.insert(stream, call);
        if crossed {
            self.end(truth, at.time_ns, stream, UNAVAILABLE);
        }
    }

    fn message(&mut self, truth: &mut Truth, stream: u32, from_client: bool, length: u32) {
        let received = from_client == self.server;
        let to = if let Some(call) = self.open.get_mut(&stream) {
            let figures = truth.figures.entry(call.label).or_default();
            if from_client {
                call.requests += 1;
            } else {
                figures.first_messages += u64::from(call.responses == 0);
                call.responses += 1;
            }
            if received { &mut figures.received } else { &mut figures.sent }
        } else if let Some((label, _)) = self.over.get(&stream) {
            let tolerance = truth.tolerance.entry(*label).or_default();
            if received { &mut tolerance.received } else { &mut tolerance.sent }
        } else {
            return;
        };
        to.0 += 1;
        to.1 += u64::from(length);
    }

    fn reset(&mut self, truth: &mut Truth, at: At, stream: u32, by_client: bool, error: u32) {
        let Some(call) = self.open.get(&stream) else { return };
        let elapsed = at.time_ns - call.started_ns;
        // Never near the timeout, where it would be uncertain: see `TIMEOUTS_MS`.
        let expired = call.timeout_ns.is_some_and(|timeout_ns| elapsed >= timeout_ns);
        let code = match (by_client || error == 8, call.timeout_ns) {
            (false, _) => code_of_reset(error),
            (true, Some(_)) if elapsed == 0 => EITHER,
            (true, _) if expired => DEADLINE_EXCEEDED,
            (true, _) => CANCELED,
        };
        let label = call.label;
        self.end(truth, at.time_ns, stream, code);
        self.over.insert(stream, (label, true));
    }

    /// Handles that the process takes another name: its calls stay with the old one, its connections do not.
    pub fn rename(&mut self, truth: &mut Truth, from: Process, to: Process) {
        if let Some(process) = self.counted_for.as_mut().filter(|process| **process == from) {
            *process = to;
            *truth.connections.entry((from, self.server)).or_default() -= 1;
            *truth.connections.entry((to, self.server)).or_default() += 1;
        }
    }

    /// Handles that the process closes the socket, or exits.
    pub fn close(&mut self, truth: &mut Truth, time_ns: u64) {
        let closed = if self.server { CANCELED } else { UNAVAILABLE };
        while let Some((&stream, call)) = self.open.first_key_value() {
            let elapsed = time_ns - call.started_ns;
            let expired = call.timeout_ns.is_some_and(|timeout_ns| elapsed >= timeout_ns);
            let code = if expired { DEADLINE_EXCEEDED } else { closed };
            self.end(truth, time_ns, stream, code);
        }
        if let Some(process) = self.counted_for.take() {
            *truth.connections.entry((process, self.server)).or_default() -= 1;
        }
    }

    fn end(&mut self, truth: &mut Truth, time_ns: u64, stream: u32, code: usize) {
        let Some(call) = self.open.remove(&stream) else { return };
        truth.in_flight -= 1;
        self.over.insert(stream, (call.label, false));
        let figures = truth.figures.entry(call.label).or_default();
        figures.handled[code] += 1;
        figures.handling_ns += u128::from(time_ns - call.started_ns);
        if call.in_doubt {
            truth.tolerance.entry(call.label).or_default().any += 1;
        }
        let [requests, responses] = truth.types.entry(call.label.2).or_default();
        for (shown, count, complete) in
            [(requests, call.requests, call.half_closed), (responses, call.responses, code == 0)]
        {
            shown.0 += u64::from(count > 1 || (count == 0 && complete));
            shown.1 += u64::from(count == 1 && complete);
        }
    }
}

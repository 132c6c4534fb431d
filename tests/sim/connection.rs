//! A connection: two peers that speak gRPC over HTTP/2, and the bytes in transit between them.

use std::collections::{BTreeMap, VecDeque};

use observer_common::{
    frame::{flag, kind},
    record::Waited,
};

use crate::{
    encoder::Field,
    model::{End, METHODS, Process, UNKNOWN, code_of_http},
    random::Random,
    writer::{Happening, Mark, Outgoing, Request, Writer},
};

/// Most open streams of a client.
const MAX_STREAMS: usize = 12;

/// Timeouts of calls: far longer than all steps of a simulation, and far from each other. So a call only comes near its
/// deadline by [`Connection::cancel`], which waits until the deadline has passed.
const TIMEOUTS_MS: &[u64] = &[10_000, 10_000_000];

/// Time after a deadline at which a cancelled call is certain to have expired, even if the server reads late and its
/// socket does not show that.
const WELL_OVER_NS: u64 = 1_000_000 + Waited::BUSY.most_us as u64 * 1_000;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// One end's socket.
pub struct Socket {
    pub owners: Vec<Process>,
    /// Whether the BPF programs watch it.
    pub watched: bool,
    pub is_open: bool,
    pub end: End,
    pub written: u64,
    pub read: u64,
}

/// Bytes that were written and not read.
#[derive(Default)]
pub struct Pipe {
    pub bytes: VecDeque<u8>,
    pub marks: VecDeque<Mark>,
}

/// A connection; arrays are by the side: client, server.
pub struct Connection {
    pub tcp: bool,
    pub sockets: [Socket; 2],
    /// By the side that writes.
    pub writers: [Writer; 2],
    pub pipes: [Pipe; 2],
    streams: BTreeMap<u32, Stream>,
    next_stream: u32,
    next_promise: u32,
    /// The client has read a GOAWAY.
    draining: bool,
    /// The last stream that the server will answer, by its GOAWAY.
    last_stream: u32,
}

#[derive(Default)]
struct Stream {
    method: usize,
    timeout_ns: Option<u64>,
    /// Messages that the client has not sent yet.
    requests: usize,
    outgoing: Outgoing,
    /// The client has sent everything, or reset the stream.
    client_done: bool,
    /// The server has read the request headers.
    known: bool,
    /// HTTP status of the response headers, once sent.
    status: Option<u16>,
    responses: usize,
    answer: Outgoing,
    /// For each side: it has ended the stream, or read its end.
    over: [bool; 2],
}

impl Connection {
    pub fn new(random: &mut Random, sockets: [Socket; 2], tcp: bool) -> Self {
        let mut writers = [Writer::new(random), Writer::new(random)];
        writers[CLIENT].preface();
        for writer in &mut writers {
            writer.frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100].repeat(random.below(4)));
        }
        Self {
            tcp,
            sockets,
            writers,
            pipes: Default::default(),
            streams: BTreeMap::new(),
            next_stream: 1,
            next_promise: 2,
            draining: false,
            last_stream: u32::MAX,
        }
    }

    /// Does something that the client's or the server's program does. Returns how long it waits before that.
    pub fn act(&mut self, random: &mut Random, side: usize) -> u64 {
        if !self.sockets[side].is_open {
            return 0;
        }
        if random.chance(60) {
            self.noise(random, side);
        }
        if side == CLIENT { self.client_acts(random) } else { self.server_acts(random) }
    }

    /// Writes a frame that does not concern calls.
    fn noise(&mut self, random: &mut Random, side: usize) {
        let writer = &mut self.writers[side];
        match random.below(6) {
            0 => writer.frame(kind::PING, 0, 0, &[7; 8]),
            1 => writer.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 1, 0]),
            2 => writer.frame(kind::SETTINGS, flag::ACK, 0, &[]),
            3 => writer.frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 1, 9]),
            4 => writer.frame(0x42, 0xff, 5, &[3; 40]),
            _ => writer.frame(kind::SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0]),
        };
    }

    fn some_stream(&self, random: &mut Random, wanted: impl Fn(&Stream) -> bool) -> Option<u32> {
        let wanted = self.streams.iter().filter(|(_, stream)| wanted(stream));
        let streams: Vec<u32> = wanted.map(|(&id, _)| id).collect();
        (!streams.is_empty()).then(|| random.pick(&streams))
    }

    fn client_acts(&mut self, random: &mut Random) -> u64 {
        let open = self.streams.values().filter(|stream| !stream.over[CLIENT]).count();
        if open == 0 || random.chance(250) {
            if !self.draining && open < MAX_STREAMS {
                self.call(random);
            }
            return 0;
        }
        if random.chance(40)
            && let Some(id) = self.some_stream(random, |stream| !stream.over[CLIENT])
        {
            return self.cancel(random, id);
        }
        let sending = |stream: &Stream| !stream.client_done && !stream.over[CLIENT];
        if let Some(id) = self.some_stream(random, sending) {
            self.send(random, id);
        }
        0
    }

    fn call(&mut self, random: &mut Random) {
        let id = self.next_stream;
        self.next_stream += 2 * random.between(1, 2) as u32;
        let method = random.below(METHODS.len());
        let (path, streams) = METHODS[method];
        let requests = match streams {
            Some((true, _)) => random.below(6),
            _ => 1,
        };
        let timeout_ms = random.chance(250).then(|| random.pick(TIMEOUTS_MS));
        let timeout_ns = timeout_ms.map(|ms| ms * 1_000_000);
        let half_closed = requests == 0 && random.chance(500);
        let mut stream = Stream { method, timeout_ns, requests, ..Stream::default() };
        stream.client_done = half_closed;
        stream.responses = match streams {
            Some((_, true)) => random.below(6),
            _ => 1,
        };
        let fields = request_fields(random, path, streams.is_some(), timeout_ms);
        let request = Request { method, timeout_ns };
        let happening = Happening::Begins { stream: id, request, half_closed };
        self.writers[CLIENT].headers(random, id, &fields, half_closed, Some(happening));
        self.streams.insert(id, stream);
    }

    fn cancel(&mut self, random: &mut Random, id: u32) -> u64 {
        let Some(stream) = self.streams.get_mut(&id) else { return 0 };
        stream.over[CLIENT] = true;
        stream.client_done = true;
        let error = if random.chance(900) { 8 } else { random.below(15) as u32 };
        self.writers[CLIENT].reset(id, true, error);
        match stream.timeout_ns {
            Some(timeout_ns) if random.chance(500) => timeout_ns + WELL_OVER_NS,
            _ => 0,
        }
    }

    fn send(&mut self, random: &mut Random, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let writer = &mut self.writers[CLIENT];
        push_some(random, stream.method, &mut stream.requests, &mut stream.outgoing);
        let all = stream.requests == 0 && random.chance(500);
        if all && random.chance(60) && stream.outgoing.is_empty() {
            stream.client_done = true;
            let happening = Happening::HalfClosed { stream: id };
            writer.headers(random, id, &[field("x-trailer", "1")], true, Some(happening));
            return;
        }
        // One frame may not be enough: then it is not the last one.
        let last = all && stream.outgoing.fits();
        stream.client_done = last;
        let end = last.then_some(Happening::HalfClosed { stream: id });
        writer.data(random, id, true, &mut stream.outgoing, end);
    }

    fn server_acts(&mut self, random: &mut Random) -> u64 {
        if random.chance(3) {
            self.go_away(random);
        }
        let answering = |stream: &Stream| stream.known && !stream.over[SERVER];
        if let Some(id) = self.some_stream(random, answering) {
            self.answer(random, id);
        }
        0
    }

    fn go_away(&mut self, random: &mut Random) {
        let known = |stream: &(&u32, &Stream)| stream.1.known;
        let Some(last) = self.streams.iter().rev().find(known).map(|(&id, _)| id) else { return };
        if self.last_stream == u32::MAX && random.chance(300) {
            // A warning; the real GOAWAY may follow.
            self.writers[SERVER].go_away(0x7fff_ffff);
        } else {
            // Not above the stream of an earlier GOAWAY (RFC 9113 §6.8).
            self.last_stream = last.min(self.last_stream);
            self.writers[SERVER].go_away(self.last_stream);
        }
    }

    fn answer(&mut self, random: &mut Random, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let writer = &mut self.writers[SERVER];
        if random.chance(20) {
            stream.over[SERVER] = true;
            writer.reset(id, false, random.below(15) as u32);
            return;
        }
        if random.chance(20) {
            let promised =
                [field(":method", "GET"), field(":path", "/pushed"), noise_field(random)];
            writer.promise(random, id, self.next_promise, &promised);
            let fields = [field(":status", "200"), field("grpc-status", "3")];
            writer.headers(random, self.next_promise, &fields, true, None);
            self.next_promise += 2;
        }
        match stream.status {
            None => stream.begin_answer(random, writer, id),
            Some(status) => stream.go_on(random, writer, id, status),
        }
    }

    /// Handles that the program at this end reads something that the other one wrote.
    pub fn hear(&mut self, side: usize, happening: &Happening) {
        match *happening {
            Happening::Begins { stream, .. } if stream <= self.last_stream => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.known = true;
                }
            }
            Happening::Reset { stream, .. } | Happening::Answered { stream, .. } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.over[side] = true;
                }
            }
            Happening::GoAway { last_stream } => {
                self.draining = true;
                let above = self.streams.range_mut(last_stream + 1..);
                above.for_each(|(_, stream)| stream.over[CLIENT] = true);
            }
            _ => {}
        }
        self.streams.retain(|_, stream| stream.over != [true; 2]);
    }
}

impl Stream {
    /// A method with a single response must not succeed without it.
    fn may_succeed(&self) -> bool {
        self.responses == 0 && self.answer.is_empty()
    }

    fn begin_answer(&mut self, random: &mut Random, writer: &mut Writer, id: u32) {
        let status = if random.chance(900) {
            200
        } else {
            random.pick(&[400, 401, 403, 404, 429, 503, 500])
        };
        let mut fields = vec![field(":status", &status.to_string())];
        match random.below(20) {
            0 => {
                let early = [field(":status", "103"), noise_field(random)];
                writer.headers(random, id, &early, false, None);
            }
            1..4 => {
                let code = self.status_field(random, status, &mut fields);
                let happening = Happening::Answered { stream: id, code };
                writer.headers(random, id, &fields, true, Some(happening));
                self.over[SERVER] = true;
            }
            _ => {
                fields.push(field("content-type", "application/grpc"));
                fields.push(noise_field(random));
                writer.headers(random, id, &fields, false, None);
                self.status = Some(status);
            }
        }
    }

    fn go_on(&mut self, random: &mut Random, writer: &mut Writer, id: u32, status: u16) {
        let more = self.responses > 0 || !self.answer.is_empty();
        if more && random.chance(950) {
            push_some(random, self.method, &mut self.responses, &mut self.answer);
            writer.data(random, id, false, &mut self.answer, None);
            return;
        }
        self.over[SERVER] = true;
        if random.chance(50) && self.answer.fits() {
            let happening = Happening::Answered { stream: id, code: code_of_http(status) };
            writer.data(random, id, false, &mut self.answer, Some(happening));
        } else {
            let mut fields = vec![noise_field(random)];
            let code = self.status_field(random, status, &mut fields);
            let happening = Happening::Answered { stream: id, code };
            writer.headers(random, id, &fields, true, Some(happening));
        }
        if random.chance(100) {
            // As servers do if they do not want the rest of the request.
            writer.reset(id, false, 0);
        }
    }

    /// Adds a `grpc-status`, or not; returns the code that the call gets.
    fn status_field(&self, random: &mut Random, status: u16, fields: &mut Vec<Field>) -> usize {
        let mut add = |text: &str| fields.push(field("grpc-status", text));
        match random.below(40) {
            0 => code_of_http(status),
            1 => {
                add("99");
                UNKNOWN
            }
            2 => {
                add("failed");
                UNKNOWN
            }
            3..30 if self.may_succeed() => {
                add("0");
                0
            }
            _ => {
                let code = 1 + random.below(16);
                add(&code.to_string());
                fields.push(field("grpc-message", "what%20went%20wrong"));
                code
            }
        }
    }
}

/// Sends some of the messages that are left.
fn push_some(random: &mut Random, method: usize, left: &mut usize, outgoing: &mut Outgoing) {
    if *left == 0 || !(outgoing.is_empty() || random.chance(200)) {
        return;
    }
    for _ in 0..=random.below(*left) {
        *left -= 1;
        match METHODS[method].1 {
            Some(_) => outgoing.push(random),
            None => outgoing.push_other(random),
        }
    }
}

fn request_fields(
    random: &mut Random,
    path: &str,
    grpc: bool,
    timeout_ms: Option<u64>,
) -> Vec<Field> {
    let mut fields = vec![
        field(":method", if grpc { "POST" } else { "GET" }),
        field(":scheme", "http"),
        field(":path", path),
        field(":authority", "localhost:50051"),
    ];
    if grpc {
        let content_types = ["application/grpc", "application/grpc+proto"];
        fields.push(field("content-type", random.pick(&content_types)));
        fields.push(field("te", "trailers"));
    } else if random.chance(500) {
        fields.push(field("content-type", "application/json"));
    }
    if let Some(ms) = timeout_ms {
        fields.push(field("grpc-timeout", &format!("{ms}m")));
    }
    fields.push(field("user-agent", "simulator/1.0"));
    while random.chance(300) {
        fields.push(noise_field(random));
    }
    fields
}

/// A field that fills header tables, and sometimes frames and records.
fn noise_field(random: &mut Random) -> Field {
    let length = match random.below(300) {
        0 => 40_000,
        1..6 => 5_000,
        _ => random.below(80),
    };
    let mut value = random.below(5).to_string();
    value.extend(std::iter::repeat_n('v', length));
    (format!("x-{}", random.below(5)).into_bytes(), value.into_bytes())
}

fn field(name: &str, value: &str) -> Field {
    (name.as_bytes().to_vec(), value.as_bytes().to_vec())
}

//! The driver over bytes, and the same bytes read straightforwardly. For the fuzz targets, too.

use std::collections::HashMap;

use observer_common::{
    driver::connection::{Connection, DirectionState, Shared, protocol, state},
    frame::{FrameHeader, flag, kind},
    record::{DataItem, ItemHeader, RecordHeader, TAIL_PART, data_flag, direction, item_kind},
    scanner::{MAX_KEPT, Scanner, web::Tail},
    sync::FrameSync,
};
use zerocopy::FromBytes as _;

use super::{
    host::{Host, Maps, Transfer},
    random::Random,
};

/// A server's connection, from its first bytes on.
pub struct Driver {
    /// What it remembers of messages.
    pub maps: Maps,
    /// Both directions.
    pub connection: Connection,
    /// It did not begin with the client preface, or there was no frame where one was to be.
    pub refused: bool,
    /// What was found in what this process reads.
    pub seen: Vec<Seen>,
}

/// What was found, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A frame that is kept, and its payload.
    Kept(FrameHeader, Vec<u8>),
    /// What ended in DATA frames of a stream, with nothing in between.
    Data(Data),
    /// The tail of a body, its stream, and its bytes.
    Tail(u32, Tail, Vec<u8>),
    /// The head of an HTTP/1.1 message, and its number.
    Head(u32, Vec<u8>),
}

/// What ended in DATA frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// The stream.
    pub stream: u32,
    /// How many messages.
    pub messages: u64,
    /// How long they were.
    pub bytes: u64,
    /// The stream.
    pub ends: bool,
    /// They are not framed as messages, or no longer.
    pub unaligned: bool,
}

impl Driver {
    /// Both directions begin there.
    pub fn new(scanner: Scanner) -> Self {
        let shared = Shared { id: 1, state: state::WATCHED, ..Shared::default() };
        let directions = [DirectionState::new(scanner, FrameSync::default()); 2];
        let connection = Connection { shared, directions };
        let maps = Maps::new(Random::new(0), [0; 2]);
        Self { maps, connection, refused: false, seen: Vec::new() }
    }

    /// An HTTP/1.1 connection, which reads responses, or else requests.
    pub fn of_http1(reads_responses: bool) -> Self {
        let mut driver = Self::new(Scanner::at_request());
        let one = usize::from(!reads_responses);
        driver.connection.directions[one].scanner = Scanner::at_response();
        driver.connection.shared.protocol = protocol::HTTP1;
        driver.maps.http1 = true;
        driver
    }

    /// The process reads these bytes at once.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.transfer(direction::RECEIVED, bytes);
    }

    /// What one transfer moved. Returns the records about it.
    pub fn transfer(&mut self, way: u8, bytes: &[u8]) -> Vec<Vec<u8>> {
        if self.refused {
            return Vec::new();
        }
        let sent = way == direction::SENT;
        let transfer =
            Transfer { sock: 1, sent, pid: 1, comm: [0; 16], time_ns: 1, buffers: &[bytes] };
        let (_, scratch) = Host::new(&transfer, &mut self.maps).walk(&mut self.connection);
        self.refused = !scratch.host.lost.is_empty();
        let records: Vec<_> = self.maps.ring.drain(..).collect();
        for record in records.iter().filter(|_| !sent) {
            self.see(&record[size_of::<RecordHeader>()..]);
        }
        records
    }

    fn see(&mut self, mut items: &[u8]) {
        while let Ok((item, rest)) = ItemHeader::read_from_prefix(items) {
            let ItemHeader { kind, frame_kind, flags, stream, length, captured, .. } = item;
            let content = &rest[..captured as usize];
            items = &rest[content.len().next_multiple_of(8)..];
            match (kind, self.seen.last_mut()) {
                (item_kind::FRAME, _) => {
                    let kind = frame_kind;
                    let header = FrameHeader { length, stream, kind, flags, ..Default::default() };
                    self.seen.push(Seen::Kept(header, content.to_vec()));
                }
                (item_kind::PART, Some(Seen::Kept(_, payload) | Seen::Head(_, payload))) => {
                    payload.extend(content);
                }
                (item_kind::HEAD, _) => self.seen.push(Seen::Head(stream, content.to_vec())),
                (item_kind::DATA, _) => {
                    let Ok(DataItem { message_bytes: bytes, messages }) =
                        DataItem::read_from_bytes(content)
                    else {
                        panic!("{item:?}");
                    };
                    let has = |flag| flags & flag != 0;
                    let (ends, unaligned) = (has(data_flag::END_STREAM), has(data_flag::UNALIGNED));
                    add(&mut self.seen, Data { stream, messages, bytes, ends, unaligned });
                }
                (item_kind::TAIL, _) => self.see_tail(item, content),
                (item_kind::OPEN | item_kind::GAP, _) => {}
                _ => panic!("{item:?}"),
            }
        }
    }
}

impl Driver {
    fn see_tail(&mut self, item: ItemHeader, content: &[u8]) {
        let ItemHeader { frame_kind, flags, stream, length, .. } = item;
        let tail = Tail { flags: frame_kind & !TAIL_PART, text: flags, length };
        if frame_kind & TAIL_PART == 0 {
            self.seen.push(Seen::Tail(stream, tail, content.to_vec()));
            return;
        }
        let of_stream = |seen: &&mut Seen| matches!(seen, Seen::Tail(of, ..) if *of == stream);
        if let Some(Seen::Tail(_, _, bytes)) = self.seen.iter_mut().rev().find(of_stream) {
            bytes.extend(content);
        }
    }
}

/// Adds what ended in a DATA frame, or in several.
fn add(seen: &mut Vec<Seen>, more: Data) {
    match seen.last_mut() {
        Some(Seen::Data(data)) if data.stream == more.stream => {
            data.messages += more.messages;
            data.bytes += more.bytes;
            data.ends |= more.ends;
            data.unaligned |= more.unaligned;
        }
        _ if more.messages != 0 || more.ends || more.unaligned => seen.push(Seen::Data(more)),
        _ => {}
    }
}

/// What bytes hold, read from all of them at once.
pub fn reference(mut bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    // Per stream, the bytes of its messages that are not whole; `None` once they are not framed as messages.
    let mut streams: HashMap<u32, Option<Vec<u8>>> = HashMap::new();
    let mut resets = Shared::default();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let header = FrameHeader::parse(*head);
        let (payload, rest) = rest.split_at(rest.len().min(header.length as usize));
        bytes = rest;
        match header.kind {
            kind::DATA if !resets.is_reset(header.stream) => {
                add(&mut seen, data(header, payload, &mut streams));
            }
            0x1 | 0x3 | 0x4 | 0x5 | 0x7 | 0x9 => {
                let kept = payload[..payload.len().min(MAX_KEPT as usize)].to_vec();
                seen.push(Seen::Kept(header, kept));
            }
            _ => {}
        }
        if header.kind == kind::RST_STREAM && payload.len() == header.length as usize {
            let _ = resets.reset(header.stream);
            streams.remove(&header.stream);
        }
    }
    seen
}

fn data(header: FrameHeader, payload: &[u8], streams: &mut HashMap<u32, Option<Vec<u8>>>) -> Data {
    let is_whole = payload.len() == header.length as usize;
    let payload = match payload.split_first() {
        Some((padding, rest)) if header.has(flag::PADDED) => {
            let length = header.length as usize - 1;
            &rest[..rest.len().min(length - usize::from(*padding).min(length))]
        }
        _ => payload,
    };
    let mut lengths = Vec::new();
    let state = streams.entry(header.stream).or_insert_with(|| Some(Vec::new()));
    // Stream 0 has no messages.
    let is_framed = match state {
        Some(begun) if header.stream != 0 => {
            begun.extend_from_slice(payload);
            take_messages(begun, &mut lengths)
        }
        _ => false,
    };
    if !is_framed {
        *state = None;
    }
    let ends = is_whole && header.has(flag::END_STREAM);
    if ends {
        streams.remove(&header.stream);
    }
    Data {
        stream: header.stream,
        messages: lengths.len() as u64,
        bytes: lengths.iter().map(|&length| u64::from(length)).sum(),
        ends,
        unaligned: is_whole && !is_framed,
    }
}

/// Takes the messages that are whole out of what came of a stream. Whether all of it is messages.
pub fn take_messages(bytes: &mut Vec<u8>, messages: &mut Vec<u32>) -> bool {
    let mut at = 0;
    while let Some([compressed, length @ ..]) = bytes[at..].first_chunk::<5>() {
        if *compressed > 1 {
            return false;
        }
        let length = u32::from_be_bytes(*length);
        if (bytes.len() - at - 5) < length as usize {
            break;
        }
        messages.push(length);
        at += 5 + length as usize;
    }
    bytes.drain(..at);
    true
}

/// A reading of HTTP/1.1 messages.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// What was found: heads that are complete, and what ended in bodies.
    pub seen: Vec<Seen>,
    /// Whether all of it may be followed; `None` if the bytes end in a line, which may not be complete.
    pub is_valid: Option<bool>,
}

/// What was found in HTTP/1.1 messages, as a [`Reading`] has it: without heads that are not complete, and with what ended in
/// bodies of one message together, because records end with transfers.
pub fn whole(seen: Vec<Seen>) -> Vec<Seen> {
    let mut all: Vec<Seen> = Vec::new();
    for seen in seen {
        match (all.last_mut(), seen) {
            (Some(Seen::Data(data)), Seen::Data(more)) if data.stream == more.stream => {
                data.messages += more.messages;
                data.bytes += more.bytes;
                data.ends |= more.ends;
                data.unaligned |= more.unaligned;
            }
            (_, Seen::Head(stream, head)) => {
                let is_started = head.len() > 12 && !head[..12].contains(&b'\n');
                let is_whole = head.ends_with(b"\n\n") || head.ends_with(b"\n\r\n");
                if is_started && is_whole {
                    all.push(Seen::Head(stream, head));
                }
            }
            (_, seen) => all.push(seen),
        }
    }
    all
}

/// What the bytes of HTTP/1.1 requests or responses hold, read from all of them at once.
pub fn reference_http1(bytes: &[u8], are_responses: bool) -> Reading {
    let mut reader = Reader { rest: bytes, seen: Vec::new(), streams: HashMap::new(), heads: 0 };
    let mut stream = 1;
    let is_valid = loop {
        match reader.message(stream, are_responses) {
            Ok(Step::Final) => stream += 2,
            Ok(Step::Informational) => {}
            Err(end) => break end,
        }
    };
    Reading { seen: reader.seen, is_valid }
}

struct Reader<'a> {
    rest: &'a [u8],
    seen: Vec<Seen>,
    streams: HashMap<u32, Option<Vec<u8>>>,
    /// Number of HEAD requests.
    heads: usize,
}

enum Step {
    Final,
    Informational,
}

/// The end of a reading: [`Reading::is_valid`].
type End = Option<bool>;

impl<'a> Reader<'a> {
    /// The next line, without its end.
    fn line(&mut self) -> Result<&'a [u8], End> {
        let Some(at) = self.rest.iter().position(|octet| *octet == b'\n') else {
            return Err(self.rest.is_empty().then_some(true));
        };
        let (line, rest) = self.rest.split_at(at);
        self.rest = &rest[1..];
        Ok(line)
    }

    fn message(&mut self, stream: u32, is_response: bool) -> Result<Step, End> {
        let begin = self.rest;
        let [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11] =
            *begin.first_chunk::<12>().ok_or(begin.is_empty().then_some(true))?;
        let start = [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11];
        let status: Option<u16> = start.strip_prefix(b"HTTP/1.").and_then(|rest| match rest {
            [_, b' ', code @ ..] if code.iter().all(u8::is_ascii_digit) => {
                str::from_utf8(code).ok()?.parse().ok()
            }
            _ => None,
        });
        let is_bad = if is_response {
            status.is_none_or(|status| status == 101)
        } else {
            start.starts_with(b"CONNECT ")
        };
        if start.contains(&b'\n') || is_bad {
            return Err(Some(false));
        }
        let fields = self.head(begin, is_response)?;
        self.seen.push(Seen::Head(stream, begin[..begin.len() - self.rest.len()].to_vec()));
        let is_head = !is_response && start.starts_with(b"HEAD ");
        self.heads += usize::from(is_head);
        if self.heads > 8 {
            return Err(Some(false));
        }
        let Fields { length, chunked, .. } = fields;
        match (status, length, chunked) {
            (Some(100..=199), ..) if is_response => return Ok(Step::Informational),
            (Some(204 | 304), ..) if is_response => self.over(stream),
            (_, None, true) => {
                while let Some(length) = self.chunk()? {
                    self.part(stream, length, 0, is_head)?;
                    if !matches!(self.line_end()?, b"" | b"\r") {
                        return Err(Some(false));
                    }
                }
                loop {
                    // A CR alone does not end a line (§2.2).
                    if matches!(self.rest, [b'\r', next, ..] if *next != b'\n') {
                        return Err(Some(false));
                    }
                    if matches!(self.line()?, b"" | b"\r") {
                        break;
                    }
                }
                self.over(stream);
            }
            (_, Some(1..), false) => {
                self.part(stream, length.unwrap_or(0), flag::END_STREAM, is_head)?;
            }
            (_, Some(0), false) => self.over(stream),
            (_, None, false) if !is_response => self.over(stream),
            _ => return Err(Some(false)),
        }
        Ok(Step::Final)
    }

    /// The line end after a chunk. Another byte shows at once that there is none.
    fn line_end(&mut self) -> Result<&'a [u8], End> {
        match self.rest {
            [] | [b'\r'] => Err(self.rest.is_empty().then_some(true)),
            [b'\n', ..] | [b'\r', b'\n', ..] => self.line(),
            _ => Err(Some(false)),
        }
    }

    /// The fields of a head, whose end must not be too far away.
    fn head(&mut self, begin: &[u8], is_response: bool) -> Result<Fields, End> {
        let mut fields = Fields::default();
        let taken = |rest: &[u8]| begin.len() - rest.len();
        self.line().map_err(|end| if begin.len() > 1 << 16 { Some(false) } else { end })?;
        loop {
            if matches!(self.rest, [b' ' | b'\t', ..]) {
                return Err(Some(false));
            }
            let line = match self.line() {
                Ok(line) => line,
                Err(_) if begin.len() > 1 << 16 => return Err(Some(false)),
                // At once, if it is clear.
                Err(_) if self.rest.is_empty() => return Err(Some(true)),
                Err(end) => return Err(end),
            };
            if taken(self.rest) > (1 << 16) + 1 {
                return Err(Some(false));
            }
            if matches!(line, b"" | b"\r") {
                return Ok(fields);
            }
            if line.first() == Some(&b'\r') || !fields.add(line) {
                return Err(Some(false));
            }
            if fields.upgrade && !is_response {
                return Err(Some(false));
            }
        }
    }

    /// The size of a chunk; `None` for the last one.
    fn chunk(&mut self) -> Result<Option<u32>, End> {
        let is_digit = |octet: &u8| octet.is_ascii_hexdigit();
        let digits = self.rest.iter().take_while(|octet| is_digit(octet)).count();
        if digits > 8 {
            return Err(Some(false));
        }
        match self.rest.get(digits) {
            None => return Err(if digits == 0 { Some(true) } else { None }),
            Some(b'\r' | b'\n' | b';' | b' ' | b'\t') if digits > 0 => {}
            Some(_) => return Err(Some(false)),
        }
        let line = self.line()?;
        let size = str::from_utf8(&line[..digits]).unwrap_or_default();
        Ok(u32::from_str_radix(size, 16).ok().filter(|size| *size > 0))
    }

    /// A part of a body.
    fn part(&mut self, stream: u32, length: u32, flags: u8, is_head: bool) -> Result<(), End> {
        let (payload, rest) = self.rest.split_at(self.rest.len().min(length as usize));
        self.rest = rest;
        let header = FrameHeader { length, stream, kind: kind::DATA, flags, _reserved: 0 };
        if !payload.is_empty() && !is_head {
            add(&mut self.seen, data(header, payload, &mut self.streams));
        }
        if payload.len() < length as usize { Err(Some(true)) } else { Ok(()) }
    }

    /// A message ends without a part of its body.
    fn over(&mut self, stream: u32) {
        self.streams.remove(&stream);
        add(&mut self.seen, Data { stream, ends: true, ..Data::default() });
    }
}

/// The fields of a head that matter.
#[derive(Default)]
struct Fields {
    length: Option<u32>,
    chunked: bool,
    upgrade: bool,
}

impl Fields {
    /// Adds a line. Returns false if it is not clear.
    fn add(&mut self, line: &[u8]) -> bool {
        const NAMES: [&str; 3] = ["content-length", "transfer-encoding", "upgrade"];
        let text: String = line.iter().map(|octet| char::from(*octet)).collect();
        let name = NAMES.into_iter().find(|name| {
            text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
        });
        let Some(name) = name else { return true };
        let after = &text[name.len()..];
        if after.starts_with([' ', '\t']) {
            return false;
        }
        let Some(value) = after.strip_prefix(':') else { return true };
        let value = value.trim_matches([' ', '\t', '\r']);
        match name {
            "content-length" => {
                let is_number =
                    !value.is_empty() && value.bytes().all(|octet| octet.is_ascii_digit());
                let length: Option<u32> = value.parse().ok().filter(|_| is_number);
                let is_clear =
                    length.is_some_and(|length| self.length.is_none_or(|of| of == length));
                self.length = length;
                is_clear
            }
            "transfer-encoding" => {
                let is_clear = value.eq_ignore_ascii_case("chunked") && !self.chunked;
                self.chunked = true;
                is_clear
            }
            _ => {
                self.upgrade = true;
                true
            }
        }
    }
}

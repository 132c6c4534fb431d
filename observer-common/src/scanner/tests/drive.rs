//! The driver over bytes, and the same bytes read straightforwardly. For the fuzz targets, too.

use std::collections::HashMap;

use observer_common::{
    driver::connection::{Connection, DirectionState, Shared, state},
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
                (item_kind::PART, Some(Seen::Kept(_, payload))) => payload.extend(content),
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

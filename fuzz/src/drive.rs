//! The BPF programs' driver, over bytes: what it finds in them, and the records that tell of it.

use observer_common::driver::connection::{Connection, DirectionState, Shared, state};
use observer_common::frame::FrameHeader;
use observer_common::record::direction;
use observer_common::scanner::Scanner;
use observer_common::sync::FrameSync;
use observer_core::record::{Event, Item, Record};

use crate::host::{Host, Maps, Transfer};
use crate::random::Random;

/// A connection, from its first bytes on.
pub struct Driver {
    maps: Maps,
    connection: Connection,
    /// It did not begin with the client preface.
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
    pub fn new(scanner: Scanner, role: u8) -> Self {
        let shared = Shared { id: 1, state: state::WATCHED, role, ..Shared::default() };
        let directions = [DirectionState::new(scanner, FrameSync::default()); 2];
        let connection = Connection { shared, directions };
        let maps = Maps::new(Random::new(0), [0; 2]);
        Self { maps, connection, refused: false, seen: Vec::new() }
    }

    /// What one transfer moved. Returns the records that tell of it.
    pub fn feed(&mut self, way: u8, bytes: &[u8]) -> Vec<Vec<u8>> {
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
            let Some(Record { event: Event::Bytes(bytes), .. }) = Record::parse(record) else {
                panic!("a record of something else");
            };
            bytes.items.for_each(|item| self.see(item));
        }
        records
    }

    fn see(&mut self, item: Item<'_>) {
        match (item, self.seen.last_mut()) {
            (Item::Frame { header, payload }, _) => {
                self.seen.push(Seen::Kept(header, payload.to_vec()));
            }
            (Item::Part(more), Some(Seen::Kept(_, payload))) => payload.extend(more),
            (Item::Data(data), _) => add(
                &mut self.seen,
                Data {
                    stream: data.stream,
                    messages: data.messages,
                    bytes: data.message_bytes,
                    ends: data.end_stream,
                    unaligned: data.unaligned,
                },
            ),
            (Item::Open(_), _) => {}
            (other, _) => panic!("{other:?}"),
        }
    }
}

/// Adds what ended in a DATA frame, or in several.
pub fn add(seen: &mut Vec<Seen>, more: Data) {
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

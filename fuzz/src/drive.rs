//! Drives a scanner over bytes, as the kernel programs drive it over a process's buffers, and
//! writes the records that they would.

use std::collections::HashMap;

use observer_common::frame::{FrameHeader, flag, kind};
use observer_common::record::{data_flag, item_kind};
use observer_common::scanner::{Message, OVERRUN, Scanner, Take, event};

/// One direction of a connection.
pub struct Direction {
    scanner: Scanner,
    unfinished: HashMap<u32, Message>,
    /// The frames so far, of which the last may not be complete.
    pub frames: Vec<Frame>,
    /// Bytes so far.
    pub position: u64,
    /// It did not begin with the client preface.
    pub refused: bool,
}

/// What was found in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: FrameHeader,
    /// Its payload, if it is kept.
    pub kept: Vec<u8>,
    /// The lengths of the messages that ended in it.
    pub messages: Vec<u32>,
    /// Its stream is not framed as messages, or no longer.
    pub unaligned: bool,
    /// It is complete.
    pub ended: bool,
}

impl Direction {
    /// From the first byte on.
    pub fn new(scanner: Scanner) -> Self {
        let (unfinished, frames) = (HashMap::new(), Vec::new());
        Self { scanner, unfinished, frames, position: 0, refused: false }
    }

    /// What one call moved; and the items of the record that tells of it.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut items = Items::default();
        self.position += bytes.len() as u64;
        while !bytes.is_empty() && !self.refused {
            let want = self.scanner.want();
            assert!(want.length > 0, "{:?} wants nothing", self.scanner);
            let (taken, rest) = bytes.split_at(bytes.len().min(want.length as usize));
            match want.take {
                Take::Read => {
                    let at = want.at as usize;
                    self.scanner.buffer[at..at + OVERRUN].fill(0xa5);
                    self.scanner.buffer[at..at + taken.len()].copy_from_slice(taken);
                }
                Take::Copy => {
                    let frame = self.frames.last_mut().expect("a frame has begun");
                    items.part(frame, taken);
                    frame.kept.extend_from_slice(taken);
                }
                Take::Skip => {}
            }
            let events = self.scanner.took(want, taken.len() as u32);
            self.on(events, &mut items);
            bytes = rest;
        }
        items.0
    }

    fn on(&mut self, events: u32, items: &mut Items) {
        self.refused = events & event::NOT_PREFACE != 0;
        let header = self.scanner.frame();
        if events & event::FRAME_BEGIN != 0 {
            assert!(self.frames.last().is_none_or(|frame| frame.ended), "two frames at once");
            self.frames.push(Frame {
                header,
                kept: Vec::new(),
                messages: Vec::new(),
                unaligned: false,
                ended: false,
            });
            if header.kind == kind::DATA
                && let Some(message) = self.unfinished.remove(&header.stream)
            {
                self.scanner.resume(&message);
            }
            if header.is_kept() {
                items.frame(header);
            }
        }
        let Some(frame) = self.frames.last_mut() else { return };
        if events & event::MESSAGE_END != 0 {
            frame.messages.push(self.scanner.message_length());
        }
        if events & event::FRAME_END != 0 {
            assert!(!frame.ended, "a frame ends once");
            frame.ended = true;
            if header.kind == kind::DATA {
                frame.unaligned = self.scanner.is_unaligned();
                items.data(frame);
                if let Some(message) = self.scanner.unfinished()
                    && !header.has(flag::END_STREAM)
                {
                    self.unfinished.insert(header.stream, message);
                }
            }
        }
    }
}

/// Items of a record (`observer_common::record`).
#[derive(Default)]
struct Items(Vec<u8>);

impl Items {
    fn item(&mut self, kinds: [u8; 3], stream: u32, length: u32, content: &[u8]) {
        self.0.extend(kinds);
        self.0.push(0);
        for field in [stream, length, content.len() as u32] {
            self.0.extend(field.to_ne_bytes());
        }
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }

    fn frame(&mut self, header: FrameHeader) {
        let FrameHeader { kind, flags, stream, length, .. } = header;
        self.item([item_kind::FRAME, kind, flags], stream, length, &[]);
    }

    fn part(&mut self, frame: &Frame, payload: &[u8]) {
        let FrameHeader { kind, flags, stream, length, .. } = frame.header;
        self.item([item_kind::PART, kind, flags], stream, length, payload);
    }

    fn data(&mut self, frame: &Frame) {
        let mut flags = 0;
        if frame.header.has(flag::END_STREAM) {
            flags |= data_flag::END_STREAM;
        }
        if frame.unaligned {
            flags |= data_flag::UNALIGNED;
        }
        let bytes: u64 = frame.messages.iter().map(|&length| u64::from(length)).sum();
        let sums = [bytes.to_ne_bytes(), (frame.messages.len() as u64).to_ne_bytes()].concat();
        self.item([item_kind::DATA, 0, flags], frame.header.stream, 0, &sums);
    }
}

/// A record of bytes.
pub struct Bytes {
    /// The connection.
    pub connection: u64,
    /// Kernel's clock.
    pub time_ns: u64,
    /// Where in the stream.
    pub position: u64,
    /// How many.
    pub length: u64,
    /// `observer_common::record::direction`.
    pub direction: u8,
    /// `observer_common::record::role`.
    pub role: u8,
}

impl Bytes {
    /// As the kernel programs write it.
    pub fn record(&self, kind: u8, items: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        for field in [self.connection, self.time_ns, self.position, self.length] {
            record.extend(field.to_ne_bytes());
        }
        record.extend(1_u32.to_ne_bytes());
        record.extend([kind, self.direction, self.role, 0]);
        record.extend(items);
        record
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

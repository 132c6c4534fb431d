//! The scanner against a straightforward reading of the same bytes, cut in every way.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{MAX_KEPT, Message, OVERRUN, Scanner, Take, event};
use crate::frame::{FrameHeader, PREFACE, flag, kind};

/// What one frame was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    header: FrameHeader,
    /// Payload, of a frame that is kept.
    kept: Vec<u8>,
    /// Lengths of the messages that ended in it; `None` if it is not framed as messages.
    messages: Option<Vec<u32>>,
}

/// Drives a scanner over slices, as the kernel programs drive it over a process's buffers.
struct Driver {
    scanner: Scanner,
    unfinished: HashMap<u32, Message>,
    seen: Vec<Seen>,
    open: bool,
    refused: bool,
}

impl Driver {
    fn new(scanner: Scanner) -> Self {
        Self { scanner, unfinished: HashMap::new(), seen: Vec::new(), open: false, refused: false }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.refused {
            let want = self.scanner.want();
            assert!(want.length > 0, "{:?} wants nothing", self.scanner);
            let n = bytes.len().min(want.length as usize);
            let (taken, rest) = bytes.split_at(n);
            match want.take {
                Take::Read => {
                    let at = want.at as usize;
                    self.scanner.buffer[at..at + OVERRUN].fill(0xa5);
                    self.scanner.buffer[at..at + n].copy_from_slice(taken);
                }
                Take::Copy => self.seen.last_mut().unwrap().kept.extend_from_slice(taken),
                Take::Skip => {}
            }
            let events = self.scanner.took(want, n as u32);
            self.on(events);
            bytes = rest;
        }
    }

    /// Bytes of a frame's payload go by unseen.
    fn miss(&mut self, n: usize) {
        let events = self.scanner.missed(n as u64).unwrap();
        self.on(events);
    }

    fn on(&mut self, events: u32) {
        self.refused = events & (event::NOT_PREFACE | event::NOT_FRAME) != 0;
        let stream = self.scanner.frame().stream;
        if events & event::FRAME_BEGIN != 0 {
            let header = self.scanner.frame();
            self.seen.push(Seen { header, kept: Vec::new(), messages: Some(Vec::new()) });
            self.open = true;
            if header.kind == kind::DATA
                && let Some(message) = self.unfinished.remove(&stream)
            {
                self.scanner.resume(&message);
            }
        }
        if events & event::MESSAGE_END != 0 {
            let messages = self.seen.last_mut().unwrap().messages.as_mut().unwrap();
            messages.push(self.scanner.message_length());
        }
        if events & event::FRAME_END != 0 {
            assert!(self.open, "a frame ends once");
            self.open = false;
            let header = self.scanner.frame();
            if header.kind == kind::DATA {
                if self.scanner.is_unaligned() {
                    self.seen.last_mut().unwrap().messages = None;
                }
                if let Some(message) = self.scanner.unfinished()
                    && !header.has(flag::END_STREAM)
                {
                    self.unfinished.insert(stream, message);
                }
            }
        }
    }
}

/// The same, read from the whole stream at once.
fn reference(mut bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    // Per stream: all message-framed bytes so far, and how many messages were found in them.
    let mut streams: HashMap<u32, (Vec<u8>, usize)> = HashMap::new();
    while bytes.len() >= 9 {
        let header = FrameHeader::parse(bytes[..9].try_into().unwrap());
        let payload = &bytes[9..9 + header.length as usize];
        bytes = &bytes[9 + payload.len()..];
        let mut entry = Seen { header, kept: Vec::new(), messages: Some(Vec::new()) };
        match header.kind {
            0x1 | 0x3 | 0x4 | 0x5 | 0x7 | 0x9 => entry.kept = payload.to_vec(),
            0x0 => {
                let data = if header.flags & 0x8 != 0 && !payload.is_empty() {
                    let pad = (payload[0] as usize).min(payload.len() - 1);
                    &payload[1..payload.len() - pad]
                } else {
                    payload
                };
                let (stream, found) = streams.entry(header.stream).or_default();
                stream.extend_from_slice(data);
                let messages = messages_of(stream);
                entry.messages = messages.map(|all| {
                    let new = all[*found..].to_vec();
                    *found = all.len();
                    new
                });
                if header.flags & 0x1 != 0 {
                    streams.remove(&header.stream);
                }
            }
            _ => {}
        }
        seen.push(entry);
    }
    seen
}

/// Lengths of the whole messages in a stream's bytes; `None` once a compressed flag is not 0 or 1.
fn messages_of(mut bytes: &[u8]) -> Option<Vec<u32>> {
    let mut lengths = Vec::new();
    loop {
        if bytes.len() < 5 {
            return Some(lengths);
        }
        if bytes[0] > 1 {
            return None;
        }
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
        let end = 5 + length as usize;
        if bytes.len() < end {
            return Some(lengths);
        }
        lengths.push(length);
        bytes = &bytes[end..];
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn message(length: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend(std::iter::repeat_n(0xaa, length));
    bytes
}

/// Every kind of frame and framing that there is, in one stream.
fn sample() -> Vec<u8> {
    let two = [message(3), message(0)].concat();
    let long = message(300);
    [
        frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
        frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x82; 40]),
        frame(kind::DATA, 0, 1, &two),
        frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
        frame(kind::DATA, 0, 1, &long[..2]),
        frame(kind::HEADERS, 0, 3, &[0x83; 10]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 3, &[0x84; 7]),
        frame(kind::DATA, flag::PADDED, 1, &[&[4][..], &long[2..100], &[0; 4]].concat()),
        frame(kind::DATA, flag::END_STREAM, 3, &message(1)),
        frame(kind::DATA, 0, 1, &[]),
        frame(kind::DATA, flag::PADDED, 1, &[0]),
        frame(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0]),
        frame(0x42, 0xff, 1, &[9; 20]),
        frame(kind::DATA, flag::END_STREAM, 1, &[&long[100..], &message(2)[..]].concat()),
        frame(kind::DATA, 0, 5, b"not gRPC at all"),
        frame(kind::DATA, flag::END_STREAM, 5, b"\0\0\0\0\0still not"),
        frame(kind::RST_STREAM, 0, 7, &[0, 0, 0, 8]),
        frame(kind::DATA, flag::PADDED | flag::END_STREAM, 9, &[200, 1, 2]),
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(kind::GOAWAY, 0, 0, &[0; 8]),
    ]
    .concat()
}

#[test]
fn cut_anywhere_it_sees_the_same() {
    let bytes = sample();
    let expected = reference(&bytes);
    assert_eq!(expected.len(), 21);
    for cut in 0..=bytes.len() {
        let mut driver = Driver::new(Scanner::at_frame());
        driver.feed(&bytes[..cut]);
        driver.feed(&bytes[cut..]);
        assert_eq!(driver.seen, expected, "cut at {cut}");
    }
    let mut driver = Driver::new(Scanner::at_frame());
    for byte in bytes.chunks(1) {
        driver.feed(byte);
    }
    assert_eq!(driver.seen, expected, "byte by byte");
    assert!(driver.unfinished.is_empty());
}

#[test]
fn preface_cut_anywhere() {
    let stream = [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, &[])].concat();
    for cut in 0..=stream.len() {
        let mut driver = Driver::new(Scanner::at_preface());
        driver.feed(&stream[..cut]);
        driver.feed(&stream[cut..]);
        assert!(!driver.refused);
        assert_eq!(driver.seen.len(), 1, "cut at {cut}");
    }
}

#[test]
fn frames_follow_the_response_to_an_upgrade() {
    let response =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: \r\r\n h\r\nUpgrade: h2c\r\n\r\n";
    let stream = [&response[..], &sample()].concat();
    for cut in 0..=response.len() + 9 {
        let mut driver = Driver::new(Scanner::at_upgrade());
        driver.feed(&stream[..cut]);
        driver.feed(&stream[cut..]);
        assert_eq!(driver.seen, reference(&sample()), "cut at {cut}");
    }
}

#[test]
fn a_wrong_preface_byte_is_found_at_once() {
    for wrong in 0..PREFACE.len() {
        let mut bytes = *PREFACE;
        bytes[wrong] ^= 0x20;
        let mut driver = Driver::new(Scanner::at_preface());
        for byte in bytes[..=wrong].chunks(1) {
            driver.feed(byte);
        }
        assert!(driver.refused, "byte {wrong}");
    }
}

#[test]
fn a_frame_too_long_to_keep_is_cut_off_and_the_next_one_found() {
    let long = MAX_KEPT as usize + 10;
    let bytes =
        [frame(kind::HEADERS, 0, 1, &vec![7; long]), frame(kind::RST_STREAM, 0, 1, &[0; 4])];
    let mut driver = Driver::new(Scanner::at_frame());
    for chunk in bytes.concat().chunks(70_000) {
        driver.feed(chunk);
    }
    assert_eq!(driver.seen.len(), 2);
    assert_eq!(driver.seen[0].kept.len(), MAX_KEPT as usize);
    assert_eq!(driver.seen[1].header.kind, kind::RST_STREAM);
    assert_eq!(driver.seen[1].kept.len(), 4);
}

#[test]
fn bytes_of_one_message_may_be_missed_and_nothing_is_lost() {
    let bytes = frame(kind::DATA, 0, 1, &message(100));
    for (from, to) in [(14, 114), (14, 113), (50, 114), (60, 60)] {
        let mut driver = at(&bytes, from);
        driver.miss(to - from);
        driver.feed(&bytes[to..]);
        assert_eq!(driver.seen, reference(&bytes), "{from}..{to}");
    }
}

#[test]
fn within_a_frame_only_its_messages_are_lost() {
    let bytes = [frame(kind::DATA, 0, 1, &[message(3), message(100)].concat()), ping()].concat();
    let data = bytes.len() - 17;
    for from in 9..data {
        for to in from + 1..=data {
            let mut driver = at(&bytes, from);
            driver.miss(to - from);
            driver.feed(&bytes[to..]);
            let mut expected = reference(&bytes);
            if driver.seen[0].messages.is_none() {
                expected[0].messages = None;
            }
            assert_eq!(driver.seen, expected, "{from}..{to}");
        }
    }
}

#[test]
fn a_frame_header_that_is_missed_leaves_no_boundary() {
    let bytes = [frame(kind::DATA, 0, 1, &message(100)), ping()].concat();
    for (from, to) in [(0, 1), (8, 9), (8, 30), (9, 115), (113, 115), (114, 115)] {
        assert_eq!(at(&bytes, from).scanner.missed((to - from) as u64), None, "{from}..{to}");
    }
}

#[test]
fn an_unproven_boundary_must_be_followed_by_frames_that_peers_send() {
    let frames = [
        frame(kind::SETTINGS, 0, 0, &[0; 12]),
        frame(kind::HEADERS, 0, 1, b"abc"),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"def"),
        frame(kind::DATA, 0, 1, &message(10)),
        ping(),
    ];
    let mut driver = Driver::new(Scanner::at_unproven_frame());
    driver.feed(&frames.concat());
    assert!(!driver.refused);
    assert_eq!(driver.seen, reference(&frames.concat()));
    for bad in [
        frame(kind::DATA, 0, 0, b""),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"def"),
        frame(0x20, 0, 1, b""),
    ] {
        let mut driver = Driver::new(Scanner::at_unproven_frame());
        driver.feed(&[&frames[0][..], &bad].concat());
        assert!(driver.refused, "{bad:?}");
        let legal = bad[3] == 0x20;
        let mut driver = Driver::new(Scanner::at_unproven_frame());
        driver.scanner.prove();
        driver.feed(&[&frames[0][..], &bad].concat());
        assert_eq!(driver.refused, !legal, "once the boundary is proven: {bad:?}");
    }
}

fn ping() -> Vec<u8> {
    frame(kind::PING, 0, 0, &[7; 8])
}

/// A driver that has been fed the bytes up to this one.
fn at(bytes: &[u8], position: usize) -> Driver {
    let mut driver = Driver::new(Scanner::at_frame());
    driver.feed(&bytes[..position]);
    driver
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop_oneof![Just(0_u8), Just(0), Just(1), Just(3), Just(9), 0..12_u8];
    let streams = prop_oneof![Just(1_u32), Just(3), Just(5)];
    let messages = prop::collection::vec(0..40_usize, 0..4)
        .prop_map(|lengths| lengths.into_iter().flat_map(message).collect::<Vec<_>>());
    let payload = prop_oneof![messages, prop::collection::vec(any::<u8>(), 0..60)];
    (kinds, any::<u8>(), streams, payload, 0..70_usize).prop_map(
        |(kind, flags, stream, mut payload, keep)| {
            payload.truncate(keep);
            frame(kind, flags, stream, &payload)
        },
    )
}

proptest! {
    #[test]
    fn any_frames_cut_at_random(
        frames in prop::collection::vec(any_frame(), 0..20),
        cuts in prop::collection::vec(1..50_usize, 1..10),
    ) {
        let bytes = frames.concat();
        let mut driver = Driver::new(Scanner::at_frame());
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            driver.feed(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        // A frame whose bytes end a message and then break the framing shows both; the reference
        // reads the whole frame first. What counts is that neither takes messages from the other.
        let expected = reference(&bytes);
        prop_assert_eq!(driver.seen.len(), expected.len());
        for (seen, expected) in driver.seen.iter().zip(&expected) {
            prop_assert_eq!(&seen.header, &expected.header);
            prop_assert_eq!(&seen.kept, &expected.kept);
            prop_assert_eq!(&seen.messages, &expected.messages);
        }
    }

    #[test]
    fn any_bytes_keep_it_going(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        Driver::new(Scanner::at_frame()).feed(&bytes);
        Driver::new(Scanner::at_preface()).feed(&bytes);
        Driver::new(Scanner::at_unproven_frame()).feed(&bytes);
    }
}

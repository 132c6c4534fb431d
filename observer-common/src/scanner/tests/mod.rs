//! The scanner and the driver against a straightforward reading of the same bytes, cut in every way.

use std::slice;

use proptest::prelude::*;
use zerocopy::FromBytes as _;

use super::{MAX_KEPT, Scanner};
use crate::{
    frame::{PREFACE, flag, kind},
    record::{ItemHeader, RecordHeader, direction, item_kind},
};

mod drive;
#[path = "../../../../tests/sim/host.rs"]
mod host;
mod http1;
#[path = "../../../../tests/sim/random.rs"]
#[expect(dead_code, reason = "a simulation asks it more")]
mod random;
mod web;

use drive::{Data, Driver, Seen, reference};

impl Driver {
    /// Bytes of a frame's payload are a gap.
    fn miss(&mut self, n: usize) {
        self.connection.direction(direction::RECEIVED).gap_bytes += n as u64;
    }

    fn scanner(&mut self) -> &mut Scanner {
        &mut self.connection.direction(direction::RECEIVED).scanner
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
    assert_eq!(expected.len(), 12);
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
    assert!(driver.maps.messages.is_empty());
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

/// PROXY headers, of version 1 and 2.
fn proxy_headers() -> Vec<Vec<u8>> {
    let binary = |command: u8, family: u8, addresses: usize| {
        let length = (addresses as u16).to_be_bytes();
        let head = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, family], &length].concat();
        // Addresses that look like what ends a header.
        [head, b"\r\n\r\n\0\r\nQUIT\nPRI".iter().copied().cycle().take(addresses).collect()]
            .concat()
    };
    vec![
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec(),
        b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
          65535 65535\r\n"
            .to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        binary(1, 0x11, 12),
        binary(1, 0x21, 36),
        binary(1, 0x31, 216),
        binary(1, 0x11, 12 + 700),
        binary(1, 0x11, 0xffff),
        binary(0, 0, 0),
    ]
}

const CONNECT: &[u8] = b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\nX: \r\r\n y\r\n\r\n";

/// Fed in two pieces, cut anywhere before the frames, it sees these frames and nothing else.
fn sees_frames_after(scanner: Scanner, before: &[u8], frames: &[u8]) {
    let stream = [before, frames].concat();
    // Long ones are cut where something is.
    let cuts = (0..=before.len()).filter(|&cut| cut < 300 || cut + 40 > before.len());
    for cut in cuts.chain(before.len()..=before.len() + 9) {
        let mut driver = Driver::new(scanner);
        driver.feed(&stream[..cut]);
        driver.feed(&stream[cut..]);
        assert_eq!(driver.seen, reference(frames), "cut at {cut}: {}", before.escape_ascii());
    }
    let mut driver = Driver::new(scanner);
    for byte in stream.chunks(1) {
        driver.feed(byte);
    }
    assert_eq!(driver.seen, reference(frames), "byte by byte: {}", before.escape_ascii());
}

/// Frames as a direction begins with.
fn first_frames() -> Vec<u8> {
    [frame(kind::SETTINGS, 0, 0, &[0; 6]), sample()].concat()
}

#[test]
fn the_preface_comes_after_a_proxy_header_or_a_tunnel_was_asked_for() {
    for before in proxy_headers().into_iter().chain([CONNECT.to_vec(), Vec::new()]) {
        let before = [&before, &PREFACE[..]].concat();
        sees_frames_after(Scanner::at_preface(), &before, &first_frames());
        sees_frames_after(Scanner::at_opening(), &before, &first_frames());
    }
    let twice = [&proxy_headers()[0], CONNECT, &proxy_headers()[4], PREFACE].concat();
    sees_frames_after(Scanner::at_preface(), &twice, &first_frames());
}

#[test]
fn frames_or_a_preface_follow_a_response_that_agrees() {
    for head in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: \r\r\n h\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 200 Connection established\r\n\r\n",
        "HTTP/1.0 200\r\n\r\n",
        "HTTP/1.1 299 \r\nVia: 1\r\n\r\n",
        "",
    ] {
        sees_frames_after(Scanner::at_opening(), head.as_bytes(), &first_frames());
        let preface = [head.as_bytes(), PREFACE].concat();
        sees_frames_after(Scanner::at_opening(), &preface, &first_frames());
    }
}

#[test]
fn what_comes_before_the_preface_is_bounded_and_must_be_right() {
    let long = |begin: &[u8], n| [begin, &vec![b'a'; n]].concat();
    for (bytes, http1) in [
        (long(b"PROXY TCP4 ", 107), false),
        (b"PROXY\r\n".to_vec(), false),
        (b"PROXIES ".to_vec(), false),
        (b"\r\n\r\n\0\r\nQUIT\n\x11\0\0\0".to_vec(), false),
        (b"\r\n\r\n\0\r\nQUOT\n\x21\0\0\0".to_vec(), false),
        (long(b"CONNECT ", 64 << 10), true),
        ([CONNECT, b"\x16\x03\x01"].concat(), true),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n".to_vec(), true),
        (b"HTTP/1.1 100 Continue\r\n".to_vec(), true),
        (long(b"HTTP/1.1 200 ", 64 << 10), true),
        (b"HTTP/2 ".to_vec(), false),
        (b"GET / HTTP/1.1\r\n".to_vec(), false),
        // As the first frame only SETTINGS will do.
        ([b"HTTP/1.1 200 \r\n\r\n", &frame(kind::PING, 0, 0, &[0; 8])[..]].concat(), true),
    ] {
        for piece in [1, 7, bytes.len()] {
            let mut driver = Driver::new(Scanner::at_opening());
            bytes.chunks(piece).for_each(|piece| driver.feed(piece));
            assert!(driver.refused, "{}", bytes.escape_ascii());
            assert_eq!(driver.scanner().has_http1(), http1, "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn a_header_alone_is_of_a_frame_whose_payload_has_not_begun() {
    for (frame, has_payload) in [
        (frame(kind::HEADERS, 4, 1, b"abc"), true),
        (frame(kind::DATA, 0, 1, &message(10)), true),
        (frame(kind::DATA, flag::PADDED, 1, b"\x01abcd"), true),
        (frame(kind::HEADERS, 4, 1, &vec![0; MAX_KEPT as usize + 1]), true),
        (frame(kind::SETTINGS, flag::ACK, 0, b""), false),
    ] {
        for taken in 0..frame.len().min(20) {
            let alone = at(&frame, taken).scanner().header_alone();
            let expected = if taken < 9 || taken == 9 && has_payload { taken as u32 } else { 0 };
            assert_eq!(alone, expected, "{taken} bytes of {:?}", &frame[..9]);
        }
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
    let [Seen::Kept(_, long), reset] = &driver.seen[..] else { panic!("two frames") };
    assert_eq!(long.len(), MAX_KEPT as usize);
    assert_eq!(slice::from_ref(reset), reference(&bytes[1]));
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
    let data = frame(kind::DATA, 0, 1, &[message(3), message(100)].concat());
    let bytes = [&data[..], &frame(kind::SETTINGS, flag::ACK, 0, &[])].concat();
    for from in 9..data.len() {
        for to in from + 1..=data.len() {
            let mut driver = at(&bytes, from);
            driver.miss(to - from);
            driver.feed(&bytes[to..]);
            let mut expected = reference(&bytes);
            if let Some(Seen::Data(Data { stream: 1, ends: false, unaligned: true, .. })) =
                driver.seen.first()
            {
                expected[0] = driver.seen[0].clone();
            }
            assert_eq!(driver.seen, expected, "{from}..{to}");
        }
    }
}

#[test]
fn a_frame_header_that_is_missed_leaves_no_boundary() {
    let bytes = [frame(kind::DATA, 0, 1, &message(100)), ping()].concat();
    for (from, to) in [(0, 1), (8, 9), (8, 30), (9, 115), (113, 115), (114, 115)] {
        assert_eq!(at(&bytes, from).scanner().pass_gap((to - from) as u64), None, "{from}..{to}");
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
        driver.scanner().prove();
        driver.feed(&[&frames[0][..], &bad].concat());
        assert_eq!(driver.refused, !legal, "once the boundary is proven: {bad:?}");
    }
}

#[test]
fn frames_behind_one_that_was_none_are_behind_a_gap() {
    let headers = frame(kind::HEADERS, flag::END_HEADERS, 1, b"abc");
    let mut driver = Driver::new(Scanner::at_unproven_frame());
    driver.scanner().prove();
    let none = frame(kind::DATA, 0, 0, b"");
    let before = driver.transfer(direction::RECEIVED, &[&headers[..], &none].concat());
    assert!(driver.refused);
    assert_eq!(before.len(), 1, "the frame before is reported");
    driver.refused = false;
    let mut behind = (0..10).flat_map(|_| driver.transfer(direction::RECEIVED, &headers));
    let record = behind.next().expect("a boundary is found again");
    let Ok((item, _)) = ItemHeader::read_from_prefix(&record[size_of::<RecordHeader>()..]) else {
        panic!("the record has no item");
    };
    assert_eq!(item.kind, item_kind::GAP);
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
    let streams = prop_oneof![Just(1_u32), Just(3), Just(5), Just(0)];
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
        end in 0..1000_usize,
    ) {
        let mut bytes = frames.concat();
        bytes.truncate(end);
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
        prop_assert_eq!(driver.seen, reference(&bytes));
    }

    #[test]
    fn any_bytes_keep_it_going(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        Driver::new(Scanner::at_frame()).feed(&bytes);
        Driver::new(Scanner::at_preface()).feed(&bytes);
        Driver::new(Scanner::at_unproven_frame()).feed(&bytes);
    }
}

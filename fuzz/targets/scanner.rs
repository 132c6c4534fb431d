//! The scanner, over bytes that are cut anywhere, against a reading of the same bytes at once.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use observer_common::driver::connection::Shared;
use observer_common::frame::{FrameHeader, flag, kind};
use observer_common::record::{direction, role};
use observer_common::scanner::{MAX_KEPT, Scanner};
use observer_fuzz::drive::{Data, Driver, Seen, add, take_messages};
use observer_fuzz::input::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let cuts: Vec<usize> = (0..4).map(|_| usize::from(input.byte()) + 1).collect();
    let mut driver = Driver::new(Scanner::at_frame(), role::SERVER);
    let mut rest = input.0;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        driver.feed(direction::RECEIVED, now);
        rest = later;
    }
    assert_eq!(driver.seen, reference(input.0));
    // Not frames, but it must end, and cut anywhere be the same.
    for scanner in [Scanner::at_preface(), Scanner::at_opening()] {
        let [mut whole, mut cut] = [(); 2].map(|()| Driver::new(scanner, role::SERVER));
        whole.feed(direction::RECEIVED, input.0);
        for piece in input.0.chunks(cuts[0]) {
            cut.feed(direction::RECEIVED, piece);
        }
        assert_eq!((whole.refused, &whole.seen), (cut.refused, &cut.seen));
    }
});

/// What the bytes hold, one after the other.
fn reference(mut bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    // Per stream, the bytes of its messages that are not whole; `None` once they are none.
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
            resets.reset(header.stream);
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

//! The scanner, over bytes that are cut anywhere, against a reading of the same bytes at once.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use observer_common::frame::{FrameHeader, flag, kind};
use observer_common::scanner::{MAX_KEPT, Scanner};
use observer_fuzz::drive::{Direction, Frame, take_messages};
use observer_fuzz::input::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let cuts: Vec<usize> = (0..4).map(|_| usize::from(input.byte()) + 1).collect();
    let mut direction = Direction::new(Scanner::at_frame());
    let mut rest = input.0;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        direction.feed(now);
        rest = later;
    }
    let whole = direction.frames.iter().filter(|frame| frame.ended).cloned();
    assert_eq!(whole.collect::<Vec<_>>(), reference(input.0));
    // Not frames, but it must end, and cut anywhere be the same.
    for scanner in [Scanner::at_preface(), Scanner::at_opening()] {
        let (mut whole, mut cut) = (Direction::new(scanner), Direction::new(scanner));
        whole.feed(input.0);
        for piece in input.0.chunks(cuts[0]) {
            cut.feed(piece);
        }
        assert_eq!((whole.refused, &whole.frames), (cut.refused, &cut.frames));
    }
});

/// The frames that are complete, one after the other.
fn reference(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    // Per stream, the bytes of its messages that are not whole; `None` once they are none.
    let mut streams: HashMap<u32, Option<Vec<u8>>> = HashMap::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let header = FrameHeader::parse(*head);
        let Some((payload, rest)) = rest.split_at_checked(header.length as usize) else { break };
        bytes = rest;
        let mut frame =
            Frame { header, kept: Vec::new(), messages: Vec::new(), unaligned: false, ended: true };
        match header.kind {
            kind::DATA => data(header, payload, &mut streams, &mut frame),
            0x1 | 0x3 | 0x4 | 0x5 | 0x7 | 0x9 => {
                frame.kept = payload[..payload.len().min(MAX_KEPT as usize)].to_vec();
            }
            _ => {}
        }
        frames.push(frame);
    }
    frames
}

fn data(
    header: FrameHeader,
    payload: &[u8],
    streams: &mut HashMap<u32, Option<Vec<u8>>>,
    frame: &mut Frame,
) {
    let payload = match payload.split_first() {
        Some((padding, rest)) if header.has(flag::PADDED) => {
            &rest[..rest.len() - usize::from(*padding).min(rest.len())]
        }
        _ => payload,
    };
    let state = streams.entry(header.stream).or_insert_with(|| Some(Vec::new()));
    if let Some(begun) = state {
        begun.extend_from_slice(payload);
        frame.unaligned = !take_messages(begun, &mut frame.messages);
    } else {
        frame.unaligned = true;
    }
    if frame.unaligned {
        *state = None;
    }
    if header.has(flag::END_STREAM) {
        streams.remove(&header.stream);
    }
}

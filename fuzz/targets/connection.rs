//! Both directions of a connection, as bytes: however the calls of the processes cut them, the same
//! is counted. Of an answer that comes before its request it is not: it waits for the call that
//! begins the request, and for all else that this call moves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_common::frame::{flag, kind};
use observer_common::record::{OpenItem, direction, item_kind, record_kind, role};
use observer_common::scanner::Scanner;
use observer_fuzz::drive::{Bytes, Direction, Frame};
use observer_fuzz::input::Input;
use observer_fuzz::{exposition, pipeline};

/// Length of what is known of a new connection.
const OPEN: usize = size_of::<OpenItem>();

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (role, cut) = (input.byte() & 1, usize::from(input.byte()) + 1);
    // Who writes when: turns of the two directions.
    let mut turns = Vec::new();
    while !input.is_empty() {
        turns.push((input.byte() & 1, input.bytes()));
    }
    let whole = count(role, &turns, usize::MAX);
    let pieces = [cut, 1].map(|at_once| count(role, &turns, at_once));
    if !answers_early(role, &turns) {
        assert_eq!(pieces, [whole.as_str(), whole.as_str()]);
    }
});

/// Whether the server sends of a stream before the client has begun it, or a later one.
fn answers_early(role: u8, turns: &[(u8, &[u8])]) -> bool {
    let requests = if role == role::SERVER { direction::RECEIVED } else { direction::SENT };
    let mut directions = [(); 2].map(|()| Direction::new(Scanner::at_frame()));
    turns.iter().any(|(direction, bytes)| {
        directions[usize::from(*direction)].feed(bytes);
        let begins = |frame: &Frame| {
            let headers = matches!(frame.header.kind, kind::HEADERS | kind::CONTINUATION);
            headers && frame.ended && frame.header.has(flag::END_HEADERS)
        };
        let begun = last_stream(&directions[usize::from(requests)], begins);
        let answered = last_stream(&directions[usize::from(1 - requests)], |frame| {
            matches!(
                frame.header.kind,
                kind::HEADERS | kind::CONTINUATION | kind::DATA | kind::RST_STREAM
            )
        });
        answered > begun
    })
}

/// The highest stream that such a frame is of.
fn last_stream(direction: &Direction, such: impl Fn(&Frame) -> bool) -> Option<u32> {
    direction.frames.iter().filter(|frame| such(frame)).map(|frame| frame.header.stream).max()
}

/// What is counted of it when each call moves so many bytes at most.
fn count(role: u8, turns: &[(u8, &[u8])], at_once: usize) -> String {
    let mut pipeline = pipeline();
    let mut directions = [(); 2].map(|()| Direction::new(Scanner::at_frame()));
    let mut header = [item_kind::OPEN, 0, 0, 0].to_vec();
    header.extend([0, 0, OPEN as u32].map(u32::to_ne_bytes).concat());
    header.extend([0; OPEN]);
    for (direction, bytes) in turns {
        for piece in bytes.chunks(at_once) {
            let state = &mut directions[usize::from(*direction)];
            let bytes = Bytes {
                connection: 1,
                time_ns: 1,
                position: state.position,
                length: piece.len() as u64,
                direction: *direction,
                role,
            };
            let items = [std::mem::take(&mut header), state.feed(piece)].concat();
            pipeline.handle(&bytes.record(record_kind::BYTES, &items));
        }
    }
    let before = exposition(&pipeline);
    let end = Bytes { connection: 1, time_ns: 2, position: 0, length: 0, direction: 0, role };
    pipeline.handle(&end.record(record_kind::CLOSED, &[]));
    let after = exposition(&pipeline);
    for line in after.lines().filter(|line| line.contains("_in_flight{")) {
        assert!(line.ends_with(" 0"), "after the end of all: {line}");
    }
    before + &after
}

//! Both directions of a connection, as bytes: however the calls of the processes cut them, the same
//! is counted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_common::record::{item_kind, record_kind};
use observer_common::scanner::Scanner;
use observer_fuzz::drive::{Bytes, Direction};
use observer_fuzz::input::Input;
use observer_fuzz::{exposition, pipeline};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (role, cut) = (input.byte() & 1, usize::from(input.byte()) + 1);
    // Who writes when: turns of the two directions.
    let mut turns = Vec::new();
    while !input.is_empty() {
        turns.push((input.byte() & 1, input.bytes()));
    }
    let whole = count(role, &turns, usize::MAX);
    assert_eq!(whole, count(role, &turns, cut));
    assert_eq!(whole, count(role, &turns, 1));
});

/// What is counted of it when each call moves so many bytes at most.
fn count(role: u8, turns: &[(u8, &[u8])], at_once: usize) -> String {
    let mut pipeline = pipeline();
    let mut directions = [(); 2].map(|()| Direction::new(Scanner::at_frame()));
    let mut header = [item_kind::OPEN, 0, 0, 0].to_vec();
    header.extend([0, 0, 56_u32].map(u32::to_ne_bytes).concat());
    header.extend([0; 56]);
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

//! HTTP/1.1 messages that are cut anywhere, compared with a straightforward reading; and both directions of a connection,
//! whose calls end with it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_common::record::{RecordHeader, direction, record_kind, role};
use observer_fuzz::{
    drive::{Driver, Reading, reference_http1, whole},
    exposition,
    input::Input,
    pipeline,
};
use zerocopy::IntoBytes as _;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (are_responses, cut) = (input.byte() & 1 == 1, usize::from(input.byte()) + 1);
    let mut turns = Vec::new();
    while !input.is_empty() {
        turns.push((input.byte() & 1, input.bytes()));
    }
    let of = |direction: u8| -> Vec<u8> {
        let turns = turns.iter().filter(|(of, _)| *of == direction);
        turns.flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    };
    read(&of(direction::RECEIVED), are_responses, cut);
    for at_once in [usize::MAX, cut, 1] {
        count(are_responses, &turns, at_once);
    }
});

/// Compares what the driver finds in one direction with a reading of all of it.
fn read(bytes: &[u8], are_responses: bool, cut: usize) {
    let Reading { seen, is_valid } = reference_http1(bytes, are_responses);
    let mut driver = Driver::of_http1(are_responses);
    for piece in bytes.chunks(cut) {
        driver.feed(piece);
    }
    assert_eq!(whole(driver.seen), whole(seen));
    if let Some(is_valid) = is_valid {
        assert_eq!(!driver.refused, is_valid);
    }
}

/// Counts the calls of both directions, if each transfer moves at most `at_once` bytes.
fn count(is_client: bool, turns: &[(u8, &[u8])], at_once: usize) {
    let mut pipeline = pipeline();
    let mut driver = Driver::of_http1(is_client);
    driver.maps.web = true;
    let role = if is_client { role::CLIENT } else { role::SERVER };
    driver.connection.shared.role = role;
    for (direction, bytes) in turns {
        for piece in bytes.chunks(at_once) {
            for record in driver.transfer(*direction, piece) {
                pipeline.handle(&record);
            }
        }
    }
    let _ = exposition(&pipeline);
    let kind = record_kind::CLOSED;
    let closed =
        RecordHeader { connection: 1, time_ns: 2, pid: 1, kind, role, ..RecordHeader::default() };
    pipeline.handle(closed.as_bytes());
    let after = exposition(&pipeline);
    for line in after.lines().filter(|line| line.contains("_in_flight{")) {
        assert!(line.ends_with(" 0"), "after the connection's end: {line}");
    }
}

//! Both directions of a connection, as bytes: the same is counted, however the processes' transfers cut them. This does
//! not hold if an answer comes before its request: the answer waits for the transfer with the start of the request, and
//! for everything else in that transfer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_common::frame::{FrameHeader, flag, kind};
use observer_common::record::{RecordHeader, direction, record_kind, role};
use observer_common::scanner::Scanner;
use observer_fuzz::drive::Driver;
use observer_fuzz::input::Input;
use observer_fuzz::{exposition, pipeline};
use zerocopy::IntoBytes as _;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (role, cut) = (input.byte() & 1, usize::from(input.byte()) + 1);
    // Turns of the two directions.
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

/// Whether the server sends a frame of a stream before the client has started that stream, or a later one.
fn answers_early(role: u8, turns: &[(u8, &[u8])]) -> bool {
    let requests = if role == role::SERVER { direction::RECEIVED } else { direction::SENT };
    let mut directions = [Vec::new(), Vec::new()];
    turns.iter().any(|(direction, bytes)| {
        directions[usize::from(*direction)].extend_from_slice(bytes);
        let begun = last_stream(&directions[usize::from(requests)], |header, ended| {
            let headers = matches!(header.kind, kind::HEADERS | kind::CONTINUATION);
            headers && ended && header.has(flag::END_HEADERS)
        });
        let answered = last_stream(&directions[usize::from(1 - requests)], |header, _| {
            matches!(
                header.kind,
                kind::HEADERS | kind::CONTINUATION | kind::DATA | kind::RST_STREAM
            )
        });
        answered > begun
    })
}

/// The highest stream with such a frame. The second argument of `such` is false if the frame is cut.
fn last_stream(mut bytes: &[u8], such: impl Fn(FrameHeader, bool) -> bool) -> Option<u32> {
    let mut last = None;
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let header = FrameHeader::parse(*head);
        let after = rest.get(header.length as usize..);
        if such(header, after.is_some()) {
            last = last.max(Some(header.stream));
        }
        bytes = after.unwrap_or_default();
    }
    last
}

/// The published metrics if each transfer moves at most `at_once` bytes.
fn count(role: u8, turns: &[(u8, &[u8])], at_once: usize) -> String {
    let mut pipeline = pipeline();
    let mut driver = Driver::new(Scanner::at_frame());
    driver.connection.shared.role = role;
    for (direction, bytes) in turns {
        for piece in bytes.chunks(at_once) {
            for record in driver.transfer(*direction, piece) {
                pipeline.handle(&record);
            }
        }
    }
    let before = exposition(&pipeline);
    let closed = RecordHeader {
        connection: 1,
        time_ns: 2,
        pid: 1,
        kind: record_kind::CLOSED,
        role,
        ..RecordHeader::default()
    };
    pipeline.handle(closed.as_bytes());
    let after = exposition(&pipeline);
    for line in after.lines().filter(|line| line.contains("_in_flight{")) {
        assert!(line.ends_with(" 0"), "after the connection's end: {line}");
    }
    before + &after
}

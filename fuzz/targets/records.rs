//! Any bytes as records, through the whole pipeline.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_common::record::{RecordHeader, record_kind};
use observer_fuzz::input::Input;
use observer_fuzz::{exposition, pipeline};
use zerocopy::IntoBytes as _;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut pipeline = pipeline();
    let mut now_ns = 0;
    while !input.is_empty() {
        let choice = input.byte();
        now_ns += u64::from(choice) << 24;
        match choice % 8 {
            0 => pipeline.handle(input.bytes()),
            1 => drop(pipeline.tick(now_ns)),
            // With a valid header, so that the code after it is reached.
            _ => {
                let header = RecordHeader {
                    connection: u64::from(choice >> 6),
                    time_ns: now_ns,
                    position: u64::from(input.byte()),
                    length: u64::from(input.byte()),
                    pid: 1,
                    direction: choice >> 3 & 1,
                    role: choice >> 4 & 1,
                    ..RecordHeader::default()
                };
                let any = record_kind::BYTES - 1 + input.byte() % 6;
                let kinds = [record_kind::BYTES, record_kind::BYTES, any];
                let kind = kinds[usize::from(choice >> 5 & 1) + usize::from(choice % 8 == 7)];
                let header = RecordHeader { kind, ..header };
                pipeline.handle(&[header.as_bytes(), input.bytes()].concat());
            }
        }
    }
    exposition(&pipeline);
});

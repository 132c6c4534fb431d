//! The scanner of Thrift messages over bytes that are cut anywhere, compared with a straightforward reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_fuzz::{
    input::Input,
    thrift::{Driver, reference, unversioned_reference},
};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let cuts: Vec<usize> = (0..4).map(|_| usize::from(input.byte()) + 1).collect();
    let is_unversioned = input.byte() & 1 != 0;
    let mut driver = if is_unversioned { Driver::unversioned() } else { Driver::new() };
    let mut rest = input.0;
    let mut ends = Vec::new();
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        driver.feed(now);
        rest = later;
        ends.push(input.0.len() - rest.len());
    }
    let read = if is_unversioned { unversioned_reference } else { reference };
    let (found, valid) = read(input.0, &ends);
    assert_eq!(driver.found, found);
    assert_eq!(!driver.scanner.is_refused(), valid);
});

//! The scanner over bytes that are cut anywhere, compared with a scan of the same bytes at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_common::scanner::Scanner;
use observer_fuzz::drive::{Driver, reference};
use observer_fuzz::input::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let cuts: Vec<usize> = (0..4).map(|_| usize::from(input.byte()) + 1).collect();
    let mut driver = Driver::new(Scanner::at_frame());
    let mut rest = input.0;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        driver.feed(now);
        rest = later;
    }
    assert_eq!(driver.seen, reference(input.0));
    // These bytes are not frames, but the scan must end, and be the same if they are cut.
    for scanner in [Scanner::at_preface(), Scanner::at_opening()] {
        let [mut whole, mut cut] = [(); 2].map(|()| Driver::new(scanner));
        whole.feed(input.0);
        for piece in input.0.chunks(cuts[0]) {
            cut.feed(piece);
        }
        assert_eq!((whole.refused, &whole.seen), (cut.refused, &cut.seen));
    }
});

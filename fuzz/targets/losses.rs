//! Both directions of connections that are joined late, with gaps and dropped records: the counts add up at any time,
//! and nothing is left at the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_common::frame::PREFACE;
use observer_fuzz::host::Transfer;
use observer_fuzz::input::Input;
use observer_fuzz::kernel::{Faults, Kernel};
use observer_fuzz::random::Random;
use observer_fuzz::{exposition, pipeline};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let seed = input.number();
    let mut fault = || u64::from(input.byte()) * 4;
    let faults = Faults {
        ring_full: fault(),
        unseen: fault(),
        unreadable: fault(),
        messages_full: fault(),
        few_iterations: fault(),
        late: fault(),
    };
    let mut pipeline = pipeline();
    let mut kernel = Kernel::new(Random::new(seed.into()), faults);
    let mut time_ns = 1;
    let mut transfer = |kernel: &mut Kernel, choice: u8, bytes: &[u8]| {
        let (sock, sent) = (u64::from(choice & 1), choice & 2 != 0);
        time_ns += 1_000_000;
        let transfer = Transfer { sock, sent, pid: 1, comm: [0; 16], time_ns, buffers: &[bytes] };
        // Only TCP sockets count their bytes.
        kernel.transfer(&transfer, sock == 0);
    };
    // The first socket is a server's, the second one a client's.
    transfer(&mut kernel, 0, PREFACE);
    transfer(&mut kernel, 3, PREFACE);
    while !input.is_empty() {
        let choice = input.byte();
        let bytes = input.bytes();
        if !bytes.is_empty() {
            transfer(&mut kernel, choice, bytes);
        }
        if choice & 4 != 0 {
            kernel.maps.ring.drain(..).for_each(|record| pipeline.handle(&record));
            exposition(&pipeline);
        }
    }
    kernel.close(0, time_ns);
    kernel.close(1, time_ns);
    kernel.maps.ring.drain(..).for_each(|record| pipeline.handle(&record));
    for line in exposition(&pipeline).lines().filter(|line| line.contains("_in_flight{")) {
        assert!(line.ends_with(" 0"), "after the connections' ends: {line}");
    }
});

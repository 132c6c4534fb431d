//! Another build of the daemon and this one, in turns: what a change costs or saves.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::Peers;
use crate::calls::watched;
use crate::figures::Results;
use crate::load::Load;
use crate::service::Service;
use crate::throughput::SLICE;
use crate::watch::{Timed, Watch};

const REPEATS: usize = 9;
const CALLS: u64 = 60_000;

/// The cost of a finished call to the kernel (with the clock of `bpf_stats`) and to the daemon, and the throughput.
#[derive(Default)]
struct Samples {
    programs: Vec<f64>,
    daemon: Vec<f64>,
    calls_per_second: Vec<f64>,
}

impl Samples {
    fn add(&mut self, program: &Path, service: &Service) -> Result<()> {
        let load = Load::at_once(16);
        let watch = Watch::start_program(program)?;
        self.calls_per_second.push(service.calls_per_second(16, SLICE)?);
        let (_, reading) = watched(&watch, service.address, load, CALLS)?;
        self.daemon.push(reading.cpu_ns / reading.ends / 1000.0);
        let timed = Timed::begin()?;
        let (_, reading) = watched(&watch, service.address, load, CALLS)?;
        drop(timed);
        self.programs.push(reading.programs_ns / reading.ends / 1000.0);
        watch.stop()
    }
}

pub(crate) fn compared(peers: &Peers, results: &mut Results) -> Result<()> {
    let baseline = peers.baseline().context("name the other daemon with --baseline")?;
    let service = Service::fast(peers)?;
    let (mut before, mut after) = (Samples::default(), Samples::default());
    for _ in 0..REPEATS {
        before.add(baseline, &service)?;
        after.add(peers.daemon(), &service)?;
    }
    let mut add = |name: &str, unit: &str, before: Vec<f64>, after: Vec<f64>| {
        let ratios = after.iter().zip(&before).map(|(after, before)| after / before).collect();
        results.add(format!("{name}: other daemon"), unit, None, before);
        results.add(format!("{name}: this daemon"), unit, None, after);
        results.add(format!("{name}: this ÷ other"), "", None, ratios);
    };
    let name = "run time of BPF programs per finished call";
    add(name, "µs", before.programs, after.programs);
    add("daemon's CPU time per finished call", "µs", before.daemon, after.daemon);
    let name = "tonic, 16 at once, both ends watched";
    add(name, "calls/s", before.calls_per_second, after.calls_per_second);
    Ok(())
}

//! The backends of this machine, in turns: their cost for work without gRPC, for calls, and in the kernel.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use support::daemon::{Daemon, without_ours};

use crate::Peers;
use crate::calls::watched;
use crate::figures::{Bound, Results};
use crate::load::Load;
use crate::service::Service;
use crate::throughput::{SLICE, files};
use crate::watch::{Timed, Watch};

const REPEATS: usize = 7;
const SETTLING: Duration = Duration::from_secs(1);

/// All backends, the preferred one first.
const ALL: [&str; 4] = ["socket", "fentry", "kprobe", "tracepoint"];

/// A backend, and its figures.
struct Backend {
    name: &'static str,
    samples: Vec<f64>,
}

impl Backend {
    /// The backends that this kernel allows.
    fn allowed(peers: &Peers) -> Result<Vec<Self>> {
        let is_allowed = |name: &&str| -> Result<bool> {
            let mut check = Command::new(peers.daemon());
            without_ours(&mut check);
            check.args(["check", "--listen", "127.0.0.1:0", "--backend", name]);
            Ok(check.output().context("run observer check")?.status.success())
        };
        let mut allowed = Vec::new();
        for name in ALL {
            if is_allowed(&name)? {
                allowed.push(Self { name, samples: Vec::new() });
            }
        }
        ensure!(!allowed.is_empty(), "no backend works on this kernel");
        Ok(allowed)
    }

    fn watch(&self) -> Result<Watch> {
        Watch::start(&["--backend", self.name])
    }

    /// Does the work while it watches and afterwards, each once its start or end (maps to fill or to free) is over.
    fn settled<T>(&self, work: impl Fn() -> Result<T>) -> Result<(T, T)> {
        let watch = self.watch()?;
        thread::sleep(SETTLING);
        let watched = work()?;
        watch.stop()?;
        thread::sleep(SETTLING);
        Ok((watched, work()?))
    }
}

pub(crate) fn compared(peers: &Peers, results: &mut Results) -> Result<()> {
    let reads = |watched: f64, bare: f64| watched / bare;
    let name = "1-byte reads of /dev/zero, watched ÷ bare";
    in_turns(peers, results, name, "", Some(Bound::AtLeast(0.98)), files, reads)?;
    let added = |watched: f64, bare: f64| watched - bare;
    let name = "a transfer of 1 byte on a Unix socket that is not watched, watched − bare";
    in_turns(peers, results, name, "µs", Some(Bound::AtMost(0.2)), transfers, added)?;
    starts(peers, results)?;
    programs(peers, results)?;
    for stack in ["python-asyncio", "grpc-java", "grpc-go", "tonic"] {
        let service = Service::warm(&peers.stack(stack)?)?;
        let name = format!("{stack}, 16 at once, both ends watched ÷ bare");
        let calls = || service.calls_per_second(16, SLICE);
        in_turns(peers, results, &name, "", Some(Bound::AtLeast(0.93)), calls, reads)?;
    }
    Ok(())
}

/// Does the work bare and watched by each backend, in turns, and compares each with the bare ones around it.
fn in_turns(
    peers: &Peers,
    results: &mut Results,
    name: &str,
    unit: &str,
    bound: Option<Bound>,
    work: impl Fn() -> Result<f64>,
    compare: impl Fn(f64, f64) -> f64,
) -> Result<()> {
    let mut backends = Backend::allowed(peers)?;
    for _ in 0..REPEATS {
        let mut before = work()?;
        for backend in &mut backends {
            let (watched, after) = backend.settled(&work)?;
            backend.samples.push(compare(watched, f64::midpoint(before, after)));
            before = after;
        }
    }
    for (n, Backend { name: backend, samples }) in backends.into_iter().enumerate() {
        // The bound is for the backend that is used.
        let bound = bound.filter(|_| n == 0);
        results.add(format!("{name}: {backend}"), unit, bound, samples);
    }
    Ok(())
}

/// The µs for each transfer between the ends of a Unix socket, in one thread, which never waits.
fn transfers() -> Result<f64> {
    let (mut one, mut other) = UnixStream::pair().context("a socket")?;
    let (begin, mut transfers, mut byte) = (Instant::now(), 0_u64, [b'x']);
    while begin.elapsed() < SLICE {
        for _ in 0..500 {
            one.write_all(&byte)?;
            other.read_exact(&mut byte)?;
        }
        transfers += 1000;
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / transfers as f64)
}

fn starts(peers: &Peers, results: &mut Results) -> Result<()> {
    let mut backends = Backend::allowed(peers)?;
    for _ in 0..REPEATS {
        for backend in &mut backends {
            let begin = Instant::now();
            let daemon = Daemon::start(&["--backend", backend.name])?;
            backend.samples.push(begin.elapsed().as_secs_f64());
            daemon.stop()?;
        }
    }
    for (n, Backend { name, samples }) in backends.into_iter().enumerate() {
        let bound = (n == 0).then_some(Bound::AtMost(0.2));
        results.add(format!("from exec to watching: {name}"), "s", bound, samples);
    }
    Ok(())
}

/// The run time of the BPF programs for each call that has ended, at each end.
fn programs(peers: &Peers, results: &mut Results) -> Result<()> {
    const CALLS: u64 = 60_000;
    let service = Service::fast(peers)?;
    let mut backends = Backend::allowed(peers)?;
    for _ in 0..REPEATS {
        for backend in &mut backends {
            let watch = backend.watch()?;
            let timed = Timed::begin()?;
            let (_, reading) = watched(&watch, service.address, Load::at_once(16), CALLS)?;
            drop(timed);
            watch.stop()?;
            backend.samples.push(reading.programs_ns / reading.ends / 1000.0);
        }
    }
    let slowest = backends.last().map(|last| (last.name, last.samples.clone()));
    for (n, Backend { name, samples }) in backends.into_iter().enumerate() {
        if let Some((last, of_last)) = slowest.as_ref().filter(|(last, _)| *last != name) {
            let ratios = samples.iter().zip(of_last).map(|(one, other)| one / other).collect();
            let bound = (n == 0).then_some(Bound::AtMost(0.75));
            let title = format!("run time of BPF programs per finished call, {name} ÷ {last}");
            results.add(title, "", bound, ratios);
        }
        let title = format!("run time of BPF programs per finished call: {name}");
        results.add(title, "µs", None, samples);
    }
    Ok(())
}

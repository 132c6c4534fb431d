//! The daemon's memory, its start, and its scrapes.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use support::daemon::Daemon;
use support::footprint::{Footprint, status};

use crate::Peers;
use crate::figures::{Bound, Results};
use crate::load::{Client, Load, Until};
use crate::service::Service;
use crate::watch::Watch;

const REPEATS: usize = 5;

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

/// A daemon's own memory and that of its maps, in bytes.
fn all(daemon: &Daemon) -> Result<f64> {
    let Footprint { memory, maps } = Footprint::of(daemon.pid())?;
    Ok((memory + maps) as f64)
}

/// A daemon's resident memory without maps, in bytes: the kernel counts a ring in both, and its pages are mapped
/// twice.
fn resident_without_maps(daemon: &Daemon) -> Result<f64> {
    let kib = |text: &str| text.trim().trim_end_matches(" kB").parse::<f64>().context("not in kB");
    let all = kib(&status(daemon.pid(), daemon.pid(), "VmRSS")?)?;
    let mappings = fs::read_to_string(format!("/proc/{}/smaps", daemon.pid()))?;
    let mut of_maps = 0.0;
    let mut is_map = false;
    for line in mappings.lines() {
        match line.strip_prefix("Rss:") {
            Some(rss) if is_map => of_maps += kib(rss)?,
            // A mapping's line comes before its fields, whose names end with a colon.
            _ if line.split(' ').next().is_some_and(|word| !word.ends_with(':')) => {
                is_map = line.ends_with("anon_inode:bpf-map");
            }
            _ => {}
        }
    }
    Ok((all - of_maps) * KIB)
}

pub(crate) fn memory(peers: &Peers, results: &mut Results) -> Result<()> {
    let (mut start, mut resident, mut maps, mut before) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let begin = Instant::now();
        let daemon = Daemon::start(&[])?;
        start.push(begin.elapsed().as_secs_f64());
        let of_process = resident_without_maps(&daemon)?;
        let of_maps = Footprint::of(daemon.pid())?.maps as f64;
        resident.push(of_process / MIB);
        maps.push(of_maps / MIB);
        before.push((of_process + of_maps) / MIB);
        daemon.stop()?;
    }
    let most = |most| Some(Bound::AtMost(most));
    results.add("from exec to watching", "s", most(0.5), start);
    results.add("resident memory at start, the program's pages included", "MiB", None, resident);
    results.add("memory of maps at start, the ring's included", "MiB", None, maps);
    results.add("all in at start", "MiB", most(20.0), before);
    let size = fs::metadata(peers.daemon()).context("the daemon's size")?.len();
    results.add("the program's file", "MiB", most(10.0), vec![size as f64 / MIB]);
    connections(peers, results)?;
    series(peers, results)
}

fn connections(peers: &Peers, results: &mut Results) -> Result<()> {
    const CONNECTIONS: usize = 10_000;
    let service = Service::fast(peers)?;
    let watch = Watch::start(&[])?;
    let one = Load::ONE;
    Client::connect(service.address, 1)?.call(one, Until::Calls(1))?;
    let begin = watch.begin()?;
    let before = all(&watch.daemon)?;
    let mut client = Client::connect(service.address, CONNECTIONS)?;
    // One call on each connection.
    client.call(one, Until::Calls(CONNECTIONS as u64))?;
    watch.since_ends(begin, 2.0 * CONNECTIONS as f64)?;
    let ends = 2.0 * CONNECTIONS as f64;
    let each = (all(&watch.daemon)? - before) / ends / KIB;
    results.add("for each end of an open connection", "KiB", Some(Bound::AtMost(3.0)), vec![each]);
    drop(client);
    watch.stop()
}

fn series(peers: &Peers, results: &mut Results) -> Result<()> {
    const METHODS: usize = 5000;
    let service = Service::fast(peers)?;
    let watch = Watch::start(&["--max-methods", "20000"])?;
    let load = |methods| Load { streams: 8, methods, ..Load::ONE };
    let mut client = Client::connect(service.address, 1)?;
    client.call(load(1), Until::Calls(10))?;
    let begin = watch.begin()?;
    let before = all(&watch.daemon)?;
    client.call(load(METHODS), Until::Calls(METHODS as u64))?;
    watch.since_ends(begin, 2.0 * METHODS as f64)?;
    let grown = all(&watch.daemon)? - before;
    let rows = 2.0 * METHODS as f64;
    let samples = watch.daemon.scrape()?.series_count("grpc_") as f64;
    let most = |most| Some(Bound::AtMost(most));
    let per_thousand = grown / MIB * 1000.0;
    results.add("for 1,000 methods of a process", "MiB", most(10.0), vec![per_thousand / rows]);
    results.add("for 1,000 series as scraped", "MiB", None, vec![per_thousand / samples]);
    watch.stop()
}

/// Measures the time of a scrape, and whether calls are reported meanwhile.
pub(crate) fn scrape(peers: &Peers, results: &mut Results) -> Result<()> {
    let service = Service::fast(peers)?;
    // Each method has about fifty series at each end.
    for (name, methods, bound) in
        [("10,000 series", 160, Some(Bound::AtMost(50.0))), ("10,000 methods", 5000, None)]
    {
        let watch = Watch::start(&["--max-methods", "20000"])?;
        let load = Load { streams: 8, methods, ..Load::ONE };
        let begin = watch.begin()?;
        Client::connect(service.address, 1)?.call(load, Until::Calls(methods as u64))?;
        watch.since_ends(begin, 2.0 * methods as f64)?;
        let series = watch.daemon.scrape()?.series_count("grpc_");
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            times.push(watch.daemon.scrape_time()?.as_secs_f64() * 1000.0);
        }
        results.add(format!("a scrape of {name} ({series})"), "ms", bound, times);
        watch.stop()?;
    }
    ingestion(service.address, results)
}

/// Measures the share of calls that are reported while a scraper never pauses.
fn ingestion(address: SocketAddr, results: &mut Results) -> Result<()> {
    let watch = Watch::start(&["--max-methods", "20000"])?;
    let load = Load { connections: 4, streams: 16, methods: 100, ..Load::ONE };
    let mut client = Client::connect(address, load.connections)?;
    let begin = watch.begin()?;
    let over = AtomicBool::new(false);
    let (made, scrapes) = thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut scrapes = 0_u32;
            while !over.load(Ordering::Relaxed) {
                watch.daemon.scrape_time()?;
                scrapes += 1;
            }
            anyhow::Ok(scrapes)
        });
        let made = client.call(load, Until::Elapsed(Duration::from_secs(5)));
        over.store(true, Ordering::Relaxed);
        let scrapes = scraper.join().map_err(|_| anyhow!("the scraper panicked"))??;
        anyhow::Ok((made?, scrapes))
    })?;
    let ends = 2.0 * made.calls as f64;
    let seen = watch.since_ends(begin, ends)?.complete / ends;
    let name =
        format!("calls seen ÷ made, {scrapes} scrapes in {:.1} s", made.elapsed.as_secs_f64());
    results.add(name, "", Some(Bound::AtLeast(1.0)), vec![seen]);
    watch.stop()
}

//! The throughput of services that are watched, and of services with a library in their process.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use support::daemon::free_address;
use support::peer::Server;
use support::stack::Stack;

use crate::Peers;
use crate::figures::{Bound, Plot, Results};
use crate::load::{Client, Load, Until};
use crate::service::Service;
use crate::watch::Watch;

const REPEATS: usize = 7;

/// The time of one measurement.
pub(crate) const SLICE: Duration = Duration::from_secs(1);

/// Time for a service to reach its speed: a virtual machine with a JIT compiler takes longest.
pub(crate) const WARM: Duration = Duration::from_secs(4);

const CONCURRENCIES: [usize; 3] = [1, 16, 64];

impl Service {
    /// Starts a service, and calls it until it has reached its speed.
    pub(crate) fn warm(stack: &Stack) -> Result<Self> {
        let service = Self::start(stack)?;
        service.calls_per_second(16, WARM)?;
        Ok(service)
    }

    pub(crate) fn calls_per_second(&self, concurrency: usize, time: Duration) -> Result<f64> {
        let load = Load::at_once(concurrency);
        let mut client = Client::connect(self.address, load.connections)?;
        Ok(client.call(load, Until::Elapsed(time))?.per_second())
    }

    /// Calls per second for each concurrency.
    fn all(&self) -> Result<Vec<f64>> {
        CONCURRENCIES.iter().map(|&at_once| self.calls_per_second(at_once, SLICE)).collect()
    }
}

type Flags = fn(&Server) -> Vec<String>;

/// The ways to watch a service, with the daemon's flags.
const WAYS: [(&str, Flags); 2] = [
    ("both ends watched", |_| Vec::new()),
    ("the service watched", |server| vec!["--pid".into(), server.pid()]),
];

/// Measures watched ÷ bare, with the bare runs just before and after: the machine is shared, and its speed varies.
pub(crate) fn services(peers: &Peers, results: &mut Results) -> Result<()> {
    let mut plot = Plot {
        name: "throughput".into(),
        title: "Throughput of a saturated service, both ends watched ÷ bare".into(),
        x: "calls at once".into(),
        y: "watched ÷ bare".into(),
        points: CONCURRENCIES.map(|at_once| at_once.to_string()).to_vec(),
        lines: Vec::new(),
    };
    for (name, least) in
        [("python-asyncio", 0.98), ("grpc-go", 0.95), ("tonic", 0.95), ("grpc-java", 0.95)]
    {
        let service = Service::warm(&peers.stack(name)?)?;
        let mut bare = vec![Vec::new(); CONCURRENCIES.len()];
        let mut ratios = vec![vec![Vec::new(); CONCURRENCIES.len()]; WAYS.len()];
        for _ in 0..REPEATS {
            let mut before = service.all()?;
            for ((_, flags), ratios) in WAYS.iter().zip(&mut ratios) {
                let flags = flags(&service.server);
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                let watch = Watch::start(&flags)?;
                let watched = service.all()?;
                watch.stop()?;
                let after = service.all()?;
                let around = before.iter().zip(&after).map(|(a, b)| f64::midpoint(*a, *b));
                for ((ratios, watched), around) in ratios.iter_mut().zip(&watched).zip(around) {
                    ratios.push(watched / around);
                }
                for (bare, sample) in bare.iter_mut().zip(&before) {
                    bare.push(*sample);
                }
                before = after;
            }
        }
        for (at_once, bare) in CONCURRENCIES.iter().zip(bare) {
            results.add(format!("{name}, {at_once} at once: bare"), "calls/s", None, bare);
        }
        for ((way, _), ratios) in WAYS.iter().zip(ratios) {
            let mut line = Vec::new();
            for (at_once, ratios) in CONCURRENCIES.iter().zip(ratios) {
                let name = format!("{name}, {at_once} at once: {way} ÷ bare");
                line.push(results.add(name, "", Some(Bound::AtLeast(least)), ratios));
            }
            if way.starts_with("both") {
                plot.lines.push((name.to_owned(), line));
            }
        }
    }
    results.plots.push(plot);
    Ok(())
}

/// Measures the throughput of services with a library, and of the same services watched.
pub(crate) fn libraries(peers: &Peers, results: &mut Results) -> Result<()> {
    const CONCURRENCY: usize = 16;
    let (python, go) = (peers.stack("python-asyncio")?, peers.stack("grpc-go")?);
    let folder = tempfile::TempDir::with_prefix("told-").context("create a folder")?;
    let file = folder.path().join("told");
    let ways = [
        (&python, "py-async-grpc-prometheus", "python"),
        (&python, "an interceptor as guides show it", "requests"),
        (&python, "OpenTelemetry, spans to nowhere", "otel"),
        (&go, "go-grpc-middleware's prometheus", "middleware"),
        (&go, "OpenTelemetry, metrics", "otel"),
    ];
    for stack in [&python, &go] {
        let bare = Service::warm(stack)?;
        let mut services = Vec::new();
        for (_, title, library) in ways.iter().filter(|(of, ..)| of.name == stack.name) {
            let service = Service::warm(&stack.instrumented(library, &file, &file)?)?;
            services.push((*title, service, Vec::new()));
        }
        let mut watched = Vec::new();
        for _ in 0..REPEATS {
            let before = bare.calls_per_second(CONCURRENCY, SLICE)?;
            for (_, service, ratios) in &mut services {
                ratios.push(service.calls_per_second(CONCURRENCY, SLICE)? / before);
            }
            let watch = Watch::start(&[])?;
            watched.push(bare.calls_per_second(CONCURRENCY, SLICE)? / before);
            watch.stop()?;
        }
        let name = |way: &str| format!("{}, {CONCURRENCY} at once: {way} ÷ bare", stack.name);
        let mut best: f64 = 0.0;
        for (title, _, ratios) in services {
            best = best.max(results.add(name(title), "", None, ratios));
        }
        results.add(name("watched, both ends"), "", Some(Bound::AtLeast(best)), watched);
    }
    Ok(())
}

/// Measures the throughput of work without gRPC, watched and bare.
pub(crate) fn unrelated(results: &mut Results) -> Result<()> {
    type Work = fn() -> Result<f64>;
    let port = free_address()?.port().to_string();
    let selected = ["--port", &*port];
    let kinds: [(&str, Work, &[&str]); 4] = [
        ("1-byte reads of /dev/zero, no flags", files, &[]),
        ("1-byte reads of /dev/zero, another port selected", files, &selected),
        ("64-byte requests over TCP, no flags", ping_pong, &[]),
        ("64-byte requests over TCP, another port selected", ping_pong, &selected),
    ];
    for (name, work, flags) in kinds {
        let (mut bare, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..REPEATS {
            let before = work()?;
            let watch = Watch::start(flags)?;
            ratios.push(work()? / before);
            watch.stop()?;
            bare.push(before);
        }
        results.add(format!("{name}: bare"), "calls/s", None, bare);
        let name = format!("{name}: watched ÷ bare");
        results.add(name, "", Some(Bound::AtLeast(0.95)), ratios);
    }
    Ok(())
}

/// Reads of one byte per second.
pub(crate) fn files() -> Result<f64> {
    let mut file = fs::File::open("/dev/zero").context("open /dev/zero")?;
    let (begin, mut reads, mut byte) = (Instant::now(), 0_u64, [0]);
    while begin.elapsed() < SLICE {
        for _ in 0..1000 {
            file.read_exact(&mut byte)?;
        }
        reads += 1000;
    }
    Ok(reads as f64 / begin.elapsed().as_secs_f64())
}

/// Requests with answers per second between two threads.
fn ping_pong() -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let mut client = TcpStream::connect(listener.local_addr()?).context("connect")?;
    let (mut server, _) = listener.accept().context("accept")?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let answering: JoinHandle<()> = thread::spawn(move || {
        let mut request = [0; 64];
        // Until the client has closed.
        while server.read_exact(&mut request).is_ok() && server.write_all(&request).is_ok() {}
    });
    let (begin, mut calls) = (Instant::now(), 0_u64);
    let mut answer = [b'x'; 64];
    while begin.elapsed() < SLICE {
        for _ in 0..100 {
            client.write_all(&answer)?;
            client.read_exact(&mut answer)?;
        }
        calls += 100;
    }
    let elapsed = begin.elapsed();
    drop(client);
    answering.join().map_err(|_| anyhow!("the server panicked"))?;
    Ok(calls as f64 / elapsed.as_secs_f64())
}

//! What watching, and what the in-process ways, leave of a service's throughput.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
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

/// Of one measurement.
pub(crate) const SLICE: Duration = Duration::from_secs(1);

/// For a service to get to its speed: a virtual machine that compiles as it goes takes longest.
const WARM: Duration = Duration::from_secs(4);

const CONCURRENCIES: [usize; 3] = [1, 16, 64];

impl Service {
    /// One that has come to its speed.
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

    /// One measurement for each concurrency.
    fn all(&self) -> Result<Vec<f64>> {
        CONCURRENCIES.iter().map(|&at_once| self.calls_per_second(at_once, SLICE)).collect()
    }
}

type Flags = fn(&Server) -> Vec<String>;

/// How a daemon watches: with the flags for this process.
const WAYS: [(&str, Flags); 2] = [
    ("both ends watched", |_| Vec::new()),
    ("the service watched", |server| vec!["--pid".into(), server.pid()]),
];

/// Watched ÷ bare just before and just after: the machine is shared, and faster now than then.
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

/// What a library leaves of the throughput of a service that it is in, beside what watching leaves.
pub(crate) fn libraries(peers: &Peers, results: &mut Results) -> Result<()> {
    const CONCURRENCY: usize = 16;
    let (python, go) = (peers.stack("python-asyncio")?, peers.stack("grpc-go")?);
    let told = tempfile::TempDir::with_prefix("told-").context("create a folder")?;
    let file = told.path().join("told").to_string_lossy().into_owned();
    let in_python = |library: &str| -> Result<Stack> {
        let [program, script, ..] = python.server.as_slice() else {
            return Err(anyhow!("{} has no script", python.name));
        };
        let script = Path::new(script).with_file_name("instrumented.py");
        let script = script.to_string_lossy().into_owned();
        let words = [program.clone(), script, "server".into(), "--library".into(), library.into()];
        let told = ["--told".into(), file.clone()];
        Ok(Stack { server: [&words[..], &told].concat(), ..python.clone() })
    };
    let in_go = |library: &str| {
        let words = ["--library".into(), library.into(), "--told".into(), file.clone()];
        Stack { server: [&go.server[..], &words].concat(), ..go.clone() }
    };
    let ways = [
        (&python, "py-async-grpc-prometheus", in_python("python")?),
        (&python, "an interceptor as guides show it", in_python("requests")?),
        (&python, "OpenTelemetry, spans to nowhere", in_python("otel")?),
        (&go, "go-grpc-middleware's prometheus", in_go("middleware")),
        (&go, "OpenTelemetry, metrics", in_go("otel")),
    ];
    for stack in [&python, &go] {
        let bare = Service::warm(stack)?;
        let mut services = Vec::new();
        for (_, library, with_it) in ways.iter().filter(|(of, ..)| of.name == stack.name) {
            services.push((*library, Service::warm(with_it)?, Vec::new()));
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
        for (library, _, ratios) in services {
            best = best.max(results.add(name(library), "", None, ratios));
        }
        results.add(name("watched, both ends"), "", Some(Bound::AtLeast(best)), watched);
    }
    Ok(())
}

/// What watching leaves of work that has nothing to do with gRPC.
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

/// Reads a second.
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

/// Requests and answers a second between two threads.
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

//! The cost of the export by OTLP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::Peers;
use crate::figures::{Bound, Results};
use crate::load::{Client, Load, Until};
use crate::service::Service;
use crate::watch::{Reading, Watch};

const REPEATS: usize = 5;

/// Fewer calls than the daemon has room for spans, because the load is faster than the daemon and this receiver
/// together.
const CALLS: u64 = 10_000;

/// The number of bursts of calls.
const BURSTS: usize = 6;

/// Time after which the spans of a burst have been sent.
const DRAIN: Duration = Duration::from_secs(1);

const SPANS_ONLY: &str = "export OTEL_BSP_SCHEDULE_DELAY=200 OTEL_METRICS_EXPORTER=none";

/// A receiver over HTTP that accepts everything, and takes little of the CPUs.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    /// The bytes of all requests.
    bytes: Arc<AtomicU64>,
}

impl Receiver {
    /// Starts the receiver, which runs until the process ends, and hands out the bodies of requests.
    pub(crate) fn start(each: impl Fn(Vec<u8>) + Clone + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port for a receiver")?;
        let (address, bytes) = (listener.local_addr()?, Arc::<AtomicU64>::default());
        let counter = Arc::clone(&bytes);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, each) = (Arc::clone(&counter), each.clone());
                // It ends when the daemon closes the connection.
                thread::spawn(move || receive(&stream, &counter, &each));
            }
        });
        Ok(Self { address, bytes })
    }
}

/// Answers each request with an empty message, which accepts all spans.
fn receive(mut stream: &TcpStream, bytes: &AtomicU64, each: &impl Fn(Vec<u8>)) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    loop {
        let mut length = 0_u64;
        loop {
            let mut line = String::new();
            ensure!(reader.read_line(&mut line)? > 0, "closed");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(number) = line.strip_prefix("content-length:") {
                length = number.trim().parse()?;
            }
        }
        let mut body = Vec::new();
        (&mut reader).take(length).read_to_end(&mut body)?;
        bytes.fetch_add(length, Ordering::Relaxed);
        each(body);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}

/// Measures the daemon's CPU time for a finished call with and without its span exported, in turns.
pub(crate) fn costs(peers: &Peers, results: &mut Results) -> Result<()> {
    let (service, receiver) = (Service::fast(peers)?, Receiver::start(drop)?);
    let endpoint = format!("http://{}", receiver.address);
    // Nothing else on this machine is exported.
    let (port, receives) = (service.server.port()?, ["--otlp-endpoint", &endpoint]);
    let bare = ["--port", &port];
    let exports = [bare, receives].concat();
    let gzip = [SPANS_ONLY, "export OTEL_EXPORTER_OTLP_COMPRESSION=gzip"];
    let rows: [(&str, &[&str], &[&str], _); 3] = [
        ("not exported", &[], &bare, None),
        ("exported", &[SPANS_ONLY], &exports, Some(Bound::AtMost(5.0))),
        ("exported with gzip", &gzip, &exports, None),
    ];
    let mut samples = rows.map(|_| (Vec::new(), Vec::new(), Vec::new()));
    for _ in 0..REPEATS {
        for ((_, commands, flags, _), (cpu, spans, bytes)) in rows.iter().zip(&mut samples) {
            let watch = Watch::start_after(commands, flags)?;
            let before = receiver.bytes.load(Ordering::Relaxed);
            let reading = exported(&service, &watch)?;
            watch.stop()?;
            let received = receiver.bytes.load(Ordering::Relaxed) - before;
            cpu.push(reading.cpu_ns / reading.ends / 1000.0);
            spans.push(reading.spans / reading.ends);
            bytes.push(received as f64 / reading.spans);
        }
    }
    for ((row, commands, _, bound), (cpu, spans, bytes)) in rows.into_iter().zip(samples) {
        results.add(format!("{row}: daemon's CPU time per finished call"), "µs", bound, cpu);
        if !commands.is_empty() {
            let all = Some(Bound::AtLeast(1.0));
            results.add(
                format!("{row}: spans that the receiver accepted ÷ finished calls"),
                "",
                all,
                spans,
            );
            results.add(format!("{row}: bytes of requests per span"), "B", None, bytes);
        }
    }
    Ok(())
}

/// Makes calls in bursts. Returns the sum of their readings.
fn exported(service: &Service, watch: &Watch) -> Result<Reading> {
    let load = Load::at_once(16);
    let mut client = Client::connect(service.address, load.connections)?;
    let mut sum = Reading::default();
    for _ in 0..BURSTS {
        let begin = watch.begin()?;
        let made = client.call(load, Until::Calls(CALLS))?;
        thread::sleep(DRAIN);
        let Reading { cpu_ns, ends, spans, .. } = watch.since(begin)?;
        ensure!(ends.total_cmp(&(2.0 * made.calls as f64)).is_eq(), "{ends} ends were seen");
        sum = Reading {
            cpu_ns: sum.cpu_ns + cpu_ns,
            ends: sum.ends + ends,
            spans: sum.spans + spans,
            ..sum
        };
    }
    Ok(sum)
}

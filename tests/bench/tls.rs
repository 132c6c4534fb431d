//! The cost of `--tls auto` to services over TLS: throughput, the time of a hit, and memory.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use support::breakpoints;
use support::peer::{Listen, Server};
use support::stack::Stack;
use support::tls::{Certificates, Shown};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::Peers;
use crate::figures::{Bound, Results};
use crate::load::{Client, Load, Until};
use crate::service::Service;
use crate::throughput::{SLICE, WARM};
use crate::watch::Watch;

const REPEATS: usize = 5;

const AT_ONCE: usize = 16;

/// Time for the libraries of a service to be probed.
const ATTACHED: Duration = Duration::from_secs(30);

/// The size of a page, by which code becomes private.
const PAGE: u64 = 4096;

/// A service over TLS.
struct Secured {
    service: Service,
    tls: Arc<ClientConfig>,
}

impl Secured {
    fn warm(stack: &Stack) -> Result<Self> {
        let certificates = Certificates::new()?;
        let server = Server::start(&certificates.stack(stack, Shown::ByServer), Listen::V4)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificates.authority())?)?;
        let mut tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let address = format!("127.0.0.1:{}", server.port()?).parse()?;
        let secured = Self { service: Service { server, address }, tls: Arc::new(tls) };
        secured.calls(WARM)?;
        Ok(secured)
    }

    /// Calls per second, and the number of calls.
    fn calls(&self, time: Duration) -> Result<(f64, u64)> {
        let load = Load::at_once(AT_ONCE);
        let mut client = Client::over_tls(self.service.address, load.connections, &self.tls)?;
        let made = client.call(load, Until::Elapsed(time))?;
        Ok((made.per_second(), made.calls))
    }
}

/// Measures watched ÷ bare, how many calls were seen, the memory of probed code, and the time of a hit.
pub(crate) fn services(peers: &Peers, results: &mut Results) -> Result<()> {
    for name in ["python-asyncio", "grpc-go", "grpc-js", "grpc-java", "tonic"] {
        let secured = Secured::warm(&peers.stack(name)?)?;
        let pid = secured.service.server.identity().pid;
        let (mut bare, mut ratios, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        let (mut pages, mut memory) = (Vec::new(), Vec::new());
        let (mut before, _) = secured.calls(SLICE)?;
        for _ in 0..REPEATS {
            let private = private_code(pid)?;
            let watch = Watch::start(&["--tls", "auto", "--pid", &pid.to_string()])?;
            let probes = await_probes(pid, "/")?;
            let begin = watch.begin()?;
            let (watched, calls) = secured.calls(SLICE)?;
            let ends = watch.since_ends(begin, calls as f64)?.ends;
            let probed: BTreeSet<u64> = probes.iter().map(|address| address / PAGE).collect();
            pages.push(probed.len() as f64);
            memory.push((private_code(pid)? - private) / probed.len() as f64);
            watch.stop()?;
            let (after, _) = secured.calls(SLICE)?;
            ratios.push(watched / f64::midpoint(before, after));
            seen.push(ends / calls as f64);
            bare.push(before);
            before = after;
        }
        results.add(format!("{name}: bare"), "calls/s", None, bare);
        let least = Some(Bound::AtLeast(0.9));
        results.add(format!("{name}: the service watched ÷ bare"), "", least, ratios);
        results.add(format!("{name}: calls seen ÷ made"), "", None, seen);
        results.add(format!("{name}: probed pages"), "", None, pages);
        results.add(format!("{name}: private memory per probed page"), "KiB", None, memory);
    }
    hits(results)
}

/// Measures the CPU time that a hit takes, if the BPF program has nothing to do. A call that returns at once hits a probe at
/// its beginning, where the kernel emulates the instruction, and one at its return instruction, which is single-stepped.
fn hits(results: &mut Results) -> Result<()> {
    const HITS: f64 = 2.0;
    let mut caller = Caller::start()?;
    caller.time()?;
    let (mut bare, mut times) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let before = caller.time()?;
        let watch = Watch::start(&["--tls", "auto", "--pid", &caller.child.id().to_string()])?;
        await_probes(caller.child.id(), Caller::LIBRARY)?;
        let watched = caller.time()?;
        watch.stop()?;
        let around = f64::midpoint(before, caller.time()?);
        bare.push(around);
        times.push((watched - around) / HITS);
    }
    results.add("a call of SSL_write with an invalid length, from Python, bare", "µs", None, bare);
    results.add("a hit of one of its two probes, on average", "µs", None, times);
    Ok(())
}

/// A process that calls a probed function.
struct Caller {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Caller {
    const LIBRARY: &str = "libssl.so.3";

    /// For each line of its stdin, it prints the CPU time of a call.
    const CODE: &str = r#"
import ctypes, sys, time
write, calls = ctypes.CDLL("libssl.so.3").SSL_write, 200_000
for _ in sys.stdin:
    begin = time.process_time_ns()
    for _ in range(calls):
        write(None, b"", -1)
    print((time.process_time_ns() - begin) / calls / 1000, flush=True)
"#;

    fn start() -> Result<Self> {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", Self::CODE]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start python3")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, output })
    }

    /// The CPU time of a call, in microseconds.
    fn time(&mut self) -> Result<f64> {
        self.child.stdin.as_mut().context("no stdin")?.write_all(b"\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("not a time: {line:?}"))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until code of a process is probed, and returns the addresses of the breakpoints. Without any, the service would
/// not be followed, and cost only what TLS connections cost at the socket.
fn await_probes(pid: u32, path: &str) -> Result<Vec<u64>> {
    let begin = Instant::now();
    loop {
        let found = breakpoints::addresses(pid, path)?;
        if !found.is_empty() {
            return Ok(found);
        }
        ensure!(begin.elapsed() < ATTACHED, "process {pid} is not probed");
        sleep(Duration::from_millis(100));
    }
}

/// The memory of a process's code that it shares with no other, and of the kernel's copies of probed instructions, in
/// KiB (`Anonymous` in proc_pid_smaps(5)).
fn private_code(pid: u32) -> Result<f64> {
    let mappings = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut sum, mut is_code) = (0.0, false);
    for line in mappings.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if !first.ends_with(':') {
            // A mapping: its range, permissions, offset, device, inode and path.
            is_code = second.contains('x') && words.nth(2).is_some_and(|inode| inode != "0")
                || line.ends_with("[uprobes]");
        } else if is_code && first == "Anonymous:" {
            sum += second.parse::<f64>().context("not in kB")?;
        }
    }
    Ok(sum)
}

//! The daemon as a process.

use std::cell::Cell;
use std::env;
use std::fmt::Debug;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::Signal;

use crate::expected::Expected;
use crate::losses;
use crate::memory::MemoryLimit;
use crate::namespaces::Network;
use crate::nobody::{BECOME_NOBODY, Reachable, as_nobody};
use crate::openmetrics::Metrics;
use crate::pace;
use crate::process::Process;
use crate::report;
use crate::stack::target_dir;

/// Time for the daemon to load its BPF programs: on an emulated machine the verifier takes minutes.
const START_LIMIT: Duration = Duration::from_mins(3);

/// Time for the daemon to refuse to start.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);

/// Time for the daemon to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Time for an event to be in a scrape: the end of a connection is noticed late.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Time for an answer to a request.
const SCRAPE_LIMIT: Duration = Duration::from_secs(10);

/// The `Accept` header of requests.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

/// A running daemon, which watches.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    address: SocketAddr,
    log: Log,
    output: Log,
    /// The network namespace in which it runs, if that is not the tests' own.
    network: Option<Network>,
    _copy: Option<Reachable>,
}

impl Daemon {
    /// Starts a daemon as root, and waits until it watches.
    pub fn start(args: &[&str]) -> Result<Self> {
        Self::start_as(args, User::Own)
    }

    /// Like [`Self::start`], run by `user`.
    pub fn start_as(args: &[&str], user: User) -> Result<Self> {
        let (command, copy) = run_by(user)?;
        Ok(Self { _copy: copy, ..Self::spawn(command, args, free_address()?)? })
    }

    /// Like [`Self::start`], at the address of a daemon that has ended.
    pub fn start_at(args: &[&str], address: SocketAddr) -> Result<Self> {
        Self::spawn(Command::new(binary()?), args, address)
    }

    /// Like [`Self::start`] without arguments, of another build of the daemon.
    pub fn start_program(program: &Path) -> Result<Self> {
        Self::spawn(Command::new(program), &[], free_address()?)
    }

    /// Like [`Self::start`], in a mount namespace of its own, in which a shell runs `commands` first. With
    /// `exec >FILE` in them, FILE is the daemon's stdout.
    pub fn start_after(commands: &[&str], args: &[&str]) -> Result<Self> {
        let mut command = among(None, commands);
        command.arg(binary()?);
        Self::spawn(command, args, free_address()?)
    }

    /// Like [`Self::start_after`], in a network namespace.
    pub fn start_in(network: &Network, commands: &[&str], args: &[&str]) -> Result<Self> {
        let mut command = among(Some(network), commands);
        command.arg(binary()?);
        Self::spawn_in(Some(network.clone()), command, args, free_address()?)
    }

    /// Like [`Self::start`], with a memory limit.
    pub fn start_within(limit: &MemoryLimit, args: &[&str]) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$1\" && shift && exec \"$@\"", "sh"]);
        command.arg(limit.members()).arg(binary()?);
        Self::spawn(command, args, free_address()?)
    }

    /// Like [`Self::start`], with a supervisor that listens on `socket` (sd_notify(3)) and expects a message within
    /// each `patience`.
    pub fn start_supervised(socket: &Path, patience: Duration) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.env("NOTIFY_SOCKET", socket);
        command.env("WATCHDOG_USEC", patience.as_micros().to_string());
        Self::spawn(command, &[], free_address()?)
    }

    fn spawn(command: Command, args: &[&str], address: SocketAddr) -> Result<Self> {
        Self::spawn_in(None, command, args, address)
    }

    fn spawn_in(
        network: Option<Network>,
        mut command: Command,
        args: &[&str],
        address: SocketAddr,
    ) -> Result<Self> {
        without_ours(&mut command).args(args);
        command.arg("--listen").arg(address.to_string()).stdout(Stdio::piped());
        let (mut process, log) = Process::logged(&mut command)?;
        let output = Log::of(process.stdout()?);
        let mut daemon = Self { process, address, log, output, network, _copy: None };
        daemon.wait_until_watching().with_context(|| daemon.log.text())?;
        Ok(daemon)
    }

    fn wait_until_watching(&mut self) -> Result<()> {
        pace::wait_for(START_LIMIT, || {
            ensure!(self.process.is_running()?, "the daemon ended before it watched");
            let watches = self.log.text().contains("watching");
            Ok(watches.then_some(()).context("the daemon does not say that it is watching"))
        })?;
        // This client speaks no TLS, and has no password.
        if self.log.text().contains("https://") {
            return Ok(());
        }
        let (status, _) = self.ask("/readyz", OPENMETRICS)?;
        ensure!(
            [200, 401].contains(&status),
            "the daemon logs that it is watching, but /readyz answers with status {status}"
        );
        Ok(())
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The address that it listens on, as an argument.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Whether `/readyz` answers with status 200.
    pub fn is_ready(&self) -> Result<bool> {
        Ok(self.ask("/readyz", OPENMETRICS)?.0 == 200)
    }

    /// What it has written to stderr so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Whether it watches sockets that do not count their bytes: Unix sockets and MPTCP. It does not where the kernel
    /// may skip programs, and logs so.
    pub fn watches_uncounted(&self) -> bool {
        let logged = "Unix and MPTCP sockets are not watched";
        !(losses::kernel_may_skip_programs() && self.log().contains(logged))
    }

    /// Whether it decodes transfers by io_uring, as backends at the kernel's own functions do.
    pub fn decodes_io_uring(&self) -> Result<bool> {
        Ok(matches!(&*self.backend()?, "fentry" | "kprobe"))
    }

    /// The backend that it uses, from `observer_build_info`.
    pub fn backend(&self) -> Result<String> {
        let metrics = self.scrape()?;
        let backends = metrics.label_values("observer_build_info", "backend");
        Ok(backends.into_iter().next().context("observer_build_info has no backend")?.to_owned())
    }

    /// What it has written to stdout so far.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// The status and the body of the answer to a GET of this path.
    fn ask(&self, path: &str, accept: &str) -> Result<(u16, String)> {
        let ask = || http_get_as(self.address, path, accept);
        self.network.as_ref().map_or_else(ask, |network| network.within(ask))
    }

    /// The answer of `/metrics` to a request with this `Accept` header.
    pub fn metrics_as(&self, accept: &str) -> Result<String> {
        let (status, body) = self.ask("/metrics", accept)?;
        ensure!(status == 200, "/metrics answers with status {status}: {body}");
        Ok(body)
    }

    /// The body of the answer to a GET of this path; any status but 200 is an error.
    pub fn get(&self, path: &str) -> Result<String> {
        let (status, body) = self.ask(path, OPENMETRICS)?;
        ensure!(status == 200, "{path} is answered with status {status}: {body}");
        Ok(body)
    }

    /// The answer of `/metrics`, parsed strictly.
    pub fn scrape(&self) -> Result<Metrics> {
        let metrics = Metrics::parse(&self.metrics_as(OPENMETRICS)?)?;
        metrics.is_the_daemons()?;
        metrics.types_agree()?;
        Ok(metrics)
    }

    /// The time that a scrape takes.
    pub fn scrape_time(&self) -> Result<Duration> {
        let begin = Instant::now();
        self.get("/metrics")?;
        Ok(begin.elapsed())
    }

    /// Scrapes until every number is as expected; after 10 s the last difference is the error. If the kernel has
    /// skipped programs: until no number is too high, and missing calls fit into the gaps.
    pub fn settle(&self, expected: &[Expected]) -> Result<()> {
        let skipped = Cell::new(None);
        self.wait_until(|metrics| {
            let differences = expected.iter().filter_map(|one| one.difference(metrics));
            let mut tables: Vec<_> = differences.collect();
            skipped.set(losses::skipped_programs(metrics).filter(|_| !tables.is_empty()));
            if skipped.get().is_some() {
                tables = expected.iter().filter_map(|one| one.untruth(metrics)).collect();
            }
            ensure!(tables.is_empty(), tables.join("\n"));
            Ok(())
        })?;
        match skipped.get() {
            Some(programs) => report::lossy(programs),
            None => report::exact(expected.iter().map(Expected::len).sum()),
        }
        Ok(())
    }

    /// Scrapes until `condition` holds; after 10 s its last error is returned, with the daemon's own metrics and its
    /// log.
    pub fn wait_until(&self, condition: impl Fn(&Metrics) -> Result<()>) -> Result<()> {
        pace::wait_for(SETTLE_LIMIT, || {
            let metrics = self.scrape()?;
            Ok(condition(&metrics).map_err(|difference| {
                let (own, log) = (metrics.nonzero("observer_"), self.log.text());
                anyhow!("{difference:#}\n\nThe daemon's own metrics:\n{own}\nIts log:\n{log}")
            }))
        })
    }

    /// Waits until the log contains `text` this many times, for 10 s at most.
    pub fn wait_for_log(&self, text: &str, times: impl RangeBounds<usize> + Debug) -> Result<()> {
        self.wait_until(|_| {
            let logged = self.log().matches(text).count();
            ensure!(times.contains(&logged), "{text:?} is logged {logged} times, not {times:?}");
            Ok(())
        })
    }

    /// Scrapes until the sum of the series with this name and these labels is in this range, for 10 s at most.
    pub fn wait_for_sum(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        range: impl RangeBounds<f64> + Debug,
    ) -> Result<()> {
        self.wait_until(|metrics| {
            let sum = metrics.sum(name, labels);
            ensure!(range.contains(&sum), "{name} {labels:?} is {sum}, not {range:?}");
            Ok(())
        })
    }

    /// Sends a signal: STOP pauses it until CONT, HUP has it open files again, after TERM it answers for a while.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Ends it by SIGTERM, and expects success.
    pub fn stop(self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Ends it by SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(STOP_LIMIT)?;
        Ok(())
    }

    /// Ends it by `signal`, and expects success.
    pub fn end(mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        let status = self.process.wait(STOP_LIMIT).with_context(|| self.log.text())?;
        ensure!(status.success(), "{signal:?} ends the daemon with {status}: {}", self.log.text());
        Ok(())
    }
}

/// Time that series are kept for, longer than [`Daemon::settle`] waits.
const TTL: Duration = Duration::from_secs(30);

/// A daemon that watches everything for several cases, and is replaced after a few: starting it takes longer than
/// most cases, and so does reading the metrics of many.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    daemon: Arc<Mutex<Option<Sharing>>>,
    args: &'static [&'static str],
}

/// The daemon, and the number of cases that have used it.
type Sharing = (Arc<Daemon>, u32);

/// The number of cases that use one daemon.
const SHARED_BY: u32 = 8;

impl Shared {
    /// One that is started with these arguments, too.
    #[must_use]
    pub fn with(args: &'static [&'static str]) -> Self {
        Self { args, ..Self::default() }
    }

    /// Runs a case, which is told from the others by its processes.
    pub fn watch<T>(&self, case: impl FnOnce(&Daemon) -> Result<T>) -> Result<T> {
        let mut shared = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let daemon = if let Some((daemon, cases)) = &mut *shared
            && *cases < SHARED_BY
        {
            *cases += 1;
            Arc::clone(daemon)
        } else {
            // There are many scrapes, so short ones. But a process's series must stay for as long as a case waits.
            let ttl = format!("{}s", pace::limit(TTL).as_secs());
            let args = [&["--buckets", "1", "--series-ttl", &ttl], self.args].concat();
            let daemon = Arc::new(Daemon::start(&args)?);
            let (daemon, _) = shared.insert((daemon, 1));
            Arc::clone(daemon)
        };
        drop(shared);
        case(&daemon)
    }
}

/// The user and the privileges of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The user of the tests: root.
    Own,
    /// A user without any privilege.
    Nobody,
    /// A user with these capabilities (setpriv(1)) and no other privilege.
    With(&'static [&'static str]),
    /// A user with these capabilities to whom `/proc` shows only its own processes (proc(5), `hidepid`).
    Blindfolded(&'static [&'static str]),
    /// Root, where neither tracefs nor debugfs is mounted.
    WithoutTracefs,
    /// A user with these capabilities, where neither is mounted.
    Untraced(&'static [&'static str]),
}

/// Mounts tracefs at its usual place, for a daemon that may not do so itself.
const TRACEFS: &str =
    "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing";
/// Mounts a `/proc` that shows users only their own processes.
const HIDEPID: &str = "mount -t proc -o hidepid=2 proc /proc";
/// Unmounts tracefs, and debugfs, which mounts one by itself when it is read.
const NO_TRACEFS: &str = "for place in /sys/kernel/debug /sys/kernel/tracing; do
    while mountpoint -q $place; do umount --recursive --lazy $place; done
done";

/// Starts a daemon that must refuse, and returns its error, which must be one line. Without `--listen` in `args` it
/// listens at a free address.
pub fn refusal(args: &[&str], user: User) -> Result<String> {
    let (mut command, _copy) = run_by(user)?;
    without_ours(&mut command).args(args).current_dir("/");
    command.env("OBSERVER_LISTEN", free_address()?.to_string()).stdout(Stdio::null());
    let (mut process, log) = Process::logged(&mut command)?;
    let status = process.wait(REFUSAL_LIMIT).with_context(|| log.text())?;
    let text = log.wait_for_end();
    ensure!(!status.success(), "the daemon ends with success and says: {text}");
    ensure!(status.code().is_some(), "the daemon ends by a signal, {status}: {text}");
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (Some(line), None) => Ok(line.to_owned()),
        _ => bail!("not one line but:\n{text}"),
    }
}

/// A command that runs the daemon as `user`, and the copy of its program that it needs: others cannot enter /root.
fn run_by(user: User) -> Result<(Command, Option<Reachable>)> {
    let binary = binary()?;
    if user == User::Own {
        return Ok((Command::new(binary), None));
    }
    let copy = Reachable::copy_of(&binary)?;
    let (mounts, capabilities): (&[&str], _) = match user {
        User::Own | User::Nobody => return Ok((as_nobody(copy.path()), Some(copy))),
        User::With(capabilities) => (&[TRACEFS], Some(capabilities)),
        User::Blindfolded(capabilities) => (&[TRACEFS, HIDEPID], Some(capabilities)),
        User::WithoutTracefs => (&[NO_TRACEFS], None),
        User::Untraced(capabilities) => (&[NO_TRACEFS], Some(capabilities)),
    };
    let mut command = among(None, mounts);
    if let Some(capabilities) = capabilities {
        command.arg("setpriv").args(BECOME_NOBODY);
        let only = capabilities.join(",+");
        let sets = ["--inh-caps", "--ambient-caps", "--bounding-set"];
        command.args(sets.map(|set| format!("{set}=-all,+{only}")));
    }
    command.arg(copy.path());
    Ok((command, Some(copy)))
}

/// A command that runs its arguments in a mount namespace of its own, which `mounts` change first.
fn among(network: Option<&Network>, mounts: &[&str]) -> Command {
    const PROGRAM: &str = "unshare";
    let script = format!("set -e\n{}\nexec \"$@\"", mounts.join("\n"));
    let mut command =
        network.map_or_else(|| Command::new(PROGRAM), |network| network.command(PROGRAM));
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    command
}

/// A command that runs the daemon's program with these arguments, without waiting for it to watch.
pub fn command(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    without_ours(&mut command).args(args);
    Ok(command)
}

/// Removes the tests' own variables from a command's environment: the daemon would take them for mistyped flags.
pub fn without_ours(command: &mut Command) -> &mut Command {
    const OURS: [&str; 3] = ["OBSERVER_TEST_", "OBSERVER_BENCH_", "OBSERVER_BPF_"];
    for (name, _) in env::vars_os() {
        let is_ours = |name: &str| OURS.iter().any(|prefix| name.starts_with(prefix));
        if name == "OBSERVER_BIN" || name.to_str().is_some_and(is_ours) {
            command.env_remove(name);
        }
    }
    command
}

/// The daemon's program: `OBSERVER_BIN`, or the newest in the target directory.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("OBSERVER_BIN") {
        return Ok(path.into());
    }
    let target = target_dir()?;
    let mut candidates = ["release", "debug"].map(|profile| target.join(profile).join("observer"));
    // The newer one is what the developer has just built.
    candidates.sort_by_key(|path| path.metadata().and_then(|file| file.modified()).ok());
    let [_, newest] = candidates;
    ensure!(
        newest.is_file(),
        "no daemon in {}: build it (cargo xtask build) or name it in OBSERVER_BIN",
        target.display()
    );
    Ok(newest)
}

/// An address of 127.0.0.1 with a free port. Another process may take it before the daemon does, which is unlikely
/// enough on a machine that runs tests.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    listener.local_addr().context("find a free port")
}

/// The output of a process, read as it comes so that the process never blocks.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Arc<Mutex<String>>,
    reader: thread::JoinHandle<()>,
}

impl Log {
    pub(crate) fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
                written.push_str(&line);
                written.push('\n');
            }
        });
        Self { lines, reader }
    }

    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The whole output, once the process has ended.
    fn wait_for_end(self) -> String {
        // A panic in the reader loses only lines, which the tests then miss.
        let _ = self.reader.join();
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The status and body of the answer to a GET. It is plain, so that the daemon's server is tested and not a client.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    http_get_as(address, path, OPENMETRICS)
}

fn http_get_as(address: SocketAddr, path: &str, accept: &str) -> Result<(u16, String)> {
    let context = || format!("GET http://{address}{path}");
    let limit = pace::limit(SCRAPE_LIMIT);
    let mut stream = TcpStream::connect_timeout(&address, limit).with_context(context)?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Accept: {accept}\r\n\r\n"
    )
    .with_context(context)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(context)?;
    let answer = String::from_utf8(answer).with_context(context)?;
    parse_answer(&answer).with_context(context)
}

fn parse_answer(answer: &str) -> Result<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without headers' end")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?;
    let headers: Vec<_> =
        lines.filter_map(|line| line.split_once(':')).map(|(n, v)| (n, v.trim())).collect();
    let header = |name: &str| {
        headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    };
    let body = if header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        join_chunks(body)?
    } else {
        let length: usize =
            header("content-length").context("an answer without length")?.parse()?;
        ensure!(length == body.len(), "{} bytes of {length}", body.len());
        body.to_owned()
    };
    Ok((status.parse()?, body))
}

fn join_chunks(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").context("a chunk without size")?;
        let size = usize::from_str_radix(size, 16).context("a chunk's size")?;
        if size == 0 {
            return Ok(body);
        }
        let (chunk, after) = after.split_at_checked(size).context("a chunk that is cut")?;
        body.push_str(chunk);
        rest = after.strip_prefix("\r\n").context("a chunk without end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::parse_answer;

    #[test]
    fn reads_answers_with_a_length_and_in_chunks() {
        let plain = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno";
        assert_eq!(parse_answer(plain).unwrap(), (503, "no".into()));
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse_answer(chunked).unwrap(), (200, "abcd".into()));
    }

    #[test]
    fn an_answer_that_is_cut_is_an_error() {
        for answer in [
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nno",
            "HTTP/1.1 200 OK\r\n\r\nno",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            assert!(parse_answer(answer).is_err(), "{answer:?}");
        }
    }
}

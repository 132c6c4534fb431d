//! The daemon as a process.

use std::cell::Cell;
use std::env;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use crate::expected::Expected;
use crate::losses;
use crate::memory::MemoryLimit;
use crate::nobody::{NOBODY, Reachable, as_nobody};
use crate::openmetrics::Metrics;
use crate::pace;
use crate::process::Process;
use crate::report;
use crate::stack::target_dir;

/// For the daemon to load its programs: the verifier takes its time in an emulator.
const START_LIMIT: Duration = Duration::from_mins(3);

/// For the daemon to refuse.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);

/// For the daemon to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// For what happened to be in a scrape: the end of a connection may take a while to be noticed.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// For a scrape.
const SCRAPE_LIMIT: Duration = Duration::from_secs(10);

/// What a scrape asks for.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

/// A daemon that watches.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    address: SocketAddr,
    log: Log,
    output: Log,
    _program: Program,
}

impl Daemon {
    /// Starts it and waits until it watches.
    pub fn start<S: AsRef<str>>(args: &[S]) -> Result<Self> {
        Self::start_as(args, User::Own)
    }

    /// Likewise, run by somebody else.
    pub fn start_as<S: AsRef<str>>(args: &[S], user: User) -> Result<Self> {
        Self::start_with(args, user, free_address()?)
    }

    /// Likewise, where one was that has ended.
    pub fn start_at<S: AsRef<str>>(args: &[S], address: SocketAddr) -> Result<Self> {
        Self::start_with(args, User::Own, address)
    }

    /// Likewise, in a mount namespace of its own, after a shell has run these commands in it: with
    /// `exec >FILE` as one of them that is its stdout.
    pub fn start_after<S: AsRef<str>>(commands: &[&str], args: &[S]) -> Result<Self> {
        let program = Program::of(User::Own)?;
        let mut command = among(commands);
        command.arg(program.path());
        Self::start_by(command, program, args, free_address()?)
    }

    /// Likewise, with no more memory than that.
    pub fn start_within<S: AsRef<str>>(limit: &MemoryLimit, args: &[S]) -> Result<Self> {
        let program = Program::of(User::Own)?;
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$1\" && shift && exec \"$@\"", "sh"]);
        command.arg(limit.members()).arg(program.path());
        Self::start_by(command, program, args, free_address()?)
    }

    /// Likewise, told by a supervisor where it is to be told how it is, and that it waits so long for that.
    pub fn start_supervised(socket: &Path, patience: Duration) -> Result<Self> {
        let program = Program::of(User::Own)?;
        let mut command = program.command(User::Own);
        command.env("NOTIFY_SOCKET", socket);
        command.env("WATCHDOG_USEC", patience.as_micros().to_string());
        Self::start_by::<&str>(command, program, &[], free_address()?)
    }

    fn start_with<S: AsRef<str>>(args: &[S], user: User, address: SocketAddr) -> Result<Self> {
        let program = Program::of(user)?;
        Self::start_by(program.command(user), program, args, address)
    }

    fn start_by<S: AsRef<str>>(
        mut command: Command,
        program: Program,
        args: &[S],
        address: SocketAddr,
    ) -> Result<Self> {
        without_ours(&mut command).args(args.iter().map(AsRef::as_ref));
        command.arg("--listen").arg(address.to_string()).stdout(Stdio::piped());
        let (mut process, log) = Process::logged(&mut command)?;
        let output = Log::of(process.stdout()?);
        let mut daemon = Self { process, address, log, output, _program: program };
        daemon.wait_until_watching().with_context(|| daemon.log.text())?;
        Ok(daemon)
    }

    fn wait_until_watching(&mut self) -> Result<()> {
        pace::wait_for(START_LIMIT, || {
            ensure!(self.process.is_running()?, "the daemon ended before it watched");
            let watches = self.log.text().contains("watching");
            Ok(watches.then_some(()).ok_or("the daemon does not say that it is watching".into()))
        })?;
        // Who asks for TLS is asked by who speaks it; who asks for a password, by who has one.
        if self.log.text().contains("https://") {
            return Ok(());
        }
        let (status, _) = http_get(self.address, "/readyz")?;
        ensure!(
            [200, 401].contains(&status),
            "the daemon says it is watching, but /readyz says otherwise"
        );
        Ok(())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its address, as an argument.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Whether `/readyz` says that it watches.
    pub fn is_ready(&self) -> Result<bool> {
        Ok(http_get(self.address, "/readyz")?.0 == 200)
    }

    /// Whether `/healthz` says that it is well.
    pub fn is_alive(&self) -> Result<bool> {
        Ok(http_get(self.address, "/healthz")?.0 == 200)
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Whether it watches sockets that do not count their bytes: Unix sockets and MPTCP. Where the kernel may
    /// skip programs it says that it does not.
    pub fn watches_uncounted(&self) -> bool {
        let told = "Unix and MPTCP sockets are not watched";
        !(losses::kernel_may_skip_programs() && self.log().contains(told))
    }

    /// Whether it decodes what io_uring moves: at the kernel's own functions the process's buffers are known.
    pub fn decodes_io_uring(&self) -> Result<bool> {
        Ok(matches!(&*self.backend()?, "fentry" | "kprobe"))
    }

    /// The backend that it uses.
    pub fn backend(&self) -> Result<String> {
        let metrics = self.scrape()?;
        let backends = metrics.label_values("observer_build_info", "backend");
        Ok(backends.into_iter().next().context("no backend is told")?.to_owned())
    }

    /// What it has written to stdout so far.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// What `/metrics` says now, to who accepts this.
    pub fn metrics_as(&self, accept: &str) -> Result<String> {
        let (status, body) = http_get_as(self.address, "/metrics", accept)?;
        ensure!(status == 200, "/metrics answers with status {status}: {body}");
        Ok(body)
    }

    /// What it answers to a GET of this path.
    pub fn get(&self, path: &str) -> Result<String> {
        let (status, body) = http_get(self.address, path)?;
        ensure!(status == 200, "{path} is answered with status {status}: {body}");
        Ok(body)
    }

    /// What `/metrics` says now.
    pub fn scrape(&self) -> Result<Metrics> {
        let metrics = Metrics::parse(&self.metrics_as(OPENMETRICS)?)?;
        metrics.is_the_daemons()?;
        metrics.types_agree()?;
        Ok(metrics)
    }

    /// How long a scrape takes.
    pub fn scrape_time(&self) -> Result<Duration> {
        let begin = Instant::now();
        let (status, body) = http_get(self.address, "/metrics")?;
        ensure!(status == 200, "/metrics answers with status {status}: {body}");
        Ok(begin.elapsed())
    }

    /// Scrapes until every number is as expected; the last difference is the error when that
    /// does not come about. Where the kernel may skip programs, and has, until nothing is missing that
    /// is not said to be unseen, and nothing is told that is not so.
    pub fn settle(&self, expected: &[Expected]) -> Result<()> {
        let told = |tables: Vec<String>| {
            if tables.is_empty() { Ok(()) } else { Err(tables.join("\n")) }
        };
        let exact = |metrics: &Metrics| {
            told(expected.iter().filter_map(|expected| expected.difference(metrics)).collect())
        };
        let skipped = Cell::new(None);
        self.wait_until(|metrics| {
            let exact = exact(metrics);
            skipped.set(losses::skipped_programs(metrics).filter(|_| exact.is_err()));
            if skipped.get().is_none() {
                return exact;
            }
            told(expected.iter().filter_map(|of| of.untruth(metrics)).collect())
        })?;
        match skipped.get() {
            Some(programs) => report::lossy(programs),
            None => report::exact(expected.iter().map(Expected::len).sum()),
        }
        Ok(())
    }

    /// Scrapes until `condition` holds; what it says otherwise is the error.
    pub fn wait_until(&self, condition: impl Fn(&Metrics) -> Result<(), String>) -> Result<()> {
        pace::wait_for(SETTLE_LIMIT, || {
            let metrics = self.scrape()?;
            Ok(condition(&metrics).map_err(|difference| {
                let (own, log) = (metrics.nonzero("observer_"), self.log.text());
                format!("{difference}\n\nThe daemon of itself:\n{own}\nIts log:\n{log}")
            }))
        })
    }

    /// Scrapes until the series of this name that have these labels add up to a number of this range.
    pub fn wait_for_sum(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        range: impl RangeBounds<f64> + Debug,
    ) -> Result<()> {
        self.wait_until(|metrics| {
            let sum = metrics.sum(name, labels);
            let is = range.contains(&sum);
            is.then_some(()).ok_or_else(|| format!("{name} {labels:?} is {sum}, not {range:?}"))
        })
    }

    /// Stops it where it is: it reads nothing until [`Self::resume`].
    pub fn pause(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// It goes on.
    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// SIGHUP, after which it goes on.
    pub fn hang_up(&self) -> Result<()> {
        self.process.signal(Signal::HUP)
    }

    /// SIGTERM, after which it answers for a while.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Ends it by SIGTERM, which must be clean.
    pub fn stop(self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Ends it by SIGINT, which must be clean.
    pub fn interrupt(self) -> Result<()> {
        self.end(Signal::INT)
    }

    /// Ends it by SIGKILL, of which it learns nothing.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(STOP_LIMIT)?;
        Ok(())
    }

    fn end(mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        let status = self.process.wait(STOP_LIMIT).with_context(|| self.log.text())?;
        ensure!(status.success(), "{signal:?} ends the daemon with {status}: {}", self.log.text());
        Ok(())
    }
}

/// Longer than it takes a scrape to settle.
const TTL: Duration = Duration::from_secs(30);

/// A daemon that watches everything for the cases that have it, one for each few: starting it takes longer
/// than most of them, and reading what it tells of many as well.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Option<Sharing>>>);

/// The daemon, and how many cases have had it.
type Sharing = (Arc<Daemon>, u32);

/// Cases that a daemon is shared by.
const SHARED_BY: u32 = 8;

impl Shared {
    /// A case that is told apart from the others by its processes.
    pub fn watch<T>(&self, case: impl FnOnce(&Daemon) -> Result<T>) -> Result<T> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let daemon = if let Some((daemon, cases)) = &mut *shared
            && *cases < SHARED_BY
        {
            *cases += 1;
            Arc::clone(daemon)
        } else {
            // Scrapes are many: short ones. But what a process did must be told for as long as it is waited for.
            let ttl = format!("{}s", pace::limit(TTL).as_secs());
            let daemon = Arc::new(Daemon::start(&["--buckets", "1", "--series-ttl", &ttl])?);
            let (daemon, _) = shared.insert((daemon, 1));
            Arc::clone(daemon)
        };
        drop(shared);
        case(&daemon)
    }
}

/// Who runs a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Who runs the tests: root.
    Own,
    /// One without any privilege.
    Nobody,
    /// One with these capabilities (as setpriv(1) names them) and no other privilege.
    With(&'static [&'static str]),
    /// Likewise, where `/proc` shows it only its own processes (proc(5), `hidepid`).
    Blindfolded(&'static [&'static str]),
    /// Who runs the tests, where neither tracefs nor debugfs is mounted.
    WithoutTracefs,
    /// One with these capabilities and no other privilege, likewise.
    Untraced(&'static [&'static str]),
}

/// Mounts tracefs where an administrator would, for a daemon that may not do so itself.
const TRACEFS: &str =
    "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing";
/// Has `/proc` show each process only its own.
const HIDEPID: &str = "mount -t proc -o hidepid=2 proc /proc";
/// Leaves no tracefs; debugfs mounts one by itself when it is looked into.
const NO_TRACEFS: &str = "for place in /sys/kernel/debug /sys/kernel/tracing; do
    while mountpoint -q $place; do umount --recursive --lazy $place; done
done";

/// Starts a daemon that must refuse, and returns the one line in which it says why. It listens at a free address
/// unless the arguments say where.
pub fn refusal<S: AsRef<str>>(args: &[S], user: User) -> Result<String> {
    let program = Program::of(user)?;
    let mut command = program.command(user);
    without_ours(&mut command).args(args.iter().map(AsRef::as_ref)).current_dir("/");
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

/// The daemon's program; or a copy of it, where those can reach it who cannot enter /root, say.
#[derive(Debug)]
enum Program {
    Built(PathBuf),
    Copied(Reachable),
}

impl Program {
    fn of(user: User) -> Result<Self> {
        let binary = binary()?;
        if user == User::Own {
            return Ok(Self::Built(binary));
        }
        Ok(Self::Copied(Reachable::copy_of(&binary)?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Built(path) => path,
            Self::Copied(copy) => copy.path(),
        }
    }

    fn command(&self, user: User) -> Command {
        let (mounts, capabilities): (&[&str], _) = match user {
            User::Own => return Command::new(self.path()),
            User::Nobody => return as_nobody(self.path()),
            User::With(capabilities) => (&[TRACEFS], Some(capabilities)),
            User::Blindfolded(capabilities) => (&[TRACEFS, HIDEPID], Some(capabilities)),
            User::WithoutTracefs => (&[NO_TRACEFS], None),
            User::Untraced(capabilities) => (&[NO_TRACEFS], Some(capabilities)),
        };
        let mut command = among(mounts);
        if let Some(capabilities) = capabilities {
            command.arg("setpriv").args(only(capabilities));
        }
        command.arg(self.path());
        command
    }
}

/// Runs what is added to it in a mount namespace of its own, which these commands change first.
fn among(mounts: &[&str]) -> Command {
    let script = format!("set -e\n{}\nexec \"$@\"", mounts.join("\n"));
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    command
}

/// What setpriv(1) is told.
fn only(capabilities: &[&str]) -> Vec<String> {
    let sets = ["--inh-caps", "--ambient-caps", "--bounding-set"];
    let only = capabilities.join(",+");
    let mut words = vec![format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
    words.push("--clear-groups".into());
    words.extend(sets.map(|set| format!("{set}=-all,+{only}")));
    words
}

/// The daemon's program with these arguments.
pub fn command<S: AsRef<OsStr>>(args: &[S]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    without_ours(&mut command).args(args);
    Ok(command)
}

/// A command without the tests' own variables, which the daemon would take for mistyped flags.
pub fn without_ours(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let is_ours = |name: &str| {
            name == "OBSERVER_BIN"
                || ["TEST_", "BENCH_", "BPF_"].iter().any(|rest| {
                    name.strip_prefix("OBSERVER_").is_some_and(|of| of.starts_with(rest))
                })
        };
        if name.to_str().is_some_and(is_ours) {
            command.env_remove(name);
        }
    }
    command
}

/// The program of the daemon.
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

/// An address that nobody listens on. Somebody else may take it before the daemon does, which
/// on a machine that runs tests is unlikely enough.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    listener.local_addr().context("find a free port")
}

/// What a process says on stderr or stdout, read as it comes so that it never blocks.
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

    /// All of it, once the process has ended.
    fn wait_for_end(self) -> String {
        // A panic in the reader loses only lines, which the tests then miss.
        let _ = self.reader.join();
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Status and body. As plain as it can be, so that the daemon's server is tested and not a client.
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

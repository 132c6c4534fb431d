//! Events in the life of a daemon: signals, a supervisor, scrapers, processes, CPUs, the clock.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::programs::loaded_programs;
use prost::Message as _;
use prost_types::{
    FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::Signal;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use support::daemon::Daemon;
use support::footprint::{Footprint, programs, status, threads};
use support::losses;
use support::nobody::{self, NOBODY};
use support::pace;
use support::raw::talk::Role::Server;
use support::raw::talk::service_of;
use support::raw::{Address, Call, Talk};
use support::report;
use tempfile::TempDir;

use super::backends::{Restored, are_freed};
use super::reports::{NOT_SEEN, flush_tables, reports_calls};
use super::{NOT_FOUND, OK, Table};

/// Time for a socket's buffers to fill, and for the daemon to be ready or not.
const FULL_LIMIT: Duration = Duration::from_secs(10);

/// The file that says whether the second CPU is online; missing if there is none or it cannot be offline.
const CPU: &str = "/sys/devices/system/cpu/cpu1/online";

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark(
        "tshark cannot tell: how the daemon does is not on the wire. The case of a processor \
         is run where there is one to take offline.",
    );
    table.alone(
        "killed, it leaves no program behind, and the service goes on",
        killed_daemon_leaves_no_program,
    );
    table.alone(
        "stopped, it answers one more scrape, and the next one begins anew",
        stopped_daemon_answers_one_more_scrape,
    );
    table.alone("SIGHUP, at which files are opened and read again", sighup_opens_files_again);
    table.alone(
        "SIGHUP, of files that are kept from the user that it became",
        sighup_names_files_that_it_may_not_read,
    );
    table.alone("a worker that hangs", hanging_worker_is_unhealthy);
    table.alone("a supervisor that waits for it", supervisor_is_notified);
    table.alone("100 scrapers at once", a_hundred_scrapers_are_answered);
    table.alone(
        "scrapers that never read, their sockets full",
        scrapers_that_never_read_are_dropped,
    );
    super::visitors::add(table);
    table.alone("processes that come and go", short_lived_processes_are_counted);
    let possible = Path::new(CPU).exists();
    table.alone_if(
        possible,
        "a processor taken offline and back",
        a_processor_goes_offline_and_back,
    );
    // On a machine that is not only for the tests, other programs need the clock.
    table.alone_if(pace::is_emulated(), "the wall clock jumps", wall_clock_jumps);
}

fn killed_daemon_leaves_no_program(name: &str) -> Result<()> {
    replaced(name, |daemon, _| daemon.kill())
}

/// It answers for a while with all its numbers, and is not ready.
fn stopped_daemon_answers_one_more_scrape(name: &str) -> Result<()> {
    replaced(name, |daemon, pid| {
        daemon.signal(Signal::TERM)?;
        becomes_ready(&daemon, false)?;
        let last = daemon.scrape()?;
        for (family, want) in [("started_total", 2.0), ("handled_total", 1.0), ("in_flight", 1.0)] {
            let seen = last.sum(&format!("grpc_server_{family}"), &[("pid", pid)]);
            ensure!(losses::is_as_expected(&last, seen, want), "{family} is {seen}, not {want}");
        }
        daemon.stop()
    })
}

/// Ends a daemon; `end` gets the number of a server that it watches. It must leave no program behind, and the service
/// continues. The next daemon, at the same address, has no earlier calls, and the code of a call that was open.
fn replaced(name: &str, end: impl FnOnce(Daemon, &str) -> Result<()>) -> Result<()> {
    let next = OnceCell::new();
    let daemon = Daemon::start(&[])?;
    let attached = programs(daemon.pid())?;
    ensure!(
        program_numbers().is_superset(&attached) && attached.len() > 4,
        "{attached:?} are not loaded"
    );
    // Another daemon watches all calls.
    let other = Daemon::start(&[])?;
    let mut talk = Talk::begin(&other, name, Address::V4(0))?;
    talk.expected_call(1, "Get", OK)?;
    talk.client(|f| f.request(3, "Get").last_message(3, 5))?;
    let address = daemon.address().parse()?;
    end(daemon, &talk.pid(Server)?)?;
    are_freed(|| program_numbers().intersection(&attached).copied().collect())?;
    let started = Daemon::start_at(&[], address)?;
    talk.daemon = next.get_or_init(|| started);
    talk.client(|f| flush_tables(f).request(5, "Get").last_message(5, 5))?;
    talk.server(|f| flush_tables(f).response(3).message(3, 6).trailers(3, OK))?;
    talk.server(|f| f.response(5).message(5, 6).trailers(5, OK))?;
    talk.expect(Call::new("Get", OK).unary(5, 6).times(2))?;
    talk.expected_call(7, "Get", OK)?;
    reports_calls(&mut talk, &[(NOT_SEEN, "OK", 1), ("Get", "OK", 2)], 2, 0)?;
    talk.daemon = &other;
    talk.finish()
}

/// At SIGHUP it keeps its numbers, opens a new file for its output if the old one was renamed, and reads the declared
/// types again, if their file is valid.
fn sighup_opens_files_again(name: &str) -> Result<()> {
    let folder = TempDir::with_prefix("hang-up-").context("create a folder")?;
    // The daemon becomes this user.
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).context("give the folder away")?;
    let place = |name: &str| folder.path().join(name);
    let (lines, old, set) = (place("lines"), place("lines.1"), place("types.pb"));
    let service = service_of(name);
    let declare = |server_streaming| -> Result<()> {
        let set_of = descriptor_set(&service, "Get", server_streaming);
        fs::write(&set, set_of).context("write the descriptor set")
    };
    declare(false)?;
    let shown = set.to_string_lossy();
    let flags = ["--log-errors", "--descriptor-set", &shown];
    let daemon = Daemon::start_after(&[&format!("exec >>{}", lines.display())], &flags)?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    let mut stream = 1;
    let mut fail = |talk: &mut Talk<'_>| -> Result<()> {
        talk.client(|f| f.request(stream, "Get").last_message(stream, 5))?;
        talk.server(|f| f.response(stream).trailers(stream, NOT_FOUND))?;
        stream += 2;
        Ok(())
    };
    let has = |path: &Path, count: usize, calls: u32, grpc_type: &str| {
        let labels = [("grpc_method", "Get"), ("grpc_type", grpc_type)];
        daemon.wait_until(|metrics| {
            metrics.expect_sum("grpc_server_handled_total", &labels, calls)?;
            let text = fs::read_to_string(path).unwrap_or_default();
            ensure!(text.lines().count() == count, "not {count} lines: {text}");
            Ok(())
        })
    };
    let hang_up = |times: usize| -> Result<()> {
        daemon.signal(Signal::HUP)?;
        daemon.wait_for_log("SIGHUP: done", times..=times)
    };
    fail(&mut talk)?;
    has(&lines, 2, 1, "unary")?;

    fs::rename(&lines, &old).context("rename the file")?;
    declare(true)?;
    hang_up(1)?;
    fail(&mut talk)?;
    has(&lines, 2, 2, "server_stream")?;
    ensure!(fs::read_to_string(&old)?.lines().count() == 2, "it still writes to the old file");

    fs::write(&set, "no set").context("spoil the descriptor set")?;
    hang_up(2)?;
    ensure!(daemon.log().contains("keeping the previous declared types"), "{}", daemon.log());
    fail(&mut talk)?;
    has(&lines, 4, 3, "server_stream")?;
    ensure!(daemon.is_ready()?, "it is not ready any more");
    daemon.stop()
}

/// It logs that at its start, and keeps the files that it has at SIGHUP.
fn sighup_names_files_that_it_may_not_read(name: &str) -> Result<()> {
    let folder = TempDir::with_prefix("kept-").context("create a folder")?;
    let (lines, old) = (folder.path().join("lines"), folder.path().join("lines.1"));
    let set = folder.path().join("types.pb");
    fs::write(&set, descriptor_set(&service_of(name), "Get", false)).context("write the set")?;
    fs::set_permissions(&set, Permissions::from_mode(0o600)).context("keep the set")?;
    let flags = ["--log-errors", "--descriptor-set", &set.to_string_lossy()];
    let daemon = Daemon::start_after(&[&format!("exec >>{}", lines.display())], &flags)?;
    for text in ["types.pb cannot be read again: user nobody", "SIGHUP cannot reopen files in"] {
        ensure!(daemon.log().contains(text), "{text:?} is not logged: {}", daemon.log());
    }
    fs::rename(&lines, &old).context("rename the file")?;
    daemon.signal(Signal::HUP)?;
    daemon.wait_for_log("SIGHUP: done", 1..)?;
    for text in ["stdout keeps its file", "keeping the previous declared types"] {
        ensure!(daemon.log().contains(text), "{text:?} is not logged: {}", daemon.log());
    }
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
    talk.server(|f| f.response(1).trailers(1, NOT_FOUND))?;
    daemon.wait_until(|_| match fs::read_to_string(&old) {
        Ok(text) if text.lines().count() == 2 => Ok(()),
        text => bail!("{text:?}"),
    })?;
    daemon.stop()
}

/// Only a worker's thread is stopped, as by an endless loop: the daemon is not ready after three seconds.
fn hanging_worker_is_unhealthy(name: &str) -> Result<()> {
    let daemon = Daemon::start(&["--workers", "2"])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    talk.expected_call(1, "Get", OK)?;
    let held = Held::thread(daemon.pid(), "worker-1")?;
    becomes_ready(&daemon, false)?;
    daemon.get("/healthz").context("it would be restarted after three seconds")?;
    drop(held);
    becomes_ready(&daemon, true)?;
    // If all threads are stopped, no worker hangs.
    daemon.signal(Signal::STOP)?;
    sleep(Duration::from_secs(4));
    daemon.signal(Signal::CONT)?;
    ensure!(daemon.is_ready()?, "it is not ready once it continues");
    talk.expected_call(3, "Get", OK)?;
    talk.finish()
}

fn becomes_ready(daemon: &Daemon, ready: bool) -> Result<()> {
    pace::wait_for(FULL_LIMIT, || {
        let is = daemon.is_ready()? == ready;
        Ok(is.then_some(()).with_context(|| format!("/readyz: ready is not {ready}")))
    })
}

/// A thread that is stopped until this is dropped; the others of its process run.
struct Held(i32);

impl Held {
    fn thread(pid: u32, name: &str) -> Result<Self> {
        for thread in threads(pid)? {
            if status(pid, thread, "Name")? == name {
                let thread = thread.cast_signed();
                ptrace(libc::PTRACE_SEIZE, thread)?;
                ptrace(libc::PTRACE_INTERRUPT, thread)?;
                return Ok(Self(thread));
            }
        }
        bail!("there is no thread {name}")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Otherwise it continues when this thread ends.
        let _ = ptrace(libc::PTRACE_DETACH, self.0);
    }
}

fn ptrace(request: libc::c_uint, thread: i32) -> Result<()> {
    // SAFETY: none of these requests reads or writes memory of this process.
    let result = unsafe { libc::ptrace(request, thread, 0, 0) };
    ensure!(result == 0, "ptrace {request}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A supervisor like systemd: the daemon notifies it once it watches, regularly while its workers run, and at its
/// end.
fn supervisor_is_notified(_: &str) -> Result<()> {
    let folder = TempDir::with_prefix("supervisor-").context("create a folder")?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).context("bind a socket")?;
    socket.set_read_timeout(Some(pace::limit(FULL_LIMIT)))?;
    let next = || -> Result<String> {
        let mut text = [0; 256];
        let length = socket.recv(&mut text).context("the daemon sends nothing")?;
        Ok(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned())
    };
    let daemon = Daemon::start_supervised(&path, Duration::from_secs(3))?;
    ensure!(next()? == "READY=1", "its first message is another one");
    for _ in 0..3 {
        let said = next()?;
        ensure!(said == "WATCHDOG=1", "it sends {said}");
    }
    daemon.stop()?;
    loop {
        match &*next()? {
            "WATCHDOG=1" => {}
            "STOPPING=1" => return Ok(()),
            said => bail!("it sends {said}"),
        }
    }
}

/// A descriptor set with one method, without a package.
fn descriptor_set(service: &str, method: &str, server_streaming: bool) -> Vec<u8> {
    let method = MethodDescriptorProto {
        name: Some(method.into()),
        server_streaming: Some(server_streaming),
        ..MethodDescriptorProto::default()
    };
    let service = ServiceDescriptorProto {
        name: Some(service.into()),
        method: vec![method],
        ..ServiceDescriptorProto::default()
    };
    let file = FileDescriptorProto { service: vec![service], ..FileDescriptorProto::default() };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

/// The numbers of all programs in the kernel.
fn program_numbers() -> BTreeSet<u32> {
    // Other processes load and unload programs at the same time.
    loaded_programs().flatten().map(|program| program.id()).collect()
}

/// Each answer contains everything before the request.
fn a_hundred_scrapers_are_answered(name: &str) -> Result<()> {
    const SCRAPERS: usize = 100;
    let daemon = Daemon::start(&[])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    talk.expected_call(1, "Get", OK)?;
    let pid = talk.pid(Server)?;
    thread::scope(|scope| {
        let scrape = || -> Result<()> {
            let handled = daemon.scrape()?.sum("grpc_server_handled_total", &[("pid", &pid)]);
            ensure!(handled >= 1.0, "a scrape has {handled} calls");
            Ok(())
        };
        let scrapers: Vec<_> = (0..SCRAPERS).map(|_| scope.spawn(scrape)).collect();
        let mut results = scrapers
            .into_iter()
            .map(|scraper| scraper.join().map_err(|_| anyhow!("a scraper panicked"))?);
        results.try_for_each(|result| result)
    })?;
    talk.expected_call(3, "Get", OK)?;
    talk.finish()
}

/// These scrapers leave room for some others. Each answer has started, and is more than the kernel buffers. The
/// memory of all answers is bounded.
fn scrapers_that_never_read_are_dropped(name: &str) -> Result<()> {
    const SCRAPERS: usize = 50;
    const OTHERS: u32 = 10;
    const METHODS: u32 = 100;
    const ACCEPT: &str = "application/openmetrics-text";
    /// The compressed answers, one that is being written, and the daemon's own memory.
    const MEMORY: u64 = 48 << 20;
    let buckets = (1..=64).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let daemon = Daemon::start(&["--buckets", &buckets])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    for method in 0..METHODS {
        let (name, stream) = (format!("Method{method}"), 2 * method + 1);
        talk.expected_call(stream, &name, OK)?;
    }
    let deaf = nobody::in_a_thread(|| {
        (0..SCRAPERS).map(|_| Deaf::scrape(&daemon)).collect::<Result<Vec<_>>>()
    })??;
    for scraper in &deaf {
        scraper.wait_until_full()?;
    }
    for other in 0..OTHERS {
        let text = daemon.metrics_as(ACCEPT).context("another scraper")?;
        ensure!(text.ends_with("# EOF\n"), "another scraper's answer is cut");
        let stream = 2 * (METHODS + other) + 1;
        talk.expected_call(stream, "Get", OK)?;
    }
    let memory = Footprint::of(daemon.pid())?.memory;
    ensure!(memory < MEMORY, "the daemon takes {memory} bytes");
    let length = daemon.metrics_as(ACCEPT)?.len() as u64;
    let mut most = 0;
    for scraper in deaf {
        let queued = scraper.queued()?;
        most = most.max(queued);
        ensure!(queued < length / 4 * 3, "{queued} of {length} bytes: the kernel may buffer all");
    }
    report::say(&format!(
        "scrapers that never read: the kernel buffers at most {most} of {length} bytes for one, the \
         daemon's memory is {memory}"
    ));
    talk.finish()
}

/// A scraper that sends a request and does not read the answer.
struct Deaf {
    stream: TcpStream,
}

impl Deaf {
    /// The least that Linux allows; it doubles that (socket(7)).
    const BUFFER: usize = 1024;

    fn scrape(daemon: &Daemon) -> Result<Self> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_recv_buffer_size(&socket, Self::BUFFER)?;
        let address: SocketAddr = daemon.address().parse()?;
        rustix::net::connect(&socket, &address).context("connect")?;
        let mut stream = TcpStream::from(socket);
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: \
                       application/openmetrics-text\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes())?;
        Ok(Self { stream })
    }

    /// Waits until the kernel buffers no more bytes for it.
    fn wait_until_full(&self) -> Result<()> {
        let begin = Instant::now();
        let mut before = 0;
        loop {
            ensure!(begin.elapsed() < FULL_LIMIT, "{before} bytes are queued, and still more");
            sleep(Duration::from_millis(100));
            match self.queued()? {
                queued if queued > 0 && queued == before => return Ok(()),
                queued => before = queued,
            }
        }
    }

    /// The bytes that the kernel buffers for it, at both ends (proc(5), `/proc/net/tcp`).
    fn queued(&self) -> Result<u64> {
        let ports = [self.stream.local_addr()?.port(), self.stream.peer_addr()?.port()];
        let table = fs::read_to_string("/proc/net/tcp").context("read /proc/net/tcp")?;
        let mut queued = 0;
        for row in table.lines().skip(1) {
            let mut cells = row.split_whitespace().skip(1);
            let (local, remote) = (cells.next(), cells.next());
            let port = |cell: Option<&str>| u16::from_str_radix(cell?.split_once(':')?.1, 16).ok();
            let (local, remote) = (port(local), port(remote));
            if ports.iter().all(|port| [local, remote].contains(&Some(*port))) {
                let (transmit, receive) =
                    cells.nth(1).and_then(|cell| cell.split_once(':')).context("no queues")?;
                queued += u64::from_str_radix(transmit, 16)? + u64::from_str_radix(receive, 16)?;
            }
        }
        Ok(queued)
    }
}

/// The series of ended processes are removed after their time, and their memory is freed.
fn short_lived_processes_are_counted(name: &str) -> Result<()> {
    const PROCESSES: usize = 60;
    let own = std::process::id().to_string();
    let daemon = Daemon::start(&["--pid", &own, "--children", "--series-ttl", "1s"])?;
    let mut before = None;
    for number in 0..PROCESSES {
        let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
        talk.expected_call(1, "Get", OK)?;
        let pid = talk.pid(Server)?;
        daemon.scrape()?.expect_sum("grpc_server_handled_total", &[("pid", &pid)], 1)?;
        talk.end_peers()?;
        if number == PROCESSES / 3 {
            before = Some(Footprint::of(daemon.pid())?);
        }
    }
    daemon.wait_until(|metrics| {
        let left = metrics.count("grpc_server_started_total", &[]);
        ensure!(left == 0, "{left} series are left");
        Ok(())
    })?;
    let (before, after) = (before.context("no processes")?, Footprint::of(daemon.pid())?);
    ensure!(after.memory <= before.memory + (1 << 20), "memory: {before:?}, then {after:?}");
    ensure!(after.maps <= before.maps + (1 << 16), "maps: {before:?}, then {after:?}");
    Ok(())
}

fn a_processor_goes_offline_and_back(name: &str) -> Result<()> {
    let daemon = Daemon::start(&[])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    let mut stream = 1;
    let mut calls = |talk: &mut Talk<'_>| -> Result<()> {
        for _ in 0..20 {
            talk.expected_call(stream, "Get", OK)?;
            stream += 2;
        }
        Ok(())
    };
    calls(&mut talk)?;
    {
        let _online_again = Restored::set(CPU, "0")?;
        calls(&mut talk)?;
        talk.compare()?;
    }
    calls(&mut talk)?;
    talk.finish()
}

/// The clock jumps a day forward, and two back: to before the daemon started.
fn wall_clock_jumps(name: &str) -> Result<()> {
    const DAY: i64 = 24 * 60 * 60;
    let daemon = Daemon::start(&[])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    let clock = WallClock::now()?;
    let begun = Instant::now();
    let mut stream = 1;
    for jump in [0, DAY, -DAY] {
        clock.set(jump)?;
        for _ in 0..20 {
            talk.expected_call(stream, "Get", OK)?;
            stream += 2;
        }
        // A call that starts before a jump and ends after it.
        talk.client(|f| f.request(stream, "Get").last_message(stream, 5))?;
        clock.set(-jump)?;
        talk.server(|f| f.response(stream).message(stream, 6).trailers(stream, OK))?;
        talk.expect(Call::new("Get", OK).unary(5, 6))?;
        stream += 2;
        talk.compare()?;
    }
    let metrics = daemon.scrape()?;
    for role in ["server", "client"] {
        let took = metrics.sum(&format!("grpc_{role}_handling_seconds_sum"), &[]);
        let most = begun.elapsed().as_secs_f64();
        ensure!((0.0..=most).contains(&took), "all calls took {took} s of {most}");
    }
    drop(clock);
    talk.finish()
}

/// The wall clock without jumps; drop sets the clock to it.
struct WallClock {
    /// The time since 1970, at `read`.
    time: Duration,
    read: Instant,
}

impl WallClock {
    fn now() -> Result<Self> {
        let time = Duration::try_from(clock_gettime(ClockId::Realtime))?;
        Ok(Self { time, read: Instant::now() })
    }

    /// Sets the clock with an error of this many seconds.
    fn set(&self, wrong_by: i64) -> Result<()> {
        let time = self.time + self.read.elapsed();
        let mut time = Timespec::try_from(time)?;
        time.tv_sec += wrong_by;
        clock_settime(ClockId::Realtime, time).context("set the clock")
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        // Nothing can be done about a failure.
        let _ = self.set(0);
    }
}

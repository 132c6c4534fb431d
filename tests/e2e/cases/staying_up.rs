//! What happens to a daemon, or around it, in the course of its life.

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

/// For the kernel to have taken what it takes for a socket.
const FULL_LIMIT: Duration = Duration::from_secs(10);

/// Whether the second processor is online; not there where it must be, or where there is none.
const PROCESSOR: &str = "/sys/devices/system/cpu/cpu1/online";

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
    let hangs = "a worker that hangs";
    table.watched(hangs, &["--workers", "2"], |talk| talk.finish(), hanging_worker_is_unhealthy);
    table.alone("a supervisor that waits for it", supervisor_is_notified);
    table.watched(
        "100 scrapers at once",
        &[],
        |talk| talk.finish(),
        a_hundred_scrapers_are_answered,
    );
    table.alone(
        "scrapers that never read, their sockets full",
        scrapers_that_never_read_are_dropped,
    );
    super::visitors::add(table);
    table.alone("processes that come and go", short_lived_processes_are_counted);
    let possible = Path::new(PROCESSOR).exists();
    table.alone_if(
        possible,
        "a processor taken offline and back",
        a_processor_goes_offline_and_back,
    );
    // Others go by the clock of a machine that is not for the tests alone.
    table.alone_if(pace::is_emulated(), "the wall clock jumps", wall_clock_jumps);
}

fn killed_daemon_leaves_no_program(name: &str) -> Result<()> {
    replaced(name, |daemon, _| daemon.kill())
}

/// It answers for a while, with all that it has seen, and is not ready.
fn stopped_daemon_answers_one_more_scrape(name: &str) -> Result<()> {
    replaced(name, |daemon, pid| {
        daemon.terminate()?;
        becomes_ready(&daemon, false)?;
        let last = daemon.scrape()?;
        for (family, want) in [("started_total", 2.0), ("handled_total", 1.0), ("in_flight", 1.0)] {
            let seen = last.sum(&format!("grpc_server_{family}"), &[("pid", pid)]);
            ensure!(losses::is_as_expected(&last, seen, want), "{family} is {seen}, not {want}");
        }
        daemon.stop()
    })
}

/// A daemon ends in this way, told a server that it watches: it leaves no program behind, and the service goes on. The
/// next one, at the same address, has nothing of before; of a call that was under way it tells how it ended.
fn replaced(name: &str, end: impl FnOnce(Daemon, &str) -> Result<()>) -> Result<()> {
    let next = OnceCell::new();
    let daemon = Daemon::start::<&str>(&[])?;
    let attached = programs(daemon.pid())?;
    ensure!(
        program_numbers().is_superset(&attached) && attached.len() > 4,
        "{attached:?} are not loaded"
    );
    // Watched by another one, which says what the service did.
    let other = Daemon::start::<&str>(&[])?;
    let mut talk = Talk::begin(&other, name, Address::V4(0))?;
    talk.expected_call(1, "Get", OK)?;
    talk.client(|f| f.request(3, "Get").last_message(3, 5))?;
    let address = daemon.address().parse()?;
    end(daemon, &talk.pid(Server)?)?;
    are_freed(|| program_numbers().intersection(&attached).copied().collect())?;
    let started = Daemon::start_at::<&str>(&[], address)?;
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

/// It goes on, with all that it has counted; what it writes goes to a new file once the old one has been
/// renamed, and declared types are those that are in the file now, if it can be read.
fn sighup_opens_files_again(name: &str) -> Result<()> {
    let folder = TempDir::with_prefix("hang-up-").context("create a folder")?;
    // The user that the daemon becomes.
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
    let told = |path: &Path, count: usize, calls: f64, grpc_type: &str| {
        let labels = [("grpc_method", "Get"), ("grpc_type", grpc_type)];
        daemon.wait_until(|metrics| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let handled = metrics.sum("grpc_server_handled_total", &labels);
            if text.lines().count() == count && handled.total_cmp(&calls).is_eq() {
                return Ok(());
            }
            Err(format!("{handled} calls of {grpc_type}, not {calls}, and {count} lines: {text}"))
        })
    };
    let sighup_opens_files_again = |times: usize| -> Result<()> {
        daemon.hang_up()?;
        daemon.wait_until(|_| match daemon.log().matches("SIGHUP: done").count() {
            done if done == times => Ok(()),
            done => Err(format!("{done} of {times} are done: {}", daemon.log())),
        })
    };
    fail(&mut talk)?;
    told(&lines, 2, 1.0, "unary")?;

    fs::rename(&lines, &old).context("rename the file")?;
    declare(true)?;
    sighup_opens_files_again(1)?;
    fail(&mut talk)?;
    told(&lines, 2, 2.0, "server_stream")?;
    ensure!(fs::read_to_string(&old)?.lines().count() == 2, "it still writes to the old file");

    fs::write(&set, "no set").context("spoil the descriptor set")?;
    sighup_opens_files_again(2)?;
    ensure!(daemon.log().contains("keeping the previous declared types"), "{}", daemon.log());
    fail(&mut talk)?;
    told(&lines, 4, 3.0, "server_stream")?;
    ensure!(daemon.is_ready()?, "it is not ready any more");
    daemon.stop()
}

/// It says so at its start, and goes on with what it has.
fn sighup_names_files_that_it_may_not_read(name: &str) -> Result<()> {
    let folder = TempDir::with_prefix("kept-").context("create a folder")?;
    let (lines, old) = (folder.path().join("lines"), folder.path().join("lines.1"));
    let set = folder.path().join("types.pb");
    fs::write(&set, descriptor_set(&service_of(name), "Get", false)).context("write the set")?;
    fs::set_permissions(&set, Permissions::from_mode(0o600)).context("keep the set")?;
    let flags = ["--log-errors", "--descriptor-set", &set.to_string_lossy()];
    let daemon = Daemon::start_after(&[&format!("exec >>{}", lines.display())], &flags)?;
    for told in ["types.pb cannot be read again: user nobody", "SIGHUP cannot reopen files in"] {
        ensure!(daemon.log().contains(told), "no word of {told:?}: {}", daemon.log());
    }
    fs::rename(&lines, &old).context("rename the file")?;
    daemon.hang_up()?;
    daemon.wait_until(|_| match daemon.log() {
        log if log.contains("SIGHUP: done") => Ok(()),
        log => Err(log),
    })?;
    for told in ["stdout keeps its file", "keeping the previous declared types"] {
        ensure!(daemon.log().contains(told), "no word of {told:?}: {}", daemon.log());
    }
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
    talk.server(|f| f.response(1).trailers(1, NOT_FOUND))?;
    daemon.wait_until(|_| match fs::read_to_string(&old) {
        Ok(text) if text.lines().count() == 2 => Ok(()),
        text => Err(format!("{text:?}")),
    })?;
    daemon.stop()
}

/// Its thread alone is stopped, as by a loop without end: it is not ready after three seconds.
fn hanging_worker_is_unhealthy(talk: &mut Talk<'_>) -> Result<()> {
    let daemon = talk.daemon;
    talk.expected_call(1, "Get", OK)?;
    let held = Held::thread(daemon.pid(), "worker-1")?;
    becomes_ready(daemon, false)?;
    ensure!(daemon.is_alive()?, "it is to be started anew after three seconds");
    drop(held);
    becomes_ready(daemon, true)?;
    // All of it stopped is no worker that hangs.
    daemon.pause()?;
    sleep(Duration::from_secs(4));
    daemon.resume()?;
    ensure!(daemon.is_ready()?, "it is not ready once it goes on");
    talk.expected_call(3, "Get", OK)
}

fn becomes_ready(daemon: &Daemon, ready: bool) -> Result<()> {
    pace::wait_for(FULL_LIMIT, || {
        let is = daemon.is_ready()? == ready;
        Ok(is.then_some(()).ok_or_else(|| format!("/readyz does not say {ready}")))
    })
}

/// A thread that is stopped, while the others of its process go on, until this is dropped.
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
        // It goes on as well when this thread ends.
        let _ = ptrace(libc::PTRACE_DETACH, self.0);
    }
}

fn ptrace(request: libc::c_uint, thread: i32) -> Result<()> {
    // SAFETY: none of these requests reads or writes memory of this process.
    let result = unsafe { libc::ptrace(request, thread, 0, 0) };
    ensure!(result == 0, "ptrace {request}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// As systemd is one: told once it watches, then again and again while its workers go round, and of its end.
fn supervisor_is_notified(_: &str) -> Result<()> {
    let folder = TempDir::with_prefix("supervisor-").context("create a folder")?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).context("bind a socket")?;
    socket.set_read_timeout(Some(pace::limit(FULL_LIMIT)))?;
    let next = || -> Result<String> {
        let mut text = [0; 256];
        let length = socket.recv(&mut text).context("the daemon says nothing")?;
        Ok(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned())
    };
    let daemon = Daemon::start_supervised(&path, Duration::from_secs(3))?;
    ensure!(next()? == "READY=1", "it says something else first");
    for _ in 0..3 {
        let said = next()?;
        ensure!(said == "WATCHDOG=1", "it says {said}");
    }
    daemon.stop()?;
    loop {
        match &*next()? {
            "WATCHDOG=1" => {}
            "STOPPING=1" => return Ok(()),
            said => bail!("it says {said}"),
        }
    }
}

/// Of one method, in no package.
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
    // Those of others come and go.
    loaded_programs().flatten().map(|program| program.id()).collect()
}

/// Each is answered with what was before it.
fn a_hundred_scrapers_are_answered(talk: &mut Talk<'_>) -> Result<()> {
    const SCRAPERS: usize = 100;
    let daemon = talk.daemon;
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
    talk.expected_call(3, "Get", OK)
}

/// As many as leave room for some others. Each has begun to be answered, by more than the kernel
/// takes for it; what all of these answers may take is bounded.
fn scrapers_that_never_read_are_dropped(name: &str) -> Result<()> {
    const SCRAPERS: usize = 50;
    const OTHERS: u32 = 10;
    const METHODS: u32 = 100;
    const ACCEPT: &str = "application/openmetrics-text";
    /// Of the answers, packed; of one that is being made; and the daemon's own.
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
        ensure!(queued < length / 4 * 3, "{queued} of {length} bytes: the kernel may take all");
    }
    report::say(&format!(
        "scrapers that never read: the kernel has at most {most} of {length} bytes for one, the \
         daemon takes {memory} for all"
    ));
    talk.finish()
}

/// A scraper that has asked, and does not read.
struct Deaf {
    stream: TcpStream,
}

impl Deaf {
    /// The least that Linux allows, doubled by it (socket(7)).
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

    /// Waits until the kernel takes no more for it.
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

    /// Bytes that the kernel has for it, at both ends (proc(5), `/proc/net/tcp`).
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

/// Their series go when their time is over, and the memory with them.
fn short_lived_processes_are_counted(name: &str) -> Result<()> {
    const TURNS: usize = 60;
    let own = std::process::id().to_string();
    let daemon = Daemon::start(&["--pid", &own, "--children", "--series-ttl", "1s"])?;
    let mut before = None;
    for turn in 0..TURNS {
        let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
        talk.expected_call(1, "Get", OK)?;
        let pid = talk.pid(Server)?;
        let handled = daemon.scrape()?.sum("grpc_server_handled_total", &[("pid", &pid)]);
        ensure!(handled.total_cmp(&1.0).is_eq(), "process {pid} handled {handled} calls");
        talk.end_peers()?;
        if turn == TURNS / 3 {
            before = Some(Footprint::of(daemon.pid())?);
        }
    }
    daemon.wait_until(|metrics| match metrics.count("grpc_server_started_total", &[]) {
        0 => Ok(()),
        left => Err(format!("{left} series are left")),
    })?;
    let (before, after) = (before.context("no turns")?, Footprint::of(daemon.pid())?);
    ensure!(after.memory <= before.memory + (1 << 20), "memory: {before:?}, then {after:?}");
    ensure!(after.maps <= before.maps + (1 << 16), "maps: {before:?}, then {after:?}");
    Ok(())
}

fn a_processor_goes_offline_and_back(name: &str) -> Result<()> {
    let daemon = Daemon::start::<&str>(&[])?;
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
        let _online_again = Restored::set(PROCESSOR, "0")?;
        calls(&mut talk)?;
        talk.compare()?;
    }
    calls(&mut talk)?;
    talk.finish()
}

/// A day on, and two back: to before the daemon started.
fn wall_clock_jumps(name: &str) -> Result<()> {
    const DAY: i64 = 24 * 60 * 60;
    let daemon = Daemon::start::<&str>(&[])?;
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
        // One that begins before a jump and ends after it.
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

/// The wall clock as it would be had nobody set it, as which it is set when this is dropped.
struct WallClock {
    /// Since 1970, at `read`.
    time: Duration,
    read: Instant,
}

impl WallClock {
    fn now() -> Result<Self> {
        let time = Duration::try_from(clock_gettime(ClockId::Realtime))?;
        Ok(Self { time, read: Instant::now() })
    }

    /// Sets it wrong by so many seconds.
    fn set(&self, wrong_by: i64) -> Result<()> {
        let time = self.time + self.read.elapsed();
        let mut time = Timespec::try_from(time)?;
        time.tv_sec += wrong_by;
        clock_settime(ClockId::Realtime, time).context("set the clock")
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        // There is nothing else to be done about it.
        let _ = self.set(0);
    }
}

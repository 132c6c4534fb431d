//! Gaps, by cause: the reported numbers are true, the gaps are counted, and later calls are reported again.

use std::io::Read as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Map, MapData, MapInfo, PerCpuArray, PerCpuValues};
use rustix::process::Signal;
use support::daemon::Daemon;
use support::footprint::map_numbers;
use support::losses::{self, Ended};
use support::openmetrics::label;
use support::raw::command::{self, Read, Write};
use support::raw::frames::{Frames, PREFACE, Shape, frame, message};
use support::raw::talk::Role::{self, Client, Server};
use support::raw::talk::Way;
use support::raw::{Action, Address, Call, Talk};
use support::truth::code_name;

use super::reports::{
    NOT_SEEN, ended_calls, flush_tables, not_found_label, reports_calls, reports_calls_of,
};
use super::{CANCELED, NOT_FOUND, OK, Table};

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark(
        "tshark cannot tell: what the daemon does not see passes the network all the same.",
    );
    ring(table);
    unseen(table);
    unreadable(table);
    scratch(table);
    within_frames(table);
    bounds(table);
}

/// An error unless the daemon has counted a gap with this cause.
fn counted(talk: &Talk<'_>, cause: &str) -> Result<()> {
    let gaps = talk.daemon.scrape()?.sum("observer_gaps_total", &[("cause", cause)]);
    ensure!(gaps > 0.0, "no gap is counted as {cause}");
    Ok(())
}

/// An error unless gaps of this cause have this many bytes, and there are no others. If programs were skipped the
/// numbers may differ.
fn counted_alone(daemon: &Daemon, cause: &str, bytes: u64) -> Result<()> {
    let metrics = daemon.scrape()?;
    let counted = metrics.sum("observer_gap_bytes_total", &[("cause", cause)]);
    let same = counted == bytes as f64;
    let may_differ = losses::skipped_programs(&metrics).is_some();
    ensure!(same || may_differ, "{counted} of {bytes} bytes are counted as {cause}");
    let all = metrics.sum("observer_gaps_total", &[]);
    let of_cause = metrics.sum("observer_gaps_total", &[("cause", cause)]);
    let alone = losses::is_as_expected(&metrics, of_cause, all);
    ensure!(alone, "{of_cause} of {all} gaps are {cause}");
    Ok(())
}

fn ring(table: &mut Table) {
    const CALLS: u32 = 400;
    for (case, workers) in [
        ("a ring that nobody reads fills: what comes after it is known", "1"),
        ("rings of four workers that nobody reads fill: what comes after it is known", "4"),
    ] {
        table.alone(case, move |name| full_ring(name, workers, CALLS));
    }
}

fn full_ring(name: &str, workers: &str, calls: u32) -> Result<()> {
    let daemon = Daemon::start(&["--buckets", "1", "--ring-size", "64KiB", "--workers", workers])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    talk.call(1, "Get", OK)?;
    talk.call(3, "Get", OK)?;
    reports_calls(&mut talk, &[("Get", "OK", 2)], 2, 0)?;
    daemon.signal(Signal::STOP)?;
    for stream in (5..).step_by(2).take(calls as usize) {
        talk.call(stream, "Get", OK)?;
    }
    daemon.signal(Signal::CONT)?;
    // The records in the ring are read first.
    daemon.scrape()?;
    for stream in (2_001..).step_by(2).take(3) {
        talk.call(stream, "Get", NOT_FOUND)?;
    }
    let get = |code: &str| ("Get".to_owned(), code.to_owned());
    let ended = Ended::from([(get("OK"), f64::from(calls + 2)), (get(not_found_label()), 3.0)]);
    for role in [Client, Server] {
        let pid = talk.pid(role)?;
        daemon.wait_until(|metrics| {
            let handled = ended_calls(metrics, role, &pid);
            if let Some(checked) = losses::check_ended_calls(metrics, &ended, &handled) {
                return checked;
            }
            let of = |method: &str, code: &str| {
                handled.get(&(method.into(), code.into())).copied().unwrap_or_default()
            };
            // The dropped records inserted no entries into the dynamic tables, so these are known.
            ensure!(of("Get", not_found_label()) == 3.0, "three calls came later: {handled:?}");
            let all: f64 = handled.values().sum();
            let most = f64::from(calls + 2 + 3);
            let fits = of("Get", "OK") <= f64::from(calls + 2) && all < most;
            ensure!(fits, "{handled:?} of {most} calls");
            Ok(())
        })?;
    }
    counted(&talk, "ring_full")?;
    talk.end_peers()
}

/// Calls whose bytes the BPF programs cannot find: with splice they are not in the process's memory, with io_uring
/// not in the buffers of a system call.
fn unseen(table: &mut Table) {
    for (name, write) in [("splice", Write::Splice), ("sendfile", Write::SendFile)] {
        let name = format!("a call written by {name}, and others after it");
        table.uncompared(name, move |talk| written_unseen(talk, write));
    }
    table.alone("a client that writes everything by splice: the bytes are counted", |name| {
        let daemon = Daemon::start(&["--buckets", "1"])?;
        let mut talk = Talk::connect(&daemon, name, Address::V4(0))?;
        // The server writes first: what the client reads shows which end it is.
        talk.server(|f| f.settings(&[(3, 100)]))?;
        talk.way.write = Write::Splice;
        talk.client(|f| f.bytes(PREFACE).settings(&[(2, 0)]))?;
        for (stream, code) in [(1, OK), (3, NOT_FOUND)] {
            talk.way.write = Write::Splice;
            talk.client(|f| f.request(stream, "Get").last_message(stream, 5))?;
            talk.way.write = Write::Write;
            talk.server(|f| f.response(stream).message(stream, 6).trailers(stream, code))?;
        }
        let read = [("Get", "OK", 1), ("Get", not_found_label(), 1)];
        reports_calls_of(&mut talk, Server, &read, 2, 0)?;
        talk.act(Client, Action::Close)?;
        // The method is not known; the server sent the code.
        let answered = [(NOT_SEEN, "OK", 1), (NOT_SEEN, not_found_label(), 1)];
        reports_calls_of(&mut talk, Client, &answered, 0, 0)?;
        let written = talk.written(Client) as f64;
        let metrics = daemon.scrape()?;
        let unseen = metrics.sum("observer_gap_bytes_total", &[]);
        let all = losses::is_as_expected(&metrics, written, unseen);
        ensure!(all, "{unseen} of {written} bytes are counted");
        counted(&talk, "unseen")?;
        talk.end_peers()
    });
    table.uncompared("a call written by io_uring, and others after it", |talk| {
        if !talk.daemon.decodes_io_uring()? {
            return written_unseen(talk, Write::Ring);
        }
        all_seen(talk, |way| way.write = Write::Ring)
    });
    table.uncompared("a request read by io_uring, and others after it", |talk| {
        if !talk.daemon.decodes_io_uring()? {
            return read_unseen(talk, Read::Ring, "unseen");
        }
        all_seen(talk, |way| way.read = Read::Ring)
    });
    table.alone("a preface written by splice, and calls after it", |name| {
        let begin = |way: &mut Way| way.write = Write::Splice;
        begun_unseen(name, begin, Client)
    });
    table.alone("a preface read by io_uring, and calls after it", |name| {
        let begin = |way: &mut Way| way.read = Read::Ring;
        begun_unseen(name, begin, Server)
    });
    table.alone("threads that block in reads of Unix sockets", blocked_readers);
    // 9P is a module, and so is its way over any socket.
    let possible = Path::new("/sys/module/9pnet_fd").exists();
    table.alone_if(possible, "messages' bodies by threads of the kernel", moved_by_the_kernel);
    let name = "a request read by recvfrom with MSG_TRUNC, and others after it";
    table.uncompared(name, |talk| read_unseen(talk, Read::Discard, "discarded"));
}

/// A client's first bytes are in a gap at one end: the server's bytes show what the connection is.
fn begun_unseen(name: &str, begin: impl FnOnce(&mut Way), end: Role) -> Result<()> {
    let daemon = Daemon::start(&["--buckets", "1"])?;
    let mut talk = Talk::connect(&daemon, name, Address::V4(0))?;
    begin(&mut talk.way);
    talk.client(|f| f.bytes(PREFACE).settings(&[(2, 0)]))?;
    let is_seen = end == Server && daemon.decodes_io_uring()?;
    let unseen = if is_seen { 0 } else { talk.written(Client) };
    talk.way = Way::default();
    talk.server(|f| f.settings(&[(3, 100)]))?;
    talk.call(1, "Get", OK)?;
    talk.call(3, "Get", NOT_FOUND)?;
    reports_calls(&mut talk, &[("Get", "OK", 1), ("Get", not_found_label(), 1)], 2, 0)?;
    counted_alone(&daemon, "unseen", unseen)?;
    talk.end_peers()
}

/// The kernel follows a bounded number of calls of a function for a kprobe: once that many threads block in reads of
/// Unix sockets, which count no bytes, it misses the reads of others.
fn blocked_readers(name: &str) -> Result<()> {
    /// More than it follows.
    const THREADS: usize = 64;
    const CALLS: [u32; 3] = [1, 3, 5];
    let daemon = Daemon::start(&["--buckets", "1"])?;
    let blocked = (0..THREADS).map(|_| Blocked::begin()).collect::<Result<Vec<_>>>()?;
    let mut talk = Talk::begin(&daemon, name, Address::Abstract(name.into()))?;
    for stream in CALLS {
        talk.call(stream, "Get", OK)?;
    }
    if daemon.backend()? != "kprobe" {
        return reports_calls(&mut talk, &[("Get", "OK", 3)], 3, 0);
    }
    talk.finish_with_gaps()?;
    let metrics = daemon.scrape()?;
    for role in [Client, Server] {
        for (labels, calls) in metrics.series(&format!("grpc_{}_handled_total", role.side())) {
            let (method, code) = (label(labels, "grpc_method"), label(labels, "grpc_code"));
            ensure!(
                ["Get", NOT_SEEN].contains(&method) && ["OK", NOT_SEEN].contains(&code),
                "{calls} calls of {method} ended with {code}, which none did"
            );
        }
        let all = metrics.sum(&format!("grpc_{}_handled_total", role.side()), &[]);
        ensure!(all <= CALLS.len() as f64, "{all} calls");
    }
    // Later calls are complete again.
    drop(blocked);
    let mut talk = Talk::begin(&daemon, name, Address::Abstract(format!("{name} again")))?;
    talk.call(1, "Put", OK)?;
    reports_calls(&mut talk, &[("Put", "OK", 1)], 1, 0)?;
    talk.end_peers()
}

/// A thread that blocks in a read of a Unix socket.
struct Blocked {
    other: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Blocked {
    fn begin() -> Result<Self> {
        let (mut socket, other) = UnixStream::pair()?;
        let read = move || {
            // It ends when the other end is closed.
            let _ = socket.read(&mut [0]);
        };
        Ok(Self { other, thread: Some(thread::spawn(read)) })
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = self.other.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Threads of the kernel write the body of a request and read the body and padding of a response, in memory of the
/// kernel (`ITER_KVEC`).
fn moved_by_the_kernel(name: &str) -> Result<()> {
    let daemon = Daemon::start(&["--buckets", "1"])?;
    let (body, padding) = command::refusal();
    let each = command::GREETING + body.len() + padding.len();
    let mut unseen = 0;
    for address in [Address::V4(0), Address::Abstract(name.into())] {
        // Unix sockets count no bytes, and the exits of system calls do not show transfers by the kernel.
        let is_seen = daemon.backend()? != "tracepoint" && daemon.watches_uncounted();
        if address.port().is_none() && !is_seen {
            continue;
        }
        let mut talk = Talk::begin(&daemon, name, address)?;
        bodies_by_the_kernel(&mut talk)?;
        talk.end_peers()?;
        unseen += each;
    }
    counted_alone(&daemon, "unseen", unseen as u64)
}

fn bodies_by_the_kernel(talk: &mut Talk<'_>) -> Result<()> {
    const STREAM: u32 = 3;
    let (body, padding) = command::refusal();
    let request = beginning(Shape::default(), |f| f.last_message(STREAM, command::GREETING));
    let padded = Shape { data_padding: Some(padding.len() as u8), ..Shape::default() };
    let response = beginning(padded, |f| f.message(STREAM, body.len()));
    talk.call(1, "Get", OK)?;
    talk.client(|f| f.request(STREAM, "Get").bytes(&request))?;
    talk.server(|f| f.response(STREAM).bytes(&response))?;
    talk.act(Client, Action::Mount)?;
    talk.act(Server, Action::Read { how: Read::Read, length: command::GREETING })?;
    talk.server_unread(|f| f.bytes(&body).bytes(&padding))?;
    // Once the mount has failed.
    talk.client(Frames::noise)?;
    talk.server(|f| f.trailers(STREAM, OK))?;
    talk.call(5, "Get", OK)?;
    reports_calls(talk, &[("Get", "OK", 3)], 3, 0)?;
    let by_counters = talk.daemon.backend()? == "tracepoint";
    let (sent, received) = (command::GREETING + 2 * 5, body.len() + 2 * 6);
    // A counter shows body and padding as one gap, not where the body ends.
    let at_client = if by_counters { (2, 2 * 6) } else { (3, received) };
    for (role, direction, (messages, bytes)) in [
        (Client, "sent", (3, sent)),
        (Client, "received", at_client),
        (Server, "sent", (3, received)),
        (Server, "received", (3, sent)),
    ] {
        let (name, pid) = (role.side(), talk.pid(role)?);
        let metrics = talk.daemon.scrape()?;
        for (family, want) in [("total", messages), ("bytes_total", bytes)] {
            let family = format!("grpc_{name}_msg_{direction}_{family}");
            let seen = metrics.sum(&family, &[("pid", &pid)]);
            let is = losses::is_as_expected(&metrics, seen, want as f64);
            ensure!(is, "{family} is {seen}, not {want}");
        }
    }
    Ok(())
}

/// The bytes of a DATA frame with a message before the body.
fn beginning(shape: Shape, build: impl Fn(&mut Frames) -> &mut Frames) -> Vec<u8> {
    const FRAME_HEADER: usize = 9;
    const PREFIX: usize = 5;
    let mut frames = Frames::of("", shape);
    let (mut bytes, _) = build(&mut frames).take();
    let pad_length = usize::from(shape.data_padding.is_some());
    bytes.truncate(FRAME_HEADER + pad_length + PREFIX);
    bytes
}

/// The BPF programs read a transfer's bytes when its system call returns: memory that was unmapped before is a gap.
fn unreadable(table: &mut Table) {
    let name = "a message unmapped while it is written, and calls after it";
    table.watched(name, &["--buckets", "1"], |talk| {
        /// More than the buffers of two sockets hold.
        const MESSAGE: usize = 14 << 20;
        talk.call(1, "Get", OK)?;
        let before = talk.written(Client);
        talk.client_unmapped(|f| f.request(3, "Get").last_message(3, MESSAGE))?;
        let unmapped = talk.written(Client) - before;
        talk.server(|f| f.response(3).message(3, 6).trailers(3, OK))?;
        read_again(talk)?;
        counted_alone(talk.daemon, "unreadable", unmapped)
    });
}

/// Five programs that interrupt each other on one CPU cannot be arranged. But root can write into the map that they
/// would find full.
fn scratch(table: &mut Table) {
    let name = "a call while all scratch slots are taken, and others after it";
    table.watched(name, &["--buckets", "1"], |talk| {
        talk.call(1, "Get", OK)?;
        let before = talk.written(Client) + talk.written(Server);
        let taken = TakenSlots::of(talk.daemon)?;
        talk.call(3, "Get", OK)?;
        drop(taken);
        // Each byte is written, and read.
        let unseen = 2 * (talk.written(Client) + talk.written(Server) - before);
        talk.call(5, "Get", OK)?;
        talk.client(|f| flush_tables(f).request(7, "Put").last_message(7, 5))?;
        talk.server(|f| flush_tables(f).response(7).message(7, 6).trailers(7, NOT_FOUND))?;
        let want = [("Get", "OK", 1), (NOT_SEEN, NOT_SEEN, 1), ("Put", not_found_label(), 1)];
        reports_calls(talk, &want, 3, 0)?;
        counted_alone(talk.daemon, "scratch_busy", unseen)
    });
}

/// `Slot` of the BPF programs, whose first word is not 0 if it is taken.
type Slot = [u64; 2712];

/// All scratch slots of a daemon's programs, on every CPU, taken until this is dropped.
struct TakenSlots(PerCpuArray<MapData, Slot>);

impl TakenSlots {
    fn of(daemon: &Daemon) -> Result<Self> {
        for id in map_numbers(daemon.pid())? {
            if MapInfo::from_id(id)?.name_as_str() == Some("SCRATCH") {
                let map = Map::PerCpuArray(MapData::from_id(id)?);
                let mut slots = Self(map.try_into().context("Scratch has another size now")?);
                slots.set(1)?;
                return Ok(slots);
            }
        }
        bail!("the programs have no map SCRATCH")
    }

    fn set(&mut self, taken: u64) -> Result<()> {
        for index in 0..self.0.len() {
            let mut slots = self.0.get(&index, 0)?.to_vec();
            for slot in &mut slots {
                let [busy, ..] = slot;
                *busy = taken;
            }
            self.0.set(index, PerCpuValues::try_from(slots)?, 0)?;
        }
        Ok(())
    }
}

impl Drop for TakenSlots {
    fn drop(&mut self) {
        // A failure here fails the case.
        let _ = self.set(0);
    }
}

fn written_unseen(talk: &mut Talk<'_>, write: Write) -> Result<()> {
    talk.call(1, "Get", OK)?;
    talk.way.write = write;
    talk.client(|f| f.request(3, "Get").last_message(3, 5))?;
    talk.way.write = Write::Write;
    talk.server(|f| f.response(3).message(3, 6).trailers(3, OK))?;
    read_again(talk)?;
    counted(talk, "unseen")
}

/// Makes two more calls after two, of which the second one's request was a gap at the client's end, and compares.
fn read_again(talk: &mut Talk<'_>) -> Result<()> {
    talk.call(5, "Get", OK)?;
    talk.client(|f| flush_tables(f).request(7, "Put").last_message(7, 5))?;
    talk.server(|f| f.response(7).message(7, 6).trailers(7, NOT_FOUND))?;
    let read = [("Get", "OK", 3), ("Put", not_found_label(), 1)];
    reports_calls_of(talk, Server, &read, 4, 0)?;
    // The dynamic table is not known until it is emptied.
    let written = [("Get", "OK", 1), (NOT_SEEN, "OK", 2), ("Put", not_found_label(), 1)];
    reports_calls_of(talk, Client, &written, 3, 0)
}

fn read_unseen(talk: &mut Talk<'_>, read: Read, cause: &str) -> Result<()> {
    talk.call(1, "Get", OK)?;
    talk.way.read = read;
    talk.client(|f| f.request(3, "Get").last_message(3, 5))?;
    talk.way.read = Read::Read;
    talk.server(|f| f.response(3).message(3, 6).trailers(3, OK))?;
    talk.client(|f| flush_tables(f).request(5, "Put").last_message(5, 5))?;
    talk.server(|f| f.response(5).message(5, 6).trailers(5, NOT_FOUND))?;
    let written = [("Get", "OK", 2), ("Put", not_found_label(), 1)];
    reports_calls_of(talk, Client, &written, 3, 0)?;
    let read = [("Get", "OK", 1), (NOT_SEEN, "OK", 1), ("Put", not_found_label(), 1)];
    reports_calls_of(talk, Server, &read, 2, 0)?;
    counted(talk, cause)
}

/// The second of three calls is moved in this way: all are complete.
fn all_seen(talk: &mut Talk<'_>, middle: impl FnOnce(&mut Way)) -> Result<()> {
    talk.call(1, "Get", OK)?;
    middle(&mut talk.way);
    talk.call(3, "Get", OK)?;
    talk.way = Way::default();
    talk.call(5, "Get", OK)?;
    talk.expect(Call::new("Get", OK).unary(5, 6).times(3))?;
    talk.compare()
}

/// Gaps after which the next frame's boundary is known.
fn within_frames(table: &mut Table) {
    table.uncompared("a message's body by splice costs nothing", |talk| {
        for stream in [1, 3] {
            let mut data = Frames::default();
            data.data(stream, true, &message(false, 5_000));
            let (data, _) = data.take();
            let (prefix, body) = data.split_at_checked(9 + 5).context("a prefix")?;
            talk.client(|f| f.request(stream, "Get").bytes(prefix))?;
            talk.way.write = Write::Splice;
            talk.client(|f| f.bytes(body))?;
            talk.way.write = Write::Write;
            // The next bytes show the gap.
            talk.client(Frames::noise)?;
            talk.server(|f| f.response(stream).message(stream, 6).trailers(stream, OK))?;
        }
        reports_calls(talk, &[("Get", "OK", 2)], 2, 0)?;
        let (pid, metrics) = (talk.pid(Client)?, talk.daemon.scrape()?);
        metrics.expect_sum("grpc_client_msg_sent_bytes_total", &[("pid", &pid)], 10_000)
    });
    table.uncompared("messages of one frame by splice: only their number is lost", |talk| {
        let messages = [message(false, 100), message(false, 200)].concat();
        talk.client(|f| {
            f.request(1, "Stream");
            let [_, length @ ..] = (messages.len() as u32).to_be_bytes();
            f.bytes(&length).bytes(&[frame::DATA, frame::END_STREAM]).bytes(&1_u32.to_be_bytes())
        })?;
        talk.way.write = Write::Splice;
        talk.client(|f| f.bytes(&messages))?;
        talk.way.write = Write::Write;
        talk.server(|f| f.response(1).message(1, 6).trailers(1, OK))?;
        talk.call(3, "Get", NOT_FOUND)?;
        reports_calls(talk, &[("Stream", "OK", 1), ("Get", not_found_label(), 1)], 2, 0)?;
        // Only one of the two messages can be seen.
        let (pid, metrics) = (talk.pid(Client)?, talk.daemon.scrape()?);
        metrics.expect_sum("grpc_client_msg_sent_total", &[("pid", &pid)], 1)
    });
}

/// Starts calls whose first message is cut in its prefix.
fn cut_messages(talk: &mut Talk<'_>, streams: u32) -> Result<()> {
    for first in (1..2 * streams).step_by(20_000) {
        let streams = (first..first + 20_000).step_by(2);
        talk.client(|f| streams.fold(f, |f, s| f.request(s, "Cut").data(s, false, &[0; 3])))?;
    }
    Ok(())
}

fn bounds(table: &mut Table) {
    table.uncompared("more frames in one call than are walked over, and calls after it", |talk| {
        talk.call(1, "Get", OK)?;
        // Nine bytes and a step each: beyond the 262,144 steps of a walk.
        let pings: Vec<u8> = [0, 0, 0, 0x42, 0, 0, 0, 0, 0].repeat(300_000);
        talk.client(|f| f.bytes(&pings))?;
        talk.client(|f| flush_tables(f).request(3, "Put").last_message(3, 5))?;
        talk.client(|f| f.request(5, "Put").last_message(5, 5))?;
        talk.server(|f| f.response(3).message(3, 6).trailers(3, OK))?;
        talk.server(|f| f.response(5).message(5, 6).trailers(5, OK))?;
        for role in [Client, Server] {
            let pid = talk.pid(role)?;
            talk.daemon.wait_until(|metrics| {
                let handled = ended_calls(metrics, role, &pid);
                let put = handled.get(&("Put".into(), "OK".into())).copied().unwrap_or_default();
                let all: f64 = handled.values().sum();
                ensure!(put >= 1.0 && all <= 3.0, "the {role:?} has {handled:?}");
                Ok(())
            })?;
        }
        counted(talk, "loop_bound")
    });
    table.case("more cut messages than are remembered, and calls after them", |daemon, name| {
        // Two connections with two ends: more than the map's 65,536 entries.
        const STREAMS: u32 = 20_000;
        let mut talk = Talk::begin(daemon, name, Address::V4(0))?;
        cut_messages(&mut talk, STREAMS)?;
        talk.reopen()?;
        cut_messages(&mut talk, STREAMS)?;
        counted(&talk, "messages_full")?;
        for first in (1..2 * STREAMS).step_by(20_000) {
            let streams = (first..first + 20_000).step_by(2);
            talk.client(|f| streams.fold(f, |f, s| f.reset(s, 8)))?;
        }
        let after = 2 * STREAMS + 1;
        talk.call(after, "Get", OK)?;
        talk.call(after + 2, "Get", NOT_FOUND)?;
        for (role, messages) in [(Client, "msg_sent"), (Server, "msg_received")] {
            let (pid, family) = (talk.pid(role)?, format!("grpc_{}_{messages}_total", role.side()));
            daemon.wait_until(|metrics| {
                let handled = ended_calls(metrics, role, &pid);
                let [ok, not_found] = ["OK", not_found_label()]
                    .map(|code| handled.get(&("Get".into(), code.into())).copied().unwrap_or(0.0));
                // The call during which the map has room again may be without its messages; the next one has them.
                let messages = metrics.sum(&family, &[("pid", &pid), ("grpc_method", "Get")]);
                let cut = ("Cut".into(), code_name(CANCELED).into());
                let cut = handled.get(&cut).copied().unwrap_or(0.0);
                let fits = ok + not_found >= 2.0
                    && (1.0..=2.0).contains(&messages)
                    && losses::is_as_expected(metrics, cut, STREAMS.into());
                ensure!(fits, "{handled:?}, {messages} messages");
                Ok(())
            })?;
        }
        talk.end_peers()
    });
    table.watched("more connections than --max-connections", &["--max-connections", "2"], |talk| {
        talk.call(1, "Get", OK)?;
        talk.reopen()?;
        talk.call(1, "Never", OK)?;
        reports_calls(talk, &[("Get", "OK", 1)], 1, 0)?;
        counted(talk, "connections_full")?;
        talk.close()
    });
}

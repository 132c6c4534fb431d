//! What a peer may write that means harm: whoever reaches a watched port can.
//!
//! The daemon of each case is the case's own, so that what it takes can be measured, and has no more memory than the
//! shipped unit gives it. Who attacks is nobody: without any privilege. Beside the hostile connection there is one
//! that behaves ([`Neighbour`]): its calls are made before, in between and after, and all its numbers must be right.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit};
use support::daemon::Daemon;
use support::footprint::Footprint;
use support::memory::MemoryLimit;
use support::nobody;
use support::openmetrics::Metrics;
use support::raw::frames::{PREFACE, frame};
use support::raw::process::Start;
use support::raw::talk::Role::{Client, Server};
use support::raw::{Action, Address, Call, Shape, Talk};
use support::report;

use super::bounds::{self, SHIPPED};
use super::processes::Renamed;
use super::reports::reports_calls;
use super::{CANCELED, NOT_FOUND, OK, Table};

/// What the daemon may have at the end of any of these cases, which README.md promises.
const MEMORY: u64 = 64 << 20;

/// What its maps may take, likewise.
const MAPS: u64 = 32 << 20;

/// What it may have had at once, with what the kernel keeps for it; most of it at its start.
const PEAK: u64 = 192 << 20;

/// Methods of a process that have series of their own: fewer than usual, as scrapes are many.
const FEW: usize = 100;

/// The largest frame without asking (RFC 9113 §6.5.2), and the largest of all.
const USUAL_FRAME: usize = 16_384;
const MAX_FRAME: usize = (1 << 24) - 1;

/// Streams in one write: the kernel programs walk over all of their frames in one run.
const AT_ONCE: u32 = 8_192;

/// `CANCEL` (RFC 9113 §7).
const CANCEL: [u8; 4] = [0, 0, 0, 8];

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark("tshark is not asked: what these send is made to be told of by nobody.");
    hostile(table, "1,000,000 streams opened and reset", FEW, |talk, neighbour| {
        rapid_reset(talk, neighbour, 1_000_000, |_| BLOCK.to_vec())
    });
    hostile(
        table,
        "streams reset while their messages are under way",
        FEW,
        streams_reset_under_way,
    );
    hostile(table, "1,000,000 distinct paths", FEW, distinct_paths);
    table.alone("a flood of connections", flood_of_connections);
    table.alone("more connections than are watched", more_connections_than_watched);
    table.alone("a process that opens more connections than its share", more_than_its_share);
    hostile(table, "messages that are begun and never end", FEW, messages_that_never_end);
    table.alone("a process that floods the ring", flooded_ring);
    table.alone(
        "connections reset before all was read, others at their addresses",
        connections_reset_before_all_was_read,
    );
    hostile(table, "CONTINUATION that never ends", FEW, endless_continuation);
    hostile(table, "header blocks that expand to gigabytes", FEW, blocks_that_expand_to_gigabytes);
    hostile(table, "header tables resized with each block", FEW, tables_resized_with_each_block);
    hostile(table, "lengths of frames that lie", FEW, frame_lengths_that_lie);
    hostile(table, "every byte in names and values of headers", 1000, every_byte_in_headers);
    table.alone("every byte in the name of a process", every_byte_in_a_process_name);
    bounds::add(table);
}

/// A case with its own daemon, which has series for so many methods, and a connection that behaves.
fn hostile(
    table: &mut Table,
    name: &str,
    methods: usize,
    attack: impl FnOnce(&mut Talk<'_>, &mut Neighbour<'_>) -> Result<()> + Send + 'static,
) {
    table.alone(name, move |name| {
        let (limit, daemon) = limited(&["--buckets", "1", "--max-methods", &methods.to_string()])?;
        let mut neighbour = Neighbour::of(&daemon, name)?;
        let mut talk = by_nobody(&daemon, &format!("{name} hostile"))?;
        neighbour.calls()?;
        attack(&mut talk, &mut neighbour)?;
        neighbour.calls_are_counted()?;
        within_bounds(name, &daemon, limit.as_ref())
    });
}

/// A daemon with the memory of the shipped unit, where memory can be limited.
pub(super) fn limited(args: &[&str]) -> Result<(Option<MemoryLimit>, Daemon)> {
    if !MemoryLimit::is_possible() {
        return Ok((None, Daemon::start(args)?));
    }
    let limit = MemoryLimit::new(SHIPPED)?;
    let daemon = Daemon::start_within(&limit, args)?;
    Ok((Some(limit), daemon))
}

/// A connection between two processes of nobody's, which open HTTP/2.
pub(super) fn by_nobody<'a>(daemon: &'a Daemon, name: &str) -> Result<Talk<'a>> {
    let mut talk = connected_by_nobody(daemon, name)?;
    talk.open_http2()?;
    Ok(talk)
}

/// Likewise, on which nothing is written yet.
pub(super) fn connected_by_nobody<'a>(daemon: &'a Daemon, name: &str) -> Result<Talk<'a>> {
    let start = Start::by_nobody()?;
    Talk::connect_from(daemon, name, Address::V4(0), [&start, &start])
}

/// The server goes on with a message of each for a while. That nobody waits for its rest any more is
/// not to be remembered for as long as the connection lives.
fn streams_reset_under_way(talk: &mut Talk<'_>, _: &mut Neighbour<'_>) -> Result<()> {
    const STREAMS: u32 = 2000;
    /// Less than a tenth of what an entry for each would take.
    const GROWTH: u64 = 16 << 10;
    // The prefix of a message of a megabyte, and its beginning.
    let begin = [&[0, 0, 16, 0, 0][..], &[1; 95]].concat();
    let mut before = None;
    for stream in (1..).step_by(2).take(STREAMS as usize) {
        talk.client(|f| f.request(stream, "Get").last_message(stream, 5))?;
        talk.server(|f| f.response(stream).data(stream, false, &begin))?;
        talk.client(|f| f.reset(stream, 8))?;
        talk.server(|f| f.data(stream, false, &[1; 100]))?;
        talk.expect(Call::new("Get", CANCELED).requests(&[5]))?;
        if before.is_none() {
            before = Some(Footprint::of(talk.daemon.pid())?);
        }
    }
    talk.compare()?;
    let (before, after) = (before.context("no streams")?, Footprint::of(talk.daemon.pid())?);
    ensure!(after.maps <= before.maps + GROWTH, "maps: {before:?}, then {after:?}");
    Ok(())
}

pub(super) fn within_bounds(
    name: &str,
    daemon: &Daemon,
    limit: Option<&MemoryLimit>,
) -> Result<()> {
    let Footprint { memory, maps } = Footprint::of(daemon.pid())?;
    report::say(&format!("{name}: {} MiB, maps {} MiB", memory >> 20, maps >> 20));
    ensure!(memory <= MEMORY, "the daemon takes {memory} bytes");
    ensure!(maps <= MAPS, "its maps take {maps} bytes");
    limit.map_or(Ok(()), |limit| bounds::stays_within(name, limit, PEAK))
}

/// A connection that behaves.
pub(super) struct Neighbour<'a> {
    pub(super) talk: Talk<'a>,
    next: u32,
}

impl<'a> Neighbour<'a> {
    pub(super) fn of(daemon: &'a Daemon, name: &str) -> Result<Self> {
        let talk = Talk::begin(daemon, &format!("{name} neighbour"), Address::V4(0))?;
        Ok(Self { talk, next: 1 })
    }

    /// Makes some calls. They succeed: what is written arrives, and in time.
    pub(super) fn calls(&mut self) -> Result<()> {
        for _ in 0..10 {
            let stream = self.next;
            self.next += 2;
            self.talk.expected_call(stream, "Get", OK)?;
        }
        Ok(())
    }

    /// Likewise, and all that it has made is counted.
    pub(super) fn calls_are_counted(&mut self) -> Result<()> {
        self.calls()?;
        self.is_counted()
    }

    pub(super) fn is_counted(&self) -> Result<()> {
        self.talk.compare()
    }
}

/// The header block of every request after the first: references, as libraries write them.
/// `:method`, `:scheme`, `:path`, `:authority`, `te`, `content-type`.
const BLOCK: [u8; 6] = [0x83, 0x86, 0x80 + 65, 0x80 + 64, 0x80 + 63, 0x80 + 62];

/// Opens streams and resets them at once (CVE-2023-44487), each with a block of its own.
fn rapid_reset(
    talk: &mut Talk<'_>,
    neighbour: &mut Neighbour<'_>,
    streams: u32,
    block: impl Fn(u32) -> Vec<u8>,
) -> Result<()> {
    talk.client(|f| f.request(1, "Get"))?;
    let numbers: Vec<u32> = (1..=streams).map(|number| 2 * number + 1).collect();
    for (turn, numbers) in numbers.chunks(AT_ONCE as usize).enumerate() {
        talk.client(|f| {
            numbers.iter().fold(f, |f, &stream| {
                f.frame(frame::HEADERS, frame::END_HEADERS, stream, &block(stream)).frame(
                    frame::RST_STREAM,
                    0,
                    stream,
                    &CANCEL,
                )
            })
        })?;
        // So that nothing is lost only because the daemon was given no time: the ring has room for
        // what comes in between.
        if turn % 4 == 0 {
            talk.daemon.scrape()?;
            neighbour.calls()?;
        }
    }
    reports_calls_ended(talk, streams.into(), "Canceled")
}

/// So many calls ended with this code, at both ends, whatever their methods, and nothing else.
fn reports_calls_ended(talk: &mut Talk<'_>, calls: u64, code: &str) -> Result<()> {
    let ends = [("client", talk.pid(Client)?), ("server", talk.pid(Server)?)];
    talk.daemon.wait_until(|metrics| {
        for (role, pid) in &ends {
            let name = format!("grpc_{role}_handled_total");
            let all = metrics.sum(&name, &[("pid", pid)]);
            let ended = metrics.sum(&name, &[("pid", pid), ("grpc_code", code)]);
            if [all, ended].iter().any(|seen| seen.total_cmp(&(calls as f64)).is_ne()) {
                return Err(format!("{role}: {ended} of {all} calls {code}, not {calls}"));
            }
        }
        Ok(())
    })
}

/// Each request has a path that nobody had before, as a literal that is not indexed.
fn distinct_paths(talk: &mut Talk<'_>, neighbour: &mut Neighbour<'_>) -> Result<()> {
    rapid_reset(talk, neighbour, 1_000_000, |stream| {
        let path = format!("/hostile.Paths/{stream:016}");
        [&[0x83, 0x86, 0x04, path.len() as u8], path.as_bytes(), BLOCK.get(3..).unwrap_or(&[])]
            .concat()
    })?;
    let (metrics, pid) = (talk.daemon.scrape()?, talk.pid(Server)?);
    // Those of --max-methods, and `other`.
    let series = metrics.count("grpc_server_started_total", &[("pid", &pid)]);
    ensure!(series == FEW + 1, "{series} series");
    let other = [("pid", &*pid), ("grpc_service", "other"), ("grpc_method", "other")];
    let others = metrics.sum("grpc_server_started_total", &other);
    ensure!(others >= (1_000_000 - FEW) as f64, "{others} calls of other methods");
    methods_of_others_are_still_named(talk.daemon)
}

/// Of paths, too, one process has no more than its share: methods of others are told by name.
fn methods_of_others_are_still_named(daemon: &Daemon) -> Result<()> {
    let mut later = Talk::begin(daemon, "hostile later", Address::V4(0))?;
    let pid = later.pid(Server)?;
    later.call(1, "Later", OK)?;
    let named = [("pid", &*pid), ("grpc_method", "Later")];
    let named = daemon.scrape()?.sum("grpc_server_started_total", &named);
    ensure!(named > 0.0, "a new method has no name");
    later.end_peers()
}

/// 8,000 connections at once, and 20,000 more that are gone at once. This process is both ends.
fn flood_of_connections(name: &str) -> Result<()> {
    const AT_ONCE: usize = 8_000;
    const SHORT: usize = 20_000;
    let (limit, daemon) = daemon_of_this_process(&[])?;
    let mut neighbour = Neighbour::of(&daemon, name)?;
    let before = connections_followed(&daemon)?;
    let mut flood = Flood::new()?;
    flood.as_nobody(|flood| (0..AT_ONCE).try_for_each(|_| flood.connect()))?;
    neighbour.calls()?;
    ensure!(
        connections_followed(&daemon)? - before == 2 * AT_ONCE,
        "not all connections are watched"
    );
    within_bounds(name, &daemon, limit.as_ref())?;
    flood.open.clear();
    let begin = Instant::now();
    flood.as_nobody(|flood| {
        (0..SHORT).try_for_each(|_| {
            flood.connect()?;
            flood.open.clear();
            Ok(())
        })
    })?;
    let a_second = SHORT as f64 / begin.elapsed().as_secs_f64();
    report::say(&format!("a flood of connections: {a_second:.0} opened and closed a second"));
    neighbour.calls()?;
    wait_for_connections(&daemon, before)?;
    neighbour.is_counted()?;
    let seen = [("protocol", "http2")];
    let seen = daemon.scrape()?.sum("observer_connections_seen_total", &seen);
    let many = 2 * (AT_ONCE + SHORT);
    ensure!(seen.total_cmp(&(many as f64)).is_eq(), "{seen} of {many} ends were watched");
    within_bounds(name, &daemon, limit.as_ref())
}

/// Ends that no tracepoint tells of, and then sockets at the same addresses of which nobody moves a byte.
fn connections_reset_before_all_was_read(name: &str) -> Result<()> {
    const RESETS: usize = 1000;
    const UNREAD: [u8; 100] = [0; 100];
    let (limit, daemon) = daemon_of_this_process(&[])?;
    let mut neighbour = Neighbour::of(&daemon, name)?;
    neighbour.calls()?;
    let before = connections_followed(&daemon)?;
    let reset = |flood: &mut Flood| -> Result<()> {
        flood.connect()?;
        let [mut client, server] = flood.open.pop().context("a connection")?;
        client.write_all(&UNREAD)?;
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
        // In this order, so that the server is reset before it closes.
        drop(client);
        drop(server);
        drop(flood.connect_only()?);
        Ok(())
    };
    Flood::new()?.as_nobody(|flood| (0..RESETS).try_for_each(|_| reset(flood)))?;
    neighbour.calls()?;
    wait_for_connections(&daemon, before)?;
    neighbour.is_counted()?;
    let unseen = daemon.scrape()?.sum("observer_gap_bytes_total", &[]);
    report::say(&format!("{name}: {unseen} bytes are said to be unseen"));
    ensure!(unseen <= (RESETS * UNREAD.len()) as f64, "{unseen} bytes are said to be unseen");
    within_bounds(name, &daemon, limit.as_ref())
}

/// What does not fit is counted, and what comes when there is room again is watched.
fn more_connections_than_watched(name: &str) -> Result<()> {
    const WATCHED: usize = 100;
    let (limit, daemon) = daemon_of_this_process(&["--max-connections", &WATCHED.to_string()])?;
    let mut neighbour = Neighbour::of(&daemon, name)?;
    neighbour.calls()?;
    let mut flood = Flood::new()?;
    flood.as_nobody(|flood| (0..WATCHED).try_for_each(|_| flood.connect()))?;
    neighbour.calls()?;
    let full = [("cause", "connections_full")];
    let refused = daemon.scrape()?.sum("observer_gaps_total", &full);
    // Both ends of each; this process may have three times what is left, beside the neighbour.
    let has = (0..WATCHED).find(|has| *has >= 3 * (WATCHED - 2 - has)).unwrap_or(0);
    let many = (2 * WATCHED - has) as f64;
    ensure!(
        refused.total_cmp(&many).is_eq(),
        "{refused} ends of connections found no room, not {many}"
    );
    flood.open.clear();
    wait_for_connections(&daemon, 2)?;
    Neighbour::of(&daemon, &format!("{name} later"))?.calls_are_counted()?;
    neighbour.is_counted()?;
    within_bounds(name, &daemon, limit.as_ref())
}

/// A process of nobody's opens more connections than it may have watched. Others have room, and it has again when it
/// closes some: what went through those that found none is counted.
fn more_than_its_share(name: &str) -> Result<()> {
    const ROOM: usize = 64;
    let (limit, daemon) = daemon_of_this_process(&["--max-connections", &ROOM.to_string()])?;
    let (hostile, name_of_it) = (Start::by_nobody()?, format!("{name} hostile"));
    let mut talk = Talk::connect_to_itself(&daemon, &name_of_it, &hostile)?;
    for _ in 0..ROOM {
        talk.open_http2()?;
        talk.reconnect()?;
    }
    talk.open_http2()?;
    let has = connections_followed(&daemon)?;
    ensure!(has == ROOM / 4 * 3, "it has {has} of {ROOM} places, not three quarters");
    let mut neighbour = Neighbour::of(&daemon, name)?;
    neighbour.calls_are_counted()?;
    // On the last of its connections, for which there is no room.
    let refused = |metrics: &Metrics| {
        let full = [("cause", "connections_full")];
        metrics.sum("observer_gap_bytes_total", &full)
    };
    let (before, written) = (refused(&daemon.scrape()?), both_wrote(&mut talk));
    talk.client(|f| f.resize_table(0).request(1, "Get").last_message(1, 5))?;
    talk.server(|f| f.resize_table(0).response(1).message(1, 6).trailers(1, OK))?;
    let written = both_wrote(&mut talk) - written;
    let counted = refused(&daemon.scrape()?) - before;
    // At both ends.
    ensure!(
        counted.total_cmp(&((2 * written) as f64)).is_eq(),
        "{counted} bytes, not 2 × {written}"
    );
    for socket in 0..2 * ROOM {
        talk.peer(Client)?.ask(socket, Action::Close)?;
    }
    wait_for_connections(&daemon, 2)?;
    for stream in [3, 5, 7] {
        talk.call(stream, "Get", OK)?;
    }
    reports_calls(&mut talk, &[("Get", "OK", 3)], 3, 0)?;
    neighbour.calls_are_counted()?;
    talk.end_peers()?;
    within_bounds(name, &daemon, limit.as_ref())
}

/// Bytes that the two ends have written.
fn both_wrote(talk: &mut Talk<'_>) -> u64 {
    talk.written(Client) + talk.written(Server)
}

/// More of them than are kept track of, at both ends; a neighbour's messages are cut as well, and counted.
fn messages_that_never_end(talk: &mut Talk<'_>, neighbour: &mut Neighbour<'_>) -> Result<()> {
    const STREAMS: u32 = 36_000;
    let begun = [0, 0, 0, 0, 100, 1];
    talk.client(|f| f.request(1, "Get"))?;
    let numbers: Vec<u32> = (1..=STREAMS).map(|number| 2 * number + 1).collect();
    for numbers in numbers.chunks(AT_ONCE as usize) {
        talk.client(|f| {
            numbers.iter().fold(f, |f, &stream| {
                f.frame(frame::HEADERS, frame::END_HEADERS, stream, &BLOCK)
                    .data(stream, false, &begun)
            })
        })?;
        talk.daemon.scrape()?;
    }
    let metrics = talk.daemon.scrape()?;
    let refused = metrics.sum("observer_gaps_total", &[("cause", "messages_full")]);
    // Three sevenths of the 65,536 for each of the two; the neighbour has none yet.
    let (kept, places) = (2.0 * f64::from(STREAMS) - refused, 65_536.0 / 7.0 * 6.0);
    ensure!((kept / places - 1.0).abs() < 0.05, "{kept} messages found room, not {places}");
    neighbour.talk.shape(Shape { max_data: 10, ..Shape::default() });
    for _ in 0..3 {
        let stream = neighbour.next;
        neighbour.next += 2;
        neighbour.talk.client(|f| f.request(stream, "Cut").last_message(stream, 100))?;
        neighbour.talk.server(|f| f.response(stream).message(stream, 100).trailers(stream, OK))?;
        neighbour.talk.expect(Call::new("Cut", OK).unary(100, 100))?;
    }
    Ok(())
}

/// A process of nobody's fills the ring while the daemon does not come to read it. Nothing of its neighbour is missing,
/// and it is named.
fn flooded_ring(name: &str) -> Result<()> {
    let (limit, daemon) = daemon_of_this_process(&["--buckets", "1", "--ring-size", "256KiB"])?;
    let mut neighbour = Neighbour::of(&daemon, name)?;
    let mut talk = by_nobody(&daemon, &format!("{name} hostile"))?;
    neighbour.calls()?;
    daemon.pause()?;
    let numbers: Vec<u32> = (1..=8_000).map(|number| 2 * number + 1).collect();
    for numbers in numbers.chunks(100) {
        talk.client(|f| {
            numbers.iter().fold(f, |f, &stream| f.request(stream, "Flood").reset(stream, 8))
        })?;
    }
    neighbour.calls()?;
    daemon.resume()?;
    neighbour.is_counted()?;
    let metrics = daemon.scrape()?;
    let dropped = |pid: &str| {
        let labels = [("pid", pid), ("process", "raw-peer")];
        metrics.sum("observer_dropped_records_total", &labels)
    };
    let all = metrics.sum("observer_dropped_records_total", &[]);
    let flooders = dropped(&talk.pid(Client)?) + dropped(&talk.pid(Server)?);
    ensure!(flooders > 0.0 && flooders.total_cmp(&all).is_eq(), "{flooders} of {all} are theirs");
    let full = metrics.sum("observer_gaps_total", &[("cause", "ring_full")]);
    ensure!(full.total_cmp(&all).is_eq(), "{full} records found no room, {all} are named");
    talk.end_peers()?;
    within_bounds(name, &daemon, limit.as_ref())
}

/// A daemon that sees no connections but those of this process and the ones that it starts.
fn daemon_of_this_process(more: &[&str]) -> Result<(Option<MemoryLimit>, Daemon)> {
    let own = std::process::id().to_string();
    limited(&[&["--pid", &own, "--children"], more].concat())
}

fn connections_followed(daemon: &Daemon) -> Result<usize> {
    Ok(daemon.scrape()?.sum("observer_connections", &[]) as usize)
}

fn wait_for_connections(daemon: &Daemon, expected: usize) -> Result<()> {
    let expected = expected as f64;
    daemon.wait_for_sum("observer_connections", &[], expected..=expected)
}

/// Connections of this process to itself, each of which opens HTTP/2.
pub(super) struct Flood {
    listener: TcpListener,
    pub(super) open: Vec<[TcpStream; 2]>,
}

impl Flood {
    pub(super) fn new() -> Result<Self> {
        let limit = rustix::process::getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, ..limit };
        rustix::process::setrlimit(Resource::Nofile, raised).context("allow more descriptors")?;
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        Ok(Self { listener, open: Vec::new() })
    }

    /// Does something in a thread that is nobody's.
    pub(super) fn as_nobody(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<()> + Send,
    ) -> Result<()> {
        nobody::in_a_thread(|| run(self))?
    }

    /// A connection on which nothing is sent.
    fn connect_only(&self) -> Result<[TcpStream; 2]> {
        let client = TcpStream::connect(self.listener.local_addr()?).context("connect")?;
        let (server, _) = self.listener.accept().context("accept")?;
        Ok([client, server])
    }

    pub(super) fn connect(&mut self) -> Result<()> {
        let [mut client, mut server] = self.connect_only()?;
        let mut opening = [&PREFACE[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        client.write_all(&opening)?;
        server.read_exact(&mut opening)?;
        self.open.push([client, server]);
        Ok(())
    }
}

fn endless_continuation(talk: &mut Talk<'_>, neighbour: &mut Neighbour<'_>) -> Result<()> {
    let fragment = [0; USUAL_FRAME];
    for connection in 0..4 {
        let before = bytes_not_seen(talk)?;
        if connection > 0 {
            talk.reopen()?;
        }
        talk.client(|f| f.frame(frame::HEADERS, 0, 1, &fragment))?;
        for _ in 0..16 {
            talk.client(|f| (0..32).fold(f, |f, _| f.frame(frame::CONTINUATION, 0, 1, &fragment)))?;
        }
        neighbour.calls()?;
        let given_up = bytes_not_seen(talk)? - before;
        ensure!(given_up >= 2.0, "{given_up} blocks were given up, not one at each end");
    }
    Ok(())
}

fn bytes_not_seen(talk: &Talk<'_>) -> Result<f64> {
    Ok(support::raw::talk::gaps(&talk.daemon.scrape()?))
}

/// An entry of the table's size, and blocks of nothing but references to it: 300,000 times 4,000
/// bytes.
fn blocks_that_expand_to_gigabytes(
    talk: &mut Talk<'_>,
    neighbour: &mut Neighbour<'_>,
) -> Result<()> {
    const REFERENCES: usize = 300_000;
    talk.call(1, "Get", OK)?;
    for stream in [3, 5, 7] {
        // What is inserted is gone with it: the request is made of literals.
        let entry = [b"\x40\x01x\x7f\xa1\x1e".as_slice(), &[b'x'; 4000]].concat();
        let block = [request_literals("/hostile.Bombs/Get"), entry].concat();
        let bomb = vec![0x80 + 62; REFERENCES];
        talk.client(|f| {
            f.frame(frame::HEADERS, 0, stream, &block);
            let mut pieces = bomb.chunks(USUAL_FRAME).peekable();
            while let Some(piece) = pieces.next() {
                let last = if pieces.peek().is_none() { frame::END_HEADERS } else { 0 };
                f.frame(frame::CONTINUATION, last, stream, piece);
            }
            f.last_message(stream, 5)
        })?;
        talk.server(|f| f.response(stream).message(stream, 6).trailers(stream, OK))?;
        neighbour.calls()?;
    }
    reports_calls_ended(talk, 4, "OK")
}

/// A request's fields as literals without indexing.
fn request_literals(path: &str) -> Vec<u8> {
    let path = [&[0x04, path.len() as u8], path.as_bytes()].concat();
    [b"\x83\x86".as_slice(), &path, b"\x0f\x10\x10application/grpc"].concat()
}

fn tables_resized_with_each_block(
    talk: &mut Talk<'_>,
    neighbour: &mut Neighbour<'_>,
) -> Result<()> {
    let sizes = [0, 4096, 31, 32, 33, 0, 100, 1 << 16, 1, 1 << 20, 0, 4096];
    let mut stream = 1;
    for _ in 0..100 {
        for size in sizes {
            talk.client(|f| {
                f.resize_table(size).resize_table(0).resize_table(size);
                f.request(stream, "Get").last_message(stream, 5)
            })?;
            talk.server(|f| {
                f.resize_table(size).response(stream).message(stream, 6).trailers(stream, NOT_FOUND)
            })?;
            stream += 2;
        }
    }
    neighbour.calls()?;
    let calls = u64::from(stream / 2);
    talk.expect(Call::new("Get", NOT_FOUND).unary(5, 6).times(calls))?;
    talk.compare()?;
    // Larger than any, in the middle of a block, and without an end: each a block that is none.
    let before = bytes_not_seen(talk)?;
    let updates: [&[u8]; 3] =
        [b"\x3f\xe2\xff\xff\x7f", b"\x88\x20", b"\x3f\xff\xff\xff\xff\xff\xff\x0f"];
    for block in updates {
        talk.client(|f| f.frame(frame::HEADERS, 5, stream, block))?;
        stream += 2;
    }
    let refused = bytes_not_seen(talk)? - before;
    // At each end.
    ensure!(refused.total_cmp(&6.0).is_eq(), "{refused} blocks are none");
    Ok(())
}

/// Frames that are shorter or longer than they say, or than their type allows.
fn frame_lengths_that_lie(talk: &mut Talk<'_>, neighbour: &mut Neighbour<'_>) -> Result<()> {
    // Fixed lengths that are wrong: the frames say nothing, and what follows is in step.
    talk.client(|f| f.request(1, "Get").frame(frame::RST_STREAM, 0, 1, &[0; 3]))?;
    talk.client(|f| f.frame(frame::SETTINGS, 0, 0, &[0; 5]).frame(frame::PING, 0, 0, &[0; 99]))?;
    talk.client(|f| f.frame(frame::GOAWAY, 0, 0, &[0; 3]).frame(frame::WINDOW_UPDATE, 0, 1, &[]))?;
    // More padding than frame.
    talk.client(|f| f.frame(frame::DATA, frame::PADDED, 1, &[255, 1, 2]).last_message(1, 5))?;
    talk.server(|f| f.response(1).message(1, 6).trailers(1, OK))?;
    reports_calls_ended(talk, 1, "OK")?;
    // Payloads that never come, or only in part.
    let kinds = [frame::HEADERS, frame::DATA, frame::SETTINGS, frame::PING, frame::CONTINUATION];
    for kind in kinds {
        for length in [1, USUAL_FRAME, MAX_FRAME] {
            talk.close()?;
            talk.reopen()?;
            let [_, length @ ..] = (length as u32).to_be_bytes();
            let header = [&length[..], &[kind, 0, 0, 0, 0, 1]].concat();
            talk.client(|f| f.bytes(&header))?;
            talk.client(|f| f.bytes(&[0x83; 1000]))?;
        }
        neighbour.calls()?;
    }
    reports_calls_ended(talk, 1, "OK")
}

/// Paths, codes, types and other fields of every byte. Whatever a peer writes, the exposition can be
/// read, and no call is lost.
fn every_byte_in_headers(talk: &mut Talk<'_>, neighbour: &mut Neighbour<'_>) -> Result<()> {
    let mut stream = 1;
    for byte in 0..=255_u8 {
        let literal = |name: &[u8], value: &[u8]| {
            [&[0, name.len() as u8], name, &[value.len() as u8], value].concat()
        };
        let path = [b"/s.S/".as_slice(), &[byte], b"M\"\\\n{", &[byte]].concat();
        let fields = [
            literal(b":path", &path),
            literal(b"content-type", &[b"application/grpc+".as_slice(), &[byte]].concat()),
            literal(&[byte], &[byte; 100]),
            literal(b"grpc-timeout", &[byte, b'S']),
        ];
        let request = [b"\x83\x86".to_vec(), fields.concat()].concat();
        talk.client(|f| f.frame(frame::HEADERS, frame::END_HEADERS, stream, &request))?;
        let status = [b"\x88".to_vec(), literal(b"grpc-status", &[byte])].concat();
        let fields = [status, literal(b"grpc-message", &[byte; 3]), literal(&[byte; 5], b"")];
        talk.server(|f| f.frame(frame::HEADERS, 5, stream, &fields.concat()))?;
        stream += 2;
    }
    neighbour.calls()?;
    let pid = talk.pid(Server)?;
    talk.daemon.wait_until(|metrics| {
        let ended = |code: &str| {
            metrics.sum("grpc_server_handled_total", &[("pid", &pid), ("grpc_code", code)])
        };
        let all = metrics.sum("grpc_server_handled_total", &[("pid", &pid)]);
        // A digit is a code, `2` that of unknown, and so is what is no number.
        let right =
            [(all, 256.0), (ended("OK"), 1.0), (ended("NotFound"), 1.0), (ended("Unknown"), 247.0)];
        if right.iter().all(|(seen, is)| seen.total_cmp(is).is_eq()) {
            return Ok(());
        }
        Err(format!("seen and true: {right:?}"))
    })?;
    let series = talk.daemon.scrape()?.count("grpc_server_started_total", &[("pid", &pid)]);
    ensure!(series == 256, "256 paths in {series} series");
    Ok(())
}

/// Programs have any name that a file can have. In labels, what cannot be seen is escaped.
fn every_byte_in_a_process_name(name: &str) -> Result<()> {
    let (limit, daemon) = limited(&[])?;
    let names = [
        ("a\"b\\c\nd{e}=,", r#"a"b\c\x0ad{e}=,"#),
        ("\u{1}\t\r\u{7f} \u{e9}\u{4e2d}", r"\x01\x09\x0d\x7f é中"),
    ];
    for (process, label) in names {
        let renamed = Renamed::new(process)?;
        let start = Start { program: Some(renamed.program.clone()), ..Start::default() };
        let mut talk = Talk::begin_from(&daemon, name, Address::V4(0), [&start, &start])?;
        talk.call(1, "Get", OK)?;
        let pid = talk.pid(Server)?;
        let metrics = daemon.scrape()?;
        let handled =
            metrics.sum("grpc_server_handled_total", &[("pid", &pid), ("process", label)]);
        let labels = metrics.label_values("grpc_server_handled_total", "process");
        ensure!(handled.total_cmp(&1.0).is_eq(), "{label:?} is not among {labels:?}");
    }
    within_bounds(name, &daemon, limit.as_ref())
}

//! Hostile peers: anyone who reaches a watched port can write these bytes.
//!
//! Each case has its own daemon, so that its memory can be measured; it has the memory limit of the shipped unit. The
//! attackers have no privilege. Next to the hostile connection there is one that behaves ([`Neighbour`]): it makes
//! calls before, during and after the attack, and all its numbers must be right.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
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
use super::reports::reports_calls;
use super::{CANCELED, NOT_FOUND, OK, Table};

/// The most memory of the daemon at the end of each case, as README.md promises.
const MEMORY: u64 = 64 << 20;

/// The most memory of its maps at the end of each case.
const MAPS: u64 = 32 << 20;

/// The most memory at any time, with what the kernel allocated for it; the peak is at its start.
const PEAK: u64 = 192 << 20;

/// The most methods of a process with their own series: fewer than usual, because there are many scrapes.
const FEW: usize = 100;

/// The default and the largest value of SETTINGS_MAX_FRAME_SIZE (RFC 9113 §6.5.2).
const USUAL_FRAME: usize = 16_384;
const MAX_FRAME: usize = (1 << 24) - 1;

/// The number of streams in one write: a BPF program walks over all their frames in one invocation.
const AT_ONCE: u32 = 8_192;

/// `CANCEL` (RFC 9113 §7).
const CANCEL: u32 = 8;

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

/// Adds a case with its own daemon, which has series for this many methods, and a connection that behaves.
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

/// Starts a daemon with the memory limit of the shipped unit, if this machine can limit memory.
pub(super) fn limited(args: &[&str]) -> Result<(Option<MemoryLimit>, Daemon)> {
    if !MemoryLimit::is_possible() {
        return Ok((None, Daemon::start(args)?));
    }
    let limit = MemoryLimit::new(SHIPPED)?;
    let daemon = Daemon::start_within(&limit, args)?;
    Ok((Some(limit), daemon))
}

/// A connection between two processes of the user nobody, which open HTTP/2.
pub(super) fn by_nobody<'a>(daemon: &'a Daemon, name: &str) -> Result<Talk<'a>> {
    let mut talk = connected_by_nobody(daemon, name)?;
    talk.open_http2()?;
    Ok(talk)
}

/// Like [`by_nobody`]; nothing is written yet.
pub(super) fn connected_by_nobody<'a>(daemon: &'a Daemon, name: &str) -> Result<Talk<'a>> {
    let start = Start::by_nobody()?;
    Talk::connect_from(daemon, name, Address::V4(0), [&start, &start])
}

/// The server continues each message after the reset. The daemon must not remember for the life of the connection
/// that the rest of a message is to be ignored.
fn streams_reset_under_way(talk: &mut Talk<'_>, _: &mut Neighbour<'_>) -> Result<()> {
    const STREAMS: u32 = 2000;
    /// Less than a tenth of the size of an entry for each.
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

/// An error if the daemon's memory, that of its maps, or its peak is above the bounds.
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
    /// Connects, and opens HTTP/2.
    pub(super) fn of(daemon: &'a Daemon, name: &str) -> Result<Self> {
        let talk = Talk::begin(daemon, &format!("{name} neighbour"), Address::V4(0))?;
        Ok(Self { talk, next: 1 })
    }

    /// Makes ten calls, which succeed in time.
    pub(super) fn calls(&mut self) -> Result<()> {
        for _ in 0..10 {
            let stream = self.next;
            self.next += 2;
            self.talk.expected_call(stream, "Get", OK)?;
        }
        Ok(())
    }

    /// Makes ten calls, and compares all calls so far.
    pub(super) fn calls_are_counted(&mut self) -> Result<()> {
        self.calls()?;
        self.is_counted()
    }

    /// Compares all calls so far.
    pub(super) fn is_counted(&self) -> Result<()> {
        self.talk.compare()
    }
}

/// The field block of every request after the first, with indexed fields only, as libraries write it:
/// `:method`, `:scheme`, `:path`, `:authority`, `te`, `content-type`.
const BLOCK: [u8; 6] = [0x83, 0x86, 0x80 + 65, 0x80 + 64, 0x80 + 63, 0x80 + 62];

/// Opens streams and resets them at once (CVE-2023-44487), each with its own field block.
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
                f.frame(frame::HEADERS, frame::END_HEADERS, stream, &block(stream))
                    .reset(stream, CANCEL)
            })
        })?;
        // The daemon must have time: the ring has room for the records in between.
        if turn % 4 == 0 {
            talk.daemon.scrape()?;
            neighbour.calls()?;
        }
    }
    reports_calls_ended(talk, streams, "Canceled")
}

/// Waits until the daemon reports this many calls with this code at both ends, with any methods, and no others.
fn reports_calls_ended(talk: &mut Talk<'_>, calls: u32, code: &str) -> Result<()> {
    let ends = talk.pids()?;
    talk.daemon.wait_until(|metrics| {
        ends.iter().try_for_each(|(side, pid)| {
            let name = format!("grpc_{side}_handled_total");
            metrics.expect_sum(&name, &[("pid", pid)], calls)?;
            metrics.expect_sum(&name, &[("pid", pid), ("grpc_code", code)], calls)
        })
    })
}

/// Each request has a new path, as a literal without indexing.
fn distinct_paths(talk: &mut Talk<'_>, neighbour: &mut Neighbour<'_>) -> Result<()> {
    rapid_reset(talk, neighbour, 1_000_000, |stream| {
        let path = format!("/hostile.Paths/{stream:016}");
        [&[0x83, 0x86, 0x04, path.len() as u8], path.as_bytes(), BLOCK.get(3..).unwrap_or(&[])]
            .concat()
    })?;
    let (metrics, pid) = (talk.daemon.scrape()?, talk.pid(Server)?);
    // Those of `--max-methods`, and `other`.
    let series = metrics.count("grpc_server_started_total", &[("pid", &pid)]);
    ensure!(series == FEW + 1, "{series} series");
    let other = [("pid", &*pid), ("grpc_service", "other"), ("grpc_method", "other")];
    let others = metrics.sum("grpc_server_started_total", &other);
    ensure!(others >= (1_000_000 - FEW) as f64, "{others} calls of other methods");
    methods_of_others_are_still_named(talk.daemon)
}

/// One process has no more than its share of paths: methods of others are still reported by name.
fn methods_of_others_are_still_named(daemon: &Daemon) -> Result<()> {
    let mut later = Talk::begin(daemon, "hostile later", Address::V4(0))?;
    let pid = later.pid(Server)?;
    later.call(1, "Later", OK)?;
    let named = [("pid", &*pid), ("grpc_method", "Later")];
    let named = daemon.scrape()?.sum("grpc_server_started_total", &named);
    ensure!(named > 0.0, "a new method has no name");
    later.end_peers()
}

/// 8,000 connections at once, and 20,000 more that are closed at once. This process is both ends.
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
    ensure!(seen == many as f64, "{seen} of {many} ends were watched");
    within_bounds(name, &daemon, limit.as_ref())
}

/// Connections whose end no tracepoint reports, and then sockets with the same addresses that carry no byte.
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
    report::say(&format!("{name}: gaps of {unseen} bytes"));
    ensure!(unseen <= (RESETS * UNREAD.len()) as f64, "there are gaps of {unseen} bytes");
    within_bounds(name, &daemon, limit.as_ref())
}

/// Connections that find no room are counted, and new ones are watched once there is room.
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
    // Both ends of each. This process may have three times the room that is left, besides the neighbour.
    let has = (0..WATCHED).find(|has| *has >= 3 * (WATCHED - 2 - has)).unwrap_or(0);
    let many = (2 * WATCHED - has) as f64;
    ensure!(refused == many, "{refused} ends of connections found no room, not {many}");
    flood.open.clear();
    wait_for_connections(&daemon, 2)?;
    Neighbour::of(&daemon, &format!("{name} later"))?.calls_are_counted()?;
    neighbour.is_counted()?;
    within_bounds(name, &daemon, limit.as_ref())
}

/// A process of the user nobody opens more connections than its share. Others have room, and so has it once it closes
/// some. The bytes of connections without room are counted as gaps.
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
    // The last of its connections has no room.
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
    ensure!(counted == (2 * written) as f64, "{counted} bytes, not 2 × {written}");
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

/// The number of bytes that both ends have written.
fn both_wrote(talk: &mut Talk<'_>) -> u64 {
    talk.written(Client) + talk.written(Server)
}

/// More cut messages than the daemon follows, at both ends. A neighbour's cut messages are counted all the same.
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
    // Each end has three sevenths of the 65,536 entries; the neighbour has none yet.
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

/// A process of the user nobody fills the ring while the daemon does not read it. Its neighbour's calls are complete,
/// and the dropped records are counted by process.
fn flooded_ring(name: &str) -> Result<()> {
    let (limit, daemon) = daemon_of_this_process(&["--buckets", "1", "--ring-size", "256KiB"])?;
    let mut neighbour = Neighbour::of(&daemon, name)?;
    let mut talk = by_nobody(&daemon, &format!("{name} hostile"))?;
    neighbour.calls()?;
    daemon.signal(Signal::STOP)?;
    let numbers: Vec<u32> = (1..=8_000).map(|number| 2 * number + 1).collect();
    for numbers in numbers.chunks(100) {
        talk.client(|f| {
            numbers.iter().fold(f, |f, &stream| f.request(stream, "Flood").reset(stream, 8))
        })?;
    }
    neighbour.calls()?;
    daemon.signal(Signal::CONT)?;
    neighbour.is_counted()?;
    let metrics = daemon.scrape()?;
    let dropped = |pid: &str| {
        let labels = [("pid", pid), ("process", "raw-peer")];
        metrics.sum("observer_dropped_records_total", &labels)
    };
    let all = metrics.sum("observer_dropped_records_total", &[]);
    let flooders = dropped(&talk.pid(Client)?) + dropped(&talk.pid(Server)?);
    ensure!(flooders > 0.0 && flooders == all, "{flooders} of {all} are theirs");
    let full = metrics.sum("observer_gaps_total", &[("cause", "ring_full")]);
    ensure!(full == all, "{full} records found no room, {all} are named");
    talk.end_peers()?;
    within_bounds(name, &daemon, limit.as_ref())
}

/// Starts a daemon that watches only this process and those that it starts.
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

/// Connections of this process to itself, which open HTTP/2.
pub(super) struct Flood {
    listener: TcpListener,
    pub(super) open: Vec<[TcpStream; 2]>,
}

impl Flood {
    /// No connections yet.
    pub(super) fn new() -> Result<Self> {
        support::raise_descriptor_limit()?;
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        Ok(Self { listener, open: Vec::new() })
    }

    /// Runs a function in a thread of the user nobody.
    pub(super) fn as_nobody(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<()> + Send,
    ) -> Result<()> {
        nobody::in_a_thread(|| run(self))?
    }

    /// A connection without bytes.
    fn connect_only(&self) -> Result<[TcpStream; 2]> {
        let client = TcpStream::connect(self.listener.local_addr()?).context("connect")?;
        let (server, _) = self.listener.accept().context("accept")?;
        Ok([client, server])
    }

    /// Opens a connection, and keeps it.
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
        let before = gaps_now(talk)?;
        if connection > 0 {
            talk.reopen()?;
        }
        talk.client(|f| f.frame(frame::HEADERS, 0, 1, &fragment))?;
        for _ in 0..16 {
            talk.client(|f| (0..32).fold(f, |f, _| f.frame(frame::CONTINUATION, 0, 1, &fragment)))?;
        }
        neighbour.calls()?;
        let given_up = gaps_now(talk)? - before;
        ensure!(given_up >= 2.0, "{given_up} blocks were given up, not one at each end");
    }
    Ok(())
}

fn gaps_now(talk: &Talk<'_>) -> Result<f64> {
    Ok(support::raw::talk::gaps(&talk.daemon.scrape()?))
}

/// An entry of the table's size, and field blocks of 300,000 references to its 4,000 bytes.
fn blocks_that_expand_to_gigabytes(
    talk: &mut Talk<'_>,
    neighbour: &mut Neighbour<'_>,
) -> Result<()> {
    const REFERENCES: usize = 300_000;
    talk.call(1, "Get", OK)?;
    for stream in [3, 5, 7] {
        // The entry evicts all others, so the request's fields are literals.
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
    talk.expect(Call::new("Get", NOT_FOUND).unary(5, 6).times(u64::from(stream / 2)))?;
    talk.compare()?;
    // Too large, in the middle of a block, and without an end: each block is invalid.
    let before = gaps_now(talk)?;
    let updates: [&[u8]; 3] =
        [b"\x3f\xe2\xff\xff\x7f", b"\x88\x20", b"\x3f\xff\xff\xff\xff\xff\xff\x0f"];
    for block in updates {
        talk.client(|f| f.frame(frame::HEADERS, 5, stream, block))?;
        stream += 2;
    }
    let refused = gaps_now(talk)? - before;
    // At each end.
    ensure!(refused == 6.0, "{refused} blocks are invalid, not 6");
    Ok(())
}

/// Frames that are shorter or longer than they say, or than their type allows.
fn frame_lengths_that_lie(talk: &mut Talk<'_>, neighbour: &mut Neighbour<'_>) -> Result<()> {
    // Wrong fixed lengths: the frames have no effect, and the next frame's boundary is known.
    talk.client(|f| f.request(1, "Get").frame(frame::RST_STREAM, 0, 1, &[0; 3]))?;
    talk.client(|f| f.frame(frame::SETTINGS, 0, 0, &[0; 5]).frame(frame::PING, 0, 0, &[0; 99]))?;
    talk.client(|f| f.frame(frame::GOAWAY, 0, 0, &[0; 3]).frame(frame::WINDOW_UPDATE, 0, 1, &[]))?;
    // More padding than payload.
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

/// Paths, codes, types and other fields with every byte. The exposition is valid in all cases, and no call is
/// missing.
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
        let name = "grpc_server_handled_total";
        metrics.expect_sum(name, &[("pid", &pid)], 256)?;
        // A digit is a code; `2`, and what is not a number, is `Unknown`.
        [("OK", 1), ("NotFound", 1), ("Unknown", 247)].into_iter().try_for_each(|(code, calls)| {
            metrics.expect_sum(name, &[("pid", &pid), ("grpc_code", code)], calls)
        })
    })?;
    let series = talk.daemon.scrape()?.count("grpc_server_started_total", &[("pid", &pid)]);
    ensure!(series == 256, "256 paths in {series} series");
    Ok(())
}

/// A program's name can contain any byte of a file name. Labels escape the invisible ones.
fn every_byte_in_a_process_name(name: &str) -> Result<()> {
    let (limit, daemon) = limited(&[])?;
    let names = [
        ("a\"b\\c\nd{e}=,", r#"a"b\c\x0ad{e}=,"#),
        ("\u{1}\t\r\u{7f} \u{e9}\u{4e2d}", r"\x01\x09\x0d\x7f é中"),
    ];
    for (process, label) in names {
        let start = Start::named(process)?;
        let mut talk = Talk::begin_from(&daemon, name, Address::V4(0), [&start, &start])?;
        talk.call(1, "Get", OK)?;
        let pid = talk.pid(Server)?;
        let metrics = daemon.scrape()?;
        let handled =
            metrics.sum("grpc_server_handled_total", &[("pid", &pid), ("process", label)]);
        let labels = metrics.label_values("grpc_server_handled_total", "process");
        ensure!(handled == 1.0, "{label:?} is not among {labels:?}");
    }
    within_bounds(name, &daemon, limit.as_ref())
}

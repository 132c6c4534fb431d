//! One connection between two raw peers, in lockstep: each write is read before anything else happens.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::call::Call;
use super::command::{Action, Address, Protocol, Read, Secure, Through, Write};
use super::frames::{Frames, PREFACE, Shape, frame};
use super::process::{Peer, Start};
use crate::daemon::Daemon;
use crate::expected::Expected;
use crate::losses;
use crate::openmetrics::Metrics;
use crate::peer::Identity;
use crate::truth::Truth;
use crate::tshark;

/// The most plaintext that is read at once, as a whole record.
pub const TLS_ROOM: usize = 16 << 10;

/// A side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Role {
    Server,
    Client,
}

use Role::{Client, Server};

impl Role {
    /// The name of the side, as in metric names.
    pub fn side(self) -> &'static str {
        match self {
            Server => "server",
            Client => "client",
        }
    }
}

/// One end: a socket of a process.
#[derive(Debug)]
struct End {
    /// The index of its process in the talk's peers.
    peer: usize,
    socket: usize,
    frames: Frames,
    /// The number of bytes that it has written.
    written: u64,
}

/// The system calls that move bytes from one end to the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// The one that writes.
    pub write: Write,
    /// The one that reads.
    pub read: Read,
    /// Each frame is cut after this many bytes: they are written, and read, first.
    pub cut: Option<usize>,
    /// With `cut`: each frame is also written apart from the one before it.
    pub apart: bool,
}

/// A connection between two processes.
#[derive(Debug)]
pub struct Talk<'a> {
    /// The daemon that watches.
    pub daemon: &'a Daemon,
    /// The system calls of the transfers that follow.
    pub way: Way,
    /// The local port of clients, if it matters.
    pub client_port: Option<u16>,
    peers: Vec<Peer>,
    client: End,
    server: End,
    address: Address,
    service: String,
    calls: Vec<(Identity, Identity, Call)>,
    /// The ports that servers have listened on.
    ports: Vec<u16>,
    /// [`gaps`] before this talk.
    gaps: f64,
    /// How connections use TLS, if they do.
    tls: Option<Secure>,
}

impl<'a> Talk<'a> {
    /// Starts two processes and connects them; nothing is written yet. `case` is the name of the service, so that no
    /// two cases have a method in common.
    pub fn connect(daemon: &'a Daemon, case: &str, address: Address) -> Result<Self> {
        Self::connect_from(daemon, case, address, [&Start::default(), &Start::default()])
    }

    /// Like [`Self::connect`], with options for the processes: client, server.
    pub fn connect_from(
        daemon: &'a Daemon,
        case: &str,
        address: Address,
        starts: [&Start; 2],
    ) -> Result<Self> {
        Self::connect_by(daemon, case, address, starts, None)
    }

    fn connect_by(
        daemon: &'a Daemon,
        case: &str,
        address: Address,
        [client, server]: [&Start; 2],
        tls: Option<Secure>,
    ) -> Result<Self> {
        let mut peers = Vec::new();
        let gaps = gaps(&daemon.scrape()?);
        let mut server = Peer::start("raw server", server)?;
        let address = server.listen(address)?;
        peers.push(server);
        peers.push(Peer::start("raw client", client)?);
        Self::between(daemon, case, address, peers, (gaps, tls))
    }

    /// Like [`Self::connect`], over TLS: with the library at this path, in both processes.
    pub fn connect_over_tls(
        daemon: &'a Daemon,
        case: &str,
        library: &Path,
        how: Secure,
    ) -> Result<Self> {
        let start = &Start::loading(library);
        Self::connect_by(daemon, case, Address::V4(0), [start, start], Some(how))
    }

    /// Like [`Self::connect`], with both ends in one process.
    pub fn connect_to_itself(daemon: &'a Daemon, case: &str, start: &Start) -> Result<Self> {
        let gaps = gaps(&daemon.scrape()?);
        let mut both = Peer::start("raw server and client", start)?;
        let address = both.listen(Address::V4(0))?;
        Self::between(daemon, case, address, vec![both], (gaps, None))
    }

    /// The first peer listens, the last connects.
    fn between(
        daemon: &'a Daemon,
        case: &str,
        address: Address,
        peers: Vec<Peer>,
        (gaps, tls): (f64, Option<Secure>),
    ) -> Result<Self> {
        let service = service_of(case);
        let end = |peer| End {
            peer,
            socket: 0,
            frames: Frames::of(&service, Shape::default()),
            written: 0,
        };
        let mut talk = Self {
            daemon,
            way: Way::default(),
            client_port: None,
            client: end(peers.len() - 1),
            server: end(0),
            peers,
            ports: address.port().into_iter().collect(),
            address,
            service,
            calls: Vec::new(),
            gaps,
            tls: None,
        };
        if let Some(how) = tls {
            talk.use_tls(how);
        }
        talk.reconnect()?;
        Ok(talk)
    }

    /// Like [`Self::connect`], and opens HTTP/2 as most libraries do.
    pub fn begin(daemon: &'a Daemon, case: &str, address: Address) -> Result<Self> {
        Self::begin_from(daemon, case, address, [&Start::default(), &Start::default()])
    }

    /// Like [`Self::begin`], with options for the processes: client, server.
    pub fn begin_from(
        daemon: &'a Daemon,
        case: &str,
        address: Address,
        starts: [&Start; 2],
    ) -> Result<Self> {
        let mut talk = Self::connect_from(daemon, case, address, starts)?;
        talk.open_http2()?;
        Ok(talk)
    }

    /// Sends the preface, and SETTINGS in both directions.
    pub fn open_http2(&mut self) -> Result<()> {
        self.client(|f| f.bytes(PREFACE).settings(&[(2, 0)]))?;
        self.server(|f| f.settings(&[(3, 1 << 20)]).frame(frame::SETTINGS, frame::ACK, 0, &[]))
    }

    /// Connects the client to the server. An earlier connection stays open until the processes end, but is not used
    /// any more.
    pub fn reconnect(&mut self) -> Result<()> {
        self.begin_connection()?;
        ensure!(self.accept()?, "there is no connection to accept");
        Ok(())
    }

    /// Like [`Self::reconnect`], and opens HTTP/2.
    pub fn reopen(&mut self) -> Result<()> {
        self.reconnect()?;
        self.open_http2()
    }

    /// Has the client connect; [`Self::accept`] must follow.
    pub fn begin_connection(&mut self) -> Result<()> {
        let address = self.address.clone();
        let connect = match self.client_port {
            Some(port) => Action::ConnectFrom(port, address),
            None => Action::Connect(address),
        };
        let connected = self.peer(Client)?.ask(0, connect)?.socket;
        self.client.socket = connected.context("a connection without socket")?;
        Ok(())
    }

    /// Has the server accept; returns whether there was a connection.
    pub fn accept(&mut self) -> Result<bool> {
        let Some(socket) = self.peer(Server)?.ask(0, Action::Accept)?.socket else {
            return Ok(false);
        };
        self.server.socket = socket;
        for end in [&mut self.client, &mut self.server] {
            end.frames = Frames::of(&self.service, end.frames.shape);
        }
        if let Some(how) = self.tls.clone() {
            self.shake_hands(how, &[])?;
        }
        Ok(true)
    }

    /// Uses TLS like this from the next connection on.
    pub fn use_tls(&mut self, how: Secure) {
        self.tls = Some(how);
        self.way.write = Write::Tls(Through::Plain, usize::MAX);
        self.way.read = Read::Tls(Through::Plain, TLS_ROOM);
    }

    /// Begins TLS at both ends. The client sends the early data.
    fn shake_hands(&mut self, how: Secure, early: &[u8]) -> Result<()> {
        let client = Secure { certificate: Vec::new(), ..how.clone() };
        self.tell(Client, Action::Secure(Box::new(client)), early)?;
        self.tell(Server, Action::Secure(Box::new(how)), &[])?;
        self.peer(Client)?.answer()?;
        self.peer(Server)?.answer()?;
        Ok(())
    }

    /// Connects again, where the client resumes its last session and sends these frames as early data. The last connection
    /// must be closed.
    pub fn reconnect_early(
        &mut self,
        build: impl FnOnce(&mut Frames) -> &mut Frames,
    ) -> Result<()> {
        let how = self.tls.take().context("no TLS")?;
        self.reconnect()?;
        let (early, _) = build(&mut self.client.frames).take();
        let resumed = Secure { resumed: Some(early.len()), ..how.clone() };
        self.shake_hands(resumed, &early)?;
        self.tls = Some(how);
        Ok(())
    }

    /// Has one end do something that TLS allows and then write these frames, while the other reads them.
    pub fn protocol(
        &mut self,
        from: Role,
        protocol: Protocol,
        build: impl FnOnce(&mut Frames) -> &mut Frames,
    ) -> Result<()> {
        let (bytes, _) = build(&mut self.end(from).frames).take();
        self.move_bytes_by(from, Action::Protocol(protocol), &bytes)
    }

    /// Starts another server process for the next connection: with the same listener, or one at this address.
    pub fn another_server(&mut self, start: &Start, address: Option<Address>) -> Result<()> {
        let mut server = Peer::start("another raw server", start)?;
        if let Some(address) = address {
            self.address = server.listen(address)?;
            self.ports.extend(self.address.port());
        }
        self.server.peer = self.peers.len();
        self.peers.push(server);
        Ok(())
    }

    /// The service that is called.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The address that the server listens on.
    pub fn address(&self) -> Address {
        self.address.clone()
    }

    /// Uses the peer with this index, in the order of their starts, for the server's end of the next connection.
    pub fn use_server(&mut self, peer: usize) {
        self.server.peer = peer;
    }

    /// The process at this end.
    pub fn peer(&mut self, role: Role) -> Result<&mut Peer> {
        let index = self.end(role).peer;
        self.peers.get_mut(index).context("no such peer")
    }

    fn end(&mut self, role: Role) -> &mut End {
        match role {
            Client => &mut self.client,
            Server => &mut self.server,
        }
    }

    /// Sets the layout of both ends' frames.
    pub fn shape(&mut self, shape: Shape) {
        self.client.frames.shape = shape;
        self.server.frames.shape = shape;
    }

    /// Has the client write and the server read.
    pub fn client(&mut self, build: impl FnOnce(&mut Frames) -> &mut Frames) -> Result<()> {
        self.send(Client, build)
    }

    /// Has the server write and the client read.
    pub fn server(&mut self, build: impl FnOnce(&mut Frames) -> &mut Frames) -> Result<()> {
        self.send(Server, build)
    }

    /// Has this end write and the other read.
    pub fn send(
        &mut self,
        from: Role,
        build: impl FnOnce(&mut Frames) -> &mut Frames,
    ) -> Result<()> {
        let (bytes, starts) = build(&mut self.end(from).frames).take();
        let Some(cut) = self.way.cut else { return self.move_bytes(from, &bytes) };
        let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
        let apart = self.way.apart;
        let cuts = starts.iter().zip(ends).flat_map(|(start, end)| {
            [Some((start + cut).min(end)), apart.then_some(end)].into_iter().flatten()
        });
        let mut begin = 0;
        for end in cuts.chain([bytes.len()]) {
            let piece = bytes.get(begin..end).context("frames that overlap")?;
            if !piece.is_empty() {
                self.move_bytes(from, piece)?;
            }
            begin = end;
        }
        Ok(())
    }

    /// Has the client write, without a read.
    pub fn client_unread(&mut self, build: impl FnOnce(&mut Frames) -> &mut Frames) -> Result<()> {
        self.write(Client, build)
    }

    /// Has the server write, without a read.
    pub fn server_unread(&mut self, build: impl FnOnce(&mut Frames) -> &mut Frames) -> Result<()> {
        self.write(Server, build)
    }

    /// Has the client write with one write(2), whose memory is unmapped while it waits, and the server read.
    pub fn client_unmapped(
        &mut self,
        build: impl FnOnce(&mut Frames) -> &mut Frames,
    ) -> Result<()> {
        let (bytes, _) = build(&mut self.client.frames).take();
        self.tell(Client, Action::WriteUnmapped, &bytes)?;
        self.peer(Client)?.answer()?;
        self.act(Server, Action::Read { how: self.way.read, length: bytes.len() })
    }

    fn write(&mut self, role: Role, build: impl FnOnce(&mut Frames) -> &mut Frames) -> Result<()> {
        let (bytes, _) = build(&mut self.end(role).frames).take();
        self.tell(role, Action::Write(self.way.write), &bytes)?;
        self.peer(role)?.answer()?;
        Ok(())
    }

    /// Has one end write these bytes and the other read them.
    fn move_bytes(&mut self, from: Role, bytes: &[u8]) -> Result<()> {
        self.move_bytes_by(from, Action::Write(self.way.write), bytes)
    }

    fn move_bytes_by(&mut self, from: Role, write: Action, bytes: &[u8]) -> Result<()> {
        let to = if from == Client { Server } else { Client };
        let (writer, reader) = (self.end(from).peer, self.end(to).peer);
        self.tell(from, write, bytes)?;
        if writer == reader {
            // It cannot do both at once: the bytes must fit into the socket.
            self.peer(from)?.answer()?;
        }
        self.tell(to, Action::Read { how: self.way.read, length: bytes.len() }, &[])?;
        if writer != reader {
            self.peer(from)?.answer()?;
        }
        self.peer(to)?.answer()?;
        Ok(())
    }

    /// Tells an end to do something with its socket. Its peer's answer must be waited for.
    pub fn tell(&mut self, role: Role, action: Action, payload: &[u8]) -> Result<()> {
        let End { socket, written, .. } = self.end(role);
        let socket = *socket;
        *written += payload.len() as u64;
        self.peer(role)?.tell(socket, action, payload)
    }

    /// Has an end do something with its socket.
    pub fn act(&mut self, role: Role, action: Action) -> Result<()> {
        self.tell(role, action, &[])?;
        self.peer(role)?.answer()?;
        Ok(())
    }

    /// Makes a whole call, with a request of 5 bytes and a response of 6.
    pub fn call(&mut self, stream: u32, method: &str, code: i32) -> Result<()> {
        self.client(|f| f.request(stream, method).last_message(stream, 5))?;
        self.server(|f| f.response(stream).message(stream, 6).trailers(stream, code))
    }

    /// Like [`Self::call`], and expects it.
    pub fn expected_call(&mut self, stream: u32, method: &str, code: i32) -> Result<()> {
        self.call(stream, method, code)?;
        self.expect(Call::new(method, code).unary(5, 6))
    }

    /// Expects a call between the processes that are the ends now.
    pub fn expect(&mut self, call: Call) -> Result<()> {
        self.expect_from(Client, call)
    }

    /// Like [`Self::expect`], for a call that this end made.
    pub fn expect_from(&mut self, caller: Role, call: Call) -> Result<()> {
        let called = if caller == Client { Server } else { Client };
        let client = self.peer(caller)?.identity().clone();
        let server = self.peer(called)?.identity().clone();
        self.calls.push((client, server, call));
        Ok(())
    }

    /// Waits until this many calls are in flight at both ends, or, if the kernel may skip programs, until the daemon
    /// reports gaps.
    pub fn in_flight(&mut self, calls: u32) -> Result<()> {
        let calls = if self.is_watched() { calls } else { 0 };
        let ends = self.pids()?;
        self.daemon.wait_until(|metrics| {
            if self.is_excused(metrics) {
                return Ok(());
            }
            ends.iter().try_for_each(|(side, pid)| {
                metrics.expect_sum(&format!("grpc_{side}_in_flight"), &[("pid", pid)], calls)
            })
        })
    }

    /// Whether the daemon watches sockets of this kind.
    pub fn is_watched(&self) -> bool {
        self.address.counts() || self.daemon.watches_uncounted()
    }

    /// The number of bytes that this end has written.
    pub fn written(&mut self, role: Role) -> u64 {
        self.end(role).written
    }

    /// The number of the process at this end, as in a label.
    pub fn pid(&mut self, role: Role) -> Result<String> {
        Ok(self.peer(role)?.identity().pid.to_string())
    }

    /// The sides, and the numbers of the processes at these ends.
    pub fn pids(&mut self) -> Result<[(&'static str, String); 2]> {
        Ok([(Client.side(), self.pid(Client)?), (Server.side(), self.pid(Server)?)])
    }

    /// Waits until the daemon reports the expected calls, and no others, for all processes that took part.
    pub fn compare(&self) -> Result<()> {
        self.daemon.settle(&self.expected())
    }

    fn expected(&self) -> Vec<Expected> {
        // By their present names, and by those that they had when they made calls.
        let mut who = BTreeMap::<u32, Vec<&Identity>>::new();
        let now = self.peers.iter().map(Peer::identity);
        let then = self.calls.iter().flat_map(|(client, server, _)| [client, server]);
        for identity in now.chain(then) {
            let names = who.entry(identity.pid).or_default();
            if names.iter().all(|known| known.comm != identity.comm) {
                names.push(identity);
            }
        }
        let is = |one: &Identity, other: &Identity| one.pid == other.pid && one.comm == other.comm;
        let under_name = |identity: &&Identity| {
            if !self.is_watched() {
                return Expected::nothing(identity);
            }
            let client = self.truth(|(client, ..)| is(client, identity), Client);
            let server = self.truth(|(_, server, _)| is(server, identity), Server);
            Expected::of_client(identity, &client).and(Expected::of_server(identity, &server))
        };
        let of_one = |names: &Vec<&Identity>| {
            names.iter().map(under_name).reduce(|now, then| then.before(now))
        };
        who.values().filter_map(of_one).collect()
    }

    fn truth(&self, of: impl Fn(&(Identity, Identity, Call)) -> bool, role: Role) -> Truth {
        let calls = self.calls.iter().filter(|entry| of(entry));
        Truth { pid: 0, calls: calls.map(|(.., call)| call.row(&self.service, role)).collect() }
    }

    /// Closes the connection, at the client first.
    pub fn close(&mut self) -> Result<()> {
        self.act(Client, Action::Close)?;
        self.act(Server, Action::Close)
    }

    /// Closes the connection, and compares once the daemon has seen its end.
    pub fn finish(mut self) -> Result<()> {
        self.close()?;
        self.finish_closed()
    }

    /// Like [`Self::finish`], where the end of the processes closes the connection.
    pub fn finish_ended(mut self) -> Result<()> {
        self.end_peers()?;
        self.finish_closed()
    }

    /// Like [`Self::finish`], where the connection is closed already.
    pub fn finish_closed(mut self) -> Result<()> {
        self.end_of_connections()?;
        self.compare()?;
        let metrics = self.daemon.scrape()?;
        let gaps = self.gaps_since(&metrics);
        ensure!(
            gaps == 0.0 || losses::skipped_programs(&metrics).is_some(),
            "the daemon reports {gaps} gaps"
        );
        if !self.ports.is_empty() {
            let calls = self.calls.iter().map(|(.., call)| call.on_the_wire(&self.service));
            tshark::record(&self.ports, calls);
        }
        self.end_peers()
    }

    /// Closes the connection; an error unless the daemon reports a gap. Compares nothing.
    pub fn finish_with_gaps(mut self) -> Result<()> {
        self.close()?;
        self.end_of_connections()?;
        ensure!(self.gaps_since(&self.daemon.scrape()?) > 0.0, "the daemon reports no gap");
        self.end_peers()
    }

    /// The number of [`gaps`] since this talk began.
    fn gaps_since(&self, metrics: &Metrics) -> f64 {
        gaps(metrics) - self.gaps
    }

    /// Whether the kernel has skipped programs and the daemon reports gaps: then numbers may be too low.
    pub fn is_excused(&self, metrics: &Metrics) -> bool {
        losses::skipped_programs(metrics).is_some() && self.gaps_since(metrics) > 0.0
    }

    /// Ends the processes that have not been killed, and with them their connections.
    pub fn end_peers(&mut self) -> Result<()> {
        self.peers.iter_mut().try_for_each(Peer::end)
    }

    /// Waits until the daemon has seen the end of all connections of the two processes.
    fn end_of_connections(&mut self) -> Result<()> {
        self.pids()?.iter().try_for_each(|(side, pid)| {
            let name = format!("grpc_{side}_connections");
            self.daemon.wait_for_sum(&name, &[("pid", pid)], ..=0.0)
        })
    }
}

/// The service of the case with this name.
pub fn service_of(case: &str) -> String {
    case.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// The number of gaps and of HPACK errors that the daemon reports.
pub fn gaps(metrics: &Metrics) -> f64 {
    metrics.sum("observer_gaps_total", &[]) + metrics.sum("observer_hpack_errors_total", &[])
}

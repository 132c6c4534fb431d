//! One connection between two raw peers, in lockstep: what one end writes, the other has read
//! before anything else happens.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use super::call::Call;
use super::command::{Action, Address, Read, Write};
use super::frames::{Frames, PREFACE, Shape};
use super::process::{Peer, Start};
use crate::daemon::Daemon;
use crate::expected::Expected;
use crate::losses;
use crate::openmetrics::Metrics;
use crate::peer::Identity;
use crate::truth::Truth;
use crate::tshark;

/// An end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Role {
    Server,
    Client,
}

use Role::{Client, Server};

/// One end: a socket of a process.
#[derive(Debug)]
struct End {
    /// Which of the talk's peers.
    peer: usize,
    socket: usize,
    frames: Frames,
    /// Bytes so far.
    written: u64,
}

/// How bytes go from one end to the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// Written so,
    pub write: Write,
    /// and read so.
    pub read: Read,
    /// Each frame is cut at this byte: what is before it is written, and read, first.
    pub cut: Option<usize>,
    /// Each frame is also cut from the one before it.
    pub apart: bool,
}

/// A connection between two processes.
#[derive(Debug)]
pub struct Talk<'a> {
    /// Watches.
    pub daemon: &'a Daemon,
    /// How bytes go from here on.
    pub way: Way,
    /// The port of their own that clients connect from, if it is to be this one.
    pub client_port: Option<u16>,
    peers: Vec<Peer>,
    client: End,
    server: End,
    address: Address,
    service: String,
    calls: Vec<(Identity, Identity, Call)>,
    /// Where servers have listened.
    ports: Vec<u16>,
    /// What was not seen before this talk began: [`gaps`].
    gaps: f64,
}

impl<'a> Talk<'a> {
    /// Starts two processes and connects them; nothing is written yet. `case` is the name of the
    /// service, so that no two cases have a method in common.
    pub fn connect(daemon: &'a Daemon, case: &str, address: Address) -> Result<Self> {
        Self::connect_from(daemon, case, address, [&Start::default(), &Start::default()])
    }

    /// Likewise, with processes (client, server) that are started so.
    pub fn connect_from(
        daemon: &'a Daemon,
        case: &str,
        address: Address,
        [client, server]: [&Start; 2],
    ) -> Result<Self> {
        let mut peers = Vec::new();
        let gaps = gaps(&daemon.scrape()?);
        let mut server = Peer::start("raw server", server)?;
        let address = server.listen(address)?;
        peers.push(server);
        peers.push(Peer::start("raw client", client)?);
        Self::between(daemon, case, address, peers, gaps)
    }

    /// Likewise, with both ends in one process.
    pub fn connect_to_itself(daemon: &'a Daemon, case: &str, start: &Start) -> Result<Self> {
        let gaps = gaps(&daemon.scrape()?);
        let mut both = Peer::start("raw server and client", start)?;
        let address = both.listen(Address::V4(0))?;
        Self::between(daemon, case, address, vec![both], gaps)
    }

    /// The first peer listens, the last connects.
    fn between(
        daemon: &'a Daemon,
        case: &str,
        address: Address,
        peers: Vec<Peer>,
        gaps: f64,
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
        };
        talk.reconnect()?;
        Ok(talk)
    }

    /// Both connect, and open HTTP/2 as most libraries do.
    pub fn begin(daemon: &'a Daemon, case: &str, address: Address) -> Result<Self> {
        Self::begin_from(daemon, case, address, [&Start::default(), &Start::default()])
    }

    /// Likewise, with processes (client, server) that are started so.
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

    /// The preface and the SETTINGS of both.
    pub fn open_http2(&mut self) -> Result<()> {
        self.client(|f| f.bytes(PREFACE).settings(&[(2, 0)]))?;
        self.server(|f| {
            f.settings(&[(3, 1 << 20)]).frame(super::frames::frame::SETTINGS, 1, 0, &[])
        })
    }

    /// The client connects to the server. A connection that was there before stays open until the
    /// processes end, but is not the talk's any more.
    pub fn reconnect(&mut self) -> Result<()> {
        self.begin_connection()?;
        ensure!(self.accept()?, "nobody connects");
        Ok(())
    }

    /// Likewise, and both open HTTP/2.
    pub fn reopen(&mut self) -> Result<()> {
        self.reconnect()?;
        self.open_http2()
    }

    /// The client connects; [`Self::accept`] is to follow.
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

    /// Whether the server finds a connection to accept.
    pub fn accept(&mut self) -> Result<bool> {
        let Some(socket) = self.peer(Server)?.ask(0, Action::Accept)?.socket else {
            return Ok(false);
        };
        self.server.socket = socket;
        for end in [&mut self.client, &mut self.server] {
            end.frames = Frames::of(&self.service, end.frames.shape);
        }
        Ok(true)
    }

    /// Another server process is at the server's end of the next connection: of the same
    /// listener, or it listens itself.
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

    /// Where the server listens.
    pub fn address(&self) -> Address {
        self.address.clone()
    }

    /// The peer of this number, as they were started, is at the server's end of the next
    /// connection.
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

    /// How frames of both look from here on.
    pub fn shape(&mut self, shape: Shape) {
        self.client.frames.shape = shape;
        self.server.frames.shape = shape;
    }

    /// The client writes, the server reads.
    pub fn client(&mut self, build: impl FnOnce(&mut Frames) -> &mut Frames) -> Result<()> {
        build(&mut self.client.frames);
        self.transfer(Client)
    }

    /// The server writes, the client reads.
    pub fn server(&mut self, build: impl FnOnce(&mut Frames) -> &mut Frames) -> Result<()> {
        build(&mut self.server.frames);
        self.transfer(Server)
    }

    /// The client writes, nobody reads.
    pub fn client_unread(&mut self, build: impl FnOnce(&mut Frames) -> &mut Frames) -> Result<()> {
        build(&mut self.client.frames);
        self.write(Client)
    }

    /// The server writes, nobody reads.
    pub fn server_unread(&mut self, build: impl FnOnce(&mut Frames) -> &mut Frames) -> Result<()> {
        build(&mut self.server.frames);
        self.write(Server)
    }

    /// The client writes in one call, whose memory is unmapped while it waits for the server to read.
    pub fn client_unmapped(
        &mut self,
        build: impl FnOnce(&mut Frames) -> &mut Frames,
    ) -> Result<()> {
        let (bytes, _) = build(&mut self.client.frames).take();
        self.tell(Client, Action::WriteUnmapped, &bytes)?;
        self.peer(Client)?.answer()?;
        self.act(Server, Action::Read { how: self.way.read, length: bytes.len() })
    }

    fn write(&mut self, role: Role) -> Result<()> {
        let (bytes, _) = self.end(role).frames.take();
        self.tell(role, Action::Write(self.way.write), &bytes)?;
        self.peer(role)?.answer()?;
        Ok(())
    }

    fn transfer(&mut self, from: Role) -> Result<()> {
        let (bytes, starts) = self.end(from).frames.take();
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

    /// One writes these bytes, the other reads them.
    fn move_bytes(&mut self, from: Role, bytes: &[u8]) -> Result<()> {
        let to = if from == Client { Server } else { Client };
        let (writer, reader) = (self.end(from).peer, self.end(to).peer);
        self.tell(from, Action::Write(self.way.write), bytes)?;
        if writer == reader {
            // It cannot do both at once: what is written must fit into the socket.
            self.peer(from)?.answer()?;
        }
        self.tell(to, Action::Read { how: self.way.read, length: bytes.len() }, &[])?;
        if writer != reader {
            self.peer(from)?.answer()?;
        }
        self.peer(to)?.answer()?;
        Ok(())
    }

    fn tell(&mut self, role: Role, action: Action, payload: &[u8]) -> Result<()> {
        let End { socket, written, .. } = self.end(role);
        let socket = *socket;
        *written += payload.len() as u64;
        self.peer(role)?.tell(socket, action, payload)
    }

    /// An end does something with its socket.
    pub fn act(&mut self, role: Role, action: Action) -> Result<()> {
        self.tell(role, action, &[])?;
        self.peer(role)?.answer()?;
        Ok(())
    }

    /// A call from its beginning to its end, with a request of 5 bytes and a response of 6.
    pub fn call(&mut self, stream: u32, method: &str, code: i32) -> Result<()> {
        self.client(|f| f.request(stream, method).last_message(stream, 5))?;
        self.server(|f| f.response(stream).message(stream, 6).trailers(stream, code))
    }

    /// Likewise, and it is expected.
    pub fn expected_call(&mut self, stream: u32, method: &str, code: i32) -> Result<()> {
        self.call(stream, method, code)?;
        self.expect(Call::new(method, code).unary(5, 6))
    }

    /// This happened, between the processes that are the ends now.
    pub fn expect(&mut self, call: Call) -> Result<()> {
        let client = self.peer(Client)?.identity().clone();
        let server = self.peer(Server)?.identity().clone();
        self.calls.push((client, server, call));
        Ok(())
    }

    /// Likewise, where the end that was connected to made the call.
    pub fn expect_reversed(&mut self, call: Call) -> Result<()> {
        let client = self.peer(Server)?.identity().clone();
        let server = self.peer(Client)?.identity().clone();
        self.calls.push((client, server, call));
        Ok(())
    }

    /// The daemon says that so many calls are open, at both ends; or, where the kernel may skip programs,
    /// that it has missed something.
    pub fn in_flight(&mut self, calls: u32) -> Result<()> {
        let calls = if self.is_watched() { calls } else { 0 };
        let pids = [("client", self.pid(Client)?), ("server", self.pid(Server)?)];
        self.daemon.wait_until(|metrics| {
            if self.is_excused(metrics) {
                return Ok(());
            }
            for (role, pid) in &pids {
                let seen = metrics.sum(&format!("grpc_{role}_in_flight"), &[("pid", pid)]);
                if seen.total_cmp(&f64::from(calls)).is_ne() {
                    return Err(format!("{calls} calls are in flight, the {role} shows {seen}"));
                }
            }
            Ok(())
        })
    }

    /// Whether the daemon watches such sockets.
    pub fn is_watched(&self) -> bool {
        self.address.counts() || self.daemon.watches_uncounted()
    }

    /// How many bytes this end has written.
    pub fn written(&mut self, role: Role) -> u64 {
        self.end(role).written
    }

    /// The number of the process at this end, as in a label.
    pub fn pid(&mut self, role: Role) -> Result<String> {
        Ok(self.peer(role)?.identity().pid.to_string())
    }

    /// The daemon says what was expected, and nothing else, of all processes that took part.
    pub fn compare(&self) -> Result<()> {
        self.daemon.settle(&self.expected())
    }

    fn expected(&self) -> Vec<Expected> {
        // By what they are named now, and what they were named when they made calls.
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

    /// Closes the connection, first at the client.
    pub fn close(&mut self) -> Result<()> {
        self.act(Client, Action::Close)?;
        self.act(Server, Action::Close)
    }

    /// Likewise, and compares once the daemon has seen its end: nothing more can come.
    pub fn finish(mut self) -> Result<()> {
        self.close()?;
        self.finish_closed()
    }

    /// Likewise, where the end of the processes is that of the connection.
    pub fn finish_ended(mut self) -> Result<()> {
        self.end_peers()?;
        self.finish_closed()
    }

    /// Likewise, where the connection is closed already.
    pub fn finish_closed(mut self) -> Result<()> {
        self.end_of_connections()?;
        self.compare()?;
        let metrics = self.daemon.scrape()?;
        let missed = self.missed(&metrics);
        ensure!(
            missed.total_cmp(&0.0).is_eq() || losses::skipped_programs(&metrics).is_some(),
            "the daemon says that it missed {missed} things"
        );
        if !self.ports.is_empty() {
            let calls = self.calls.iter().map(|(.., call)| call.on_the_wire(&self.service));
            tshark::tell(&self.ports, calls);
        }
        self.end_peers()
    }

    /// Likewise, where the daemon must say that it missed something.
    pub fn finish_with_gaps(mut self) -> Result<()> {
        self.close()?;
        self.end_of_connections()?;
        let missed = self.missed(&self.daemon.scrape()?);
        ensure!(missed > 0.0, "the daemon says that it missed nothing");
        self.end_peers()
    }

    /// How often the daemon says that it did not see something since this talk began.
    fn missed(&self, metrics: &Metrics) -> f64 {
        gaps(metrics) - self.gaps
    }

    /// Whether the kernel may skip programs, and the daemon says that it has missed something.
    pub fn is_excused(&self, metrics: &Metrics) -> bool {
        losses::skipped_programs(metrics).is_some() && self.missed(metrics) > 0.0
    }

    /// Nothing is compared any more.
    pub fn finish_uncompared(mut self) -> Result<()> {
        self.end_peers()
    }

    /// Has the processes end that have not been killed, and with them their connections.
    pub fn end_peers(&mut self) -> Result<()> {
        self.peers.iter_mut().try_for_each(Peer::end)
    }

    /// Waits until the daemon has seen the end of all connections of the two processes.
    fn end_of_connections(&mut self) -> Result<()> {
        let pids = [("client", self.pid(Client)?), ("server", self.pid(Server)?)];
        self.daemon.wait_until(|metrics| {
            for (role, pid) in &pids {
                let seen = metrics.sum(&format!("grpc_{role}_connections"), &[("pid", pid)]);
                if seen > 0.0 {
                    return Err(format!("the {role} still has {seen} connections"));
                }
            }
            Ok(())
        })
    }
}

/// The service of a case of this name.
pub fn service_of(case: &str) -> String {
    case.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// How often the daemon says that it did not see something.
pub fn gaps(metrics: &Metrics) -> f64 {
    metrics.sum("observer_gaps_total", &[]) + metrics.sum("observer_hpack_errors_total", &[])
}

//! Who calls whom: the calls of each method, by the services at both ends.
//!
//! [`Edges`] is an output of each worker's pipeline. It gets every end of a call that is watched, and has to know two
//! things before it can count it:
//!
//! - the other end. If that is on this node, its process is found by the [pair](crate::ends::Call::pair) of the
//!   connection, no matter which addresses the two see. Its records may come from another worker, so the first calls of
//!   a connection wait, at most a second. Otherwise the other end has a name if [`Peers`] has one for its address.
//! - the services of both processes, which do not change any more once they are [settled](crate::process::Process).
//!
//! Each call counts once: by the client's end if that is watched, here or by another daemon; otherwise by the server's.
//! Durations are those of each end. The sums are in one table for all workers, with a bound and shares like those of
//! series.

mod addresses;
mod graph;
mod node;

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustc_hash::FxHashMap;

use self::graph::{Edge, Graph, Observation};
pub use self::{
    addresses::Addresses,
    graph::{EdgeFigures, EdgeKey},
    node::{Node, PeerName, Peers},
};
use crate::{
    call::{CallKey, CallProtocol, Role},
    ends::{Call, End as WatchedEnd, OtherEnd},
    names::PathId,
    output::{Names, Output},
    process::{ProcessId, Processes},
    record::Peer,
    statistics::Recording,
};

/// Bound on the calls of a worker whose other end may still show.
const MAX_WAITING: usize = 16_384;

/// Bound on the sums of a worker between processes whose services are not known yet.
const MAX_UNNAMED: usize = 4_096;

/// Number of calls that are added to the common table at once.
const BATCH: usize = 4_096;

/// Bound on the processes of a worker whose services are remembered.
const MAX_KNOWN: usize = 16_384;

/// Counts the calls between services, for one worker.
#[derive(Debug)]
pub struct Edges {
    graph: Arc<Mutex<Graph>>,
    recording: Recording,
    peers: Peers,
    unknown: Arc<Node>,
    /// Calls whose other end may still show, in the order of their ends.
    waiting: VecDeque<Waiting>,
    /// Calls for the common table.
    named: Vec<(EdgeKey, Observation)>,
    /// Sums of calls whose processes have no settled service yet.
    unnamed: HashMap<UnnamedKey, Edge>,
    /// The settled services of processes.
    services: FxHashMap<ProcessId, Arc<Node>>,
}

/// A call whose other end may still show.
#[derive(Debug)]
struct Waiting {
    key: CallKey,
    text: Option<Arc<str>>,
    /// The host that the request is for.
    authority: Option<Arc<str>>,
    call: Call,
}

/// An end of calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum End {
    Process(ProcessId),
    Named(Arc<Node>),
}

/// The key of an edge between ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct UnnamedKey {
    client: End,
    server: End,
    is_virtual: bool,
    path: PathId,
}

/// The edges of all workers.
#[derive(Clone, Debug)]
pub struct AllEdges(Arc<Mutex<Graph>>);

impl AllEdges {
    /// A copy of all edges, sorted. O(edges · log edges).
    pub fn sorted(&self) -> Vec<EdgeFigures> {
        lock(&self.0).sorted()
    }

    /// The number of calls that were counted for other methods or services, because a bound was reached.
    pub fn overflow(&self) -> u64 {
        lock(&self.0).overflow()
    }
}

impl Edges {
    /// Creates the output. Edges are dropped once they had no call for `ttl`, and the services of their ends that are
    /// watched here are gone for as long.
    pub fn new(recording: Recording, max_edges: usize, ttl: Duration, peers: Peers) -> Self {
        let ttl_ns = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        let graph = Graph::new(recording.clone(), max_edges, ttl_ns);
        Self::of(Arc::new(Mutex::new(graph)), recording, peers)
    }

    fn of(graph: Arc<Mutex<Graph>>, recording: Recording, peers: Peers) -> Self {
        Self {
            graph,
            recording,
            peers,
            unknown: Node::named(Node::UNKNOWN),
            waiting: VecDeque::new(),
            named: Vec::new(),
            unnamed: HashMap::new(),
            services: FxHashMap::default(),
        }
    }

    /// The edges of all workers.
    pub fn all(&self) -> AllEdges {
        AllEdges(Arc::clone(&self.graph))
    }

    /// Adds a call whose other end is known, or will not be.
    fn add(&mut self, waiting: Waiting, other: Option<ProcessId>, processes: &Processes) {
        let Waiting { key: CallKey { process, role, path, .. }, text, authority, call } = waiting;
        // A path whose text is gone was not seen.
        let path = if text.is_some() || path == PathId::OTHER { path } else { PathId::NOT_SEEN };
        let address = address(&call);
        let is_joined = other.is_some();
        let by_another = !is_joined && self.peers.are_watched_at(address);
        let (own, other) = (
            End::Process(process),
            match other {
                Some(process) => End::Process(process),
                None => End::Named(
                    self.peers
                        .at(address)
                        .or_else(|| Node::of_authority(&authority?))
                        .unwrap_or_else(|| Arc::clone(&self.unknown)),
                ),
            },
        );
        let (client, server) = match role {
            Role::Client => (own, other),
            Role::Server => (other, own),
        };
        let observation = Observation {
            text,
            role,
            is_joined,
            counts: role == Role::Client || !is_joined && !by_another,
            code: call.ended.code,
            elapsed_ns: call.ended.elapsed_ns,
            time_ns: call.time_ns,
            owner: process.0,
        };
        let is_virtual = !is_joined && !by_another;
        match [&client, &server].map(|end| self.node(end, processes)) {
            [Some(client), Some(server)] => {
                self.named.push((EdgeKey { client, server, is_virtual, path }, observation));
                if self.named.len() >= BATCH {
                    self.publish();
                }
            }
            _ => self.add_unnamed(UnnamedKey { client, server, is_virtual, path }, &observation),
        }
    }

    fn add_unnamed(&mut self, key: UnnamedKey, of: &Observation) {
        let Self { unnamed, recording, graph, .. } = self;
        if unnamed.len() >= MAX_UNNAMED && !unnamed.contains_key(&key) {
            return lock(graph).merge_without_room(of);
        }
        let edge = unnamed.entry(key).or_insert_with(|| Edge::new(recording, of));
        edge.add(recording, of);
    }

    /// The service of an end; `None` if it is not settled.
    fn node(&mut self, end: &End, processes: &Processes) -> Option<Arc<Node>> {
        let id = match end {
            End::Named(node) => return Some(Arc::clone(node)),
            End::Process(id) => *id,
        };
        if let Some(node) = self.services.get(&id) {
            return Some(Arc::clone(node));
        }
        let Some(process) = processes.process(id) else {
            // It was forgotten.
            return Some(Node::named(Node::NOT_SEEN));
        };
        let node = process.has_service.then(|| Node::of(&process))?;
        if self.services.len() >= MAX_KNOWN {
            self.services.clear();
        }
        self.services.insert(id, Arc::clone(&node));
        Some(node)
    }

    /// Moves calls to the common table.
    fn publish(&mut self) {
        if !self.named.is_empty() {
            let mut graph = lock(&self.graph);
            for (key, observation) in self.named.drain(..) {
                graph.add(key, &observation);
            }
        }
    }

    /// Moves the sums whose services are settled to the common table.
    fn publish_settled(&mut self, processes: &Processes) {
        if self.unnamed.is_empty() {
            return;
        }
        for (key, edge) in std::mem::take(&mut self.unnamed) {
            match [&key.client, &key.server].map(|end| self.node(end, processes)) {
                [Some(client), Some(server)] => {
                    let UnnamedKey { is_virtual, path, .. } = key;
                    let key = EdgeKey { client, server, is_virtual, path };
                    lock(&self.graph).merge(key, edge);
                }
                _ => {
                    self.unnamed.insert(key, edge);
                }
            }
        }
    }
}

/// The address of the other end.
fn address(call: &Call) -> Option<IpAddr> {
    match call.peer {
        Some(Peer::Address(address)) => Some(address.ip()),
        _ => None,
    }
}

fn lock(graph: &Mutex<Graph>) -> MutexGuard<'_, Graph> {
    graph.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Output for Edges {
    fn sharing(&self) -> Self {
        Self::of(Arc::clone(&self.graph), self.recording.clone(), self.peers.clone())
    }

    fn needs_authorities(&self) -> bool {
        true
    }

    fn needs_services(&self) -> bool {
        true
    }

    fn call(&mut self, call: &mut Call, key: Option<CallKey>, names: &Names<'_>) {
        // The names of an edge's methods are gRPC's.
        let Some(key) = key.filter(|key| key.protocol.family() == CallProtocol::Grpc) else {
            return;
        };
        let text = names.interner.resolve(key.path).cloned();
        // It names the server.
        let authority = call.ended.authority.filter(|_| key.role == Role::Client);
        let authority = authority.and_then(|id| names.interner.resolve(id).cloned());
        let waiting = Waiting { key, text, authority, call: *call };
        let CallKey { process, role, .. } = key;
        let Call { connection, pair, time_ns, .. } = *call;
        let end = WatchedEnd { process, connection, since_ns: time_ns };
        let other = match pair {
            0 => OtherEnd::NotWatched,
            _ => names.ends.other(pair, role, end, time_ns),
        };
        match other {
            OtherEnd::Watched(other) => self.add(waiting, Some(other), names.processes),
            OtherEnd::NotYet if self.waiting.len() < MAX_WAITING => self.waiting.push_back(waiting),
            OtherEnd::NotYet | OtherEnd::NotWatched => self.add(waiting, None, names.processes),
        }
    }

    fn settle(&mut self, now_ns: u64, names: &Names<'_>) {
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else { break };
            let Waiting { key, call, .. } = &waiting;
            match names.ends.other_now(call.pair, key.role, call.connection, now_ns) {
                OtherEnd::Watched(other) => self.add(waiting, Some(other), names.processes),
                OtherEnd::NotYet => self.waiting.push_back(waiting),
                OtherEnd::NotWatched => self.add(waiting, None, names.processes),
            }
        }
        self.publish();
        self.publish_settled(names.processes);
        lock(&self.graph).expire(now_ns, names.processes);
    }

    fn tick(&mut self, _: u64) {}

    fn stop(&mut self, stopped: bool) {
        lock(&self.graph).stop(stopped);
    }

    fn forget(&mut self, process: ProcessId, _: Option<ProcessId>) {
        self.services.remove(&process);
    }
}

#[cfg(test)]
mod tests;

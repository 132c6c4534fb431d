//! The sums of calls by the services at both ends.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use super::Node;
use crate::{
    call::{Code, Role},
    names::{PathId, Share},
    process::Processes,
    statistics::{EdgeSeries, Recording},
};

/// The shortest time between searches for edges that have ended: 10 s, because a search visits everything.
const PERIOD_NS: u64 = 10_000_000_000;

/// The calls of one method between two services.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeKey {
    /// The service that makes the calls.
    pub client: Arc<Node>,
    /// The service that answers them.
    pub server: Arc<Node>,
    /// Whether one of the two is not watched, neither here nor by another daemon.
    pub is_virtual: bool,
    /// The method.
    pub path: PathId,
}

impl EdgeKey {
    /// The edge of all calls without room.
    fn other() -> Self {
        let node = Node::named(Node::OTHER);
        Self { client: Arc::clone(&node), server: node, is_virtual: true, path: PathId::OTHER }
    }
}

/// The figures of an edge.
#[derive(Clone, Debug)]
pub struct EdgeFigures {
    /// The edge.
    pub key: EdgeKey,
    /// The text of its path; `None` if that has none.
    pub text: Option<Arc<str>>,
    /// The figures.
    pub series: EdgeSeries,
}

/// The sums of one edge.
#[derive(Debug)]
pub(super) struct Edge {
    text: Option<Arc<str>>,
    series: EdgeSeries,
    /// Whether the client's ends are watched here, and the server's.
    here: [bool; 2],
    /// The number of the process whose share it takes.
    owner: u32,
    /// The time of the last call.
    used_ns: u64,
}

/// A call between two services, as one of its ends has seen it.
#[derive(Clone, Debug)]
pub(super) struct Observation {
    pub(super) text: Option<Arc<str>>,
    /// The side of the end.
    pub(super) role: Role,
    /// Whether both ends are watched here.
    pub(super) is_joined: bool,
    /// Whether this end counts the call.
    pub(super) counts: bool,
    pub(super) code: Option<Code>,
    pub(super) elapsed_ns: Option<u64>,
    pub(super) time_ns: u64,
    pub(super) owner: u32,
}

impl Edge {
    pub(super) fn new(recording: &Recording, of: &Observation) -> Self {
        let series = EdgeSeries::new(recording, of.time_ns);
        let (text, owner) = (of.text.clone(), of.owner);
        Self { text, series, here: [false; 2], owner, used_ns: of.time_ns }
    }

    pub(super) fn add(&mut self, recording: &Recording, of: &Observation) {
        let Observation { role, is_joined, counts, code, elapsed_ns, time_ns, .. } = *of;
        self.series.add(recording, role, counts, code, elapsed_ns);
        self.used_ns = self.used_ns.max(time_ns);
        let [client, server] = &mut self.here;
        *client |= is_joined || role == Role::Client;
        *server |= is_joined || role == Role::Server;
    }

    fn merge(&mut self, other: &Self) {
        let Self { text: _, series, here: [client, server], owner: _, used_ns } = other;
        self.series.merge(series);
        let [own_client, own_server] = &mut self.here;
        *own_client |= client;
        *own_server |= server;
        self.used_ns = self.used_ns.max(*used_ns);
    }
}

/// All edges, of all workers.
#[derive(Debug)]
pub(super) struct Graph {
    edges: HashMap<EdgeKey, Edge>,
    share: Share<u32>,
    recording: Recording,
    ttl_ns: u64,
    /// The time of the last search for edges that have ended.
    searched_ns: u64,
    overflow: u64,
}

impl Graph {
    pub(super) fn new(recording: Recording, max_edges: usize, ttl_ns: u64) -> Self {
        let share = Share::of(max_edges);
        Self { edges: HashMap::new(), share, recording, ttl_ns, searched_ns: 0, overflow: 0 }
    }

    pub(super) fn stop(&mut self, stopped: bool) {
        self.share.stop(stopped);
    }

    /// The number of calls that were counted for other methods, or other services, because there was no room.
    pub(super) fn overflow(&self) -> u64 {
        self.overflow
    }

    /// Adds a call.
    pub(super) fn add(&mut self, key: EdgeKey, of: &Observation) {
        if let Some(edge) = self.edges.get_mut(&key) {
            return edge.add(&self.recording, of);
        }
        let mut edge = Edge::new(&self.recording, of);
        edge.add(&self.recording, of);
        self.merge(key, edge);
    }

    /// Adds the calls of an edge; if there is no room for it, to that of other methods, and at last to that of all calls
    /// without room.
    pub(super) fn merge(&mut self, key: EdgeKey, mut edge: Edge) {
        let key = self.known_or_room(key, edge.owner).unwrap_or_else(|key| {
            edge.text = None;
            self.overflow += edge.series.ended();
            let key = EdgeKey { path: PathId::OTHER, ..key };
            self.known_or_room(key, edge.owner).unwrap_or_else(|_| EdgeKey::other())
        });
        match self.edges.entry(key) {
            Entry::Occupied(mut known) => known.get_mut().merge(&edge),
            Entry::Vacant(new) => {
                new.insert(edge);
            }
        }
    }

    /// Adds the calls of an edge to that of all calls without room.
    pub(super) fn merge_without_room(&mut self, of: &Observation) {
        self.overflow += u64::from(of.counts);
        let of = Observation { text: None, ..of.clone() };
        self.add(EdgeKey::other(), &of);
    }

    /// The key, if there is such an edge or room for it, which is taken then.
    fn known_or_room(&mut self, key: EdgeKey, owner: u32) -> Result<EdgeKey, EdgeKey> {
        if self.edges.contains_key(&key) || key == EdgeKey::other() {
            return Ok(key);
        }
        if !self.share.admits(owner) {
            return Err(key);
        }
        self.share.take(owner);
        Ok(key)
    }

    /// Drops the edges that had no calls for some time, and whose watched services are gone.
    pub(super) fn expire(&mut self, now_ns: u64, processes: &Processes) {
        let Self { edges, ttl_ns, searched_ns, share, .. } = self;
        if now_ns < *searched_ns + PERIOD_NS {
            return;
        }
        *searched_ns = now_ns;
        let is_idle = |edge: &Edge| now_ns.saturating_sub(edge.used_ns) >= *ttl_ns;
        if !edges.values().any(is_idle) {
            return;
        }
        let there = processes.services(now_ns.saturating_sub(*ttl_ns));
        let there: HashSet<Node> = there.iter().map(Node::of_service).collect();
        let other = EdgeKey::other();
        edges.retain(|key, edge| {
            let [client, server] = edge.here;
            let stays = !is_idle(edge)
                || *key == other
                || client && there.contains(&*key.client)
                || server && there.contains(&*key.server);
            if !stays {
                share.give_back(edge.owner);
            }
            stays
        });
    }

    /// A copy of all edges, sorted.
    pub(super) fn sorted(&self) -> Vec<EdgeFigures> {
        let figures = |(key, edge): (&EdgeKey, &Edge)| {
            let (key, text, series) = (key.clone(), edge.text.clone(), edge.series.clone());
            EdgeFigures { key, text, series }
        };
        let mut edges: Vec<_> = self.edges.iter().map(figures).collect();
        edges.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        edges
    }
}

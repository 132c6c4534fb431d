//! Calls of both ends, of one end, of services that are not known yet, and bounds.

use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::{
    call::{CallProtocol, Code, Ended, SeriesId},
    ends::Ends,
    names::Interner,
    process::{Comm, Identity, Key, ProcessSource, Texts},
    statistics::{Buckets, EdgeSeries},
};

const SECOND: u64 = 1_000_000_000;
const TTL: Duration = Duration::from_mins(1);
const SHOP: u32 = 1;
const ORDERS: u32 = 2;

/// Each process runs a program of its own name, and is looked up at the time 0.
#[derive(Clone, Copy)]
struct Named;

impl ProcessSource for Named {
    fn comm(&self, _: u32) -> Option<Comm> {
        None
    }

    fn began(&self, _: u32) -> Option<u64> {
        Some(1)
    }

    fn identity(&self, pid: u32) -> Identity {
        let exe = format!("/bin/{}", name(pid));
        let texts = Texts { exe: Some(exe.as_bytes()), ..Texts::default() };
        Identity::new(&Key::default(), texts)
    }

    fn now_ns(&self) -> u64 {
        0
    }
}

fn name(pid: u32) -> String {
    match pid {
        SHOP => "shop".into(),
        ORDERS => "orders".into(),
        pid => format!("service-{pid}"),
    }
}

struct Fixture {
    interner: Interner,
    processes: Processes,
    ends: Ends,
    edges: Edges,
}

impl Fixture {
    fn new(max_edges: usize, peers: Peers) -> Self {
        let recording = Recording::from("0.001,1".parse::<Buckets>().unwrap());
        Self {
            interner: Interner::new(100_000),
            processes: Processes::new(10_000),
            ends: Ends::default(),
            edges: Edges::new(recording, max_edges, TTL, peers),
        }
    }

    /// The id of a process whose service is known.
    fn process(&mut self, pid: u32) -> ProcessId {
        let id = self.unsettled(pid);
        self.processes.settle_services(1, false);
        id
    }

    fn unsettled(&mut self, pid: u32) -> ProcessId {
        let id = self.processes.seen(pid, 0, Some(Comm::truncated(b"x"))).id;
        self.processes.lookup(Named).answer();
        id
    }

    /// A call of a client that asked for this authority.
    fn call_to(&mut self, process: ProcessId, authority: &str) {
        self.interner.keeps_authorities = true;
        let authority = Some(self.interner.intern_authority(authority.as_bytes()));
        let ended = Ended { code: Some(Code::Ok), authority, ..Ended::default() };
        let (connection, series) = (1, SeriesId(0));
        let mut call =
            Call { connection, pair: 0, peer: None, time_ns: 1, series, ended, span: None };
        let path = self.interner.intern(b"/s/A");
        let Self { interner, processes, ends, edges } = self;
        let key = CallKey { process, role: Role::Client, protocol: CallProtocol::Grpc, path };
        edges.call(&mut call, Some(key), &Names { interner, processes, ends });
    }

    /// The end of a call at one of its ends; each end of a pair has a connection of its own.
    fn call(&mut self, end: (Role, ProcessId), pair: u64, path: &str, code: Code, time_ns: u64) {
        let (role, process) = end;
        let path = self.interner.intern(path.as_bytes());
        let ended =
            Ended { code: Some(code), elapsed_ns: Some(500_000), stream: 1, ..Ended::default() };
        let connection = 2 * pair + role as u64;
        let peer: SocketAddr = "10.1.2.3:50051".parse().unwrap();
        let peer = Some(Peer::Address(peer));
        let mut call =
            Call { connection, pair, peer, time_ns, series: SeriesId(0), ended, span: None };
        let Self { interner, processes, ends, edges } = self;
        let names = Names { interner, processes, ends };
        edges.call(
            &mut call,
            Some(CallKey { process, role, protocol: CallProtocol::Grpc, path }),
            &names,
        );
    }

    fn settle(&mut self, now_ns: u64) {
        let Self { interner, processes, ends, edges } = self;
        edges.settle(now_ns, &Names { interner, processes, ends });
    }

    /// The edges: client, server, method, whether one is not watched; calls, failed ones, and those with durations of
    /// clients and servers.
    fn found(&self) -> Vec<(String, [u64; 4])> {
        let edges = self.edges.all().sorted().into_iter();
        let edges = edges.map(|EdgeFigures { key, text, series }| {
            let EdgeKey { client, server, is_virtual, .. } = key;
            let method = text.as_deref().unwrap_or("-");
            let kind = if is_virtual { " virtual" } else { "" };
            let of = format!("{} {} {method}{kind}", client.name, server.name);
            let EdgeSeries { client, server, .. } = &series;
            (of, [series.ended(), series.failed(), client.count(), server.count()])
        });
        edges.collect()
    }
}

fn edge(of: &str, figures: [u64; 4]) -> (String, [u64; 4]) {
    (of.to_owned(), figures)
}

#[test]
fn a_call_with_both_ends_counts_once_and_has_both_durations() {
    let mut fixture = Fixture::new(100, Peers::default());
    let (shop, orders) = (fixture.process(SHOP), fixture.process(ORDERS));
    let (client, server) = ((Role::Client, shop), (Role::Server, orders));
    // Whichever end shows first, also of another method.
    fixture.call(client, 1, "/s/A", Code::Ok, 100);
    fixture.call(server, 1, "/s/A", Code::Ok, 90);
    fixture.call(server, 2, "/s/A", Code::Internal, 90);
    fixture.call(client, 2, "/s/A", Code::Unavailable, 100);
    fixture.call(client, 2, "/s/B", Code::Ok, 200);
    fixture.settle(300);
    let both = edge("shop orders /s/A", [2, 1, 2, 2]);
    assert_eq!(fixture.found(), [both.clone(), edge("shop orders /s/B", [1, 0, 1, 0])]);
    // The code of a call is that of its client.
    let all = fixture.edges.all().sorted();
    let codes: Vec<_> = all[0].series.codes().collect();
    assert_eq!(codes, [(Some(Code::Ok), 1), (Some(Code::Unavailable), 1)]);
    fixture.call(server, 2, "/s/B", Code::Ok, 190);
    fixture.settle(400);
    assert_eq!(fixture.found(), [both, edge("shop orders /s/B", [1, 0, 1, 1])]);
}

#[test]
fn an_end_that_is_not_watched_is_unknown_or_has_the_name_of_its_address() {
    let names = ["10.1.0.0/16=billing".parse().unwrap()];
    for (peers, other) in [(Peers::default(), "unknown"), (Peers::new(&names, &[]), "billing")] {
        let mut fixture = Fixture::new(100, peers);
        let (shop, orders) = (fixture.process(SHOP), fixture.process(ORDERS));
        fixture.call((Role::Client, shop), 1, "/s/A", Code::Ok, 100);
        fixture.call((Role::Server, orders), 2, "/s/A", Code::NotFound, 100);
        fixture.settle(SECOND);
        assert_eq!(fixture.found(), [], "the other ends may still show");
        fixture.settle(100 + SECOND);
        let mut want = [
            edge(&format!("{other} orders /s/A virtual"), [1, 1, 0, 1]),
            edge(&format!("shop {other} /s/A virtual"), [1, 0, 1, 0]),
        ];
        want.sort();
        assert_eq!(fixture.found(), want);
        // Nothing waits on a connection that has shown that, nor without a pair.
        fixture.call((Role::Client, shop), 1, "/s/A", Code::Ok, 2 * SECOND);
        fixture.call((Role::Client, shop), 0, "/s/A", Code::Ok, 2 * SECOND);
        fixture.settle(2 * SECOND);
        let more = edge(&format!("shop {other} /s/A virtual"), [3, 0, 3, 0]);
        assert!(fixture.found().contains(&more), "{:?}", fixture.found());
    }
}

#[test]
fn a_server_that_is_not_watched_is_called_what_its_client_asked_for() {
    let mut fixture = Fixture::new(100, Peers::default());
    let shop = fixture.process(SHOP);
    for authority in ["Orders.prod.svc:50051", "orders.prod.svc", "10.0.0.7:80", "[::1]", ""] {
        fixture.call_to(shop, authority);
    }
    fixture.settle(1);
    let named = edge("shop orders.prod.svc /s/A virtual", [2, 0, 0, 0]);
    assert_eq!(fixture.found(), [named, edge("shop unknown /s/A virtual", [3, 0, 0, 0])]);
}

#[test]
fn a_client_that_another_daemon_watches_counts_there() {
    let names = ["10.1.0.0/16=billing".parse().unwrap()];
    let peers = Peers::new(&names, &["10.1.2.0/24".parse().unwrap()]);
    let mut fixture = Fixture::new(100, peers);
    let (shop, orders) = (fixture.process(SHOP), fixture.process(ORDERS));
    fixture.call((Role::Server, orders), 0, "/s/A", Code::Internal, 100);
    fixture.call((Role::Client, shop), 0, "/s/A", Code::Internal, 100);
    fixture.settle(200);
    let server = edge("billing orders /s/A", [0, 0, 0, 1]);
    assert_eq!(fixture.found(), [server, edge("shop billing /s/A", [1, 1, 1, 0])]);
}

#[test]
fn calls_of_services_that_are_not_known_yet_wait_for_them() {
    let mut fixture = Fixture::new(100, Peers::default());
    let (shop, orders) = (fixture.process(SHOP), fixture.unsettled(ORDERS));
    for time_ns in [100, 200] {
        fixture.call((Role::Client, shop), 1, "/s/A", Code::Ok, time_ns);
        fixture.call((Role::Server, orders), 1, "/s/A", Code::Ok, time_ns);
    }
    fixture.settle(300);
    assert_eq!(fixture.found(), []);
    fixture.processes.settle_services(300, false);
    fixture.settle(400);
    assert_eq!(fixture.found(), [edge("shop orders /s/A", [2, 0, 2, 2])]);
}

#[test]
fn the_number_of_edges_is_bounded_and_all_calls_are_in_one() {
    let mut fixture = Fixture::new(20, Peers::default());
    let shop = fixture.process(SHOP);
    for method in 0..40 {
        fixture.call((Role::Client, shop), 0, &format!("/s/{method}"), Code::Ok, 100);
    }
    for pid in 10..30 {
        let process = fixture.process(pid);
        fixture.call((Role::Client, process), 0, "/s/A", Code::Ok, 100);
    }
    fixture.settle(200);
    let found = fixture.found();
    assert_eq!(found.len(), 21, "{found:?}");
    assert!(found.contains(&edge("other other - virtual", [24 + 16, 0, 40, 0])), "{found:?}");
    assert_eq!(found.iter().map(|(_, [calls, ..])| calls).sum::<u64>(), 60);
    assert_eq!(fixture.edges.all().overflow(), 40);
}

#[test]
fn memory_of_calls_that_wait_is_bounded_and_none_is_lost() {
    let mut fixture = Fixture::new(10, Peers::default());
    let shop = fixture.process(SHOP);
    for _ in 0..MAX_WAITING + 10 {
        fixture.call((Role::Client, shop), 1, "/s/A", Code::Ok, 100);
    }
    assert_eq!((fixture.edges.waiting.len(), fixture.edges.named.len()), (MAX_WAITING, 10));
    let unsettled = fixture.unsettled(ORDERS);
    for method in 0..MAX_UNNAMED + 10 {
        fixture.call((Role::Client, unsettled), 0, &format!("/s/{method}"), Code::Ok, 100);
    }
    assert_eq!(fixture.edges.unnamed.len(), MAX_UNNAMED);
    fixture.processes.settle_services(300, false);
    fixture.settle(100 + SECOND);
    let calls: u64 = fixture.found().iter().map(|(_, [calls, ..])| calls).sum();
    assert_eq!(calls as usize, MAX_WAITING + 10 + MAX_UNNAMED + 10);
}

#[test]
fn an_edge_ends_some_time_after_its_last_service() {
    let mut fixture = Fixture::new(100, Peers::default());
    let (shop, orders) = (fixture.process(SHOP), fixture.process(ORDERS));
    fixture.call((Role::Client, shop), 1, "/s/A", Code::Ok, 100);
    fixture.call((Role::Server, orders), 1, "/s/A", Code::Ok, 100);
    fixture.call((Role::Client, shop), 0, "/s/A", Code::Ok, 100);
    let there = |fixture: &mut Fixture, seconds: u64| {
        fixture.settle(seconds * SECOND);
        fixture.found().len()
    };
    assert_eq!(there(&mut fixture, 1_000), 2, "idle, but its services run");
    fixture.processes.exited(SHOP, 1_000 * SECOND);
    assert_eq!(there(&mut fixture, 1_059), 2);
    assert_eq!(there(&mut fixture, 1_069), 1, "orders runs");
    fixture.processes.exited(ORDERS, 1_100 * SECOND);
    assert_eq!(there(&mut fixture, 1_161), 0);
    // Its room is free again.
    let other = fixture.process(9);
    for method in 0..16 {
        fixture.call((Role::Client, other), 0, &format!("/s/{method}"), Code::Ok, 1_162 * SECOND);
    }
    assert_eq!(there(&mut fixture, 1_163), 16);
}

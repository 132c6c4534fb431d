//! Calls with both ends on this node: the two ends of a connection, and what they know of each other.
//!
//! A server may read late what the client has written, so the client's end knows better whether a call was cancelled
//! or its deadline expired. Its code may come later, and from another worker: the server's end waits a short time.

use std::{
    collections::VecDeque,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use rustc_hash::FxHashMap;

use crate::{
    call::{Cancellation, Code, Ended, ExportedSpan, Role, SeriesId},
    process::ProcessId,
    record::Peer,
};

/// Bound on the ends of each side that are remembered, and on the calls that clients cancelled.
const MAX: usize = 16_384;

/// Bound on the calls of a worker that wait for the code of the client's end.
const MAX_WAITING: usize = 4_096;

/// How long a call waits: 0.5 s. A worker reads its ring ten times a second.
const PATIENCE_NS: u64 = 500_000_000;

/// How long the other end of a connection may take to show: a second. Its records may come from another ring.
const SHOWS_NS: u64 = 1_000_000_000;

/// The ends of connections that are watched, shared by all workers.
#[derive(Clone, Debug, Default)]
pub struct Ends(Arc<Mutex<Watched>>);

/// The ends of connections by their pairs, and the codes of clients' ends.
#[derive(Debug, Default)]
struct Watched {
    clients: Bounded<u64, End>,
    servers: Bounded<u64, End>,
    codes: Bounded<(u64, u32), Option<Code>>,
}

/// An end of a connection that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The process that uses it.
    pub process: ProcessId,
    /// The connection's identifier.
    pub connection: u64,
    /// When it was first seen, in nanoseconds of the kernel's monotonic clock.
    pub since_ns: u64,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherEnd {
    /// It is watched: this process uses it.
    Watched(ProcessId),
    /// It has not shown, and may still.
    NotYet,
    /// It is not watched.
    NotWatched,
}

/// A map of the last [`MAX`] entries.
#[derive(Debug)]
struct Bounded<K, V> {
    values: FxHashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { values: FxHashMap::default(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Bounded<K, V> {
    fn insert(&mut self, key: K, value: V) {
        if self.values.insert(key, value).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
    }

    fn get(&self, key: K) -> Option<&V> {
        self.values.get(&key)
    }

    /// Removes the value. Its key keeps its place in the order.
    fn remove(&mut self, key: K) {
        self.values.remove(&key);
    }
}

impl Watched {
    fn of(&mut self, role: Role) -> [&mut Bounded<u64, End>; 2] {
        let Self { clients, servers, .. } = self;
        match role {
            Role::Client => [clients, servers],
            Role::Server => [servers, clients],
        }
    }

    fn other(&mut self, pair: u64, role: Role, connection: u64, now_ns: u64) -> OtherEnd {
        let [own, others] = self.of(role);
        // Otherwise a later connection has the pair.
        let Some(own) = own.get(pair).filter(|own| own.connection == connection) else {
            return OtherEnd::NotWatched;
        };
        match others.get(pair) {
            Some(other) => OtherEnd::Watched(other.process),
            None if now_ns.saturating_sub(own.since_ns) < SHOWS_NS => OtherEnd::NotYet,
            None => OtherEnd::NotWatched,
        }
    }

    /// Records an end.
    fn add(&mut self, pair: u64, role: Role, end: End) {
        let [own, others] = self.of(role);
        let before = own.get(pair).copied();
        let mut since_ns = end.since_ns;
        match before {
            Some(before) if before.connection == end.connection => since_ns = before.since_ns,
            // The pair of an earlier Unix connection: what is known of its other end may be that one's. Both ends of
            // a connection are first seen at about the same time.
            Some(before) => {
                let is_earlier = others.get(pair).is_some_and(|other| {
                    let distance = |to: u64| other.since_ns.abs_diff(to);
                    distance(before.since_ns) <= distance(end.since_ns)
                });
                if is_earlier {
                    others.remove(pair);
                }
            }
            None => {}
        }
        own.insert(pair, End { since_ns, ..end });
    }
}

/// The code of the client's end of a call.
enum ClientCode {
    /// The client's end is not watched.
    NotWatched,
    /// The client's end is watched, and the call has not ended there.
    NotYet,
    Known(Option<Code>),
}

impl Ends {
    /// Records that an end of a connection is watched.
    pub fn begins(&self, pair: u64, role: Role, end: End) {
        self.with(|watched| watched.add(pair, role, end));
    }

    /// Whether the client's end of a connection is, or was, watched: one of the last `MAX` of them.
    pub fn is_watched(&self, pair: u64) -> bool {
        self.with(|watched| watched.clients.get(pair).is_some())
    }

    /// The other end of a connection whose end on this side is `end`. It may be one that the last `MAX` ends have
    /// pushed out: so an end that asks is recorded again.
    pub fn other(&self, pair: u64, role: Role, end: End, now_ns: u64) -> OtherEnd {
        self.with(|watched| {
            watched.add(pair, role, end);
            watched.other(pair, role, end.connection, now_ns)
        })
    }

    /// The same for an end that has [asked](Self::other) before: it is not recorded again.
    pub fn other_now(&self, pair: u64, role: Role, connection: u64, now_ns: u64) -> OtherEnd {
        self.with(|watched| watched.other(pair, role, connection, now_ns))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Watched) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn say(&self, pair: u64, stream: u32, code: Option<Code>) {
        self.with(|watched| watched.codes.insert((pair, stream), code));
    }

    fn code_of(&self, pair: u64, stream: u32) -> ClientCode {
        self.with(|watched| match watched.codes.values.get(&(pair, stream)) {
            Some(code) => ClientCode::Known(*code),
            None if watched.clients.get(pair).is_some() => ClientCode::NotYet,
            None => ClientCode::NotWatched,
        })
    }
}

/// The calls of one worker that wait for the codes of their clients' ends.
#[derive(Debug, Default)]
pub struct Waiting {
    ends: Ends,
    calls: Vec<Call>,
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The connection's identifier, unique for the life of the BPF programs.
    pub connection: u64,
    /// The number that both ends of the connection have in common; 0 if it is not known.
    pub pair: u64,
    /// The address of the connection's other end.
    pub peer: Option<Peer>,
    /// The time of the end, in nanoseconds of the kernel's monotonic clock.
    pub time_ns: u64,
    /// The series that the call was counted in.
    pub series: SeriesId,
    /// How the call ended.
    pub ended: Ended,
    /// The span that an output exports for this end of the call.
    pub span: Option<ExportedSpan>,
}

impl Waiting {
    /// Returns an empty queue for another worker, which shares the clients' ends.
    #[must_use]
    pub fn sharing(&self) -> Self {
        Self { ends: self.ends.clone(), calls: Vec::new() }
    }

    /// The clients' ends, shared by all workers.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Takes a call that has ended. Returns the call if it need not wait; at most `MAX_WAITING` wait.
    pub fn ended(&mut self, mut call: Call) -> Option<Call> {
        match call.ended.cancellation.filter(|_| call.pair != 0) {
            Some(Cancellation { role: Role::Client, stream }) => {
                self.ends.say(call.pair, stream, call.ended.code);
            }
            Some(Cancellation { role: Role::Server, stream }) => {
                match self.ends.code_of(call.pair, stream) {
                    ClientCode::Known(code) => call.ended.code = code,
                    ClientCode::NotYet if self.calls.len() < MAX_WAITING => {
                        self.calls.push(call);
                        return None;
                    }
                    ClientCode::NotYet | ClientCode::NotWatched => {}
                }
            }
            None => {}
        }
        Some(call)
    }

    /// Removes and returns the calls whose client's end has a code, or that have waited for half a second.
    pub fn settled(&mut self, now_ns: u64) -> Vec<Call> {
        let Self { ends, calls } = self;
        let is_settled = |call: &mut Call| {
            let Some(Cancellation { stream, .. }) = call.ended.cancellation else { return true };
            match ends.code_of(call.pair, stream) {
                ClientCode::Known(code) => call.ended.code = code,
                ClientCode::NotYet => return now_ns.saturating_sub(call.time_ns) >= PATIENCE_NS,
                ClientCode::NotWatched => {}
            }
            true
        };
        calls.extract_if(.., is_settled).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, End, Ends, MAX, MAX_WAITING, OtherEnd, PATIENCE_NS, SHOWS_NS, Waiting};
    use crate::{
        call::{Cancellation, Code, Ended, Role, SeriesId},
        process::ProcessId,
    };

    const PAIR: u64 = 7;
    const EITHER: Option<Code> = Some(Code::CanceledOrDeadlineExceeded);
    const EXPIRED: Option<Code> = Some(Code::DeadlineExceeded);

    fn call(pair: u64, cancellation: Option<Role>, code: Option<Code>) -> Call {
        let cancellation = cancellation.map(|role| Cancellation { role, stream: 1 });
        let ended = Ended { cancellation, ..Ended::unary(code, 5) };
        Call {
            connection: 9,
            pair,
            peer: None,
            time_ns: 100,
            series: SeriesId(3),
            ended,
            span: None,
        }
    }

    #[expect(
        clippy::option_option,
        reason = "no call, and a call without a code, are not the same"
    )]
    fn ended(waiting: &mut Waiting, role: Role, code: Option<Code>) -> Option<Option<Code>> {
        waiting.ended(call(PAIR, Some(role), code)).map(|call| call.ended.code)
    }

    fn settled(waiting: &mut Waiting, now_ns: u64) -> Vec<Option<Code>> {
        waiting.settled(now_ns).iter().map(|call| call.ended.code).collect()
    }

    fn end(process: u32, connection: u64, since_ns: u64) -> End {
        End { process: ProcessId(process), connection, since_ns }
    }

    #[test]
    fn ends_of_a_connection_find_each_other() {
        let ends = Ends::default();
        let (client, server) = (end(1, 10, 100), end(2, 20, 150));
        ends.begins(PAIR, Role::Client, client);
        assert_eq!(ends.other(PAIR, Role::Client, client, 200), OtherEnd::NotYet);
        assert_eq!(ends.other(PAIR, Role::Client, client, 100 + SHOWS_NS), OtherEnd::NotWatched);
        assert_eq!(
            ends.other(PAIR, Role::Server, server, 200),
            OtherEnd::Watched(ProcessId(1)),
            "whichever asks first"
        );
        let forked = end(3, 10, 300);
        assert_eq!(ends.other(PAIR, Role::Client, forked, 300), OtherEnd::Watched(ProcessId(2)));
        assert_eq!(ends.other(PAIR, Role::Server, server, 300), OtherEnd::Watched(ProcessId(3)));
        assert_eq!(ends.other(PAIR + 1, Role::Server, server, 300), OtherEnd::NotYet);
    }

    #[test]
    fn an_earlier_connection_of_the_pair_is_not_the_other_end() {
        let ends = Ends::default();
        ends.begins(PAIR, Role::Client, end(1, 10, 100));
        ends.begins(PAIR, Role::Server, end(2, 20, 150));
        // The next connection's ends, whichever comes first.
        for (role, first, second) in [
            (Role::Client, end(3, 30, 9_000), end(4, 40, 9_100)),
            (Role::Server, end(6, 60, 20_100), end(5, 50, 20_000)),
        ] {
            let other = if role == Role::Client { Role::Server } else { Role::Client };
            assert_eq!(ends.other(PAIR, role, first, first.since_ns), OtherEnd::NotYet);
            let found = ends.other(PAIR, other, second, second.since_ns);
            assert_eq!(found, OtherEnd::Watched(first.process));
            let found = ends.other(PAIR, role, first, first.since_ns);
            assert_eq!(found, OtherEnd::Watched(second.process));
        }
    }

    #[test]
    fn the_clients_end_decides_whichever_comes_first() {
        let mut client = Waiting::default();
        let mut server = client.sharing();
        client.ends().begins(PAIR, Role::Client, end(1, 9, 0));
        assert_eq!(ended(&mut server, Role::Server, EITHER), None, "it waits");
        assert_eq!(settled(&mut server, 200), []);
        assert_eq!(ended(&mut client, Role::Client, EXPIRED), Some(EXPIRED));
        assert_eq!(settled(&mut server, 200), [EXPIRED]);
        assert_eq!(settled(&mut server, 200), [], "once");
        assert_eq!(ended(&mut server, Role::Server, Some(Code::Canceled)), Some(EXPIRED));
    }

    #[test]
    fn no_call_waits_for_an_end_that_is_not_watched_or_for_ever() {
        let mut server = Waiting::default();
        assert_eq!(ended(&mut server, Role::Server, EITHER), Some(EITHER), "not watched");
        server.ends().begins(PAIR, Role::Client, end(1, 9, 0));
        assert_eq!(ended(&mut server, Role::Server, EITHER), None);
        assert_eq!(settled(&mut server, 100 + PATIENCE_NS - 1), []);
        assert_eq!(settled(&mut server, 100 + PATIENCE_NS), [EITHER]);
        let no_pair = server.ended(call(0, Some(Role::Server), EITHER));
        assert_eq!(no_pair.unwrap().ended.code, EITHER);
        let by_server = server.ended(call(PAIR, None, EXPIRED));
        assert_eq!(by_server.unwrap().ended.code, EXPIRED);
    }

    #[test]
    fn memory_of_clients_ends_is_bounded() {
        let mut waiting = Waiting::default();
        for pair in 0..2 * MAX as u64 {
            waiting.ends().begins(pair, Role::Client, end(1, 9, 0));
            waiting.ends().say(pair, 1, EXPIRED);
        }
        waiting.ends().with(|watched| {
            let (clients, codes) = (&watched.clients, &watched.codes);
            assert_eq!((clients.values.len(), clients.order.len()), (MAX, MAX));
            assert_eq!((codes.values.len(), codes.order.len()), (MAX, MAX));
        });
        waiting.ends().begins(PAIR, Role::Client, end(1, 9, 0));
        for _ in 0..MAX_WAITING {
            assert_eq!(ended(&mut waiting, Role::Server, EITHER), None);
        }
        assert_eq!(ended(&mut waiting, Role::Server, EITHER), Some(EITHER), "no more");
    }
}

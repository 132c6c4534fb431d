//! Calls with both ends on this node.
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
    call::{Cancellation, Code, Ended, Role, SeriesId},
    record::Peer,
};

/// Bound on the clients' ends that are remembered, and on the calls that they cancelled.
const MAX: usize = 16_384;

/// Bound on the calls of a worker that wait for the code of the client's end.
const MAX_WAITING: usize = 4_096;

/// How long a call waits: 0.5 s. A worker reads its ring ten times a second.
const PATIENCE_NS: u64 = 500_000_000;

/// The clients' ends, shared by all workers.
#[derive(Clone, Debug, Default)]
pub struct Ends(Arc<Mutex<Clients>>);

/// The connections and codes of clients' ends.
#[derive(Debug, Default)]
struct Clients {
    watched: Bounded<u64, ()>,
    codes: Bounded<(u64, u32), Option<Code>>,
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
    /// Records that the client's end of a connection is watched.
    pub fn begins(&self, pair: u64) {
        self.with(|clients| clients.watched.insert(pair, ()));
    }

    /// Whether the client's end of a connection is, or was, watched: one of the last `MAX` of them.
    pub fn is_watched(&self, pair: u64) -> bool {
        self.with(|clients| clients.watched.values.contains_key(&pair))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Clients) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn say(&self, pair: u64, stream: u32, code: Option<Code>) {
        self.with(|clients| clients.codes.insert((pair, stream), code));
    }

    fn code_of(&self, pair: u64, stream: u32) -> ClientCode {
        self.with(|clients| match clients.codes.values.get(&(pair, stream)) {
            Some(code) => ClientCode::Known(*code),
            None if clients.watched.values.contains_key(&pair) => ClientCode::NotYet,
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
    use super::{Call, MAX, MAX_WAITING, PATIENCE_NS, Waiting};
    use crate::call::{Cancellation, Code, Ended, Role, SeriesId};

    const PAIR: u64 = 7;
    const EITHER: Option<Code> = Some(Code::CanceledOrDeadlineExceeded);
    const EXPIRED: Option<Code> = Some(Code::DeadlineExceeded);

    fn call(pair: u64, cancellation: Option<Role>, code: Option<Code>) -> Call {
        let cancellation = cancellation.map(|role| Cancellation { role, stream: 1 });
        let ended = Ended { cancellation, ..Ended::unary(code, 5) };
        Call { connection: 9, pair, peer: None, time_ns: 100, series: SeriesId(3), ended }
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

    #[test]
    fn the_clients_end_decides_whichever_comes_first() {
        let mut client = Waiting::default();
        let mut server = client.sharing();
        client.ends().begins(PAIR);
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
        server.ends().begins(PAIR);
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
            waiting.ends().begins(pair);
            waiting.ends().say(pair, 1, EXPIRED);
        }
        waiting.ends().with(|clients| {
            assert_eq!((clients.watched.values.len(), clients.watched.order.len()), (MAX, MAX));
            assert_eq!((clients.codes.values.len(), clients.codes.order.len()), (MAX, MAX));
        });
        waiting.ends().begins(PAIR);
        for _ in 0..MAX_WAITING {
            assert_eq!(ended(&mut waiting, Role::Server, EITHER), None);
        }
        assert_eq!(ended(&mut waiting, Role::Server, EITHER), Some(EITHER), "no more");
    }
}

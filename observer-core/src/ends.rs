//! What is known of a call from both of its ends, where both are on this node.
//!
//! A server's end may read late what the client has written, so the client's end says why it gave a call up.
//! What it says may come later, and from another worker: the server's end waits for it a little.

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

/// Clients' ends that are remembered, and calls that they gave up.
const MAX: usize = 16_384;

/// Calls of a worker that wait for what the client's end says.
const MAX_WAITING: usize = 4_096;

/// So long they do. A worker reads its ring ten times a second.
const PATIENCE_NS: u64 = 500_000_000;

/// Shared by all workers.
#[derive(Clone, Debug, Default)]
pub struct Ends(Arc<Mutex<Clients>>);

/// What clients' ends have said.
#[derive(Debug, Default)]
struct Clients {
    watched: Recent<u64, ()>,
    codes: Recent<(u64, u32), Option<Code>>,
}

/// The last of what was put in.
#[derive(Debug)]
struct Recent<K, V> {
    values: FxHashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { values: FxHashMap::default(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
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

/// What the client's end says of a call.
enum Said {
    /// It is not watched.
    Nothing,
    /// It is, and has not said anything yet.
    NotYet,
    Code(Option<Code>),
}

impl Ends {
    /// The client's end of a connection is watched.
    pub fn begins(&self, pair: u64) {
        self.with(|clients| clients.watched.insert(pair, ()));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Clients) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn say(&self, pair: u64, stream: u32, code: Option<Code>) {
        self.with(|clients| clients.codes.insert((pair, stream), code));
    }

    fn said(&self, pair: u64, stream: u32) -> Said {
        self.with(|clients| match clients.codes.values.get(&(pair, stream)) {
            Some(code) => Said::Code(*code),
            None if clients.watched.values.contains_key(&pair) => Said::NotYet,
            None => Said::Nothing,
        })
    }
}

/// Calls of servers that wait for what their clients' ends say.
#[derive(Debug, Default)]
pub struct Waiting {
    ends: Ends,
    calls: VecDeque<Call>,
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// What its connection's ends have in common; 0 if nobody knows.
    pub pair: u64,
    /// The connection's other end.
    pub peer: Option<Peer>,
    /// When it ended.
    pub time_ns: u64,
    /// Where its figures are added up.
    pub series: SeriesId,
    /// How it ended.
    pub ended: Ended,
}

impl Call {
    fn with_code(self, code: Option<Code>) -> Self {
        Self { ended: Ended { code, ..self.ended }, ..self }
    }
}

impl Waiting {
    /// For another worker.
    #[must_use]
    pub fn sharing(&self) -> Self {
        Self { ends: self.ends.clone(), calls: VecDeque::new() }
    }

    /// What clients' ends say.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Takes a call that has ended. Gives it back if there is nothing to wait for.
    pub fn ended(&mut self, call: Call) -> Option<Call> {
        let Some(Cancellation { role, stream }) =
            call.ended.cancellation.filter(|_| call.pair != 0)
        else {
            return Some(call);
        };
        if role == Role::Client {
            self.ends.say(call.pair, stream, call.ended.code);
            return Some(call);
        }
        match self.ends.said(call.pair, stream) {
            Said::Code(code) => Some(call.with_code(code)),
            Said::NotYet if self.calls.len() < MAX_WAITING => {
                self.calls.push_back(call);
                None
            }
            Said::NotYet | Said::Nothing => Some(call),
        }
    }

    /// Those of which the client's end has spoken, or that have waited long enough.
    pub fn settled(&mut self, now_ns: u64) -> Vec<Call> {
        let mut settled = Vec::new();
        let ends = &self.ends;
        self.calls.retain(|call| {
            let said = call
                .ended
                .cancellation
                .map(|cancellation| ends.said(call.pair, cancellation.stream));
            let is_patient = now_ns.saturating_sub(call.time_ns) < PATIENCE_NS;
            match said {
                Some(Said::Code(code)) => settled.push(call.with_code(code)),
                Some(Said::NotYet) if is_patient => return true,
                _ => settled.push(*call),
            }
            false
        });
        settled
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
        Call { pair, peer: None, time_ns: 100, series: SeriesId(3), ended }
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
    fn nobody_waits_for_an_end_that_is_not_watched_or_for_ever() {
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
    fn what_is_remembered_is_bounded() {
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

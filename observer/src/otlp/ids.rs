//! Ids of spans and traces, computed from what both ends of a call know.
//!
//! A TCP connection has two initial sequence numbers. Both ends know them, address translation does not change them, and
//! they are close to random. With the number of the HTTP/2 stream, which is never used again on a connection, they name
//! a call. So the daemons of two nodes give the ends of a call ids that match, without a word to each other. The numbers
//! are hashed: published as they are, they would help to inject bytes into a connection.

use observer_core::call::{SpanId, TraceId};
use sha2::{Digest as _, Sha256};

/// The start of what is hashed. Daemons whose ids must match have the same.
const KEY: &[u8] = b"observer span ids 1\0";

/// What names a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallName {
    /// Both ends know it: the `pair` of the connection, and the stream.
    Shared { pair: u64, stream: u32 },
    /// Only this daemon knows it: a number of its own, a connection's identifier, and the stream.
    Own { daemon: u64, connection: u64, stream: u32 },
}

/// The ids of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    /// The trace, if the request names no other.
    pub(super) trace: TraceId,
    pub(super) client: SpanId,
    pub(super) server: SpanId,
}

impl Ids {
    pub(super) fn of(call: CallName) -> Self {
        let hash = Sha256::new_with_prefix(KEY);
        let hash = match call {
            CallName::Shared { pair, stream } => {
                hash.chain_update(pair.to_be_bytes()).chain_update(stream.to_be_bytes())
            }
            CallName::Own { daemon, connection, stream } => hash
                .chain_update(daemon.to_be_bytes())
                .chain_update(connection.to_be_bytes())
                .chain_update(stream.to_be_bytes()),
        };
        let hash: [u8; 32] = hash.finalize().into();
        let (mut trace, mut client, mut server) = ([0; 16], [0; 8], [0; 8]);
        let (first, rest) = hash.split_at(trace.len());
        let (second, third) = rest.split_at(client.len());
        trace.copy_from_slice(first);
        client.copy_from_slice(second);
        server.copy_from_slice(third);
        // An id of zeros is invalid.
        for [.., last] in [&mut client, &mut server] {
            *last |= u8::from(second == [0; 8] || third == [0; 8]);
        }
        let [.., last] = &mut trace;
        *last |= u8::from(first == [0; 16]);
        Self { trace: TraceId(trace), client: SpanId(client), server: SpanId(server) }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        hash::{Hash as _, Hasher as _},
    };

    use super::*;

    #[test]
    fn ids_are_those_of_the_same_call_only() {
        let shared = |pair, stream| Ids::of(CallName::Shared { pair, stream });
        let own = |connection, stream| Ids::of(CallName::Own { daemon: 7, connection, stream });
        assert_eq!(shared(1, 3), shared(1, 3));
        let mut seen = HashSet::new();
        for number in 0..50 {
            for stream in [1, 3, 5] {
                for Ids { trace, client, server } in [shared(number, stream), own(number, stream)] {
                    let TraceId(trace) = trace;
                    assert!(seen.insert(trace.to_vec()));
                    assert!(seen.insert(client.0.to_vec()) && seen.insert(server.0.to_vec()));
                }
            }
        }
    }

    /// A million connections that follow each other, from ports that are used again after a second, with numbers as the
    /// kernel makes them: a keyed hash of addresses and ports, plus the time in units of 64 ns (`secure_tcp_seq`).
    #[test]
    fn connections_from_the_same_ports_have_different_ids() {
        const PORTS: u64 = 20_000;
        const EACH: u64 = 50;
        // From connection to connection, and from the client's number to the server's.
        const APART: u64 = 50_000 / 64;
        let hash = |key: u64, port: u64| {
            let mut hasher = std::hash::DefaultHasher::new();
            (key, port).hash(&mut hasher);
            hasher.finish() as u32
        };
        let mut pairs = HashSet::new();
        let mut traces = HashSet::new();
        for number in 0..PORTS * EACH {
            let (port, time) = (number % PORTS, number * APART);
            let later = time + 50 + u64::from(hash(3, number) % 200);
            let client = hash(1, port).wrapping_add(time as u32);
            let server = hash(2, port).wrapping_add(later as u32);
            let pair = u64::from(client) << 32 | u64::from(server);
            assert!(pairs.insert(pair), "{number}");
            // Hashing them all would take long.
            if number % 32 == 0 {
                let Ids { trace, .. } = Ids::of(CallName::Shared { pair, stream: 1 });
                assert!(traces.insert(trace.0), "{number}");
            }
        }
    }

    /// Daemons of different versions must agree on it.
    #[test]
    fn the_function_stays_as_it_is() {
        let ids = Ids::of(CallName::Shared { pair: 0x0102_0304_0506_0708, stream: 9 });
        let hash =
            Sha256::digest(b"observer span ids 1\0\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x09");
        assert_eq!(ids.trace.0, hash[..16]);
        assert_eq!((&ids.client.0[..], &ids.server.0[..]), (&hash[16..24], &hash[24..]));
    }
}

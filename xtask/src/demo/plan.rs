//! The plans of the demo's clients: stages of steps, as tests/peers/python/client.py reads them.

/// Each round takes about a second.
const ROUNDS: usize = 2000;

/// Short calls that mostly succeed.
pub(super) const SHORT_CALLS: &str = r#"
    {"rpc": "Unary", "count": 150, "concurrency": 4, "payload": 100, "response_size": 400,
     "sleep_ms": 2},
    {"rpc": "Unary", "count": 5, "code": 5, "detail": "no such item"},
    {"rpc": "Unary", "count": 100, "concurrency": 2, "payload": 100, "response_size": 4000,
     "sleep_ms": 5},
    {"rpc": "Unary", "count": 1, "sleep_ms": 200, "deadline_ms": 50}"#;

/// Streams, some of them cut.
pub(super) const STREAMS: &str = r#"
    {"rpc": "ServerStream", "count": 20, "concurrency": 4, "responses": 10, "response_size": 1000,
     "sleep_between_ms": 5},
    {"rpc": "ClientStream", "count": 30, "concurrency": 3, "requests": 8, "payload": 500,
     "sleep_ms": 10},
    {"rpc": "Bidi", "count": 10, "concurrency": 2, "requests": 5, "lockstep": true, "payload": 50,
     "sleep_ms": 10},
    {"rpc": "Bidi", "count": 2, "requests": 3, "code": 8, "detail": "too many"}"#;

/// The plan that repeats these steps. A client with few steps would end soon, and the demo would have many processes.
pub(super) fn repeated(steps: &str) -> String {
    format!("[{}]", vec![format!("[{steps}]"); ROUNDS].join(","))
}

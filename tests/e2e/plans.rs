//! Plans for clients, in stages of steps. `DEFAULTS` in `tests/peers/python/client.py` lists what a step can contain.

use serde_json::{Value, json};
use support::pace::slowness;
use support::stack::Stack;

use crate::cases::{INVALID_ARGUMENT, NOT_FOUND};

pub(crate) const RPCS: [&str; 4] = ["Unary", "ServerStream", "ClientStream", "Bidi"];

/// Milliseconds that no test takes: the call ends because of the client.
fn forever_ms() -> u32 {
    60_000 * slowness()
}

pub(crate) fn kinds() -> Vec<Vec<Value>> {
    vec![
        vec![
            json!({"rpc": "Unary", "count": 50, "concurrency": 5, "payload": 100, "response_size": 50}),
            json!({"rpc": "ServerStream", "count": 10, "concurrency": 2, "responses": 5, "response_size": 10}),
            json!({"rpc": "ClientStream", "count": 10, "concurrency": 2, "requests": 5, "payload": 10}),
            json!({"rpc": "Bidi", "count": 10, "concurrency": 2, "requests": 3, "responses": 2}),
        ],
        vec![json!({"rpc": "Unary", "count": 50, "concurrency": 5, "connections": 3})],
        vec![json!({"rpc": "ServerStream", "responses": 0})],
        vec![
            json!({"rpc": "Bidi", "count": 3, "requests": 4, "lockstep": true, "payload": 7, "response_size": 9}),
        ],
        // Many frames per message, and those of several calls mixed.
        vec![
            json!({"rpc": "Bidi", "count": 8, "concurrency": 4, "requests": 3, "payload": 100_000, "response_size": 150_000}),
        ],
    ]
}

pub(crate) fn errors() -> Vec<Vec<Value>> {
    let of_each = |code: i32, responses: u32, detail: &str, raises: bool| {
        let step = |rpc: &str| {
            json!({
                "rpc": rpc, "count": 3, "requests": if rpc == "Unary" { 1 } else { 2 },
                "responses": responses, "code": code, "detail": detail, "raises": raises,
            })
        };
        RPCS.map(step).to_vec()
    };
    vec![
        of_each(NOT_FOUND, 0, "nowhere: 100% grün\n", false),
        of_each(NOT_FOUND, 2, "", false),
        of_each(INVALID_ARGUMENT, 0, "", false),
        of_each(0, 0, "", true),
        of_each(0, 2, "", true),
        vec![json!({"unknown_method": true, "count": 3})],
        codes().map(|code| json!({"rpc": "Unary", "code": code})).collect(),
        codes().map(|code| json!({"rpc": "ServerStream", "responses": 1, "code": code})).collect(),
    ]
}

/// All codes but OK and `Unimplemented`, which clients take for an unknown method.
fn codes() -> impl Iterator<Item = i32> {
    (1..=16).filter(|code| *code != 12)
}

pub(crate) fn cancelled() -> Vec<Vec<Value>> {
    // The requests are written by then.
    let after_ms = 300 * slowness();
    let unanswered = |rpc| json!({"rpc": rpc, "count": 3, "concurrency": 3, "sleep_ms": forever_ms(), "cancel_after_ms": after_ms});
    // The client holds its last request: of one it sends none, of three two.
    let held = |(rpc, requests)| {
        json!({
            "rpc": rpc, "count": 3, "concurrency": 3, "requests": requests, "responses": 0,
            "holds": true, "cancel_after_ms": after_ms,
        })
    };
    vec![
        warm(),
        RPCS.map(unanswered).to_vec(),
        vec![json!({
            "rpc": "ServerStream", "count": 3, "responses": 2, "sleep_between_ms": forever_ms(),
            "cancel_after_messages": 1,
        })],
        vec![json!({
            "rpc": "Bidi", "count": 3, "requests": 3, "lockstep": true, "cancel_after_messages": 2,
        })],
        // Before the first request, and before the half-close.
        [("ClientStream", 1), ("ClientStream", 3), ("Bidi", 1), ("Bidi", 3)].map(held).to_vec(),
    ]
}

/// Calls that warm up a JVM. They also show the types of streams: a type follows from the calls' messages.
fn warm() -> Vec<Value> {
    let warm = |rpc| {
        let requests = if ["ClientStream", "Bidi"].contains(&rpc) { 2 } else { 1 };
        let responses = if ["ServerStream", "Bidi"].contains(&rpc) { 2 } else { 1 };
        json!({
            "rpc": rpc, "count": 20, "concurrency": 2, "requests": requests, "responses": responses,
        })
    };
    RPCS.map(warm).to_vec()
}

/// Calls that expire. On a busy machine a client resets an expired call early, measured against the header: the
/// deadline is long enough for the daemon to distinguish such a reset from a cancellation.
pub(crate) fn expired(server: &Stack) -> Vec<Vec<Value>> {
    // On a slow machine 1 % of it is a second.
    let deadline_ms = if slowness() == 1 { 3_000 } else { 100_000 };
    let step = |rpc| json!({"rpc": rpc, "count": 3, "concurrency": 3, "sleep_ms": forever_ms(), "deadline_ms": deadline_ms});
    let tells = |rpc: &&str| !server.races_deadline || ["ServerStream", "Bidi"].contains(rpc);
    let unanswered = RPCS.into_iter().filter(tells).map(step);
    let answered = ["ServerStream", "Bidi"].map(|rpc| json!({
        "rpc": rpc, "count": 3, "concurrency": 3, "responses": 2, "sleep_between_ms": forever_ms(),
        "deadline_ms": deadline_ms,
    }));
    let in_time =
        RPCS.map(|rpc| json!({"rpc": rpc, "count": 3, "deadline_ms": 30_000 * slowness()}));
    vec![warm(), unanswered.chain(answered).collect(), in_time.to_vec()]
}

pub(crate) fn thousand(connections: u32) -> Vec<Vec<Value>> {
    vec![vec![json!({
        "count": 1000, "concurrency": 1000, "connections": connections, "sleep_ms": 300,
        "payload": 100, "response_size": 100,
    })]]
}

pub(crate) fn huge() -> Vec<Vec<Value>> {
    const HUGE: u32 = 5 << 20;
    vec![vec![json!({"count": 3, "concurrency": 3, "payload": HUGE, "response_size": HUGE})]]
}

/// A few calls, by whose number one server can be told from another.
pub(crate) fn few(count: u32) -> Vec<Vec<Value>> {
    vec![vec![
        json!({"count": count, "payload": 10}),
        json!({"rpc": "Bidi", "count": count, "requests": 2, "code": NOT_FOUND}),
    ]]
}

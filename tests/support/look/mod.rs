//! The comparison of the page in a real browser, and of `observer top` in a real terminal, with the peers' records.

pub mod browser;
pub mod dashboards;
pub mod figures;
mod html;
pub mod names;
pub mod pictures;
pub mod terminal;
pub mod top;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::pace;
use crate::peer::Identity;
use crate::truth::{Truth, code_name};

/// Time for something to be displayed.
const LIMIT: Duration = Duration::from_secs(20);

/// One line per process, side and method, with the number of calls and their codes.
pub type Lines = BTreeSet<String>;

/// The expected lines of both ends.
pub fn lines_of_ends(client: &Identity, server: &Identity, truth: &Truth) -> Lines {
    &lines_of(client, "client", truth) | &lines_of(server, "server", truth)
}

/// The expected lines of a process, from a peer's record.
fn lines_of(who: &Identity, role: &str, truth: &Truth) -> Lines {
    let mut methods: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for row in &truth.calls {
        let codes = methods.entry(row.method.trim_start_matches('/')).or_default();
        *codes.entry(code_name(row.code)).or_default() += row.sums.calls;
    }
    let line = |(method, codes): (&str, BTreeMap<&str, u64>)| {
        line(&who.comm, who.pid, role, method, codes.values().sum(), &codes)
    };
    methods.into_iter().map(line).collect()
}

/// A line of [`Lines`].
pub fn line(
    process: &str,
    pid: u32,
    role: &str,
    method: &str,
    calls: u64,
    codes: &BTreeMap<impl AsRef<str>, u64>,
) -> String {
    let codes: Vec<String> =
        codes.iter().map(|(code, calls)| format!("{} {calls}", code.as_ref())).collect();
    format!("{process}[{pid}] {role} {method}: {calls} calls, {}", codes.join(", "))
}

/// Parses a number as it is displayed: `1,234`.
pub fn number(text: &str) -> Option<u64> {
    text.replace(',', "").parse().ok()
}

/// Like [`pace::wait_for`], for 20 s at most.
pub fn wait_for(look: impl FnMut() -> Result<Result<()>>) -> Result<()> {
    pace::wait_for(LIMIT, look)
}

/// An error that lists the missing and the unexpected lines, if `seen` is not `expected`.
pub fn same(what: &str, expected: &Lines, seen: &Lines) -> Result<()> {
    if expected == seen {
        return Ok(());
    }
    let list =
        |lines: BTreeSet<&String>| lines.into_iter().cloned().collect::<Vec<_>>().join("\n  ");
    bail!(
        "{what}: not shown:\n  {}\nshown instead:\n  {}",
        list(expected.difference(seen).collect()),
        list(seen.difference(expected).collect())
    )
}

/// A plan with calls of all four types, of which some fail, for some seconds.
pub fn load() -> Vec<Vec<Value>> {
    vec![
        vec![
            json!({"rpc": "Unary", "count": 1200, "concurrency": 4, "sleep_ms": 5, "payload": 100,
                   "response_size": 400}),
            json!({"rpc": "Unary", "count": 60, "concurrency": 1, "sleep_ms": 40, "code": 5}),
            json!({"rpc": "Unary", "count": 7, "concurrency": 1, "sleep_ms": 300, "code": 14}),
            json!({"rpc": "ServerStream", "count": 40, "concurrency": 2, "responses": 5,
                   "sleep_between_ms": 10}),
        ],
        vec![
            json!({"rpc": "ClientStream", "count": 30, "requests": 4}),
            json!({"rpc": "Bidi", "count": 20, "requests": 3, "responses": 2, "code": 8}),
        ],
    ]
}

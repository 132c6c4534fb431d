//! The peers' own records of their calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Result, bail};
use serde::Deserialize;

/// One peer's record of its calls, as it writes it (JSON), from its own side.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Truth {
    /// The number of the peer's process.
    pub pid: u32,
    /// The calls: one row per method and code.
    pub calls: Vec<Row>,
}

/// The calls of one method that ended with one code.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    /// The full path: `/package.Service/Method`.
    pub method: String,
    /// gRPC's number for the code; [`CUT`] if the server did not end the call.
    pub code: i32,
    /// Whether the peer does not know if its request messages were written before the server refused the call: then
    /// their number is not compared.
    #[serde(default)]
    pub requests_unsure: bool,
    /// The duration of each call by the peer's own clock, in microseconds, in the order in which they ended.
    #[serde(default)]
    pub handling_us: Vec<u64>,
    /// The numbers of calls, messages and bytes.
    #[serde(flatten)]
    pub sums: Sums,
}

impl Row {
    /// A row without durations, whose requests were written.
    pub fn new(method: impl Into<String>, code: i32, sums: Sums) -> Self {
        let method = method.into();
        Self { method, code, requests_unsure: false, handling_us: Vec::new(), sums }
    }
}

/// The code of calls that the client or the deadline ended, not the server.
pub const CUT: i32 = -1;

/// Numbers of calls, and of their messages in each direction. Bytes are those of serialized messages, `most_` is the
/// maximum of one call, `any_` counts the calls with at least one message.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Sums {
    pub calls: u64,
    pub sent: u64,
    pub received: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub most_sent: u64,
    pub most_received: u64,
    pub any_sent: u64,
    pub any_received: u64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.sent += other.sent;
        self.received += other.received;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.most_sent = self.most_sent.max(other.most_sent);
        self.most_received = self.most_received.max(other.most_received);
        self.any_sent += other.any_sent;
        self.any_received += other.any_received;
    }

    fn mirrored(self) -> Self {
        Self {
            sent: self.received,
            received: self.sent,
            sent_bytes: self.received_bytes,
            received_bytes: self.sent_bytes,
            most_sent: self.most_received,
            most_received: self.most_sent,
            any_sent: self.any_received,
            any_received: self.any_sent,
            ..self
        }
    }
}

/// `Canceled` and `DeadlineExceeded`: the client's codes of calls that are [`CUT`] for the server.
const CUT_BY_CLIENT: [i32; 2] = [1, 4];

/// `Unimplemented`: a server's application does not see calls of methods that it does not have.
const UNIMPLEMENTED: i32 = 12;

impl Truth {
    /// The same calls seen from the other end.
    #[must_use]
    pub fn mirrored(&self) -> Self {
        let mirror = |row: &Row| Row { sums: row.sums.mirrored(), ..row.clone() };
        Self { pid: 0, calls: self.calls.iter().map(mirror).collect() }
    }

    /// Replaces `Canceled` by `DeadlineExceeded`: for clients that report so because the server's reset came before
    /// their own clock had run out.
    #[must_use]
    pub fn expired(mut self) -> Self {
        const CANCELED: i32 = 1;
        const DEADLINE_EXCEEDED: i32 = 4;
        for row in self.calls.iter_mut().filter(|row| row.code == CANCELED) {
            row.code = DEADLINE_EXCEEDED;
        }
        self
    }

    /// The number of calls by method and [`cut_code`].
    pub(crate) fn calls_with_cuts(&self) -> BTreeMap<(String, i32), u64> {
        let rows = self.by_method_and_code(cut_code);
        rows.into_iter()
            .map(|((method, code), sums)| ((method.to_owned(), code), sums.calls))
            .collect()
    }

    fn by_method_and_code(&self, code: impl Fn(i32) -> i32) -> BTreeMap<(&str, i32), Sums> {
        let mut rows = BTreeMap::<_, Sums>::new();
        for row in &self.calls {
            rows.entry((row.method.as_str(), code(row.code))).or_default().add(row.sums);
        }
        rows
    }
}

/// The code, or [`CUT`] if the client may have cut the call.
pub(crate) fn cut_code(code: i32) -> i32 {
    if CUT_BY_CLIENT.contains(&code) { CUT } else { code }
}

/// An error that shows the differences if the records of a server and its clients are not the same.
pub fn agree(server: &Truth, clients: &Truth) -> Result<()> {
    let clients = clients.mirrored();
    let mut clients = clients.by_method_and_code(cut_code);
    clients.retain(|(_, code), _| *code != UNIMPLEMENTED);
    let server = server.by_method_and_code(cut_code);
    if server == clients {
        return Ok(());
    }
    let mut table = String::from("the peers do not agree, seen from the server:\n");
    for key in server.keys().chain(clients.keys()).collect::<BTreeSet<_>>() {
        let (server, client) = (server.get(key), clients.get(key));
        if server != client {
            let (method, code) = key;
            writeln!(table, "  {method} {}", code_name(*code))?;
            writeln!(table, "    server: {server:?}\n    client: {client:?}")?;
        }
    }
    bail!(table)
}

/// The name of a code, as in the label `grpc_code`; 17 is undecided between two.
pub fn code_name(code: i32) -> &'static str {
    const NAMES: [&str; 18] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
        "CanceledOrDeadlineExceeded",
    ];
    let index = usize::try_from(code).ok();
    index.and_then(|index| NAMES.get(index).copied()).unwrap_or("(cut)")
}

#[cfg(test)]
mod tests {
    use super::{CUT, Row, Sums, Truth, agree};

    fn truth(rows: &[(i32, u64, u64)]) -> Truth {
        let row = |&(code, sent, received): &(i32, u64, u64)| {
            let sums = Sums {
                calls: 1,
                most_sent: sent,
                most_received: received,
                any_sent: sent.min(1),
                any_received: received.min(1),
                sent,
                received,
                sent_bytes: 10 * sent,
                received_bytes: received,
            };
            Row::new("/s/M", code, sums)
        };
        Truth { pid: 1, calls: rows.iter().map(row).collect() }
    }

    fn mirrored(rows: &[(i32, u64, u64)]) -> Truth {
        truth(rows).mirrored()
    }

    #[test]
    fn peers_agree_whatever_cut_a_call() {
        let server = truth(&[(0, 1, 2), (CUT, 1, 1), (CUT, 0, 1)]);
        agree(&server, &mirrored(&[(0, 1, 2), (1, 1, 1), (4, 0, 1), (12, 0, 1)])).unwrap();
    }

    #[test]
    fn peers_that_differ_do_not_agree() {
        let server = truth(&[(0, 1, 2)]);
        for client in [mirrored(&[]), mirrored(&[(1, 1, 2)]), mirrored(&[(0, 2, 1)])] {
            let error = agree(&server, &client).unwrap_err().to_string();
            assert!(error.contains("/s/M OK"), "{error}");
        }
    }
}

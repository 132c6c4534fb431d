//! A peer's record: calls, messages and bytes by method and status code.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prost::Message;
use serde::Serialize;
use tonic::Code;

/// The code of a call that the other end cut, so that its server did not choose one.
const CUT: i32 = -1;

/// The sums of all calls of a peer.
#[derive(Default)]
pub(crate) struct Truth(Mutex<BTreeMap<(String, i32), Sums>>);

#[derive(Clone, Default, Serialize)]
struct Sums {
    calls: u64,
    sent: u64,
    received: u64,
    sent_bytes: u64,
    received_bytes: u64,
    /// The most messages in one call.
    most_sent: u64,
    most_received: u64,
    /// The number of calls with at least one message.
    any_sent: u64,
    any_received: u64,
    /// The duration of each call.
    handling_us: Vec<u64>,
}

#[derive(Serialize)]
struct Row {
    method: String,
    code: i32,
    /// Whether it is not known if the requests were written: hyper writes headers and messages separately, and a
    /// server refuses a missing method at the headers.
    requests_unsure: bool,
    #[serde(flatten)]
    sums: Sums,
}

#[derive(Serialize)]
struct Report {
    pid: u32,
    calls: Vec<Row>,
}

impl Truth {
    /// Writes the sums; the file appears whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = rows
            .iter()
            .map(|((method, code), sums)| Row {
                method: method.clone(),
                code: *code,
                requests_unsure: *code == Code::Unimplemented as i32,
                sums: sums.clone(),
            })
            .collect();
        let report = serde_json::to_vec(&Report { pid: std::process::id(), calls })?;
        let part = path.with_extension("part");
        std::fs::write(&part, report).with_context(|| format!("write {}", part.display()))?;
        std::fs::rename(&part, path).with_context(|| format!("write {}", path.display()))
    }

    fn add(&self, method: &str, code: i32, call: &Sums, took: Duration) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = rows.entry((method.to_owned(), code)).or_default();
        sums.calls += call.calls;
        sums.sent += call.sent;
        sums.received += call.received;
        sums.sent_bytes += call.sent_bytes;
        sums.received_bytes += call.received_bytes;
        sums.most_sent = sums.most_sent.max(call.sent);
        sums.most_received = sums.most_received.max(call.received);
        sums.any_sent += call.sent.min(1);
        sums.any_received += call.received.min(1);
        sums.handling_us.push(took.as_micros() as u64);
    }
}

/// The messages of a running call. [`Call::record`] adds it to the record, or drop, so that a handler that is dropped
/// before its end counts too.
pub(crate) struct Call {
    truth: Arc<Truth>,
    begun: Instant,
    method: String,
    code: i32,
    sums: Sums,
    recorded: bool,
}

impl Call {
    pub(crate) fn begin(truth: &Arc<Truth>, method: &str) -> Self {
        let sums = Sums { calls: 1, ..Sums::default() };
        Self {
            truth: Arc::clone(truth),
            begun: Instant::now(),
            method: method.to_owned(),
            code: CUT,
            sums,
            recorded: false,
        }
    }

    /// Counts a message that goes out and returns it.
    pub(crate) fn send<M: Message>(&mut self, message: M) -> M {
        self.sums.sent += 1;
        self.sums.sent_bytes += message.encoded_len() as u64;
        message
    }

    /// Counts a message that came in.
    pub(crate) fn receive(&mut self, message: &impl Message) {
        self.sums.received += 1;
        self.sums.received_bytes += message.encoded_len() as u64;
    }

    pub(crate) fn received(&self) -> u64 {
        self.sums.received
    }

    pub(crate) fn end(&mut self, code: Code) {
        self.code = code as i32;
    }

    /// Adds the call to the record; later messages do not count.
    pub(crate) fn record(&mut self) {
        if !self.recorded {
            self.recorded = true;
            self.truth.add(&self.method, self.code, &self.sums, self.begun.elapsed());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.record();
    }
}

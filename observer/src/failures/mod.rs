//! A line of JSON for each failed call: the start of looking into an incident.
//!
//! [`Failures`] is an output of the pipeline that makes the lines; [`to_stdout`] writes them. Their rate is limited. Calls
//! beyond it are only counted, and the next line has their number.

#![forbid(unsafe_code)]

mod field;
mod pace;
mod stdout;

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use percent_encoding::percent_decode;
use serde_json::{Map, Value};

use self::pace::Pace;
pub use self::{field::Field, stdout::to_stdout};
use observer_core::{
    call::{CallKey, Code, Ended},
    ends::Call,
    names::{
        Interner,
        escape::{self, escape},
    },
    output::{Names, Output},
    process::Process,
    statistics::Method,
};

use crate::{clock::Clock, sync::lock};

/// Maximum number of `grpc-message` texts that are kept until their calls end: those of one record, and those in HPACK
/// tables.
const MAX_TEXTS: usize = 4096;

/// The configuration of the failure log (`--log-errors`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureLogConfig {
    /// Maximum number of lines per second on average, and the largest burst.
    pub per_second: u32,
    /// Fields that are left out, unique.
    pub omitted: Vec<Field>,
}

/// Takes a line. Returns `false` if it has no room for it.
pub type Take = Box<dyn FnMut(String) -> bool + Send>;

/// Makes a line for each failed call, up to a rate.
#[derive(Debug)]
pub struct Failures {
    omitted: Vec<Field>,
    /// Shared by all workers, so that the limit is for all of them together.
    lines: Arc<Mutex<Lines>>,
}

/// The destination of lines, and their rate limit.
struct Lines {
    take: Take,
    pace: Pace,
    /// Calls without a line since the last line.
    suppressed: u64,
    dropped: Dropped,
}

/// Failed calls without a line, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The rate limit was reached.
    pub rate_limit: u64,
    /// Too many lines were waiting to be written.
    pub output: u64,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("suppressed", &self.suppressed).finish_non_exhaustive()
    }
}

impl Lines {
    /// Whether the rate limit allows a line at this time. Counts the call if not.
    fn admit(&mut self, time_ns: u64) -> bool {
        let admitted = self.pace.admits(time_ns);
        self.suppressed += u64::from(!admitted);
        self.dropped.rate_limit += u64::from(!admitted);
        admitted
    }

    /// Writes a line. Returns whether it was taken.
    fn write(&mut self, mut line: Map<String, Value>) -> bool {
        if self.suppressed > 0 {
            line.insert("suppressed".into(), self.suppressed.into());
        }
        // A message may have any bytes of a peer. Escaped, it does nothing to a terminal.
        let line = Value::Object(line).to_string();
        let taken = (self.take)(escape::json(&line).into_owned());
        if taken {
            self.suppressed = 0;
        }
        taken
    }
}

impl Failures {
    /// Creates the output. `take` gets each line, without a line feed.
    pub fn new(choice: &FailureLogConfig, take: Take) -> Self {
        let pace = Pace::new(choice.per_second);
        let lines = Lines { take, pace, suppressed: 0, dropped: Dropped::default() };
        let lines = Arc::new(Mutex::new(lines));
        Self { omitted: choice.omitted.clone(), lines }
    }

    /// Failed calls of all workers without a line, since the start.
    pub(crate) fn dropped(&self) -> Dropped {
        lock(&self.lines).dropped
    }

    fn line(&self, time_ns: u64, fields: Vec<(Field, Value)>) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("time".into(), time(time_ns).into());
        let kept = fields.into_iter().filter(|(field, _)| !self.omitted.contains(field));
        line.extend(kept.map(|(field, value)| (field.name(), value)));
        line
    }
}

impl Output for Failures {
    /// An output for another worker, with the same destination and rate limit.
    fn sharing(&self) -> Self {
        Self { omitted: self.omitted.clone(), lines: Arc::clone(&self.lines) }
    }

    fn max_texts(&self) -> usize {
        MAX_TEXTS
    }

    /// Writes a line for a failed call. A call whose code was not seen may not have failed, so it has none.
    fn call(&mut self, call: &mut Call, key: Option<CallKey>, names: &Names<'_>) {
        let &mut Call { peer, time_ns, ended, .. } = call;
        let Some(code) = ended.code.filter(|code| code.is_failure()) else { return };
        if !lock(&self.lines).admit(time_ns) {
            return;
        }
        let Names { interner, processes, ends: _ } = names;
        let process = key.and_then(|key| processes.process(key.process));
        let mut line = line_of(code, ended, interner);
        line.extend(key.iter().flat_map(|key| of_key(*key, interner)));
        line.extend(process.iter().flat_map(of_process));
        line.extend(peer.map(|peer| (Field::Peer, Value::from(peer.to_string()))));
        let line = self.line(time_ns, line);
        let mut lines = lock(&self.lines);
        if !lines.write(line) {
            lines.suppressed += 1;
            lines.dropped.output += 1;
        }
    }

    /// Writes a line with the number of suppressed ones, if no other line has done so.
    fn tick(&mut self, now_ns: u64) {
        let mut lines = lock(&self.lines);
        if lines.suppressed > 0 && lines.pace.admits(now_ns) {
            lines.write(self.line(now_ns, Vec::new()));
        }
    }
}

/// Formats a time of the kernel's monotonic clock as in RFC 3339, in UTC, with milliseconds.
fn time(monotonic_ns: u64) -> String {
    let since_epoch = Duration::from_nanos(Clock::read().unix_ns(monotonic_ns));
    let time = UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_millis(time).to_string()
}

fn line_of(code: Code, ended: Ended, interner: &Interner) -> Vec<(Field, Value)> {
    let message = ended.message.and_then(|message| interner.texts.get(message));
    let trace = ended.trace.map(|trace| trace.to_string());
    let seconds = ended.elapsed_ns.map(|elapsed| Duration::from_nanos(elapsed).as_secs_f64());
    let fields = [
        (Field::Code, Some(code.as_camel_case().into())),
        (Field::Message, message.map(|text| decoded(text).into())),
        (Field::DurationSeconds, seconds.map(Value::from)),
        (Field::RequestMessages, ended.request_messages.map(Value::from)),
        (Field::ResponseMessages, ended.response_messages.map(Value::from)),
        (Field::TraceId, trace.map(Value::from)),
    ];
    fields.into_iter().filter_map(|(field, value)| Some((field, value?))).collect()
}

/// Decodes a message ("Percent-Encoded" in gRPC over HTTP2). Invalid sequences are kept as they are.
fn decoded(message: &[u8]) -> Cow<'_, str> {
    let decoded: Cow<'_, [u8]> = percent_decode(message).into();
    match decoded {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
    }
}

fn of_key(key: CallKey, interner: &Interner) -> [(Field, Value); 3] {
    let path = interner.resolve(key.path).map_or("", |path| path);
    let Method { service, method, .. } = Method::new(key.protocol, key.path, path);
    [
        (Field::Role, key.role.as_str().into()),
        (Field::Service, service.into()),
        (Field::Method, method.into()),
    ]
}

fn of_process(process: &Process) -> Vec<(Field, Value)> {
    let name = escape(process.comm.as_bytes()).into_owned();
    let service = escape(process.service.name.as_bytes()).into_owned();
    let mut fields = vec![(Field::Pid, process.pid.into()), (Field::Process, name.into())];
    // It is not known before the process has been looked up.
    fields.extend((!service.is_empty()).then(|| (Field::ServiceName, service.into())));
    fields
}

#[cfg(test)]
mod tests;

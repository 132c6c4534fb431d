//! The source of figures: a running daemon, or this process itself.

use std::borrow::Cow;
use std::io::{BufRead as _, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SendError, SyncSender};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::access::Refusal;
use super::remote::{Remote, read};
use crate::connections;
use crate::metrics::view::{Model, Sampler};
use crate::worker::Workers;
use observer_core::names::escape::visible;

/// The time between samples, and between attempts to reach a daemon.
const PERIOD: Duration = Duration::from_secs(1);

/// How long this process watches for one snapshot.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// Maximum size of an event in bytes; a thousand rows take less than one MiB.
const EVENT_AT_MOST: u64 = 64 << 20;

/// An update of the figures.
#[derive(Debug)]
pub enum Update {
    /// A sample.
    Model(Box<Model>),
    /// The reason why there is no sample. The source tries again.
    Lost(String),
    /// The connections by process, or the reason why they are not known.
    Connections(Result<connections::Model, String>),
}

/// The receiver of updates.
struct Viewer {
    updates: SyncSender<Update>,
    /// Whether it shows the connections.
    wants_connections: Arc<AtomicBool>,
}

impl Viewer {
    /// Sends an update, and the connections after a sample, if they are shown. Blocks until there is room. An error
    /// means that the receiver was dropped.
    fn send(
        &self,
        update: Update,
        connections: impl FnOnce() -> Result<connections::Model>,
    ) -> Result<(), SendError<Update>> {
        let is_sample = matches!(update, Update::Model(_));
        self.updates.send(update)?;
        if is_sample && self.wants_connections.load(Ordering::Relaxed) {
            self.updates
                .send(Update::Connections(connections().map_err(|error| reason(&error))))?;
        }
        Ok(())
    }
}

/// Why the source does not answer, without the context: the view already shows the address.
fn reason(error: &anyhow::Error) -> String {
    let reason = match error.downcast_ref::<Refusal>() {
        Some(refusal) => refusal.to_string(),
        None => error.root_cause().to_string(),
    };
    visible(&reason).into_owned()
}

/// The source of figures.
pub enum Source {
    /// A running daemon.
    Daemon(Remote),
    /// This process.
    Own(Workers),
}

impl Source {
    /// The name of the source for the title.
    pub fn name(&self) -> String {
        match self {
            Self::Daemon(remote) => remote.to_string(),
            Self::Own(_) => "this process".into(),
        }
    }

    /// Takes one sample with figures of at least a second.
    pub fn once(&self) -> Result<Model> {
        match self {
            Self::Daemon(remote) => parse(&read(remote.get("/api/v1/view")?)?),
            Self::Own(workers) => {
                let mut sampler = Sampler::default();
                let begun = Instant::now();
                sampler.sample(&workers.snapshot()?, begun.elapsed());
                sleep(FIRST_LOOK);
                Ok(sampler.sample(&workers.snapshot()?, begun.elapsed()))
            }
        }
    }

    /// The connections by process, with those of some seconds if this process watches by itself.
    pub fn connections(&self) -> Result<connections::Model> {
        match self {
            Self::Daemon(remote) => connections_of(remote),
            Self::Own(workers) => {
                sleep(FIRST_LOOK);
                workers.connections()
            }
        }
    }

    /// Starts a thread that sends a sample every second, and the connections while `wants_connections` is true. It ends
    /// when the receiver is dropped.
    pub fn follow(self, wants_connections: Arc<AtomicBool>) -> Result<Receiver<Update>> {
        // Few: samples that wait are out of date, and a daemon drops a slow viewer.
        let (updates, taken) = mpsc::sync_channel(2);
        let viewer = Viewer { updates, wants_connections };
        let follow = move || match self {
            Self::Daemon(remote) => follow_daemon(&remote, &viewer),
            Self::Own(workers) => follow_own(&workers, &viewer),
        };
        thread::Builder::new().name("samples".into()).spawn(follow)?;
        Ok(taken)
    }
}

/// Parses a model, with invisible characters made visible: a daemon is trusted with figures, not with the terminal.
fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    let read = || {
        let mut value: Value = serde_json::from_slice(json)?;
        make_visible(&mut value);
        serde_json::from_value(value)
    };
    read().context("the answer is not from an observer of this version")
}

fn make_visible(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(seen) = visible(text) {
                *text = seen;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(make_visible),
        Value::Object(values) => values.values_mut().for_each(make_visible),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn connections_of(remote: &Remote) -> Result<connections::Model> {
    parse(&read(remote.get("/api/v1/connections")?)?)
}

fn follow_daemon(remote: &Remote, viewer: &Viewer) {
    loop {
        let Err(error) = follow_events(remote, viewer) else { return };
        if viewer.updates.send(Update::Lost(reason(&error))).is_err() {
            return;
        }
        sleep(PERIOD);
    }
}

/// Passes on events. Returns without an error when the receiver is dropped.
fn follow_events(remote: &Remote, viewer: &Viewer) -> Result<()> {
    let mut events = remote.get("/events")?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut events).take(EVENT_AT_MOST).read_until(b'\n', &mut line);
        if read.context("the daemon does not answer")? == 0 {
            bail!("the daemon has closed the connection");
        }
        ensure!(line.ends_with(b"\n"), "the daemon has closed the connection");
        // The only other line with data is a reason for trouble, which is not JSON.
        if let Some(data) = line.strip_prefix(b"data: ") {
            let update = match parse(data) {
                Ok(model) => Update::Model(Box::new(model)),
                Err(_) if !data.starts_with(b"{") => {
                    Update::Lost(visible(String::from_utf8_lossy(data).trim()).into_owned())
                }
                Err(error) => return Err(error),
            };
            if viewer.send(update, || connections_of(remote)).is_err() {
                return Ok(());
            }
        }
    }
}

fn follow_own(workers: &Workers, viewer: &Viewer) {
    let mut sampler = Sampler::default();
    let begun = Instant::now();
    loop {
        let update = match workers.snapshot() {
            Ok(snapshot) => Update::Model(Box::new(sampler.sample(&snapshot, begun.elapsed()))),
            Err(error) => Update::Lost(format!("{error:#}")),
        };
        if viewer.send(update, || workers.connections()).is_err() {
            return;
        }
        sleep(PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_answer_does_nothing_to_the_terminal() {
        let mut model = Model::default();
        model.daemon.version = "1\u{1b}[2J\u{202e}".into();
        let json = serde_json::to_vec(&model).unwrap();
        assert_eq!(parse::<Model>(&json).unwrap().daemon.version, "1\\u{1b}[2J\\u{202e}");
    }
}

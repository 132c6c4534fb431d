//! Where the figures come from: a running daemon, or this process itself.

use std::borrow::Cow;
use std::io::{BufRead as _, Read as _};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::access::Refusal;
use super::remote::{Remote, read};
use crate::metrics::view::{Model, Sampler};
use crate::worker::Workers;
use observer_core::names::escape::visible;

/// Between samples, and between attempts to reach a daemon.
const PERIOD: Duration = Duration::from_secs(1);

/// What a snapshot of a daemon that has just been started is of.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// An event: a thousand rows take less than one MiB.
const EVENT_AT_MOST: u64 = 64 << 20;

/// Figures, as they come.
#[derive(Debug)]
pub enum Update {
    /// A sample.
    Model(Box<Model>),
    /// There is none, for this reason; it is tried again.
    Lost(String),
}

/// Where the figures come from.
pub enum Source {
    /// A running daemon.
    Daemon(Remote),
    /// This process.
    Own(Workers),
}

impl Source {
    /// In a few words, for the title.
    pub fn name(&self) -> String {
        match self {
            Self::Daemon(remote) => remote.to_string(),
            Self::Own(_) => "this process".into(),
        }
    }

    /// One sample that tells of a second at least.
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

    /// Samples, one a second, from a thread of their own, which ends when nobody takes them.
    pub fn follow(self) -> Result<Receiver<Update>> {
        // Few: what is not taken is late, and a daemon drops whoever is.
        let (updates, taken) = mpsc::sync_channel(2);
        let follow = move || match self {
            Self::Daemon(remote) => follow_daemon(&remote, &updates),
            Self::Own(workers) => follow_own(&workers, &updates),
        };
        thread::Builder::new().name("samples".into()).spawn(follow)?;
        Ok(taken)
    }
}

/// What is shown is shown as it is: whoever answers is trusted with figures, not with the terminal.
fn parse(json: &[u8]) -> Result<Model> {
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

fn follow_daemon(remote: &Remote, updates: &SyncSender<Update>) {
    loop {
        let told = match follow_events(remote, updates) {
            Ok(()) => return,
            // Who is asked stands beside it.
            Err(error) => match error.downcast_ref::<Refusal>() {
                Some(refusal) => refusal.to_string(),
                None => error.root_cause().to_string(),
            },
        };
        let told = visible(&told).into_owned();
        if updates.send(Update::Lost(told)).is_err() {
            return;
        }
        sleep(PERIOD);
    }
}

/// Ends without an error when nobody takes the updates.
fn follow_events(remote: &Remote, updates: &SyncSender<Update>) -> Result<()> {
    let mut events = remote.get("/events")?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut events).take(EVENT_AT_MOST).read_until(b'\n', &mut line);
        if read.context("the daemon does not answer")? == 0 {
            bail!("the daemon has closed the connection");
        }
        ensure!(line.ends_with(b"\n"), "the daemon has closed the connection");
        // The only other line with data is that of trouble, which is no JSON.
        if let Some(data) = line.strip_prefix(b"data: ") {
            let update = match parse(data) {
                Ok(model) => Update::Model(Box::new(model)),
                Err(_) if !data.starts_with(b"{") => {
                    Update::Lost(visible(String::from_utf8_lossy(data).trim()).into_owned())
                }
                Err(error) => return Err(error),
            };
            if updates.send(update).is_err() {
                return Ok(());
            }
        }
    }
}

fn follow_own(workers: &Workers, updates: &SyncSender<Update>) {
    let mut sampler = Sampler::default();
    let begun = Instant::now();
    loop {
        let update = match workers.snapshot() {
            Ok(snapshot) => Update::Model(Box::new(sampler.sample(&snapshot, begun.elapsed()))),
            Err(error) => Update::Lost(format!("{error:#}")),
        };
        if updates.send(update).is_err() {
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
        assert_eq!(parse(&json).unwrap().daemon.version, "1\\u{1b}[2J\\u{202e}");
    }
}

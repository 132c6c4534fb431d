//! What gRPC libraries will not do on demand, frame by frame: one table a file. Both ends of each
//! connection are raw peers ([`tests::raw`]), and every number of both processes is compared.
//!
//! One daemon without flags watches the cases of all tables that do not need their own; they are
//! told apart by their processes and services.

mod codes;
mod ends;
mod frames;
mod processes;
mod transports;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use libtest_mimic::{Failed, Trial};
use tests::daemon::Daemon;
use tests::raw::{Address, Talk};

/// All of them.
pub(crate) fn trials() -> Vec<Trial> {
    let mut table = Table::default();
    for (kind, add) in [
        ("codes", codes::add as fn(&mut Table)),
        ("ends", ends::add),
        ("frames", frames::add),
        ("transports", transports::add),
        ("processes", processes::add),
    ] {
        table.kind = kind;
        add(&mut table);
    }
    table.trials
}

/// Cases as they are added.
#[derive(Default)]
struct Table {
    kind: &'static str,
    trials: Vec<Trial>,
    /// The daemon of all: started with the first case that is run, and, because the cases have it
    /// among them, ended with the last.
    daemon: Arc<Mutex<Option<Daemon>>>,
}

impl Table {
    /// A case with a daemon that watches everything.
    fn case(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&Daemon, &str) -> Result<()> + Send + 'static,
    ) {
        let daemon = Arc::clone(&self.daemon);
        self.alone(name, move |name| {
            let mut daemon = daemon.lock().unwrap_or_else(PoisonError::into_inner);
            if daemon.is_none() {
                // Scrapes are many: short ones.
                *daemon = Some(Daemon::start(&["--buckets", "1", "--series-ttl", "20s"])?);
            }
            run(daemon.as_ref().context("a daemon")?, name)
        });
    }

    /// A case with daemons of its own.
    fn alone(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&str) -> Result<()> + Send + 'static,
    ) {
        let name = format!("raw {}: {}", self.kind, name.as_ref());
        let trial = Trial::test(name.clone(), move || {
            run(&name).map_err(|error| Failed::from(format!("{error:#}")))
        });
        self.trials.push(trial);
    }

    /// A connection over IPv4 that both ends close when the case is over.
    fn talk(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
    ) {
        self.case(name, |daemon, name| {
            let mut talk = Talk::begin(daemon, name, Address::V4(0))?;
            run(&mut talk)?;
            talk.finish()
        });
    }

    /// Likewise, where the case itself closes the connection or kills who would.
    fn closed_talk(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
    ) {
        self.case(name, |daemon, name| {
            let mut talk = Talk::begin(daemon, name, Address::V4(0))?;
            run(&mut talk)?;
            talk.finish_closed()
        });
    }
}

// gRPC's codes, as far as they are named here.

const OK: i32 = 0;
const CANCELED: i32 = 1;
const UNKNOWN: i32 = 2;
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNIMPLEMENTED: i32 = 12;
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

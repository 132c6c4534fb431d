//! What gRPC libraries will not do on demand, frame by frame: one table a file. Both ends of each
//! connection are raw peers ([`tests::raw`]), and every number of both processes is compared.
//!
//! One daemon without flags watches the cases of all tables that do not need their own; they are
//! told apart by their processes and services.

mod codes;
pub(crate) mod documented;
mod ends;
mod frames;
mod gaps;
mod hostile;
mod late;
mod privileges;
mod processes;
mod staying_up;
mod told;
mod transports;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use libtest_mimic::Trial;
use tests::daemon::Daemon;
use tests::raw::{Address, Talk};
use tests::tshark::{self, Recording};

/// All of them.
pub(crate) fn trials() -> Vec<Trial> {
    let mut table = Table::default();
    for (kind, add) in [
        ("codes", codes::add as fn(&mut Table)),
        ("ends", ends::add),
        ("frames", frames::add),
        ("transports", transports::add),
        ("processes", processes::add),
        ("late", late::add),
        ("gaps", gaps::add),
        ("privileges", privileges::add),
        ("hostile", hostile::add),
        ("staying up", staying_up::add),
    ] {
        table.kind = kind;
        table.recording = RECORDED.contains(&kind).then(Arc::default);
        add(&mut table);
        table.compare_recording();
    }
    table.trials
}

/// Cases as they are added.
#[derive(Default)]
struct Table {
    kind: &'static str,
    trials: Vec<Trial>,
    /// Of the cases of this kind: begun with the first that is run.
    recording: Option<Arc<Mutex<Option<Recording>>>>,
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
        let recording = self.recording.clone();
        self.alone(name, move |name| {
            let mut daemon = daemon.lock().unwrap_or_else(PoisonError::into_inner);
            if daemon.is_none() {
                // Scrapes are many: short ones.
                *daemon = Some(Daemon::start(&["--buckets", "1", "--series-ttl", "20s"])?);
            }
            let daemon = daemon.as_ref().context("a daemon")?;
            if let Some(recording) = recording {
                record(&recording, daemon)?;
            }
            run(daemon, name)
        });
    }

    /// The last case of a kind that is recorded: tshark saw the same in all of them.
    fn compare_recording(&mut self) {
        let Some(recording) = self.recording.clone() else { return };
        self.alone("what tshark sees of all of these", move |_| {
            if !tshark::is_there()? {
                tests::report::note("tshark is not installed");
                return Ok(());
            }
            let recording = recording.lock().unwrap_or_else(PoisonError::into_inner).take();
            let recording = recording.context("nothing was recorded: run these with the others")?;
            recording.finish()?.agree_with_raw_peers(cannot_tell)?;
            tests::report::note("tshark");
            tests::report::note("it cannot tell the codes of calls without grpc-status");
            tests::report::note("it cannot tell of Unix sockets");
            Ok(())
        });
    }

    /// A case with daemons of its own.
    fn alone(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&str) -> Result<()> + Send + 'static,
    ) {
        let name = format!("raw {}: {}", self.kind, name.as_ref());
        self.trials.push(crate::trial(name, run));
    }

    /// A case with daemons of its own, shown as ignored where it is not possible.
    fn alone_if(
        &mut self,
        possible: bool,
        name: impl AsRef<str>,
        run: impl FnOnce(&str) -> Result<()> + Send + 'static,
    ) {
        self.alone(name, run);
        let trial = self.trials.pop().map(|trial| trial.with_ignored_flag(!possible));
        self.trials.extend(trial);
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

/// The kinds whose traffic is recorded. The others' is minutes of work for tshark, or not HTTP/2
/// alone, or not on loopback.
const RECORDED: [&str; 2] = ["codes", "ends"];

fn record(recording: &Mutex<Option<Recording>>, daemon: &Daemon) -> Result<()> {
    let mut recording = recording.lock().unwrap_or_else(PoisonError::into_inner);
    if recording.is_none() && tshark::is_there()? {
        let address = daemon.address();
        let (_, port) = address.rsplit_once(':').context("an address without port")?;
        // Its scrapes are many, and not HTTP/2.
        *recording = Some(Recording::of_all_but(port)?);
    }
    Ok(())
}

/// Methods of cases in which there is more on the wire than the daemon is to count, or which are
/// not on loopback.
fn cannot_tell(method: &str) -> bool {
    method.contains("beyond-the-bound") || method.contains("Unix-socket")
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

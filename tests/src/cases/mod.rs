//! What gRPC libraries will not do on demand, frame by frame: one table a file. Both ends of each
//! connection are raw peers ([`tests::raw`]), and every number of both processes is compared.
//!
//! One daemon without flags watches the cases of all tables that do not need their own; they are
//! told apart by their processes and services.

mod codes;
pub(crate) mod documented;
mod ends;
mod exposition;
mod frames;
mod gaps;
mod hostile;
mod late;
mod lines;
pub(crate) mod native;
mod privileges;
mod processes;
pub(crate) mod scraped;
mod staying_up;
mod told;
mod transports;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tests::daemon::{Daemon, Shared};
use tests::raw::{Address, Talk};
use tests::report::{Also, TSHARK, confirmed};
use tests::tshark::{self, Recording};

use crate::{Case, Run};

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    let mut table = Table::default();
    for (kind, add, recorded) in KINDS {
        table.begin(kind, recorded);
        add(&mut table);
        table.compare_recording();
    }
    table.cases
}

/// A table, and whether the traffic of its cases is recorded: otherwise, why tshark is not asked.
type Kind = (&'static str, fn(&mut Table), Result<(), &'static str>);

const KINDS: [Kind; 12] = [
    ("codes", codes::add, Ok(())),
    ("ends", ends::add, Ok(())),
    (
        "frames",
        frames::add,
        Err("tshark is not asked: what these are made of are too many frames, streams and bytes \
             for it to dissect in minutes, or gaps, which it does not have."),
    ),
    (
        "transports",
        transports::add,
        Err("tshark cannot tell: Unix sockets pass no network interface, and which bytes are \
             HTTP/2, which is the question here, is what it is told."),
    ),
    (
        "processes",
        processes::add,
        Err("tshark cannot tell: which process is at an end of a connection is not on the wire."),
    ),
    (
        "late",
        late::add,
        Err("tshark cannot tell: these begin before they are watched, which is the question."),
    ),
    (
        "gaps",
        gaps::add,
        Err("tshark cannot tell: what the daemon does not see passes the network all the same."),
    ),
    ("lines", lines::add, Err("tshark cannot tell: what the daemon writes is not on the wire.")),
    (
        "privileges",
        privileges::add,
        Err("tshark cannot tell: what the daemon may do is not on the wire."),
    ),
    (
        "hostile",
        hostile::add,
        Err("tshark is not asked: what these send is made to be told of by nobody."),
    ),
    (
        "exposition",
        exposition::add,
        Err("tshark cannot tell: how the daemon tells of calls is not on the wire."),
    ),
    (
        "staying up",
        staying_up::add,
        Err(
            "tshark cannot tell: how the daemon does is not on the wire. The case of a processor is \
             run where there is one to take offline.",
        ),
    ),
];

/// What is said of the cases that are recorded.
const SAME_TO_TSHARK: &str = "tshark sees the same calls in the traffic of all of these, and the \
    same codes where there is a `grpc-status`; it cannot tell of the calls over Unix sockets, nor \
    of those beyond the bound of a connection, which are on the wire and not counted.";

/// Cases as they are added.
#[derive(Default)]
struct Table {
    kind: &'static str,
    cases: Vec<Case>,
    /// What is to be said of the next case.
    said: Option<&'static str>,
    /// Of the cases of this kind.
    recording: Option<Recorded>,
    daemon: Shared,
}

/// Cases whose traffic is recorded together.
#[derive(Default)]
struct Recorded {
    /// Begun with the first that is run.
    recording: Arc<Mutex<Option<Recording>>>,
    /// What each does, until it is run.
    runs: Vec<(String, Slot)>,
}

type Slot = Arc<Mutex<Option<Run>>>;

fn take(slot: &Slot) -> Option<Run> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Table {
    fn begin(&mut self, kind: &'static str, recorded: Result<(), &'static str>) {
        self.kind = kind;
        self.said = Some(recorded.err().unwrap_or(SAME_TO_TSHARK));
        self.recording = recorded.is_ok().then(Recorded::default);
    }

    /// A case with a daemon that watches everything.
    fn case(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&Daemon, &str) -> Result<()> + Send + 'static,
    ) {
        let daemon = self.daemon.clone();
        let recording = self.recording.as_ref().map(|recorded| Arc::clone(&recorded.recording));
        let run = move |name: &str| {
            daemon.watch(|daemon| {
                if let Some(recording) = recording {
                    record(&recording, daemon)?;
                }
                run(daemon, name)
            })
        };
        let Some(recorded) = &mut self.recording else { return self.alone(name, run) };
        let slot: Slot = Arc::new(Mutex::new(Some(Box::new(run))));
        recorded.runs.push((full_name(self.kind, name.as_ref()), Arc::clone(&slot)));
        self.alone(name, move |name| take(&slot).context("has been run")?(name));
    }

    /// The last case of a kind that is recorded: tshark saw the same in all of them. Those that
    /// have not been run are run by it, so that it can be run alone.
    fn compare_recording(&mut self) {
        let Some(Recorded { recording, runs }) = self.recording.take() else { return };
        self.add("what tshark sees of all of these", Also::Confirmed(TSHARK), move |_| {
            if !tshark::is_there()? {
                return Ok(());
            }
            for (name, slot) in runs {
                take(&slot).map_or(Ok(()), |run| run(&name).context(name))?;
            }
            let recording = recording.lock().unwrap_or_else(PoisonError::into_inner).take();
            recording.context("a recording")?.finish()?.agree_with_raw_peers(cannot_tell)?;
            confirmed(TSHARK);
            Ok(())
        });
    }

    /// A case with daemons of its own.
    fn alone(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&str) -> Result<()> + Send + 'static,
    ) {
        let also = self.said.take().map_or(Also::Nothing, Also::OfItsKind);
        self.add(name.as_ref(), also, run);
    }

    fn add(
        &mut self,
        name: &str,
        also: Also,
        run: impl FnOnce(&str) -> Result<()> + Send + 'static,
    ) {
        let name = full_name(self.kind, name);
        self.cases.push(Case { name, also, ignored: false, run: Box::new(run) });
    }

    /// A case with daemons of its own, shown as ignored where it is not possible.
    fn alone_if(
        &mut self,
        possible: bool,
        name: impl AsRef<str>,
        run: impl FnOnce(&str) -> Result<()> + Send + 'static,
    ) {
        self.alone(name, run);
        if let Some(case) = self.cases.last_mut() {
            case.ignored = !possible;
        }
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

fn full_name(kind: &str, name: &str) -> String {
    format!("raw {kind}: {name}")
}

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

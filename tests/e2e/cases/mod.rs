//! What gRPC libraries will not do on demand, frame by frame: one table a file. Both ends of each
//! connection are raw peers ([`support::raw`]), and every number of both processes is compared.
//!
//! One daemon without flags watches the cases of all tables that do not need their own; they are
//! told apart by their processes and services.

mod at_once;
pub(crate) mod backends;
mod bounds;
mod codes;
pub(crate) mod declared;
pub(crate) mod documented;
mod ends;
pub(crate) mod etcd;
mod exposition;
mod frames;
mod gaps;
pub(crate) mod gzip;
mod hostile;
mod late;
pub(crate) mod latency;
pub(crate) mod libraries;
mod lines;
mod names;
pub(crate) mod native;
mod openings;
pub(crate) mod payload;
mod ports;
mod privileges;
mod processes;
pub(crate) mod protected;
pub(crate) mod proxied;
mod races;
pub(crate) mod refused;
pub(crate) mod restart;
pub(crate) mod scraped;
mod staying_up;
mod told;
mod transports;
pub(crate) mod tunnel;
mod visitors;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use support::daemon::{Daemon, Shared};
use support::raw::{Address, Talk};
use support::report::{Also, TSHARK, confirmed};
use support::tshark::{self, Recording};

use crate::{Case, Run};

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    let mut table = Table::default();
    for (kind, add, said) in KINDS {
        table.begin(kind, said);
        add(&mut table);
        table.compare_recording();
    }
    table.cases
}

/// A table, and why tshark is not asked of any of its cases: otherwise their traffic is recorded, but
/// for what is added by [`Table::unrecorded`].
type Kind = (&'static str, fn(&mut Table), Result<(), &'static str>);

const KINDS: [Kind; 14] = [
    ("codes", codes::add, Ok(())),
    ("ends", ends::add, Ok(())),
    (
        "frames",
        frames::add,
        Err("tshark is not asked: what these are made of are too many frames, streams and bytes \
             for it to dissect in minutes, or header tables that it loses."),
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
        "races",
        races::add,
        Err("tshark cannot tell: in which order a process's calls return is not on the wire."),
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
    (
        "gaps at once",
        at_once::add,
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
const SAME_TO_TSHARK: &str = "tshark sees the same calls in the traffic of these, no more and no \
    fewer, and the same codes where there is a `grpc-status`; but for those of which it says why not.";

/// Why tshark is not asked of some.
const UNIX: &str = "Unix sockets pass no network interface";

/// Cases as they are added.
#[derive(Default)]
struct Table {
    kind: &'static str,
    cases: Vec<Case>,
    /// What is to be said of the next case.
    said: Option<&'static str>,
    /// Why tshark is not asked of the cases that are added.
    unrecorded: Option<&'static str>,
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

    /// Of the cases that are added here tshark is not asked, for this reason.
    fn unrecorded(&mut self, why: &'static str, add: impl FnOnce(&mut Self)) {
        self.unrecorded = Some(why);
        add(self);
        self.unrecorded = None;
    }

    /// A case with a daemon that watches everything.
    fn case(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&Daemon, &str) -> Result<()> + Send + 'static,
    ) {
        let daemon = self.daemon.clone();
        self.alone(name, move |name| daemon.watch(|daemon| run(daemon, name)));
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
            recording.context("a recording")?.agrees_with_raw_peers()?;
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
        let also = match (self.said.take(), self.unrecorded) {
            (Some(said), _) => Also::OfItsKind(said),
            (None, Some(why)) => Also::Without(TSHARK, why),
            (None, None) => Also::Nothing,
        };
        let recorded = self.recording.as_mut().filter(|_| self.unrecorded.is_none());
        let Some(recorded) = recorded else { return self.add(name.as_ref(), also, run) };
        let (recording, shared) = (Arc::clone(&recorded.recording), self.daemon.clone());
        let run = move |name: &str| {
            record(&recording, &shared)?;
            tshark::asked(|| run(name))
        };
        let slot: Slot = Arc::new(Mutex::new(Some(Box::new(run))));
        recorded.runs.push((full_name(self.kind, name.as_ref()), Arc::clone(&slot)));
        self.add(name.as_ref(), also, move |name| take(&slot).context("has been run")?(name));
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
        self.only_if(possible);
    }

    /// The last case is shown as ignored where it is not possible.
    fn only_if(&mut self, possible: bool) {
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

/// Begins to record, unless that has begun.
fn record(recording: &Mutex<Option<Recording>>, shared: &Shared) -> Result<()> {
    let mut recording = recording.lock().unwrap_or_else(PoisonError::into_inner);
    if recording.is_none() && tshark::is_there()? {
        let address = shared.watch(|daemon| Ok(daemon.address()))?;
        let (_, port) = address.rsplit_once(':').context("an address without port")?;
        // Its scrapes are many, and not HTTP/2.
        *recording = Some(Recording::of_all_but(port)?);
    }
    Ok(())
}

// gRPC's codes, as far as they are named here.

const OK: i32 = 0;
const CANCELED: i32 = 1;
/// Canceled or DeadlineExceeded: it has no number on the wire.
const EITHER: i32 = 17;
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

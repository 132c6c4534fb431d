//! Tables of cases of raw peers: adds cases, and compares the traffic of those of a kind with tshark.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use support::daemon::{Daemon, Shared};
use support::raw::{Address, Talk};
use support::report::{Also, TSHARK, confirmed};
use support::tshark::{self, Recording};

use super::SAME_TO_TSHARK;
use crate::case::{Case, Run};

/// The cases so far.
#[derive(Default)]
pub(super) struct Table {
    kind: &'static str,
    pub(super) cases: Vec<Case>,
    /// The note of the next case, about its kind.
    said: Option<&'static str>,
    /// Why the cases that are added are not compared with tshark.
    unrecorded: Option<&'static str>,
    /// Whether cases with the shared daemon run at the same time.
    together: bool,
    /// The recording of the cases of this kind.
    recording: Option<Recorded>,
    daemon: Shared,
}

/// Cases whose traffic is recorded together.
#[derive(Default)]
struct Recorded {
    /// Starts with the first case that is run.
    recording: Arc<Mutex<Option<Recording>>>,
    /// The name and the function of each, until it is run.
    runs: Vec<(String, Slot)>,
}

type Slot = Arc<Mutex<Option<Run>>>;

fn take(slot: &Slot) -> Option<Run> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Table {
    /// Begins the cases of a kind, which are recorded.
    pub(super) fn begin(&mut self, kind: &'static str) {
        (self.kind, self.said) = (kind, Some(SAME_TO_TSHARK));
        self.recording = Some(Recorded::default());
    }

    /// Adds cases that run at the same time if they use the shared daemon. They make no gap, and compare no metric of the
    /// daemon itself, so they do not see each other.
    pub(super) fn together(&mut self, add: impl FnOnce(&mut Self)) {
        self.together = true;
        add(self);
        self.together = false;
    }

    /// Sets, at the start of a kind, that none of its cases is compared with tshark, and why.
    pub(super) fn not_for_tshark(&mut self, why: &'static str) {
        (self.said, self.recording) = (Some(why), None);
    }

    /// Adds cases that are not compared with tshark, for this reason.
    pub(super) fn unrecorded(&mut self, why: &'static str, add: impl FnOnce(&mut Self)) {
        self.unrecorded = Some(why);
        add(self);
        self.unrecorded = None;
    }

    /// Adds a case with the shared daemon, which watches everything.
    pub(super) fn case(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&Daemon, &str) -> Result<()> + Send + 'static,
    ) {
        let daemon = self.daemon.clone();
        self.alone(name, move |name| daemon.watch(|daemon| run(daemon, name)));
        if let Some(case) = self.cases.last_mut().filter(|_| self.together) {
            case.together = Some(self.kind);
        }
    }

    /// Adds the last case of a kind that is recorded: compares all its cases with tshark. It runs those that have not
    /// been run, so that it can be run alone.
    pub(super) fn compare_recording(&mut self) {
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

    /// Adds a case that starts its own daemons.
    pub(super) fn alone(
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
            tshark::compared(|| run(name))
        };
        let slot: Slot = Arc::new(Mutex::new(Some(Box::new(run))));
        recorded.runs.push((full_name(self.kind, name.as_ref()), Arc::clone(&slot)));
        self.add(name.as_ref(), also, move |name| take(&slot).context("it has been run")?(name));
    }

    fn add(
        &mut self,
        name: &str,
        also: Also,
        run: impl FnOnce(&str) -> Result<()> + Send + 'static,
    ) {
        let name = full_name(self.kind, name);
        self.cases.push(Case { name, also, ignored: false, together: None, run: Box::new(run) });
    }

    /// Like [`Self::alone`], ignored unless it is possible.
    pub(super) fn alone_if(
        &mut self,
        possible: bool,
        name: impl AsRef<str>,
        run: impl FnOnce(&str) -> Result<()> + Send + 'static,
    ) {
        self.alone(name, run);
        self.only_if(possible);
    }

    /// Marks the last case as ignored unless it is possible.
    pub(super) fn only_if(&mut self, possible: bool) {
        if let Some(case) = self.cases.last_mut() {
            case.ignored = !possible;
        }
    }

    /// Adds a case with the shared daemon and one connection over IPv4, which both ends close at its end.
    pub(super) fn talk(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
    ) {
        self.talk_to(name, |talk| talk.finish(), run);
    }

    /// Like [`Self::talk`], for a case that closes the connection or kills an end itself.
    pub(super) fn closed_talk(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
    ) {
        self.talk_to(name, |talk| talk.finish_closed(), run);
    }

    /// Like [`Self::talk`], for a case whose numbers it checks itself.
    pub(super) fn uncompared(
        &mut self,
        name: impl AsRef<str>,
        run: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
    ) {
        self.talk_to(name, |mut talk| talk.end_peers(), run);
    }

    /// Like [`Self::talk`], with another `end`.
    pub(super) fn talk_to(
        &mut self,
        name: impl AsRef<str>,
        end: fn(Talk<'_>) -> Result<()>,
        run: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
    ) {
        self.case(name, move |daemon, name| carry_out(daemon, name, end, run));
    }

    /// Like [`Self::uncompared`], with its own daemon, which has these flags.
    pub(super) fn watched(
        &mut self,
        name: impl AsRef<str>,
        flags: &'static [&'static str],
        run: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
    ) {
        self.alone(name, move |name| {
            carry_out(&Daemon::start(flags)?, name, |mut talk| talk.end_peers(), run)
        });
    }
}

fn carry_out(
    daemon: &Daemon,
    name: &str,
    end: fn(Talk<'_>) -> Result<()>,
    run: impl FnOnce(&mut Talk<'_>) -> Result<()>,
) -> Result<()> {
    let mut talk = Talk::begin(daemon, name, Address::V4(0))?;
    run(&mut talk)?;
    end(talk)
}

fn full_name(kind: &str, name: &str) -> String {
    format!("raw {kind}: {name}")
}

/// Starts the recording, unless it has started.
fn record(recording: &Mutex<Option<Recording>>, shared: &Shared) -> Result<()> {
    let mut recording = recording.lock().unwrap_or_else(PoisonError::into_inner);
    if recording.is_none() && tshark::is_there()? {
        let address = shared.watch(|daemon| Ok(daemon.address()))?;
        let (_, port) = address.rsplit_once(':').context("an address without port")?;
        // There are many scrapes, which are not HTTP/2.
        *recording = Some(Recording::of_all_but(port)?);
    }
    Ok(())
}

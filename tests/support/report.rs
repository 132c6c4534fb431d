//! The cases and their results, from which `cargo xtask` makes docs/generated/cases.md: one line of JSON per case.
//!
//! - `target/cases.jsonl` has their names, and what else confirms each: it does not depend on the machine or on a run,
//!   and a case that is not confirmed as its line says fails;
//! - `target/outcomes.jsonl` has the results of the last run of all cases, in the order in which they ended.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::stack::target_dir;

/// The number of the daemon's numbers that were compared and exact.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// The file for outcomes, in a run of all cases.
static OUTCOMES: Mutex<Option<File>> = Mutex::new(None);

thread_local! {
    /// The case that this thread runs.
    static CASE: Cell<OfCase> = const { Cell::new(OfCase::NOTHING) };
}

/// The state of a running case.
#[derive(Clone, Copy)]
struct OfCase {
    /// The number of the daemon's numbers that were exact.
    numbers: usize,
    /// What has confirmed it last, and how many times something has.
    confirmed: Option<&'static str>,
    confirmations: usize,
    /// What could not confirm it, without contradicting it.
    unconfirmed: Option<&'static str>,
}

impl OfCase {
    const NOTHING: Self = Self { numbers: 0, confirmed: None, confirmations: 0, unconfirmed: None };

    fn change(change: impl FnOnce(&mut Self)) {
        let mut case = CASE.get();
        change(&mut case);
        CASE.set(case);
    }
}

/// Whether tshark was needed and is not installed.
static NO_TSHARK: AtomicBool = AtomicBool::new(false);

/// Texts to be printed at the end of the run.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The duration of each case.
static TOOK: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// An independent dissection of the same traffic.
pub const TSHARK: &str = "tshark";

/// The times that handlers took by their own clocks.
pub const CLOCKS: &str = "the handlers' clocks";

/// What confirms a case besides the peers' own records, for docs/correctness.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Also {
    /// Nothing.
    Nothing,
    /// This must confirm it ([`confirmed`]).
    Confirmed(&'static str),
    /// This confirms other cases of its kind, but not this one, and why.
    Without(&'static str, &'static str),
    /// This must confirm a part of it; what not, and why.
    InPart(&'static str, &'static str),
    /// A note about all cases of its kind; their first one has it.
    OfItsKind(&'static str),
}

/// Records that this many numbers were exact.
pub fn exact(numbers: usize) {
    NUMBERS.fetch_add(numbers as u64, Ordering::Relaxed);
    OfCase::change(|case| case.numbers += numbers);
}

/// Records that the kernel had skipped programs this many times, and that the numbers were true but not complete.
pub fn lossy(skipped: f64) {
    say(&format!("the kernel had skipped programs {skipped} times: the numbers were true"));
}

/// Records that `by` has confirmed the running case.
pub fn confirmed(by: &'static str) {
    OfCase::change(|case| {
        case.confirmed = Some(by);
        case.confirmations += 1;
    });
}

/// Records that `by` could not confirm the running case on this machine.
pub fn unconfirmed(by: &'static str) {
    OfCase::change(|case| case.unconfirmed = Some(by));
}

/// Records that tshark is not installed.
pub(crate) fn no_tshark() {
    NO_TSHARK.store(true, Ordering::Relaxed);
}

/// Prints a text at the end of the run.
pub fn say(text: &str) {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
}

/// An error unless the running case, which has passed, was confirmed as `also` says.
pub fn check(also: Also) -> Result<()> {
    let OfCase { confirmed, confirmations, unconfirmed, .. } = CASE.get();
    let expected = match also {
        Also::Confirmed(by) if unconfirmed == Some(by) => None,
        Also::Confirmed(TSHARK) | Also::InPart(TSHARK, _) if NO_TSHARK.load(Ordering::Relaxed) => {
            return Ok(());
        }
        Also::Confirmed(by) | Also::InPart(by, _) => Some(by),
        Also::Nothing | Also::Without(..) | Also::OfItsKind(_) => None,
    };
    let once = confirmations == usize::from(expected.is_some());
    ensure!(
        confirmed == expected && once,
        "{expected:?} must confirm it, but {confirmed:?} did, {confirmations} times"
    );
    Ok(())
}

/// Begins the outcomes of a run of all cases; the `ignored` ones are not possible on this machine.
pub fn begin<'a>(ignored: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let path = path()?.with_file_name("outcomes.jsonl");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    *OUTCOMES.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    ignored
        .into_iter()
        .try_for_each(|case| outcome(&json!({"case": case, "outcome": "ignored", "numbers": 0})))
}

/// Records the end of the running case.
pub fn ended(name: &str, passed: bool, time: Duration) -> Result<()> {
    TOOK.lock().unwrap_or_else(PoisonError::into_inner).push((time, name.to_owned()));
    let OfCase { numbers, confirmed: by, .. } = CASE.replace(OfCase::NOTHING);
    let became = if passed { "passed" } else { "failed" };
    outcome(&json!({"case": name, "outcome": became, "numbers": numbers, "confirmed_by": by}))
}

/// Records that all cases have been run: outcomes without this line are those of an incomplete run.
pub fn complete() -> Result<()> {
    outcome(&json!({"end": true}))
}

fn outcome(line: &Value) -> Result<()> {
    match &mut *OUTCOMES.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(file) => writeln!(file, "{line}").context("write an outcome"),
        None => Ok(()),
    }
}

/// Prints the texts of [`say`] and a summary at the end of the run: between the cases' lines they would cut these.
#[expect(clippy::print_stdout, reason = "measurements are to be seen")]
pub fn end() {
    const SLOWEST: usize = 50;
    for text in SAID.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        println!("{text}");
    }
    let mut took = std::mem::take(&mut *TOOK.lock().unwrap_or_else(PoisonError::into_inner));
    took.sort();
    println!("the slowest cases, in seconds:");
    for (time, name) in took.iter().rev().take(SLOWEST) {
        println!("  {:6.1} {name}", time.as_secs_f64());
    }
    if NO_TSHARK.load(Ordering::Relaxed) {
        println!("not run: the comparison with tshark, which is not installed");
    }
    println!("{} numbers of the daemon were compared", NUMBERS.load(Ordering::Relaxed));
}

/// Writes `cases.jsonl`: the list of all cases.
pub fn list<'a>(cases: impl IntoIterator<Item = (&'a str, Also)>) -> Result<()> {
    let mut lines = String::new();
    for (case, also) in cases {
        let line = match also {
            Also::Nothing => json!({"case": case}),
            Also::Confirmed(by) => json!({"case": case, "confirmed_by": by}),
            Also::Without(by, why) => json!({"case": case, "note": format!("{by}: {why}")}),
            Also::InPart(by, what) => json!({"case": case, "confirmed_by": by, "note": what}),
            Also::OfItsKind(text) => json!({"case": case, "kind": text}),
        };
        writeln!(lines, "{line}")?;
    }
    let path = path()?;
    std::fs::write(&path, lines).with_context(|| format!("write {}", path.display()))
}

/// The path of `cases.jsonl`: `OBSERVER_TEST_REPORT` where the target directory cannot be written to.
fn path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("OBSERVER_TEST_REPORT") {
        return Ok(path.into());
    }
    Ok(target_dir()?.join("cases.jsonl"))
}

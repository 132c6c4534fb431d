//! What the cases are and what became of them, of which `cargo xtask` makes docs/generated/cases.md: one
//! line of JSON a case.
//!
//! - `target/cases.jsonl` has what each is and what else confirms it: nothing in it depends on the
//!   machine or on how a run went, and a case that does not do what its line says fails;
//! - `target/outcomes.jsonl` has how the last run of all of them went, case by case as they end.

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

/// How many numbers of the daemon have been compared and were exact.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Where outcomes are written, if they are.
static OUTCOMES: Mutex<Option<File>> = Mutex::new(None);

thread_local! {
    /// The case that this thread runs.
    static CASE: Cell<OfCase> = const { Cell::new(OfCase::NOTHING) };
}

/// What is known of a case while it is being run.
#[derive(Clone, Copy)]
struct OfCase {
    /// Numbers that were exact.
    numbers: usize,
    /// What has confirmed it, last, and how often.
    confirmed: Option<&'static str>,
    confirmations: usize,
    /// What could not confirm it, though it does not say otherwise.
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

/// tshark was to be asked, and is not installed.
static NO_TSHARK: AtomicBool = AtomicBool::new(false);

/// Kept for the end of the run.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// How long each case took.
static TOOK: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// An independent dissection of the same traffic.
pub const TSHARK: &str = "tshark";

/// The times that handlers took by their own clocks.
pub const CLOCKS: &str = "the handlers' clocks";

/// What is to be said of a case, beside that its peers know what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Also {
    /// Nothing.
    Nothing,
    /// Something else confirms it when it is run: [`confirmed`].
    Confirmed(&'static str),
    /// Something else confirms others of its kind, but not this one: why not.
    Without(&'static str, &'static str),
    /// Something else confirms it, but not all of it: what not, and why.
    InPart(&'static str, &'static str),
    /// Said once of all cases of its kind, whose first one has it.
    OfItsKind(&'static str),
}

/// So many numbers were as expected.
pub fn exact(numbers: usize) {
    NUMBERS.fetch_add(numbers as u64, Ordering::Relaxed);
    OfCase::change(|case| case.numbers += numbers);
}

/// Numbers were true, and not complete: so many times the kernel had skipped programs by then.
pub fn lossy(skipped: f64) {
    say(&format!("the kernel had skipped programs {skipped} times: the numbers were true"));
}

/// The case that is being run has been confirmed by this too.
pub fn confirmed(by: &'static str) {
    OfCase::change(|case| {
        case.confirmed = Some(by);
        case.confirmations += 1;
    });
}

/// This was to confirm the case that is being run, and could not on this machine: so it is told.
pub fn unconfirmed(by: &'static str) {
    OfCase::change(|case| case.unconfirmed = Some(by));
}

/// What tshark is to confirm is not run.
pub(crate) fn no_tshark() {
    NO_TSHARK.store(true, Ordering::Relaxed);
}

/// For whoever runs the tests.
pub fn say(text: &str) {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
}

/// A case has passed: an error if it was not confirmed by what is said of it.
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
        "to be confirmed by {expected:?}, but was by {confirmed:?}, {confirmations} times"
    );
    Ok(())
}

/// The environment variable by which `cargo xtask test` says that a case of a whole run is run again.
const AGAIN: &str = "OBSERVER_TEST_AGAIN";

/// A run begins. That of all cases, of which these are not possible here, leaves what becomes of each.
pub fn begin<'a>(whole: bool, ignored: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let path = path()?.with_file_name("outcomes.jsonl");
    let mut options = File::options();
    if whole {
        options.write(true).create(true).truncate(true);
    } else if std::env::var_os(AGAIN).is_some() {
        options.append(true);
    } else {
        return Ok(());
    }
    let file = options.open(&path).with_context(|| format!("open {}", path.display()))?;
    *OUTCOMES.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    ignored
        .into_iter()
        .filter(|_| whole)
        .try_for_each(|case| outcome(&json!({"case": case, "outcome": "ignored", "numbers": 0})))
}

/// A case has ended so.
pub fn ended(name: &str, passed: bool) -> Result<()> {
    let OfCase { numbers, confirmed: by, .. } = CASE.replace(OfCase::NOTHING);
    let became = if passed { "passed" } else { "failed" };
    outcome(&json!({"case": name, "outcome": became, "numbers": numbers, "confirmed_by": by}))
}

/// All cases have been run: without this line the outcomes are those of a run that was broken off.
pub fn complete() -> Result<()> {
    outcome(&json!({"end": true}))
}

fn outcome(line: &Value) -> Result<()> {
    match &mut *OUTCOMES.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(file) => writeln!(file, "{line}").context("write an outcome"),
        None => Ok(()),
    }
}

/// A case has been run.
pub fn took(name: &str, time: Duration) {
    TOOK.lock().unwrap_or_else(PoisonError::into_inner).push((time, name.to_owned()));
}

/// All cases have been run: says what is to be said, which between the cases' lines would cut them.
#[expect(clippy::print_stdout, reason = "measurements are to be seen")]
pub fn end() {
    const SLOWEST: usize = 20;
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
        println!("not run: what tshark is to confirm: it is not installed");
    }
    println!("{} numbers of the daemon were compared", NUMBERS.load(Ordering::Relaxed));
}

/// Writes the list of all cases.
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

/// `OBSERVER_TEST_REPORT` names another place, where the target directory cannot be written to.
fn path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("OBSERVER_TEST_REPORT") {
        return Ok(path.into());
    }
    Ok(target_dir()?.join("cases.jsonl"))
}

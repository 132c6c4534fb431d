//! What the cases are and what else confirms each: one line of JSON a case in `target/cases.jsonl`,
//! of which `cargo xtask` makes docs/correctness.md. Nothing in it depends on the machine or on how
//! a run went: a case that does not do what its line says fails.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::stack::target_dir;

/// How many numbers of the daemon have been compared and were exact.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// What has confirmed the case that is being run. Cases run one after the other.
static CONFIRMED: Mutex<Vec<&str>> = Mutex::new(Vec::new());

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
    /// Said once of all cases of its kind, whose first one has it.
    OfItsKind(&'static str),
}

/// So many numbers were as expected.
pub fn exact(numbers: usize) {
    NUMBERS.fetch_add(numbers as u64, Ordering::Relaxed);
}

/// The case that is being run has been confirmed by this too.
pub fn confirmed(by: &'static str) {
    CONFIRMED.lock().unwrap_or_else(PoisonError::into_inner).push(by);
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
    let confirmed = std::mem::take(&mut *CONFIRMED.lock().unwrap_or_else(PoisonError::into_inner));
    let expected = match also {
        Also::Confirmed(TSHARK) if NO_TSHARK.load(Ordering::Relaxed) => return Ok(()),
        Also::Confirmed(by) => vec![by],
        Also::Nothing | Also::OfItsKind(_) => Vec::new(),
    };
    ensure!(confirmed == expected, "to be confirmed by {expected:?}, but was by {confirmed:?}");
    Ok(())
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

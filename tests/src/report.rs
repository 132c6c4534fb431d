//! What a run has checked, case by case: one line of JSON each in `target/cases.jsonl`, from
//! which `cargo xtask` makes docs/correctness.md. Nothing in it depends on the machine.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::stack::target_dir;

/// How many numbers of the daemon have been compared and were exact.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// What else the case that is being run has to say. Cases run one after the other.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Kept for the end of the run.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// So many numbers were as expected.
pub fn exact(numbers: usize) {
    NUMBERS.fetch_add(numbers as u64, Ordering::Relaxed);
}

/// Of the case that is being run: what was compared beside the peers' truth.
pub fn note(text: &str) {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
}

/// For whoever runs the tests; not in the document, for it is another each time.
pub fn say(text: &str) {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
}

/// All cases have been run: says what is to be said, which between the cases' lines would cut them.
#[expect(clippy::print_stdout, reason = "measurements are to be seen")]
pub fn end() {
    for text in SAID.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        println!("{text}");
    }
    println!("{} numbers of the daemon were compared", NUMBERS.load(Ordering::Relaxed));
}

/// A whole run begins.
pub fn begin() -> Result<()> {
    std::fs::write(path()?, "").context("begin the report")
}

/// A case has been run.
pub fn end_case(name: &str, passed: bool) -> Result<()> {
    let notes = std::mem::take(&mut *NOTES.lock().unwrap_or_else(PoisonError::into_inner));
    let line = json!({"case": name, "passed": passed, "notes": notes});
    let mut file = OpenOptions::new().create(true).append(true).open(path()?)?;
    writeln!(file, "{line}").context("write the report")
}

fn path() -> Result<PathBuf> {
    Ok(target_dir()?.join("cases.jsonl"))
}

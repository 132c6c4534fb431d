//! Real gRPC stacks, the real daemon, the real kernel: one line of output a case.
//!
//! Needs root and a kernel that allows the daemon's programs; `cargo xtask test` builds what is
//! needed and runs it. With `--list` it prepares the peers and runs nothing, for which it needs no
//! root: whoever runs it as root next finds them prepared, and no file of root's is left in the
//! target directory.
//!
//! - [`case`]: what a case is;
//! - [`registry`]: all of them, in order;
//! - [`plans`]: what clients of real stacks are to do;
//! - [`comparison`]: a plan carried out, and every number of both ends compared;
//! - [`cases`]: what they do, a file for each subject.
//!
//! The `support` library says how it works and how a stack is added.
//!
//! # Adding a case
//!
//! A case is a line in [`registry`] and a function of a few lines in [`cases`]; one of raw peers, which say
//! frame by frame what is sent, is a line in the table of its kind (`cases/frames.rs`, say). A kind of call that
//! all pairs of stacks are to make is a line in one of the [`plans`].
//!
//! # Order
//!
//! The cases run one after the other, as processors are few, and every daemon sees the system calls
//! of every case; but for those of pairs of stacks and of one plan, which wait most of the time, and are
//! told apart by their processes.

#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "a method of a `Talk` of some lifetime is not one of every lifetime"
)]

mod case;
mod cases;
mod comparison;
mod plans;
mod registry;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use libtest_mimic::Arguments;
use support::report;
use support::stack;

use case::Case;

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    let root = rustix::process::geteuid().is_root();
    ensure!(arguments.list || root, "the end-to-end tests need root");
    let mut cases = registry::cases(stack::prepare()?.leak())?;
    report::list(cases.iter().map(|case| (case.name.as_str(), case.also)))?;
    let whole = !arguments.list && is_of_all(&arguments);
    let ignored = cases.iter().filter(|case| case.ignored).map(|case| case.name.as_str());
    report::begin(whole, ignored)?;
    // Of several filters, with `|` between them, one must fit.
    if let Some(filters) = arguments.filter.take_if(|filter| filter.contains('|')) {
        cases.retain(|case| filters.split('|').any(|filter| case.name.contains(filter)));
    }
    let together = arguments.test_threads.unwrap_or(TOGETHER);
    let mut failed = false;
    for cases in batches(cases) {
        let of_pairs = cases.first().is_some_and(Case::is_of_pair);
        arguments.test_threads = Some(if of_pairs { together } else { 1 });
        let trials = cases.into_iter().map(Case::trial).collect();
        failed |= libtest_mimic::run(&arguments, trials).has_failed();
    }
    if !arguments.list {
        report::end();
    }
    if whole {
        report::complete()?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Those of pairs of stacks plan by plan: daemons see the calls of all cases that run at the same time,
/// and what messages show of a method's kind holds for all its processes. Then all others.
fn batches(cases: Vec<Case>) -> Vec<Vec<Case>> {
    let (pairs, others): (Vec<_>, Vec<_>) = cases.into_iter().partition(Case::is_of_pair);
    let mut batches: Vec<Vec<Case>> = Vec::new();
    for case in pairs {
        match batches.last_mut() {
            Some(batch) if batch.first().is_some_and(|first| first.plan() == case.plan()) => {
                batch.push(case);
            }
            _ => batches.push(vec![case]),
        }
    }
    batches.push(others);
    batches
}

/// How many cases of pairs are run at once, unless `--test-threads` says another number.
const TOGETHER: usize = 3;

/// Whether no case is left out that is possible.
fn is_of_all(arguments: &Arguments) -> bool {
    let Arguments { filter, skip, ignored, include_ignored, exact, .. } = arguments;
    filter.is_none() && skip.is_empty() && !ignored && !include_ignored && !exact
}

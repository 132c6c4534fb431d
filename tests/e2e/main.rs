//! The end-to-end tests: real gRPC stacks, the real daemon, the real kernel. One line of output per case.
//!
//! It needs root and a kernel that allows the daemon's programs; `cargo xtask test` builds what is
//! needed and runs it. With `--list` it prepares the peers and runs nothing, without root: a later run as root finds
//! them prepared, and leaves no file of root's in the target directory.
//!
//! - [`case`]: a case;
//! - [`registry`]: all cases, in order;
//! - [`plans`]: plans for clients of real stacks;
//! - [`comparison`]: runs a plan, and compares every number of both ends;
//! - [`cases`]: the functions of the cases, a file for each subject.
//!
//! The `support` library documents how it works and how to add a stack.
//!
//! # Adding a case
//!
//! A case of real stacks is a line in [`registry`] and a function of a few lines in [`cases`]. A case of raw peers,
//! which send frame by frame, is a line in the table of its kind (`cases/frames.rs`, for example). A kind of call
//! that all pairs of stacks make is a line in one of the [`plans`].
//!
//! # Order
//!
//! The cases run one after the other, because there are few CPUs and every daemon sees the system calls of every
//! case. Only those of a [`case::Cases::together`] run at the same time.

#![expect(clippy::float_cmp, reason = "counts are exact in f64")]
#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "a method of a `Talk` of some lifetime is not one of every lifetime"
)]

mod case;
mod cases;
mod comparison;
mod plans;
mod registry;

use std::iter;
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
    let (grpc, thrift) = (stack::prepare()?.leak(), stack::prepare_thrift()?.leak());
    let collector = if is_selected(&arguments, cases::collected::NAME) {
        stack::prepare_collector()?
    } else {
        None
    };
    let collector = collector.map(|stack| &*Box::leak(Box::new(stack)));
    let mut cases = registry::cases(grpc, thrift, collector)?;
    report::list(cases.iter().map(|case| (case.name.as_str(), case.also)))?;
    let whole = !arguments.list && is_of_all(&arguments);
    if whole {
        let ignored = cases.iter().filter(|case| case.ignored);
        report::begin(ignored.map(|case| case.name.as_str()))?;
    }
    // Not left to the library, which would print a result of each batch, also of those without a selected case.
    cases.retain(|case| is_selected(&arguments, &case.name));
    arguments.filter = None;
    let at_once = arguments.test_threads.unwrap_or(AT_ONCE);
    let mut failed = false;
    let mut cases = cases.into_iter().peekable();
    // Once also without cases, because a result must be printed.
    loop {
        let together = cases.peek().and_then(|case| case.together);
        let batch = iter::from_fn(|| cases.next_if(|case| case.together == together));
        let trials = batch.map(Case::trial).collect();
        arguments.test_threads = Some(if together.is_some() { at_once } else { 1 });
        failed |= libtest_mimic::run(&arguments, trials).has_failed();
        if cases.peek().is_none() {
            break;
        }
    }
    if !arguments.list {
        report::end();
    }
    if whole {
        report::complete()?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The number of cases that run at the same time, without `--test-threads`.
const AT_ONCE: usize = 3;

/// Whether the filter selects a case. It may be several, with `|` between them: one must match.
fn is_selected(Arguments { filter, exact, .. }: &Arguments, name: &str) -> bool {
    let matches = |filter: &str| if *exact { name == filter } else { name.contains(filter) };
    filter.as_ref().is_none_or(|filter| filter.split('|').any(matches))
}

/// Whether all cases that are possible are run.
fn is_of_all(arguments: &Arguments) -> bool {
    let Arguments { filter, skip, ignored, include_ignored, exact, .. } = arguments;
    filter.is_none() && skip.is_empty() && !ignored && !include_ignored && !exact
}

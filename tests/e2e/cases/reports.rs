//! Comparisons for raw peers whose calls the daemon cannot report completely.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use support::expected::Expected;
use support::losses::{self, Ended};
use support::openmetrics::{Metrics, label};
use support::raw::Talk;
use support::raw::frames::Frames;
use support::raw::talk::Role::{self, Client, Server};
use support::truth::code_name;

use super::NOT_FOUND;

/// The label of a method or a code that is not known.
pub(super) const NOT_SEEN: &str = "not_seen";

/// Empties the encoder's dynamic table and grows it again: all later entries are new.
pub(super) fn flush_tables(f: &mut Frames) -> &mut Frames {
    f.resize_table(0).resize_table(4096)
}

/// Waits until the daemon reports for both processes these ended calls, by method and code, and no others, and these
/// numbers of calls that started and that are open.
pub(super) fn reports_calls(
    talk: &mut Talk<'_>,
    ended: &[(&str, &str, u32)],
    started: u32,
    open: u32,
) -> Result<()> {
    reports_calls_of(talk, Client, ended, started, open)?;
    reports_calls_of(talk, Server, ended, started, open)
}

/// Like [`reports_calls`], for one of the processes.
pub(super) fn reports_calls_of(
    talk: &mut Talk<'_>,
    role: Role,
    ended: &[(&str, &str, u32)],
    started: u32,
    open: u32,
) -> Result<()> {
    if !talk.is_watched() {
        let identity = talk.peer(role)?.identity().clone();
        return talk.daemon.settle(&[Expected::nothing(&identity)]);
    }
    let mut want = BTreeMap::new();
    for (method, code, calls) in ended {
        *want.entry(((*method).to_owned(), (*code).to_owned())).or_insert(0.0) += f64::from(*calls);
    }
    let (side, pid) = (role.side(), talk.pid(role)?);
    talk.daemon.wait_until(|metrics| {
        let seen = ended_calls(metrics, role, &pid);
        if seen != want {
            if let Some(checked) = losses::check_ended_calls(metrics, &want, &seen) {
                return checked;
            }
            bail!("the {side}'s calls are {seen:?}, not {want:?}");
        }
        if losses::skipped_programs(metrics).is_some() {
            return Ok(());
        }
        for (family, count) in [("started_total", started), ("in_flight", open)] {
            metrics.expect_sum(&format!("grpc_{side}_{family}"), &[("pid", &pid)], count)?;
        }
        Ok(())
    })?;
    support::report::exact(want.len() + 2);
    Ok(())
}

/// The number of ended calls of a process, by method and code, without those that are 0: methods have a zero for each
/// code of their process.
pub(super) fn ended_calls(metrics: &Metrics, role: Role, pid: &str) -> Ended {
    let mut handled = BTreeMap::new();
    let name = format!("grpc_{}_handled_total", role.side());
    for (labels, value) in metrics.series_with(&name, &[("pid", pid)]) {
        if value == 0.0 {
            continue;
        }
        let [method, code] =
            ["grpc_method", "grpc_code"].map(|name| label(labels, name).to_owned());
        *handled.entry((method, code)).or_insert(0.0) += value;
    }
    handled
}

/// The label of `NotFound`.
pub(super) fn not_found_label() -> &'static str {
    code_name(NOT_FOUND)
}

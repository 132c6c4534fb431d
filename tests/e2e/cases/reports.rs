//! What the daemon tells of two raw peers where it cannot tell all.

use std::collections::BTreeMap;

use anyhow::Result;
use support::expected::Expected;
use support::losses::{self, Ended};
use support::openmetrics::Metrics;
use support::raw::Talk;
use support::raw::frames::Frames;
use support::raw::talk::Role::{self, Client, Server};
use support::truth::code_name;

use super::NOT_FOUND;

/// The word for what was not seen.
pub(super) const NOT_SEEN: &str = "not_seen";

/// Both encoders empty their tables, and fill them anew.
pub(super) fn flush_tables(f: &mut Frames) -> &mut Frames {
    f.resize_table(0).resize_table(4096)
}

/// The daemon says of both processes that these calls ended, by method and code, and no others; and
/// that so many of them were seen to begin, and are open.
pub(super) fn reports_calls(
    talk: &mut Talk<'_>,
    ended: &[(&str, &str, u32)],
    started: u32,
    open: u32,
) -> Result<()> {
    reports_calls_of(talk, Client, ended, started, open)?;
    reports_calls_of(talk, Server, ended, started, open)
}

/// Likewise, of one of them.
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
    let (name, pid) = (side_of(role), talk.pid(role)?);
    talk.daemon.wait_until(|metrics| {
        let seen = ended_calls(metrics, role, &pid);
        if seen != want {
            if let Some(true_though) = losses::check_ended_calls(metrics, &want, &seen) {
                return true_though;
            }
            return Err(format!("the {name}'s calls are {seen:?}, not {want:?}"));
        }
        if losses::skipped_programs(metrics).is_some() {
            return Ok(());
        }
        for (family, count) in [("started_total", started), ("in_flight", open)] {
            let seen = metrics.sum(&format!("grpc_{name}_{family}"), &[("pid", &pid)]);
            if seen.total_cmp(&f64::from(count)).is_ne() {
                return Err(format!("grpc_{name}_{family} is {seen}, not {count}"));
            }
        }
        Ok(())
    })?;
    support::report::exact(want.len() + 2);
    Ok(())
}

/// Ended calls of a process by method and code.
pub(super) fn ended_calls(metrics: &Metrics, role: Role, pid: &str) -> Ended {
    let mut handled = BTreeMap::new();
    for (labels, value) in metrics.series(&format!("grpc_{}_handled_total", side_of(role))) {
        if labels.get("pid").is_some_and(|of| of == pid) {
            let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
            *handled.entry((label("grpc_method"), label("grpc_code"))).or_insert(0.0) += value;
        }
    }
    handled
}

/// As in the names of metrics.
pub(super) fn side_of(role: Role) -> &'static str {
    match role {
        Client => "client",
        Server => "server",
    }
}

/// As in the label.
pub(super) fn not_found_label() -> &'static str {
    code_name(NOT_FOUND)
}

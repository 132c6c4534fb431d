//! The comparison on kernels that skip BPF programs.
//!
//! Which calls are missing there is by chance, so the numbers cannot be exact. But each call that is reported must
//! have happened, with its method and code, and the missing ones must fit into the gaps that the daemon reports.
//! Sockets that count no bytes must not be watched, and the daemon must say so.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::sync::LazyLock;

use anyhow::{Result, bail};

use crate::openmetrics::Metrics;

/// The environment variable by which `cargo xtask vm` says that this kernel may skip programs.
const LOSSY: &str = "OBSERVER_TEST_LOSSY";

/// The labels of a method and a code that are not known.
const UNKNOWN_METHOD: &str = "/not_seen/not_seen";
const UNKNOWN_CODE: &str = "not_seen";

/// The least gap that hides the end of a call: a frame's header, and a byte of its payload.
const LEAST_GAP: f64 = 10.0;

/// Whether the kernel may skip BPF programs.
pub fn kernel_may_skip_programs() -> bool {
    static MAY_BE: LazyLock<bool> = LazyLock::new(|| env::var_os(LOSSY).is_some());
    *MAY_BE
}

/// Whether `seen` is `expected`, or less if programs were skipped.
pub fn is_as_expected(metrics: &Metrics, seen: f64, expected: f64) -> bool {
    seen == expected || skipped_programs(metrics).is_some() && seen < expected
}

/// How many times the kernel has skipped programs, if that is expected here and has happened.
pub fn skipped_programs(metrics: &Metrics) -> Option<f64> {
    let skipped = metrics.sum("observer_program_misses_total", &[]);
    (kernel_may_skip_programs() && skipped > 0.0).then_some(skipped)
}

/// The number of ended calls by method and code.
pub type Ended = BTreeMap<(String, String), f64>;

/// If the kernel has skipped programs: an error unless all `reported` calls have `ended`, and the missing ones fit
/// into the gaps.
pub fn check_ended_calls(metrics: &Metrics, ended: &Ended, reported: &Ended) -> Option<Result<()>> {
    const NAME: &str = "grpc_server_handled_total";
    fn numbers(of: &[(String, String, f64)]) -> Vec<Number<'_>> {
        of.iter().map(|(path, code, calls)| (NAME, &**path, Some(&**code), *calls)).collect()
    }
    skipped_programs(metrics)?;
    let paths = |of: &Ended| -> Vec<(String, String, f64)> {
        let path =
            |method: &str| if method == UNKNOWN_CODE { UNKNOWN_METHOD } else { method }.to_owned();
        of.iter().map(|((method, code), &calls)| (path(method), code.clone(), calls)).collect()
    };
    let (ended, reported) = (paths(ended), paths(reported));
    let table = untrue(&numbers(&ended), &numbers(&reported), gap_bytes(metrics));
    Some(table.map_or(Ok(()), |table| bail!(table)))
}

/// The bytes of all gaps; infinite if the daemon joined a connection late, as it does not know how many came before.
pub(crate) fn gap_bytes(metrics: &Metrics) -> f64 {
    let is_late = |name, label| metrics.sum(name, &[(label, "joined_late")]) > 0.0;
    let any =
        is_late("observer_connections", "state") || is_late("observer_calls_total", "connection");
    if any { f64::INFINITY } else { metrics.sum("observer_gap_bytes_total", &[]) }
}

/// A number of calls, messages or bytes: metric name, method path, code if it is by code, and the number.
pub(crate) type Number<'a> = (&'a str, &'a str, Option<&'a str>, f64);

/// A table of numbers that are too high, or too low for these gaps.
pub(crate) fn untrue(
    expected: &[Number<'_>],
    seen: &[Number<'_>],
    gap_bytes: f64,
) -> Option<String> {
    let mut table = String::new();
    let mut claims = BTreeSet::new();
    for &(name, path, code, _) in seen {
        let path = Some(path).filter(|path| *path != UNKNOWN_METHOD);
        let code = code.filter(|code| *code != UNKNOWN_CODE);
        // The number by method and code, by method, by code, and in total.
        claims.extend([(name, path, code), (name, path, None), (name, None, code)]);
        claims.insert((name, None, None));
    }
    for (name, path, code) in claims {
        let (seen, happened) = (sum(seen, name, path, code), sum(expected, name, path, code));
        if seen > happened {
            let of = path.unwrap_or("all methods");
            // Writing to a String does not fail.
            let _ = writeln!(
                table,
                "  {name} of {of}, {}: {seen} are reported, {happened} happened",
                code.unwrap_or("all codes")
            );
        }
    }
    for role in ["server", "client"] {
        let name = format!("grpc_{role}_handled_total");
        let [ended, seen] = [expected, seen].map(|numbers| sum(numbers, &name, None, None));
        if ended - seen > gap_bytes / LEAST_GAP {
            let _ = writeln!(
                table,
                "  {name}: {seen} of {ended} are reported, with gaps of only {gap_bytes} bytes"
            );
        }
    }
    (!table.is_empty()).then_some(table)
}

fn sum(numbers: &[Number<'_>], name: &str, path: Option<&str>, code: Option<&str>) -> f64 {
    let is_wanted = |(its_name, its_path, its_code, _): &&Number<'_>| {
        *its_name == name
            && path.is_none_or(|path| path == *its_path)
            && (code.is_none() || code == *its_code)
    };
    // Not `sum`: that of nothing is -0.
    numbers.iter().filter(is_wanted).fold(0.0, |sum, (.., number)| sum + number)
}

#[cfg(test)]
mod tests {
    use super::{Number, untrue};

    const NAME: &str = "grpc_client_handled_total";
    const HAPPENED: [Number<'static>; 3] = [
        (NAME, "/s/A", Some("OK"), 10.0),
        (NAME, "/s/A", Some("NotFound"), 2.0),
        (NAME, "/s/B", Some("OK"), 5.0),
    ];

    fn is_true(seen: &[(&str, &str, f64)], gap_bytes: f64) -> bool {
        let seen: Vec<Number<'_>> =
            seen.iter().map(|&(path, code, number)| (NAME, path, Some(code), number)).collect();
        untrue(&HAPPENED, &seen, gap_bytes).is_none()
    }

    #[test]
    fn unknown_methods_and_codes_may_be_not_seen() {
        let all = [("/s/A", "OK", 10.0), ("/s/A", "NotFound", 2.0), ("/s/B", "OK", 5.0)];
        assert!(is_true(&all, 0.0));
        assert!(is_true(
            &[
                ("/s/A", "OK", 8.0),
                ("/s/A", "not_seen", 3.0),
                ("/not_seen/not_seen", "NotFound", 1.0),
                ("/not_seen/not_seen", "not_seen", 1.0),
                ("/s/B", "OK", 4.0),
            ],
            0.0
        ));
    }

    #[test]
    fn calls_that_were_not_made_may_not_be_reported() {
        for wrong in [
            &[("/s/A", "OK", 11.0)][..],
            &[("/s/A", "Canceled", 1.0)],
            &[("/s/C", "OK", 1.0)],
            &[("/s/A", "OK", 10.0), ("/s/A", "not_seen", 3.0)],
            &[("/s/A", "NotFound", 2.0), ("/not_seen/not_seen", "NotFound", 1.0)],
            &[("/not_seen/not_seen", "not_seen", 18.0)],
        ] {
            assert!(!is_true(wrong, 1000.0), "{wrong:?}");
        }
    }

    #[test]
    fn missing_calls_must_fit_into_the_gaps() {
        let fifteen = [("/s/A", "OK", 10.0), ("/s/B", "OK", 5.0)];
        assert!(is_true(&fifteen, 20.0));
        assert!(!is_true(&fifteen, 19.0));
    }
}

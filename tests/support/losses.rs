//! What may be said where the kernel skips programs: nothing that is not true.
//!
//! Which calls go by unseen then is by chance, so the numbers cannot be exact. But each that is told
//! must be one that happened, with the method and the code that it had, and what is missing must be in
//! the bytes that the daemon says it has not seen. Of sockets that count no bytes it must say that it does not watch
//! them, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::sync::LazyLock;

use crate::openmetrics::Metrics;

/// The environment variable by which `cargo xtask vm` says that this kernel does.
const LOSSY: &str = "OBSERVER_TEST_LOSSY";

/// What is told of a method or code that was not seen.
const UNKNOWN_METHOD: &str = "/not_seen/not_seen";
const UNKNOWN_CODE: &str = "not_seen";

/// At least so many bytes of a call that is not told to have ended were not seen: a frame's header, and
/// a byte in it.
const LEAST_UNSEEN: f64 = 10.0;

/// Whether the kernel may skip programs.
pub fn kernel_may_skip_programs() -> bool {
    static MAY_BE: LazyLock<bool> = LazyLock::new(|| env::var_os(LOSSY).is_some());
    *MAY_BE
}

/// Whether a number is as it must be, or, where programs were skipped, at most.
pub fn is_as_expected(metrics: &Metrics, seen: f64, expected: f64) -> bool {
    seen.total_cmp(&expected).is_eq() || skipped_programs(metrics).is_some() && seen < expected
}

/// Programs that the kernel has skipped, where that may be.
pub fn skipped_programs(metrics: &Metrics) -> Option<f64> {
    let skipped = metrics.sum("observer_program_misses_total", &[]);
    (kernel_may_skip_programs() && skipped > 0.0).then_some(skipped)
}

/// Ended calls by method and code.
pub type Ended = BTreeMap<(String, String), f64>;

/// Where the kernel may skip programs, and has: whether what is told of ended calls is true.
pub fn check_ended_calls(
    metrics: &Metrics,
    ended: &Ended,
    told: &Ended,
) -> Option<Result<(), String>> {
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
    let (ended, told) = (paths(ended), paths(told));
    Some(untrue(&numbers(&ended), &numbers(&told), bytes_not_seen(metrics)).map_or(Ok(()), Err))
}

/// Bytes that the daemon says it has not seen; any number where it joined a connection late, of which it
/// does not say what went by before.
pub(crate) fn bytes_not_seen(metrics: &Metrics) -> f64 {
    let is_late = |name, label| metrics.sum(name, &[(label, "joined_late")]) > 0.0;
    let any =
        is_late("observer_connections", "state") || is_late("observer_calls_total", "connection");
    if any { f64::INFINITY } else { metrics.sum("observer_gap_bytes_total", &[]) }
}

/// A number of calls, messages or bytes: its name; the method; the code, if it is by code.
pub(crate) type Number<'a> = (&'a str, &'a str, Option<&'a str>, f64);

/// A table of what is told and did not happen, or is missing and was not said to be unseen.
pub(crate) fn untrue(
    expected: &[Number<'_>],
    seen: &[Number<'_>],
    bytes_unseen: f64,
) -> Option<String> {
    let mut table = String::new();
    let mut claims = BTreeSet::new();
    for &(name, path, code, _) in seen {
        let path = Some(path).filter(|path| *path != UNKNOWN_METHOD);
        let code = code.filter(|code| *code != UNKNOWN_CODE);
        // That there were so many of this method with this code; of the method; with the code; at all.
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
                "  {name} of {of}, {}: {seen} are told, {happened} happened",
                code.unwrap_or("all codes")
            );
        }
    }
    for role in ["server", "client"] {
        let name = format!("grpc_{role}_handled_total");
        let [ended, seen] = [expected, seen].map(|numbers| sum(numbers, &name, None, None));
        if ended - seen > bytes_unseen / LEAST_UNSEEN {
            let _ = writeln!(
                table,
                "  {name}: {seen} of {ended} are told, and only {bytes_unseen} bytes were not seen"
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
    // Not `sum`, of which the one of nothing is -0.
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

    fn is_true(seen: &[(&str, &str, f64)], bytes_unseen: f64) -> bool {
        let seen: Vec<Number<'_>> =
            seen.iter().map(|&(path, code, number)| (NAME, path, Some(code), number)).collect();
        untrue(&HAPPENED, &seen, bytes_unseen).is_none()
    }

    #[test]
    fn what_was_not_seen_may_be_told_as_that() {
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
    fn what_did_not_happen_may_not() {
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
    fn what_is_missing_is_in_the_bytes_that_were_not_seen() {
        let fifteen = [("/s/A", "OK", 10.0), ("/s/B", "OK", 5.0)];
        assert!(is_true(&fifteen, 20.0));
        assert!(!is_true(&fifteen, 19.0));
    }
}

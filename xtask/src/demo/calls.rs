//! The calls that an exposition tells of, and what happened between two expositions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::openmetrics::Sample;

/// Whose calls; in the order in which they are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) service: String,
    pub(super) method: String,
    /// `client` or `server`.
    pub(super) role: &'static str,
    pub(super) process: String,
    pub(super) pid: String,
}

/// All calls up to some time.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    ended: f64,
    failed: f64,
    in_flight: f64,
    /// Calls at most so long, by upper bound in seconds, ascending.
    buckets: Vec<(f64, f64)>,
}

/// The calls of a while.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) key: Key,
    /// Calls ended a second.
    pub(super) rate: f64,
    /// Of them, the share that did not end with OK.
    pub(super) errors: f64,
    pub(super) in_flight: f64,
    /// Seconds; none if no call ended.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

pub(super) fn calls(samples: &[Sample]) -> BTreeMap<Key, Calls> {
    let mut all: BTreeMap<Key, Calls> = BTreeMap::new();
    for sample in samples {
        let Some((role, what)) = family(&sample.name) else { continue };
        let key = Key {
            service: sample.label("grpc_service").to_owned(),
            method: sample.label("grpc_method").to_owned(),
            role,
            process: sample.label("process").to_owned(),
            pid: sample.label("pid").to_owned(),
        };
        let calls = all.entry(key).or_default();
        match what {
            "handled_total" => {
                calls.ended += sample.value;
                // A code that was not seen is not an error that was.
                if !["OK", "not_seen"].contains(&sample.label("grpc_code")) {
                    calls.failed += sample.value;
                }
            }
            "in_flight" => calls.in_flight += sample.value,
            "handling_seconds_bucket" => calls.add_bucket(sample.label("le"), sample.value),
            _ => {}
        }
    }
    all
}

/// `("server", "handled_total")` of `grpc_server_handled_total`.
fn family(name: &str) -> Option<(&'static str, &str)> {
    let name = name.strip_prefix("grpc_")?;
    ["client", "server"].into_iter().find_map(|role| {
        let what = name.strip_prefix(role)?.strip_prefix('_')?;
        ["handled_total", "in_flight", "handling_seconds_bucket"]
            .contains(&what)
            .then_some((role, what))
    })
}

impl Calls {
    fn add_bucket(&mut self, le: &str, count: f64) {
        let Ok(le) = le.parse::<f64>() else { return };
        match self.buckets.binary_search_by(|(bound, _)| bound.total_cmp(&le)) {
            Ok(at) => {
                if let Some((_, sum)) = self.buckets.get_mut(at) {
                    *sum += count;
                }
            }
            Err(at) => self.buckets.insert(at, (le, count)),
        }
    }

    fn since(&self, before: &Self) -> Self {
        let buckets = self.buckets.iter().map(|&(le, count)| {
            let then = before.buckets.iter().find(|(bound, _)| bound.total_cmp(&le).is_eq());
            (le, count - then.map_or(0.0, |&(_, count)| count))
        });
        Self {
            ended: self.ended - before.ended,
            failed: self.failed - before.failed,
            in_flight: self.in_flight,
            buckets: buckets.collect(),
        }
    }

    /// As Prometheus' `histogram_quantile`: linear within the bucket that holds the rank; what is
    /// above all bounds is at the highest.
    fn quantile(&self, quantile: f64) -> Option<f64> {
        let &(_, all) = self.buckets.last()?;
        if all <= 0.0 {
            return None;
        }
        let rank = quantile * all;
        let (mut lower, mut below) = (0.0, 0.0);
        for &(le, count) in &self.buckets {
            if count >= rank {
                let within = if count > below { (rank - below) / (count - below) } else { 1.0 };
                return Some(if le.is_finite() { lower + (le - lower) * within } else { lower });
            }
            (lower, below) = (le, count);
        }
        Some(lower)
    }
}

/// What happened from `before` to `now`, `passed` later.
pub(super) fn rows(
    before: &BTreeMap<Key, Calls>,
    now: &BTreeMap<Key, Calls>,
    passed: Duration,
) -> Vec<Row> {
    let none = Calls::default();
    now.iter()
        .map(|(key, calls)| {
            let calls = calls.since(before.get(key).unwrap_or(&none));
            Row {
                key: key.clone(),
                rate: calls.ended / passed.as_secs_f64().max(f64::MIN_POSITIVE),
                errors: if calls.ended > 0.0 { calls.failed / calls.ended } else { 0.0 },
                in_flight: calls.in_flight,
                p50: calls.quantile(0.5),
                p99: calls.quantile(0.99),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::openmetrics::parse;

    fn exposition(ok: u32, not_found: u32, buckets: [u32; 3]) -> BTreeMap<Key, Calls> {
        let labels = "pid=\"7\",process=\"shop\",grpc_type=\"unary\",grpc_service=\"a.B\",\
                      grpc_method=\"C\"";
        let [a, b, c] = buckets;
        let text = format!(
            "grpc_server_handled_total{{{labels},grpc_code=\"OK\"}} {ok}\n\
             grpc_server_handled_total{{{labels},grpc_code=\"NotFound\"}} {not_found}\n\
             grpc_server_handled_total{{{labels},grpc_code=\"not_seen\"}} 1\n\
             grpc_server_handling_seconds_bucket{{{labels},le=\"0.1\"}} {a}\n\
             grpc_server_handling_seconds_bucket{{{labels},le=\"0.2\"}} {b}\n\
             grpc_server_handling_seconds_bucket{{{labels},le=\"+Inf\"}} {c}\n\
             grpc_server_in_flight{{pid=\"7\",process=\"shop\",grpc_service=\"a.B\",\
             grpc_method=\"C\"}} 2\n\
             grpc_server_msg_sent_total{{{labels}}} 99\n# EOF\n"
        );
        calls(&parse(&text).unwrap())
    }

    #[test]
    fn a_row_tells_of_the_time_between_two_expositions_only() {
        let before = exposition(100, 0, [100, 100, 101]);
        let now = exposition(106, 2, [104, 108, 109]);
        let rows = rows(&before, &now, Duration::from_secs(4));
        assert_eq!(rows.len(), 1, "{rows:?}");
        let row = &rows[0];
        assert_eq!((row.key.process.as_str(), row.key.role), ("shop", "server"));
        assert_eq!((row.rate, row.errors, row.in_flight), (2.0, 0.25, 2.0));
        // Four of eight are at most 0.1 s.
        assert_eq!(row.p50, Some(0.1));
        assert!(row.p99.is_some_and(|p99| (p99 - 0.198).abs() < 1e-9), "{:?}", row.p99);
    }

    #[test]
    fn quantiles_above_all_bounds_are_the_highest_bound() {
        let now = exposition(10, 0, [0, 0, 10]);
        let rows = rows(&BTreeMap::new(), &now, Duration::from_secs(1));
        assert_eq!(rows[0].p50, Some(0.2));
    }

    #[test]
    fn without_calls_there_is_no_latency() {
        let now = exposition(10, 0, [1, 2, 10]);
        let rows = rows(&now, &now, Duration::from_secs(1));
        assert_eq!((rows[0].rate, rows[0].p50, rows[0].p99), (0.0, None, None));
    }
}

//! The numbers that `/metrics` must have for a process, from the peers' records.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::losses;
use crate::openmetrics::{Labels, Metrics, label};
use crate::peer::Identity;
use crate::truth::{Sums, Truth, code_name};

/// The expected numbers of one process, as a client and as a server. Any other series must be 0 or absent.
#[derive(Clone, Debug)]
pub struct Expected {
    who: Identity,
    /// Other processes that have a part of the numbers: those that a server works with.
    others: BTreeSet<u32>,
    numbers: BTreeMap<String, u64>,
    /// Numbers that no peer knows, without their `grpc_type`.
    unsure: BTreeSet<String>,
}

/// The families that are compared, after `grpc_{server,client}_`, and whether they have the label `grpc_type`.
/// A peer's record has no `in_flight`, so it must be 0.
const SUFFIXES: [(&str, bool); 9] = [
    ("started_total", true),
    ("handled_total", true),
    ("msg_received_total", true),
    ("msg_sent_total", true),
    ("handling_seconds_count", true),
    ("first_message_seconds_count", false),
    ("msg_received_bytes_total", false),
    ("msg_sent_bytes_total", false),
    ("in_flight", false),
];

/// The code of a call that was given up close to its deadline: undecided.
const EITHER: &str = "CanceledOrDeadlineExceeded";

/// Distributes undecided calls in `seen`: on a busy machine the daemon may report a call that was canceled or has
/// expired as undecided. As many as are missing count as `Canceled` or `DeadlineExceeded`. `with_code` returns an
/// undecided key with another code.
pub fn share_out<K: Ord + Clone>(
    seen: &mut BTreeMap<K, f64>,
    expected: impl Fn(&K) -> f64,
    with_code: impl Fn(&K, &str) -> Option<K>,
) {
    for key in seen.keys().cloned().collect::<Vec<_>>() {
        for code in ["Canceled", "DeadlineExceeded"] {
            let Some(one) = with_code(&key, code) else { continue };
            let decided = seen.get(&one).copied().unwrap_or(0.0);
            let either = seen.get(&key).copied().unwrap_or(0.0);
            let taken = either.min((expected(&one) - decided).max(0.0));
            seen.insert(one, decided + taken);
            seen.insert(key.clone(), either - taken);
        }
    }
}

impl Expected {
    /// The numbers of a client, from its own record.
    pub fn of_client(client: &Identity, truth: &Truth) -> Self {
        let unsure = unsure("grpc_client_msg_sent", truth);
        Self::of(client, numbers("client", truth), unsure)
    }

    /// The numbers of a server, from its clients' records: only they know how calls that they cut have ended.
    /// [`crate::truth::agree`] compares them with the server's own record.
    pub fn of_server(server: &Identity, clients: &Truth) -> Self {
        let unsure = unsure("grpc_server_msg_received", clients);
        Self::of(server, numbers("server", &clients.mirrored()), unsure)
    }

    /// The numbers of both ends, from the client's record.
    pub fn of_ends(client: &Identity, server: &Identity, did: &Truth) -> [Self; 2] {
        [Self::of_client(client, did), Self::of_server(server, did)]
    }

    /// No numbers: the process is not watched, or has no calls.
    pub fn nothing(who: &Identity) -> Self {
        Self::of(who, BTreeMap::new(), BTreeSet::new())
    }

    fn of(who: &Identity, numbers: BTreeMap<String, u64>, unsure: BTreeSet<String>) -> Self {
        Self { who: who.clone(), others: BTreeSet::new(), numbers, unsure }
    }

    /// Adds other processes with the same name: the numbers are those of all together.
    #[must_use]
    pub fn with(mut self, others: impl IntoIterator<Item = u32>) -> Self {
        self.others.extend(others);
        self
    }

    /// Adds the numbers of the other side, for a process that is server and client.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.numbers.extend(other.numbers);
        self.unsure.extend(other.unsure);
        self
    }

    /// Adds the numbers that the process has under a later name, `other`.
    #[must_use]
    pub fn before(self, other: Self) -> Self {
        let Self { who, others, numbers, unsure } = self;
        let under = if who.comm == other.who.comm {
            String::new()
        } else {
            format!(" process={:?}", who.comm)
        };
        let numbers = numbers.into_iter().map(|(key, n)| (format!("{key}{under}"), n)).collect();
        other.and(Self { who, others, numbers, unsure })
    }

    /// Replaces `grpc_type` by these types, by method.
    #[must_use]
    pub fn declared(mut self, types: &[(&str, &str)]) -> Self {
        let declared = |key: String| {
            let mut words: Vec<&str> = key.split(' ').collect();
            if let [_, path, grpc_type, ..] = &mut *words {
                let method = path.rsplit('/').next();
                let found = types.iter().find(|(name, _)| Some(*name) == method);
                *grpc_type = found.map_or(grpc_type, |(_, declared)| declared);
            }
            words.join(" ")
        };
        self.numbers = self.numbers.into_iter().map(|(key, n)| (declared(key), n)).collect();
        self
    }

    /// The number of expected numbers.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// A table of the numbers that are not as expected, if there are any.
    pub fn difference(&self, metrics: &Metrics) -> Option<String> {
        let seen = self.seen(metrics);
        let mut all: BTreeSet<_> = self.numbers.keys().chain(seen.keys()).collect();
        all.retain(|key| {
            let without_type = key.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
            !self.unsure.contains(&without_type)
        });
        let total = all.len();
        let different: Vec<_> = all
            .into_iter()
            .map(|key| (key, self.number(key), seen.get(key).copied().unwrap_or(0.0)))
            .filter(|(_, expected, seen)| expected != seen)
            .collect();
        if different.is_empty() {
            return None;
        }
        let mut table = format!("{}: {} of {total} numbers differ\n", self.who, different.len());
        let width = different.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
        // Writing to a String does not fail.
        let _ = writeln!(table, "  {:width$} {:>10} {:>10}", "", "expected", "seen");
        for (key, expected, seen) in different {
            let _ = writeln!(table, "  {key:width$} {expected:>10} {seen:>10}");
        }
        Some(table)
    }

    /// A table of the numbers that are not true ([`losses`]), if there are any, on a kernel that skips programs.
    pub(crate) fn untruth(&self, metrics: &Metrics) -> Option<String> {
        let seen = self.seen(metrics);
        let expected = self.to_be_true(self.numbers.keys().map(|key| (key, self.number(key))));
        let seen = self.to_be_true(seen.iter().map(|(key, &number)| (key, number)));
        let table = losses::untrue(&expected, &seen, losses::gap_bytes(metrics))?;
        Some(format!("{}: not true, though programs were skipped\n{table}", self.who))
    }

    fn to_be_true<'a>(
        &self,
        numbers: impl Iterator<Item = (&'a String, f64)>,
    ) -> Vec<losses::Number<'a>> {
        let number = |(key, number): (&'a String, f64)| {
            let mut words = key.split(' ');
            let (name, path) = (words.next()?, words.next()?);
            let code = words.nth(1).filter(|_| name.ends_with("_handled_total"));
            let is_unsure = |unsure: &String| unsure.split(' ').next() == Some(name);
            // A call that ends in a gap is in flight until its connection ends.
            let counts = !name.ends_with("_in_flight") && !self.unsure.iter().any(is_unsure);
            counts.then_some((name, path, code, number))
        };
        numbers.filter_map(number).collect()
    }

    // Counts of calls and bytes are far below 2^53.
    fn number(&self, key: &str) -> f64 {
        self.numbers.get(key).map_or(0.0, |number| *number as f64)
    }

    fn seen(&self, metrics: &Metrics) -> BTreeMap<String, f64> {
        let pids = self.others.iter().copied().chain([self.who.pid]);
        let pids: BTreeSet<String> = pids.map(|pid| pid.to_string()).collect();
        let mut seen = BTreeMap::new();
        for role in ["server", "client"] {
            for (suffix, _) in SUFFIXES {
                let name = format!("grpc_{role}_{suffix}");
                for (labels, value) in metrics.series(&name) {
                    if labels.get("pid").is_some_and(|pid| pids.contains(pid)) {
                        *seen.entry(self.key(&name, labels)).or_insert(0.0) += value;
                    }
                }
            }
        }
        share_out(
            &mut seen,
            |key| self.number(key),
            |key, code| key.contains(EITHER).then(|| key.replace(EITHER, code)),
        );
        seen
    }

    fn key(&self, name: &str, labels: &Labels) -> String {
        let [service, method] = ["grpc_service", "grpc_method"].map(|name| label(labels, name));
        let mut key = format!("{name} /{service}/{method}");
        for name in ["grpc_type", "grpc_code"] {
            if let Some(value) = labels.get(name) {
                let _ = write!(key, " {value}");
            }
        }
        let process = label(labels, "process");
        if process != self.who.comm {
            let _ = write!(key, " process={process:?}");
        }
        key
    }
}

fn unsure(requests: &str, truth: &Truth) -> BTreeSet<String> {
    let rows = truth.calls.iter().filter(|row| row.requests_unsure);
    rows.flat_map(|row| {
        ["total", "bytes_total"].map(|suffix| format!("{requests}_{suffix} {}", row.method))
    })
    .collect()
}

fn numbers(role: &str, truth: &Truth) -> BTreeMap<String, u64> {
    let mut numbers = BTreeMap::new();
    let types = types(role, truth);
    for row in &truth.calls {
        let Sums { calls, sent, received, sent_bytes, received_bytes, .. } = row.sums;
        let answered = if role == "client" { row.sums.any_received } else { row.sums.any_sent };
        for (suffix, has_type) in SUFFIXES {
            let number = match suffix {
                "started_total" | "handled_total" | "handling_seconds_count" => calls,
                "first_message_seconds_count" => answered,
                "msg_received_total" => received,
                "msg_sent_total" => sent,
                "msg_received_bytes_total" => received_bytes,
                "msg_sent_bytes_total" => sent_bytes,
                _ => 0,
            };
            let mut key = format!("grpc_{role}_{suffix} {}", row.method);
            if has_type {
                key.push(' ');
                key.push_str(types.get(row.method.as_str()).copied().unwrap_or_default());
            }
            if suffix == "handled_total" {
                key.push(' ');
                key.push_str(code_name(row.code));
            }
            *numbers.entry(key).or_insert(0) += number;
        }
    }
    numbers
}

/// The types by method. They are not on the wire: one is a stream if at least a fifth of the calls show that by their
/// messages.
fn types<'a>(role: &str, truth: &'a Truth) -> BTreeMap<&'a str, &'static str> {
    // Calls that show a stream, and calls that show none, of requests and of responses.
    let mut shown = BTreeMap::<&str, [(u64, u64); 2]>::new();
    for row in &truth.calls {
        let Sums { most_sent: sent, most_received: received, calls, .. } = row.sums;
        let most = if role == "client" { [sent, received] } else { [received, sent] };
        let shown = shown.entry(&row.method).or_default();
        for (most, (streams, others)) in most.into_iter().zip(shown) {
            match most {
                0 => {}
                1 => *others += calls,
                _ => *streams += calls,
            }
        }
    }
    let is_stream = |(streams, others): (u64, u64)| streams > 0 && 5 * streams >= streams + others;
    let name = |streams| match streams {
        (false, false) => "unary",
        (true, false) => "client_stream",
        (false, true) => "server_stream",
        (true, true) => "bidi_stream",
    };
    let type_of = |shown: [(u64, u64); 2]| name(shown.map(is_stream).into());
    shown.into_iter().map(|(method, shown)| (method, type_of(shown))).collect()
}

#[cfg(test)]
mod tests {
    use super::Expected;
    use crate::openmetrics::Metrics;
    use crate::peer::Identity;
    use crate::truth::{Row, Sums, Truth};

    const EXPOSITION: &str = r#"# TYPE grpc_client_started counter
grpc_client_started_total{grpc_type="server_stream",grpc_service="s",grpc_method="M",pid="7",process="p"} 2
grpc_client_started_total{grpc_type="unary",grpc_service="s",grpc_method="M",pid="8",process="p"} 9
# TYPE grpc_client_handled counter
grpc_client_handled_total{grpc_type="server_stream",grpc_service="s",grpc_method="M",grpc_code="NotFound",pid="7",process="p"} 2
# TYPE grpc_client_handling_seconds histogram
grpc_client_handling_seconds_sum{grpc_type="server_stream",grpc_service="s",grpc_method="M",pid="7",process="p"} 1.5
grpc_client_handling_seconds_count{grpc_type="server_stream",grpc_service="s",grpc_method="M",pid="7",process="p"} 2
grpc_client_handling_seconds_bucket{le="+Inf",grpc_type="server_stream",grpc_service="s",grpc_method="M",pid="7",process="p"} 2
# TYPE grpc_client_first_message_seconds histogram
grpc_client_first_message_seconds_sum{grpc_service="s",grpc_method="M",pid="7",process="p"} 1.5
grpc_client_first_message_seconds_count{grpc_service="s",grpc_method="M",pid="7",process="p"} 2
grpc_client_first_message_seconds_bucket{le="+Inf",grpc_service="s",grpc_method="M",pid="7",process="p"} 2
# TYPE grpc_client_msg_received counter
grpc_client_msg_received_total{grpc_type="server_stream",grpc_service="s",grpc_method="M",pid="7",process="p"} 6
# TYPE grpc_client_msg_sent counter
grpc_client_msg_sent_total{grpc_type="server_stream",grpc_service="s",grpc_method="M",pid="7",process="p"} 2
# TYPE grpc_client_msg_received_bytes counter
grpc_client_msg_received_bytes_total{grpc_service="s",grpc_method="M",pid="7",process="p"} 60
# TYPE grpc_client_msg_sent_bytes counter
grpc_client_msg_sent_bytes_total{grpc_service="s",grpc_method="M",pid="7",process="p"} 20
# TYPE grpc_client_in_flight gauge
grpc_client_in_flight{grpc_service="s",grpc_method="M",pid="7",process="p"} 0
# EOF
"#;

    fn difference(requests_unsure: bool, exposition: &str) -> Option<String> {
        of(requests_unsure).difference(&Metrics::parse(exposition).unwrap())
    }

    fn of(requests_unsure: bool) -> Expected {
        let sums = Sums {
            calls: 2,
            sent: 2,
            received: 6,
            sent_bytes: 20,
            received_bytes: 60,
            most_sent: 1,
            most_received: 4,
            any_sent: 2,
            any_received: 2,
        };
        let row =
            Row { method: "/s/M".into(), code: 5, requests_unsure, handling_us: Vec::new(), sums };
        let client = Identity { name: "x client".into(), pid: 7, comm: "p".into() };
        Expected::of_client(&client, &Truth { pid: 7, calls: vec![row] })
    }

    #[test]
    fn the_same_numbers_do_not_differ() {
        assert_eq!(difference(false, EXPOSITION), None);
    }

    #[test]
    fn declared_types_replace_those_of_the_messages() {
        let expected = |types: &[(&str, &str)]| of(false).declared(types);
        let as_bidi = EXPOSITION.replace("server_stream", "bidi_stream");
        let bidi = Metrics::parse(&as_bidi).unwrap();
        assert_eq!(expected(&[("M", "bidi_stream")]).difference(&bidi), None);
        assert!(expected(&[("N", "bidi_stream")]).difference(&bidi).is_some());
    }

    #[test]
    fn requests_that_the_peer_is_not_sure_of_are_not_compared() {
        let fewer = |number| {
            EXPOSITION.replacen(&format!("process=\"p\"}} {number}\n"), "process=\"p\"} 1\n", 1)
        };
        assert!(difference(false, &fewer(20)).is_some());
        assert_eq!(difference(true, &fewer(20)), None);
        assert!(difference(true, &fewer(60)).is_some(), "responses are");
    }

    #[test]
    fn every_number_and_label_counts() {
        let wrong = [
            ("started_total{grpc_type=\"server_stream\"", "started_total{grpc_type=\"unary\""),
            ("process=\"p\"} 2", "process=\"q\"} 2"),
            ("grpc_code=\"NotFound\"", "grpc_code=\"OK\""),
            ("pid=\"7\",process=\"p\"} 6", "pid=\"7\",process=\"p\"} 5"),
            ("pid=\"7\",process=\"p\"} 60", "pid=\"7\",process=\"p\"} 61"),
            ("pid=\"7\",process=\"p\"} 20", "pid=\"7\",process=\"p\"} 0"),
            ("pid=\"7\",process=\"p\"} 0", "pid=\"7\",process=\"p\"} 1"),
            ("pid=\"8\"", "pid=\"7\""),
            (r#"grpc_method="M",grpc_code"#, r#"grpc_method="N",grpc_code"#),
        ];
        for (good, bad) in wrong {
            assert!(EXPOSITION.contains(good), "{good}");
            let difference = difference(false, &EXPOSITION.replacen(good, bad, 1));
            assert!(difference.is_some(), "{bad}");
        }
    }
}

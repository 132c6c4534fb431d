//! The comparison of metrics libraries with the daemon in their schema, for the same calls: families, labels, HELP
//! texts and bucket bounds must be the same, and numbers too where the library is right. The lists below say where it
//! is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::expected::share_out;
use support::openmetrics::{Labels, Metrics};
use support::peer::{Client, Identity, Listen, Server};
use support::prometheus;
use support::report;
use support::stack::Stack;
use support::truth::{Row, Truth, agree, code_name};
use tempfile::TempDir;

/// A metrics library in a stack's client and server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Library {
    /// The name of the schema, and of the library for the peers.
    pub(crate) schema: &'static str,
    /// The name of the stack.
    pub(crate) stack: &'static str,
    /// The families of a server and of a client.
    server: &'static [Family],
    client: &'static [Family],
    /// Families whose numbers have another meaning here (docs/schemas.md), and which are the same otherwise.
    renamed: &'static [&'static str],
}

/// All libraries.
pub(crate) const ALL: [Library; 5] = [GO, PYTHON, LEGACY, REQUESTS, OTEL];

/// A library without families.
const NOTHING: Library = Library { schema: "", stack: "", server: &[], client: &[], renamed: &[] };

/// The samples of a family, what they count, and the methods and codes for which the library counts something else.
type Family = (&'static str, What, &'static [Wrong]);

/// The events that samples count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Calls by method.
    Calls,
    /// Calls by method and code.
    Codes,
    /// Failed calls, by method and code.
    Errors,
    /// Messages by method.
    Received,
    Sent,
}

/// The calls for which a library is wrong: of a method, with a code, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Method(&'static str),
    Code(&'static str),
    All,
}

use What::{Calls, Codes, Errors, Received, Sent};
use Wrong::{All, Code, Method};

/// The method without a handler: interceptors do not see its calls.
const UNKNOWN_METHOD: Wrong = Method("Missing");

/// A server's interceptors do not see that the deadline was over.
const DEADLINE: &[Wrong] = &[UNKNOWN_METHOD, Code("DeadlineExceeded"), Code("Canceled")];

const GO: Library = Library {
    schema: "go",
    stack: "grpc-go",
    server: &[
        ("grpc_server_started_total", Calls, &[UNKNOWN_METHOD]),
        ("grpc_server_handled_total", Codes, DEADLINE),
        ("grpc_server_msg_received_total", Received, &[]),
        ("grpc_server_msg_sent_total", Sent, &[]),
        ("grpc_server_handling_seconds_count", Calls, &[UNKNOWN_METHOD]),
    ],
    client: &[
        ("grpc_client_started_total", Calls, &[]),
        // A client stream ends for it when the application reads again after the only response, which it need not do.
        ("grpc_client_handled_total", Codes, &[Method("ClientStream")]),
        ("grpc_client_msg_received_total", Received, &[]),
        ("grpc_client_msg_sent_total", Sent, &[]),
        ("grpc_client_handling_seconds_count", Calls, &[Method("ClientStream")]),
    ],
    ..NOTHING
};

const OTEL: Library = Library {
    schema: "otel",
    stack: "grpc-go",
    server: &[("rpc_server_call_duration_seconds_count", Codes, DEADLINE)],
    client: &[("rpc_client_call_duration_seconds_count", Codes, &[])],
    ..NOTHING
};

const PYTHON: Library = Library {
    schema: "python",
    stack: "python-asyncio",
    server: &[
        ("grpc_server_started_total", Calls, &[UNKNOWN_METHOD]),
        ("grpc_server_handled_total", Codes, PYTHON_ENDS),
        ("grpc_server_msg_received_total", Received, NO_UNARY_REQUESTS),
        ("grpc_server_msg_sent_total", Sent, NO_UNARY_RESPONSES),
        ("grpc_server_handling_seconds_count", Calls, &[UNKNOWN_METHOD]),
    ],
    client: &[
        ("grpc_client_started_total", Calls, PYTHON_STARTS),
        ("grpc_client_handled_total", Codes, PYTHON_CLIENT_ENDS),
        ("grpc_client_msg_received_total", Received, NO_UNARY_RESPONSES),
        ("grpc_client_msg_sent_total", Sent, NO_UNARY_REQUESTS),
        ("grpc_client_handling_seconds_count", Calls, &[All]),
        ("grpc_client_msg_recv_handling_seconds_count", Received, &[All]),
        ("grpc_client_msg_send_handling_seconds_count", Sent, &[All]),
    ],
    ..NOTHING
};

const LEGACY: Library = Library {
    schema: "legacy",
    stack: "python-asyncio",
    server: &[
        ("grpc_server_started_total", Calls, &[UNKNOWN_METHOD]),
        ("grpc_server_handled_total", Codes, PYTHON_ENDS),
        ("grpc_server_msg_received_total", Received, NO_UNARY_REQUESTS),
        ("grpc_server_msg_sent_total", Sent, NO_UNARY_RESPONSES),
        ("grpc_server_handled_latency_seconds_count", Calls, &[UNKNOWN_METHOD]),
    ],
    client: &[
        ("grpc_client_started_total", Calls, PYTHON_STARTS),
        ("grpc_client_completed_total", Codes, PYTHON_CLIENT_ENDS),
        ("grpc_client_msg_received_total", Received, NO_UNARY_RESPONSES),
        ("grpc_client_msg_sent_total", Sent, NO_UNARY_REQUESTS),
        ("grpc_client_completed_latency_seconds_count", Calls, &[All]),
    ],
    ..NOTHING
};

/// Only messages of streams are counted.
const NO_UNARY_REQUESTS: &[Wrong] = &[Method("Unary"), Method("ServerStream"), UNKNOWN_METHOD];
const NO_UNARY_RESPONSES: &[Wrong] = &[Method("Unary"), Method("ClientStream")];

/// Streams of responses that end by an exception are not counted, nor calls whose deadline was over.
const PYTHON_ENDS: &[Wrong] =
    &[UNKNOWN_METHOD, Method("ServerStream"), Method("Bidi"), Code("DeadlineExceeded")];

/// Streams of requests that fail, and bidirectional ones, are not counted.
const PYTHON_STARTS: &[Wrong] = &[Method("ClientStream"), Method("Bidi")];

/// Only unary calls that succeed are counted.
const PYTHON_CLIENT_ENDS: &[Wrong] = &[All];

const REQUESTS: Library = Library {
    schema: "requests",
    stack: "python-asyncio",
    server: &[
        ("grpc_requests_total", Codes, GUIDE),
        ("grpc_request_duration_seconds_count", Calls, GUIDE),
        ("grpc_errors_total", Errors, GUIDE),
    ],
    renamed: &["grpc_active_connections", "grpc_service_info"],
    ..NOTHING
};

/// Only existing unary methods are counted; calls that raise or expire count as OK.
const GUIDE: &[Wrong] = &[
    UNKNOWN_METHOD,
    Method("ServerStream"),
    Method("ClientStream"),
    Method("Bidi"),
    Code("OK"),
    Code("Unknown"),
    Code("DeadlineExceeded"),
];

/// The plan: each type of call, failures of several kinds, and a missing method.
fn plan() -> Vec<Vec<Value>> {
    const NOT_FOUND: u32 = 5;
    let ok = |rpc, count, requests, responses| json!({"rpc": rpc, "count": count, "requests": requests, "responses": responses});
    let failing = |rpc, requests, responses| {
        json!({
            "rpc": rpc, "count": 3, "requests": requests, "responses": responses, "code": NOT_FOUND,
        })
    };
    let raising = |rpc| json!({"rpc": rpc, "count": 2, "raises": true, "responses": 0});
    let expiring = |rpc| json!({"rpc": rpc, "sleep_ms": 60_000, "deadline_ms": 3000});
    vec![
        vec![
            ok("Unary", 5, 1, 1),
            ok("ServerStream", 4, 1, 3),
            ok("ClientStream", 3, 2, 1),
            ok("Bidi", 2, 2, 2),
        ],
        vec![
            failing("Unary", 1, 0),
            failing("ServerStream", 1, 2),
            failing("ClientStream", 2, 0),
            failing("Bidi", 2, 1),
        ],
        vec![raising("Unary"), raising("ServerStream")],
        vec![expiring("Unary"), expiring("ServerStream")],
        vec![json!({"unknown_method": true, "count": 2})],
    ]
}

impl Library {
    /// Compares the library's metrics of both ends with the daemon's.
    pub(crate) fn agrees_with_the_daemon(self, stack: &Stack) -> Result<()> {
        /// The trace of all calls of the Python peers.
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        let folder = TempDir::with_prefix("told-").context("create a folder")?;
        let (at_server, at_client) = (folder.path().join("server"), folder.path().join("client"));
        let library = if self.schema == "go" { "middleware" } else { self.schema };
        let stack = stack.instrumented(library, &at_server, &at_client)?;
        let server = Server::start(&stack, Listen::V4)?;
        let daemon = Daemon::start(&["--port", &server.port()?, "--schema", self.schema])?;
        let (client, did) = Client::start(&stack, &server, &plan())?.finish()?;
        let serving = server.identity().clone();
        agree(&server.stop()?, &did)?;
        let served = did.mirrored();
        daemon.wait_until(|metrics| {
            Self::exact(metrics, &serving, &served, self.server)?;
            Self::exact(metrics, &client, &did, self.client)
        })?;
        let metrics = daemon.scrape()?;
        if self.stack == "python-asyncio" {
            ensure!(metrics.has_trace(TRACE), "no exemplar has the calls' trace");
        }
        if prometheus::is_there()? {
            prometheus::check_metrics(&daemon.metrics_as("text/plain; version=0.0.4")?)?;
        }
        self.compare(&metrics, &at_server, &serving, &served, self.server).context("the server")?;
        self.compare(&metrics, &at_client, &client, &did, self.client).context("the client")?;
        daemon.stop()
    }

    /// An error unless the daemon's numbers of a process are those of its calls.
    fn exact(all: &Metrics, who: &Identity, truth: &Truth, families: &[Family]) -> Result<()> {
        for (name, what, _) in families {
            let mut seen = numbers(all, name, *what, Some(who));
            let expected = expected(truth, *what);
            share_out(
                &mut seen,
                |key| expected.get(key).copied().unwrap_or(0.0),
                |(method, code), one| {
                    let is_either = *code == spelled_alike("CanceledOrDeadlineExceeded");
                    is_either.then(|| (method.clone(), spelled_alike(one)))
                },
            );
            let different = differences(&expected, &seen, truth, *what);
            ensure!(different.is_empty(), "{who}: {name}: expected and seen: {different:?}");
        }
        Ok(())
    }

    /// An error unless the library's families are the daemon's, and its numbers too where it is not known to be
    /// wrong.
    fn compare(
        &self,
        ours: &Metrics,
        file: &Path,
        who: &Identity,
        truth: &Truth,
        families: &[Family],
    ) -> Result<()> {
        let text = fs::read_to_string(file).context("read the library's metrics")?;
        let theirs = Metrics::parse(&text).context("the library's metrics")?;
        let (mut all, mut wrong) = (0, 0);
        for (name, what, known) in families {
            same_family(ours, &theirs, name, who)?;
            let expected = expected(truth, *what);
            let seen = numbers(&theirs, name, *what, None);
            let keys: BTreeSet<_> = expected.keys().chain(seen.keys()).collect();
            let different = differences(&expected, &seen, truth, *what);
            (all, wrong) = (all + keys.len(), wrong + different.len());
            for (key, expected, seen) in different {
                let is_known = known.iter().any(|wrong| wrong.is_of(&key));
                ensure!(is_known, "the library has {seen} of {name} {key:?}, not {expected}");
            }
            report::exact(expected.len());
        }
        // A side without calls has no series.
        for name in self.renamed.iter().filter(|_| !families.is_empty()) {
            same_family(ours, &theirs, name, who)?;
        }
        for name in theirs.families().keys().filter(|name| theirs.has_series_of(name)) {
            ensure!(ours.families().contains_key(name), "only the library has {name}");
        }
        report::say(&format!(
            "the library of --schema {} at {who}: {wrong} of {all} numbers are not those of its calls",
            self.schema
        ));
        Ok(())
    }
}

impl Wrong {
    fn is_of(self, (method, code): &Key) -> bool {
        match self {
            All => true,
            Method(wrong) => wrong == method,
            Code(wrong) => spelled_alike(wrong) == *code,
        }
    }
}

/// A method, and a code as [`spelled_alike`], empty for numbers that are not by code.
type Key = (String, String);

fn expected(truth: &Truth, what: What) -> BTreeMap<Key, f64> {
    let mut numbers = BTreeMap::new();
    for row in &truth.calls {
        let Row { method, code, sums, .. } = row;
        let method = method.rsplit('/').next().unwrap_or_default();
        let name = spelled_alike(code_name(*code));
        let (code, number) = match what {
            Calls => (String::new(), sums.calls),
            Errors if *code == 0 => continue,
            Codes | Errors => (name, sums.calls),
            Received => (String::new(), sums.received),
            Sent => (String::new(), sums.sent),
        };
        *numbers.entry((method.to_owned(), code)).or_insert(0.0) += number as f64;
    }
    numbers
}

/// The numbers by method and code, of one process or of all.
fn numbers(
    metrics: &Metrics,
    name: &str,
    what: What,
    who: Option<&Identity>,
) -> BTreeMap<Key, f64> {
    let mut numbers = BTreeMap::new();
    for (labels, value) in of(metrics, name, who) {
        let label = |names: &[&str]| names.iter().find_map(|name| labels.get(*name));
        let method = label(&["grpc_method", "rpc_method", "method"]);
        let method = method.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let codes = ["grpc_code", "code", "status", "rpc_response_status_code", "error_type"];
        let code = match what {
            Codes | Errors => label(&codes).map(|code| spelled_alike(code)).unwrap_or_default(),
            Calls | Received | Sent => String::new(),
        };
        *numbers.entry((method.to_owned(), code)).or_insert(0.0) += value;
    }
    numbers
}

fn of<'a>(
    metrics: &'a Metrics,
    name: &'a str,
    who: Option<&Identity>,
) -> impl Iterator<Item = (&'a Labels, f64)> {
    let pid = who.map(|who| who.pid.to_string());
    let is_whose = move |labels: &Labels| pid.is_none() || labels.get("pid") == pid.as_ref();
    metrics.series(name).filter(move |(labels, _)| is_whose(labels))
}

/// A code in one spelling: `NOT_FOUND` and `NotFound` become equal, and so do `CANCELLED` and `Canceled`.
fn spelled_alike(code: &str) -> String {
    code.replace('_', "").to_ascii_lowercase().replace("cancelled", "canceled")
}

/// The keys with different numbers. A missing number is 0, and messages are not compared if the peer does not know
/// whether they were written.
fn differences(
    expected: &BTreeMap<Key, f64>,
    seen: &BTreeMap<Key, f64>,
    truth: &Truth,
    what: What,
) -> Vec<(Key, f64, f64)> {
    let is_unsure = |(method, _): &&Key| {
        let unsure = |row: &Row| row.requests_unsure && row.method.ends_with(method.as_str());
        matches!(what, Received | Sent) && truth.calls.iter().any(unsure)
    };
    let keys: BTreeSet<_> = expected.keys().chain(seen.keys()).collect();
    let number = |of: &BTreeMap<Key, f64>, key| of.get(key).copied().unwrap_or(0.0);
    keys.into_iter()
        .filter(|key| !is_unsure(key))
        .map(|key| (key.clone(), number(expected, key), number(seen, key)))
        .filter(|(_, expected, seen)| expected != seen)
        .collect()
}

/// An error unless a family has the same type, HELP text and labels in both, and no label value or bound is spelled
/// differently.
fn same_family(ours: &Metrics, theirs: &Metrics, sample: &str, who: &Identity) -> Result<()> {
    /// The labels that only the daemon has, or only the library (the peer's address).
    const OUR_LABELS: [&str; 2] = ["pid", "process"];
    const THEIR_LABELS: [&str; 2] = ["server_address", "server_port"];
    let name = ["_total", "_count", "_info"]
        .iter()
        .fold(sample, |name, suffix| name.strip_suffix(suffix).unwrap_or(name));
    let family = |metrics: &Metrics| metrics.families().get(name).cloned();
    let their_family = family(theirs).with_context(|| format!("the library has no {name}"))?;
    let our_family = family(ours).with_context(|| format!("the daemon has no {name}"))?;
    ensure!(our_family == their_family, "{name}: {our_family:?} is not {their_family:?}");

    let is_histogram = their_family.kind == "histogram";
    let sample = if is_histogram { format!("{name}_bucket") } else { sample.to_owned() };
    let (our_values, their_values) =
        (values(of(ours, &sample, Some(who))), values(of(theirs, &sample, None)));
    let without = |values: &BTreeMap<String, BTreeSet<String>>, other: &[&str]| {
        values.keys().filter(|name| !other.contains(&name.as_str())).cloned().collect::<Vec<_>>()
    };
    let (our_names, their_names) =
        (without(&our_values, &OUR_LABELS), without(&their_values, &THEIR_LABELS));
    ensure!(our_names == their_names, "{name} has the labels {our_names:?}, not {their_names:?}");
    for (label, theirs) in their_values {
        let Some(ours) = our_values.get(&label) else { continue };
        for value in theirs.difference(ours) {
            let alike = ours.iter().find(|ours| spelled_alike(ours) == spelled_alike(value));
            ensure!(alike.is_none(), "{name}: {label} is {alike:?}, not {value:?}");
            ensure!(label != "le", "{name} has no bucket up to {value}");
        }
        let shared = ours.intersection(&theirs).next();
        ensure!(shared.is_some(), "{name}: {label} is one of {ours:?}, not of {theirs:?}");
    }
    Ok(())
}

/// The values of each label.
fn values<'a>(
    series: impl Iterator<Item = (&'a Labels, f64)>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut values = BTreeMap::<String, BTreeSet<String>>::new();
    for (name, value) in series.flat_map(|(labels, _)| labels.clone()) {
        values.entry(name).or_default().insert(value);
    }
    values
}

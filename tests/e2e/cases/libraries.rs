//! What metrics libraries tell of the calls that they are in, beside what the daemon tells of the same
//! calls in their schema: the same families, labels, texts and bounds, and the same numbers where the
//! libraries are right. Where they are not is said here, library by library.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
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

/// A library that tells metrics of the calls that it is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Library {
    /// As the peers are told it, and as the schema is named.
    schema: &'static str,
    stack: &'static str,
    /// What it tells of the calls that its process serves, and of those that it makes.
    server: &'static [Told],
    client: &'static [Told],
    /// Families whose numbers mean something else here, as docs/schemas.md says: they are the same
    /// but for that.
    renamed: &'static [&'static str],
}

/// A family's samples, what they count, and of which methods and codes the library counts something
/// else.
type Told = (&'static str, What, &'static [Wrong]);

/// What samples count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Calls by method.
    Calls,
    /// Calls by method and code.
    Codes,
    /// Those that failed, by method and code.
    Errors,
    /// Messages by method.
    Received,
    Sent,
}

/// A method, a code, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Method(&'static str),
    Code(&'static str),
    All,
}

use What::{Calls, Codes, Errors, Received, Sent};
use Wrong::{All, Code, Method};

/// No handler is there for it, and so no interceptor hears of it.
const UNKNOWN_METHOD: Wrong = Method("Missing");

/// Neither of a server's interceptors learns that it was the deadline.
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
        // A stream of requests has ended for it when the application reads once more after the one
        // response, for which there is no reason.
        ("grpc_client_handled_total", Codes, &[Method("ClientStream")]),
        ("grpc_client_msg_received_total", Received, &[]),
        ("grpc_client_msg_sent_total", Sent, &[]),
        ("grpc_client_handling_seconds_count", Calls, &[Method("ClientStream")]),
    ],
    renamed: &[],
};

const OTEL: Library = Library {
    schema: "otel",
    stack: "grpc-go",
    server: &[("rpc_server_call_duration_seconds_count", Codes, DEADLINE)],
    client: &[("rpc_client_call_duration_seconds_count", Codes, &[])],
    renamed: &[],
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
    renamed: &[],
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
    renamed: &[],
};

/// Messages of what is no stream are not counted.
const NO_UNARY_REQUESTS: &[Wrong] = &[Method("Unary"), Method("ServerStream"), UNKNOWN_METHOD];
const NO_UNARY_RESPONSES: &[Wrong] = &[Method("Unary"), Method("ClientStream")];

/// Of streams of responses, an end by an exception is not counted, and one at a deadline of no method.
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
    client: &[],
    renamed: &["grpc_active_connections", "grpc_service_info"],
};

/// Only unary methods that there are; what raises or expires has succeeded for it.
const GUIDE: &[Wrong] = &[
    UNKNOWN_METHOD,
    Method("ServerStream"),
    Method("ClientStream"),
    Method("Bidi"),
    Code("OK"),
    Code("Unknown"),
    Code("DeadlineExceeded"),
];

/// All of them.
pub(crate) fn all() -> [Library; 5] {
    [GO, PYTHON, LEGACY, REQUESTS, OTEL]
}

impl Display for Library {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.schema)
    }
}

/// What is called: each kind of call, failures of each kind, and a method that there is not.
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
    /// The stack that it is for.
    pub(crate) fn stack(&self) -> &'static str {
        self.stack
    }

    /// The library and the daemon tell of the same calls, each of both ends.
    pub(crate) fn agrees_with_the_daemon(self, stack: &Stack) -> Result<()> {
        /// Which the Python peers give all their calls.
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        let folder = TempDir::with_prefix("told-").context("create a folder")?;
        let (at_server, at_client) = (folder.path().join("server"), folder.path().join("client"));
        let stack = self.instrumented(stack, &at_server, &at_client)?;
        let server = Server::start(&stack, Listen::V4)?;
        let daemon = Daemon::start(&["--port", &server.port()?, "--schema", self.schema])?;
        let (client, did) = Client::start(&stack, &server, &plan())?.finish()?;
        let serving = server.identity().clone();
        agree(&server.stop()?, &did)?;
        let served = did.mirrored();
        daemon.wait_until(|metrics| {
            Self::exact(metrics, &serving, &served, self.server)
                .and_then(|()| Self::exact(metrics, &client, &did, self.client))
                .map_err(|error| format!("{error:#}"))
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

    /// Every family that the library has is told here.
    fn has_all(
        &self,
        ours: &Metrics,
        theirs: &Metrics,
        who: &Identity,
        told: &[Told],
    ) -> Result<()> {
        // What a process does not do has no series.
        for name in self.renamed.iter().filter(|_| !told.is_empty()) {
            same_family(ours, theirs, name, who)?;
        }
        for name in theirs.families().keys().filter(|name| theirs.has_series_of(name)) {
            let is_told = ours.families().contains_key(name);
            ensure!(is_told, "the library tells {name}, which is not told here");
        }
        Ok(())
    }

    /// The stack with the library in it, and told where to write what it tells.
    fn instrumented(&self, stack: &Stack, server: &Path, client: &Path) -> Result<Stack> {
        let mut stack = stack.clone();
        if self.stack == "python-asyncio" {
            let [python, script, ..] = stack.server.as_slice() else {
                anyhow::bail!("{} has no script", stack.name);
            };
            let script = Path::new(script).with_file_name("instrumented.py");
            let words = |role: &str| {
                let script = script.to_string_lossy().into_owned();
                let words = [python.clone(), script, role.into(), "--library".into()];
                [&words[..], &[self.schema.into()]].concat()
            };
            (stack.server, stack.client) = (words("server"), words("client"));
        }
        for (words, told) in [(&mut stack.server, server), (&mut stack.client, client)] {
            if self.stack == "grpc-go" {
                let library = if self.schema == "otel" { "otel" } else { "middleware" };
                words.extend(["--library".into(), library.into()]);
            }
            words.extend(["--told".into(), told.to_string_lossy().into_owned()]);
        }
        Ok(stack)
    }

    /// The daemon's numbers of a process are those of its calls.
    fn exact(all: &Metrics, who: &Identity, truth: &Truth, told: &[Told]) -> Result<()> {
        for (name, what, _) in told {
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

    /// The library's families are the daemon's, and its numbers where it is not known to be wrong.
    fn compare(
        &self,
        ours: &Metrics,
        file: &Path,
        who: &Identity,
        truth: &Truth,
        told: &[Told],
    ) -> Result<()> {
        let text = fs::read_to_string(file).context("read what the library tells")?;
        let theirs = Metrics::parse(&text).context("what the library tells")?;
        let (mut all, mut wrong) = (0, 0);
        for (name, what, known) in told {
            same_family(ours, &theirs, name, who)?;
            let expected = expected(truth, *what);
            let seen = numbers(&theirs, name, *what, None);
            let keys: BTreeSet<_> = expected.keys().chain(seen.keys()).collect();
            let different = differences(&expected, &seen, truth, *what);
            (all, wrong) = (all + keys.len(), wrong + different.len());
            for (key, expected, seen) in different {
                let is_known = known.iter().any(|wrong| wrong.is_of(&key));
                ensure!(is_known, "the library says {seen} of {name} {key:?}, not {expected}");
            }
            report::exact(expected.len());
        }
        self.has_all(ours, &theirs, who, told)?;
        report::say(&format!(
            "the library of --schema {self} at {who}: {wrong} of {all} numbers are not those of its calls"
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

/// A method, and a code as [`spelled_alike`]; none where it is not told.
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

/// What samples say by method and code, of one process or of all.
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

/// `NOT_FOUND` and `NotFound` are the same, and so are `CANCELLED` and `Canceled`.
fn spelled_alike(code: &str) -> String {
    code.replace('_', "").to_ascii_lowercase().replace("cancelled", "canceled")
}

/// What is not the same in both: what is 0 need not be there, and the messages of calls of which nobody
/// knows whether they were written are not compared.
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
        .filter(|(_, expected, seen)| expected.total_cmp(seen).is_ne())
        .collect()
}

/// The family has the same type and text in both, the same labels, and no value or bound of a label
/// that is spelled otherwise.
fn same_family(ours: &Metrics, theirs: &Metrics, sample: &str, who: &Identity) -> Result<()> {
    /// That only the daemon has, or only the library: where its peer is.
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

//! Real gRPC stacks, the real daemon, the real kernel: one line of output a case.
//!
//! Needs root and a kernel that allows the daemon's programs; `cargo xtask test` builds what is
//! needed and runs it. With `--list` it prepares the peers and runs nothing, for which it needs no
//! root: whoever runs it as root next finds them prepared, and no file of root's is left in the
//! target directory. How it works and how a stack is added is told by the `support` library. A case
//! is a line in [`cases`] and a function of a few lines; a kind of call that all pairs of stacks are
//! to make is a line in one of the plans.
//!
//! The cases run one after the other, as processors are few, and every daemon sees the system calls
//! of every case; but for those of pairs of stacks and of one plan, which wait most of the time, and are
//! told apart by their processes.

mod cases;

use std::fs;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use support::daemon::{Daemon, Shared, User, binary, free_address, refusal, without_ours};
use support::expected::Expected;
use support::footprint::{status, threads};
use support::look;
use support::openmetrics::Metrics;
use support::pace::slowness;
use support::peer::{Client, Identity, Listen, Plan, Server};
use support::report::Also::{self, Confirmed, InPart, Nothing};
use support::report::{self, CLOCKS, TSHARK};
use support::stack::{self, Stack};
use support::truth::{CUT, Row, Sums, Truth, agree};
use support::tshark::{self, Recording};
use tempfile::TempDir;

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    let root = rustix::process::geteuid().is_root();
    ensure!(arguments.list || root, "the end-to-end tests need root");
    let mut cases = cases(stack::prepare()?.leak())?;
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

/// What a case does, given its name.
type Run = Box<dyn FnOnce(&str) -> Result<()> + Send>;

struct Case {
    name: String,
    also: Also,
    /// Not possible here: shown as ignored.
    ignored: bool,
    run: Run,
}

impl Case {
    /// Of a client's stack and a server's, whose names are joined so.
    fn is_of_pair(&self) -> bool {
        self.name.contains(" -> ")
    }

    /// What its name begins with.
    fn plan(&self) -> &str {
        self.name.split(':').next().unwrap_or_default()
    }

    fn trial(self) -> Trial {
        let Self { name, also, ignored, run } = self;
        Trial::test(name.clone(), move || {
            let begin = Instant::now();
            let result = run(&name);
            report::took(&name, begin.elapsed());
            let result = result.and(report::check(also));
            let written = report::ended(&name, result.is_ok());
            result.and(written).map_err(|error| Failed::from(format!("{error:#}")))
        })
        .with_ignored_flag(ignored)
    }
}

/// Cases as they are added.
#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, name: &str, also: Also, run: impl FnOnce() -> Result<()> + Send + 'static) {
        self.of(name, also, [], |[]| run());
    }

    /// A case of stacks that may not be there: shown as ignored then.
    fn of<const N: usize>(
        &mut self,
        name: &str,
        also: Also,
        stacks: [Option<&'static Stack>; N],
        run: impl FnOnce([&'static Stack; N]) -> Result<()> + Send + 'static,
    ) {
        let there: Vec<&Stack> = stacks.into_iter().flatten().collect();
        let there: Option<[&Stack; N]> = there.try_into().ok();
        let ignored = there.is_none();
        let run = Box::new(move |_: &str| run(there.context("a stack is not there")?));
        self.0.push(Case { name: name.to_owned(), also, ignored, run });
    }
}

/// What is left out where a server races the deadline.
const RACES: &str = "without Unary and ClientStream, which its server ends by itself in the moment of \
    the deadline: the two ends may see different codes";

fn cases(stacks: &'static [Stack]) -> Result<Vec<Case>> {
    let mut cases = Cases::default();
    let named = |name: &str| stacks.iter().find(|stack| stack.name == name);
    let (python, threaded, tonic) =
        (named("python-asyncio"), named("python-threaded"), named("tonic"));
    let (go, grpc_js) = (named("grpc-go"), named("grpc-js"));

    // What a method's messages show of its kind is known of all its processes: only cases of one
    // plan have a daemon in common.
    for (what, plan) in [
        ("four kinds of call", (|_| kinds()) as fn(&Stack) -> Vec<Vec<Value>>),
        ("errors", |_| errors()),
        ("cancelled", |_| cancelled()),
        ("expired", expired),
    ] {
        let shared = Shared::default();
        for (server, client) in pairs(stacks) {
            let (daemon, plan) = (shared.clone(), plan(server));
            let expires = what == "expired" && server.resets_expired;
            let run = move || {
                daemon.watch(|daemon| {
                    recorded(
                        daemon,
                        server,
                        client,
                        &plan,
                        if expires { Truth::expired } else { |did| did },
                    )
                })
            };
            let name = format!("{what}: {} -> {}", client.name, server.name);
            let in_part = what == "expired" && server.races_deadline;
            let also = if in_part { InPart(TSHARK, RACES) } else { Confirmed(TSHARK) };
            cases.add(&name, also, run);
        }
    }
    let shared = Shared::default();
    for server in stacks {
        for connections in [1, 50] {
            let run = move || with_port(server, Listen::V4, &thousand(connections));
            let name = format!("1000 calls at once, connections {connections}: {}", server.name);
            cases.add(&name, Nothing, run);
        }
        let run = move || with_port(server, Listen::V4, &huge());
        cases.add(&format!("messages of 5 MiB: {}", server.name), Nothing, run);
        let run = move || with_port_recorded(server, Listen::V6, &kinds());
        cases.add(&format!("IPv6: {}", server.name), Confirmed(TSHARK), run);
        let run = move || without_flags(server, Listen::Unix, &kinds());
        cases.add(&format!("Unix socket: {}", server.name), Nothing, run);
        let run = move || with_port_recorded(server, Listen::V4, &kinds());
        cases.add(&format!("--port: {}", server.name), Confirmed(TSHARK), run);
        let run = move || cases::restart::loses_only_what_happened_before(server);
        cases.add(&format!("started under load: {}", server.name), Nothing, run);
        let daemon = shared.clone();
        let run = move || daemon.watch(|daemon| in_flight(daemon, server));
        cases.add(&format!("calls in flight and connections: {}", server.name), Nothing, run);
        if server.keeps_expired {
            let daemon = shared.clone();
            let run = move || daemon.watch(|daemon| expired_at_once(daemon, server));
            cases.add(&format!("expired before they begin: {}", server.name), Nothing, run);
        }
        let name = format!("MAX_CONNECTION_AGE: {}", server.name);
        cases.of(&name, Confirmed(TSHARK), [go], move |[go]| max_connection_age(server, go));
        for policy in &server.policies {
            let daemon = shared.clone();
            let run = move || daemon.watch(|daemon| repeated(daemon, server, policy));
            let name = format!("{policy}, attempts are calls: {}", server.name);
            cases.add(&name, Confirmed(TSHARK), run);
        }
        let run = move || several_workers(server);
        cases.add(&format!("four workers, 50 connections: {}", server.name), Nothing, run);
        let daemon = shared.clone();
        let run =
            move || daemon.watch(|daemon| cases::gzip::is_counted_as_on_the_wire(daemon, server));
        cases.add(&format!("gzip: {}", server.name), Confirmed(TSHARK), run);
        if server.repeats_refused {
            let run = move || cases::refused::and_repeated_are_two_calls(server);
            cases.add(
                &format!("REFUSED_STREAM, made again by the library: {}", server.name),
                Confirmed(TSHARK),
                run,
            );
        }
        let run = move || cases::latency::is_the_handlers(server);
        cases.add(
            &format!("handling time by the handlers' clocks: {}", server.name),
            Confirmed(CLOCKS),
            run,
        );
    }

    for (name, client) in [("grpc-go", go), ("tonic", tonic), ("python-asyncio", python)] {
        let name = format!("started during a call: net/http, {name} calls");
        cases.of(&name, Nothing, [go, client], |[go, client]| {
            cases::restart::counts_the_next_call(go, &["--net-http"], client)
        });
    }
    for (name, stack) in
        [("python-asyncio", python), ("python-threaded", threaded), ("tonic", tonic)]
    {
        cases.of(&format!("no payload leaves the kernel: {name}"), Nothing, [stack], |[stack]| {
            cases::payload::stays_in_the_kernel(stack, stack)
        });
    }
    for name in ["grpc-go", "grpc-js", "python-asyncio"] {
        let stacks = [go, named(name)];
        cases.of(&format!("through a proxy: {name}"), Nothing, stacks, |[server, client]| {
            cases::tunnel::calls_are_counted(server, client, &kinds())
        });
    }
    for library in cases::libraries::all() {
        let name = format!("the schema {library}, beside its library");
        cases.of(&name, Nothing, [named(library.stack())], move |[stack]| {
            library.tells_the_same(stack)
        });
    }
    cases.add("page: names of any kind are text", Nothing, look::page::shows_any_name);
    for (name, run) in [
        ("top: names of any kind, and each key", look::top::shows_any_name as fn() -> Result<()>),
        ("top: TLS and a password", cases::protected::tls_and_a_password),
        ("top: a password alone", cases::protected::a_password_alone),
        ("top: a listener of somebody else", cases::protected::a_listener_of_somebody_else),
        (
            "top: a daemon that wants certificates of clients",
            cases::protected::certificates_of_clients,
        ),
    ] {
        cases.add(name, Nothing, run);
    }
    for (name, run) in [
        (
            "page: the peers' numbers, sorted, filtered, told in detail",
            look::page::tells_the_truth as fn(&Stack) -> Result<()>,
        ),
        (
            "page: rates, errors, calls in flight, handling times, connections",
            look::page::tells_true_figures,
        ),
        (
            "page: open a hundred times, five of them in a browser",
            look::page::is_open_a_hundred_times,
        ),
        ("page: the daemon restarts", look::page::survives_a_restart),
        ("top: 200×50", look::top::in_a_large_terminal),
        ("top: 80×24", look::top::in_a_small_terminal),
        (
            "top: rates, errors, calls in flight, handling times, connections: 200×50",
            look::top::tells_true_figures,
        ),
        (
            "top: rates, errors, calls in flight, handling times, connections: 80×24",
            look::top::tells_true_figures_in_little_room,
        ),
        ("top: live, of what it watches itself", look::top::of_its_own),
        ("top: once, as a table and as JSON", look::top::as_snapshots),
        ("--descriptor-set: the declared types, at every scrape", cases::declared::types_are_told),
    ] {
        cases.of(name, Nothing, [tonic], move |[tonic]| run(tonic));
    }
    for (name, stacks, run) in [
        ("one of two ports", [python, tonic], one_of_two_ports as fn(&Stack, &Stack) -> Result<()>),
        ("one of two processes", [tonic, python], one_of_two_processes),
        ("one of two names", [tonic, threaded], one_of_two_names),
        ("a server that sets process.title, with --comm", [grpc_js, tonic], sets_its_title),
        ("stopping under traffic", [python, tonic], stopping_under_traffic),
    ] {
        cases.of(name, Nothing, stacks, move |[server, client]| run(server, client));
    }
    cases.add("SIGTERM", Nothing, || Daemon::start::<&str>(&[])?.stop());
    cases.add("SIGINT", Nothing, || Daemon::start::<&str>(&[])?.interrupt());
    cases.add("refuses an address in use", Nothing, refuses_an_address_in_use);
    cases.add("refuses to run without privileges", Nothing, refuses_without_privileges);
    cases.add("refuses bad ports", Nothing, refuses_bad_ports);
    cases.add("refuses a log that leaves out the daemon", Nothing, refuses_a_silent_log);
    cases.add("refuses a variable of no flag, and takes a Service's", Nothing, variables);
    cases.add("refuses a process that is not there", Nothing, refuses_a_missing_process);
    cases.add("refuses a kernel without BTF", Nothing, refuses_without_btf);
    cases.0.extend(cases::backends::cases());
    cases.0.push(cases::scraped::case(tonic)?);
    cases.0.push(cases::native::case()?);
    cases.0.extend(cases::proxied::cases(go, tonic)?);
    cases.0.push(cases::etcd::case()?);
    cases.0.extend(cases::all());
    if look::page::screenshots_wanted().is_some() {
        let run = Box::new(move |_: &str| look::page::screenshots(stacks));
        cases.0.push(Case { name: "screenshots".into(), also: Nothing, ignored: false, run });
    }
    cases.0.push(cases::documented::case(&cases.0));
    Ok(cases.0)
}

/// Each server with each client.
fn pairs(stacks: &[Stack]) -> impl Iterator<Item = (&Stack, &Stack)> {
    stacks.iter().flat_map(|server| stacks.iter().map(move |client| (server, client)))
}

// Plans: stages of steps.

const RPCS: [&str; 4] = ["Unary", "ServerStream", "ClientStream", "Bidi"];
const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const UNAVAILABLE: i32 = 14;

/// Longer than any test: the call ends because of the client.
fn forever_ms() -> u32 {
    60_000 * slowness()
}

fn kinds() -> Vec<Vec<Value>> {
    vec![
        vec![
            json!({"rpc": "Unary", "count": 50, "concurrency": 5, "payload": 100, "response_size": 50}),
            json!({"rpc": "ServerStream", "count": 10, "concurrency": 2, "responses": 5, "response_size": 10}),
            json!({"rpc": "ClientStream", "count": 10, "concurrency": 2, "requests": 5, "payload": 10}),
            json!({"rpc": "Bidi", "count": 10, "concurrency": 2, "requests": 3, "responses": 2}),
        ],
        vec![json!({"rpc": "Unary", "count": 50, "concurrency": 5, "connections": 3})],
        vec![json!({"rpc": "ServerStream", "responses": 0})],
        vec![
            json!({"rpc": "Bidi", "count": 3, "requests": 4, "lockstep": true, "payload": 7, "response_size": 9}),
        ],
        // Many frames a message, and those of several calls mixed.
        vec![
            json!({"rpc": "Bidi", "count": 8, "concurrency": 4, "requests": 3, "payload": 100_000, "response_size": 150_000}),
        ],
    ]
}

fn errors() -> Vec<Vec<Value>> {
    let of_each = |code: u32, responses: u32, detail: &str, raises: bool| {
        let step = |rpc: &str| {
            json!({
                "rpc": rpc, "count": 3, "requests": if rpc == "Unary" { 1 } else { 2 },
                "responses": responses, "code": code, "detail": detail, "raises": raises,
            })
        };
        RPCS.map(step).to_vec()
    };
    vec![
        of_each(NOT_FOUND, 0, "nowhere: 100% grün\n", false),
        of_each(NOT_FOUND, 2, "", false),
        of_each(INVALID_ARGUMENT, 0, "", false),
        of_each(0, 0, "", true),
        of_each(0, 2, "", true),
        vec![json!({"unknown_method": true, "count": 3})],
        codes().map(|code| json!({"rpc": "Unary", "code": code})).collect(),
        codes().map(|code| json!({"rpc": "ServerStream", "responses": 1, "code": code})).collect(),
    ]
}

/// All but `Unimplemented`, which clients take for an unknown method.
fn codes() -> impl Iterator<Item = u32> {
    (1..=16).filter(|code| *code != 12)
}

fn cancelled() -> Vec<Vec<Value>> {
    // By then the requests are written.
    let after_ms = 300 * slowness();
    let unanswered = |rpc| json!({"rpc": rpc, "count": 3, "concurrency": 3, "sleep_ms": forever_ms(), "cancel_after_ms": after_ms});
    // Of one request none is sent, of three two.
    let held = |(rpc, requests)| {
        json!({
            "rpc": rpc, "count": 3, "concurrency": 3, "requests": requests, "responses": 0,
            "holds": true, "cancel_after_ms": after_ms,
        })
    };
    vec![
        warm(),
        RPCS.map(unanswered).to_vec(),
        vec![json!({
            "rpc": "ServerStream", "count": 3, "responses": 2, "sleep_between_ms": forever_ms(),
            "cancel_after_messages": 1,
        })],
        vec![json!({
            "rpc": "Bidi", "count": 3, "requests": 3, "lockstep": true, "cancel_after_messages": 2,
        })],
        // Before the first request, and before the half-close.
        [("ClientStream", 1), ("ClientStream", 3), ("Bidi", 1), ("Bidi", 3)].map(held).to_vec(),
    ]
}

/// A JVM that has just started takes its time. Most calls of streams are such: the type is what most show.
fn warm() -> Vec<Value> {
    let warm = |rpc| {
        let requests = if ["ClientStream", "Bidi"].contains(&rpc) { 2 } else { 1 };
        let responses = if ["ServerStream", "Bidi"].contains(&rpc) { 2 } else { 1 };
        json!({
            "rpc": rpc, "count": 20, "concurrency": 2, "requests": requests, "responses": responses,
        })
    };
    RPCS.map(warm).to_vec()
}

/// A client resets an expired call early on a busy machine, measured against the header: the deadline
/// is long enough for the daemon to know such a reset from a cancellation.
fn expired(server: &Stack) -> Vec<Vec<Value>> {
    // Where that takes long, 1 % of it is a second.
    let deadline_ms = if slowness() == 1 { 3_000 } else { 100_000 };
    let step = |rpc| json!({"rpc": rpc, "count": 3, "concurrency": 3, "sleep_ms": forever_ms(), "deadline_ms": deadline_ms});
    let tells = |rpc: &&str| !server.races_deadline || ["ServerStream", "Bidi"].contains(rpc);
    let unanswered = RPCS.into_iter().filter(tells).map(step);
    let answered = ["ServerStream", "Bidi"].map(|rpc| json!({
        "rpc": rpc, "count": 3, "concurrency": 3, "responses": 2, "sleep_between_ms": forever_ms(),
        "deadline_ms": deadline_ms,
    }));
    let in_time =
        RPCS.map(|rpc| json!({"rpc": rpc, "count": 3, "deadline_ms": 30_000 * slowness()}));
    vec![warm(), unanswered.chain(answered).collect(), in_time.to_vec()]
}

fn thousand(connections: u32) -> Vec<Vec<Value>> {
    vec![vec![json!({
        "count": 1000, "concurrency": 1000, "connections": connections, "sleep_ms": 300,
        "payload": 100, "response_size": 100,
    })]]
}

fn huge() -> Vec<Vec<Value>> {
    const HUGE: u32 = 5 << 20;
    vec![vec![json!({"count": 3, "concurrency": 3, "payload": HUGE, "response_size": HUGE})]]
}

/// Enough to tell one server's calls from another's, whose number differs.
fn few(count: u32) -> Vec<Vec<Value>> {
    vec![vec![
        json!({"count": count, "payload": 10}),
        json!({"rpc": "Bidi", "count": count, "requests": 2, "code": NOT_FOUND}),
    ]]
}

// Cases.

/// A stack with itself, and a daemon that watches only the server's port.
fn with_port(stack: &Stack, listen: Listen, plan: &Plan) -> Result<()> {
    let server = Server::start(stack, listen)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let (client, did) = Client::start(stack, &server, plan)?.finish()?;
    all_told(&daemon, server, &client, &did)
}

/// Likewise, and tshark sees the same.
fn with_port_recorded(stack: &Stack, listen: Listen, plan: &Plan) -> Result<()> {
    let server = Server::start(stack, listen)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let recording = record(&server)?;
    let (client, did) = Client::start(stack, &server, plan)?.finish()?;
    all_told(&daemon, server, &client, &did)?;
    confirm(recording, &did)
}

/// Likewise, and a daemon that watches everything.
fn without_flags(stack: &Stack, listen: Listen, plan: &Plan) -> Result<()> {
    let server = Server::start(stack, listen)?;
    let daemon = Daemon::start::<&str>(&[])?;
    let (client, did) = Client::start(stack, &server, plan)?.finish()?;
    if listen == Listen::Unix && !daemon.watches_uncounted() {
        return daemon.settle(&[Expected::nothing(&client), Expected::nothing(server.identity())]);
    }
    all_told(&daemon, server, &client, &did)
}

/// Each worker has some of the connections, and so of the calls of each method; it ends as others do.
fn several_workers(stack: &Stack) -> Result<()> {
    let daemon = Daemon::start(&["--workers", "4"])?;
    let server = Server::start(stack, Listen::V4)?;
    let mut plan = kinds();
    plan.extend(thousand(50));
    plan.extend(few(20));
    let (client, did) = Client::start(stack, &server, &plan)?.finish()?;
    all_told(&daemon, server, &client, &did)?;
    let names =
        threads(daemon.pid())?.into_iter().map(|thread| status(daemon.pid(), thread, "Name"));
    let workers = names.filter_map(Result::ok).filter(|name| name.starts_with("worker-")).count();
    ensure!(workers == 4, "{workers} workers");
    daemon.stop()
}

/// What goes over a server's port from now on, if tshark is installed.
fn record(server: &Server) -> Result<Option<Recording>> {
    Ok(if tshark::is_there()? { Some(Recording::of_port(&server.port()?)?) } else { None })
}

/// tshark sees the same calls.
fn confirm(recording: Option<Recording>, clients: &Truth) -> Result<()> {
    if let Some(recording) = recording {
        recording.finish()?.agree(clients)?;
        report::confirmed(TSHARK);
    }
    Ok(())
}

/// The daemon tells all of a plan, of both ends, and tshark the same of what went over the port.
/// `means` is what the client's truth says of the wire.
fn recorded(
    daemon: &Daemon,
    server: &Stack,
    client: &Stack,
    plan: &Plan,
    means: fn(Truth) -> Truth,
) -> Result<()> {
    let server = Server::start(server, Listen::V4)?;
    let recording = record(&server)?;
    let (client, did) = Client::start(client, &server, plan)?.finish()?;
    let did = means(did);
    all_told(daemon, server, &client, &did)?;
    confirm(recording, &did)
}

fn all_told(daemon: &Daemon, server: Server, client: &Identity, did: &Truth) -> Result<()> {
    let expected = [Expected::of_client(client, did), Expected::of_server(server.identity(), did)];
    let settled = daemon.settle(&expected);
    // Before the daemon is blamed.
    agree(&server.stop()?, did)?;
    settled?;
    daemon.settle(&expected).context("once all connections are closed")
}

fn one_of_two_ports(server: &Stack, client: &Stack) -> Result<()> {
    let (chosen, other) = (Server::start(server, Listen::V4)?, Server::start(server, Listen::V4)?);
    let daemon = Daemon::start(&["--port", &chosen.port()?])?;
    let (other_client, _) = Client::start(client, &other, &few(7))?.finish()?;
    let (client, did) = Client::start(client, &chosen, &few(5))?.finish()?;
    daemon.settle(&[
        Expected::of_client(&client, &did),
        Expected::of_server(chosen.identity(), &did),
        Expected::nothing(&other_client),
        Expected::nothing(other.identity()),
    ])?;
    daemon.stop()
}

/// It has served calls under another name before.
fn sets_its_title(server: &Stack, client: &Stack) -> Result<()> {
    const TITLE: &str = "orders-titled";
    let folder = TempDir::with_prefix("title-").context("create a folder")?;
    let [script, wanted] = ["title.cjs", "wanted"].map(|name| folder.path().join(name));
    let text = format!(
        "const {{ existsSync }} = require('node:fs');\n\
         const look = () => {{ if (existsSync({})) process.title = '{TITLE}'; }};\n\
         setInterval(look, 10).unref();\n",
        json!(wanted),
    );
    fs::write(&script, text).context("write a script")?;
    let mut server = server.clone();
    server.env.insert("NODE_OPTIONS".into(), format!("--require={}", script.display()));
    let daemon = Daemon::start(&["--comm", TITLE])?;
    let server = Server::start(&server, Listen::V4)?;
    let (before, _) = Client::start(client, &server, &few(7))?.finish()?;
    daemon.settle(&[Expected::nothing(&before), Expected::nothing(server.identity())])?;
    fs::write(&wanted, []).context("ask for the title")?;
    let name = format!("/proc/{}/comm", server.pid());
    let begin = Instant::now();
    while fs::read_to_string(&name)?.trim_end() != TITLE {
        ensure!(begin.elapsed() < Duration::from_secs(10), "{} has no title", server.identity());
        sleep(Duration::from_millis(10));
    }
    let (client, did) = Client::start(client, &server, &few(20))?.finish()?;
    let titled = Identity { comm: TITLE.into(), ..server.identity().clone() };
    daemon.settle(&[Expected::of_server(&titled, &did), Expected::nothing(&client)])?;
    daemon.stop()
}

fn one_of_two_processes(server: &Stack, client: &Stack) -> Result<()> {
    let (chosen, other) = (Server::start(server, Listen::V4)?, Server::start(server, Listen::V4)?);
    let daemon = Daemon::start(&["--pid", &chosen.pid()])?;
    let (other_client, _) = Client::start(client, &other, &few(7))?.finish()?;
    let (client, did) = Client::start(client, &chosen, &few(5))?.finish()?;
    daemon.settle(&[
        Expected::of_server(chosen.identity(), &did),
        Expected::nothing(&client),
        Expected::nothing(&other_client),
        Expected::nothing(other.identity()),
    ])?;
    daemon.stop()
}

/// The client is of another program than the server.
fn one_of_two_names(server: &Stack, client: &Stack) -> Result<()> {
    let server = Server::start(server, Listen::V4)?;
    let daemon = Daemon::start(&["--comm", &server.identity().comm])?;
    let (client, did) = Client::start(client, &server, &few(5))?.finish()?;
    let server = Expected::of_server(server.identity(), &did);
    daemon.settle(&[server, Expected::nothing(&client)])?;
    daemon.stop()
}

fn in_flight(daemon: &Daemon, stack: &Stack) -> Result<()> {
    const CALLS: u32 = 100;
    const CONNECTIONS: u32 = 2;
    let server = Server::start(stack, Listen::V4)?;
    let plan = [vec![
        json!({"count": CALLS, "concurrency": CALLS, "connections": CONNECTIONS, "sleep_ms": 3000}),
    ]];
    let client = Client::start(stack, &server, &plan)?;
    let pids = [("server", server.pid()), ("client", client.identity().pid.to_string())];
    daemon.wait_until(|metrics| {
        for (role, pid) in &pids {
            for (what, number) in [("in_flight", CALLS), ("connections", CONNECTIONS)] {
                let seen = metrics.sum(&format!("grpc_{role}_{what}"), &[("pid", pid)]);
                if seen.total_cmp(&f64::from(number)).is_ne() {
                    return Err(format!("{what} of the {role}: {seen}, not {number}"));
                }
            }
        }
        Ok(())
    })?;
    let (client, did) = client.finish()?;
    daemon
        .settle(&[Expected::of_client(&client, &did), Expected::of_server(server.identity(), &did)])
}

/// A call whose deadline is over before it begins never gets to the wire.
fn expired_at_once(daemon: &Daemon, stack: &Stack) -> Result<()> {
    let server = Server::start(stack, Listen::V4)?;
    let expired = RPCS.map(|rpc| json!({"rpc": rpc, "count": 3, "deadline_ms": 0}));
    let (client, did) = Client::start(stack, &server, &[expired.to_vec()])?.finish()?;
    ensure!(did.calls.iter().all(|row| row.code == 4), "not all expired: {did:?}");
    daemon.settle(&[Expected::nothing(&client), Expected::nothing(server.identity())])?;
    agree(&server.stop()?, &Truth::default())
}

/// The server sends GOAWAY again and again; its clients' calls go on over new connections.
///
/// Not tonic's: a call that finds its connection closing may fail in the client, before the wire.
fn max_connection_age(server: &Stack, client: &Stack) -> Result<()> {
    let server = Server::start_with(server, Listen::V4, &["--max-connection-age-ms", "400"])?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let step = |rpc| json!({"rpc": rpc, "count": 60, "concurrency": 2, "sleep_ms": 50});
    let plan = [vec![step("Unary"), step("Bidi")]];
    let recording = record(&server)?;
    let (client, did) = Client::start(client, &server, &plan)?.finish()?;
    ensure!(did.calls.iter().all(|row| row.code == 0), "calls failed: {did:?}");
    let opened = daemon.scrape()?.sum("observer_connections_seen_total", &[("protocol", "grpc")]);
    ensure!(opened > 4.0, "{opened} ends of connections: none was aged");
    let Some(recording) = recording else { return all_told(&daemon, server, &client, &did) };
    let wire = recording.finish()?;
    let on_wire = |code| {
        let mut calls = did.clone();
        calls.calls.extend(wire.without_status().map(|(path, calls)| refused(path, code, calls)));
        calls
    };
    wire.agree(&on_wire(CUT))?;
    report::confirmed(TSHARK);
    if wire.without_status().next().is_none() {
        return all_told(&daemon, server, &client, &did);
    }
    let with_refused = on_wire(UNAVAILABLE);
    daemon.settle(&[Expected::of_client(&client, &with_refused)])?;
    let identity = server.identity().clone();
    agree(&server.stop()?, &did)?;
    // A server that has closed the connection has not read what came too late.
    let of_server = [&with_refused, &did].map(|calls| Expected::of_server(&identity, calls));
    daemon.wait_until(|metrics| {
        let differences = of_server.each_ref().map(|expected| expected.difference(metrics));
        if differences.iter().any(Option::is_none) {
            return Ok(());
        }
        Err(differences.into_iter().flatten().collect::<Vec<_>>().join("\nor "))
    })
}

/// Calls that came when the server took no more: their client's library made them again, without
/// telling its application (gRFC A6, "transparent retries").
fn refused(path: &str, code: i32, calls: u64) -> Row {
    Row {
        method: path.to_owned(),
        code,
        requests_unsure: true,
        handling_us: Vec::new(),
        sums: Sums { calls, ..Sums::default() },
    }
}

/// Each attempt is a call on the wire, and so it is counted: the server knows how many there were.
fn repeated(daemon: &Daemon, stack: &Stack, policy: &str) -> Result<()> {
    const CALLS: u32 = 5;
    const ATTEMPTS: u32 = 3;
    let settings = match policy {
        "retryPolicy" => json!({
            "maxAttempts": ATTEMPTS, "initialBackoff": "0.01s", "maxBackoff": "0.01s",
            "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"],
        }),
        _ => json!({
            "maxAttempts": ATTEMPTS, "hedgingDelay": "0.05s",
            "nonFatalStatusCodes": ["UNAVAILABLE"],
        }),
    };
    let config = json!({"methodConfig": [{"name": [{}], policy: settings}]});
    let plan = [vec![json!({"count": CALLS, "code": UNAVAILABLE, "service_config": config})]];
    let server = Server::start(stack, Listen::V4)?;
    let recording = record(&server)?;
    let (client, did) = Client::start(stack, &server, &plan)?.finish()?;
    let calls = |truth: &Truth| truth.calls.iter().map(|row| row.sums.calls).sum::<u64>();
    ensure!(calls(&did) == u64::from(CALLS), "the client tells of other calls: {did:?}");
    let identity = server.identity().clone();
    let attempts = server.stop()?.mirrored();
    ensure!(calls(&attempts) == u64::from(CALLS * ATTEMPTS), "other attempts: {attempts:?}");
    daemon.settle(&[
        Expected::of_client(&client, &attempts),
        Expected::of_server(&identity, &attempts),
    ])?;
    confirm(recording, &attempts)
}

/// The service does not notice.
fn stopping_under_traffic(server: &Stack, client: &Stack) -> Result<()> {
    let server = Server::start(server, Listen::V4)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let plan = [vec![json!({"count": 4000, "concurrency": 8, "connections": 2, "sleep_ms": 5})]];
    let mut client = Client::start(client, &server, &plan)?;
    let handled = |metrics: &Metrics| metrics.sum("grpc_server_handled_total", &[]);
    daemon.wait_until(|metrics| match handled(metrics) {
        calls if calls > 100.0 => Ok(()),
        calls => Err(format!("only {calls} calls seen")),
    })?;
    daemon.stop()?;
    ensure!(client.is_running()?, "the client had done its plan before the daemon ended");
    let (_, did) = client.finish()?;
    ensure!(did.calls.iter().all(|row| row.code == 0), "calls failed: {did:?}");
    let calls: u64 = did.calls.iter().map(|row| row.sums.calls).sum();
    ensure!(calls == 4000, "{calls} of 4000 calls");
    agree(&server.stop()?, &did)
}

/// The daemon refuses with one line that names what is wrong.
fn refuses(args: &[&str], user: User, names: &str) -> Result<()> {
    let listen = free_address()?.to_string();
    let args = [args, &["--listen", &listen]].concat();
    let line = refusal(&args, user)?;
    ensure!(line.contains(names), "the line does not say {names:?}: {line}");
    Ok(())
}

fn refuses_an_address_in_use() -> Result<()> {
    let daemon = Daemon::start::<&str>(&[])?;
    let line = refusal(&["--listen", &daemon.address()], User::Own)?;
    ensure!(line.contains(&daemon.address()), "the line does not name the address: {line}");
    ensure!(daemon.is_ready()?, "the first daemon is no longer ready");
    daemon.stop()
}

fn refuses_without_privileges() -> Result<()> {
    refuses(&[], User::Nobody, "root")
}

fn refuses_bad_ports() -> Result<()> {
    for ports in ["8100-8000", "0", "65536", "http", "1-", "80,,"] {
        refuses(&["--port", ports], User::Own, "port")
            .with_context(|| format!("--port {ports}"))?;
    }
    Ok(())
}

fn refuses_a_silent_log() -> Result<()> {
    refuses(&["--log", "nonsense="], User::Own, "warn,observer::kernel=debug")?;
    refuses(&["--log", "nonsense=info"], User::Own, "such as warn,nonsense=info")
}

/// As a pod has them in whose namespace a Service is called observer.
fn variables() -> Result<()> {
    let check = |variables: &[(&str, &str)]| {
        let mut command = Command::new(binary()?);
        without_ours(&mut command).args(["check", "--listen", "127.0.0.1:0"]);
        command.envs(variables.iter().copied()).output().context("run observer check")
    };
    let of_service = [
        ("OBSERVER_SERVICE_HOST", "10.0.0.1"),
        ("OBSERVER_SERVICE_PORT", "9464"),
        ("OBSERVER_SERVICE_PORT_METRICS", "9464"),
        ("OBSERVER_PORT", "tcp://10.0.0.1:9464"),
        ("OBSERVER_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("OBSERVER_PORT_9464_TCP_ADDR", "10.0.0.1"),
    ];
    let done = check(&of_service)?;
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "a Service's variables are refused: {told}");
    let done = check(&[("OBSERVER_PORTS", "50051")])?;
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.code() == Some(2), "{}: {told}", done.status);
    ensure!(told.lines().count() == 1, "not one line: {told}");
    ensure!(told.contains("did you mean OBSERVER_PORT?"), "it does not say which: {told}");
    Ok(())
}

fn refuses_a_missing_process() -> Result<()> {
    let mut child = Command::new("true").spawn().context("run true")?;
    let pid = child.id().to_string();
    child.wait().context("wait for true")?;
    refuses(&["--pid", &pid], User::Own, &pid)
}

fn refuses_without_btf() -> Result<()> {
    refuses(&["--btf", "/nonexistent/btf"], User::Own, "/nonexistent/btf")
}

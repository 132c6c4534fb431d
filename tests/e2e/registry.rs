//! All cases, in the order in which they are run.

use anyhow::Result;
use rustix::process::Signal;
use serde_json::Value;
use support::daemon::{Daemon, Shared};
use support::peer::Listen;
use support::report::Also::{Confirmed, InPart, Nothing};
use support::report::{CLOCKS, TSHARK};
use support::stack::Stack;
use support::truth::Truth;

use crate::case::{Case, Cases};
use crate::cases::{
    self, connections, declared, gzip, latency, libraries, page, payload, protected, refusals,
    refused, restart, selection, servers, services, tls, top, tunnel,
};
use crate::{comparison, plans};

/// The note on cases without the calls that race the deadline.
const RACES: &str = "without Unary and ClientStream, which its server ends by itself in the moment of \
    the deadline: the two ends may see different codes";

// The functions of cases, by the stacks that they take.
type Alone = fn() -> Result<()>;
type OfStack = fn(&Stack) -> Result<()>;
type OfTwo = fn(&Stack, &Stack) -> Result<()>;

/// All cases of these stacks of gRPC and of Thrift, of a Collector, and of raw peers.
pub(crate) fn cases(
    stacks: &'static [Stack],
    thrift: &'static [Stack],
    collector: Option<&'static Stack>,
) -> Result<Vec<Case>> {
    let mut cases = Cases::default();
    let named = |name: &str| stacks.iter().find(|stack| stack.name == name);
    let (python, threaded, tonic) =
        (named("python-asyncio"), named("python-threaded"), named("tonic"));
    let (go, grpc_js) = (named("grpc-go"), named("grpc-js"));

    of_pairs(&mut cases, stacks);
    over_tls(&mut cases, stacks);
    let shared = Shared::default();
    cases.together("on a selected port", |cases| {
        for server in stacks {
            on_a_selected_port(cases, server);
        }
        for library in libraries::ALL {
            let name = format!("the schema {}, beside its library", library.schema);
            cases.of(&name, Nothing, [named(library.stack)], move |[stack]| {
                library.agrees_with_the_daemon(stack)
            });
        }
    });
    for server in stacks {
        of_server(&mut cases, server, &shared, go);
    }

    for (name, client) in [("grpc-go", go), ("tonic", tonic), ("python-asyncio", python)] {
        let name = format!("started during a call: net/http, {name} calls");
        cases.of(&name, Nothing, [go, client], |[go, client]| {
            restart::daemon_started_during_a_call_counts_the_next(go, &["--net-http"], client)
        });
    }
    for (name, stack) in
        [("python-asyncio", python), ("python-threaded", threaded), ("tonic", tonic)]
    {
        cases.of(&format!("no payload leaves the kernel: {name}"), Nothing, [stack], |[stack]| {
            payload::no_payload_leaves_the_kernel(stack, stack)
        });
    }
    for name in ["grpc-go", "python-asyncio", "tonic"] {
        let case = format!("no payload leaves the kernel over TLS: {name}");
        cases.of(&case, Nothing, [named(name)], |[stack]| {
            payload::no_payload_leaves_the_kernel_over_tls(stack)
        });
    }
    for (name, library, tie) in [("grpc-go", "go", "call"), ("grpc-js", "openssl", "client_random")]
    {
        let stacks = [named(name)];
        cases.of(
            &format!("TLS that is followed is listed: {name}"),
            Nothing,
            stacks,
            move |[stack]| connections::followed_tls_is_listed(stack, library, tie),
        );
    }
    let java = [named("grpc-java")];
    cases.of("TLS of the Java runtime is listed as not followed", Nothing, java, |[java]| {
        connections::tls_of_the_java_runtime_is_listed(java)
    });
    for name in ["grpc-go", "grpc-js", "python-asyncio"] {
        let stacks = [go, named(name)];
        cases.of(&format!("through a proxy: {name}"), Nothing, stacks, |[server, client]| {
            tunnel::calls_through_a_connect_proxy_are_counted(server, client, &plans::kinds())
        });
    }
    for (name, runs) in [
        ("python-asyncio", "client"),
        ("grpc-js", "peer-node"),
        ("grpc-java", "Main"),
        ("grpc-go", "peer"),
        ("tonic", "peer-rust"),
    ] {
        let case = format!("the services of processes: {name}");
        cases.of(&case, Nothing, [named(name)], move |[stack]| {
            services::processes_have_a_service(stack, runs)
        });
    }
    let alone: [(&str, Alone); 6] = [
        ("page: names of any kind are text", page::page_shows_names_of_any_kind),
        ("top: names of any kind, and each key", top::top_shows_names_of_any_kind),
        ("top: TLS and a password", protected::top_asks_by_tls_with_a_password),
        ("top: a password alone", protected::top_asks_with_a_password_alone),
        ("top: a listener of somebody else", protected::top_refuses_a_listener_of_another_user),
        (
            "top: a daemon that wants certificates of clients",
            protected::top_is_refused_without_a_client_certificate,
        ),
    ];
    for (name, run) in alone {
        cases.add(name, Nothing, run);
    }
    let of_tonic: [(&str, OfStack); 8] = [
        (
            "page: the peers' numbers, sorted, filtered, told in detail",
            page::page_shows_the_peers_numbers,
        ),
        (
            "page: open a hundred times, five of them in a browser",
            page::page_is_open_a_hundred_times,
        ),
        ("page: the daemon restarts", page::page_survives_a_restart_of_the_daemon),
        ("top: 200×50", top::top_in_a_large_terminal),
        ("top: 80×24", top::top_in_a_small_terminal),
        ("top: live, of what it watches itself", top::top_shows_what_it_watches_itself),
        ("top: once, as a table and as JSON", top::top_prints_snapshots),
        (
            "--descriptor-set: the declared types, at every scrape",
            declared::declared_types_are_published,
        ),
    ];
    for (name, run) in of_tonic {
        cases.of(name, Nothing, [tonic], move |[tonic]| run(tonic));
    }
    let of_two: [(&str, _, OfTwo); 5] = [
        ("one of two ports", [python, tonic], selection::only_the_selected_port_is_counted),
        ("one of two processes", [tonic, python], selection::only_the_selected_process_is_counted),
        ("one of two names", [tonic, threaded], selection::only_the_selected_name_is_counted),
        (
            "a server that sets process.title, with --comm",
            [grpc_js, tonic],
            selection::process_title_is_selected_by_comm,
        ),
        ("stopping under traffic", [python, tonic], servers::daemon_stops_under_traffic),
    ];
    for (name, stacks, run) in of_two {
        cases.of(name, Nothing, stacks, move |[server, client]| run(server, client));
    }
    let alone: [(&str, Alone); 9] = [
        ("SIGTERM", || Daemon::start(&[])?.stop()),
        ("SIGINT", || Daemon::start(&[])?.end(Signal::INT)),
        ("refuses an address in use", refusals::refuses_an_address_in_use),
        ("refuses to run without privileges", refusals::refuses_without_privileges),
        ("refuses bad ports", refusals::refuses_bad_ports),
        ("refuses a log that leaves out the daemon", refusals::refuses_a_log_without_the_daemon),
        (
            "refuses a variable of no flag, and takes a Service's",
            refusals::refuses_a_variable_of_no_flag,
        ),
        ("refuses a process that is not there", refusals::refuses_a_missing_process),
        ("refuses a kernel without BTF", refusals::refuses_without_btf),
    ];
    for (name, run) in alone {
        cases.add(name, Nothing, run);
    }
    let crashing = services::crashes()?;
    let queried = cases::scraped::case(tonic)?;
    cases.together("that show rates", |cases| {
        let what = "rates, errors, calls in flight, handling times, connections";
        let shown: [(&str, OfStack); 3] = [
            ("page: {what}", page::page_shows_true_figures),
            ("top: {what}: 200×50", top::top_shows_true_figures),
            ("top: {what}: 80×24", top::top_shows_true_figures_in_a_small_terminal),
        ];
        for (name, run) in shown {
            cases.of(&name.replace("{what}", what), Nothing, [tonic], move |[tonic]| run(tonic));
        }
        cases.extend([crashing, queried]);
    });
    cases.extend(cases::backends::cases());
    cases::thrift::add(&mut cases, thrift, python);
    cases::web::add(&mut cases, tonic, grpc_js, go)?;
    cases::otlp::add(&mut cases, python, tonic);
    cases.extend([cases::collected::case(stacks, collector)]);
    cases::translated::add(&mut cases, python)?;
    cases.extend([cases::native::case()?]);
    let proxied = cases::proxied::cases(go, tonic)?;
    cases.together("through proxies", |cases| cases.extend(proxied));
    cases.extend(cases::edges::cases([go, tonic], [python, grpc_js])?);
    cases.extend([cases::etcd::case()?]);
    cases.extend(cases::raw());
    if page::screenshots_wanted().is_some() {
        cases.extend([Case::new("screenshots", move || page::take_screenshots(stacks))]);
    }
    cases.extend([cases::documented::case(&cases.all)]);
    Ok(cases.all)
}

/// Pairs of stacks over TLS.
fn over_tls(cases: &mut Cases, stacks: &'static [Stack]) {
    let shared = Shared::with(&["--tls", "auto"]);
    let pairs = stacks.iter().flat_map(|server| stacks.iter().map(move |client| (server, client)));
    cases.together("over TLS", |cases| {
        for (server, client) in pairs.clone() {
            let daemon = shared.clone();
            let name = format!("over TLS: {} -> {}", client.name, server.name);
            cases.add(&name, Nothing, move || {
                daemon.watch(|daemon| tls::calls_over_tls_are_counted(daemon, server, client))
            });
        }
    });
    // Node.js writes the keys of its connections into a file.
    let with_keys = pairs
        .clone()
        .find(|(server, client)| (&*client.name, &*server.name) == ("grpc-js", "grpc-go"));
    let daemon = shared.clone();
    cases.of(
        "over TLS, with the keys: grpc-js -> grpc-go",
        Confirmed(TSHARK),
        [with_keys.map(|(server, _)| server), with_keys.map(|(_, client)| client)],
        move |[server, client]| {
            daemon.watch(|daemon| tls::calls_over_tls_are_those_of_tshark(daemon, server, client))
        },
    );
    cases.together("over TLS 1.2", |cases| {
        for (server, client) in pairs {
            let Some(suite) = tls::suite_of_1_2(server, client) else { continue };
            let [client_name, server_name] = [client, server].map(|stack| &stack.name);
            let name = format!("TLS 1.2 and client certificates: {client_name} -> {server_name}");
            let daemon = shared.clone();
            cases.add(&name, Nothing, move || {
                daemon.watch(|daemon| {
                    tls::calls_over_tls_1_2_are_counted(daemon, server, client, suite)
                })
            });
        }
    });
}

/// The plans of all pairs of stacks. Only cases of one plan have a daemon in common: a method's type follows from the
/// messages of all its processes.
fn of_pairs(cases: &mut Cases, stacks: &'static [Stack]) {
    type PlanFor = fn(&Stack) -> Vec<Vec<Value>>;
    let plans: [(&str, PlanFor); 4] = [
        ("four kinds of call", |_| plans::kinds()),
        ("errors", |_| plans::errors()),
        ("cancelled", |_| plans::cancelled()),
        ("expired", plans::expired),
    ];
    for (what, plan) in plans {
        let shared = Shared::default();
        let pairs = stacks.iter().flat_map(|server| stacks.iter().map(move |it| (server, it)));
        cases.together(what, |cases| {
            for (server, client) in pairs {
                let expires = what == "expired" && server.resets_expired;
                let means: fn(Truth) -> Truth = if expires { Truth::expired } else { |did| did };
                let in_part = what == "expired" && server.races_deadline;
                let also = if in_part { InPart(TSHARK, RACES) } else { Confirmed(TSHARK) };
                let name = format!("{what}: {} -> {}", client.name, server.name);
                let (daemon, plan) = (shared.clone(), plan(server));
                cases.add(&name, also, move || {
                    daemon.watch(|daemon| {
                        comparison::run_recorded(daemon, server, client, &plan, means)
                    })
                });
            }
        });
    }
}

/// The cases of each stack's server and a daemon that watches only its port.
fn on_a_selected_port(cases: &mut Cases, server: &'static Stack) {
    cases.of_server("messages of 5 MiB", server, Nothing, |server| {
        comparison::run_on_a_selected_port(server, Listen::V4, &plans::huge(), false)
    });
    cases.of_server("IPv6", server, Confirmed(TSHARK), |server| {
        comparison::run_on_a_selected_port(server, Listen::V6, &plans::kinds(), true)
    });
    cases.of_server("--port", server, Confirmed(TSHARK), |server| {
        comparison::run_on_a_selected_port(server, Listen::V4, &plans::kinds(), true)
    });
}

/// The cases of each stack's server; `go` is the client of one.
fn of_server(
    cases: &mut Cases,
    server: &'static Stack,
    shared: &Shared,
    go: Option<&'static Stack>,
) {
    for connections in [1, 50] {
        let name = format!("1000 calls at once, connections {connections}");
        cases.of_server(&name, server, Nothing, move |server| {
            let plan = plans::thousand(connections);
            comparison::run_on_a_selected_port(server, Listen::V4, &plan, false)
        });
    }
    cases.of_server("Unix socket", server, Nothing, |server| {
        comparison::run_over_a_unix_socket(server, &plans::kinds())
    });
    let run = restart::daemon_started_under_load_misses_only_earlier_calls;
    cases.of_server("started under load", server, Nothing, run);
    let watched = (server, shared);
    let run = servers::calls_in_flight_are_counted;
    cases.watched("calls in flight and connections", watched, Nothing, run);
    if server.keeps_expired {
        let run = servers::calls_expired_before_they_begin_are_not_counted;
        cases.watched("expired before they begin", watched, Nothing, run);
    }
    let name = format!("MAX_CONNECTION_AGE: {}", server.name);
    cases.of(&name, Confirmed(TSHARK), [go], move |[go]| {
        servers::calls_go_on_when_connections_age(server, go)
    });
    for policy in &server.policies {
        let name = format!("{policy}, attempts are calls");
        cases.watched(&name, watched, Confirmed(TSHARK), move |daemon, server| {
            servers::retries_and_hedges_count_as_calls(daemon, server, policy)
        });
    }
    let run = servers::calls_are_shared_among_workers;
    cases.of_server("four workers, 50 connections", server, Nothing, run);
    let run = tls::tls_is_counted_and_not_decoded;
    cases.of_server("TLS, counted and not decoded", server, Nothing, run);
    let run = gzip::compressed_messages_count_as_on_the_wire;
    cases.watched("gzip", watched, Confirmed(TSHARK), run);
    if server.repeats_refused {
        let run = refused::refused_stream_and_retry_count_as_two_calls;
        let name = "REFUSED_STREAM, made again by the library";
        cases.of_server(name, server, Confirmed(TSHARK), run);
    }
    let run = latency::handling_time_is_the_handlers;
    cases.of_server("handling time by the handlers' clocks", server, Confirmed(CLOCKS), run);
}

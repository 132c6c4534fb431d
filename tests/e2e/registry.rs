//! All cases, in the order in which they are run.

use anyhow::Result;
use serde_json::Value;
use support::daemon::{Daemon, Shared};
use support::peer::Listen;
use support::report::Also::{Confirmed, InPart, Nothing};
use support::report::{CLOCKS, TSHARK};
use support::stack::Stack;
use support::truth::Truth;

use crate::case::{Case, Cases};
use crate::cases::{
    self, declared, gzip, latency, libraries, page, payload, protected, refusals, refused, restart,
    selection, servers, top, tunnel,
};
use crate::{comparison, plans};

/// What is left out where a server races the deadline.
const RACES: &str = "without Unary and ClientStream, which its server ends by itself in the moment of \
    the deadline: the two ends may see different codes";

/// Of these stacks, and of raw peers.
pub(crate) fn cases(stacks: &'static [Stack]) -> Result<Vec<Case>> {
    let mut cases = Cases::default();
    let named = |name: &str| stacks.iter().find(|stack| stack.name == name);
    let (python, threaded, tonic) =
        (named("python-asyncio"), named("python-threaded"), named("tonic"));
    let (go, grpc_js) = (named("grpc-go"), named("grpc-js"));

    // What a method's messages show of its kind is known of all its processes: only cases of one
    // plan have a daemon in common.
    for (what, plan) in [
        ("four kinds of call", (|_| plans::kinds()) as fn(&Stack) -> Vec<Vec<Value>>),
        ("errors", |_| plans::errors()),
        ("cancelled", |_| plans::cancelled()),
        ("expired", plans::expired),
    ] {
        let shared = Shared::default();
        for (server, client) in pairs(stacks) {
            let (daemon, plan) = (shared.clone(), plan(server));
            let expires = what == "expired" && server.resets_expired;
            let run = move || {
                daemon.watch(|daemon| {
                    comparison::run_recorded(
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
            let run = move || {
                let plan = plans::thousand(connections);
                comparison::run_on_a_selected_port(server, Listen::V4, &plan, false)
            };
            let name = format!("1000 calls at once, connections {connections}: {}", server.name);
            cases.add(&name, Nothing, run);
        }
        let run =
            move || comparison::run_on_a_selected_port(server, Listen::V4, &plans::huge(), false);
        cases.add(&format!("messages of 5 MiB: {}", server.name), Nothing, run);
        let run =
            move || comparison::run_on_a_selected_port(server, Listen::V6, &plans::kinds(), true);
        cases.add(&format!("IPv6: {}", server.name), Confirmed(TSHARK), run);
        let run = move || comparison::run_without_flags(server, Listen::Unix, &plans::kinds());
        cases.add(&format!("Unix socket: {}", server.name), Nothing, run);
        let run =
            move || comparison::run_on_a_selected_port(server, Listen::V4, &plans::kinds(), true);
        cases.add(&format!("--port: {}", server.name), Confirmed(TSHARK), run);
        let run = move || restart::daemon_started_under_load_misses_only_earlier_calls(server);
        cases.add(&format!("started under load: {}", server.name), Nothing, run);
        let daemon = shared.clone();
        let run =
            move || daemon.watch(|daemon| servers::calls_in_flight_are_counted(daemon, server));
        cases.add(&format!("calls in flight and connections: {}", server.name), Nothing, run);
        if server.keeps_expired {
            let daemon = shared.clone();
            let run = move || {
                daemon.watch(|daemon| {
                    servers::calls_expired_before_they_begin_are_not_counted(daemon, server)
                })
            };
            cases.add(&format!("expired before they begin: {}", server.name), Nothing, run);
        }
        let name = format!("MAX_CONNECTION_AGE: {}", server.name);
        cases.of(&name, Confirmed(TSHARK), [go], move |[go]| {
            servers::calls_go_on_when_connections_age(server, go)
        });
        for policy in &server.policies {
            let daemon = shared.clone();
            let run = move || {
                daemon.watch(|daemon| {
                    servers::retries_and_hedges_count_as_calls(daemon, server, policy)
                })
            };
            let name = format!("{policy}, attempts are calls: {}", server.name);
            cases.add(&name, Confirmed(TSHARK), run);
        }
        let run = move || servers::calls_are_shared_among_workers(server);
        cases.add(&format!("four workers, 50 connections: {}", server.name), Nothing, run);
        let daemon = shared.clone();
        let run = move || {
            daemon.watch(|daemon| gzip::compressed_messages_count_as_on_the_wire(daemon, server))
        };
        cases.add(&format!("gzip: {}", server.name), Confirmed(TSHARK), run);
        if server.repeats_refused {
            let run = move || refused::refused_stream_and_retry_count_as_two_calls(server);
            cases.add(
                &format!("REFUSED_STREAM, made again by the library: {}", server.name),
                Confirmed(TSHARK),
                run,
            );
        }
        let run = move || latency::handling_time_is_the_handlers(server);
        cases.add(
            &format!("handling time by the handlers' clocks: {}", server.name),
            Confirmed(CLOCKS),
            run,
        );
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
    for name in ["grpc-go", "grpc-js", "python-asyncio"] {
        let stacks = [go, named(name)];
        cases.of(&format!("through a proxy: {name}"), Nothing, stacks, |[server, client]| {
            tunnel::calls_through_a_connect_proxy_are_counted(server, client, &plans::kinds())
        });
    }
    for library in libraries::all() {
        let name = format!("the schema {library}, beside its library");
        cases.of(&name, Nothing, [named(library.stack())], move |[stack]| {
            library.agrees_with_the_daemon(stack)
        });
    }
    cases.add("page: names of any kind are text", Nothing, page::page_shows_names_of_any_kind);
    for (name, run) in [
        (
            "top: names of any kind, and each key",
            top::top_shows_names_of_any_kind as fn() -> Result<()>,
        ),
        ("top: TLS and a password", protected::top_asks_by_tls_with_a_password),
        ("top: a password alone", protected::top_asks_with_a_password_alone),
        ("top: a listener of somebody else", protected::top_refuses_a_listener_of_another_user),
        (
            "top: a daemon that wants certificates of clients",
            protected::top_is_refused_without_a_client_certificate,
        ),
    ] {
        cases.add(name, Nothing, run);
    }
    for (name, run) in [
        (
            "page: the peers' numbers, sorted, filtered, told in detail",
            page::page_shows_the_peers_numbers as fn(&Stack) -> Result<()>,
        ),
        (
            "page: rates, errors, calls in flight, handling times, connections",
            page::page_shows_true_figures,
        ),
        (
            "page: open a hundred times, five of them in a browser",
            page::page_is_open_a_hundred_times,
        ),
        ("page: the daemon restarts", page::page_survives_a_restart_of_the_daemon),
        ("top: 200×50", top::top_in_a_large_terminal),
        ("top: 80×24", top::top_in_a_small_terminal),
        (
            "top: rates, errors, calls in flight, handling times, connections: 200×50",
            top::top_shows_true_figures,
        ),
        (
            "top: rates, errors, calls in flight, handling times, connections: 80×24",
            top::top_shows_true_figures_in_a_small_terminal,
        ),
        ("top: live, of what it watches itself", top::top_shows_what_it_watches_itself),
        ("top: once, as a table and as JSON", top::top_prints_snapshots),
        (
            "--descriptor-set: the declared types, at every scrape",
            declared::declared_types_are_published,
        ),
    ] {
        cases.of(name, Nothing, [tonic], move |[tonic]| run(tonic));
    }
    for (name, stacks, run) in [
        (
            "one of two ports",
            [python, tonic],
            selection::only_the_selected_port_is_counted as fn(&Stack, &Stack) -> Result<()>,
        ),
        ("one of two processes", [tonic, python], selection::only_the_selected_process_is_counted),
        ("one of two names", [tonic, threaded], selection::only_the_selected_name_is_counted),
        (
            "a server that sets process.title, with --comm",
            [grpc_js, tonic],
            selection::process_title_is_selected_by_comm,
        ),
        ("stopping under traffic", [python, tonic], servers::daemon_stops_under_traffic),
    ] {
        cases.of(name, Nothing, stacks, move |[server, client]| run(server, client));
    }
    cases.add("SIGTERM", Nothing, || Daemon::start::<&str>(&[])?.stop());
    cases.add("SIGINT", Nothing, || Daemon::start::<&str>(&[])?.interrupt());
    cases.add("refuses an address in use", Nothing, refusals::refuses_an_address_in_use);
    cases.add("refuses to run without privileges", Nothing, refusals::refuses_without_privileges);
    cases.add("refuses bad ports", Nothing, refusals::refuses_bad_ports);
    cases.add(
        "refuses a log that leaves out the daemon",
        Nothing,
        refusals::refuses_a_log_without_the_daemon,
    );
    cases.add(
        "refuses a variable of no flag, and takes a Service's",
        Nothing,
        refusals::refuses_a_variable_of_no_flag,
    );
    cases.add("refuses a process that is not there", Nothing, refusals::refuses_a_missing_process);
    cases.add("refuses a kernel without BTF", Nothing, refusals::refuses_without_btf);
    cases.0.extend(cases::backends::cases());
    cases.0.push(cases::scraped::case(tonic)?);
    cases.0.push(cases::native::case()?);
    cases.0.extend(cases::proxied::cases(go, tonic)?);
    cases.0.push(cases::etcd::case()?);
    cases.0.extend(cases::raw());
    if page::screenshots_wanted().is_some() {
        cases.0.push(Case::new("screenshots", move || page::take_screenshots(stacks)));
    }
    cases.0.push(cases::documented::case(&cases.0));
    Ok(cases.0)
}

/// Each server with each client.
fn pairs(stacks: &[Stack]) -> impl Iterator<Item = (&Stack, &Stack)> {
    stacks.iter().flat_map(|server| stacks.iter().map(move |client| (server, client)))
}

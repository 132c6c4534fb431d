//! The service graph: who calls whom, compared with the peers' own records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use support::cluster::{ApiServer, pod, service};
use support::daemon::{Daemon, command};
use support::is_installed;
use support::look::browser::{self, Browser};
use support::look::terminal::Terminal;
use support::look::wait_for;
use support::namespaces::Pair as Namespaces;
use support::openmetrics::{Metrics, label};
use support::pace::slowness;
use support::peer::{Client, Listen, Server};
use support::proxy::{self, Program, Proxy};
use support::raw::process::Start;
use support::raw::{Address as At, Talk};
use support::stack::Stack;
use support::tls::{Certificates, Shown};
use support::truth::{Truth, agree, code_name};

use super::tls::follow;
use crate::case::Case;
use crate::plans;

/// The cases; ignored if a program or a stack is not installed.
pub(crate) fn cases(
    [client, server]: [Option<&'static Stack>; 2],
    alone: [Option<&'static Stack>; 2],
) -> Result<Vec<Case>> {
    let stacks = client.zip(server);
    let mut proxies_are_there = true;
    for program in proxies() {
        proxies_are_there &= program.is_there()?;
    }
    let of = |name: &str, run: fn(&Stack, &Stack) -> Result<()>| {
        Case::new(name, move || {
            let (client, server) = stacks.context("a stack is missing")?;
            run(client, server)
        })
    };
    let chain = of("the service graph: five services in a row, three of them proxies", chain);
    let apart = of("the service graph: a client in another network namespace", apart);
    let named = of("the service graph: names by addresses in a cluster", in_a_cluster);
    let has_namespaces = is_installed("ip", "-V")? && stacks.is_some();
    let many = Case::new("the service graph: a map of 200 edges", many_edges);
    let mut cases = vec![
        many.only_if(browser::is_there()?),
        chain.only_if(proxies_are_there && stacks.is_some()),
        apart.only_if(has_namespaces),
        named.only_if(has_namespaces),
    ];
    for (stack, name) in alone.into_iter().zip(["python-asyncio", "grpc-js"]) {
        for (what, run) in [
            ("both ends of a Unix socket", unix as fn(&Stack) -> Result<()>),
            ("both ends of TLS connections", tls),
            ("connections that are older than the daemon", older),
        ] {
            let case = Case::new(format!("the service graph: {what}: {name}"), move || {
                run(stack.context("a stack is missing")?)
            });
            cases.push(case.only_if(stack.is_some()));
        }
    }
    Ok(cases)
}

fn proxies() -> [&'static Program; 3] {
    let [nginx, haproxy, nghttpx, _] = &proxy::ALL;
    [nginx, haproxy, nghttpx]
}

/// A client and a server.
type Pair<'a> = (&'a str, &'a str);

const LABELS: [&str; 4] = [
    "traces_service_graph_request_total",
    "traces_service_graph_request_failed_total",
    "grpc_edge_handled_total",
    "traces_service_graph_request_server_seconds_count",
];

/// The edges with calls, from client to server.
fn pairs(metrics: &Metrics) -> BTreeSet<Pair<'_>> {
    let series = LABELS.iter().flat_map(|family| metrics.series(family));
    series.map(|(labels, _)| (label(labels, "client"), label(labels, "server"))).collect()
}

/// The calls of an edge by method and code.
fn calls(metrics: &Metrics, (client, server): Pair<'_>) -> BTreeMap<(String, String), u64> {
    let edge = [("client", client), ("server", server)];
    let series = metrics.series_with("grpc_edge_handled_total", &edge);
    let of = |(labels, calls)| {
        let method = format!("/{}/{}", label(labels, "grpc_service"), label(labels, "grpc_method"));
        ((method, label(labels, "grpc_code").to_owned()), calls as u64)
    };
    series.map(of).collect()
}

/// The calls that a peer has recorded, by method and code.
fn recorded(truth: &Truth) -> BTreeMap<(String, String), u64> {
    let mut calls = BTreeMap::new();
    for row in truth.calls.iter().filter(|row| row.sums.calls > 0) {
        let key = (row.method.clone(), code_name(row.code).to_owned());
        *calls.entry(key).or_default() += row.sums.calls;
    }
    calls
}

/// An error if an edge has other calls than these, or durations of others; `seen` is whether its client's end is
/// watched, and its server's.
fn expect(metrics: &Metrics, pair: Pair<'_>, did: &Truth, seen: [bool; 2]) -> Result<()> {
    let (found, want) = (calls(metrics, pair), recorded(did));
    ensure!(found == want, "{pair:?} has the calls {found:?}, not {want:?}");
    let all: u64 = want.values().sum();
    let ok: u64 = want.iter().filter(|((_, code), _)| code == "OK").map(|(_, calls)| calls).sum();
    let virtual_node = if seen == [true; 2] { "" } else { "virtual_node" };
    let edge = [("client", pair.0), ("server", pair.1), ("connection_type", virtual_node)];
    let [client, server] = seen.map(|is_seen| if is_seen { all } else { 0 });
    for (family, want) in [
        ("traces_service_graph_request_total", all),
        ("traces_service_graph_request_failed_total", all - ok),
        ("traces_service_graph_request_client_seconds_count", client),
        ("traces_service_graph_request_server_seconds_count", server),
        ("grpc_edge_client_handling_seconds_count", client),
        ("grpc_edge_server_handling_seconds_count", server),
    ] {
        let found = metrics.sum(family, &edge);
        ensure!(found == want as f64, "{family} of {edge:?} is {found}, not {want}");
    }
    Ok(())
}

/// An error if a label has an address.
fn no_addresses(metrics: &Metrics) -> Result<()> {
    for (family, labels) in metrics.samples().keys() {
        if family.starts_with("traces_") || family.starts_with("grpc_edge_") {
            let is_address =
                |text: &str| text.parse::<IpAddr>().is_ok() || text.contains("127.0.0.1");
            let wrong = labels.values().find(|value| is_address(value));
            ensure!(wrong.is_none(), "{family} has the label value {wrong:?}");
        }
    }
    Ok(())
}

/// Each service calls the next one. All edges have all calls, with their codes.
fn chain(client: &Stack, server_stack: &Stack) -> Result<()> {
    let server = Server::start(server_stack, Listen::V4)?;
    let [nginx, haproxy, nghttpx] = proxies();
    let third = Proxy::start(nghttpx, &format!("127.0.0.1:{}", server.port()?))?;
    let second = Proxy::start(haproxy, &third.address())?;
    let first = Proxy::start(nginx, &second.address())?;
    let ports = [&*first.ports(), &second.ports(), &third.ports(), &server.port()?].join(",");
    let orders = format!("{}=orders", server.identity().comm);
    let names = format!("{orders},nginx=gateway,haproxy=router,nghttpx=mesh,peer=web");
    let flags = ["--service-graph", "--service-name", &names, "--port", &ports, "--workers", "2"];
    let daemon = Daemon::start(&flags)?;
    // It watches one end only, and knows the other by what nginx calls it.
    let ports = second.ports();
    let one = ["--service-graph", "--service-name", &names, "--comm", "nginx", "--port", &ports];
    let of_nginx = Daemon::start(&one)?;
    let small = plans::RPCS.map(|rpc| json!({"rpc": rpc, "count": 20, "concurrency": 4}));
    let plan = [vec![small.to_vec()], plans::errors()];
    let (_, did) = Client::start_to(client, &first.address(), &plan.concat())?.finish()?;
    let row = ["web", "gateway", "router", "mesh", "orders"];
    let edges: BTreeSet<Pair<'_>> = row.iter().copied().zip(row.iter().copied().skip(1)).collect();
    daemon.wait_until(|metrics| {
        let found = pairs(metrics);
        ensure!(found == edges, "the edges are {found:?}, not {edges:?}");
        edges.iter().try_for_each(|pair| expect(metrics, *pair, &did, [true; 2]))
    })?;
    of_nginx.wait_until(|metrics| expect(metrics, ("gateway", "server"), &did, [true, false]))?;
    no_addresses(&of_nginx.scrape()?)?;
    let metrics = daemon.scrape()?;
    no_addresses(&metrics)?;
    ensure!(metrics.sum("observer_edges_overflow_total", &[]) == 0.0, "calls without room");
    if browser::is_there()? {
        is_a_map(&daemon, &row, did.calls.iter().map(|row| row.sums.calls).sum())?;
    }
    in_the_terminal(&daemon, &edges)?;
    for proxy in [first, second, third] {
        proxy.stop()?;
    }
    agree(&server.stop()?, &did)
}

/// Waits until a condition holds on the page.
fn becomes(browser: &Browser, condition: &str) -> Result<()> {
    wait_for(|| {
        let holds = browser.holds(condition)?;
        Ok(holds.then_some(()).with_context(|| format!("never: {condition}")))
    })
}

/// The map of the page has a node for each service, an edge for each two that follow each other, and their calls; it is
/// used by keys, and readable in both modes.
fn is_a_map(daemon: &Daemon, row: &[&str], calls: u64) -> Result<()> {
    let browser = Browser::start()?;
    browser.open(&format!("http://{}/", daemon.address()))?;
    becomes(&browser, "!document.querySelector('#to-map').hidden")?;
    browser.press("g")?;
    let nodes = format!("document.querySelectorAll('#map g.node').length === {}", row.len());
    becomes(&browser, &nodes)?;
    becomes(&browser, "document.querySelector('#calls').hidden")?;
    // From left to right, in the order of the calls.
    let order = browser.run(
        "return [...document.querySelectorAll('#map g.node')]
            .map((node) => [node.getBoundingClientRect().left, node.dataset.name])
            .sort((a, b) => a[0] - b[0]).map(([, name]) => name)",
    )?;
    ensure!(order == json!(row), "the nodes are {order}");
    let table = browser.run(
        "return [...document.querySelectorAll('#map tbody tr')]
            .map((line) => [0, 1, 7].map((at) => line.children[at].textContent).join(' ')).sort()",
    )?;
    let pairs = row.iter().zip(row.iter().skip(1));
    let mut lines: Vec<String> =
        pairs.map(|(client, server)| format!("{client} {server} {calls}")).collect();
    lines.sort();
    ensure!(table == json!(lines), "the table is {table}, not {lines:?}");
    // The keys move through the nodes; Enter picks one out, and Escape ends that.
    browser.press("j\u{e014}")?;
    let second = row.get(1).context("a second service")?;
    let focus = format!("document.activeElement.dataset.name === '{second}'");
    becomes(&browser, &focus)?;
    browser.press("\u{e007}")?;
    becomes(&browser, "document.querySelectorAll('#map .edge.faint').length === 2")?;
    becomes(&browser, "document.querySelectorAll('#map tr.chosen').length === 2")?;
    browser.press("\u{e00c}")?;
    becomes(&browser, "document.querySelectorAll('#map .edge.faint').length === 2")?;
    becomes(&browser, "document.querySelectorAll('#map tr.chosen').length === 0")?;
    // The mode and the map stay after a reload.
    let mut colors = Vec::new();
    for dark in [false, true] {
        browser.look(1280, 800, dark)?;
        colors.push(browser.run(
            "return getComputedStyle(document.querySelector('#map .name')).fill
                + getComputedStyle(document.querySelector('#map')).backgroundColor",
        )?);
        browser.reload()?;
        becomes(&browser, &nodes)?;
    }
    let [light, dark] = &*colors else { bail!("two modes") };
    ensure!(light != dark, "both modes have the colors {light}");
    browser.press("g")?;
    becomes(&browser, "document.querySelector('#map').hidden")?;
    // Without script there is the table.
    browser.scripts(false)?;
    browser.open(&format!("http://{}/", daemon.address()))?;
    let rows = format!("document.querySelectorAll('#map tbody tr').length === {}", lines.len());
    becomes(&browser, &rows)?;
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "the browser complains: {}", complaints.join("\n"));
    Ok(())
}

/// The map is readable with 200 edges: no boxes lie on each other or outside of the picture, their texts are not cut or
/// small, and the figures of one service's edges do not cover each other.
fn many_edges() -> Result<()> {
    const CLIENTS: u32 = 10;
    const SERVERS: u32 = 20;
    let names: Vec<String> = (0..CLIENTS).map(|client| format!("web-{client}")).collect();
    let daemon = Daemon::start(&["--service-graph", "--comm", &names.join(",")])?;
    let mut talks = Vec::new();
    for name in &names {
        let start = Start::named(name)?;
        let mut talk =
            Talk::begin_from(&daemon, "many edges", At::V4(0), [&start, &Start::default()])?;
        let streams: Vec<(u32, String)> = (0..SERVERS)
            .map(|server| (2 * server + 1, format!("service-number-{server}")))
            .collect();
        let path = format!("/{}/Get", talk.service());
        talk.client(|frames| {
            streams.iter().fold(frames, |frames, (stream, server)| {
                let fields = [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", &*path),
                    (":authority", server),
                    ("te", "trailers"),
                    ("content-type", "application/grpc"),
                ];
                frames.headers(*stream, false, &fields).last_message(*stream, 5)
            })
        })?;
        talk.server(|frames| {
            streams.iter().fold(frames, |frames, (stream, _)| {
                // Every fourth call fails.
                frames.response(*stream).trailers(*stream, if stream % 8 == 1 { 14 } else { 0 })
            })
        })?;
        talks.push(talk);
    }
    let all = (CLIENTS * SERVERS) as usize;
    daemon.wait_until(|metrics| {
        let found = pairs(metrics).len();
        ensure!(found == all, "{found} edges, not {all}");
        Ok(())
    })?;
    let browser = Browser::start()?;
    browser.look(1280, 800, false)?;
    browser.open(&format!("http://{}/", daemon.address()))?;
    becomes(&browser, "!document.querySelector('#to-map').hidden")?;
    browser.press("g")?;
    becomes(&browser, &format!("document.querySelectorAll('#map tbody tr').length === {all}"))?;
    becomes(&browser, &format!("document.querySelectorAll('#map path.edge').length === {all}"))?;
    let wrong = browser.run(
        "const wrong = [];
        const box = (it) => it.getBoundingClientRect();
        const covers = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
        const picture = box(document.querySelector('#map svg'));
        const nodes = [...document.querySelectorAll('#map g.node')];
        if (nodes.length !== 30) wrong.push(`${nodes.length} nodes`);
        nodes.forEach((node, at) => {
            const rect = box(node.querySelector('rect'));
            const name = node.dataset.name;
            for (const words of node.querySelectorAll('text')) {
                const of = box(words);
                if (of.right > rect.right || of.bottom > rect.bottom || of.height < 10) wrong.push(`text of ${name}`);
            }
            if (rect.left < picture.left || rect.right > picture.right || rect.top < picture.top
                || rect.bottom > picture.bottom) wrong.push(`${name} is outside`);
            for (const other of nodes.slice(at + 1)) {
                if (covers(rect, box(other.querySelector('rect')))) wrong.push(`${name} on ${other.dataset.name}`);
            }
        });
        if (document.documentElement.scrollWidth > window.innerWidth) wrong.push('wider than the window');
        if ([...document.querySelectorAll('#map text.figures')].some((it) => it.textContent)) wrong.push('figures of all');
        return wrong",
    )?;
    ensure!(wrong == json!([]), "the map: {wrong}");
    // A service's own edges have their figures.
    browser.press("j")?;
    let labels =
        "[...document.querySelectorAll('#map text.figures')].filter((it) => it.textContent)";
    becomes(&browser, &format!("{labels}.length === {SERVERS}"))?;
    let covered = browser.run(&format!(
        "const boxes = {labels}.map((it) => it.getBoundingClientRect());
        return boxes.flatMap((a, at) => boxes.slice(at + 1).filter((b) =>
            a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom)).length",
    ))?;
    ensure!(covered == json!(0), "{covered} figures cover each other");
    becomes(
        &browser,
        &format!(
            "document.querySelectorAll('#map .edge.faint').length === {}",
            all - SERVERS as usize
        ),
    )?;
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "the browser complains: {}", complaints.join("\n"));
    talks.iter_mut().try_for_each(|talk| talk.end_peers())?;
    daemon.stop()
}

/// The map of `observer top` has all edges.
fn in_the_terminal(daemon: &Daemon, edges: &BTreeSet<Pair<'_>>) -> Result<()> {
    let mut top = command(&["top", "--address", &format!("http://{}", daemon.address())])?;
    let mut terminal = Terminal::start(&mut top, 100, 30)?;
    terminal.shows("g map")?;
    terminal.press("g")?;
    terminal.wait_until(|lines| {
        for (client, server) in edges {
            let has =
                |line: &String| line.starts_with(client) && line.contains(&format!("▶ {server}"));
            ensure!(lines.iter().any(has), "no edge from {client} to {server}");
        }
        Ok(())
    })?;
    terminal.end(Some("q"))
}

/// A daemon that watches one end does not know the other, except by a name for its address; one that watches both knows
/// them, wherever they are.
fn apart(client: &Stack, server: &Stack) -> Result<()> {
    let namespaces = Namespaces::new()?;
    let (client, server) = (namespaces.client(client), namespaces.server(server));
    let server = Server::start(&server, Listen::Any)?;
    let (address, of_client) = (Namespaces::SERVER, Namespaces::CLIENT);
    let (port, pid) = (server.port()?, server.pid());
    let names = format!("{}=orders,peer=web", server.identity().comm);
    let daemon = |flags: &[&str]| {
        Daemon::start(&[&["--service-graph", "--service-name", &names][..], flags].concat())
    };
    let [client_name, server_name] = [(of_client, "billing"), (Namespaces::NETWORK, "store")]
        .map(|(at, name)| format!("{at}=peer-{name}"));
    let of_server = ["--pid", &pid, "--port", &port];
    let of_client = ["--comm", "peer", "--port", &port];
    let daemons = [
        (daemon(&["--port", &port])?, ("web", "orders"), [true, true]),
        (daemon(&of_server)?, ("unknown", "orders"), [false, true]),
        (
            daemon(&[&of_server[..], &["--peer-name", &client_name]].concat())?,
            ("peer-billing", "orders"),
            [false, true],
        ),
        (daemon(&of_client)?, ("web", "unknown"), [true, false]),
        (
            daemon(&[&of_client[..], &["--peer-name", &server_name]].concat())?,
            ("web", "peer-store"),
            [true, false],
        ),
    ];
    let plan = [plans::kinds(), plans::errors()].concat();
    let (_, did) = Client::start_to(&client, &format!("{address}:{port}"), &plan)?.finish()?;
    for (daemon, pair, seen) in &daemons {
        daemon.wait_until(|metrics| {
            let found = pairs(metrics);
            ensure!(found == BTreeSet::from([*pair]), "the edges are {found:?}, not {pair:?}");
            expect(metrics, *pair, &did, *seen)
        })?;
        no_addresses(&daemon.scrape()?)?;
    }
    agree(&server.stop()?, &did)
}

/// An end that is not watched has the name of the pod or the Service at its address, and once that address is another
/// pod's, of that one.
fn in_a_cluster(client: &Stack, server: &Stack) -> Result<()> {
    let namespaces = Namespaces::new()?;
    let (client, server) = (namespaces.client(client), namespaces.server(server));
    let server = Server::start(&server, Listen::Any)?;
    let (port, pid) = (server.port()?, server.pid());
    let web = pod("a", "web", Namespaces::CLIENT);
    let api = ApiServer::start(vec![web.clone()], vec![service("store", Namespaces::SERVER)])?;
    let names = format!("{}=orders,peer=caller", server.identity().comm);
    let daemon = |flags: &[&str]| {
        let of_cluster = api.flags();
        let of_cluster: Vec<&str> = of_cluster.iter().map(String::as_str).collect();
        let all = ["--service-graph", "--service-name", &names, "--port", &port];
        Daemon::start(&[&all[..], flags, &of_cluster].concat())
    };
    let (of_server, of_client) = (daemon(&["--pid", &pid])?, daemon(&["--comm", "peer"])?);
    api.wait_for_watches(2)?;
    let address = format!("{}:{port}", Namespaces::SERVER);
    let plan = [plans::kinds(), plans::errors()].concat();
    let (_, did) = Client::start_to(&client, &address, &plan)?.finish()?;
    for (daemon, pair, namespaces, seen) in [
        (&of_server, ("web", "orders"), ["prod", ""], [false, true]),
        (&of_client, ("caller", "store"), ["", "prod"], [true, false]),
    ] {
        daemon.wait_until(|metrics| {
            let found = pairs(metrics);
            ensure!(found == BTreeSet::from([pair]), "the edges are {found:?}, not {pair:?}");
            expect(metrics, pair, &did, seen)?;
            for (labels, _) in metrics.series("traces_service_graph_request_total") {
                let found = ["client_service_namespace", "server_service_namespace"]
                    .map(|name| label(labels, name));
                ensure!(found == namespaces, "{found:?} are the namespaces of {pair:?}");
            }
            Ok(())
        })?;
        no_addresses(&daemon.scrape()?)?;
    }
    api.tell("DELETED", &web)?;
    api.tell("ADDED", &pod("b", "mobile", Namespaces::CLIENT))?;
    // Nothing says when the daemon has read it.
    let one = [vec![json!({"count": 1})]];
    let mut calls = 0;
    wait_for(|| {
        let (_, did) = Client::start_to(&client, &address, &one)?.finish()?;
        calls += recorded(&did).values().sum::<u64>();
        let metrics = of_server.scrape()?;
        let is_named = pairs(&metrics).contains(&("mobile", "orders"));
        Ok(is_named.then_some(()).context("the address has its old name"))
    })?;
    let first: u64 = recorded(&did).values().sum();
    of_server.wait_until(|metrics| {
        let found = pairs(metrics);
        let all = metrics.sum("traces_service_graph_request_total", &[("server", "orders")]);
        ensure!(all == (first + calls) as f64, "{all} calls of {first} and {calls}: {found:?}");
        // Between both events, the address had no name.
        let may_be = ["web", "mobile", "unknown"];
        ensure!(found.iter().all(|(client, _)| may_be.contains(client)), "{found:?}");
        Ok(())
    })?;
    of_server.stop()?;
    of_client.stop()?;
    server.stop()?;
    Ok(())
}

/// The figures of each edge: calls, and those with durations of clients and of servers. An edge is a client, a server and
/// the type of the connection.
fn figures(metrics: &Metrics) -> BTreeMap<[String; 3], [u64; 3]> {
    let mut edges = BTreeMap::<_, [u64; 3]>::new();
    for (at, family) in [
        "traces_service_graph_request_total",
        "traces_service_graph_request_client_seconds_count",
        "traces_service_graph_request_server_seconds_count",
    ]
    .into_iter()
    .enumerate()
    {
        for (labels, value) in metrics.series(family) {
            let edge = ["client", "server", "connection_type"].map(|name| label(labels, name));
            if let Some(sum) = edges.entry(edge.map(str::to_owned)).or_default().get_mut(at) {
                *sum += value as u64;
            }
        }
    }
    edges.retain(|_, figures| *figures != [0; 3]);
    edges
}

/// What came to the edges since then.
fn since(metrics: &Metrics, before: &Metrics) -> BTreeMap<[String; 3], [u64; 3]> {
    let (mut edges, before) = (figures(metrics), figures(before));
    for (edge, figures) in &mut edges {
        let earlier = before.get(edge).copied().unwrap_or_default();
        for (sum, earlier) in figures.iter_mut().zip(earlier) {
            *sum = sum.saturating_sub(earlier);
        }
    }
    edges.retain(|_, figures| *figures != [0; 3]);
    edges
}

/// The edge of both ends of a stack, which have the names of their programs.
fn tied() -> [String; 3] {
    ["client", "server", ""].map(str::to_owned)
}

/// An error unless all of these calls are on the edge of both ends since then.
fn are_tied(daemon: &Daemon, before: &Metrics, did: &Truth) -> Result<()> {
    let calls = recorded(did).values().sum();
    daemon.wait_until(|metrics| {
        let (found, want) = (since(metrics, before), BTreeMap::from([(tied(), [calls; 3])]));
        ensure!(found == want, "the edges are {found:?}, not {want:?}");
        Ok(())
    })
}

fn unix(stack: &Stack) -> Result<()> {
    let server = Server::start(stack, Listen::Unix)?;
    let daemon = Daemon::start(&["--service-graph"])?;
    if !daemon.watches_uncounted() {
        return daemon.stop();
    }
    let before = daemon.scrape()?;
    let plan = [plans::kinds(), plans::errors()].concat();
    let (_, did) = Client::start(stack, &server, &plan)?.finish()?;
    are_tied(&daemon, &before, &did)?;
    daemon.stop()?;
    agree(&server.stop()?, &did)
}

fn tls(stack: &Stack) -> Result<()> {
    let certificates = Certificates::new()?;
    let stack = certificates.stack(stack, Shown::ByServer);
    let server = Server::start(&stack, Listen::V4)?;
    let daemon = Daemon::start(&["--service-graph", "--tls", "auto", "--port", &server.port()?])?;
    follow(&daemon, &server, &stack)?;
    let before = daemon.scrape()?;
    let plan = [plans::kinds(), plans::errors()].concat();
    let (_, did) = Client::start(&stack, &server, &plan)?.finish()?;
    are_tied(&daemon, &before, &did)?;
    daemon.stop()
}

/// All calls of connections that are older than the daemon are on the edge of both ends, except the first ones, after
/// which it knows that these belong together.
fn older(stack: &Stack) -> Result<()> {
    const FIRST: u64 = 5;
    let server = Server::start(stack, Listen::V4)?;
    let step = json!({"rpc": "Unary", "count": 150, "sleep_ms": 30 * slowness()});
    let mut client = Client::start(stack, &server, &[vec![step]])?;
    server.wait_for_connection()?;
    let daemon = Daemon::start(&["--service-graph", "--port", &server.port()?])?;
    daemon.wait_for_sum("observer_connections", &[("state", "joined_late")], 2.0..)?;
    ensure!(client.is_running()?, "the client ended before it was joined");
    let (_, did) = client.finish()?;
    daemon.wait_until(|metrics| {
        let mut found = figures(metrics);
        let [calls, by_client, by_server] = found.remove(&tied()).context("no edge is tied")?;
        // The client's end counts, the other has durations of the same calls.
        ensure!(
            by_client <= calls && by_server <= calls + FIRST,
            "{calls} {by_client} {by_server}"
        );
        let rest: u64 = found.values().map(|[calls, ..]| calls).sum();
        ensure!(rest <= 2 * FIRST, "{rest} calls are on {found:?}");
        let ended = metrics.sum("grpc_client_handled_total", &[]) as u64;
        ensure!(calls + FIRST >= ended, "{calls} of {ended} calls are tied");
        Ok(())
    })?;
    daemon.stop()?;
    agree(&server.stop()?, &did)
}

//! Proxies between a client and a server. All four ends are compared: the client's, both of the proxy, and the
//! server's.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::expected::Expected;
use support::losses;
use support::openmetrics::Metrics;
use support::peer::{Client, Identity, Listen, Server};
use support::proxy::{self, HAPROXY_CHAIN, Program, Proxy};
use support::stack::Stack;
use support::truth::{Row, Truth, agree};

use super::servers::refused_calls;
use super::{NOT_FOUND, UNAVAILABLE};
use crate::case::Case;
use crate::plans;

/// The cases; ignored if the proxy or a stack is not installed.
pub(crate) fn cases(
    client: Option<&'static Stack>,
    server: Option<&'static Stack>,
) -> Result<Vec<Case>> {
    let stacks = client.zip(server);
    let reloaded = proxy::ALL.iter().map(|program| {
        let name = format!("through {}, also while it is reloaded", program.name);
        case(name, program, stacks, through)
    });
    let chain = "through haproxy three times, with PROXY headers in between".into();
    reloaded.chain([case(chain, &HAPROXY_CHAIN, stacks, through_chain)]).collect()
}

fn case(
    name: String,
    program: &'static Program,
    stacks: Option<(&'static Stack, &'static Stack)>,
    run: fn(&'static Program, &Stack, &Stack) -> Result<()>,
) -> Result<Case> {
    let case = Case::new(name, move || {
        let (client, server) = stacks.context("a stack is missing")?;
        run(program, client, server)
    });
    Ok(case.only_if(program.is_there()? && stacks.is_some()))
}

fn through_chain(program: &'static Program, client: &Stack, server_stack: &Stack) -> Result<()> {
    let server = Server::start(server_stack, Listen::V4)?;
    let proxy = Proxy::start(program, &format!("127.0.0.1:{}", server.port()?))?;
    let daemon = Daemon::start(&["--port", &format!("{},{}", proxy.ports(), server.port()?)])?;
    // Fewer calls at once than in other cases: with more, haproxy waits for itself for ever. And none that its client
    // gives up: sometimes haproxy does not pass the reset on to itself before something else comes.
    let small = plans::RPCS.map(|rpc| json!({"rpc": rpc, "count": 20, "concurrency": 4}));
    let plan = [vec![small.to_vec()], plans::errors()];
    let (client, did) = Client::start_to(client, &proxy.address(), &plan.concat())?.finish()?;
    let thrice = Truth { pid: 0, calls: [&*did.calls; 3].concat() };
    let identity = proxy.identity()?;
    let between = Expected::of_server(&identity, &thrice)
        .and(Expected::of_client(&identity, &thrice))
        .with(proxy.pids().iter().copied());
    daemon.settle(&[
        Expected::of_client(&client, &did),
        between,
        Expected::of_server(server.identity(), &did),
    ])?;
    no_gaps(&daemon)?;
    proxy.stop()?;
    agree(&server.stop()?, &did)
}

fn no_gaps(daemon: &Daemon) -> Result<()> {
    let gaps = daemon.scrape()?.sum("observer_gaps_total", &[]);
    ensure!(losses::kernel_may_skip_programs() || gaps == 0.0, "{gaps} gaps");
    Ok(())
}

fn through(program: &'static Program, client_stack: &Stack, server_stack: &Stack) -> Result<()> {
    let server = Server::start(server_stack, Listen::V4)?;
    let proxy = Proxy::start(program, &format!("127.0.0.1:{}", server.port()?))?;
    let daemon = Daemon::start(&["--port", &format!("{},{}", proxy.ports(), server.port()?)])?;
    let mut ends = Ends { proxy, server: server.identity().clone(), all: Truth::default() };

    // A call that its client gives up has the same code at all ends: nginx closes its connection to the server,
    // haproxy and Caddy reset the stream with CANCEL, nghttpx with INTERNAL_ERROR. Proxies do not change the
    // deadline's timeout.
    let plan = [plans::kinds(), plans::errors(), plans::cancelled(), plans::expired(server_stack)];
    let client = Client::start_to(client_stack, &ends.proxy.address(), &plan.concat())?;
    let (client, did) = client.finish()?;
    ends.all.calls.extend(did.calls.iter().cloned());
    daemon.settle(&ends.expected(&client, &did, &Truth::default())?).context("at rest")?;

    let (client, did) = reloaded(&daemon, &mut ends, client_stack)?;
    ends.all.calls.extend(did.calls.iter().cloned());
    let pids = ends.proxy.pids().iter().map(u32::to_string).collect::<Vec<_>>();
    let metrics = daemon.scrape()?;
    let by_client = refused(&metrics, "client", &[client.pid.to_string()], &did)?;
    let did = Truth { calls: [did.calls, by_client].concat(), ..did };
    let refused = Truth { pid: 0, calls: refused(&metrics, "server", &pids, &ends.all)? };
    daemon.settle(&ends.expected(&client, &did, &refused)?).context("while it is reloaded")?;
    agree(&server.stop()?, &ends.all)?;

    // A proxy without a server answers with an HTTP status only, and its text is not a message.
    let gone = [vec![json!({"unknown_method": true, "count": 3})]];
    let client = Client::start_to(client_stack, &ends.proxy.address(), &gone)?;
    let (client, mut did) = client.finish()?;
    // The proxy may answer before the request's message is written.
    did.calls.iter_mut().for_each(|row| row.requests_unsure = true);
    let unavailable = did.calls.iter().all(|row| row.code == UNAVAILABLE);
    ensure!(unavailable, "calls without a server: {did:?}");
    let by_proxy = Truth { pid: 0, calls: [&*refused.calls, &*did.calls].concat() };
    daemon.settle(&ends.expected(&client, &did, &by_proxy)?).context("without a server")?;

    no_gaps(&daemon)?;
    ends.proxy.stop()?;
    daemon.settle(&[Expected::of_server(&ends.server, &ends.all)]).context("at the end")
}

/// Has a client make calls, and reloads the proxy during them.
fn reloaded(daemon: &Daemon, ends: &mut Ends, stack: &Stack) -> Result<(Identity, Truth)> {
    const BEFORE: f64 = 200.0;
    let pid = ends.server.pid.to_string();
    let handled = |metrics: &Metrics| metrics.sum("grpc_server_handled_total", &[("pid", &pid)]);
    let begun = handled(&daemon.scrape()?);
    let mut client = Client::start_to(stack, &ends.proxy.address(), &load())?;
    daemon.wait_until(|metrics| {
        let streams = [("pid", &*pid), ("grpc_method", "ServerStream")];
        let open = metrics.sum("grpc_server_in_flight", &streams);
        let done = handled(metrics) - begun;
        let is_busy = open > 0.0 && done > BEFORE;
        ensure!(is_busy, "{open} streams are open, {done} calls have ended");
        Ok(())
    })?;
    ends.proxy.reload()?;
    ensure!(client.is_running()?, "all was done before the proxy was reloaded");
    let did = client.finish()?;
    let ok = did.1.calls.iter().all(|row| [0, NOT_FOUND].contains(&row.code));
    ensure!(ok, "calls failed: {:?}", did.1);
    let metrics = daemon.scrape()?;
    let served =
        |pid: &&u32| metrics.sum("grpc_server_started_total", &[("pid", &pid.to_string())]);
    let serving = ends.proxy.pids().iter().filter(|pid| served(pid) > 0.0).count();
    let expected = if ends.proxy.is_taken_over() { 2 } else { 1 };
    ensure!(serving == expected, "{serving} of its processes have served, not {expected}");
    Ok(did)
}

/// The plan during a reload: many calls, and some that stay open.
fn load() -> Vec<Vec<Value>> {
    vec![vec![
        json!({"count": 1200, "concurrency": 4, "connections": 2, "sleep_ms": 5, "payload": 100}),
        json!({"count": 100, "code": NOT_FOUND, "sleep_ms": 10}),
        json!({
            "rpc": "ServerStream", "count": 12, "concurrency": 6, "responses": 4,
            "sleep_between_ms": 400,
        }),
    ]]
}

/// The calls that an old process refused and the client's library repeated. The application does not see them, so
/// their number is not known, but it is at most that of calls at the same time.
fn refused(metrics: &Metrics, role: &str, pids: &[String], heard_of: &Truth) -> Result<Vec<Row>> {
    const AT_ONCE: u64 = 11;
    let mut rows = Vec::new();
    for method in ["Unary", "ServerStream"] {
        let path = format!("/observer.test.v1.Echo/{method}");
        let known = heard_of.calls.iter().filter(|row| row.method == path);
        let known = known.filter(|row| row.code == UNAVAILABLE);
        let known: u64 = known.map(|row| row.sums.calls).sum();
        let of = |pid: &String| {
            let labels = [("pid", &**pid), ("grpc_method", method), ("grpc_code", "Unavailable")];
            metrics.sum(&format!("grpc_{role}_handled_total"), &labels)
        };
        let calls = (pids.iter().map(of).sum::<f64>() as u64).saturating_sub(known);
        ensure!(calls <= AT_ONCE, "{calls} calls of {method} were refused");
        if calls > 0 {
            rows.push(refused_calls(&path, UNAVAILABLE, calls));
        }
    }
    Ok(rows)
}

/// The watched processes, without the clients.
struct Ends {
    proxy: Proxy,
    server: Identity,
    /// The calls of all clients that reached the server.
    all: Truth,
}

impl Ends {
    /// The expected numbers of all four ends: `did` are the client's calls, `by_proxy` those that the proxy answered
    /// itself.
    fn expected(&self, client: &Identity, did: &Truth, by_proxy: &Truth) -> Result<[Expected; 3]> {
        let proxy = self.proxy.identity()?;
        let served = Truth { pid: 0, calls: [&*self.all.calls, &*by_proxy.calls].concat() };
        let between =
            Expected::of_server(&proxy, &served).and(Expected::of_client(&proxy, &self.all));
        Ok([
            Expected::of_client(client, did),
            between.with(self.proxy.pids().iter().copied()),
            Expected::of_server(&self.server, &self.all),
        ])
    }
}

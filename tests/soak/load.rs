//! The load: a server of each stack, and clients that call them in turns.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use support::breakpoints;
use support::expected::Expected;
use support::footprint::status;
use support::openmetrics::{Metrics, label};
use support::peer::{Client, Identity, Listen, Server};
use support::stack::{Stack, package};
use support::tls::{Certificates, Shown};
use support::truth::{Truth, agree, code_name};

/// The interpreter of the programs in this folder.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Makes a container of the namespaces that the shell starts in: `/usr` is an overlay, as an image's files are.
const CONTAINER: &str = "mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay none -o lowerdir=/usr,upperdir=/mnt/upper,workdir=/mnt/work /usr
exec \"$@\"";

/// A file in this folder.
pub(crate) fn script(name: &str) -> String {
    package().join(Path::new("soak")).join(name).to_string_lossy().into_owned()
}

/// The servers and the stacks of their clients.
pub(crate) struct Peers {
    stacks: Vec<Stack>,
    servers: Vec<Server>,
}

/// The plan of one client, which is carried out.
#[derive(Clone)]
pub(crate) struct Round {
    /// The index of the server.
    server: usize,
    client: Identity,
    truth: Truth,
}

/// All calls of these rounds.
pub(crate) fn calls(rounds: &[Round]) -> u64 {
    rounds.iter().flat_map(|round| &round.truth.calls).map(|row| row.sums.calls).sum()
}

impl Peers {
    /// Starts a server of each stack, and of stacks under special circumstances.
    pub(crate) fn start(stacks: &[Stack], certificates: &Certificates) -> Result<Self> {
        let named = |name: &str| {
            let stack = stacks.iter().find(|stack| stack.name == name);
            stack.with_context(|| format!("the stack {name} could not be prepared"))
        };
        let (go, node) = (named("grpc-go")?, named("grpc-js")?);
        let mut all = stacks.to_vec();
        let mut growing = renamed(go.with(&["--deep-stacks"]), "stacks that grow");
        // Stacks shrink while garbage is collected.
        growing.env.insert("GOGC".into(), "10".into());
        all.push(growing);
        let confined = within(go, &[PYTHON, &script("confined.py")]);
        all.push(renamed(confined, "a system call filter"));
        let namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let container = [&namespaces[..], &["sh", "-euc", CONTAINER, "sh"]].concat();
        all.push(renamed(within(node, &container), "a container"));

        let stacks: Vec<Stack> =
            all.iter().map(|stack| certificates.stack(stack, Shown::ByServer)).collect();
        let start = |stack| Server::start(stack, Listen::V4);
        let servers = stacks.iter().map(start).collect::<Result<_>>()?;
        Ok(Self { stacks, servers })
    }

    pub(crate) fn len(&self) -> usize {
        self.stacks.len()
    }

    /// Carries out one plan after the other with this client's stack, each with the next server, until `over`.
    pub(crate) fn call(&self, client: usize, over: &AtomicBool) -> Result<Vec<Round>> {
        let stack = self.stacks.get(client).context("a client")?;
        let servers = self.servers.iter().enumerate().cycle().skip(client);
        let mut rounds = Vec::new();
        for (number, server) in servers {
            let name = format!("{} -> {}", stack.name, server.identity());
            let (client, mut truth) = Client::start(stack, server, &plan())
                .and_then(Client::finish)
                .with_context(|| name.clone())?;
            succeeded(&truth).context(name)?;
            for row in &mut truth.calls {
                row.handling_us = Vec::new();
            }
            rounds.push(Round { server: number, client, truth });
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(rounds)
    }

    /// An error if a server has ended.
    pub(crate) fn are_running(&self) -> Result<()> {
        for server in &self.servers {
            let pid = server.identity().pid;
            let state = status(pid, pid, "State").unwrap_or_default();
            let is_running = !state.is_empty() && !state.starts_with(['Z', 'X']);
            ensure!(is_running, "{} has ended", server.identity());
        }
        Ok(())
    }

    /// Waits until all servers have probes, or none has one.
    pub(crate) fn await_probes(&self, wanted: bool, within: Duration) -> Result<()> {
        let begin = Instant::now();
        for server in &self.servers {
            let who = server.identity();
            loop {
                let found =
                    breakpoints::addresses(who.pid, "/").with_context(|| who.to_string())?.len();
                if (found > 0) == wanted {
                    break;
                }
                ensure!(begin.elapsed() < within, "{who} has {found} probes after {within:?}");
                sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    /// An error if a daemon has published a status that no call had: all calls succeed.
    pub(crate) fn have_no_other_status(&self, metrics: &Metrics) -> Result<()> {
        for server in &self.servers {
            let who = server.identity();
            let of_server = [("pid", &*who.pid.to_string())];
            for (labels, calls) in metrics.series_with("grpc_server_handled_total", &of_server) {
                let is_possible = ["OK", "not_seen"].contains(&label(labels, "grpc_code"));
                ensure!(is_possible || calls == 0.0, "{calls} calls of {who}: {labels:?}");
            }
        }
        Ok(())
    }

    /// The numbers of all servers and clients after these rounds.
    pub(crate) fn expected(&self, rounds: &[Round]) -> Vec<Expected> {
        let of_servers = self.servers.iter().enumerate().map(|(number, server)| {
            Expected::of_server(server.identity(), &of_server(number, rounds))
        });
        let of_client = |round: &Round| Expected::of_client(&round.client, &round.truth);
        of_servers.chain(rounds.iter().map(of_client)).collect()
    }

    /// Stops the servers. An error if their records are not those of their clients.
    pub(crate) fn stop(self, rounds: &[Round]) -> Result<()> {
        for (number, server) in self.servers.into_iter().enumerate() {
            let name = server.identity().to_string();
            agree(&server.stop()?, &of_server(number, rounds)).context(name)?;
        }
        Ok(())
    }
}

fn renamed(stack: Stack, what: &str) -> Stack {
    Stack { name: format!("{}, {what}", stack.name), ..stack }
}

/// The stack with its server as the last arguments of another program.
fn within(stack: &Stack, words: &[&str]) -> Stack {
    let mut server: Vec<String> = words.iter().copied().map(str::to_owned).collect();
    server.extend(stack.server.iter().cloned());
    Stack { server, ..stack.clone() }
}

/// Ten seconds of calls of all kinds, over several connections.
fn plan() -> Vec<Vec<Value>> {
    let step = |rpc, count, requests, responses, size| {
        json!({
            "rpc": rpc, "count": count, "concurrency": 2, "connections": 2, "requests": requests,
            "responses": responses, "payload": size, "response_size": size, "sleep_ms": 20,
        })
    };
    vec![
        vec![
            step("Unary", 800, 1, 1, 100),
            step("ServerStream", 200, 1, 4, 1_000),
            step("ClientStream", 200, 4, 1, 1_000),
            step("Bidi", 200, 3, 3, 10_000),
        ],
        vec![step("Unary", 20, 1, 1, 500_000)],
    ]
}

/// An error unless all calls of the plan have succeeded.
fn succeeded(truth: &Truth) -> Result<()> {
    if let Some(row) = truth.calls.iter().find(|row| row.code != 0) {
        bail!("{} calls of {} ended with {}", row.sums.calls, row.method, code_name(row.code));
    }
    let planned: u64 = plan().iter().flatten().filter_map(|step| step.get("count")?.as_u64()).sum();
    let made: u64 = truth.calls.iter().map(|row| row.sums.calls).sum();
    ensure!(made == planned, "{made} of {planned} calls were made");
    Ok(())
}

/// The calls of all clients of a server.
fn of_server(number: usize, rounds: &[Round]) -> Truth {
    let rounds = rounds.iter().filter(|round| round.server == number);
    Truth { pid: 0, calls: rounds.flat_map(|round| round.truth.calls.clone()).collect() }
}

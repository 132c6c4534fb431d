//! The cost of watching, compared with the same work unwatched and with other ways: `cargo xtask
//! bench [NAME…] [--json FILE] [--plot]`.
//!
//! Each benchmark is a function of a module that adds figures to its results: medians over repeats, with minimum and
//! maximum. Things that are compared are measured in turns, because the machine may be shared; a ratio is of one
//! turn. It needs root, as the daemon does.

#![deny(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "saying what was measured is what this program is for"
)]

mod attacked;
mod backends;
mod calls;
mod deadlines;
mod document;
mod figures;
mod footprint;
mod joins;
mod load;
#[expect(unsafe_code, reason = "it is in C")]
mod nghttp2;
mod otlp;
mod protocol;
mod rows;
mod service;
mod throughput;
mod tls;
mod versions;
mod watch;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use figures::Results;
use support::stack::{self, Stack};

/// A benchmark: its name, its subject, and its function.
struct Bench {
    name: &'static str,
    about: &'static str,
    run: fn(&Peers, &mut Results) -> Result<()>,
}

const BENCHES: [Bench; 21] = [
    Bench {
        name: "throughput",
        about: "Throughput of saturated services, watched and bare: unary calls of 20 bytes",
        run: throughput::services,
    },
    Bench {
        name: "inprocess",
        about: "The same service with a metrics library in it, compared with the service watched",
        run: throughput::libraries,
    },
    Bench {
        name: "tls",
        about: "Throughput of saturated services over TLS, watched with --tls auto and bare: 16 unary calls of 20 bytes at once. Memory of their probed code, and the CPU time of a hit of a probe",
        run: tls::services,
    },
    Bench {
        name: "unrelated",
        about: "Throughput of work without gRPC, watched and bare",
        run: |_, results| throughput::unrelated(results),
    },
    Bench {
        name: "backends",
        about: "The backends that this machine allows, in turns",
        run: backends::compared,
    },
    Bench {
        name: VERSIONS,
        about: "Another build of the daemon and this one, in turns: tonic, 16 calls at once",
        run: versions::compared,
    },
    Bench {
        name: "attacked",
        about: "The cost of watching a service under attack: tonic, 16 calls of others at once",
        run: attacked::costs,
    },
    Bench {
        name: "calls",
        about: "The cost of a finished call, which is one side of a unary call, to the kernel and the daemon: tonic, 16 calls at once",
        run: calls::costs,
    },
    Bench {
        name: "streaming",
        about: "The cost of a message: a million of 20 bytes over four streams",
        run: calls::streaming,
    },
    Bench {
        name: "completeness",
        about: "Calls seen with method and code, at both ends, for each call made",
        run: calls::completeness,
    },
    Bench {
        name: "deadlines",
        about: "Status of calls that expired or were canceled, compared with what their clients know",
        run: deadlines::told,
    },
    Bench {
        name: "otlp",
        about: "The cost of a finished call, which is one side of a unary call, to the daemon with and without a span of it exported by OTLP over HTTP, sampled 1 in 1: tonic, 16 calls at once, 10,000 in a row",
        run: otlp::costs,
    },
    Bench {
        name: "joins",
        about: "Whether the spans of both ends of a call are joined, and never those of two calls: a million connections with one call each, from 4,000 ports",
        run: |_, results| joins::counted(results),
    },
    Bench {
        name: "growth",
        about: "The cost of a finished call with more connections, methods and workers",
        run: calls::growth,
    },
    Bench {
        name: "hpack",
        about: "Field blocks, compared with other decoders",
        run: |_, results| protocol::hpack(results),
    },
    Bench {
        name: "scanner",
        about: "The scanner by itself, over bytes in memory",
        run: |_, results| protocol::scanner(results),
    },
    Bench { name: "memory", about: "Memory, and the time to start", run: footprint::memory },
    Bench {
        name: "scrape",
        about: "Time of a scrape, and calls that are seen during scrapes",
        run: footprint::scrape,
    },
    Bench {
        name: "schemas",
        about: "Series and text of a row, a method of a process on one side: unary calls that end with OK, both ends watched",
        run: |_, results| rows::schemas(results),
    },
    Bench {
        name: "rows",
        about: "Time and memory of a scrape, by the number of rows",
        run: |_, results| rows::scrapes(results),
    },
    Bench {
        name: "edges",
        about: "Memory of an edge of the service graph, one method between two services: 3,000 methods, one call each, both ends watched",
        run: |_, results| rows::edges(results),
    },
];

/// It is not in the document: what it was compared with is not in the project.
const VERSIONS: &str = "versions";

/// The stacks to measure, and the daemon's program.
pub(crate) struct Peers {
    stacks: Vec<Stack>,
    daemon: PathBuf,
    baseline: Option<PathBuf>,
}

impl Peers {
    fn prepare(daemon: PathBuf, baseline: Option<PathBuf>) -> Result<Self> {
        let mut stacks = stack::prepare()?;
        // A release build, as services have it.
        if let Some(tonic) = stacks.iter_mut().find(|stack| stack.name == "tonic") {
            for words in [&mut tonic.server, &mut tonic.client] {
                let program = words.first_mut().context("tonic's peer has no program")?;
                *program = env::var("OBSERVER_BENCH_PEER").context("OBSERVER_BENCH_PEER")?;
            }
        }
        Ok(Self { stacks, daemon, baseline })
    }

    pub(crate) fn stack(&self, name: &str) -> Result<Stack> {
        let stack = self.stacks.iter().find(|stack| stack.name == name);
        stack.cloned().with_context(|| format!("the stack {name} could not be prepared"))
    }

    pub(crate) fn daemon(&self) -> &Path {
        &self.daemon
    }

    pub(crate) fn baseline(&self) -> Option<&Path> {
        self.baseline.as_deref()
    }
}

#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// The benchmarks to run; without names, all.
    names: Vec<String>,
    /// Another build of the daemon, for the benchmark `versions`, which is not run without it.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Writes all figures, with all samples, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the sections of docs/generated/benchmarks.md, and their plots, of the benchmarks that were run here.
    #[arg(long)]
    plot: bool,
    /// The flag that `cargo bench` passes to all benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Not main's result: with RUST_BACKTRACE set, a backtrace would hide the message.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let known = BENCHES.map(|bench| bench.name);
    for name in &arguments.names {
        ensure!(known.contains(&&**name), "no benchmark {name}: there are {}", known.join(", "));
    }
    ensure!(rustix::process::geteuid().is_root(), "the daemon needs root: cargo xtask bench");
    let daemon = env::var_os("OBSERVER_BIN").context("OBSERVER_BIN names the daemon")?;
    // Ten thousand connections need as many descriptors, here and in the services.
    support::raise_descriptor_limit()?;
    let peers = Peers::prepare(daemon.into(), arguments.baseline.clone())?;
    let mut all = Vec::new();
    let wanted = |bench: &&Bench| {
        let is_possible = bench.name != VERSIONS || peers.baseline.is_some();
        arguments.names.is_empty() && is_possible
            || arguments.names.iter().any(|name| name == bench.name)
    };
    for bench in BENCHES.iter().filter(wanted) {
        println!("\n{}: {}", bench.name, bench.about);
        let mut results = Results::new(bench.name)?;
        (bench.run)(&peers, &mut results).with_context(|| bench.name)?;
        results.keep()?;
        all.push(results);
    }
    let missed = all.iter().flat_map(|results| &results.figures);
    let missed = missed.filter(|figure| figure.is_reached() == Some(false)).count();
    println!("\n{missed} figures miss their bound");
    if let Some(path) = &arguments.json {
        let text = serde_json::to_vec_pretty(&all).context("write figures")?;
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    if arguments.plot {
        document::write(BENCHES.iter().filter(|bench| bench.name != VERSIONS))?;
    }
    Ok(())
}

//! Support for the end-to-end tests (`tests/e2e`) and the benchmarks (`tests/bench`): real gRPC stacks talk
//! to each other, the daemon watches them, and the peers' own records are compared with `/metrics`.
//!
//! - [`stack`]: the gRPC libraries under test, prepared on first use;
//! - [`peer`]: their server and client processes;
//! - [`tls`]: certificates for them;
//! - [`truth`]: a peer's own record of its calls;
//! - [`short`]: many connections with one call each;
//! - [`raw`]: peers that read and write frame by frame, as a test says;
//! - [`daemon`]: the daemon as a process;
//! - [`breakpoints`]: the probes in the code of a process;
//! - [`footprint`]: memory, BPF maps and threads of a process;
//! - [`memory`]: a control group with a memory limit;
//! - [`nobody`]: programs and threads without any privilege;
//! - [`pace`]: time limits, and polling until a condition holds;
//! - [`openmetrics`]: a strict reader of the OpenMetrics text format;
//! - [`expected`]: the comparison of `/metrics` with the peers' records, number by number;
//! - [`losses`]: the same comparison on kernels that skip BPF programs;
//! - [`tshark`]: the comparison with an independent dissection of the same traffic;
//! - [`latency`]: the comparison with the handlers' own clocks;
//! - [`prometheus`]: a real Prometheus that scrapes the daemon;
//! - [`proxy`]: real proxies between a client and a server;
//! - [`namespaces`]: network namespaces for peers, with a node that translates addresses;
//! - [`cluster`]: an API server of Kubernetes;
//! - [`collector`]: a receiver of OTLP, with OpenTelemetry's own messages;
//! - [`otelcol`]: OpenTelemetry's Collector;
//! - [`etcd`]: a real etcd, which counts its calls itself;
//! - [`look`]: the page in a browser, and `observer top` in terminals;
//! - [`report`]: the results of the cases, for docs/generated/cases.md.
//!
//! To run: `cargo xtask test`; or, as root with the daemon built,
//! `cargo test -p tests --features privileged --test e2e -- [part of a case's name]`.
//! `OBSERVER_BIN` selects another daemon than the one in the target directory.
//!
//! # Adding a stack
//!
//! Add a folder `tests/peers/NAME` with a `peer.toml` (keys: [`stack::Stack`]), and a server and a client that take
//! the arguments of those in `tests/peers/python`. Every case that runs over all pairs then runs with it. Both speak
//! `tests/peers/proto/echo.proto`. `DEFAULTS` in `tests/peers/python/client.py` describes the steps of a plan,
//! [`truth::Truth`] the record.

#![forbid(unsafe_code)]
#![expect(clippy::float_cmp, reason = "counts are exact in f64")]

pub mod breakpoints;
pub mod bytes;
pub mod cluster;
pub mod collector;
pub mod daemon;
pub mod etcd;
pub mod expected;
pub mod footprint;
pub mod latency;
pub mod look;
pub mod losses;
pub mod memory;
pub mod namespaces;
pub mod nobody;
pub mod openmetrics;
pub mod otelcol;
pub mod pace;
pub mod peer;
mod process;
pub use process::is_installed;
pub mod prometheus;
pub mod proxy;
pub mod raw;
pub mod report;
pub mod short;
pub mod stack;
pub mod tls;
pub mod truth;
pub mod tshark;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The Rust files below a folder, except in hidden folders, `target` and `node_modules`.
pub fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
        if path.is_dir() && !name.starts_with('.') && !["target", "node_modules"].contains(&name) {
            files.append(&mut rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Raises this process's limit on open descriptors to the most that it may have.
pub fn raise_descriptor_limit() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("raise the limit on open descriptors")
}

//! Support for the end-to-end tests (`tests/e2e`) and the benchmarks (`tests/bench`): real gRPC stacks talk
//! to each other, the daemon watches, and what the peers know happened is compared with what `/metrics` says.
//!
//! - [`stack`]: the gRPC libraries under test, prepared on first use;
//! - [`peer`]: their server and client processes;
//! - [`truth`]: what a peer knows happened;
//! - [`raw`]: peers that read and write what a test says, frame by frame;
//! - [`daemon`]: the daemon as a process;
//! - [`footprint`]: what it takes of the machine;
//! - [`memory`]: a limit to what it may take;
//! - [`nobody`]: what is run without any privilege;
//! - [`pace`]: how long is waited;
//! - [`openmetrics`]: the strict reading of what it says;
//! - [`expected`]: the comparison, number by number;
//! - [`tshark`]: the comparison with an independent dissection of the same traffic;
//! - [`latency`]: the comparison with the peers' own clocks;
//! - [`prometheus`]: a real one, that scrapes the daemon;
//! - [`proxy`]: real proxies, between a client and a server;
//! - [`etcd`]: a real one, that counts its calls itself;
//! - [`look`]: what people look at: the page in a browser, `observer top` in terminals;
//! - [`report`]: what was checked, for docs/generated/cases.md.
//!
//! To run: `cargo xtask test`; or, as root with the daemon built,
//! `cargo test -p tests --features privileged --test e2e -- [part of a case's name]`.
//! `OBSERVER_BIN` names another daemon than the one in the target directory.
//!
//! # Adding a stack
//!
//! is adding a folder `tests/peers/NAME` with a `peer.toml` (keys: [`stack::Stack`]), a server and
//! a client that take the arguments of those in `tests/peers/python`: every case that runs over all
//! pairs then runs with it. Both speak `tests/peers/proto/echo.proto`. The plan's steps are described
//! by `DEFAULTS` in `tests/peers/python/client.py`, the truth by [`truth::Truth`].

#![forbid(unsafe_code)]

pub mod bytes;
pub mod daemon;
pub mod etcd;
pub mod expected;
pub mod footprint;
pub mod latency;
pub mod look;
pub mod losses;
pub mod memory;
pub mod nobody;
pub mod openmetrics;
pub mod pace;
pub mod peer;
mod process;
pub mod prometheus;
pub mod proxy;
pub mod raw;
pub mod report;
pub mod stack;
pub mod truth;
pub mod tshark;

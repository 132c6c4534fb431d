//! A node-level daemon that watches gRPC from outside the services.
//!
//! The path of a byte: [`kernel`] loads the BPF programs, which see what sockets send and receive, and reads their
//! records. [`pipeline`] turns them into calls and statistics, with [`observer_core`]; [`worker`] has the threads that run
//! it. [`metrics`] renders the statistics, [`server`] publishes them, and [`top`] shows them in a terminal.
//! [`connections`] says what
//! connections carry. [`process`] looks processes up in `/proc`. [`tls`] is about the TLS libraries of processes.

mod certificates;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connections;
mod descriptors;
pub mod failures;
mod files;
pub mod health;
mod http_client;
pub mod kernel;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod libraries;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod otlp;
pub mod pipeline;
pub mod preconditions;
pub mod pressure;
pub mod privileges;
pub mod process;
pub mod reload;
pub mod sandbox;
pub mod server;
mod sync;
pub mod system_paths;
pub mod tls;
pub mod top;
pub mod worker;

//! tonic's server and client for the end-to-end tests, with the same plans and records as the other stacks' peers
//! (see the
//! `tests` crate).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;

mod client;
mod plan;
mod server;
mod tls;
mod truth;
mod web;

/// The code that is generated from `tests/peers/proto/echo.proto`.
mod pb {
    #![expect(
        unused_qualifications,
        unreachable_pub,
        clippy::pedantic,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::clone_on_ref_ptr,
        reason = "generated code"
    )]
    tonic::include_proto!("observer.test.v1");
}

#[derive(Parser)]
enum Role {
    /// Serves until SIGTERM; prints one JSON line {"pid", "address"} when it listens.
    Server {
        /// ADDRESS:PORT (port 0: any) or unix:PATH.
        #[arg(long)]
        listen: String,
        /// The file for the record.
        #[arg(long)]
        truth: PathBuf,
        /// Milliseconds after which it closes connections.
        #[arg(long)]
        max_connection_age_ms: Option<u64>,
        /// The compression of requests and responses: `gzip`.
        #[arg(long)]
        compression: Option<String>,
        /// Answers gRPC-Web, too.
        #[arg(long)]
        web: bool,
        #[command(flatten)]
        blocks: server::Blocks,
        #[command(flatten)]
        tls: tls::Tls,
    },
    /// Carries out a plan.
    Client {
        /// ADDRESS:PORT or unix:PATH.
        #[arg(long)]
        target: String,
        /// A JSON list of stages, which are lists of steps.
        #[arg(long)]
        plan: PathBuf,
        /// The file for the record.
        #[arg(long)]
        truth: PathBuf,
        /// Makes calls of gRPC-Web.
        #[arg(long)]
        web: bool,
        #[command(flatten)]
        tls: tls::Tls,
    },
}

fn main() -> anyhow::Result<()> {
    let role = Role::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    match role {
        Role::Server { listen, truth, max_connection_age_ms, compression, web, blocks, tls } => {
            let options = server::Options {
                max_connection_age: max_connection_age_ms.map(Duration::from_millis),
                gzip: compression.is_some(),
                web,
                tls: tls.server()?,
            };
            runtime.block_on(server::serve(&listen, &truth, options, blocks))
        }
        Role::Client { target, plan, truth, web, tls } => {
            let plan = std::fs::read(&plan).with_context(|| format!("read {}", plan.display()))?;
            let stages = serde_json::from_slice(&plan).context("parse the plan")?;
            let target = client::Target { address: target, web, tls: tls.client()? };
            runtime.block_on(client::run(target, stages, &truth))
        }
    }
}

//! A node-level daemon that watches gRPC from outside the services.
//!
//! The way of a byte: [`kernel`] loads the programs that see what sockets send and receive and
//! hands over their records; [`record`] reads them, [`http2`] assembles header blocks, [`hpack`]
//! decodes them, [`grpc`] turns frames into calls; [`metrics`] keeps the statistics and renders
//! them; [`server`] publishes them, and [`top`] shows them in a terminal. [`process`] says who a pid is. [`pipeline`] is all of that
//! between ring and scrape, and [`worker`] the thread that runs it. Nothing downstream calls
//! upstream.

mod certificates;
pub mod cli;
pub mod clock;
pub mod config;
pub mod failures;
mod files;
pub mod health;
mod http_client;
pub mod kernel;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod output;
pub mod pipeline;
pub mod preconditions;
pub mod pressure;
pub mod privileges;
pub mod process;
pub mod reload;
pub mod sandbox;
pub mod server;
pub mod source;
pub mod system_paths;
pub mod top;
pub mod worker;

pub use observer_core::{ends, names::escape, protocol::http2, record};

/// Calls.
pub mod grpc {
    pub use observer_core::{call::*, protocol::grpc::*};
}

/// Header fields.
pub mod hpack {
    pub use observer_core::{call::TraceId, names::*, protocol::hpack::*};
}

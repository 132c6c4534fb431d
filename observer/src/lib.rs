//! A node-level daemon that watches gRPC from outside the services.
//!
//! The way of a byte: [`kernel`] loads the programs that see what sockets send and receive and
//! reads their records; [`http2`] assembles header blocks, [`hpack`] decodes them, [`grpc`] turns
//! frames into calls; [`metrics`] keeps the statistics and renders them; [`server`] publishes
//! them. [`process`] says who a pid is. Nothing downstream calls upstream.

pub mod grpc;
pub mod hpack;
pub mod process;

//! What is spoken on connections.

pub mod grpc;
pub mod hpack;
pub mod http2;

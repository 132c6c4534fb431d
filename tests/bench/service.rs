//! The services that are measured: servers of the stacks.

use std::net::SocketAddr;

use anyhow::Result;
use support::peer::{Listen, Server};
use support::stack::Stack;

use crate::Peers;

/// A running service.
pub(crate) struct Service {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
}

impl Service {
    pub(crate) fn start(stack: &Stack) -> Result<Self> {
        let server = Server::start(stack, Listen::V4)?;
        let address = format!("127.0.0.1:{}", server.port()?).parse()?;
        Ok(Self { server, address })
    }

    /// The fastest service, whose own cost hides the least of what is measured.
    pub(crate) fn fast(peers: &Peers) -> Result<Self> {
        Self::start(&peers.stack("tonic")?)
    }
}

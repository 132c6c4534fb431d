//! The services that are measured: the stacks' servers.

use std::net::SocketAddr;

use anyhow::Result;
use support::peer::{Listen, Server};
use support::stack::Stack;

use crate::Peers;

/// One that runs, and where it listens.
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

    /// The one that is fast enough to leave the rest to be measured.
    pub(crate) fn fast(peers: &Peers) -> Result<Self> {
        Self::start(&peers.stack("tonic")?)
    }
}

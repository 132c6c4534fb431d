//! Raw HTTP/2 peers, server and client, for behaviour that gRPC libraries do not have on demand.
//!
//! A [`Talk`] is one connection between two processes. The test decides on every byte, every system call and their
//! order, so it knows exactly what happened, and describes it as a list of [`Call`]s.
//!
//! - [`frames`], [`hpack`]: the bytes that an end writes;
//! - [`command`]: the commands to the processes (`bin/raw-peer`);
//! - [`process`]: the processes;
//! - [`call`]: the calls of a case;
//! - [`talk`]: a connection, in lockstep, and the comparison with the daemon's metrics.

pub mod call;
pub mod command;
pub mod frames;
pub mod hpack;
pub mod process;
pub mod talk;

pub use call::Call;
pub use command::{Action, Address, Protocol, Read, Secure, Through, Write};
pub use frames::{Frames, Shape};
pub use talk::Talk;

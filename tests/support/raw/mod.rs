//! A raw HTTP/2 peer, server and client, for what gRPC libraries will not do on demand.
//!
//! A [`Talk`] is one connection between two processes that do nothing of their own accord: the test
//! decides on every byte and every system call, and on their order, so what happened is exactly
//! known, and said in the case as a list of [`Call`]s.
//!
//! - [`frames`], [`hpack`]: builds what an end writes;
//! - [`command`]: what the processes are told (`bin/raw-peer`);
//! - [`process`]: the processes;
//! - [`call`]: what the test says that there was;
//! - [`talk`]: a connection, in lockstep, and the comparison with what the daemon says.

pub mod call;
pub mod command;
pub mod frames;
pub mod hpack;
pub mod process;
pub mod talk;

pub use call::Call;
pub use command::{Action, Address, Read, Write};
pub use frames::{Frames, Shape};
pub use talk::Talk;

//! gRPC calls: how they start and end, and with which code.
//!
//! No I/O and no clock: frames and kernel timestamps in, events of calls out through
//! [`CallSink`](crate::call::CallSink).

mod calls;
mod deadline;
mod headers;
mod rules;

pub use calls::{Calls, GAP_TIMEOUT_NS, MAX_OPEN};
pub use headers::{Headers, Kind};
pub use rules::End;

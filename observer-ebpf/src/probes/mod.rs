//! The programs. A backend is only how the socket and the buffers of a call are got.

pub mod lifecycle;
mod tracepoint;

//! The TLS libraries of processes: where to probe them, so that the plaintext of their connections is seen.

mod cookie;

pub use cookie::cookie;

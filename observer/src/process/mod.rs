//! Who a pid is.

#![forbid(unsafe_code)]

/// A process, for as long as the daemon runs: a pid that is used again is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u32);

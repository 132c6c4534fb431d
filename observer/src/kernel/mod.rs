//! Loads and attaches the BPF programs, and takes their records out of the rings.

mod btf;
mod children;
mod choice;
mod figures;
mod layout;
#[cfg(feature = "kernel-log")]
mod log;
mod preemption;
mod private_stack;
mod probes;
mod programs;
mod ring;
mod sys;
mod tracefs;
mod uprobes;

pub use layout::Layout;
pub use preemption::Preemption;
pub use probes::{Probes, ProgramSize, TlsProbes};
pub use ring::Ring;
pub use uprobes::{FileLinks, Method, Uprobes};

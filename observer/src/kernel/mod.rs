//! The kernel side, from outside: loads the programs, attaches them, and hands over what they
//! tell.

mod btf;
mod children;
mod choice;
mod figures;
mod layout;
#[cfg(feature = "kernel-log")]
mod log;
mod preemption;
mod probes;
mod programs;
mod ring;
mod sys;
mod tracefs;

pub use figures::ProgramFigures;
pub use layout::Layout;
pub use preemption::Preemption;
pub use probes::{Count, Dropped, Probes, ProgramSize};
pub use ring::Ring;

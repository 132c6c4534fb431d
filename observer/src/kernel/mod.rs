//! The kernel side, from outside: loads the programs, attaches them, and hands over what they
//! tell.

mod btf;
mod layout;
mod probes;
mod ring;

pub use layout::Layout;
pub use probes::{Count, Probes, ProgramFigures};
pub use ring::Ring;

//! Names that peers choose: paths, interned and bounded; texts, bounded; both in printable form. Patterns for names, and
//! networks of addresses.

pub mod escape;
mod host;
mod interner;
mod network;
mod parents;
mod pattern;
mod share;
mod texts;

pub use host::Host;
pub use interner::{Interner, MAX_PATH_LEN, Owner, PathId};
pub use network::Network;
pub use parents::{ParentId, Parents};
pub use pattern::Pattern;
pub use share::Share;
pub use texts::{TextId, Texts};

//! Names that peers choose: paths, interned and bounded; texts, bounded; both in printable form.

pub mod escape;
mod interner;
mod parents;
mod pattern;
mod share;
mod texts;

pub use interner::{Interner, MAX_PATH_LEN, Owner, PathId};
pub use parents::{ParentId, Parents};
pub use pattern::Pattern;
pub use share::Share;
pub use texts::{TextId, Texts};

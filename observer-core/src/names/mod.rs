//! Names that peers choose, bounded and interned: paths and texts.

pub mod escape;
mod interner;
mod share;
mod texts;

pub use interner::{Interner, MAX_PATH_LEN, Owner, PathId};
pub use share::Share;
pub use texts::{TextId, Texts};

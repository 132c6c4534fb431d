//! The files with TLS libraries that processes have mapped: found, searched and probed, with separate privileges.
//!
//! ```text
//! daemon: no capability             opener: may open files            parser: may do nothing
//! watcher: which processes?  ─pid─▶ which files do they have?  ─file─▶ observer_tls::locate
//!          counts, logs     ◀report─ compares, creates links  ◀places─ one process for each file
//! ```
//!
//! [`messages`] has what they say to each other. Without `--tls auto`, none of these processes exists.

mod builds;
mod files;
mod looks;
mod maps;
mod messages;
mod opener;
mod parser;
mod watcher;

pub use self::{
    messages::{Failure, Outcome},
    watcher::{Opener, Watcher},
};

//! What the BPF programs say of their decisions, as lines of the log: with the feature `kernel-log` alone.

#![forbid(unsafe_code)]

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use tracing::enabled;

/// The global that has the level of the least important lines that are written.
pub(super) use aya_log::LEVEL;

/// Logs the lines that there are.
pub(super) type Print = Box<dyn FnMut() + Send>;

/// That level, by what is logged: the verifier drops the others.
pub(super) fn level() -> u8 {
    let all = enabled!(target: "observer::kernel_log", tracing::Level::DEBUG);
    if all { Level::Debug as u8 } else { Level::Info as u8 }
}

/// Takes the lines' ring, which stays open. aya hands them to the crate `log`, whose logger `tracing-subscriber` is.
pub(super) fn printer(ebpf: &mut Ebpf) -> Result<Print> {
    let mut lines = EbpfLogger::init(ebpf).context("the BPF programs have no ring of lines")?;
    Ok(Box::new(move || lines.flush()))
}

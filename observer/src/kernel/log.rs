//! Log lines of the BPF programs about their decisions, with the feature `kernel-log`.

#![forbid(unsafe_code)]

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use tracing::enabled;

/// The global with the log level: less important lines are not written.
pub(super) use aya_log::LEVEL;

/// Writes the lines that are in the ring.
pub(super) type Print = Box<dyn FnMut() + Send>;

/// The level, from `--log`. The verifier removes the code of less important lines.
pub(super) fn level() -> u8 {
    let all = enabled!(target: "observer::kernel_log", tracing::Level::DEBUG);
    if all { Level::Debug as u8 } else { Level::Info as u8 }
}

/// Opens the ring with the lines, which stays open. aya passes lines to the crate `log`, and `tracing-subscriber` is its
/// logger.
pub(super) fn printer(ebpf: &mut Ebpf) -> Result<Print> {
    let mut lines = EbpfLogger::init(ebpf).context("the BPF programs have no ring of lines")?;
    Ok(Box::new(move || lines.flush()))
}

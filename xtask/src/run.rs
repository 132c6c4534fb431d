//! `cargo xtask run`

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::{build, exec, setup};

/// Becomes the daemon, which then gets the signals and sets the exit status.
pub(crate) fn run(kernel_log: bool, args: &[OsString]) -> Result<()> {
    setup::ensure()?;
    let daemon = if kernel_log {
        build::with_kernel_log()?
    } else {
        println!("run: building the daemon, optimized, about 3 min the first time");
        build::daemon(true)?
    };
    let mut command = exec::daemon(&daemon)?;
    command.args(args);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", exec::shown(&command)))
}

//! `cargo xtask soak`

use anyhow::Result;

use crate::{build, exec, setup, test};

/// Runs the soak for this many minutes, with the daemon as users build it.
pub(crate) fn run(minutes: u64) -> Result<()> {
    setup::ensure()?;
    let daemon = build::daemon(true)?;
    let mut cargo = exec::cargo(&["test", "--workspace", "--exclude", "observer-ebpf"]);
    cargo.args(["--features", "observer/kubernetes,tests/privileged", "--test", "soak"]);
    cargo.env("OBSERVER_BIN", daemon);
    test::as_root(&mut cargo)?;
    exec::run(cargo.args(["--", "--minutes"]).arg(minutes.to_string()))
}

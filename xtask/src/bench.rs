//! `cargo xtask bench`

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, exec, setup, test};

/// Runs the benchmarks, with the daemon and the service built with optimizations.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup::ensure()?;
    let daemon = build::daemon(true)?;
    let peer = build::package("peer-rust", true)?;
    let mut cargo = exec::cargo(&["bench", "--package", "tests", "--features", "privileged"]);
    cargo.args(["--bench", "bench"]);
    cargo.env("OBSERVER_BIN", daemon).env("OBSERVER_BENCH_PEER", peer);
    test::as_root(&mut cargo)?;
    exec::run(cargo.arg("--").args(args))
}

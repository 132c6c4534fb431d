//! A nightly of rustup, with the source of `core`.

use std::env;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::linker;
use super::toolchain::{CHOICE, LINKED, Toolchain, rustup, rustup_toolchains};
use crate::exec;

pub(super) const BY_HAND: &str =
    "rustup toolchain install nightly-2026-05-20 --profile minimal --component rust-src";

/// Time limit to fetch a toolchain, some 100 MB.
const INSTALL_LIMIT: Duration = Duration::from_mins(10);

pub(super) fn complete() -> Result<()> {
    let installed = rustup_toolchains()?;
    let chosen = env::var(CHOICE).ok();
    // Debian's compiler is not complete, so it is not completed here.
    let name = chosen.clone().unwrap_or_else(Toolchain::nightly);
    let name = name.as_str();
    let toolchain = Toolchain::Rustup(name.to_owned());
    if toolchain.compiler().is_err() {
        println!("setup: installing toolchain {name} with rustup, about half a minute");
        let mut install = rustup(&["toolchain", "install", name, "--profile", "minimal"])?;
        install.args(["--component", "rust-src", "--no-self-update"]);
        exec::output_within(&mut install, INSTALL_LIMIT)
            .with_context(|| format!("toolchain {name} cannot be installed"))?;
    }
    let compiler = toolchain.compiler()?;
    compiler.check_version()?;
    if !compiler.has_source() {
        println!("setup: adding rust-src to toolchain {name}, to compile `core` for BPF");
        exec::output(&mut rustup(&["component", "add", "rust-src", "--toolchain", name])?)
            .with_context(|| format!("rust-src cannot be added to toolchain {name}"))?;
    }
    linker::ensure_for(&compiler)?;
    if chosen.is_none() && installed.iter().any(|name| name == LINKED) {
        println!("setup: unlinking toolchain {LINKED}, which is incomplete");
        exec::output(&mut rustup(&["toolchain", "uninstall", LINKED])?)?;
    }
    Ok(())
}

//! rustup's nightly, with the source of `core`.

use std::env;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::linker;
use super::toolchain::{CHOICE, LINKED, NIGHTLY, Toolchain, rustup, rustup_toolchains};

pub(super) const BY_HAND: &str =
    "rustup toolchain install nightly-2026-05-20 --profile minimal --component rust-src";

/// A toolchain is some 100 MB, its source 3: a network that takes longer is as good as none.
const INSTALL_LIMIT: Duration = Duration::from_mins(10);
const SOURCE_LIMIT: Duration = Duration::from_mins(1);

const AT_ONCE: Duration = Duration::from_secs(30);

pub(super) fn complete() -> Result<()> {
    let installed = rustup_toolchains()?;
    let chosen = env::var(CHOICE).ok();
    // Not Debian's compiler, which is not complete.
    let name = chosen.clone().unwrap_or_else(Toolchain::nightly);
    let name = name.as_str();
    let toolchain = Toolchain::Rustup(name.to_owned());
    if toolchain.compiler().is_err() {
        println!(
            "setup: installing rustup's toolchain {name}, about half a minute: it is not there"
        );
        let arguments = ["toolchain", "install", name, "--profile", "minimal"];
        let rest = ["--component", "rust-src", "--no-self-update"];
        rustup(&[&arguments[..], &rest[..]].concat(), INSTALL_LIMIT)
            .with_context(|| format!("toolchain {name} cannot be installed"))?;
    }
    let compiler = toolchain.compiler()?;
    compiler.check_version()?;
    if !compiler.has_source() {
        println!("setup: adding rust-src to toolchain {name}: `core` is compiled for BPF from it");
        rustup(&["component", "add", "rust-src", "--toolchain", name], SOURCE_LIMIT)
            .with_context(|| format!("rust-src cannot be added to toolchain {name}"))?;
    }
    linker::ensure_for(&compiler)?;
    if chosen.is_none() && installed.iter().any(|name| name == LINKED) {
        println!("setup: unlinking toolchain {LINKED}: it is incomplete, and {NIGHTLY} is not");
        rustup(&["toolchain", "uninstall", LINKED], AT_ONCE)?;
    }
    Ok(())
}

//! Debian's compiler, for machines on which rustup cannot install one.

use std::env;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::linker;
use super::toolchain::{CHOICE, Compiler, LINKED, rustup, rustup_toolchains};
use crate::{apt, exec};

pub(super) const BY_HAND: &str = "sudo apt-get install rustc-web cargo-web rust-web-src";

/// The newest Rust in a Debian release, which Debian has for its browsers.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

const PREFIX: &str = "/usr";
pub(super) fn complete() -> Result<()> {
    if let Ok(name) = env::var(CHOICE) {
        bail!("{CHOICE} names toolchain {name}");
    }
    if let Err(why) = compiler() {
        install(&format!("{why:#}"))?;
    }
    let compiler = compiler()?;
    linker::ensure_for(&compiler)?;
    // Without rustup, the compiler on the path is used.
    if let Ok(toolchains) = rustup_toolchains()
        && !toolchains.iter().any(|name| name == LINKED)
    {
        println!("setup: linking {PREFIX} as rustup's toolchain {LINKED}");
        exec::output(&mut rustup(&["toolchain", "link", LINKED, PREFIX])?)?;
    }
    Ok(())
}

/// The installed compiler; an error if it is not complete.
fn compiler() -> Result<Compiler> {
    let bin = Path::new(PREFIX).join("bin");
    ensure!(bin.join("rustc").is_file(), "{PREFIX}/bin/rustc is not installed");
    ensure!(bin.join("cargo").is_file(), "{PREFIX}/bin/cargo is not installed");
    let compiler = Compiler::of(&bin.join("rustc"))?;
    compiler.check()?;
    Ok(compiler)
}

fn install(why: &str) -> Result<()> {
    apt::available().with_context(|| why.to_owned())?;
    println!("setup: installing {} with apt-get, about a minute: {why}", PACKAGES.join(", "));
    apt::install(&PACKAGES).context("the packages cannot be installed")
}

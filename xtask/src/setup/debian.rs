//! Debian's compiler, for where rustup has nothing to offer.

use std::env;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::linker;
use super::toolchain::{CHOICE, Compiler, LINKED, rustup, rustup_toolchains};
use crate::apt;

pub(super) const BY_HAND: &str = "sudo apt-get install rustc-web cargo-web rust-web-src";

/// The newest Rust that a Debian release has, kept for its browsers.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

const PREFIX: &str = "/usr";
const AT_ONCE: Duration = Duration::from_secs(30);

pub(super) fn complete() -> Result<()> {
    if let Ok(name) = env::var(CHOICE) {
        bail!("{CHOICE} asks for toolchain {name}");
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
        println!("setup: linking {PREFIX} as rustup's toolchain {LINKED}: cargo finds it by that");
        rustup(&["toolchain", "link", LINKED, PREFIX], AT_ONCE)?;
    }
    Ok(())
}

/// The installed compiler, if it is complete.
fn compiler() -> Result<Compiler> {
    let bin = Path::new(PREFIX).join("bin");
    ensure!(bin.join("rustc").is_file(), "there is no {PREFIX}/bin/rustc");
    ensure!(bin.join("cargo").is_file(), "there is no {PREFIX}/bin/cargo");
    let compiler = Compiler::of(&bin.join("rustc"))?;
    compiler.check()?;
    Ok(compiler)
}

fn install(why: &str) -> Result<()> {
    apt::available().with_context(|| why.to_owned())?;
    println!("setup: installing {} by apt-get, about a minute: {why}", PACKAGES.join(", "));
    apt::install(&PACKAGES).context("the packages cannot be installed")
}

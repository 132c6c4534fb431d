//! Debian's compiler, for where rustup has nothing to offer.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::linker;
use super::toolchain::{CHOICE, Compiler, LINKED, rustup, rustup_toolchains};
use crate::exec;

pub(super) const BY_HAND: &str = "sudo apt-get install rustc-web cargo-web rust-web-src";

/// The newest Rust that a Debian release has, kept for its browsers.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

const PREFIX: &str = "/usr";
const UPDATE_LIMIT: Duration = Duration::from_mins(5);
const INSTALL_LIMIT: Duration = Duration::from_mins(15);
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
    ensure!(exec::find("apt-get").is_some(), "{why}, and there is no apt-get");
    ensure!(exec::is_root() || exec::find("sudo").is_some(), "{why}, and apt-get needs root");
    println!("setup: installing {} by apt-get: {why}", PACKAGES.join(", "));
    // A bare machine has no package lists, and old ones name packages that are gone.
    apt_get(&["update"], UPDATE_LIMIT)?;
    // Another compiler of the distribution's, which these would replace, may be there for a reason.
    let options = ["install", "--yes", "--no-install-recommends", "--no-remove"];
    apt_get(&[&options[..], &PACKAGES[..]].concat(), INSTALL_LIMIT)
        .context("the packages cannot be installed")
}

fn apt_get(arguments: &[&str], limit: Duration) -> Result<()> {
    let mut command = if exec::is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        // Asks for no password: setup runs before every command, and unattended.
        sudo.args(["-n", "env"]);
        sudo
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]).args(arguments);
    exec::output(&mut command, limit).map(drop)
}

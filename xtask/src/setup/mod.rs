//! `cargo xtask setup`: finds or installs a toolchain that compiles for BPF.
//!
//! BPF programs need a rustc with the source of `core` (there is no compiled `core` for BPF), and a bpf-linker whose LLVM
//! reads the bitcode of that rustc. A nightly of rustup has them, and so do Debian's packages. A complete toolchain is
//! used as it is. If there is none, setup completes the first one that it can.

mod debian;
mod linker;
mod rustup;
mod toolchain;

use anyhow::{Result, bail};

use linker::Linker;
use toolchain::Toolchain;

pub(crate) use toolchain::NIGHTLY;

/// The command. It prints a line even if there is nothing to do.
pub(crate) fn run() -> Result<()> {
    if let Some(ready) = complete()? {
        println!("setup: nothing to do: {ready}");
    }
    Ok(())
}

/// Prepares another command. It prints nothing if there is nothing to do.
pub(crate) fn ensure() -> Result<()> {
    complete().map(drop)
}

/// Whether the BPF programs are compiled with the nightly of releases.
pub(crate) fn is_pinned() -> bool {
    matches!(Toolchain::chosen(), Toolchain::Rustup(name) if name == NIGHTLY)
}

/// Completes the toolchain. Returns its description if it was complete before.
fn complete() -> Result<Option<String>> {
    let missing = match ready() {
        Ok(ready) => return Ok(Some(ready)),
        Err(missing) => missing,
    };
    println!("setup: the BPF programs cannot be built yet: {missing:#}");
    let mut ways =
        [("rustup", rustup::complete as fn() -> Result<()>), ("Debian", debian::complete)];
    if Toolchain::chosen().is_debians() {
        ways.reverse();
    }
    let mut failures: Vec<String> = Vec::new();
    for (name, way) in ways {
        if let Some(failure) = failures.last() {
            println!("setup: {}; trying {name}", failure.trim_start());
        }
        match way().and_then(|()| ready()) {
            Ok(ready) => {
                println!("setup: done: {ready}");
                return Ok(None);
            }
            Err(error) => failures.push(format!("  {name}: {error:#}")),
        }
    }
    bail!(
        "the BPF programs cannot be built on this machine: {missing:#}\n{}\n\n\
         Run one of these, and then `cargo xtask setup`:\n  {}\n  {}",
        failures.join("\n"),
        rustup::BY_HAND,
        debian::BY_HAND
    )
}

/// A description of the toolchain that observer/build.rs uses; an error says what is missing.
fn ready() -> Result<String> {
    let toolchain = Toolchain::chosen();
    let compiler = toolchain.compiler()?;
    compiler.check()?;
    let linker = Linker::found()?;
    linker.check(&compiler)?;
    Ok(format!("{toolchain} ({compiler}), {linker}"))
}

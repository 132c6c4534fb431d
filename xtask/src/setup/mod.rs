//! `cargo xtask setup`: a toolchain that compiles for BPF, found or installed.
//!
//! Kernel programs need a rustc with the source of `core` (nothing built of it exists for BPF) and
//! a bpf-linker whose LLVM reads what that rustc writes. There are two ways to them, rustup's
//! nightly and Debian's packages. What is complete already is used; else the first way that can be
//! completed is.

mod debian;
mod linker;
mod rustup;
mod toolchain;

use anyhow::{Result, bail};

use linker::Linker;
use toolchain::Toolchain;

pub(crate) use toolchain::NIGHTLY;

/// The command itself: says so if there is nothing to do.
pub(crate) fn run() -> Result<()> {
    if let Some(ready) = complete()? {
        println!("setup: nothing to do: {ready}");
    }
    Ok(())
}

/// For the other commands: silent if there is nothing to do.
pub(crate) fn ensure() -> Result<()> {
    complete().map(drop)
}

/// Whether the kernel programs are compiled by what releases are built with.
pub(crate) fn is_pinned() -> bool {
    matches!(Toolchain::chosen(), Toolchain::Rustup(name) if name == NIGHTLY)
}

/// Says what was found, if it was all there.
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
         Either of these makes it possible; `cargo xtask setup` does the rest:\n  {}\n  {}",
        failures.join("\n"),
        rustup::BY_HAND,
        debian::BY_HAND
    )
}

/// Whether what observer/build.rs will use is complete; the error says what is missing.
fn ready() -> Result<String> {
    let toolchain = Toolchain::chosen();
    let compiler = toolchain.compiler()?;
    compiler.check()?;
    let linker = Linker::found()?;
    linker.check(&compiler)?;
    Ok(format!("{toolchain} ({compiler}), {linker}"))
}

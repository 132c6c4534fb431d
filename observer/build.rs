//! Builds the kernel programs, `observer-ebpf`, and leaves the object as `OUT_DIR/observer-ebpf`.
//!
//! The toolchain is `OBSERVER_BPF_TOOLCHAIN` if that is set, else rustup's `observer-bpf` if there
//! is one, else its `nightly`; without rustup, the compiler on the path. `cargo xtask setup`
//! chooses alike (`xtask/src/setup/toolchain.rs`) and completes it.
//!
//! `AYA_BUILD_SKIP=1` puts an empty object in its place, so that everything else can be checked
//! and tested where nothing compiles for BPF; a daemon built so has no programs to load.

#![expect(clippy::print_stderr, reason = "cargo shows a failed build script's standard error")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

const OBJECT: &str = "observer-ebpf";
const CHOICE: &str = "OBSERVER_BPF_TOOLCHAIN";
const LINKED: &str = "observer-bpf";
const NIGHTLY: &str = "nightly";

fn main() -> ExitCode {
    // aya-build names observer-ebpf itself.
    println!("cargo:rerun-if-changed=../observer-common");
    println!("cargo:rerun-if-env-changed={CHOICE}");
    let toolchain = toolchain();
    // Not a Result: with RUST_BACKTRACE set it would bury the message.
    match build(toolchain.as_deref()).and_then(|()| leave_object(toolchain.as_deref())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let name = toolchain.as_deref().unwrap_or("of the path");
            eprintln!(
                "{error:#}\n\nThe kernel programs were not built (toolchain {name}). Unless an \
                 error in the code is shown above, run `cargo xtask setup`: it finds or installs \
                 what they need."
            );
            ExitCode::FAILURE
        }
    }
}

fn build(toolchain: Option<&str>) -> Result<()> {
    if needs_bootstrap(toolchain) {
        // SAFETY: no other thread of this process exists yet, so none reads the environment.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    }
    share_what_is_built()?;
    let package = Package { name: OBJECT, root_dir: "../observer-ebpf", ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain.unwrap_or(NIGHTLY)))
}

/// Each profile of the daemon has an `OUT_DIR` of its own, where `core` would be compiled for BPF
/// anew. cargo keeps what it builds on the way beside them all, since 1.91; earlier ones do not.
fn share_what_is_built() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo did not set OUT_DIR")?);
    // `<target>/<profile>/build/observer-<hash>/out`
    if let Some(target) = out.ancestors().nth(4) {
        // SAFETY: no other thread of this process exists yet, so none reads the environment.
        unsafe { env::set_var("CARGO_BUILD_BUILD_DIR", target.join("bpf")) };
    }
    Ok(())
}

/// The rustup toolchain that compiles for BPF; none without rustup.
fn toolchain() -> Option<String> {
    let list = Command::new("rustup").args(["toolchain", "list"]).output().ok()?;
    if let Ok(chosen) = env::var(CHOICE) {
        return Some(chosen);
    }
    let linked = String::from_utf8_lossy(&list.stdout)
        .lines()
        .any(|line| line.split_whitespace().next() == Some(LINKED));
    Some(if linked { LINKED } else { NIGHTLY }.to_owned())
}

/// Whether the compiler is a stable one, such as Debian's, which takes `-Z build-std` (there is no
/// built `core` for BPF) only under `RUSTC_BOOTSTRAP`.
fn needs_bootstrap(toolchain: Option<&str>) -> bool {
    let mut rustc = match toolchain {
        Some(name) => {
            let mut rustup = Command::new("rustup");
            rustup.args(["run", name, "rustc"]);
            rustup
        }
        None => Command::new("rustc"),
    };
    // A compiler that does not run is reported by aya-build.
    rustc.arg("--version").output().is_ok_and(|output| {
        let version = String::from_utf8_lossy(&output.stdout);
        !version.contains("-nightly") && !version.contains("-dev")
    })
}

/// aya-build leaves nothing if it is told to skip; what was left before may be outdated.
fn leave_object(toolchain: Option<&str>) -> Result<()> {
    let skipped =
        env::var("AYA_BUILD_SKIP").is_ok_and(|v| v == "1" || v.eq_ignore_ascii_case("true"));
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo did not set OUT_DIR")?);
    let object = out.join(OBJECT);
    if !skipped {
        strip(&object, toolchain);
        return Ok(());
    }
    fs::write(&object, []).with_context(|| format!("cannot write {}", object.display()))
}

/// Takes DWARF out of the object, three quarters of it, which nothing reads once BTF has been made of
/// it. Where there is no program that can, the daemon is 4 MiB larger.
fn strip(object: &Path, toolchain: Option<&str>) {
    let sysroot = toolchain.and_then(sysroot);
    let mut commands: Vec<Command> = ["llvm-objcopy", "llvm-objcopy-22"].map(Command::new).into();
    if let Some(sysroot) = sysroot {
        let host = env::var("HOST").unwrap_or_default();
        let bin = sysroot.join("lib/rustlib").join(host).join("bin");
        let mut command = Command::new(bin.join("rust-objcopy"));
        command.env("LD_LIBRARY_PATH", sysroot.join("lib"));
        commands.insert(0, command);
    }
    for mut command in commands {
        command.arg("--strip-debug").arg(object);
        if command.output().is_ok_and(|output| output.status.success()) {
            return;
        }
    }
}

fn sysroot(toolchain: &str) -> Option<PathBuf> {
    let arguments = ["run", toolchain, "rustc", "--print", "sysroot"];
    let output = Command::new("rustup").args(arguments).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

//! Builds the BPF programs, `observer-ebpf`, as the object `OUT_DIR/observer-ebpf`.
//!
//! The toolchain is `OBSERVER_BPF_TOOLCHAIN` if that is set. Else it is the first one that rustup has: `observer-bpf`, the
//! dated nightly that releases are built with, `nightly`. Without rustup it is the compiler on the path. `cargo xtask
//! setup` chooses in the same way (`xtask/src/setup/toolchain.rs`), and installs what is missing.
//!
//! This script calls cargo itself: aya-build shows each line of the inner cargo's progress as a warning. Here only warnings
//! and errors of the compiler are shown.
//!
//! With `AYA_BUILD_SKIP=1` the object is empty. So everything else can be checked and tested without a BPF toolchain, but
//! such a daemon has no programs to load.
//!
//! The same sources and compiler make the same object in every folder: `observer --version --verbose` shows its SHA-256.

#![expect(clippy::print_stderr, reason = "cargo shows a failed build script's standard error")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

const OBJECT: &str = "observer-ebpf";
const CHOICE: &str = "OBSERVER_BPF_TOOLCHAIN";
const SKIP: &str = "AYA_BUILD_SKIP";
/// The nightly that releases are built with.
const PINNED: &str = "nightly-2026-05-20";

/// The files that the object depends on.
const INPUTS: [&str; 4] =
    ["../observer-ebpf", "../observer-common", "../Cargo.lock", "../Cargo.toml"];

fn main() -> ExitCode {
    for input in INPUTS {
        println!("cargo:rerun-if-changed={input}");
    }
    for variable in [CHOICE, SKIP] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let toolchain = toolchain();
    // Not a Result: with RUST_BACKTRACE its message would be hard to find.
    match leave_object(toolchain.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let name = toolchain.as_deref().unwrap_or("of the path");
            eprintln!(
                "{error:#}\n\nThe BPF programs were not built (toolchain {name}). Unless an \
                 error in the code is shown above, run `cargo xtask setup`: it finds or installs \
                 what they need."
            );
            ExitCode::FAILURE
        }
    }
}

fn leave_object(toolchain: Option<&str>) -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo did not set OUT_DIR")?);
    let object = out.join(OBJECT);
    if env::var(SKIP).is_ok_and(|v| v == "1" || v.eq_ignore_ascii_case("true")) {
        // An object of an earlier build may be outdated.
        fs::write(&object, []).with_context(|| format!("cannot write {}", object.display()))?;
    } else {
        let built = build(toolchain, &out)?;
        fs::copy(&built, &object).with_context(|| format!("cannot copy {}", built.display()))?;
        strip(&object, toolchain);
    }
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    println!("cargo:rustc-env=OBSERVER_BPF_SHA256={:x}", Sha256::digest(bytes));
    Ok(())
}

/// Runs cargo for the BPF target. Returns the path of the object.
fn build(toolchain: Option<&str>, out: &Path) -> Result<PathBuf> {
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN").context("cargo did not set the endianness")?;
    let target = if endian == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    // Not OUT_DIR itself: it is in a target directory that the outer cargo has locked.
    let directory = out.join("target");
    let mut cargo = tool(toolchain, "cargo");
    cargo
        .args(["build", "--package", OBJECT, "--bins", "--release", "--quiet", "--color=never"])
        .args(["-Z", "build-std=core", "--target", target, "--target-dir"])
        .arg(&directory)
        .current_dir("../observer-ebpf")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain)?)
        // They are the outer cargo's, and would make it use that compiler.
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    if env::var_os("CARGO_FEATURE_KERNEL_LOG").is_some() {
        cargo.args(["--features", "kernel-log"]);
    }
    // Each profile of the daemon has an OUT_DIR of its own, and `core` would be compiled for BPF in each. Since 1.91,
    // cargo can keep intermediate files in one place.
    // `<target>/<profile>/build/observer-<hash>/out`
    if let Some(shared) = out.ancestors().nth(4) {
        cargo.env("CARGO_BUILD_BUILD_DIR", shared.join("bpf"));
    }
    if needs_bootstrap(toolchain) {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    let output = cargo.output().with_context(|| format!("cannot run {cargo:?}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{messages}{cargo:?} failed ({})", output.status);
    }
    for line in messages.lines() {
        println!("cargo:warning={line}");
    }
    Ok(directory.join(target).join("release").join(OBJECT))
}

/// The compiler's flags, separated as cargo requires. A traced function has the registers of the daemon's architecture.
fn flags(toolchain: Option<&str>) -> Result<String> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("cargo did not set the architecture")?;
    // `--btf` converts the debug information to BTF.
    let mut flags =
        [&format!("--cfg=bpf_target_arch=\"{arch}\""), "-Cdebuginfo=2", "-Clink-arg=--btf"]
            .map(str::to_owned)
            .to_vec();
    // BTF has the names of source files. They must not depend on the folder of the build.
    let workspace = fs::canonicalize("..").context("the workspace has no path")?;
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let places = [(Some(workspace), "observer"), (home, "cargo"), (sysroot(toolchain), "rust")];
    for (place, name) in places {
        if let Some(place) = place {
            flags.push(format!("--remap-path-prefix={}=/{name}", place.display()));
        }
    }
    Ok(flags.join("\x1f"))
}

/// The command of a program in the toolchain.
fn tool(toolchain: Option<&str>, name: &str) -> Command {
    let Some(toolchain) = toolchain else { return Command::new(name) };
    let mut rustup = Command::new("rustup");
    rustup.args(["run", toolchain, name]);
    rustup
}

/// The rustup toolchain that compiles for BPF; `None` without rustup.
fn toolchain() -> Option<String> {
    let list = Command::new("rustup").args(["toolchain", "list"]).output().ok()?;
    if let Ok(chosen) = env::var(CHOICE) {
        return Some(chosen);
    }
    let list = String::from_utf8_lossy(&list.stdout);
    let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    // rustup shows the host's triple after the name.
    let is_there = |name: &&str| {
        names
            .iter()
            .any(|there| there.strip_prefix(name).is_some_and(|rest| !rest.starts_with("-20")))
    };
    let known = ["observer-bpf", PINNED, "nightly"];
    Some(known.into_iter().find(is_there).unwrap_or(PINNED).to_owned())
}

/// Whether the compiler is a stable one, such as Debian's. It accepts `-Z build-std`, which BPF needs because there is no
/// built `core` for it, only with `RUSTC_BOOTSTRAP`.
fn needs_bootstrap(toolchain: Option<&str>) -> bool {
    // If it does not run, cargo will report that.
    tool(toolchain, "rustc").arg("--version").output().is_ok_and(|output| {
        let version = String::from_utf8_lossy(&output.stdout);
        !version.contains("-nightly") && !version.contains("-dev")
    })
}

/// Removes DWARF from the object: it is three quarters of it, and nothing reads it once there is BTF. Without a program
/// for that, the daemon is 4 MiB larger.
fn strip(object: &Path, toolchain: Option<&str>) {
    let mut commands: Vec<Command> = ["llvm-objcopy", "llvm-objcopy-22"].map(Command::new).into();
    if let Some(sysroot) = sysroot(toolchain) {
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

fn sysroot(toolchain: Option<&str>) -> Option<PathBuf> {
    let output = tool(toolchain, "rustc").args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

//! `cargo xtask ci`

use std::env;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use crate::{
    apt, bpf_stats, build, cases, deploy, exec, first_run, fuzz, release, setup, test, tools, vm,
};

/// Each fuzz target gets the same inputs each time, so that a change does not fail because of another one. They take
/// less time than the tests, which run at the same time and wait more than they work.
const FUZZED: fuzz::Effort = fuzz::Effort { each: fuzz::Much::Inputs, seed: 1 };

/// Runs every step, even after one has failed: lints, tests, and some tests on other kernels. With `all`, all tests
/// that are meant for other kernels, and another architecture.
pub(crate) fn run(all: bool) -> Result<()> {
    let missing = tools::install(&[&tools::CI[..], &tools::TESTS, &tools::DEPLOYMENT].concat())?;
    setup::ensure()?;
    let fuzzing = match fuzz::available() {
        Ok(()) => Some(fuzz::Background::start(FUZZED)),
        // In CI nobody would notice that it is missing.
        Err(error) if env::var_os("CI").is_some() => return Err(error),
        Err(error) => {
            println!("ci: fuzzing: not run: {error:#}");
            None
        }
    };
    let mut failed = Vec::new();
    let mut started = Instant::now();
    let mut step = |name: &'static str, result: Result<()>| {
        let took = started.elapsed().as_secs();
        started = Instant::now();
        if let Err(error) = result {
            println!("ci: {name}: {error:#} ({took} s)");
            failed.push(name);
        } else {
            println!("ci: {name}: passed ({took} s)");
        }
    };
    step(
        "formatting",
        shown(&mut exec::cargo(&["fmt", "--all", "--check", "--", "--color=never"])),
    );
    step("lints", shown(&mut lints()));
    step("lints of the BPF programs", shown(&mut bpf_lints("")));
    step("lints of the BPF programs that log", shown(&mut bpf_lints("kernel-log")));
    if all {
        step("another architecture", other_architecture());
    } else {
        println!("ci: another architecture: not run: it needs --all");
    }
    let outcome = test::all(&[]);
    step(
        "tests",
        outcome.as_ref().map_err(|error| anyhow!("{error:#}")).and_then(test::Outcome::check),
    );
    // The tests have written the list of cases, built the daemon and prepared the peers.
    step("docs/generated/cases.md", cases::check());
    // The tests have run with another backend, where this one is not the best.
    step("tracepoint backend", test::slice("tracepoint", vm::FEW));
    step("bounds of the BPF programs", bpf_stats::host());
    step("deployment", deploy::check(true));
    let kernels = if all { vm::Selection::everything() } else { vm::Selection::of_ci() };
    step("other kernels", vm::run(&kernels));
    step("BPF object, built twice", same_object());
    // Last, because cargo builds the same files again after it, which are then at another path.
    step("first run", first_run::check());
    if let Some(fuzzing) = fuzzing {
        step("fuzzing, at the same time", fuzzing.wait());
    }
    if let Ok(outcome) = outcome {
        println!("{outcome}");
    }
    tools::name(&missing);
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Compares the BPF objects of two builds of the daemon, which each compile their own.
fn same_object() -> Result<()> {
    let (debug, _) = build::for_demo()?;
    let release = build::daemon(true)?;
    let [one, other] = [release::bpf_sha256(&debug)?, release::bpf_sha256(&release)?];
    ensure!(one == other, "{one} and {other}");
    println!("BPF object: sha256:{one}");
    Ok(())
}

fn lints() -> Command {
    let mut cargo = exec::cargo(&["clippy", "--workspace", "--exclude", "observer-ebpf"]);
    cargo.args(["--all-targets", "--all-features", "--locked", "--", "-D", "warnings"]);
    cargo
}

/// Checks that the daemon compiles for aarch64, and its BPF programs with the registers of aarch64.
fn other_architecture() -> Result<()> {
    const TARGET: &str = "aarch64-unknown-linux-gnu";
    // Some dependencies are in C.
    if exec::find("aarch64-linux-gnu-gcc").is_none() {
        apt::install(&["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"])?;
    }
    shown(Command::new("rustup").args(["target", "add", TARGET]))?;
    shown(&mut exec::cargo(&["check", "--package", "observer", "--locked", "--target", TARGET]))
}

/// The lints of the BPF programs, compiled for this machine: the BPF toolchains have no clippy. `RUSTC_BOOTSTRAP` allows
/// the nightly features that only the BPF target needs.
fn bpf_lints(features: &str) -> Command {
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "--check-cfg=cfg(bpf_target_arch,values(any()))".to_owned(),
    ];
    let mut cargo = exec::cargo(&["clippy", "--package", "observer-ebpf", "--locked"]);
    cargo.args(["--features", features, "--", "-D", "warnings"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env("RUSTC_BOOTSTRAP", "1");
    cargo
}

fn shown(command: &mut Command) -> Result<()> {
    println!("$ {}", exec::shown(command));
    exec::run(command)
}

//! `cargo xtask ci`

use std::env;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::{
    apt, bpf_stats, build, correctness, deploy, exec, first_run, fuzz, release, setup, test, tools,
    vm,
};

/// Of each fuzz target, the same inputs each time: a change is not to be stopped by what another one broke.
/// Hours with other beginnings are for whoever asks. All together less than everything else takes,
/// beside which they run: tests wait more than they work.
const FUZZED: fuzz::Effort = fuzz::Effort { each: fuzz::Much::Inputs, seed: 1 };

/// Runs every step, so that one run shows all that is wrong; then the tests, and some of them on
/// other kernels. With `all`, all that is meant for other kernels, and another architecture.
pub(crate) fn run(all: bool) -> Result<ExitCode> {
    let missing = tools::install(&[&tools::CI[..], &tools::TESTS, &tools::DEPLOYMENT].concat())?;
    setup::ensure()?;
    let fuzzing = match fuzz::available() {
        Ok(()) => Some(fuzz::Beside::begin(FUZZED)),
        // In CI it would never be seen that it is not.
        Err(error) if env::var_os("CI").is_some() => return Err(error),
        Err(error) => {
            println!("ci: fuzzing: not run: {error:#}");
            None
        }
    };
    let mut failed = Vec::new();
    let mut begun = Instant::now();
    let mut step = |name: &'static str, result: Result<()>| {
        let took = begun.elapsed().as_secs();
        begun = Instant::now();
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
    step("lints of the kernel programs", shown(&mut kernel_lints("")));
    step("lints of what they log", shown(&mut kernel_lints("kernel-log")));
    if all {
        step("another architecture", other_architecture());
    } else {
        println!("ci: another architecture: not run: it needs --all");
    }
    let tests = Instant::now();
    let counts = test::all(&[]);
    println!("ci: tests: {} s", tests.elapsed().as_secs());
    // After the tests, of which it tells.
    step("docs/correctness.md", correctness::check());
    // The one that the tests have not run with: where it is not the best, it is what is left.
    step("tracepoint backend", test::slice("tracepoint", vm::FEW));
    // After the tests, which build the daemon.
    step("kernel programs' bounds", bpf_stats::host());
    step("deployment", deploy::check(true));
    // After the tests, which build the daemon and prepare the peers.
    step("other kernels", other_kernels(all));
    step("BPF object, built twice", the_same_object());
    // The last that builds: what it leaves is of the same files, but of another place.
    step("first run", first_run::check());
    if let Some(fuzzing) = fuzzing {
        step("fuzzing beside all of these", fuzzing.end());
    }
    if !failed.is_empty() {
        println!("ci: failed beside the tests: {}", failed.join(", "));
    }
    let counts = counts?;
    println!("{counts}");
    tools::name(&missing);
    let passed = failed.is_empty() && counts.failed == 0;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn other_kernels(all: bool) -> Result<()> {
    let selection = if all { vm::Selection::everything() } else { vm::Selection::of_ci() };
    let passed = vm::matrix(&selection)?;
    ensure!(passed, "not all cases passed: see the table");
    Ok(())
}

/// Each profile of the daemon has kernel programs that were built for it, in a folder of its own.
fn the_same_object() -> Result<()> {
    let (debug, _) = build::for_demo()?;
    let release = build::daemon(true)?;
    let [one, other] = [release::bpf_object(&debug)?, release::bpf_object(&release)?];
    ensure!(one == other, "{one} and {other}");
    println!("BPF object: sha256:{one}");
    Ok(())
}

fn lints() -> Command {
    let selection = [
        "--workspace",
        "--exclude",
        "observer-ebpf",
        "--all-targets",
        "--all-features",
        "--locked",
    ];
    let mut cargo = exec::cargo(&["clippy"]);
    cargo.args(selection).args(["--", "-D", "warnings"]);
    cargo
}

/// That the daemon compiles for aarch64, and its kernel programs with the registers of that.
fn other_architecture() -> Result<()> {
    const TARGET: &str = "aarch64-unknown-linux-gnu";
    // Of what it depends on, some is in C.
    if exec::find("aarch64-linux-gnu-gcc").is_none() {
        apt::install(&["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"])?;
    }
    shown(Command::new("rustup").args(["target", "add", TARGET]))?;
    shown(&mut exec::cargo(&["check", "--package", "observer", "--locked", "--target", TARGET]))
}

/// As if they were for this machine, by its own clippy: the BPF toolchains come without one. Of
/// nightly, they use what only a compiler for BPF needs.
fn kernel_lints(features: &str) -> Command {
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

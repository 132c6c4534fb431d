//! `cargo xtask fuzz`: libFuzzer, for code that reads bytes of other programs.
//!
//! The flags are those of cargo-fuzz without a sanitizer, because the fuzzed crates forbid `unsafe`. So any compiler
//! works, and nothing is installed. `cargo fuzz` works in the directory, too.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::exec;

/// Compiler flags that count coverage for libFuzzer.
const INSTRUMENTED: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing";

/// Bound on the memory of a target, in MiB.
const MEMORY: u32 = 1024;

/// Bound on the time of one input, in seconds. Beyond it the target fails.
const TIMEOUT: u32 = 30;

/// How much is fuzzed, and the seed of libFuzzer's random numbers (0: another one each time).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) each: Much,
    pub(crate) seed: u32,
}

/// How much each target is fuzzed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Much {
    /// For this long, starting from the inputs that were found before.
    Time(Duration),
    /// As many inputs as [`inputs`] returns, starting from those in the repository. The same seed gives the same inputs.
    Inputs,
}

/// The number of inputs that take the target about 15 s.
fn inputs(name: &str) -> u32 {
    match name {
        "cli" | "http" | "losses" => 5_000,
        "connection" | "files" | "http1" => 15_000,
        _ => 50_000,
    }
}

/// Fuzzes the targets with these names, or all of them. With `replay`, runs one target with that file.
pub(crate) fn run(names: &[String], effort: Effort, replay: Option<&Path>) -> Result<()> {
    available()?;
    exec::run(&mut build(&[])?)?;
    let all = targets()?;
    for name in names {
        ensure!(all.contains(name), "{name} is not a target; the targets are {}", all.join(", "));
    }
    let chosen = if names.is_empty() { &all[..] } else { names };
    if let Some(file) = replay {
        let [name] = chosen else { bail!("--replay needs the name of one target") };
        return exec::run(binary(name)?.arg(file));
    }
    let failed: Vec<&str> =
        chosen.iter().filter(|name| fuzz(name, effort).is_err()).map(String::as_str).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Fuzzing at the lowest priority, while something else runs.
pub(crate) struct Background(JoinHandle<Result<()>>);

impl Background {
    /// Starts to build all targets, and then to fuzz one after the other.
    pub(crate) fn start(effort: Effort) -> Self {
        Self(thread::spawn(move || {
            exec::run(&mut exec::nice(&build(&[])?))?;
            let mut failed = Vec::new();
            for name in targets()? {
                match fuzz_quietly(&name, effort) {
                    Ok(runs) => println!("fuzz: {name}: {runs} runs"),
                    Err(error) => {
                        println!("fuzz: {name}: {error:#}");
                        failed.push(name);
                    }
                }
            }
            ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
            Ok(())
        }))
    }

    /// Waits until all targets are done.
    pub(crate) fn wait(self) -> Result<()> {
        self.0.join().map_err(|_| anyhow!("the thread panicked"))?
    }
}

/// Fuzzes a target and returns the number of inputs. The error has the output of the target.
fn fuzz_quietly(name: &str, effort: Effort) -> Result<String> {
    let mut fuzzer = exec::nice(&fuzzer(name, effort)?);
    let output = fuzzer.output().with_context(|| format!("cannot run {}", exec::shown(&fuzzer)))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{stderr}{} failed ({}); {}", exec::shown(&fuzzer), output.status, replayed(name));
    }
    let runs = stderr.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(runs.context("libFuzzer does not print how many inputs it ran")?.trim().to_owned())
}

/// Checks that libFuzzer can be built here; the error says what is missing.
pub(crate) fn available() -> Result<()> {
    exec::run(&mut build(&["--package", "libfuzzer-sys"])?)
        .context("libFuzzer, which is in C++, cannot be built")
}

/// Builds targets, without the BPF programs. With `--target` the flags are not used for build scripts and macros.
fn build(selection: &[&str]) -> Result<Command> {
    let mut cargo = exec::cargo(&["build", "--release", "--locked", "--quiet"]);
    cargo.args(selection);
    cargo.arg("--manifest-path").arg(directory().join("Cargo.toml"));
    cargo.args(["--target", &host()?]).arg("--target-dir").arg(target_directory()?);
    cargo.env("RUSTFLAGS", INSTRUMENTED).env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("AYA_BUILD_SKIP", "1");
    println!("$ {}", exec::shown(&cargo));
    Ok(cargo)
}

fn fuzz(name: &str, effort: Effort) -> Result<()> {
    let mut fuzzer = fuzzer(name, effort)?;
    println!("$ {}", exec::shown(&fuzzer));
    exec::run(&mut fuzzer).inspect_err(|_| println!("fuzz: {name}: {}", replayed(name)))
}

fn replayed(name: &str) -> String {
    format!(
        "to replay it: cargo xtask fuzz {name} --replay FILE, with the file after \"Test unit written to\""
    )
}

fn fuzzer(name: &str, Effort { each, seed }: Effort) -> Result<Command> {
    let fuzzed = exec::target()?.join("fuzz");
    let (found, limit) = match each {
        Much::Time(time) => {
            (fuzzed.join("corpus").join(name), format!("-max_total_time={}", time.as_secs()))
        }
        Much::Inputs => {
            let found = fuzzed.join("inputs").join(name);
            if found.exists() {
                fs::remove_dir_all(&found)
                    .with_context(|| format!("cannot remove {}", found.display()))?;
            }
            (found, format!("-runs={}", inputs(name)))
        }
    };
    fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(exec::target()?.join("fuzz").join(format!("{name}-")));
    let mut fuzzer = binary(name)?;
    fuzzer
        .args([limit, format!("-seed={seed}")])
        .args([format!("-rss_limit_mb={MEMORY}"), format!("-timeout={TIMEOUT}")])
        .args(["-max_len=4096", "-verbosity=0", "-print_final_stats=1"])
        .arg(prefix)
        .args([found, directory().join("corpus").join(name)]);
    Ok(fuzzer)
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let place = directory().join("targets");
    let entries =
        fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.context("cannot list the targets")?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn binary(name: &str) -> Result<Command> {
    Ok(Command::new(target_directory()?.join(host()?).join("release").join(name)))
}

fn directory() -> PathBuf {
    exec::workspace().join("fuzz")
}

fn target_directory() -> Result<PathBuf> {
    Ok(exec::target()?.join("fuzz"))
}

fn host() -> Result<String> {
    let about = exec::output(Command::new("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not print its host")?.to_owned())
}

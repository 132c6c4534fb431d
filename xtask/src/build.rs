//! `cargo xtask build`

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{exec, setup};

pub(crate) fn run(release: bool, is_static: bool) -> Result<()> {
    setup::ensure()?;
    let daemon = if is_static { linked_statically() } else { daemon(release) }?;
    println!("{}", daemon.display());
    Ok(())
}

/// Builds the daemon without shared libraries, into a folder for an image. Returns its path.
pub(crate) fn linked_statically() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let flags = format!("target.{target}.rustflags=['-Ctarget-feature=+crt-static']");
    let mut cargo = exec::cargo(&["build", "--release", "--package", "observer"]);
    cargo.args(FEATURES).args(["--target", &target, "--config", &flags]);
    exec::run(&mut cargo)?;
    let (built, place) = (exec::target()?.join(target), exec::target()?.join("static"));
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let daemon = place.join("observer");
    fs::copy(built.join("release/observer"), &daemon).context("cannot copy the daemon")?;
    Ok(daemon)
}

/// The features of releases.
const FEATURES: [&str; 2] = ["--features", "kubernetes"];

/// Builds the daemon, with the features of releases. Returns its path.
pub(crate) fn daemon(release: bool) -> Result<PathBuf> {
    package_with("observer", release, &FEATURES)
}

/// Builds the daemon whose BPF programs log what they decide, not optimized. Returns its path.
pub(crate) fn with_kernel_log() -> Result<PathBuf> {
    let features = ["--features", "kernel-log,kubernetes"];
    exec::run(exec::cargo(&["build", "--package", "observer"]).args(features))?;
    Ok(exec::target()?.join("debug/observer"))
}

/// Builds the package, whose binary has its name. Returns the path of the binary. Packages that are built together get
/// the union of the features of their dependencies, so users build each alone.
pub(crate) fn package(name: &str, release: bool) -> Result<PathBuf> {
    package_with(name, release, &[])
}

fn package_with(name: &str, release: bool, flags: &[&str]) -> Result<PathBuf> {
    let mut cargo = exec::cargo(&["build", "--package", name]);
    cargo.args(flags);
    if release {
        cargo.arg("--release");
    }
    exec::run(&mut cargo)?;
    Ok(exec::target()?.join(if release { "release" } else { "debug" }).join(name))
}

/// Builds the daemon, and prepares these gRPC stacks for TLS. Returns the program of the daemon. `tls-stacks` writes
/// certificates and `stacks.json` into `directory`. `folders` are those of the stacks in `tests/peers`.
pub(crate) fn for_tls_demo(directory: &Path, folders: &str, stacks: &[&str]) -> Result<PathBuf> {
    exec::run(&mut exec::cargo(&["build", "--package", "observer"]))?;
    let mut command = exec::cargo(&["run", "--quiet", "--package", "tests", "--bin", "tls-stacks"]);
    command.arg("--").arg(directory).args(stacks).env("OBSERVER_TEST_PEERS", folders);
    exec::run(&mut command)?;
    Ok(exec::target()?.join("debug/observer"))
}

/// Builds the daemon and the demo's peer together, because they share most dependencies, and not optimized. Returns their
/// paths.
pub(crate) fn for_demo() -> Result<(PathBuf, PathBuf)> {
    exec::run(&mut exec::cargo(&["build", "--package", "observer", "--package", "peer-rust"]))?;
    let place = exec::target()?.join("debug");
    Ok((place.join("observer"), place.join("peer-rust")))
}

/// For cargo to find that everything is built.
const BUILD_LIMIT: Duration = Duration::from_mins(10);

/// A message of cargo about a build script that ran.
#[derive(Deserialize)]
struct Built {
    reason: String,
    package_id: String,
    out_dir: PathBuf,
}

/// The path of the BPF object in the daemon's release build.
pub(crate) fn bpf_object() -> Result<PathBuf> {
    let mut cargo = exec::cargo(&["build", "--package", "observer", "--release"]);
    cargo.args(FEATURES);
    let messages = exec::output_within(cargo.arg("--message-format=json"), BUILD_LIMIT)?;
    let directory = messages.lines().find_map(|line| {
        let built: Built = serde_json::from_str(line).ok()?;
        let of_observer =
            built.reason == "build-script-executed" && built.package_id.contains("/observer#");
        of_observer.then_some(built.out_dir)
    });
    let directory = directory.context("cargo does not print where the BPF object is")?;
    Ok(directory.join("observer-ebpf"))
}

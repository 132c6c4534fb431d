//! `cargo xtask build`

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{exec, setup};

pub(crate) fn run(release: bool) -> Result<()> {
    setup::ensure()?;
    let daemon = daemon(release)?;
    println!("{}", daemon.display());
    Ok(())
}

pub(crate) fn run_static() -> Result<()> {
    setup::ensure()?;
    println!("{}", linked_statically()?.display());
    Ok(())
}

/// Builds the daemon without shared libraries, into a folder that an image can be made of, and says where it is.
pub(crate) fn linked_statically() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let flags = format!("target.{target}.rustflags=['-Ctarget-feature=+crt-static']");
    let arguments = ["build", "--release", "--package", "observer", "--target", &target];
    // The image is for Kubernetes too.
    let arguments = [&arguments[..], &["--features", "kubernetes"]].concat();
    exec::run(exec::cargo(&arguments).args(["--config", &flags]))?;
    let (built, place) = (exec::target()?.join(target), exec::target()?.join("static"));
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let daemon = place.join("observer");
    fs::copy(built.join("release/observer"), &daemon).context("cannot copy the daemon")?;
    Ok(daemon)
}

/// Builds the daemon and says where it is.
pub(crate) fn daemon(release: bool) -> Result<PathBuf> {
    package("observer", release)
}

/// Builds the daemon whose BPF programs say what they decide, as quickly as it goes, and says where it is.
pub(crate) fn with_kernel_log() -> Result<PathBuf> {
    let features = ["--features", "kernel-log,kubernetes"];
    exec::run(exec::cargo(&["build", "--package", "observer"]).args(features))?;
    Ok(exec::target()?.join("debug/observer"))
}

/// Builds the package, whose binary has its name. Each alone: built together they would be given
/// the union of the features that they ask of their dependencies, which is not what users build.
pub(crate) fn package(name: &str, release: bool) -> Result<PathBuf> {
    let mut cargo = exec::cargo(&["build", "--package", name]);
    if release {
        cargo.arg("--release");
    }
    exec::run(&mut cargo)?;
    Ok(exec::target()?.join(if release { "release" } else { "debug" }).join(name))
}

/// Builds the daemon and the demo's peer as quickly as it goes, and says where they are: together, as most
/// of what they depend on is the same, and not optimized.
pub(crate) fn for_demo() -> Result<(PathBuf, PathBuf)> {
    exec::run(&mut exec::cargo(&["build", "--package", "observer", "--package", "peer-rust"]))?;
    let place = exec::target()?.join("debug");
    Ok((place.join("observer"), place.join("peer-rust")))
}

/// For cargo to say what it built before.
const TOLD_LIMIT: Duration = Duration::from_mins(10);

/// What cargo says of a build script that ran.
#[derive(Deserialize)]
struct Built {
    reason: String,
    package_id: String,
    out_dir: PathBuf,
}

/// Where the kernel programs of the daemon's release build are.
pub(crate) fn kernel_programs() -> Result<PathBuf> {
    let mut told = exec::cargo(&["build", "--package", "observer", "--release"]);
    let told = exec::output(told.arg("--message-format=json"), TOLD_LIMIT)?;
    let directory = told.lines().find_map(|line| {
        let built: Built = serde_json::from_str(line).ok()?;
        let of_observer =
            built.reason == "build-script-executed" && built.package_id.contains("/observer#");
        of_observer.then_some(built.out_dir)
    });
    let directory = directory.context("cargo does not say where the kernel programs are")?;
    Ok(directory.join("observer-ebpf"))
}

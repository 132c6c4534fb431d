//! `cargo xtask check-deploy`, which checks the files in `deploy/` with the programs that read them, and `cargo xtask
//! deb`, which makes the Debian package.

mod helm;
mod python;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{build, exec, setup, tools};

/// Bound on the exposure of the service from 0 to 10, as `systemd-analyze security` reports it.
const EXPOSURE_AT_MOST: f32 = 2.1;

/// Shells with completions, and the flag with which each checks a script.
const SHELLS: [(&str, &str); 3] = [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")];

/// Files that the Debian package must have.
const PACKAGED: [&str; 4] = [
    "/usr/bin/observer",
    "/lib/systemd/system/observer.service",
    "/usr/share/man/man8/observer.8.gz",
    "/usr/share/bash-completion/completions/observer",
];

pub(crate) fn run(all: bool) -> Result<()> {
    let missing = tools::install(&tools::DEPLOYMENT)?;
    setup::ensure()?;
    check(all)?;
    tools::name(&missing);
    Ok(())
}

/// Runs every check, even after one has failed. A check whose program is not installed is listed; with `CI` in the
/// environment it fails. With `all`, also the checks that take minutes.
pub(crate) fn check(all: bool) -> Result<()> {
    let daemon = build::daemon(true)?;
    let place = exec::target()?.join("deploy");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let mut failed = Vec::new();
    let mut step = |name: &'static str, needs: &[&str], check: &dyn Fn() -> Result<()>| {
        let outcome = match needs.iter().find(|program| exec::find(program).is_none()) {
            Some(missing) if env::var_os("CI").is_none() => {
                println!("deploy: {name}: not run: {missing} is not installed");
                return;
            }
            Some(missing) => Err(anyhow::anyhow!("{missing} is not installed")),
            None => check(),
        };
        match outcome {
            Ok(()) => println!("deploy: {name}: passed"),
            Err(error) => {
                println!("deploy: {name}: {error:#}");
                failed.push(name);
            }
        }
    };
    step("Prometheus' rules and alerts", &["promtool"], &prometheus);
    step("systemd unit", &["systemd-analyze"], &|| systemd(&daemon, &place));
    step("manual page", &["mandoc"], &|| manual(&daemon, &place));
    for (shell, flag) in SHELLS {
        // A user without this shell does not need its script.
        if exec::find(shell).is_some() {
            step("completions", &[], &|| completions(&daemon, &place, shell, flag));
        }
    }
    step("Grafana's dashboards", &["go"], &dashboards);
    step("Dockerfile and Kubernetes objects", &["python3"], &python::check);
    if all {
        step("Helm chart", &["go"], &|| helm::check(&place));
        step("Debian package", &["cargo-deb", "dpkg-deb"], &|| {
            package(&place.join("observer.deb"))
        });
    } else {
        println!("deploy: Helm chart, Debian package: not run: they need --all");
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// A file or folder in `deploy/`.
fn file(name: &str) -> PathBuf {
    exec::workspace().join("deploy").join(name)
}

fn prometheus() -> Result<()> {
    let promtool = |arguments: &[&str]| {
        let mut promtool = Command::new("promtool");
        exec::run(promtool.args(arguments).current_dir(file("prometheus")).stdout(Stdio::null()))
    };
    promtool(&["check", "rules", "rules.yml", "alerts.yml"])?;
    promtool(&["check", "config", "prometheus.yml"])?;
    promtool(&["test", "rules", "tests.yml"])
}

/// Checks the dashboards against the types of Grafana's own library.
fn dashboards() -> Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(file("grafana")).context("list the dashboards")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    ensure!(files.len() > 3, "only {} dashboards", files.len());
    let reader = exec::workspace().join("xtask/src/deploy/grafana");
    exec::run(Command::new("go").args(["run", "."]).args(files).current_dir(reader))
}

/// Checks a copy of the unit that starts this build of the daemon.
fn systemd(daemon: &Path, place: &Path) -> Result<()> {
    let unit = fs::read_to_string(file("systemd/observer.service")).context("read the unit")?;
    let start = "ExecStart=/usr/bin/observer";
    ensure!(unit.contains(start), "the unit does not say {start}");
    let copy = place.join("observer.service");
    fs::write(&copy, unit.replace(start, &format!("ExecStart={}", daemon.display())))?;
    exec::run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy))?;
    let mut analyze = Command::new("systemd-analyze");
    // In tenths. A higher exposure fails.
    let threshold = format!("--threshold={}", (EXPOSURE_AT_MOST * 10.0).round());
    analyze.args(["security", "--offline=yes", "--no-pager", &threshold]).arg(&copy);
    exec::run(analyze.stdout(Stdio::null()))
}

fn manual(daemon: &Path, place: &Path) -> Result<()> {
    let page = written(daemon, &["man"], &place.join("observer.8"))?;
    let lint = Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(&page).output()?;
    let output = String::from_utf8_lossy(&lint.stdout);
    ensure!(lint.status.success() && output.is_empty(), "mandoc:\n{output}");
    Ok(())
}

fn completions(daemon: &Path, place: &Path, shell: &str, flag: &str) -> Result<()> {
    let script =
        written(daemon, &["completions", shell], &place.join(format!("observer.{shell}")))?;
    exec::run(Command::new(shell).arg(flag).arg(script))
}

/// Writes what the daemon prints to a file. Returns its path.
fn written(daemon: &Path, arguments: &[&str], path: &Path) -> Result<PathBuf> {
    let output = Command::new(daemon).args(arguments).output().context("cannot run the daemon")?;
    ensure!(output.status.success() && !output.stdout.is_empty(), "{arguments:?} prints nothing");
    fs::write(path, output.stdout).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}

/// Builds the package and checks the files in it.
pub(crate) fn package(package: &Path) -> Result<()> {
    build_package(&["--output".as_ref(), package.as_os_str()])?;
    let mut list = Command::new("dpkg-deb");
    let files = exec::output(list.arg("--contents").arg(package))?;
    for path in PACKAGED {
        let is_there = files.lines().any(|line| line.ends_with(path));
        ensure!(is_there, "the package has no {path}; it has:\n{files}");
    }
    Ok(())
}

/// Builds the package of `[package.metadata.deb]`.
pub(crate) fn deb() -> Result<()> {
    tools::install(&[tools::CARGO_DEB])?;
    setup::ensure()?;
    build_package(&[])
}

fn build_package(more: &[&OsStr]) -> Result<()> {
    if exec::find("cargo-deb").is_none() {
        bail!("cargo-deb is not installed: cargo install --locked cargo-deb");
    }
    let daemon = build::daemon(true)?;
    let place = exec::target()?.join("deploy");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    written(&daemon, &["man"], &place.join("observer.8"))?;
    for (shell, _) in SHELLS {
        written(&daemon, &["completions", shell], &place.join(format!("observer.{shell}")))?;
    }
    let mut deb =
        exec::cargo(&["deb", "--package", "observer", "--no-build", "--locked", "--strip"]);
    exec::run(deb.args(more))
}

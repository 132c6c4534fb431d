//! `cargo xtask release`: what is given to users, and by what they can check it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{build, deploy, exec, setup, tools};

/// What compiles a release. The kernel programs are compiled by [`setup::NIGHTLY`].
const COMPILER: &str = "1.95.0";

const AT_ONCE: Duration = Duration::from_secs(30);

/// The names and versions of all that the daemon is made of.
const SBOM: &str = "observer.cdx.json";

/// Builds them all, into one folder.
pub(crate) fn run() -> Result<()> {
    tools::install(&[tools::CARGO_DEB, tools::CARGO_CYCLONEDX])?;
    setup::ensure()?;
    compilers()?;
    let place = exec::target()?.join("release-files");
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
    }
    fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
    let daemon = build::linked_statically()?;
    copy(&daemon, &place.join("observer"))?;
    deploy::package(&place.join("observer.deb"))?;
    bill_of_materials(&place.join(SBOM))?;
    let mut sums = Command::new("sha256sum");
    sums.args(["observer", "observer.deb", SBOM]).current_dir(&place);
    let sums = exec::output(&mut sums, AT_ONCE)?;
    let object = bpf_object(&daemon)?;
    fs::write(place.join("SHA256SUMS"), format!("{sums}{object}  BPF object\n"))?;
    println!("{}", place.display());
    Ok(())
}

/// The SHA-256 of a daemon's kernel programs, as it says itself.
pub(crate) fn bpf_object(daemon: &Path) -> Result<String> {
    let mut version = Command::new(daemon);
    let told = exec::output(version.args(["--version", "--verbose"]), AT_ONCE)?;
    let sha256 = told.lines().find_map(|line| line.strip_prefix("BPF object: sha256:"));
    Ok(sha256.context("it does not say what its BPF object is")?.to_owned())
}

fn compilers() -> Result<()> {
    let told = exec::output(Command::new("rustc").arg("--version"), AT_ONCE)?;
    let version = told.split(' ').nth(1).unwrap_or_default();
    ensure!(
        version == COMPILER,
        "releases are built by rustc {COMPILER}, and this one is {version}: rustup run {COMPILER} cargo xtask release"
    );
    ensure!(
        setup::is_pinned(),
        "the kernel programs of releases are built by {nightly}: rustup toolchain install {nightly} --profile \
         minimal --component rust-src",
        nightly = setup::NIGHTLY
    );
    Ok(())
}

/// In CycloneDX's format. cargo-cyclonedx writes it beside each package's Cargo.toml.
fn bill_of_materials(to: &Path) -> Result<()> {
    let mut command = exec::cargo(&["cyclonedx", "--format", "json", "--features", "kubernetes"]);
    command.args(["--override-filename", "bom", "--manifest-path"]);
    exec::run(command.arg(exec::workspace().join("observer/Cargo.toml")))?;
    let written =
        ["observer", "observer-common", "observer-ebpf", "tests", "tests/peers/rust", "xtask"]
            .map(|package| exec::workspace().join(package).join("bom.json"));
    let [daemon, ..] = &written;
    let text = fs::read_to_string(daemon).context("read the bill of materials")?;
    // It names the packages of this repository by where they were.
    let here = format!("file://{}", exec::workspace().display());
    fs::write(to, text.replace(&here, "file:///observer"))
        .context("write the bill of materials")?;
    for file in written.iter().filter(|file| file.exists()) {
        fs::remove_file(file).with_context(|| format!("remove {}", file.display()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let context = || format!("copy {} to {}", from.display(), to.display());
    fs::copy(from, to).map(drop).with_context(context)
}

//! `cargo xtask release`: the files that users get, with their checksums.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{build, deploy, exec, setup, tools};

/// The compiler of a release. [`setup::NIGHTLY`] compiles the BPF programs.
const COMPILER: &str = "1.95.0";

/// The bill of materials: names and versions of all dependencies of the daemon.
const SBOM: &str = "observer.cdx.json";

/// Builds all files into one folder.
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
    fs::copy(&daemon, place.join("observer")).context("copy the daemon")?;
    deploy::package(&place.join("observer.deb"))?;
    bill_of_materials(&place.join(SBOM))?;
    let mut sums = Command::new("sha256sum");
    sums.args(["observer", "observer.deb", SBOM]).current_dir(&place);
    let sums = exec::output(&mut sums)?;
    let object = bpf_sha256(&daemon)?;
    fs::write(place.join("SHA256SUMS"), format!("{sums}{object}  BPF object\n"))?;
    println!("{}", place.display());
    Ok(())
}

/// The SHA-256 of the BPF programs in a daemon, as its `--version` prints it.
pub(crate) fn bpf_sha256(daemon: &Path) -> Result<String> {
    let mut version = Command::new(daemon);
    let told = exec::output(version.args(["--version", "--verbose"]))?;
    let sha256 = told.lines().find_map(|line| line.strip_prefix("BPF object: sha256:"));
    Ok(sha256.context("observer --version --verbose does not print the BPF object")?.to_owned())
}

fn compilers() -> Result<()> {
    let told = exec::output(Command::new("rustc").arg("--version"))?;
    let version = told.split(' ').nth(1).unwrap_or_default();
    ensure!(
        version == COMPILER,
        "releases are built with rustc {COMPILER}, and this is {version}: rustup run {COMPILER} cargo xtask release"
    );
    ensure!(
        setup::is_pinned(),
        "the BPF programs of releases are built with {nightly}: rustup toolchain install {nightly} --profile \
         minimal --component rust-src",
        nightly = setup::NIGHTLY
    );
    Ok(())
}

/// Writes the bill of materials in CycloneDX's format. cargo-cyclonedx writes one next to the Cargo.toml of each package.
fn bill_of_materials(to: &Path) -> Result<()> {
    let mut command = exec::cargo(&["cyclonedx", "--format", "json", "--features", "kubernetes"]);
    command.args(["--override-filename", "bom", "--manifest-path"]);
    exec::run(command.arg(exec::workspace().join("observer/Cargo.toml")))?;
    let written =
        ["observer", "observer-common", "observer-ebpf", "tests", "tests/peers/rust", "xtask"]
            .map(|package| exec::workspace().join(package).join("bom.json"));
    let [daemon, ..] = &written;
    let text = fs::read_to_string(daemon).context("read the bill of materials")?;
    // It has the paths of the packages of this repository.
    let here = format!("file://{}", exec::workspace().display());
    fs::write(to, text.replace(&here, "file:///observer"))
        .context("write the bill of materials")?;
    for file in written.iter().filter(|file| file.exists()) {
        fs::remove_file(file).with_context(|| format!("remove {}", file.display()))?;
    }
    Ok(())
}

//! Checks with programs in Python: hadolint for the Dockerfile, and the schemas of Kubernetes for its objects.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use super::file;
use crate::exec;

/// The programs. The schemas are those of the last version of Kubernetes in this file.
const REQUIREMENTS: &str = include_str!("requirements.txt");

pub(super) fn check() -> Result<()> {
    let programs = installed()?;
    exec::run(Command::new(programs.join("hadolint")).arg("--no-color").arg(file("Dockerfile")))?;
    validate(&file("kubernetes/observer.yaml"))
}

/// Checks that Kubernetes has the kinds and fields of these objects.
pub(super) fn validate(objects: &std::path::Path) -> Result<()> {
    let mut validate = Command::new(installed()?.join("kubernetes-validate"));
    exec::run(validate.args(["--strict", "--quiet"]).arg(objects))
}

/// The folder of the programs, which are installed into a virtual environment once.
fn installed() -> Result<PathBuf> {
    let environment = exec::target()?.join("deploy/python");
    let (programs, stamp) = (environment.join("bin"), environment.join("requirements.txt"));
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == REQUIREMENTS) {
        return Ok(programs);
    }
    exec::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let wanted = exec::workspace().join("xtask/src/deploy/requirements.txt");
    let mut pip = Command::new(programs.join("pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(wanted);
    exec::run(pip.stdout(Stdio::null()))?;
    std::fs::write(stamp, REQUIREMENTS)?;
    Ok(programs)
}

//! Debian's packages.

use std::io::{IsTerminal as _, stdin};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::exec;

const UPDATE_LIMIT: Duration = Duration::from_mins(5);
const INSTALL_LIMIT: Duration = Duration::from_mins(15);

/// Whether packages can be installed here; the error says why not.
pub(crate) fn available() -> Result<()> {
    ensure!(exec::find("apt-get").is_some(), "there is no apt-get to install it");
    ensure!(exec::is_root() || exec::find("sudo").is_some(), "apt-get needs root or sudo");
    Ok(())
}

/// Installs the packages of these names. What is installed already is not removed for them.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    available()?;
    update()?;
    let options = ["install", "--yes", "--no-install-recommends", "--no-remove"];
    apt_get(&[&options[..], packages].concat(), INSTALL_LIMIT)
}

/// A bare machine has no package lists, and old ones name packages that are gone. Once is enough, also
/// where it fails.
fn update() -> Result<()> {
    static UPDATED: OnceLock<Result<(), String>> = OnceLock::new();
    let updated = UPDATED.get_or_init(|| {
        println!("setup: fetching Debian's package lists by apt-get, about 10 s");
        apt_get(&["update"], UPDATE_LIMIT).map_err(|error| format!("{error:#}"))
    });
    updated.clone().map_err(|error| anyhow!(error))
}

fn apt_get(arguments: &[&str], limit: Duration) -> Result<()> {
    let mut command = if exec::is_root() {
        Command::new("env")
    } else if stdin().is_terminal() {
        exec::root_command(Path::new("env"))?
    } else {
        // Nobody is there to type a password.
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "env"]);
        sudo
    };
    // At this run level no service is started (invoke-rc.d(8)), unless systemd starts it.
    command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "--quiet"]);
    exec::output(command.args(arguments), limit).map(drop)
}

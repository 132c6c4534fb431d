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

/// Checks that packages can be installed here; the error says why not.
pub(crate) fn available() -> Result<()> {
    ensure!(exec::find("apt-get").is_some(), "apt-get is not installed, so packages cannot be");
    ensure!(exec::is_root() || exec::find("sudo").is_some(), "apt-get needs root or sudo");
    Ok(())
}

/// Installs the packages with these names. apt removes no other package for them.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    available()?;
    update()?;
    let options = ["install", "--yes", "--no-install-recommends", "--no-remove"];
    apt_get(&[&options[..], packages].concat(), INSTALL_LIMIT)
}

/// Fetches the package lists, once. A new machine has none, and old lists have packages that are gone.
fn update() -> Result<()> {
    static UPDATED: OnceLock<Result<(), String>> = OnceLock::new();
    let updated = UPDATED.get_or_init(|| {
        println!("setup: fetching Debian's package lists with apt-get, about 10 s");
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
        // Without a terminal, sudo cannot ask for a password.
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "env"]);
        sudo
    };
    // At this run level packages start no service (invoke-rc.d(8)), unless systemd does.
    command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "--quiet"]);
    exec::output_within(command.args(arguments), limit).map(drop)
}

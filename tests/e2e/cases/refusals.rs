//! What the daemon refuses to start with: one line that says what is wrong.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use support::daemon::{Daemon, User, command, refusal};

/// The daemon refuses with one line that names what is wrong.
pub(super) fn refuses(args: &[&str], user: User, names: &str) -> Result<()> {
    let line = refusal(args, user)?;
    ensure!(line.contains(names), "the line does not say {names:?}: {line}");
    Ok(())
}

pub(crate) fn refuses_an_address_in_use() -> Result<()> {
    let daemon = Daemon::start::<&str>(&[])?;
    let line = refusal(&["--listen", &daemon.address()], User::Own)?;
    ensure!(line.contains(&daemon.address()), "the line does not name the address: {line}");
    ensure!(daemon.is_ready()?, "the first daemon is no longer ready");
    daemon.stop()
}

pub(crate) fn refuses_without_privileges() -> Result<()> {
    refuses(&[], User::Nobody, "root")
}

pub(crate) fn refuses_bad_ports() -> Result<()> {
    for ports in ["8100-8000", "0", "65536", "http", "1-", "80,,"] {
        refuses(&["--port", ports], User::Own, "port")
            .with_context(|| format!("--port {ports}"))?;
    }
    Ok(())
}

pub(crate) fn refuses_a_log_without_the_daemon() -> Result<()> {
    refuses(&["--log", "nonsense="], User::Own, "warn,observer::kernel=debug")?;
    refuses(&["--log", "nonsense=info"], User::Own, "such as warn,nonsense=info")
}

/// As a pod has them in whose namespace a Service is called observer.
pub(crate) fn refuses_a_variable_of_no_flag() -> Result<()> {
    let check = |variables: &[(&str, &str)]| {
        let mut check = command(&["check", "--listen", "127.0.0.1:0"])?;
        check.envs(variables.iter().copied()).output().context("run observer check")
    };
    let of_service = [
        ("OBSERVER_SERVICE_HOST", "10.0.0.1"),
        ("OBSERVER_SERVICE_PORT", "9464"),
        ("OBSERVER_SERVICE_PORT_METRICS", "9464"),
        ("OBSERVER_PORT", "tcp://10.0.0.1:9464"),
        ("OBSERVER_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("OBSERVER_PORT_9464_TCP_ADDR", "10.0.0.1"),
    ];
    let done = check(&of_service)?;
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "a Service's variables are refused: {told}");
    let done = check(&[("OBSERVER_PORTS", "50051")])?;
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.code() == Some(2), "{}: {told}", done.status);
    ensure!(told.lines().count() == 1, "not one line: {told}");
    ensure!(told.contains("did you mean OBSERVER_PORT?"), "it does not say which: {told}");
    Ok(())
}

pub(crate) fn refuses_a_missing_process() -> Result<()> {
    let mut child = Command::new("true").spawn().context("run true")?;
    let pid = child.id().to_string();
    child.wait().context("wait for true")?;
    refuses(&["--pid", &pid], User::Own, &pid)
}

pub(crate) fn refuses_without_btf() -> Result<()> {
    refuses(&["--btf", "/nonexistent/btf"], User::Own, "/nonexistent/btf")
}

//! Errors at which the daemon refuses to start, each with one line.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use support::daemon::{Daemon, User, command, refusal};

/// An error unless the daemon refuses to start, with one line that contains `names`.
pub(super) fn refuses(args: &[&str], user: User, names: &str) -> Result<()> {
    let line = refusal(args, user)?;
    ensure!(line.contains(names), "the error does not contain {names:?}: {line}");
    Ok(())
}

pub(crate) fn refuses_an_address_in_use() -> Result<()> {
    let daemon = Daemon::start(&[])?;
    refuses(&["--listen", &daemon.address()], User::Own, &daemon.address())?;
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

/// The variables of a Service called observer, as pods in its namespace have them, are no error.
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
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "a Service's variables are refused: {error}");
    let done = check(&[("OBSERVER_PORTS", "50051")])?;
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.code() == Some(2), "{}: {error}", done.status);
    ensure!(error.lines().count() == 1, "not one line: {error}");
    ensure!(error.contains("did you mean OBSERVER_PORT?"), "no suggestion: {error}");
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

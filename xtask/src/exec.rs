//! Running other programs: what they are called, where they run, what is said when they fail.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// Names a toolchain for the kernel programs instead of those that are looked for.
pub(crate) const TOOLCHAIN: &str = "OBSERVER_BPF_TOOLCHAIN";

/// The directory of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map(Path::to_path_buf).unwrap_or(package)
}

/// Where cargo keeps what it installs.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = env::home_dir().context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join(".cargo"))
}

/// The directories programs are looked for in: cargo's own first, as under rustup; last that of Debian's
/// servers, which is on root's path alone.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = cargo_home().ok().map(|home| home.join("bin"));
    let mut directories: Vec<PathBuf> = installed.into_iter().collect();
    directories.extend(env::split_paths(&path).filter(|dir| !dir.as_os_str().is_empty()));
    directories.push("/usr/sbin".into());
    directories
}

/// The first `program` on the path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    search_path().into_iter().map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// A cargo command in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(workspace());
    if let Ok(path) = env::join_paths(search_path()) {
        cargo.env("PATH", path);
    }
    // Of this package; some build scripts run anew when they change.
    for (name, _) in env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("CARGO_PKG_") || shown.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Where cargo puts the binaries of the dev and release profiles, as `debug` and `release`.
pub(crate) fn target() -> Result<PathBuf> {
    let this = env::current_exe().context("cannot tell where this program is")?;
    let target = this.parent().and_then(Path::parent);
    Ok(target.with_context(|| format!("{} has no target directory", this.display()))?.to_path_buf())
}

/// The same, in the time that all others leave.
pub(crate) fn nice(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]);
    by(nice, command)
}

/// The command as the last arguments of another program, which runs it.
pub(crate) fn by(mut runner: Command, command: &Command) -> Command {
    runner.arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        runner.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => runner.env(name, value),
            None => runner.env_remove(name),
        };
    }
    runner
}

/// Runs it to its end, its output shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs it for at most `limit` and returns its standard output; its standard error is in the error.
pub(crate) fn output(command: &mut Command, limit: Duration) -> Result<String> {
    let mut timeout = Command::new("timeout");
    // In the foreground, where sudo can ask for a password. No time at all would be no limit.
    timeout
        .args(["--foreground", "--kill-after=1"])
        .arg(limit.as_secs_f64().max(0.001).to_string());
    let mut timed = by(timeout, command);
    // rustup adds a backtrace to its messages.
    timed.stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
    let output = timed.output().with_context(|| format!("cannot run {}", shown(command)))?;
    let status = output.status;
    // Ended, or killed because it did not end.
    let in_time = ![Some(124), Some(137)].contains(&status.code());
    ensure!(in_time, "{} did not end within {} s", shown(command), limit.as_secs());
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(status.success(), "{} failed ({status}){}", shown(command), reason(&said));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the program said of its failure: its lines that name an error, or else its last one.
fn reason(stderr: &str) -> String {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut errors: Vec<&str> =
        lines().filter(|line| line.starts_with("error") || line.starts_with("E:")).collect();
    if errors.is_empty() {
        errors.extend(lines().next_back());
    }
    errors.into_iter().take(3).fold(String::new(), |mut text, line| {
        let _ = write!(text, ": {line}");
        text
    })
}

/// The command as it would be typed.
pub(crate) fn shown(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What to put before a command that needs root, its environment kept: nothing if we are root.
/// sudo resets PATH even under -E.
pub(crate) fn as_root() -> Result<Vec<OsString>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if find("sudo").is_none() {
        bail!("sudo is not installed, and this is not root");
    }
    let path = env::join_paths(search_path()).context("PATH cannot be handed on")?;
    let mut assignment = OsString::from("PATH=");
    assignment.push(path);
    Ok(vec!["sudo".into(), "-E".into(), "env".into(), assignment])
}

/// `program`, with root's rights.
pub(crate) fn root_command(program: &Path) -> Result<Command> {
    let prefix = as_root()?;
    let mut words = prefix.into_iter().chain(std::iter::once(program.as_os_str().to_owned()));
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    Ok(command)
}

/// The daemon, with root's rights.
pub(crate) fn daemon(program: &Path) -> Result<Command> {
    root_command(program).map(without_ours)
}

/// The command without the variables of the build and of the tests, which the daemon would take for mistyped
/// flags.
pub(crate) fn without_ours(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let shown = name.to_string_lossy();
        if shown == TOOLCHAIN || shown.starts_with("OBSERVER_TEST_") {
            command.env_remove(&name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_tells_what_the_program_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo preparing >&2; echo 'error: no such thing' >&2; exit 3"]);
        let error = output(&mut command, Duration::from_mins(1)).unwrap_err().to_string();
        assert!(error.ends_with("(exit status: 3): error: no such thing"), "{error}");
    }

    #[test]
    fn runner_has_the_commands_arguments_and_environment() {
        let mut command = Command::new("sh");
        command.args(["-c", "test $(pwd) = / && test $GIVEN = one"]);
        command.current_dir("/").env("GIVEN", "one");
        run(&mut by(Command::new("env"), &command)).unwrap();
    }

    #[test]
    fn what_hangs_is_ended() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let error = output(&mut command, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("sleep 600 did not end"), "{error}");
    }
}

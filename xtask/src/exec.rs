//! Other programs: where they are, how they run, and the errors when they fail.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// An environment variable that names the toolchain of the BPF programs.
pub(crate) const TOOLCHAIN: &str = "OBSERVER_BPF_TOOLCHAIN";

/// The directory of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map(Path::to_path_buf).unwrap_or(package)
}

/// The directory into which cargo installs.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = env::home_dir().context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join(".cargo"))
}

/// The directories in which programs are found: cargo's own first, as rustup has it; then those of PATH; last the one of
/// Debian's servers, which is only on root's PATH.
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
    // These are about xtask, and some build scripts run again when they change.
    for (name, _) in env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("CARGO_PKG_") || shown.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// The target directory, with the folders `debug` and `release`.
pub(crate) fn target() -> Result<PathBuf> {
    let this = env::current_exe().context("cannot find the path of this program")?;
    let target = this.parent().and_then(Path::parent);
    Ok(target.with_context(|| format!("{} has no target directory", this.display()))?.to_path_buf())
}

/// The command at the lowest priority.
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

/// Runs the command and shows its output. Returns an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command that ends at once. Returns its standard output, or an error with lines of its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    output_within(command, Duration::from_mins(1))
}

/// Runs the command for at most `limit`. Returns its standard output, or an error with lines of its standard error.
pub(crate) fn output_within(command: &mut Command, limit: Duration) -> Result<String> {
    let mut timeout = Command::new("timeout");
    // In the foreground sudo can ask for a password. A limit of 0 would mean no limit.
    timeout
        .args(["--foreground", "--kill-after=1"])
        .arg(limit.as_secs_f64().max(0.001).to_string());
    let mut timed = by(timeout, command);
    // rustup adds a backtrace to its messages.
    timed.stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
    let output = timed.output().with_context(|| format!("cannot run {}", shown(command)))?;
    let status = output.status;
    // The codes of timeout(1): ended, or killed because it did not end.
    let in_time = ![Some(124), Some(137)].contains(&status.code());
    ensure!(in_time, "{} did not end within {} s", shown(command), limit.as_secs());
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(status.success(), "{} failed ({status}){}", shown(command), reason(&stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Why the program failed: its lines with an error, or else its last line.
fn reason(stderr: &str) -> String {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut errors: Vec<&str> =
        lines().filter(|line| line.starts_with("error") || line.starts_with("E:")).collect();
    if errors.is_empty() {
        errors.extend(lines().next_back());
    }
    errors.into_iter().take(3).flat_map(|line| [": ", line]).collect()
}

/// The command as a user would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The words before a command that needs root; empty if this process is root. They keep the environment, but sudo
/// resets PATH even with `-E`.
pub(crate) fn as_root() -> Result<Vec<OsString>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if find("sudo").is_none() {
        bail!("this needs root, and sudo is not installed");
    }
    let path = env::join_paths(search_path()).context("PATH cannot be handed on")?;
    let mut assignment = OsString::from("PATH=");
    assignment.push(path);
    Ok(vec!["sudo".into(), "-E".into(), "env".into(), assignment])
}

/// The program, run as root.
pub(crate) fn root_command(program: &Path) -> Result<Command> {
    let prefix = as_root()?;
    let mut words = prefix.into_iter().chain(std::iter::once(program.as_os_str().to_owned()));
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    Ok(command)
}

/// The daemon, run as root.
pub(crate) fn daemon(program: &Path) -> Result<Command> {
    root_command(program).map(without_ours)
}

/// The command without the environment variables of the build and of the tests. The daemon refuses variables that begin
/// like its own.
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
    fn the_error_has_what_the_program_printed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo preparing >&2; echo 'error: no such thing' >&2; exit 3"]);
        let error = output(&mut command).unwrap_err().to_string();
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
        let error = output_within(&mut command, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("sleep 600 did not end"), "{error}");
    }
}

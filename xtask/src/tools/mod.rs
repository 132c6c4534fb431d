//! Programs that the tests and checks need: found, installed, or listed with the checks that do not run.

mod list;

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{apt, exec};

pub(crate) use list::{CARGO_CYCLONEDX, CARGO_DEB, CI, DEPLOYMENT, TESTS};

/// Time limit for tools that are compiled.
const COMPILE_LIMIT: Duration = Duration::from_mins(15);
/// Programs that are installed together for one purpose.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    name: &'static str,
    /// The checks that do not run without it.
    needed_by: &'static str,
    /// Checks that it is installed; the error says what is wrong.
    check: fn() -> Result<()>,
    install: Source,
    /// About how many seconds the installation takes.
    seconds: u32,
}

/// The source of a tool.
#[derive(Clone, Copy)]
enum Source {
    /// Debian's packages.
    Packages(&'static [&'static str]),
    /// A component of rustup's toolchain; without rustup, a Debian package.
    Component(&'static str, &'static str),
    /// A crate and its version, with a binary of the same name.
    Crate(&'static str, &'static str),
}

impl Tool {
    /// Installs it if it is missing.
    fn ensure(&self) -> Result<()> {
        let Err(why) = (self.check)() else { return Ok(()) };
        if let Source::Packages(_) = self.install {
            apt::available().with_context(|| why.to_string())?;
        }
        println!(
            "setup: installing {} (needed by {}), about {} s",
            self.name, self.needed_by, self.seconds
        );
        self.install.install()?;
        (self.check)().context("it is installed now, but does not work")
    }
}

impl Source {
    fn install(self) -> Result<()> {
        match self {
            Self::Packages(packages) => apt::install(packages),
            Self::Component(component, package) => match exec::find("rustup") {
                Some(rustup) => {
                    let mut add = Command::new(rustup);
                    add.args(["component", "add", component]);
                    exec::output_within(&mut add, COMPILE_LIMIT).map(drop)
                }
                None => apt::install(&[package]),
            },
            Self::Crate(name, version) => {
                // It runs once, so optimizations would take longer than they save.
                let options = ["install", "--quiet", "--locked", "--debug", "--version"];
                let mut cargo = exec::cargo(&options);
                cargo.args([version, name]).arg("--root").arg(exec::cargo_home()?);
                exec::output_within(&mut cargo, COMPILE_LIMIT).map(drop)
            }
        }
    }
}

/// Installs the tools that are missing. Returns a line for each that cannot be installed.
pub(crate) fn install(tools: &[Tool]) -> Result<Vec<String>> {
    allowed(missing(tools, Tool::ensure))
}

/// Returns a line for each tool that is missing.
pub(crate) fn find(tools: &[Tool]) -> Result<Vec<String>> {
    allowed(missing(tools, |tool| (tool.check)()))
}

fn missing(tools: &[Tool], ready: fn(&Tool) -> Result<()>) -> Vec<String> {
    let line = |tool: &Tool| {
        let why = ready(tool).err()?;
        Some(format!("not run: {}. They need {}: {why:#}", tool.needed_by, tool.name))
    };
    tools.iter().filter_map(line).collect()
}

/// With `CI` in the environment no tool may be missing, because a test that CI leaves out never runs.
fn allowed(missing: Vec<String>) -> Result<Vec<String>> {
    name(&missing);
    ensure!(
        missing.is_empty() || env::var_os("CI").is_none(),
        "CI is set, so the tools above must be installed"
    );
    Ok(missing)
}

/// Prints what does not run.
pub(crate) fn name(missing: &[String]) {
    for line in missing {
        println!("setup: {line}");
    }
}

/// Checks that all these programs are on the path; the error names the first that is not.
fn on_path(programs: &[&str]) -> Result<()> {
    for program in programs {
        exec::find(program).with_context(|| format!("{program} is not installed"))?;
    }
    Ok(())
}

/// Checks that Python makes virtual environments. Debian has half of the module `venv` in another package.
fn venv_works() -> Result<()> {
    on_path(&["python3"])?;
    let place = exec::target()?.join("venv-check");
    let mut venv = Command::new("python3");
    let made = exec::output(venv.args(["-m", "venv", "--clear"]).arg(&place));
    let _ = std::fs::remove_dir_all(&place);
    made.map(drop).context("python3 cannot make a virtual environment")
}

/// Checks that this Go fetches a newer one itself, for modules that need it.
fn go_fetches_itself() -> Result<()> {
    on_path(&["go"])?;
    // Next to a go.mod, Go might fetch another version first.
    let mut go = Command::new("go");
    let version = exec::output(go.arg("version").current_dir(Path::new("/")))?;
    let version = version.trim();
    ensure!(
        go_version(version).is_some_and(|found| found >= (1, 21)),
        "Go 1.21 or later is needed, which fetches newer versions itself, and this is {version}"
    );
    Ok(())
}

/// `(1, 26)` from `go version go1.26.1 linux/amd64`.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let number = text.split_whitespace().find_map(|word| {
        word.strip_prefix("go").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })?;
    let mut parts = number.split('.').map(|part| {
        let digits = part.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().ok()
    });
    Some((parts.next()??, parts.next()??))
}

/// Checks that this cargo command runs. rustup has a program with its name even if the component is not installed.
fn cargo_runs(command: &str) -> Result<()> {
    exec::output(&mut exec::cargo(&[command, "--version"])).map(drop)
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    const THERE: Tool = Tool {
        name: "a shell",
        needed_by: "scripts",
        check: || on_path(&["sh"]),
        install: Source::Packages(&[]),
        seconds: 1,
    };
    const ABSENT: Tool = Tool { name: "a unicorn", check: || bail!("it is a myth"), ..THERE };

    #[test]
    fn an_installed_tool_is_not_listed() {
        assert!(missing(&[THERE], |tool| (tool.check)()).is_empty());
        assert!(THERE.ensure().is_ok());
    }

    #[test]
    fn a_missing_tool_is_listed_with_what_does_not_run() {
        let lines = missing(&[ABSENT], |tool| (tool.check)());
        assert_eq!(lines, ["not run: scripts. They need a unicorn: it is a myth"]);
    }

    #[test]
    fn the_first_program_that_is_not_on_the_path_is_named() {
        let error = on_path(&["sh", "no-such-program"]).unwrap_err().to_string();
        assert_eq!(error, "no-such-program is not installed");
    }

    #[test]
    fn the_version_of_go_is_read() {
        assert_eq!(go_version("go version go1.26.1 linux/amd64"), Some((1, 26)));
        assert_eq!(go_version("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(go_version("go version devel linux/amd64"), None);
    }
}

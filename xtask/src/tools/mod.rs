//! What the tests and checks need beyond Rust: found, installed, or named with what is not run.

mod list;

use std::env;
use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{apt, exec};

pub(crate) use list::{CARGO_CYCLONEDX, CARGO_DEB, CI, DEPLOYMENT, TESTS};

/// For what compiles.
const COMPILE_LIMIT: Duration = Duration::from_mins(15);
const AT_ONCE: Duration = Duration::from_secs(30);

/// Programs that are installed together and used for one thing.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    name: &'static str,
    /// What is not run without it.
    needed_by: &'static str,
    /// Whether it is there; the error says what is wrong.
    check: fn() -> Result<()>,
    install: Source,
    /// About how long it takes to install.
    seconds: u32,
}

/// Where a tool is installed from.
#[derive(Clone, Copy)]
enum Source {
    /// Debian's packages.
    Packages(&'static [&'static str]),
    /// A component of rustup's toolchain; without rustup, a package.
    Component(&'static str, &'static str),
    /// A crate of this version, with a binary of the same name.
    Crate(&'static str, &'static str),
}

impl Tool {
    /// Installs it unless it is there.
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
        (self.check)().context("it was installed, but")
    }

    fn missing(&self, why: &anyhow::Error) -> Missing {
        Missing { name: self.name, needed_by: self.needed_by, why: format!("{why:#}") }
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
                    exec::output(&mut add, COMPILE_LIMIT).map(drop)
                }
                None => apt::install(&[package]),
            },
            Self::Crate(name, version) => {
                // It is run once, so it is built quickly rather than to be quick.
                let options = ["install", "--quiet", "--locked", "--debug", "--version"];
                let mut cargo = exec::cargo(&options);
                cargo.args([version, name]).arg("--root").arg(exec::cargo_home()?);
                exec::output(&mut cargo, COMPILE_LIMIT).map(drop)
            }
        }
    }
}

/// A tool that is not there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    name: &'static str,
    needed_by: &'static str,
    why: String,
}

impl Display for Missing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, needed_by, why } = self;
        write!(f, "not run: {needed_by}. They need {name}: {why}")
    }
}

/// Installs the tools that are not there, and answers with those that cannot be installed.
pub(crate) fn install(tools: &[Tool]) -> Result<Vec<Missing>> {
    of(tools, Tool::ensure)
}

/// The tools that are not there.
pub(crate) fn find(tools: &[Tool]) -> Result<Vec<Missing>> {
    of(tools, |tool| (tool.check)())
}

/// With `CI` in the environment nothing may be missing: a test that is left out there is never run.
fn of(tools: &[Tool], ready: fn(&Tool) -> Result<()>) -> Result<Vec<Missing>> {
    let missing: Vec<Missing> =
        tools.iter().filter_map(|tool| Some(tool.missing(&ready(tool).err()?))).collect();
    name(&missing);
    ensure!(
        missing.is_empty() || env::var_os("CI").is_none(),
        "CI is set, so all that is named above must be installed"
    );
    Ok(missing)
}

/// Says what is not run.
pub(crate) fn name(missing: &[Missing]) {
    for missing in missing {
        println!("setup: {missing}");
    }
}

/// Whether all these programs are on the path; the error names the first that is not.
fn on_path(programs: &[&str]) -> Result<()> {
    for program in programs {
        exec::find(program).with_context(|| format!("{program} is not installed"))?;
    }
    Ok(())
}

/// Whether Python makes virtual environments: Debian leaves half of the module `venv` to a package.
fn venv_works() -> Result<()> {
    on_path(&["python3"])?;
    let place = exec::target()?.join("venv-check");
    let mut venv = Command::new("python3");
    let made = exec::output(venv.args(["-m", "venv", "--clear"]).arg(&place), AT_ONCE);
    let _ = std::fs::remove_dir_all(&place);
    made.map(drop).context("python3 makes no virtual environment")
}

/// Whether this Go builds modules that want a newer one: it fetches that itself.
fn go_fetches_itself() -> Result<()> {
    on_path(&["go"])?;
    // Elsewhere a go.mod would have it fetch another version first.
    let mut go = Command::new("go");
    let version = exec::output(go.arg("version").current_dir(Path::new("/")), AT_ONCE)?;
    let version = version.trim();
    ensure!(
        go_version(version).is_some_and(|found| found >= (1, 21)),
        "Go 1.21 or later is needed, which fetches what is newer itself, and this is {version}"
    );
    Ok(())
}

/// `(1, 26)` of `go version go1.26.1 linux/amd64`.
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

/// Whether this cargo command runs: rustup has its name also where the component is not installed.
fn cargo_runs(command: &str) -> Result<()> {
    exec::output(&mut exec::cargo(&[command, "--version"]), AT_ONCE).map(drop)
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
    fn what_is_there_is_not_named() {
        assert!(find(&[THERE]).unwrap().is_empty());
        assert!(THERE.ensure().is_ok());
    }

    #[test]
    fn what_is_absent_is_named_with_what_is_not_run() {
        let why = (ABSENT.check)().unwrap_err();
        let told = ABSENT.missing(&why).to_string();
        assert_eq!(told, "not run: scripts. They need a unicorn: it is a myth");
    }

    #[test]
    fn the_first_program_that_is_not_on_the_path_is_named() {
        let error = on_path(&["sh", "no-such-program"]).unwrap_err().to_string();
        assert_eq!(error, "no-such-program is not installed");
    }

    #[test]
    fn go_tells_its_version() {
        assert_eq!(go_version("go version go1.26.1 linux/amd64"), Some((1, 26)));
        assert_eq!(go_version("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(go_version("go version devel linux/amd64"), None);
    }
}

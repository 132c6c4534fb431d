//! The compiler of the kernel programs.

use std::env;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::exec;

pub(super) use crate::exec::TOOLCHAIN as CHOICE;

/// What Debian's compiler is called for rustup.
pub(super) const LINKED: &str = "observer-bpf";

/// What releases are built with, and what is installed where no nightly is.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

/// Of whatever day.
const ANY_NIGHTLY: &str = "nightly";

/// rustup and rustc answer at once, or something is wrong.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Where a compiler is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Toolchain {
    /// rustup's, by its name.
    Rustup(String),
    /// Without rustup, the rustc on the path.
    Path,
}

impl Toolchain {
    /// The one that observer/build.rs uses: keep in step with it.
    pub(super) fn chosen() -> Self {
        let Ok(names) = rustup_toolchains() else { return Self::Path };
        if let Ok(name) = env::var(CHOICE) {
            return Self::Rustup(name);
        }
        let found = first_of(&names, &[LINKED, NIGHTLY, ANY_NIGHTLY]);
        Self::Rustup(found.unwrap_or(NIGHTLY).to_owned())
    }

    /// The nightly that is there, or is to be.
    pub(super) fn nightly() -> String {
        let names = rustup_toolchains().unwrap_or_default();
        first_of(&names, &[NIGHTLY, ANY_NIGHTLY]).unwrap_or(NIGHTLY).to_owned()
    }

    /// Whether it is the distribution's: rustup has nothing to add to it.
    pub(super) fn is_debians(&self) -> bool {
        match self {
            Self::Rustup(name) => name == LINKED,
            Self::Path => true,
        }
    }

    /// Asks rustc what it is.
    pub(super) fn compiler(&self) -> Result<Compiler> {
        let program = match self {
            Self::Rustup(name) => {
                let path = rustup(&["which", "--toolchain", name, "rustc"], AT_ONCE)?;
                PathBuf::from(path.trim())
            }
            Self::Path => exec::find("rustc").context("there is no rustc")?,
        };
        Compiler::of(&program)
    }
}

impl Display for Toolchain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(name) => write!(f, "toolchain {name}"),
            Self::Path => f.write_str("the toolchain on the path"),
        }
    }
}

/// The first of these that is there, where rustup shows the host's triple after the name.
fn first_of<'a>(there: &[String], names: &[&'a str]) -> Option<&'a str> {
    let is_there = |name: &str| {
        let is_it =
            |there: &String| there.strip_prefix(name).is_some_and(|rest| !rest.starts_with("-20"));
        there.iter().any(is_it)
    };
    names.iter().copied().find(|name| is_there(name))
}

/// The first words of `rustup toolchain list`; an error without rustup.
pub(super) fn rustup_toolchains() -> Result<Vec<String>> {
    let list = rustup(&["toolchain", "list"], AT_ONCE)?;
    Ok(list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Runs rustup; its name can be that of a toolchain without the host's triple.
pub(super) fn rustup(arguments: &[&str], limit: Duration) -> Result<String> {
    let program = exec::find("rustup").context("rustup is not installed")?;
    exec::output(Command::new(program).args(arguments), limit)
}

/// A rustc.
#[derive(Debug)]
pub(super) struct Compiler {
    pub(super) program: PathBuf,
    sysroot: PathBuf,
    /// Major and minor.
    version: (u32, u32),
    /// As rustc tells it: `1.97.0-nightly`.
    release: String,
    /// The LLVM that it writes bitcode with: major version.
    pub(super) llvm: u32,
}

impl Compiler {
    pub(super) fn of(program: &Path) -> Result<Self> {
        let about = exec::output(Command::new(program).arg("-vV"), AT_ONCE)?;
        let sysroot = exec::output(Command::new(program).args(["--print", "sysroot"]), AT_ONCE)?;
        Self::parse(program, &about, sysroot.trim())
            .with_context(|| format!("{} does not say what it is", program.display()))
    }

    fn parse(program: &Path, about: &str, sysroot: &str) -> Option<Self> {
        let value = |key: &str| about.lines().find_map(|line| line.strip_prefix(key));
        let release = value("release: ")?;
        Some(Self {
            program: program.to_path_buf(),
            sysroot: PathBuf::from(sysroot),
            version: major_minor(release)?,
            release: release.to_owned(),
            llvm: major_minor(value("LLVM version: ")?)?.0,
        })
    }

    /// Whether it can compile the kernel programs; the error says what it lacks.
    pub(super) fn check(&self) -> Result<()> {
        self.check_version()?;
        if !self.has_source() {
            bail!("rust-src is missing from {}", self.sysroot.display());
        }
        Ok(())
    }

    /// Whether it is as new as the workspace asks.
    pub(super) fn check_version(&self) -> Result<()> {
        let wanted = env!("CARGO_PKG_RUST_VERSION");
        ensure!(
            major_minor(wanted).is_some_and(|wanted| self.version >= wanted),
            "rustc {wanted} or later is needed, and {} is {}",
            self.program.display(),
            self.release
        );
        Ok(())
    }

    /// Whether `core` can be built.
    pub(super) fn has_source(&self) -> bool {
        self.sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
    }
}

impl Display for Compiler {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {}, LLVM {}", self.release, self.llvm)
    }
}

/// `(1, 97)` of `1.97.0-nightly`, `1.97`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nightly_of_a_day_is_told_from_any_other() {
        let names = |names: &[&str]| names.iter().map(|&name| name.into()).collect::<Vec<String>>();
        let both = [NIGHTLY, ANY_NIGHTLY];
        let any = names(&["stable-x86_64-unknown-linux-gnu", "nightly-x86_64-unknown-linux-gnu"]);
        assert_eq!(first_of(&any, &both), Some(ANY_NIGHTLY));
        let old = names(&["nightly-2020-01-01-x86_64-unknown-linux-gnu"]);
        assert_eq!(first_of(&old, &both), None);
        let pinned = [any, names(&[&format!("{NIGHTLY}-x86_64-unknown-linux-gnu")])].concat();
        assert_eq!(first_of(&pinned, &both), Some(NIGHTLY));
    }

    const ABOUT: &str = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                         release: 1.97.0-nightly\nLLVM version: 22.1.4\n";

    #[test]
    fn compiler_tells_its_versions() {
        let compiler = Compiler::parse(Path::new("rustc"), ABOUT, "/nowhere").unwrap();
        assert_eq!((compiler.version, compiler.llvm), ((1, 97), 22));
        assert!(compiler.check_version().is_ok());
        assert!(compiler.check().unwrap_err().to_string().contains("rust-src is missing"));
    }

    #[test]
    fn old_compiler_is_refused() {
        let about = ABOUT.replace("1.97.0-nightly", "1.9.0");
        let compiler = Compiler::parse(Path::new("rustc"), &about, "/nowhere").unwrap();
        assert!(compiler.check_version().is_err());
    }

    #[test]
    fn what_is_no_compiler_is_refused() {
        assert!(Compiler::parse(Path::new("rustc"), "busybox", "/nowhere").is_none());
    }
}

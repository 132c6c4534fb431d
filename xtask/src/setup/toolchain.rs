//! The compiler of the BPF programs.

use std::env;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::exec;

pub(super) use crate::exec::TOOLCHAIN as CHOICE;

/// The name of Debian's compiler as a toolchain of rustup.
pub(super) const LINKED: &str = "observer-bpf";

/// The nightly that releases are built with. It is installed if there is no other nightly.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

/// A nightly of any day.
const ANY_NIGHTLY: &str = "nightly";

/// The place of a compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Toolchain {
    /// A toolchain of rustup, by its name.
    Rustup(String),
    /// The rustc on the path, without rustup.
    Path,
}

impl Toolchain {
    /// The toolchain that observer/build.rs uses. A change here needs the same change there.
    pub(super) fn chosen() -> Self {
        let Ok(names) = rustup_toolchains() else { return Self::Path };
        if let Ok(name) = env::var(CHOICE) {
            return Self::Rustup(name);
        }
        let found = first_of(&names, &[LINKED, NIGHTLY, ANY_NIGHTLY]);
        Self::Rustup(found.unwrap_or(NIGHTLY).to_owned())
    }

    /// The installed nightly, or the one to install.
    pub(super) fn nightly() -> String {
        let names = rustup_toolchains().unwrap_or_default();
        first_of(&names, &[NIGHTLY, ANY_NIGHTLY]).unwrap_or(NIGHTLY).to_owned()
    }

    /// Whether it is the compiler of the distribution, to which rustup can add nothing.
    pub(super) fn is_debians(&self) -> bool {
        match self {
            Self::Rustup(name) => name == LINKED,
            Self::Path => true,
        }
    }

    /// The compiler of this toolchain.
    pub(super) fn compiler(&self) -> Result<Compiler> {
        let program = match self {
            Self::Rustup(name) => {
                let path = exec::output(&mut rustup(&["which", "--toolchain", name, "rustc"])?)?;
                PathBuf::from(path.trim())
            }
            Self::Path => exec::find("rustc").context("rustc is not installed")?,
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

/// The first of `names` that is installed. rustup lists toolchains with the host's triple after the name.
fn first_of<'a>(installed: &[String], names: &[&'a str]) -> Option<&'a str> {
    let is_installed = |name: &&str| {
        let rest = installed.iter().filter_map(|toolchain| toolchain.strip_prefix(*name));
        // `nightly` is not the nightly of a day.
        rest.into_iter().any(|rest| !rest.starts_with("-20"))
    };
    names.iter().copied().find(is_installed)
}

/// The names of the installed toolchains; an error without rustup.
pub(super) fn rustup_toolchains() -> Result<Vec<String>> {
    let list = exec::output(&mut rustup(&["toolchain", "list"])?)?;
    Ok(list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// A command of rustup, in which names of toolchains may lack the host's triple.
pub(super) fn rustup(arguments: &[&str]) -> Result<Command> {
    let mut rustup = Command::new(exec::find("rustup").context("rustup is not installed")?);
    rustup.args(arguments);
    Ok(rustup)
}

/// A rustc.
#[derive(Debug)]
pub(super) struct Compiler {
    pub(super) program: PathBuf,
    sysroot: PathBuf,
    /// Major and minor version.
    version: (u32, u32),
    /// As rustc prints it: `1.97.0-nightly`.
    release: String,
    /// Major version of the LLVM whose bitcode it writes.
    pub(super) llvm: u32,
}

impl Compiler {
    pub(super) fn of(program: &Path) -> Result<Self> {
        let about = exec::output(Command::new(program).arg("-vV"))?;
        let sysroot = exec::output(Command::new(program).args(["--print", "sysroot"]))?;
        Self::parse(program, &about, sysroot.trim())
            .with_context(|| format!("{} does not print its version", program.display()))
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

    /// Checks that it can compile the BPF programs; the error says what it lacks.
    pub(super) fn check(&self) -> Result<()> {
        self.check_version()?;
        if !self.has_source() {
            bail!("rust-src is missing from {}", self.sysroot.display());
        }
        Ok(())
    }

    /// Checks that it is as new as the workspace needs.
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

    /// Whether it has the source of `core`.
    pub(super) fn has_source(&self) -> bool {
        self.sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
    }
}

impl Display for Compiler {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {}, LLVM {}", self.release, self.llvm)
    }
}

/// `(1, 97)` from `1.97.0-nightly` or `1.97`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nightly_of_a_day_is_not_any_nightly() {
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
    fn versions_of_a_compiler_are_read() {
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
    fn another_program_is_refused() {
        assert!(Compiler::parse(Path::new("rustc"), "busybox", "/nowhere").is_none());
    }
}

//! bpf-linker, which makes BPF objects of the bitcode that rustc writes. It reads that of its own
//! LLVM and of older ones.

use std::env;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::toolchain::Compiler;
use crate::exec;

const VERSION: &str = "0.13.0";

/// The LLVMs that this version can be built for.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Its own code takes milliseconds of a link, all else is LLVM's: optimising it takes longer than it
/// ever saves.
const QUICKLY_BUILT: [(&str, &str); 2] =
    [("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"), ("CARGO_PROFILE_RELEASE_DEBUG", "0")];

const AT_ONCE: Duration = Duration::from_secs(30);

/// An installed bpf-linker that runs.
#[derive(Debug)]
pub(super) struct Linker {
    program: PathBuf,
    /// Major version.
    llvm: u32,
}

impl Linker {
    /// The one that rustc will find.
    pub(super) fn found() -> Result<Self> {
        let program = exec::find("bpf-linker").context("bpf-linker is not installed")?;
        // It tells its own version only; LLVM's own option tells LLVM's, and ends the program
        // before it opens any file.
        let output = env::temp_dir().join(format!("observer-setup-{}.o", std::process::id()));
        let mut command = Command::new(&program);
        command.args(["--llvm-args=--version", "--output"]).arg(&output).arg("/dev/null");
        let about = exec::output(&mut command, AT_ONCE)
            .with_context(|| format!("{} does not run", program.display()))?;
        let llvm = llvm_version(&about)
            .with_context(|| format!("{} does not tell its LLVM", program.display()))?;
        Ok(Self { program, llvm })
    }

    pub(super) fn check(&self, compiler: &Compiler) -> Result<()> {
        ensure!(
            self.llvm >= compiler.llvm,
            "{} has LLVM {}, and {} writes bitcode of LLVM {}",
            self.program.display(),
            self.llvm,
            compiler.program.display(),
            compiler.llvm
        );
        Ok(())
    }
}

impl Display for Linker {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} (LLVM {})", self.program.display(), self.llvm)
    }
}

/// `22` of `  LLVM version 22.1.4-rust-1.97.0-nightly`, `Debian LLVM version 22.1.8`.
fn llvm_version(about: &str) -> Option<u32> {
    let (_, version) = about.split_once("LLVM version ")?;
    version.split('.').next()?.parse().ok()
}

/// Builds a linker for the compiler, unless one is there, against the very LLVM that the compiler
/// uses: it needs no LLVM of its own, and none can fit better. It no longer runs when that
/// toolchain is removed or updated; then setup builds it anew.
pub(super) fn ensure_for(compiler: &Compiler) -> Result<()> {
    let Err(why) = Linker::found().and_then(|linker| linker.check(compiler)) else {
        return Ok(());
    };
    let version = compiler.llvm;
    if !LLVM.contains(&version) {
        bail!(
            "{why:#}; bpf-linker {VERSION} knows LLVM {} to {}, and {} has {version}",
            LLVM.start(),
            LLVM.end(),
            compiler.program.display()
        );
    }
    println!("setup: building bpf-linker {VERSION} for LLVM {version}, about 30 s: {why:#}");
    let library = llvm_library(compiler)?;
    let directory = library.parent().context("LLVM's library has no directory")?;
    let prefix = Prefix::with(&library)?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--quiet"])
        .args(["--no-default-features", "--features", &format!("llvm-{version}")])
        .arg("--root")
        .arg(exec::cargo_home()?)
        .envs(QUICKLY_BUILT)
        .env("LLVM_PREFIX", &prefix.0)
        .env("RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{}", directory.display()))
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    exec::run(&mut cargo)?;
    Linker::found()?.check(compiler)
}

/// The shared library that the compiler's LLVM is.
fn llvm_library(compiler: &Compiler) -> Result<PathBuf> {
    let needed = exec::output(Command::new("ldd").arg(&compiler.program), AT_ONCE)?;
    let path = needed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("libLLVM"))
        .find_map(|line| line.split_once(" => ")?.1.split(" (").next())
        .with_context(|| {
            format!(
                "{} has its LLVM built in, so bpf-linker cannot be built against that; \
                 `cargo binstall bpf-linker` installs one that is built already",
                compiler.program.display()
            )
        })?;
    fs::canonicalize(path).with_context(|| format!("cannot find {path}"))
}

/// What bpf-linker's build takes for an installation of LLVM: a directory with lib/libLLVM.so.
struct Prefix(PathBuf);

impl Prefix {
    fn with(library: &Path) -> Result<Self> {
        let prefix = exec::target()?.join("bpf-linker-llvm");
        let link = prefix.join("lib/libLLVM.so");
        fs::create_dir_all(prefix.join("lib"))
            .and_then(|()| if link.is_symlink() { fs::remove_file(&link) } else { Ok(()) })
            .and_then(|()| symlink(library, &link))
            .with_context(|| format!("cannot write {}", link.display()))?;
        Ok(Self(prefix))
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_version_is_found_in_either_wording() {
        let rusts = "LLVM (http://llvm.org/):\n  LLVM version 22.1.4-rust-1.97.0-nightly\n";
        assert_eq!(llvm_version(rusts), Some(22));
        assert_eq!(llvm_version("Debian LLVM version 23.1.8\n  Optimized build.\n"), Some(23));
        assert_eq!(llvm_version("bpf-linker 0.9.13\n"), None);
    }
}

//! bpf-linker, which makes BPF objects from the bitcode of rustc. It reads the bitcode of its own LLVM and of older ones.

use std::env;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::toolchain::Compiler;
use crate::exec;

const VERSION: &str = "0.13.0";

/// The LLVM versions that this version can be built for.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Builds without optimizations. A link spends milliseconds in bpf-linker's own code, the rest in LLVM.
const QUICKLY_BUILT: [(&str, &str); 2] =
    [("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"), ("CARGO_PROFILE_RELEASE_DEBUG", "0")];

/// An installed bpf-linker that runs.
#[derive(Debug)]
pub(super) struct Linker {
    program: PathBuf,
    /// Major version of its LLVM.
    llvm: u32,
}

impl Linker {
    /// The linker that rustc finds.
    pub(super) fn found() -> Result<Self> {
        let program = exec::find("bpf-linker").context("bpf-linker is not installed")?;
        // bpf-linker prints only its own version. LLVM's option prints that of LLVM, and ends the program before it
        // opens a file.
        let output = env::temp_dir().join(format!("observer-setup-{}.o", std::process::id()));
        let mut command = Command::new(&program);
        command.args(["--llvm-args=--version", "--output"]).arg(&output).arg("/dev/null");
        let about = exec::output(&mut command)
            .with_context(|| format!("{} does not run", program.display()))?;
        let llvm = llvm_version(&about).with_context(|| {
            format!("{} does not print the version of its LLVM", program.display())
        })?;
        Ok(Self { program, llvm })
    }

    pub(super) fn check(&self, compiler: &Compiler) -> Result<()> {
        ensure!(
            self.llvm >= compiler.llvm,
            "{} has LLVM {}, but {} writes bitcode of LLVM {}",
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

/// `22` from `  LLVM version 22.1.4-rust-1.97.0-nightly` or `Debian LLVM version 22.1.8`.
fn llvm_version(about: &str) -> Option<u32> {
    let (_, version) = about.split_once("LLVM version ")?;
    version.split('.').next()?.parse().ok()
}

/// Builds a linker for the compiler, unless one is there. It uses the shared library of the compiler's LLVM, so it needs
/// no other. When that toolchain is removed or updated, the linker no longer runs, and setup builds it again.
pub(super) fn ensure_for(compiler: &Compiler) -> Result<()> {
    let Err(why) = Linker::found().and_then(|linker| linker.check(compiler)) else {
        return Ok(());
    };
    let version = compiler.llvm;
    if !LLVM.contains(&version) {
        bail!(
            "{why:#}; bpf-linker {VERSION} supports LLVM {} to {}, but {} has {version}",
            LLVM.start(),
            LLVM.end(),
            compiler.program.display()
        );
    }
    println!("setup: building bpf-linker {VERSION} for LLVM {version}, about 30 s: {why:#}");
    let library = llvm_library(compiler)?;
    let directory = library.parent().context("LLVM's library has no directory")?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--quiet"])
        .args(["--no-default-features", "--features", &format!("llvm-{version}")])
        .arg("--root")
        .arg(exec::cargo_home()?)
        .envs(QUICKLY_BUILT)
        .env("LLVM_PREFIX", llvm_prefix(&library)?)
        .env("RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{}", directory.display()))
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    exec::run(&mut cargo)?;
    Linker::found()?.check(compiler)
}

/// The shared library of the compiler's LLVM.
fn llvm_library(compiler: &Compiler) -> Result<PathBuf> {
    let needed = exec::output(Command::new("ldd").arg(&compiler.program))?;
    let path = needed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("libLLVM"))
        .find_map(|line| line.split_once(" => ")?.1.split(" (").next())
        .with_context(|| {
            format!(
                "{} contains LLVM and no shared library of it, so bpf-linker cannot be built for it; \
                 `cargo binstall bpf-linker` installs a binary",
                compiler.program.display()
            )
        })?;
    fs::canonicalize(path).with_context(|| format!("cannot find {path}"))
}

/// A directory with `lib/libLLVM.so`, which the build of bpf-linker takes for an installation of LLVM.
fn llvm_prefix(library: &Path) -> Result<PathBuf> {
    let prefix = exec::target()?.join("bpf-linker-llvm");
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib"))
        .and_then(|()| if link.is_symlink() { fs::remove_file(&link) } else { Ok(()) })
        .and_then(|()| symlink(library, &link))
        .with_context(|| format!("cannot write {}", link.display()))?;
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_llvm_is_found_in_both_formats() {
        let rusts = "LLVM (http://llvm.org/):\n  LLVM version 22.1.4-rust-1.97.0-nightly\n";
        assert_eq!(llvm_version(rusts), Some(22));
        assert_eq!(llvm_version("Debian LLVM version 23.1.8\n  Optimized build.\n"), Some(23));
        assert_eq!(llvm_version("bpf-linker 0.9.13\n"), None);
    }
}

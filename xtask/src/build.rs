//! `cargo xtask build`

use std::path::PathBuf;

use anyhow::Result;

use crate::{exec, setup};

pub(crate) fn run(release: bool) -> Result<()> {
    setup::ensure()?;
    let daemon = daemon(release)?;
    println!("{}", daemon.display());
    Ok(())
}

/// Builds the daemon and says where it is.
pub(crate) fn daemon(release: bool) -> Result<PathBuf> {
    package("observer", release)
}

/// Builds the package, whose binary has its name. Each alone: built together they would be given
/// the union of the features that they ask of their dependencies, which is not what users build.
pub(crate) fn package(name: &str, release: bool) -> Result<PathBuf> {
    let mut cargo = exec::cargo(&["build", "--package", name]);
    if release {
        cargo.arg("--release");
    }
    exec::run(&mut cargo)?;
    Ok(exec::target()?.join(if release { "release" } else { "debug" }).join(name))
}

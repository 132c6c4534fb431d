//! The documents in `docs/generated`, which commands write.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::exec;

/// The path of the document with this name.
pub(crate) fn path(name: &str) -> PathBuf {
    exec::workspace().join("docs/generated").join(name)
}

/// Writes the document. Its first line names the command, which is given without `cargo xtask`.
pub(crate) fn write(name: &str, command: &str, text: &str) -> Result<()> {
    let path = path(name);
    let text = format!("Written by `cargo xtask {command}`; do not edit.\n\n{text}");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

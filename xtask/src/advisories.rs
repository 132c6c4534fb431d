//! `cargo xtask advisories`: copies the advisories of dependencies from a checkout of RustSec's database.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::exec;

/// The directory that `tests/tests/dependencies.rs` reads.
const PLACE: &str = "tests/advisories";

/// Replaces the advisories that were copied before.
pub(crate) fn take(database: &Path) -> Result<()> {
    let root = exec::workspace();
    let mut names = BTreeSet::new();
    for lockfile in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let text = fs::read_to_string(root.join(lockfile)).context(lockfile)?;
        let name = |line: &str| Some(line.strip_prefix("name = \"")?.strip_suffix('"')?.to_owned());
        names.extend(text.lines().filter_map(name));
    }
    let place = root.join(PLACE).join("crates");
    fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
    let mut copied = 0;
    for name in &names {
        let Ok(entries) = fs::read_dir(database.join("crates").join(name)) else { continue };
        fs::create_dir_all(place.join(name))?;
        for entry in entries {
            let entry = entry?;
            let text = fs::read_to_string(entry.path())
                .with_context(|| format!("read {}", entry.path().display()))?;
            fs::write(place.join(name).join(entry.file_name()), head(&text))?;
            copied += 1;
        }
    }
    ensure!(copied > 0, "no advisory of a dependency is below {}/crates", database.display());
    println!("{copied} advisories in {PLACE}");
    Ok(())
}

/// The fields that programs read, and the title.
fn head(text: &str) -> String {
    let lines = text.lines();
    // Between the fences, `#` starts a comment.
    let fence = lines.clone().skip(1).position(|line| line == "```").map_or(0, |at| at + 1);
    let title = lines.clone().skip(fence).position(|line| line.starts_with("# "));
    let length = title.map_or(usize::MAX, |title| fence + title + 1);
    lines.take(length).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::head;

    #[test]
    fn what_follows_the_title_is_left_out() {
        let head_of = "```toml\n[advisory]\n# Comment\nid = \"A\"\n```\n\n# Title\n";
        assert_eq!(head(&format!("{head_of}\nText.\n# More\n")), head_of);
        assert_eq!(head("none"), "none\n");
    }
}

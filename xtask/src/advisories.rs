//! `cargo xtask advisories`: of a checkout of RustSec's database, what is of crates that are depended on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::exec;

/// Below `tests`, whose `dependencies` reads them.
const PLACE: &str = "tests/advisories";

/// Puts it in the place of what was taken before.
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
    let mut taken = 0;
    for name in &names {
        let Ok(entries) = fs::read_dir(database.join("crates").join(name)) else { continue };
        fs::create_dir_all(place.join(name))?;
        for entry in entries {
            let entry = entry?;
            let text = fs::read_to_string(entry.path())
                .with_context(|| format!("read {}", entry.path().display()))?;
            fs::write(place.join(name).join(entry.file_name()), head(&text))?;
            taken += 1;
        }
    }
    ensure!(taken > 0, "no advisory of what is depended on below {}/crates", database.display());
    println!("{taken} advisories in {PLACE}");
    Ok(())
}

/// What programs read, and the title; the rest is for who follows its number.
fn head(text: &str) -> String {
    let lines = text.lines();
    // Between the fences, `#` begins a comment.
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

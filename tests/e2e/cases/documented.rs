//! The comparison of docs/reliability.md with the tests: its table names only tests that exist, and all cases of its
//! kinds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::case::Case;

/// The kinds whose cases must all be in the table.
const KINDS: [&str; 6] = [
    "raw hostile: ",
    "raw staying up: ",
    "raw privileges: ",
    "raw late: ",
    "raw gaps: ",
    "started under load: ",
];

/// The case that compares the document with these cases.
pub(crate) fn case(cases: &[Case]) -> Case {
    let cases: BTreeSet<String> = cases.iter().map(|case| case.name.clone()).collect();
    Case::new("documented: docs/reliability.md", move || compare(&cases))
}

fn compare(cases: &BTreeSet<String>) -> Result<()> {
    let root = &support::stack::workspace()?;
    let page = fs::read_to_string(root.join("docs/reliability.md")).context("read the page")?;
    let named = named(&page);
    ensure!(named.len() > KINDS.len(), "no tests are named: {named:?}");
    let functions = functions(root)?;
    for name in &named {
        let exists = match name.strip_prefix("fuzz ") {
            Some(target) => root.join(format!("fuzz/targets/{target}.rs")).is_file(),
            None => cases.contains(*name) || functions.contains(*name),
        };
        ensure!(exists, "there is no test {name:?}");
    }
    for case in cases.iter().filter(|case| KINDS.iter().any(|kind| case.starts_with(kind))) {
        ensure!(named.contains(&**case), "the page does not name {case:?}");
    }
    Ok(())
}

/// The names in backquotes in the last cells of the tables' rows.
fn named(page: &str) -> BTreeSet<&str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix(" |"));
    // Rows with five cells: the table of bounds names no tests.
    let cells = rows.filter(|row| row.split(" | ").count() == 5);
    let last = cells.filter_map(|row| row.rsplit(" | ").next());
    last.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// The names of all functions that are tests.
fn functions(root: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(root).context("list the workspace")?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    // The crates of the daemon, and the simulator.
    folders.retain(|path| {
        path.is_dir()
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("observer"))
    });
    folders.push(root.join("tests/sim"));
    let mut names = BTreeSet::new();
    for folder in folders {
        for file in support::rust_files(&folder)? {
            names.extend(tests_of(&fs::read_to_string(file)?));
        }
    }
    Ok(names)
}

fn tests_of(source: &str) -> Vec<String> {
    let source = source.replace("#[tokio::test]", "#[test]");
    let parts = source.split("#[test]").skip(1);
    parts.filter_map(|part| Some(part.split_once("fn ")?.1.split_once('(')?.0.to_owned())).collect()
}

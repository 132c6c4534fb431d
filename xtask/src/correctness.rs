//! docs/correctness.md: what a run of the end-to-end tests has checked, case by case.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::exec;

/// What is before it in the document is written by hand.
const BEGIN: &str = "<!-- From here on made by `cargo xtask test --document`. -->\n";

/// Writes into the document what the last run has checked.
pub(crate) fn write() -> Result<()> {
    let (text, made) = texts()?;
    let (by_hand, _) = text.split_once(BEGIN).context("docs/correctness.md has no mark")?;
    fs::write(document(), format!("{by_hand}{BEGIN}{made}")).context("write docs/correctness.md")
}

/// An error if the document does not tell what the last run has checked.
pub(crate) fn check() -> Result<()> {
    let (text, made) = texts()?;
    let (_, told) = text.split_once(BEGIN).context("docs/correctness.md has no mark")?;
    let differs = |a: &str, b: &str| {
        let b: BTreeSet<_> = b.lines().collect();
        a.lines().find(|line| !b.contains(line)).map(str::to_owned)
    };
    if let Some(line) = differs(&made, told) {
        anyhow::bail!("it does not tell of what was run (`cargo xtask test --document`): {line}");
    }
    if let Some(line) = differs(told, &made) {
        anyhow::bail!("it tells of what was not run (`cargo xtask test --document`): {line}");
    }
    ensure!(made == told, "it tells in another order what was run");
    Ok(())
}

fn texts() -> Result<(String, String)> {
    let text = fs::read_to_string(document()).context("read docs/correctness.md")?;
    let cases = exec::target()?.join("cases.jsonl");
    let cases = fs::read_to_string(&cases).with_context(|| format!("read {}", cases.display()))?;
    Ok((text, render(&cases)?))
}

fn document() -> PathBuf {
    exec::workspace().join("docs/correctness.md")
}

/// A table with rows and columns in the order in which they come.
#[derive(Default)]
struct Table {
    rows: Vec<String>,
    columns: Vec<String>,
    cells: BTreeMap<(String, String), String>,
}

impl Table {
    fn add(&mut self, row: &str, column: &str, cell: &str) {
        for (names, name) in [(&mut self.rows, row), (&mut self.columns, column)] {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        self.cells.insert((row.to_owned(), column.to_owned()), cell.to_owned());
    }

    fn render(&self, title: &str, of_rows: &str) -> String {
        let mut text = format!("\n## {title}\n\n| {of_rows} |");
        for column in &self.columns {
            let _ = write!(text, " {} |", escaped(column));
        }
        let _ = writeln!(text, "\n|---|{}", "---|".repeat(self.columns.len()));
        for row in &self.rows {
            let _ = write!(text, "| {} |", escaped(row));
            for column in &self.columns {
                let cell = self.cells.get(&(row.clone(), column.clone()));
                let _ = write!(text, " {} |", cell.map_or("–", String::as_str));
            }
            text.push('\n');
        }
        text
    }
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "\\<")
}

/// One line of JSON for each case; of a case that was run again, its last one counts.
fn render(lines: &str) -> Result<String> {
    let mut cases = Vec::<(String, String)>::new();
    for line in lines.lines() {
        let case: Value = serde_json::from_str(line).context("read a case's result")?;
        let name = case.get("case").and_then(Value::as_str).context("a case without a name")?;
        let name = name.to_owned();
        let cell = cell(&case);
        match cases.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = cell,
            None => cases.push((name, cell)),
        }
    }
    let stacks: BTreeSet<String> = cases
        .iter()
        .filter_map(|(name, _)| name.split_once(": ")?.1.split_once(" -> "))
        .flat_map(|(client, server)| [client.to_owned(), server.to_owned()])
        .collect();

    let (mut pairs, mut alone, mut others) = (Table::default(), Table::default(), Table::default());
    let mut raw = BTreeMap::<&str, Table>::new();
    for (name, cell) in &cases {
        match name.split_once(": ") {
            Some((kind, case)) if kind.starts_with("raw ") => {
                raw.entry(kind).or_default().add(case, "result", cell);
            }
            Some((what, pair)) if pair.contains(" -> ") => pairs.add(pair, what, cell),
            Some((what, stack)) if stacks.contains(stack) => alone.add(what, stack, cell),
            _ => others.add(name, "result", cell),
        }
    }
    let mut text = pairs.render("Each client with each server", "client -> server");
    text.push_str(&alone.render("Each stack with itself", "case"));
    text.push_str(&others.render("The daemon", "case"));
    for (kind, table) in raw {
        let kind = kind.trim_start_matches("raw ");
        text.push_str(&table.render(&format!("Raw HTTP/2 peers: {kind}"), "case"));
    }
    Ok(text)
}

fn cell(case: &Value) -> String {
    let passed = case.get("passed").and_then(Value::as_bool) == Some(true);
    let mut cell = if passed { "yes" } else { "FAILED" }.to_owned();
    for note in
        case.get("notes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    {
        let _ = write!(cell, ", {note}");
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::render;

    const RUN: &str = r#"{"case":"errors: a -> b","passed":false,"notes":[]}
{"case":"errors: b -> a","passed":true,"notes":["tshark"]}
{"case":"IPv6: a","passed":true,"notes":[]}
{"case":"SIGTERM","passed":true,"notes":[]}
{"case":"raw ends: one: two | three","passed":true,"notes":[]}
{"case":"errors: a -> b","passed":true,"notes":["tshark"]}
"#;

    #[test]
    fn every_case_has_its_place() {
        let text = render(RUN).unwrap();
        for line in [
            "| client -> server | errors |",
            "| a -> b | yes, tshark |",
            "| b -> a | yes, tshark |",
            "| IPv6 | yes |",
            "| SIGTERM | yes |",
            "## Raw HTTP/2 peers: ends",
            "| one: two \\| three | yes |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("FAILED"), "it was run again");
    }

    #[test]
    fn what_failed_is_told() {
        assert!(render(&RUN.replace("true", "false")).unwrap().contains("| SIGTERM | FAILED |"));
        assert!(render("{").is_err());
    }
}

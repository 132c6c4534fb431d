//! docs/correctness.md: what a run of the end-to-end tests checks, case by case.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::exec;

/// What is before it in the document is written by hand.
const BEGIN: &str = "<!-- From here on made by `cargo xtask test --document`. -->\n";

/// Writes the cases into the document.
pub(crate) fn write() -> Result<()> {
    let (text, made) = texts()?;
    let (by_hand, _) = text.split_once(BEGIN).context("docs/correctness.md has no mark")?;
    fs::write(document(), format!("{by_hand}{BEGIN}{made}")).context("write docs/correctness.md")
}

/// An error if the document tells of other cases than there are.
pub(crate) fn check() -> Result<()> {
    const TO_DO: &str = "run `cargo xtask test --document`, which runs no case";
    let (text, made) = texts()?;
    let (_, told) = text.split_once(BEGIN).context("docs/correctness.md has no mark")?;
    let missing = |of: &str, from: &str| {
        let from: BTreeSet<_> = from.lines().collect();
        of.lines().find(|line| !from.contains(line)).map(str::to_owned)
    };
    if let Some(line) = missing(&made, told) {
        bail!("it lacks this line; {TO_DO}: {line}");
    }
    if let Some(line) = missing(told, &made) {
        bail!("it has this line, which is no case's any more; {TO_DO}: {line}");
    }
    ensure!(made == told, "its cases are in another order; {TO_DO}");
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

/// Cases that have no table.
#[derive(Default)]
struct Kind {
    said: Option<String>,
    cases: Vec<String>,
}

impl Kind {
    fn render(&self, title: &str) -> String {
        let mut text = format!("\n## {title}\n\n");
        if let Some(said) = &self.said {
            let _ = writeln!(text, "{said}\n");
        }
        for case in &self.cases {
            let _ = writeln!(text, "- {}", escaped(case));
        }
        text
    }
}

/// One line of JSON for each case.
fn render(lines: &str) -> Result<String> {
    let cases: Vec<Case> = lines
        .lines()
        .map(|line| serde_json::from_str(line).context("read a line of cases.jsonl"))
        .collect::<Result<_>>()?;
    let stacks: BTreeSet<&str> = cases
        .iter()
        .filter_map(|case| case.name.split_once(": ")?.1.split_once(" -> "))
        .flat_map(|(client, server)| [client, server])
        .collect();

    let (mut pairs, mut alone, mut others) = (Table::default(), Table::default(), Kind::default());
    let mut raw = Vec::<(&str, Kind)>::new();
    for case in &cases {
        let cell = case.confirmed_by.as_ref().map_or("exact".into(), |by| format!("exact, {by}"));
        match case.name.split_once(": ") {
            Some((kind, name)) if kind.starts_with("raw ") => {
                let kind = kind.trim_start_matches("raw ");
                if raw.last().is_none_or(|(last, _)| *last != kind) {
                    raw.push((kind, Kind { said: case.kind.clone(), cases: Vec::new() }));
                }
                if let Some((_, kind)) = raw.last_mut() {
                    kind.cases.push(name.to_owned());
                }
            }
            Some((what, pair)) if pair.contains(" -> ") => pairs.add(pair, what, &cell),
            Some((what, stack)) if stacks.contains(stack) => alone.add(what, stack, &cell),
            _ => others.cases.push(case.name.clone()),
        }
    }
    let mut text = pairs.render("Each client with each server", "client -> server");
    text.push_str(&alone.render("Each stack with itself", "case"));
    text.push_str(&others.render("The daemon"));
    for (title, kind) in raw {
        text.push_str(&kind.render(&format!("Raw HTTP/2 peers: {title}")));
    }
    Ok(text)
}

/// A case, as the end-to-end tests list it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "case")]
    name: String,
    /// What confirms it beside what its peers know.
    confirmed_by: Option<String>,
    /// What is to be said of all cases of its kind.
    kind: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::render;

    const CASES: &str = r#"{"case":"errors: a -> b","confirmed_by":"tshark"}
{"case":"errors: b -> a"}
{"case":"IPv6: a"}
{"case":"SIGTERM"}
{"case":"raw ends: one: two | three","kind":"Of all ends."}
{"case":"raw ends: four"}
"#;

    #[test]
    fn every_case_has_its_place() {
        let text = render(CASES).unwrap();
        for lines in [
            "| client -> server | errors |",
            "| a -> b | exact, tshark |",
            "| b -> a | exact |",
            "| case | a |\n|---|---|\n| IPv6 | exact |",
            "## The daemon\n\n- SIGTERM\n",
            "## Raw HTTP/2 peers: ends\n\nOf all ends.\n\n- one: two \\| three\n- four\n",
        ] {
            assert!(text.contains(lines), "{lines}\n{text}");
        }
    }

    #[test]
    fn what_is_no_case_is_an_error() {
        assert!(render("{").is_err());
        assert!(render(r#"{"case":"a","passed":true}"#).is_err());
    }
}

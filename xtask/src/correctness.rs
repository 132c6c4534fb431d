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

/// Between a case's name and what became of it.
const THEN: &str = " · ";

/// Writes the cases into the document, and what became of them in the last run of all.
pub(crate) fn write() -> Result<()> {
    const TO_DO: &str = "run all cases: `cargo xtask test` without a filter";
    let path = exec::target()?.join("outcomes.jsonl");
    let lines = fs::read_to_string(&path)
        .with_context(|| format!("there is no {}; {TO_DO}", path.display()))?;
    let outcomes = Outcomes::parse(&lines).with_context(|| TO_DO)?;
    let text = fs::read_to_string(document()).context("read docs/correctness.md")?;
    let (by_hand, _) = text.split_once(BEGIN).context("docs/correctness.md has no mark")?;
    let made = render(&cases()?, &outcomes).with_context(|| TO_DO)?;
    fs::write(document(), format!("{by_hand}{BEGIN}{made}")).context("write docs/correctness.md")
}

/// An error if the document tells of other cases than there are.
pub(crate) fn check() -> Result<()> {
    const TO_DO: &str = "run `cargo xtask test --document` after a run of all cases";
    let text = fs::read_to_string(document()).context("read docs/correctness.md")?;
    let (_, made) = text.split_once(BEGIN).context("docs/correctness.md has no mark")?;
    let told = names(made);
    let cases: BTreeSet<String> = cases()?.into_iter().map(|case| case.name).collect();
    if let Some(name) = cases.difference(&told).next() {
        bail!("it lacks this case; {TO_DO}: {name}");
    }
    if let Some(name) = told.difference(&cases).next() {
        bail!("it has this, which is no case any more; {TO_DO}: {name}");
    }
    Ok(())
}

fn cases() -> Result<Vec<Case>> {
    let path = exec::target()?.join("cases.jsonl");
    let lines = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    parse(&lines)
}

/// One line of JSON for each case.
fn parse(lines: &str) -> Result<Vec<Case>> {
    let line = |line| serde_json::from_str(line).context("read a line of cases.jsonl");
    lines.lines().map(line).collect()
}

fn document() -> PathBuf {
    exec::workspace().join("docs/correctness.md")
}

/// In the place of a case that there is not.
const ABSENT: &str = "–";

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
                let _ = write!(text, " {} |", cell.map_or(ABSENT, String::as_str));
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
            let _ = writeln!(text, "- {case}");
        }
        text
    }
}

fn render(cases: &[Case], outcomes: &Outcomes) -> Result<String> {
    let stacks: BTreeSet<&str> = cases
        .iter()
        .filter_map(|case| case.name.split_once(": ")?.1.split_once(" -> "))
        .flat_map(|(client, server)| [client, server])
        .collect();

    let (mut pairs, mut alone, mut others) = (Table::default(), Table::default(), Kind::default());
    let mut raw = Vec::<(&str, Kind)>::new();
    for case in cases {
        ensure!(!case.name.contains(THEN), "{:?} is in a name: {}", THEN, case.name);
        let became = outcomes.of(case)?;
        let line = |name: &str| format!("{}{THEN}{became}", escaped(name));
        match case.name.split_once(": ") {
            Some((kind, name)) if kind.starts_with("raw ") => {
                let kind = kind.trim_start_matches("raw ");
                if raw.last().is_none_or(|(last, _)| *last != kind) {
                    raw.push((kind, Kind { said: case.kind.clone(), cases: Vec::new() }));
                }
                if let Some((_, kind)) = raw.last_mut() {
                    kind.cases.push(line(name));
                }
            }
            Some((what, pair)) if pair.contains(" -> ") => pairs.add(pair, what, &became),
            Some((what, stack)) if stacks.contains(stack) => alone.add(what, stack, &became),
            _ => others.cases.push(line(&case.name)),
        }
    }
    let mut text = pairs.render(PAIRS, "client -> server");
    text.push_str(&alone.render(ALONE, "case"));
    text.push_str(&others.render(OTHERS));
    for (title, kind) in raw {
        text.push_str(&kind.render(&format!("{RAW}{title}")));
    }
    Ok(text)
}

// The titles, which tell how names are put together from rows and columns.

const PAIRS: &str = "Each client with each server";
const ALONE: &str = "Each stack with itself";
const OTHERS: &str = "The daemon";
const RAW: &str = "Raw HTTP/2 peers: ";

/// The cases that [`render`] has told of.
fn names(made: &str) -> BTreeSet<String> {
    let plain = |text: &str| text.replace("\\|", "|").replace("\\<", "<");
    let (mut names, mut title, mut columns) = (BTreeSet::new(), "", Vec::new());
    for line in made.lines() {
        if let Some(next) = line.strip_prefix("## ") {
            (title, columns) = (next, Vec::new());
        } else if let Some(case) = line.strip_prefix("- ") {
            let name = plain(case.split_once(THEN).map_or(case, |(name, _)| name));
            names.insert(match title.strip_prefix(RAW) {
                Some(kind) => format!("raw {kind}: {name}"),
                None => name,
            });
        } else if let Some(row) = line.strip_prefix("| ").and_then(|row| row.strip_suffix(" |")) {
            let mut cells = row.split(" | ").map(plain);
            let first = cells.next().unwrap_or_default();
            if columns.is_empty() {
                columns = cells.collect();
                continue;
            }
            let there = columns.iter().zip(cells).filter(|(_, cell)| cell != ABSENT);
            names.extend(there.map(|(column, _)| match title {
                PAIRS => format!("{column}: {first}"),
                _ => format!("{first}: {column}"),
            }));
        }
    }
    names
}

/// What became of the cases in a run of all of them.
struct Outcomes(BTreeMap<String, Outcome>);

impl Outcomes {
    /// One line of JSON for each case as it ended, and one at the end of all; what is run again after
    /// that is told by its last line.
    fn parse(lines: &str) -> Result<Self> {
        let (mut outcomes, mut whole) = (BTreeMap::new(), false);
        for line in lines.lines() {
            match serde_json::from_str(line).context("read a line of outcomes.jsonl")? {
                Line::End { .. } => whole = true,
                Line::Case(outcome) => {
                    let again = outcomes.remove(&outcome.case).is_some();
                    outcomes.insert(outcome.case.clone(), Outcome { again, ..outcome });
                }
            }
        }
        ensure!(whole, "the last run of all cases did not come to its end");
        Ok(Self(outcomes))
    }

    /// A cell.
    fn of(&self, case: &Case) -> Result<String> {
        let outcome = self.0.get(&case.name);
        let outcome = outcome.with_context(|| format!("it was not run: {}", case.name))?;
        let mut text = outcome.told(case.confirmed_by.as_deref());
        if let Some(note) = &case.note {
            let _ = write!(text, " ({})", escaped(note));
        }
        Ok(text)
    }
}

/// A line of the outcomes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    End {
        #[serde(rename = "end")]
        _end: bool,
    },
    Case(Outcome),
}

/// What became of a case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outcome {
    case: String,
    outcome: Became,
    /// How many numbers of the daemon were compared, and were exact.
    numbers: u64,
    /// What else did confirm it.
    confirmed_by: Option<String>,
    /// It was run again.
    #[serde(skip)]
    again: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Became {
    Passed,
    Failed,
    Ignored,
}

impl Outcome {
    /// In a few words, where this is to confirm it.
    fn told(&self, to_confirm: Option<&str>) -> String {
        let mut text = match (self.outcome, self.numbers) {
            (Became::Ignored, _) => "not run".to_owned(),
            (Became::Failed, _) => "**failed**".to_owned(),
            (Became::Passed, 0) => "passed".to_owned(),
            (Became::Passed, numbers) => format!("exact, {numbers} numbers"),
        };
        match (&self.confirmed_by, to_confirm) {
            (Some(by), _) => _ = write!(text, ", {by}"),
            (None, Some(by)) if self.outcome == Became::Passed => {
                let _ = write!(text, ", not confirmed by {by}");
            }
            (None, _) => {}
        }
        if self.again {
            text.push_str(", when run again");
        }
        text
    }
}

/// A case, as the end-to-end tests list it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "case")]
    name: String,
    /// What is to confirm it beside what its peers know: an outcome says whether it did.
    confirmed_by: Option<String>,
    /// What is to be said of it.
    note: Option<String>,
    /// What is to be said of all cases of its kind.
    kind: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::{Outcomes, names, parse, render};

    const CASES: &str = r#"{"case":"errors: a -> b","confirmed_by":"tshark"}
{"case":"errors: b -> a","note":"not all"}
{"case":"IPv6: a"}
{"case":"SIGTERM"}
{"case":"IPv6: b","confirmed_by":"tshark"}
{"case":"raw ends: one: two | three","kind":"Of all ends."}
{"case":"raw ends: four"}
"#;

    const OUTCOMES: &str = r#"{"case":"raw ends: four","outcome":"ignored","numbers":0}
{"case":"errors: a -> b","outcome":"passed","numbers":12,"confirmed_by":"tshark"}
{"case":"errors: b -> a","outcome":"passed","numbers":7,"confirmed_by":null}
{"case":"IPv6: a","outcome":"failed","numbers":0,"confirmed_by":null}
{"case":"SIGTERM","outcome":"passed","numbers":0,"confirmed_by":null}
{"case":"IPv6: b","outcome":"passed","numbers":2,"confirmed_by":null}
{"case":"raw ends: one: two | three","outcome":"failed","numbers":0,"confirmed_by":null}
{"end":true}
{"case":"raw ends: one: two | three","outcome":"passed","numbers":3,"confirmed_by":null}
"#;

    fn rendered() -> String {
        render(&parse(CASES).unwrap(), &Outcomes::parse(OUTCOMES).unwrap()).unwrap()
    }

    #[test]
    fn every_case_has_its_place_and_what_became_of_it() {
        let text = rendered();
        for lines in [
            "| client -> server | errors |",
            "| a -> b | exact, 12 numbers, tshark |",
            "| b -> a | exact, 7 numbers (not all) |",
            "| case | a | b |\n|---|---|---|\n| IPv6 | **failed** | exact, 2 numbers, not confirmed by tshark |",
            "## The daemon\n\n- SIGTERM · passed\n",
            "## Raw HTTP/2 peers: ends\n\nOf all ends.\n\n- one: two \\| three · exact, 3 numbers, \
             when run again\n- four · not run\n",
        ] {
            assert!(text.contains(lines), "{lines}\n{text}");
        }
    }

    #[test]
    fn the_cases_of_a_document_can_be_read() {
        let cases: Vec<String> = parse(CASES).unwrap().into_iter().map(|case| case.name).collect();
        assert_eq!(names(&rendered()), cases.into_iter().collect());
        // Whatever became of them.
        let other = rendered().replace("12", "13").replace("not run", "passed");
        assert_eq!(names(&other), names(&rendered()));
        assert_ne!(names(&rendered().replace("- four", "- five")), names(&rendered()));
    }

    #[test]
    fn what_was_not_run_to_the_end_is_not_told() {
        let broken_off = OUTCOMES.replace("{\"end\":true}\n", "");
        assert!(Outcomes::parse(&broken_off).is_err());
        let other = OUTCOMES.replace("SIGTERM", "SIGINT");
        let other = render(&parse(CASES).unwrap(), &Outcomes::parse(&other).unwrap());
        assert!(other.unwrap_err().to_string().contains("SIGTERM"));
    }

    #[test]
    fn what_is_no_case_is_an_error() {
        assert!(parse("{").is_err());
        assert!(parse(r#"{"case":"a","passed":true}"#).is_err());
        assert!(Outcomes::parse(r#"{"case":"a","outcome":"fine","numbers":1}"#).is_err());
    }
}

//! docs/generated/cases.md: every end-to-end case, and its result in the last run of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::{exec, generated};

const DOCUMENT: &str = "cases.md";

const HEAD: &str = "# End-to-end cases\n\nResults of one run of all cases. \
    [correctness.md](../correctness.md#the-cases) says how to read them.\n";

/// Between the name of a case and its result.
const THEN: &str = " · ";

/// Writes the document.
pub(crate) fn write() -> Result<()> {
    const TO_DO: &str = "run all cases: `cargo xtask test` without a filter";
    let path = exec::target()?.join("outcomes.jsonl");
    let lines = fs::read_to_string(&path)
        .with_context(|| format!("there is no {}; {TO_DO}", path.display()))?;
    let outcomes = Outcomes::parse(&lines).with_context(|| TO_DO)?;
    let tables = render(&cases()?, &outcomes).with_context(|| TO_DO)?;
    generated::write(DOCUMENT, "test --document", &format!("{HEAD}{tables}"))
}

/// Returns an error if the document lists other cases than there are.
pub(crate) fn check() -> Result<()> {
    const TO_DO: &str = "run `cargo xtask test --document` after a run of all cases";
    let text = fs::read_to_string(generated::path(DOCUMENT)).context("cannot read the list")?;
    let listed = names(&text);
    let cases: BTreeSet<String> = cases()?.into_iter().map(|case| case.name).collect();
    if let Some(name) = cases.difference(&listed).next() {
        bail!("this case is not listed; {TO_DO}: {name}");
    }
    if let Some(name) = listed.difference(&cases).next() {
        bail!("this case is listed and does not exist; {TO_DO}: {name}");
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

/// The cell of a case that does not exist.
const ABSENT: &str = "–";

/// A table. Rows and columns are in the order in which they were added.
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

    fn render(&self, title: &str, first: &str) -> String {
        let mut text = format!("\n## {title}\n\n| {first} |");
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

fn render(cases: &[Case], outcomes: &Outcomes) -> Result<String> {
    let stacks: BTreeSet<&str> = cases
        .iter()
        .filter_map(|case| case.name.split_once(": ")?.1.split_once(" -> "))
        .flat_map(|(client, server)| [client, server])
        .collect();

    let (mut pairs, mut alone) = (Table::default(), Table::default());
    let mut others = format!("\n## {OTHERS}\n\n");
    let (mut raw, mut kind_before) = (String::new(), "");
    for case in cases {
        ensure!(!case.name.contains(THEN), "{THEN:?} is in a name: {}", case.name);
        let result = outcomes.of(case)?;
        let line = |name: &str| format!("- {}{THEN}{result}\n", escaped(name));
        match case.name.split_once(": ") {
            Some((kind, name)) if kind.starts_with("raw ") => {
                if kind != kind_before {
                    let title = kind.trim_start_matches("raw ");
                    let about = case.kind.iter().map(|about| format!("{about}\n\n"));
                    let _ = write!(raw, "\n## {RAW}{title}\n\n{}", about.collect::<String>());
                    kind_before = kind;
                }
                raw.push_str(&line(name));
            }
            Some((what, pair)) if pair.contains(" -> ") => pairs.add(pair, what, &result),
            Some((what, stack)) if stacks.contains(stack) => alone.add(what, stack, &result),
            _ => others.push_str(&line(&case.name)),
        }
    }
    Ok([pairs.render(PAIRS, "client -> server"), alone.render(ALONE, "case"), others, raw].concat())
}

// The titles. From its title it follows how a table's rows and columns make the names of cases.

const PAIRS: &str = "Each client with each server";
const ALONE: &str = "Each stack with itself";
const OTHERS: &str = "The daemon";
const RAW: &str = "Raw HTTP/2 peers: ";

/// The names of the cases in a document that [`render`] made.
fn names(document: &str) -> BTreeSet<String> {
    let plain = |text: &str| text.replace("\\|", "|").replace("\\<", "<");
    let (mut names, mut title, mut columns) = (BTreeSet::new(), "", Vec::new());
    for line in document.lines() {
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
            let present = columns.iter().zip(cells).filter(|(_, cell)| cell != ABSENT);
            names.extend(present.map(|(column, _)| match title {
                PAIRS => format!("{column}: {first}"),
                _ => format!("{first}: {column}"),
            }));
        }
    }
    names
}

/// The results of the cases in a run of all of them.
struct Outcomes(BTreeMap<String, Outcome>);

impl Outcomes {
    /// Reads a line of JSON for each case, and one at the end of the run.
    fn parse(lines: &str) -> Result<Self> {
        let (mut outcomes, mut whole) = (BTreeMap::new(), false);
        for line in lines.lines() {
            match serde_json::from_str(line).context("read a line of outcomes.jsonl")? {
                Line::End { .. } => whole = true,
                Line::Case(outcome) => _ = outcomes.insert(outcome.case.clone(), outcome),
            }
        }
        ensure!(whole, "the last run of all cases did not end");
        Ok(Self(outcomes))
    }

    /// The text for a case.
    fn of(&self, case: &Case) -> Result<String> {
        let outcome = self.0.get(&case.name);
        let outcome = outcome.with_context(|| format!("this case was not run: {}", case.name))?;
        let mut text = outcome.text(case.confirmed_by.as_deref());
        if let Some(note) = &case.note {
            let _ = write!(text, " ({})", escaped(note));
        }
        Ok(text)
    }
}

/// A line of the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    End {
        #[serde(rename = "end")]
        _end: bool,
    },
    Case(Outcome),
}

/// The result of a case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outcome {
    case: String,
    outcome: Became,
    /// The count of numbers of the daemon that were compared and exact.
    numbers: u64,
    /// What else confirmed it.
    confirmed_by: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Became {
    Passed,
    Failed,
    Ignored,
}

impl Outcome {
    /// The result in a few words. `to_confirm` is what else should confirm it.
    fn text(&self, to_confirm: Option<&str>) -> String {
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
        text
    }
}

/// A case, as the end-to-end tests list it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "case")]
    name: String,
    /// What should confirm it, next to the records of its peers.
    confirmed_by: Option<String>,
    /// A note for its cell.
    note: Option<String>,
    /// A text about all cases of its kind.
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
{"case":"raw ends: one: two | three","outcome":"passed","numbers":3,"confirmed_by":null}
{"end":true}
"#;

    fn rendered() -> String {
        render(&parse(CASES).unwrap(), &Outcomes::parse(OUTCOMES).unwrap()).unwrap()
    }

    #[test]
    fn every_case_has_its_place_and_its_result() {
        let text = rendered();
        for lines in [
            "| client -> server | errors |",
            "| a -> b | exact, 12 numbers, tshark |",
            "| b -> a | exact, 7 numbers (not all) |",
            "| case | a | b |\n|---|---|---|\n| IPv6 | **failed** | exact, 2 numbers, not confirmed by tshark |",
            "## The daemon\n\n- SIGTERM · passed\n",
            "## Raw HTTP/2 peers: ends\n\nOf all ends.\n\n- one: two \\| three · exact, 3 numbers\n- four · not run\n",
        ] {
            assert!(text.contains(lines), "{lines}\n{text}");
        }
    }

    #[test]
    fn the_cases_of_a_document_can_be_read() {
        let cases: Vec<String> = parse(CASES).unwrap().into_iter().map(|case| case.name).collect();
        assert_eq!(names(&rendered()), cases.into_iter().collect());
        // The results make no difference.
        let other = rendered().replace("12", "13").replace("not run", "passed");
        assert_eq!(names(&other), names(&rendered()));
        assert_ne!(names(&rendered().replace("- four", "- five")), names(&rendered()));
    }

    #[test]
    fn a_run_that_did_not_end_is_refused() {
        let broken_off = OUTCOMES.replace("{\"end\":true}\n", "");
        assert!(Outcomes::parse(&broken_off).is_err());
        let other = OUTCOMES.replace("SIGTERM", "SIGINT");
        let other = render(&parse(CASES).unwrap(), &Outcomes::parse(&other).unwrap());
        assert!(other.unwrap_err().to_string().contains("SIGTERM"));
    }

    #[test]
    fn an_invalid_line_is_an_error() {
        assert!(parse("{").is_err());
        assert!(parse(r#"{"case":"a","passed":true}"#).is_err());
        assert!(Outcomes::parse(r#"{"case":"a","outcome":"fine","numbers":1}"#).is_err());
    }
}

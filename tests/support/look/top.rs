//! Reads the output of `observer top`: in a terminal, as a table and as JSON.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::figures::{Connections, ERRORS, Figures, IN_FLIGHT, Look, P50, P90, RATE, Who};
use super::terminal::Terminal;
use super::{line, number};
use crate::daemon::{Daemon, command};

/// The key that opens and closes a row's detail, and ends a filter.
pub const ENTER: &str = "\r";
/// The key that deletes a letter.
pub const BACKSPACE: &str = "\x7f";

/// The time span of spark lines.
pub const SPARK: Duration = Duration::from_secs(30);

/// A command that runs `observer top` for a daemon.
pub fn top(daemon: &Daemon, arguments: &[&str]) -> Result<Command> {
    let address = format!("http://{}", daemon.address());
    command(&[&["top", "--address", &address], arguments].concat())
}

/// `observer top` in a terminal.
pub struct Shown {
    /// The terminal.
    pub terminal: Terminal,
    /// The columns that there is room for.
    pub columns: &'static [&'static str],
}

impl Look for Shown {
    fn columns(&self) -> &'static [&'static str] {
        self.columns
    }

    fn figures(&self) -> Result<Figures> {
        let lines = self.terminal.lines();
        let mut figures = Figures { connections: connections(&lines), ..Figures::default() };
        let Some(heading) = lines.iter().find(|line| line.starts_with("PROCESS")) else {
            return Ok(figures);
        };
        for line in lines.iter().filter(|line| is_row(line)) {
            let mut words = line.split_whitespace();
            let pid = words.next().and_then(|process| process.strip_suffix(']')?.rsplit_once('['));
            let pid = pid.context("a row without process")?.1.parse()?;
            let role = words.next().context("a row without role")?.to_owned();
            let path = words.next().context("a row without method")?;
            let method = path.rsplit('/').next().unwrap_or_default().to_owned();
            let texts = self
                .columns
                .iter()
                .filter_map(|&column| Some((column, cell(heading, heading_of(column), line)?)));
            figures.rows.insert((pid, role, method), texts.collect());
        }
        Ok(figures)
    }

    fn connections_of(&mut self, (pid, role, method): &Who) -> Result<u64> {
        let filter = format!("{role} [{pid}] {method}");
        self.terminal.press(&format!("/{filter}{ENTER}"))?;
        self.terminal.wait_until(|lines| {
            let left = lines.iter().filter(|line| is_row(line)).count();
            ensure!(left == 1, "{left} rows match {filter}");
            Ok(())
        })?;
        self.terminal.press(ENTER)?;
        self.terminal.shows("messages read")?;
        let lines = self.terminal.lines();
        let line = lines.iter().find(|line| line.starts_with("messages read"));
        let line = line.and_then(|line| line.trim_end().strip_suffix(" connections"));
        let open = line.and_then(|line| number(line.rsplit(' ').next()?));
        self.terminal.press(ENTER)?;
        self.terminal.press(&format!("/{}{ENTER}", BACKSPACE.repeat(filter.len())))?;
        self.terminal.shows("PROCESS")?;
        open.with_context(|| format!("no connections: {}", lines.join("\n")))
    }
}

fn heading_of(column: &str) -> &'static str {
    match column {
        RATE => "CALLS/S",
        ERRORS => "ERRORS",
        IN_FLIGHT => "FLIGHT",
        P50 => "P50",
        P90 => "P90",
        _ => "P99",
    }
}

/// The cell of a line in the column with this heading: it ends where the heading does.
fn cell(heading: &str, name: &str, line: &str) -> Option<String> {
    const WIDTH: usize = 7;
    let before = heading.get(..heading.find(name)?)?.chars().count();
    let is_mark = |c: char| ['▼', '▲'].contains(&c);
    let marked = heading.chars().nth(before + name.len()).is_some_and(is_mark);
    let end = before + name.len() + usize::from(marked);
    let cell: String = line.chars().take(end).skip(end - WIDTH).collect();
    Some(cell.trim().to_owned())
}

/// Parses `7 connections, 2 joined late, 1 with gaps, 1 undecodable` at the end of a line.
fn connections(lines: &[String]) -> Connections {
    let line = lines.iter().take(HEAD).find(|line| line.contains(" connections"));
    let counts = line.and_then(|line| line.rsplit(" · ").next()).unwrap_or_default();
    let of = |what: &str| {
        let parts = counts.trim().split(", ").filter_map(|part| part.split_once(' '));
        parts.filter(|(_, name)| *name == what).find_map(|(count, _)| number(count)).unwrap_or(0)
    };
    let (joined_late, gaps) = (of("joined late"), of("with gaps"));
    let undecodable = of("undecodable");
    let complete = of("connections").saturating_sub(joined_late + gaps + undecodable);
    Connections { complete, joined_late, gaps, undecodable }
}

/// The most lines above the table.
const HEAD: usize = 6;

/// Whether a line is a row of the table: `process[pid] side …`.
pub fn is_row(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next().is_some_and(|process| process.ends_with(']'))
        && words.next().is_some_and(|role| ["client", "server"].contains(&role))
}

/// Parses a row of a table with all columns as a [`line()`]: the codes are last, the calls before them.
pub fn of_table(text: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    let (process, pid) = words.next()?.strip_suffix(']')?.split_once('[')?;
    let (role, method) = (words.next()?, words.next()?);
    let rest: Vec<&str> = words.collect();
    let is_name =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_uppercase()) && word.len() > 1;
    let first_code = rest
        .iter()
        .rposition(|word| !is_name(word) && number(word.trim_end_matches(',')).is_none());
    // After the unit of the last quantile, or the dash for it: the calls, then codes with theirs.
    let tail = rest.get(first_code? + 1..)?;
    let (calls, codes) = tail.split_first()?;
    let codes = codes.chunks(2).map(|pair| match pair {
        [code, calls] => Some((*code, number(calls.trim_end_matches(','))?)),
        _ => None,
    });
    let codes: BTreeMap<&str, u64> = codes.collect::<Option<_>>()?;
    Some(line(process, pid.parse().ok()?, role, method, number(calls)?, &codes))
}

/// Parses a row of the JSON output as a [`line()`].
pub fn of_json(row: &Value) -> Option<String> {
    let text = |name: &str| row.get(name)?.as_str();
    let total = row.get("total")?;
    let codes = total
        .get("codes")?
        .as_array()?
        .iter()
        .map(|of| Some((of.get("code")?.as_str()?, of.get("calls")?.as_u64()?)));
    let codes: BTreeMap<&str, u64> = codes.collect::<Option<_>>()?;
    let method = format!("{}/{}", text("service")?, text("method")?);
    let pid = u32::try_from(row.get("pid")?.as_u64()?).ok()?;
    let calls = total.get("ended")?.as_u64()?;
    Some(line(text("process")?, pid, text("role")?, &method, calls, &codes))
}

/// The number of calls in a line of the histogram: `≤ 1 ms ███ 1,234 5`.
pub fn of_bucket(text: &str) -> Option<u64> {
    let text = text.trim_start().strip_prefix(['≤', '>'])?;
    text.split_whitespace().skip(2).find_map(number)
}

#[cfg(test)]
mod tests {
    use super::{Connections, cell, connections, of_bucket, of_table};

    #[test]
    fn lines_of_tables_are_read() {
        let text = "peer-rust[7]  client  a.B/C  12.3 ▁█ 2.5 %  0  1 ms  ≥10 s  1,234  OK 1,230, NotFound 4";
        let line = "peer-rust[7] client a.B/C: 1234 calls, NotFound 4, OK 1230";
        assert_eq!(of_table(text).as_deref(), Some(line));
        let idle = "node[7] client a.B/C 0 0 % 0 – – – 3 OK 3";
        assert_eq!(of_table(idle).as_deref(), Some("node[7] client a.B/C: 3 calls, OK 3"));
        assert_eq!(of_table("PROCESS  ROLE  METHOD"), None);
    }

    #[test]
    fn lines_of_histograms_are_read() {
        assert_eq!(of_bucket("   ≤ 1 ms ███▌    1,234    5  ░▒▓"), Some(1234));
        assert_eq!(of_bucket("   > 10 s            0    0"), Some(0));
        assert_eq!(of_bucket("observer http://x live"), None);
    }

    #[test]
    fn cells_end_where_their_headings_do() {
        let heading = "PROCESS  CALLS/S  ERRORS▼  FLIGHT";
        let line = "größe[7]     4.0   25.0 %       3";
        let cells = ["CALLS/S", "ERRORS", "FLIGHT"].map(|name| cell(heading, name, line));
        assert_eq!(cells.map(Option::unwrap), ["4.0", "25.0 %", "3"]);
    }

    #[test]
    fn connections_are_read_from_the_head() {
        let told = |text: &str| connections(&[text.to_owned()]);
        let some = Connections { complete: 3, joined_late: 2, gaps: 1, undecodable: 1_000 };
        assert_eq!(
            told("made 1/s (3) · 1,006 connections, 2 joined late, 1 with gaps, 1,000 undecodable"),
            some
        );
        let complete = Connections { complete: 4, ..Connections::default() };
        assert_eq!(told("served 1/s · 4 connections"), complete);
    }
}

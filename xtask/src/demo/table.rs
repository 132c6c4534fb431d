//! The rows as a table of text.

use std::fmt::Write as _;

use super::calls::Row;

/// Columns from here on are numbers, and right-aligned.
const FIRST_NUMBER: usize = 3;

const HEADER: [&str; 8] =
    ["PROCESS", "ROLE", "METHOD", "CALLS/S", "ERRORS", "IN FLIGHT", "P50", "P99"];

/// Of the rows, as many as `at_most`.
pub(super) fn table(rows: &[Row], at_most: usize) -> String {
    let mut lines = vec![HEADER.map(str::to_owned)];
    lines.extend(rows.iter().take(at_most).map(cells));
    let mut widths = [0; HEADER.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut padded = String::new();
        for ((column, cell), width) in line.iter().enumerate().zip(widths) {
            let _ = if column < FIRST_NUMBER {
                write!(padded, "{cell:<width$}  ")
            } else {
                write!(padded, "{cell:>width$}  ")
            };
        }
        let _ = writeln!(text, "{}", padded.trim_end());
    }
    if let Some(more) = rows.len().checked_sub(at_most).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more");
    }
    text
}

fn cells(row: &Row) -> [String; 8] {
    [
        printable(&format!("{}[{}]", row.key.process, row.key.pid)),
        row.key.role.to_owned(),
        printable(&format!("{}/{}", row.key.service, row.key.method)),
        format!("{:.1}", row.rate),
        format!("{:.1} %", row.errors * 100.0),
        format!("{}", row.in_flight),
        latency(row.p50),
        latency(row.p99),
    ]
}

/// Names come from other programs: on a terminal they must not be commands to it.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::calls::Key;

    fn row(method: &str) -> Row {
        let key = Key {
            service: "a.B".into(),
            method: method.into(),
            role: "server",
            process: "shop".into(),
            pid: "7".into(),
        };
        Row { key, rate: 12.34, errors: 0.255, in_flight: 3.0, p50: Some(0.000_25), p99: Some(1.5) }
    }

    #[test]
    fn columns_are_aligned() {
        let expected = "\
PROCESS  ROLE    METHOD  CALLS/S  ERRORS  IN FLIGHT     P50     P99
shop[7]  server  a.B/C      12.3  25.5 %          3  250 µs  1.50 s
";
        assert_eq!(table(&[row("C")], 1), expected);
    }

    #[test]
    fn names_cannot_command_the_terminal() {
        assert!(!table(&[row("\u{1b}[2J")], 9).contains('\u{1b}'));
    }

    #[test]
    fn a_long_table_is_cut_and_says_so() {
        let table = table(&vec![row("C"); 43], 40);
        assert_eq!(table.lines().count(), 42);
        assert!(table.ends_with("and 3 more\n"));
    }
}

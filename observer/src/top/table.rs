//! Rows as a table of text, for a snapshot.

use std::fmt::Write as _;

use super::draw::printable;
use crate::metrics::view::{Model, Row, text};

const HEADINGS: [&str; 11] = [
    "PROCESS",
    "ROLE",
    "METHOD",
    "CALLS/S",
    "ERRORS",
    "IN FLIGHT",
    "P50",
    "P90",
    "P99",
    "CALLS",
    "CODES",
];

/// These columns are numbers, and right-aligned.
const NUMBERS: std::ops::Range<usize> = 3..10;

/// All of the rows, and what the daemon missed.
pub(super) fn table(model: &Model, rows: &[&Row]) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| cells(row, &model.bounds_seconds)));
    let mut widths = [0; HEADINGS.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut table = String::new();
    for line in &lines {
        let mut padded = String::new();
        for ((column, cell), width) in line.iter().enumerate().zip(widths) {
            // Writing to a String does not fail.
            let _ = if NUMBERS.contains(&column) {
                write!(padded, "{cell:>width$}  ")
            } else {
                write!(padded, "{cell:<width$}  ")
            };
        }
        let _ = writeln!(table, "{}", padded.trim_end());
    }
    if model.rows_left_out > 0 {
        let _ = writeln!(table, "and {} more", text::grouped(model.rows_left_out as u64));
    }
    for loss in &model.daemon.losses {
        let _ = writeln!(table, "missed: {} {}", loss.cause, text::grouped(loss.events));
    }
    table
}

fn cells(row: &Row, bounds: &[f64]) -> [String; 11] {
    let latency = |seconds| text::latency(seconds, bounds);
    let codes: Vec<String> = row
        .total
        .codes
        .iter()
        .map(|of| format!("{} {}", of.code, text::grouped(of.calls)))
        .collect();
    [
        printable(&format!("{}[{}]", row.process, row.pid)).into_owned(),
        row.role.as_str().to_owned(),
        printable(&row.path()).into_owned(),
        text::rate(row.recent.rate),
        text::percent(row.recent.error_ratio),
        text::grouped(row.in_flight),
        latency(row.recent.quantiles.p50),
        latency(row.recent.quantiles.p90),
        latency(row.recent.quantiles.p99),
        text::grouped(row.total.counts.ended),
        codes.join(", "),
    ]
}

//! Rows as text, for a snapshot: one line for each row if all are wide enough, else the figures in one line and the method
//! with its codes below, so that nothing is left out.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::cells::{codes, printable, process};
use crate::metrics::view::{Model, Row, text};

/// The columns of a row without its process, method and codes.
const FIGURES: [&str; 8] = ["ROLE", "CALLS/S", "ERRORS", "FLIGHT", "P50", "P90", "P99", "CALLS"];

/// The indent of lines that belong to the line above.
const INDENT: &str = "  ";

/// Minimum width of the name and pid of a process.
const LEAST_NAME: usize = 12;

/// Formats the rows, with the period of their figures and the losses of the daemon. No line is wider than `width` columns,
/// if the figures of a row fit.
pub(super) fn table(model: &Model, rows: &[&Row], source: &str, width: usize) -> String {
    let mut lines = head(model, source, width);
    lines.push(String::new());
    if rows.is_empty() {
        let none_at_all = model.rows.is_empty();
        let none =
            if none_at_all { "No gRPC call has been seen." } else { "No row matches the filter." };
        lines.push(none.into());
    } else {
        let wide = in_one_line(model, rows);
        let fits = wide.iter().all(|line| line.width() <= width);
        lines.extend(if fits { wide } else { in_several(model, rows, width) });
    }
    if model.rows_left_out > 0 {
        lines.push(format!("and {} more rows", text::grouped(model.rows_left_out as u64)));
    }
    for loss in &model.daemon.losses {
        lines.push(format!("missed: {} {}", printable(&loss.cause), text::grouped(loss.events)));
    }
    lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// The lines about the period of the figures: a rate means nothing without it.
fn head(model: &Model, source: &str, width: usize) -> Vec<String> {
    let since = model.daemon.start_time_seconds.map_or_else(
        || "its start".into(),
        |start| {
            let start = Duration::try_from_secs_f64(start).unwrap_or_default();
            let start = UNIX_EPOCH.checked_add(start).unwrap_or(UNIX_EPOCH);
            humantime::format_rfc3339_seconds(start).to_string()
        },
    );
    let recent = model.window_seconds.map_or_else(
        || "not known yet".into(),
        |window| format!("of the last {}", text::duration(window)),
    );
    let items = [
        format!("observer {}, {}.", printable(&model.daemon.version), printable(source)),
        format!("CALLS and codes: since {since}."),
        format!("CALLS/S, ERRORS, P50 to P99: {recent}."),
        "FLIGHT: now.".into(),
    ];
    wrapped(&items, "", width)
}

fn in_one_line(model: &Model, rows: &[&Row]) -> Vec<String> {
    let [role, figures @ ..] = FIGURES;
    let headings = [&["PROCESS", role, "METHOD", "SERVICE"][..], &figures, &["CODES"]].concat();
    let mut lines = vec![headings.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| {
        let [role, figures @ ..] = figures_of(row, model);
        let [method, service] =
            [&row.path(), &row.service_name].map(|name| printable(name).into_owned());
        let names = [process(row, usize::MAX), role, method, service];
        let codes = [codes(&row.total.codes)];
        [&names[..], &figures, &codes].concat()
    }));
    aligned(&lines, 4..11, INDENT)
}

fn in_several(model: &Model, rows: &[&Row], width: usize) -> Vec<String> {
    let mut lines = vec![FIGURES.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| figures_of(row, model)));
    let figures = aligned(&lines, 1..8, " ");
    let of_figures = figures.iter().map(|line| line.width()).max().unwrap_or(0);
    let room = width.saturating_sub(of_figures + 1).max(LEAST_NAME);
    let mut names = vec!["PROCESS".to_owned()];
    names.extend(rows.iter().map(|row| process(row, room)));
    let both: Vec<_> = names.into_iter().zip(figures).map(|(name, of)| vec![name, of]).collect();
    let mut lines = aligned(&both, 0..0, " ").into_iter();
    let mut told: Vec<String> = lines.next().into_iter().collect();
    told.push(format!("{INDENT}METHOD  CODES"));
    for (line, row) in lines.zip(rows) {
        told.push(line);
        let codes = codes(&row.total.codes);
        let codes = codes.split_inclusive(", ").map(|code| code.trim_end().to_owned());
        let path = printable(&row.path()).into_owned() + " ";
        let items: Vec<String> = std::iter::once(path).chain(codes).collect();
        told.extend(wrapped(&items, INDENT, width));
    }
    told
}

/// Lines with aligned cells. The cells of the columns in `numbers` are aligned to the right.
fn aligned<C: AsRef<[String]>>(
    lines: &[C],
    numbers: std::ops::Range<usize>,
    between: &str,
) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        let cells = line.as_ref();
        widths.resize(widths.len().max(cells.len()), 0);
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.width().max(*width);
        }
    }
    let line = |cells: &[String]| {
        let mut told = String::new();
        for ((column, cell), width) in cells.iter().enumerate().zip(&widths) {
            let space = " ".repeat(width.saturating_sub(cell.width()));
            let before = if column > 0 { between } else { "" };
            // Writing to a String does not fail.
            let _ = if numbers.contains(&column) {
                write!(told, "{before}{space}{cell}")
            } else {
                write!(told, "{before}{cell}{space}")
            };
        }
        told
    };
    lines.iter().map(|cells| line(cells.as_ref()).trim_end().to_owned()).collect()
}

/// Wraps items into lines of at most `width` columns. An item that is longer than a line continues in the next one.
fn wrapped(items: &[String], indent: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = indent.to_owned();
    let mut next = |line: &mut String| {
        lines.push(std::mem::replace(line, indent.to_owned()).trim_end().to_owned());
    };
    for item in items {
        let is_first = line.len() == indent.len();
        if !is_first && line.width() + 1 + item.trim_end().width() > width {
            next(&mut line);
        } else if !is_first {
            line.push(' ');
        }
        for c in item.chars() {
            let is_begun = line.len() > indent.len();
            if is_begun && c != ' ' && line.width() + c.width().unwrap_or(0) > width {
                next(&mut line);
            }
            line.push(c);
        }
    }
    next(&mut line);
    lines
}

/// The cells of a row, as in [`FIGURES`].
fn figures_of(row: &Row, model: &Model) -> [String; 8] {
    let latency = |seconds| text::latency(seconds, &model.bounds_seconds);
    let quantiles = &row.recent.quantiles;
    [
        row.role.as_str().to_owned(),
        text::rate(row.recent.rate),
        text::percent(row.recent.error_ratio),
        text::grouped(row.in_flight),
        latency(quantiles.p50),
        latency(quantiles.p90),
        latency(quantiles.p99),
        text::grouped(row.total.counts.ended),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::view::{CallsOfCode, Counts, Loss, Recent, Totals};
    use observer_core::call::Role;

    fn row(process: &str, method: &str, codes: &[(&'static str, u64)]) -> Row {
        let codes = codes.iter().map(|&(code, calls)| CallsOfCode { code: code.into(), calls });
        let mut row = Row {
            process: process.into(),
            pid: 4_194_303,
            service_name: "shop".into(),
            role: Role::Server,
            service: "shop.v1.Orders".into(),
            method: method.into(),
            grpc_type: "unary".into(),
            in_flight: 7,
            total: Totals::default(),
            recent: Recent { rate: Some(1234.0), error_ratio: Some(0.025), ..Recent::default() },
            last: Counts::default(),
        };
        row.total.codes = codes.collect();
        row.total.counts.ended = row.total.codes.iter().map(|of| of.calls).sum();
        row.recent.quantiles.p99 = Some(0.012_34);
        row
    }

    fn model(rows: Vec<Row>) -> Model {
        let mut model = Model { window_seconds: Some(1.04), rows, ..Model::default() };
        model.daemon.version = "1.2.3".into();
        model.daemon.start_time_seconds = Some(1_795_921_964.4);
        model
    }

    fn told(model: &Model, width: usize) -> String {
        table(model, &model.rows.iter().collect::<Vec<_>>(), "http://127.0.0.1:9464", width)
    }

    #[test]
    fn where_there_is_room_a_row_is_a_line() {
        let mut model = model(vec![row("orders", "Place", &[("OK", 1200), ("NotFound", 34)])]);
        model.daemon.losses =
            vec![Loss { cause: "ring_full".into(), events: 1234, recent: 0, bytes: 0 }];
        let want = "\
observer 1.2.3, http://127.0.0.1:9464. CALLS and codes: since 2026-11-29T03:12:44Z.
CALLS/S, ERRORS, P50 to P99: of the last 1.04 s. FLIGHT: now.

PROCESS          ROLE    METHOD                SERVICE  CALLS/S  ERRORS  FLIGHT  P50  P90      P99  CALLS  CODES
orders[4194303]  server  shop.v1.Orders/Place  shop       1,234   2.5 %       7    –    –  12.3 ms  1,234  NotFound 34, OK 1,200
missed: ring_full 1,234
";
        assert_eq!(told(&model, 130), want);
    }

    #[test]
    fn where_there_is_none_the_method_and_its_codes_are_below() {
        let codes = [
            ("OK", 1_234_567),
            ("NotFound", 34),
            ("Unavailable", 12),
            ("DeadlineExceeded", 5),
            ("PermissionDenied", 3),
        ];
        let model =
            model(vec![row("orders-service", "Place", &codes), row("x", "Get", &[("OK", 1)])]);
        let want = "\
observer 1.2.3, http://127.0.0.1:9464.
CALLS and codes: since 2026-11-29T03:12:44Z.
CALLS/S, ERRORS, P50 to P99: of the last 1.04 s. FLIGHT: now.

PROCESS                 ROLE   CALLS/S ERRORS FLIGHT P50 P90     P99     CALLS
  METHOD  CODES
orders-service[4194303] server   1,234  2.5 %      7   –   – 12.3 ms 1,234,621
  shop.v1.Orders/Place  NotFound 34, Unavailable 12, DeadlineExceeded 5,
  PermissionDenied 3, OK 1,234,567
x[4194303]              server   1,234  2.5 %      7   –   – 12.3 ms         1
  shop.v1.Orders/Get  OK 1
";
        assert_eq!(told(&model, 80), want);
    }

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        let long = "Method".repeat(40);
        let all: Vec<(&'static str, u64)> = observer_core::call::Code::ALL
            .iter()
            .map(|code| (code.as_camel_case(), 123_456))
            .collect();
        let wide = row("\u{4e2d}\u{4e2d}\u{4e2d}\u{4e2d}\u{4e2d}", &"\u{4e2d}".repeat(60), &all);
        let model = model(vec![row("a-process-of-15", &long, &all), wide]);
        for width in [80, 100, 120, 200] {
            let text = told(&model, width);
            for line in text.lines() {
                assert!(line.width() <= width, "{} of {width} columns: {line}", line.width());
            }
            // Whole, though over several lines.
            let joined: String = text.split_whitespace().collect();
            assert!(joined.contains(&format!("shop.v1.Orders/{long}")), "{text}");
            assert_eq!(text.matches("Unauthenticated 123,456").count(), 2, "{text}");
        }
    }

    #[test]
    fn that_there_is_nothing_is_said() {
        let mut none = model(Vec::new());
        none.window_seconds = None;
        none.daemon.start_time_seconds = None;
        let text = told(&none, 80);
        assert!(text.contains("since its start") && text.contains("not known yet"), "{text}");
        assert!(text.ends_with("\n\nNo gRPC call has been seen.\n"), "{text}");
        let filtered = table(&model(vec![row("x", "Get", &[])]), &[], "x", 80);
        assert!(filtered.ends_with("\n\nNo row matches the filter.\n"), "{filtered}");
    }
}

//! Draws the detail of one row: its facts, and a line for each bucket with its histogram and its heat over time.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::app::App;
use super::cells::{BAD, DIM, fitted, printable, process};
use super::history::SECONDS;
use crate::metrics::view::{Model, Quantiles, Row, Traffic, text};

/// Widths in the line of a bucket: its name, and each of its two numbers.
const NAME: usize = 9;
const NUMBER: usize = 9;

/// Maximum number of lines for the name: 400 letters at 80 columns.
const NAME_LINES: usize = 5;

/// The levels of heat.
const SHADES: [char; 4] = ['░', '▒', '▓', '█'];

pub(super) fn draw(frame: &mut Frame<'_>, app: &App, model: &Model, row: &Row, area: Rect) {
    let told = facts_of(model, row, usize::from(area.width));
    let height = u16::try_from(told.len()).unwrap_or(u16::MAX).min(area.height);
    let facts = Rect { height, ..area };
    frame.render_widget(Paragraph::new(told), facts);
    let below = Rect { y: area.y + facts.height, height: area.height - facts.height, ..area };
    frame.render_widget(Paragraph::new(buckets(app, model, row, below)), below);
}

fn facts_of(model: &Model, row: &Row, width: usize) -> Vec<Line<'static>> {
    let bounds = &model.bounds_seconds;
    let quantiles = |Quantiles { p50, p90, p99 }| {
        let [p50, p90, p99] = [p50, p90, p99].map(|seconds| text::latency(seconds, bounds));
        format!("p50 {p50}, p90 {p90}, p99 {p99}")
    };
    let traffic =
        |Traffic { messages, bytes }| format!("{} ({})", text::count(messages), text::bytes(bytes));
    let open: u64 = model
        .connections
        .iter()
        .filter(|of| (of.pid, &of.process, of.role) == (row.pid, &row.process, row.role))
        .map(|of| of.open)
        .sum();
    let failing = row.recent.counts.failed > 0;
    let bad = |bad: bool| if bad { BAD } else { Style::new() };
    let errors = format!("errors {}, ", text::percent(row.recent.error_ratio));
    let process = process(row, usize::MAX);
    let who = format!("{process} {}, {} · ", row.role.as_str(), printable(&row.grpc_type));
    let service = match &*row.service_name {
        "" => String::new(),
        name if *name == *row.process => String::new(),
        name => format!("service {} · ", printable(name)),
    };
    let in_flight = format!("{} in flight", text::grouped(row.in_flight));
    let started = format!(" · {} started", text::grouped(row.total.started));
    let (received, sent) = (traffic(row.total.received), traffic(row.total.sent));
    let mut codes: Vec<Span<'_>> = row
        .total
        .codes
        .iter()
        .map(|of| {
            let told = format!("{} {}  ", printable(&of.code), text::grouped(of.calls));
            Span::styled(told, bad(of.code != "OK"))
        })
        .collect();
    if codes.is_empty() {
        codes.push("no call has ended".into());
    }
    let mut lines: Vec<Line<'_>> = name_lines(&printable(&row.path()), width)
        .into_iter()
        .map(|line| Line::from(line).bold())
        .collect();
    for parts in [
        vec![
            who.into(),
            service.into(),
            format!("{} calls/s, ", text::rate(row.recent.rate)).into(),
            Span::styled(errors, bad(failing)),
            in_flight.into(),
        ],
        vec![format!("last 10 s: {}", quantiles(row.recent.quantiles)).into()],
        vec![format!("all: {}", quantiles(row.total.quantiles)).into(), started.into()],
        vec![
            format!("messages read {received}, written {sent} · ").into(),
            format!("{} connections", text::grouped(open)).into(),
        ],
        codes,
    ] {
        lines.extend(wrapped(parts, width));
    }
    lines
}

/// The name in lines; only its end if there is not room for all, because the ends of methods differ most.
fn name_lines(path: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for c in fitted(path, NAME_LINES * width).chars() {
        let taken = lines.last().map_or(0, |line| line.width());
        if taken + c.width().unwrap_or(0) > width {
            lines.push(String::new());
        }
        lines.last_mut().expect("there is one at least").push(c);
    }
    lines
}

/// Wraps parts into lines. A part is never cut.
fn wrapped(parts: Vec<Span<'static>>, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    for part in parts {
        let line = lines.last_mut().expect("there is one at least");
        if line.width() + part.content.trim_end().width() <= width || line.spans.is_empty() {
            line.spans.push(part);
        } else {
            lines.push(part.into());
        }
    }
    lines
}

fn buckets(app: &App, model: &Model, row: &Row, area: Rect) -> Vec<Line<'static>> {
    let width = usize::from(area.width);
    let numbers = NAME + 2 * (NUMBER + 1);
    let bar_room = (width.saturating_sub(numbers) / 4).clamp(4, 40);
    let heat_room = width.saturating_sub(numbers + bar_room + 3).min(SECONDS);
    let heat = heat(app, row, model.bounds_seconds.len() + 1, heat_room);
    let total = &row.total.counts.latency;
    let recent = &row.recent.counts.latency;
    let of = |counts: &[u64], at: usize| counts.get(at).copied().unwrap_or(0);
    let most = total.iter().copied().max().unwrap_or(0);
    let hottest = heat.iter().flatten().copied().max().unwrap_or(0);
    let last_seconds = format!("last {heat_room} s, now at the right");
    let mut lines = vec![Line::styled(
        format!(
            "{:>NAME$} {:bar_room$} {:>NUMBER$} {:>NUMBER$}  {last_seconds}",
            "TIME", "", "ALL", "10 S"
        ),
        DIM,
    )];
    let room = usize::from(area.height).saturating_sub(1);
    for at in used(total, model.bounds_seconds.len() + 1, room).rev() {
        let count = of(total, at);
        let bar: String = bar(count, most, bar_room);
        let cells = heat.get(at).into_iter().flatten().map(|&count| shade(count, hottest));
        lines.push(Line::from(vec![
            Span::raw(format!("{:>NAME$} ", name(at, &model.bounds_seconds))),
            Span::styled(format!("{bar:bar_room$}"), Style::new().fg(Color::Cyan)),
            Span::raw(format!(
                " {:>NUMBER$} {:>NUMBER$}  ",
                text::count(count),
                text::count(of(recent, at))
            )),
            Span::styled(cells.collect::<String>(), Style::new().fg(Color::Cyan)),
        ]));
    }
    lines
}

/// Calls by bucket and second, the oldest second first.
fn heat(app: &App, row: &Row, buckets: usize, seconds: usize) -> Vec<Vec<u64>> {
    let mut heat = vec![vec![0; seconds]; buckets];
    for (ago, counts) in app.histories.of(row) {
        let Some(second) = seconds.checked_sub(ago + 1) else { continue };
        for (line, &count) in heat.iter_mut().zip(&counts.latency) {
            if let Some(cell) = line.get_mut(second) {
                *cell = count;
            }
        }
    }
    heat
}

/// The buckets to show if there is room for `room` of them: those with calls, if possible.
fn used(counts: &[u64], buckets: usize, room: usize) -> std::ops::Range<usize> {
    if buckets <= room {
        return 0..buckets;
    }
    let last = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
    let first = counts.iter().position(|&count| count > 0).unwrap_or(0);
    // If there is not room for all with calls, slow ones matter more.
    let end = (first + room).max(last + 1).min(buckets);
    end - room..end
}

fn name(at: usize, bounds: &[f64]) -> String {
    match (bounds.get(at), bounds.last()) {
        (Some(&bound), _) => format!("≤ {}", text::duration(bound)),
        (None, Some(&last)) => format!("> {}", text::duration(last)),
        (None, None) => "all".into(),
    }
}

fn bar(count: u64, most: u64, room: usize) -> String {
    const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (count as f64 / most.max(1) as f64 * (room * 8) as f64).ceil() as usize;
    let mut bar = "█".repeat(eighths / 8);
    bar.extend((eighths % 8).checked_sub(1).and_then(|rest| EIGHTHS.get(rest)));
    bar
}

fn shade(count: u64, most: u64) -> char {
    if count == 0 {
        return ' ';
    }
    let share = (count as f64 / most.max(1) as f64).sqrt() * SHADES.len() as f64;
    SHADES.get((share.ceil() as usize).saturating_sub(1)).copied().unwrap_or('█')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_shades_tell_something_from_nothing() {
        assert_eq!((bar(0, 100, 4), bar(100, 100, 4)), (String::new(), "████".into()));
        assert_eq!((bar(1, 1_000_000, 4), bar(50, 100, 4)), ("▏".into(), "██".into()));
        assert_eq!([shade(0, 9), shade(1, 1_000_000), shade(9, 9)], [' ', '░', '█']);
    }

    #[test]
    fn a_long_name_is_shown_whole_and_a_longer_one_by_its_end() {
        assert_eq!(name_lines("a.B/Call", 5), ["a.B/C", "all"]);
        assert_eq!(name_lines("漢字漢", 5), ["漢字", "漢"]);
        let lines = name_lines(&("x".repeat(60) + "yz"), 10);
        assert_eq!(
            (lines.len(), lines[0].as_str(), lines[4].as_str()),
            (5, "…xxxxxxxxx", "xxxxxxxxyz")
        );
    }

    #[test]
    fn facts_are_cut_between_parts() {
        let parts = ["one, ", "two, ", "three"].map(Span::raw).to_vec();
        let lines = wrapped(parts, 9);
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["one, two, ", "three"]);
    }

    #[test]
    fn buckets_with_calls_are_shown_where_there_is_not_room_for_all() {
        assert_eq!(used(&[0, 1, 0, 0], 4, 9), 0..4);
        assert_eq!(used(&[0, 0, 1, 1, 0, 0], 6, 3), 2..5);
        assert_eq!(used(&[1, 1, 1, 1, 1, 1], 6, 3), 3..6);
        assert_eq!(used(&[0, 0, 0, 0, 0, 1], 6, 3), 3..6);
        assert_eq!(used(&[], 6, 3), 0..3);
    }
}

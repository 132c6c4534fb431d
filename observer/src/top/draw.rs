//! Draws the view on a terminal: the summary, the table, the keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Clear, Paragraph, Row as TableRow, Table, TableState};
use unicode_width::UnicodeWidthStr as _;

use super::app::{App, ORDER_KEYS, Screen};
use super::cells::{BAD, DIM, codes, cut, fitted, printable, process, spark};
use super::{detail, listed, map};
use crate::metrics::view::{Model, Order, Row, text};

const SLOW: Style = Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD);
const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

const SPARK: Style = Style::new().fg(Color::Cyan);

const SLOW_SECONDS: f64 = 1.0;

pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let head_lines = head(app, usize::from(frame.area().width));
    let height = u16::try_from(head_lines.len()).unwrap_or(u16::MAX);
    let [head, body, keys] =
        Layout::vertical([Constraint::Length(height), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(head_lines), head);
    match (&app.model, app.detailed()) {
        (Some(model), Some(row)) if app.screen == Screen::Detail => {
            detail::draw(frame, app, model, row, body);
        }
        (Some(_), _) if app.shown() == Screen::Connections => listed::draw(frame, app, body),
        (Some(model), _) if app.shown() == Screen::Map => map::draw(frame, app, model, body),
        (Some(model), _) => draw_table(frame, app, model, body),
        (None, _) => {}
    }
    if app.screen == Screen::Help {
        draw_help(frame, body);
    }
    frame.render_widget(Paragraph::new(key_line(app)), keys);
}

fn head(app: &App, width: usize) -> Vec<Line<'static>> {
    let state = match (&app.trouble, &app.model) {
        (Some(trouble), _) => Span::styled(format!("lost: {}", printable(trouble)), BAD),
        (None, None) => Span::raw("waiting for the first sample"),
        (None, Some(_)) if app.paused => Span::styled("paused", SLOW),
        (None, Some(_)) => Span::styled("live", Style::new().fg(Color::Green)),
    };
    let mut lines = vec![Line::from(vec![
        Span::styled("observer", HEAD),
        format!(" {} ", printable(&app.source)).into(),
        state,
    ])];
    if let Some(model) = &app.model {
        lines.extend(summary(model, width));
    }
    lines
}

fn summary(model: &Model, width: usize) -> Vec<Line<'static>> {
    let summary = &model.summary;
    let states = model.daemon.connections;
    let open = states.complete + states.joined_late + states.gaps + states.undecodable;
    let connections: Vec<String> = [
        (open, "connections"),
        (states.joined_late, "joined late"),
        (states.gaps, "with gaps"),
        (states.undecodable, "undecodable"),
    ]
    .into_iter()
    .enumerate()
    .filter(|&(at, (count, _))| at == 0 || count > 0)
    .map(|(_, (count, what))| format!("{} {what}", text::count(count)))
    .collect();
    let connections = connections.join(", ");
    let calls = format!(
        "served {}/s ({} in flight) · made {}/s ({})",
        text::rate(summary.server_rate),
        text::count(summary.server_in_flight),
        text::rate(summary.client_rate),
        text::count(summary.client_in_flight),
    );
    let row = |at: Option<usize>| at.and_then(|at| model.rows.get(at));
    let named = |row: &Row, before: &str| {
        let process = format!(" at {}", process(row, usize::MAX));
        let room = width.saturating_sub(before.width() + process.width());
        before.to_owned() + &fitted(&printable(&row.path()), room) + &process
    };
    let failing = row(summary.most_failing).map(|row| {
        let share = text::percent(row.recent.error_ratio);
        Line::styled(named(row, &format!("most errors: {share} of ")), BAD)
    });
    let slowest = row(summary.slowest_unary).map(|row| {
        let p99 = text::latency(row.recent.quantiles.p99, &model.bounds_seconds);
        named(row, &format!("slowest unary: p99 {p99} of ")).into()
    });
    let daemon = &model.daemon;
    let memory = daemon.resident_memory_bytes.map_or(text::NONE.into(), text::bytes);
    let mut third = vec![Span::raw(format!(
        "daemon {}, {}, {} CPU, {memory} · missed ",
        daemon.version,
        printable(&daemon.backend),
        text::percent(daemon.cpu_ratio),
    ))];
    if daemon.losses.is_empty() {
        third.push("nothing".into());
    }
    for (at, loss) in daemon.losses.iter().enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        let told = format!("{comma}{} {}", printable(&loss.cause), text::count(loss.events));
        third.push(Span::styled(told, if loss.recent > 0 { BAD } else { Style::new() }));
    }
    let mut lines = vec![Line::from(format!("{calls} · {connections}"))];
    if lines.iter().any(|line| line.width() > width) {
        lines = vec![calls.into(), connections.into()];
    }
    lines.push(failing.unwrap_or_else(|| "no errors".into()));
    lines.push(slowest.unwrap_or_else(|| "no unary call has ended in the last ten seconds".into()));
    lines.push(third.into());
    lines
}

/// A column of the table.
struct Column {
    heading: &'static str,
    order: Option<Order>,
    width: u16,
    number: bool,
    /// The width of the terminal from which on the column is shown.
    from: u16,
    content: Content,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Process,
    Role,
    Method,
    Service,
    Rate,
    Spark,
    Errors,
    InFlight,
    P50,
    P90,
    P99,
    Calls,
    Codes,
}

const fn column(
    heading: &'static str,
    order: Option<Order>,
    width: u16,
    from: u16,
    content: Content,
) -> Column {
    let number = !matches!(
        content,
        Content::Process
            | Content::Role
            | Content::Method
            | Content::Service
            | Content::Spark
            | Content::Codes
    );
    Column { heading, order, width, number, from, content }
}

static COLUMNS: [Column; 13] = [
    column("PROCESS", Some(Order::Process), 17, 0, Content::Process),
    column("ROLE", None, 6, 60, Content::Role),
    column("METHOD", Some(Order::Method), 0, 0, Content::Method),
    column("SERVICE", None, 16, 220, Content::Service),
    column("CALLS/S", Some(Order::Rate), 8, 0, Content::Rate),
    column("LAST 30 S", None, 30, 150, Content::Spark),
    column("ERRORS", Some(Order::Errors), 7, 0, Content::Errors),
    column("FLIGHT", Some(Order::InFlight), 7, 70, Content::InFlight),
    column("P50", Some(Order::P50), 7, 100, Content::P50),
    column("P90", Some(Order::P90), 7, 110, Content::P90),
    column("P99", Some(Order::P99), 8, 0, Content::P99),
    column("CALLS", Some(Order::Calls), 11, 120, Content::Calls),
    column("CODES", None, 42, 180, Content::Codes),
];

fn draw_table(frame: &mut Frame<'_>, app: &App, model: &Model, area: Rect) {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| column.from <= area.width).collect();
    let taken: u16 = columns.iter().map(|column| column.width + 1).sum();
    let method = area.width.saturating_sub(taken).max(8);
    let width = |column: &Column| if column.width > 0 { column.width } else { method };
    let rows = app.rows();
    let lines = rows.iter().map(|row| {
        let idle = row.recent.counts.ended == 0 && row.in_flight == 0;
        let cells = columns.iter().map(|column| {
            let room = usize::from(width(column));
            let (told, style) = cell(column.content, row, model, app, room);
            Cell::from(aligned(told, column.number)).style(style)
        });
        TableRow::new(cells).style(if idle { DIM } else { Style::new() })
    });
    let headings = columns.iter().map(|column| heading(column, app));
    let table = Table::new(lines, columns.iter().map(|column| Constraint::Length(width(column))))
        .header(TableRow::new(headings).style(HEAD))
        .column_spacing(1)
        .row_highlight_style(CHOSEN);
    let mut state = TableState::new().with_selected(app.place(&rows));
    frame.render_stateful_widget(table, area, &mut state);
    if rows.is_empty() {
        let told = if model.rows.is_empty() {
            "No gRPC call has been seen yet."
        } else {
            "No method matches the filter."
        };
        let below = Rect { y: area.y + 2, height: 1, ..area }.intersection(area);
        frame.render_widget(Paragraph::new(told), below);
    }
}

fn heading(column: &Column, app: &App) -> Cell<'static> {
    let sorted = column.order == Some(app.order);
    let mark = if app.reversed { '▲' } else { '▼' };
    let told = if sorted { format!("{}{mark}", column.heading) } else { column.heading.to_owned() };
    let style = if sorted { Style::new().underlined() } else { DIM };
    Cell::from(aligned(told, column.number)).style(style)
}

fn aligned(told: String, number: bool) -> Text<'static> {
    let text = Text::from(told);
    if number { text.right_aligned() } else { text }
}

fn cell(content: Content, row: &Row, model: &Model, app: &App, room: usize) -> (String, Style) {
    let recent = &row.recent;
    let latency = |seconds: Option<f64>| {
        let slow = seconds.is_some_and(|seconds| seconds >= SLOW_SECONDS);
        let told = text::latency(seconds, &model.bounds_seconds);
        (told, if slow { SLOW } else { Style::new() })
    };
    let told = match content {
        Content::Process => process(row, room),
        Content::Role => row.role.as_str().to_owned(),
        Content::Method => fitted(&printable(&row.path()), room),
        Content::Service => cut(&printable(&row.service_name), room),
        Content::Rate => text::rate(recent.rate),
        Content::Spark => return (spark(&app.histories.ended(row, room)), SPARK),
        Content::Errors => {
            let style = if recent.counts.failed > 0 { BAD } else { Style::new() };
            return (text::percent(recent.error_ratio), style);
        }
        Content::InFlight => text::count(row.in_flight),
        Content::P50 => return latency(recent.quantiles.p50),
        Content::P90 => return latency(recent.quantiles.p90),
        Content::P99 => return latency(recent.quantiles.p99),
        Content::Calls => text::grouped(row.total.counts.ended),
        Content::Codes => cut(&codes(&row.total.codes), room),
    };
    (told, Style::new())
}

fn key_line(app: &App) -> Line<'static> {
    let told = match app.screen {
        Screen::Filter => {
            let filter = printable(&app.filter).into_owned();
            return vec![Span::styled("filter: ", HEAD), filter.into(), "█".into()].into();
        }
        Screen::Detail => "Esc back · ↑↓ other rows · p pause · q quit",
        Screen::Help => "press any key to go back",
        Screen::Connections => "o back to the table · ↑↓ scroll · / filter · p pause · q quit",
        Screen::Map => "g back to the table · ↑↓ other edges · / filter · p pause · q quit",
        Screen::Table if app.model.as_ref().is_some_and(|model| model.edges.is_some()) => {
            "↑↓ Enter details · ←→ sort · / filter · g map · o connections · ? help · q quit"
        }
        Screen::Table => "↑↓ Enter details · ←→ sort · / filter · o connections · ? help · q quit",
    };
    let mut line = vec![Span::styled(told, DIM)];
    if !app.filter.is_empty()
        && matches!(app.screen, Screen::Table | Screen::Map | Screen::Connections)
    {
        line.insert(0, Span::styled(format!("filter: {} · ", printable(&app.filter)), HEAD));
    }
    line.into()
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let mut lines: Vec<Line<'_>> = [
        "↑ ↓ j k PgUp PgDn Home End   move",
        "Enter, Esc                   show details, go back",
        "← → s                        sort by another column",
        "r                            reverse the order",
        "/                            filter: rows that contain all words, such as",
        "                             `server orders`; Esc clears it",
        "g                            map: who calls whom, with --service-graph",
        "o                            connections of each process, and why some are not measured",
        "p, space                     pause, resume",
        "q, Ctrl-C                    quit",
        "",
        "Rates, errors and quantiles cover the last ten seconds. Quantiles are estimated",
        "from buckets; ≥ means above the last bucket.",
        "",
    ]
    .map(Line::from)
    .into();
    let orders: Vec<String> =
        ORDER_KEYS.iter().map(|(key, order)| format!("{key} {}", order.name())).collect();
    lines.push(format!("sort by: {}", orders.join(", ")).into());
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines), area);
}

//! Draws the map of services: under each service, those that it calls.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::{Modifier, Style},
    text::Text,
    widgets::{Cell, Paragraph, Row, Table, TableState},
};

use super::{
    app::App,
    cells::{BAD, DIM, cut, printable},
};
use crate::metrics::view::{Edge, Model, text};

const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

/// The columns of figures: their heading, their width, and the width of the terminal from which on they are shown.
const FIGURES: [(&str, u16, u16); 6] = [
    ("CALLS/S", 8, 0),
    ("ERRORS", 7, 0),
    ("P50", 8, 110),
    ("P95", 8, 0),
    ("P99", 8, 120),
    ("CALLS", 11, 90),
];

pub(super) fn draw(frame: &mut Frame<'_>, app: &App, model: &Model, area: Rect) {
    let edges = app.edges();
    let shown: Vec<bool> = FIGURES.iter().map(|(_, _, from)| *from <= area.width).collect();
    let widths = FIGURES.iter().zip(&shown).filter(|(_, is_shown)| **is_shown);
    let widths: Vec<u16> = widths.map(|((_, width, _), _)| *width).collect();
    let taken: u16 = widths.iter().map(|width| width + 1).sum();
    let name = area.width.saturating_sub(taken + 1).max(16) / 2;
    let room = usize::from(name);
    let mut before = "";
    let rows: Vec<Row<'_>> = edges
        .iter()
        .enumerate()
        .map(|(at, edge)| {
            // The name of a caller is at its first line; the first visible line of a long list has none.
            let client =
                if edge.client == before { String::new() } else { named(&edge.client, room) };
            before = &edge.client;
            let is_last = edges.get(at + 1).is_none_or(|next| next.client != edge.client);
            let branch = if is_last { "└▶ " } else { "├▶ " };
            let server = format!("{branch}{}", named(&edge.server, room.saturating_sub(3)));
            let figures = figures(edge, model).into_iter().zip(&shown);
            let figures = figures.filter(|(_, is_shown)| **is_shown).map(|((told, style), _)| {
                Cell::from(Text::from(told).right_aligned()).style(style)
            });
            let names = [Cell::from(client).style(HEAD), Cell::from(server)];
            let style = if edge.recent_calls == 0 { DIM } else { Style::new() };
            Row::new(names.into_iter().chain(figures)).style(style)
        })
        .collect();
    let headings = FIGURES.iter().zip(&shown).filter(|(_, is_shown)| **is_shown);
    let headings =
        headings.map(|((heading, ..), _)| Cell::from(Text::from(*heading).right_aligned()));
    let headings = ["CLIENT", "SERVER"].map(Cell::from).into_iter().chain(headings);
    let widths = [name, name].into_iter().chain(widths);
    let table = Table::new(rows, widths.map(Constraint::Length))
        .header(Row::new(headings).style(DIM))
        .column_spacing(1)
        .row_highlight_style(CHOSEN);
    let mut state = TableState::new().with_selected(app.edge_at(edges.len()));
    frame.render_stateful_widget(table, area, &mut state);
    if edges.is_empty() {
        let told = match &model.edges {
            None => "This daemon has no map: start it with --service-graph.",
            Some(all) if all.is_empty() => "No call between services has been seen yet.",
            Some(_) => "No service matches the filter.",
        };
        let below = Rect { y: area.y + 2, height: 1, ..area }.intersection(area);
        frame.render_widget(Paragraph::new(told), below);
    }
}

fn named(name: &str, room: usize) -> String {
    cut(&printable(name), room)
}

/// The figures of an edge, as in [`FIGURES`].
fn figures(edge: &Edge, model: &Model) -> [(String, Style); 6] {
    let latency = |seconds| (text::latency(seconds, &model.bounds_seconds), Style::new());
    let errors = if edge.recent_failed > 0 { BAD } else { Style::new() };
    [
        (text::rate(edge.rate), Style::new()),
        (text::percent(edge.error_ratio), errors),
        latency(edge.p50),
        latency(edge.p95),
        latency(edge.p99),
        (text::grouped(edge.calls), Style::new()),
    ]
}

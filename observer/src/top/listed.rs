//! Draws the connections of each process, as `observer connections` prints them.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Paragraph};

use super::{
    app::App,
    cells::{DIM, printable},
};
use crate::connections;

pub(super) fn draw(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let lines = match &app.connections {
        None => vec!["waiting for the connections".into()],
        Some(Err(reason)) => vec![format!("the connections are not known: {reason}")],
        Some(Ok(model)) => connections::lines(model, area.width.into(), |process| {
            app.admits(&format!("{} {}", process.name, process.pid))
        }),
    };
    let first = app.first_line(lines.len(), area.height.into());
    let lines = lines.iter().skip(first).map(|line| {
        let is_advice = line.starts_with("    ");
        let line = Line::from(printable(line).into_owned());
        if is_advice { line.style(DIM) } else { line }
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

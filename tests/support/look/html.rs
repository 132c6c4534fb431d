//! Renders a terminal's screen as an HTML page.

use std::fmt::Write as _;

use vt100::{Cell, Color, Screen};

/// The sixteen named colours, as many terminals show them on a dark background.
const PALETTE: [&str; 16] = [
    "#1c2028", "#e06c6c", "#7fbf7f", "#d8b45c", "#6ca6e8", "#c08ae0", "#5fc0c8", "#d6dae2",
    "#7a8394", "#ff8078", "#98d898", "#f0cc70", "#88bcf8", "#d8a4f4", "#78d8e0", "#ffffff",
];
const INK: &str = "#d6dae2";
const GROUND: &str = "#14171d";

/// The selector of the element that a picture shows.
pub(super) const SCREEN: &str = "pre";

/// A page that contains only the screen.
pub(super) fn page(screen: &Screen) -> String {
    let (lines, columns) = screen.size();
    // Cells are aligned even if their characters come from several fonts.
    let mut page = format!(
        "<!DOCTYPE html><meta charset=\"utf-8\"><style>
        body {{ margin: 0; background: {GROUND}; }}
        {SCREEN} {{ margin: 0; padding: 10px 12px; width: max-content; color: {INK};
          background: {GROUND}; font: 14px/18px \"DejaVu Sans Mono\", monospace; }}
        span {{ display: inline-block; height: 18px; overflow: hidden; vertical-align: top; }}
        </style><{SCREEN}>"
    );
    for line in 0..lines {
        let mut run = String::new();
        let mut style = String::new();
        let mut width = 0;
        for column in 0..columns {
            let Some(cell) = screen.cell(line, column) else { continue };
            if cell.is_wide_continuation() {
                continue;
            }
            let of_cell = style_of(cell);
            if of_cell != style {
                span(&mut page, &style, &run, width);
                run.clear();
                (style, width) = (of_cell, 0);
            }
            width += 1 + usize::from(cell.is_wide());
            run.push_str(if cell.has_contents() { cell.contents() } else { " " });
        }
        span(&mut page, &style, &run, width);
        page.push('\n');
    }
    page
}

fn span(page: &mut String, style: &str, text: &str, cells: usize) {
    if text.is_empty() {
        return;
    }
    let shown = text.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a String does not fail.
    let _ = write!(page, "<span style=\"width:{cells}ch;{style}\">{shown}</span>");
}

fn style_of(cell: &Cell) -> String {
    let (mut ink, mut ground) = (color(cell.fgcolor(), INK), color(cell.bgcolor(), GROUND));
    if cell.inverse() {
        std::mem::swap(&mut ink, &mut ground);
    }
    let mut style = format!("color:{ink};background:{ground}");
    if cell.bold() {
        style.push_str(";font-weight:bold");
    }
    if cell.underline() {
        style.push_str(";text-decoration:underline");
    }
    style
}

fn color(color: Color, default: &str) -> String {
    match color {
        Color::Default => default.to_owned(),
        Color::Idx(at) => PALETTE.get(usize::from(at)).copied().unwrap_or(default).to_owned(),
        Color::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn cells_have_their_colours_and_are_text() {
        let mut screen = vt100::Parser::new(2, 9, 0);
        screen.process(b"a\x1b[1;91m<b>\x1b[0;7m&");
        let page = page(screen.screen());
        let plain = "<span style=\"width:1ch;color:#d6dae2;background:#14171d\">a</span>";
        let red = "<span style=\"width:3ch;color:#ff8078;background:#14171d;font-weight:bold\">&lt;b></span>";
        let inverse = "<span style=\"width:1ch;color:#14171d;background:#d6dae2\">&amp;</span>";
        assert!(page.contains(&format!("{plain}{red}{inverse}")), "{page}");
    }
}

//! The parts of tables and details: styles, names that fit, codes, spark lines.

use std::borrow::Cow;

use ratatui::style::{Color, Modifier, Style};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::metrics::view::{CallsOfCode, Row, text};

pub(super) const BAD: Style = Style::new().fg(Color::LightRed).add_modifier(Modifier::BOLD);
pub(super) const DIM: Style = Style::new().fg(Color::DarkGray);

/// The levels of a spark line, in eighths of a cell.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The codes of a row as a text. Errors come first: there may not be room for all.
pub(super) fn codes(codes: &[CallsOfCode]) -> String {
    let (ok, others): (Vec<_>, Vec<_>) = codes.iter().partition(|of| of.code == "OK");
    let shown = |of: &CallsOfCode| format!("{} {}", printable(&of.code), text::grouped(of.calls));
    others.into_iter().chain(ok).map(shown).collect::<Vec<_>>().join(", ")
}

/// A spark line of counts.
pub(super) fn spark(counts: &[u64]) -> String {
    let most = counts.iter().copied().max().unwrap_or(0);
    counts.iter().map(|&count| level(count, most)).collect()
}

/// The level of a count: a space only for 0.
pub(super) fn level(count: u64, most: u64) -> char {
    if count == 0 {
        return ' ';
    }
    let eighths = (count as f64 / most.max(1) as f64 * LEVELS.len() as f64).ceil() as usize;
    LEVELS.get(eighths.saturating_sub(1)).copied().unwrap_or('█')
}

/// A name with marks for characters without a width. Names come from other programs: they must not be commands to the
/// terminal, or look like another name.
pub(super) fn printable(name: &str) -> Cow<'_, str> {
    let shown = |c: char| c.width().is_some_and(|width| width > 0);
    if name.chars().all(shown) {
        return name.into();
    }
    name.chars().map(|c| if shown(c) { c } else { '\u{fffd}' }).collect()
}

/// The name of a process with its pid, or of a service, cut to fit into `room` columns.
pub(super) fn process(row: &Row, room: usize) -> String {
    let pid = if row.pid == 0 { String::new() } else { format!("[{}]", row.pid) };
    cut(&printable(&row.process), room.saturating_sub(pid.len())) + &pid
}

/// A name; only its end, after `…`, if it is wider than `room` columns. The ends of methods differ most.
pub(super) fn fitted(name: &str, room: usize) -> String {
    if name.width() <= room {
        return name.to_owned();
    }
    let kept = prefix(name.chars().rev(), room);
    ['…'].into_iter().chain(kept.into_iter().rev()).collect()
}

/// A name; only its start, before `…`, if it is wider than `room` columns.
pub(super) fn cut(name: &str, room: usize) -> String {
    if name.width() <= room {
        return name.to_owned();
    }
    prefix(name.chars(), room).into_iter().chain(['…']).collect()
}

/// The first characters that fit into `room` columns next to `…`.
fn prefix(name: impl Iterator<Item = char>, room: usize) -> Vec<char> {
    let mut left = room.saturating_sub(1);
    let fits = |c: &char| {
        let less = left.checked_sub(c.width().unwrap_or(0));
        left = less.unwrap_or(left);
        less.is_some()
    };
    name.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_command_the_terminal() {
        let shown = printable("\u{1b}[2J\u{202e}evil\u{200b}");
        assert_eq!(shown, "\u{fffd}[2J\u{fffd}evil\u{fffd}");
        assert_eq!(printable("größe 漢"), "größe 漢");
    }

    #[test]
    fn of_long_names_the_telling_part_is_kept() {
        assert_eq!(fitted("shop.Orders/Place", 9), "…rs/Place");
        assert_eq!(fitted("shop.Orders/Place", 17), "shop.Orders/Place");
        assert_eq!(fitted("漢字漢字", 5), "…漢字");
        assert_eq!(cut("a-long-name", 5), "a-lo…");
        assert_eq!(cut("漢字漢字", 4), "漢…");
        assert_eq!(fitted("abc", 0), "…");
    }

    #[test]
    fn a_spark_line_shows_the_least_and_the_most() {
        assert_eq!(spark(&[0, 1, 50, 100]), " ▁▄█");
        assert_eq!(spark(&[0, 0]), "  ");
    }
}

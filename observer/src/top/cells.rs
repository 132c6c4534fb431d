//! What tables and details are drawn of: styles, names that fit, codes, spark lines.

use std::borrow::Cow;

use ratatui::style::{Color, Modifier, Style};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::metrics::view::{CallsOfCode, text};

pub(super) const BAD: Style = Style::new().fg(Color::LightRed).add_modifier(Modifier::BOLD);
pub(super) const DIM: Style = Style::new().fg(Color::DarkGray);

/// Of a spark line: an eighth of a cell each.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Errors first: there may be no room for all.
pub(super) fn codes(codes: &[CallsOfCode]) -> String {
    let (ok, others): (Vec<_>, Vec<_>) = codes.iter().partition(|of| of.code == "OK");
    let told = |of: &CallsOfCode| format!("{} {}", printable(&of.code), text::grouped(of.calls));
    others.into_iter().chain(ok).map(told).collect::<Vec<_>>().join(", ")
}

pub(super) fn spark(counts: &[u64]) -> String {
    let most = counts.iter().copied().max().unwrap_or(0);
    counts.iter().map(|&count| level(count, most)).collect()
}

/// Nothing is a space, and anything is not.
pub(super) fn level(count: u64, most: u64) -> char {
    if count == 0 {
        return ' ';
    }
    let eighths = (count as f64 / most.max(1) as f64 * LEVELS.len() as f64).ceil() as usize;
    LEVELS.get(eighths.saturating_sub(1)).copied().unwrap_or('█')
}

/// Names come from other programs: on a terminal they must not be commands to it, nor look like
/// something else. Those that take no place of their own are shown as a mark.
pub(super) fn printable(name: &str) -> Cow<'_, str> {
    let shown = |c: char| c.width().is_some_and(|width| width > 0);
    if name.chars().all(shown) {
        return name.into();
    }
    name.chars().map(|c| if shown(c) { c } else { '\u{fffd}' }).collect()
}

/// Its end, if it is too long: what methods differ in.
pub(super) fn fitted(name: &str, room: usize) -> String {
    if name.width() <= room {
        return name.to_owned();
    }
    let mut left = room.saturating_sub(1);
    let mut kept: Vec<char> = Vec::new();
    for c in name.chars().rev() {
        let Some(less) = left.checked_sub(c.width().unwrap_or(0)) else { break };
        left = less;
        kept.push(c);
    }
    kept.push('…');
    kept.into_iter().rev().collect()
}

/// Its beginning, if it is too long.
pub(super) fn cut(name: &str, room: usize) -> String {
    if name.width() <= room {
        return name.to_owned();
    }
    let mut left = room.saturating_sub(1);
    let mut kept = String::new();
    for c in name.chars() {
        let Some(less) = left.checked_sub(c.width().unwrap_or(0)) else { break };
        left = less;
        kept.push(c);
    }
    kept + "…"
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

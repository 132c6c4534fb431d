//! Figures as texts for people, the same on the page (`view.js` has the same rules), in a terminal and in a table.

/// The text of a figure that is not known.
pub const NONE: &str = "–";

/// Formats a rate per second: `0`, `0.25`, `12.3`, `1,234`, `1.23 M`.
pub fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => NONE.into(),
        Some(rate) if rate <= 0.0 => "0".into(),
        Some(rate) if rate < 0.995 => format!("{rate:.2}"),
        Some(rate) if rate < 99.95 => format!("{rate:.1}"),
        Some(rate) => count(rate.round() as u64),
    }
}

/// Formats a number: up to a million in full, with commas, else `1.23 M`.
pub fn count(number: u64) -> String {
    match number {
        0..1_000_000 => grouped(number),
        1_000_000..1_000_000_000 => format!("{:.2} M", number as f64 / 1e6),
        _ => format!("{:.2} G", number as f64 / 1e9),
    }
}

/// Formats a number in full, with commas.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a share: `0 %`, `<0.1 %`, `2.5 %`, `>99.9 %`. Only 1 is `100 %`.
pub fn percent(share: Option<f64>) -> String {
    match share {
        None => NONE.into(),
        Some(share) if share <= 0.0 => "0 %".into(),
        Some(share) if share < 0.001 => "<0.1 %".into(),
        Some(share) if share >= 1.0 => "100 %".into(),
        Some(share) if share >= 0.9995 => ">99.9 %".into(),
        Some(share) => format!("{:.1} %", share * 100.0),
    }
}

/// Formats an estimated latency, with `≥` in front at the last bound: the time may be longer.
pub fn latency(seconds: Option<f64>, bounds: &[f64]) -> String {
    let Some(seconds) = seconds else { return NONE.into() };
    let text = duration(seconds);
    if bounds.last().is_some_and(|&last| seconds >= last) { format!("≥{text}") } else { text }
}

/// Formats a duration with three digits: `95 µs`, `1.25 ms`, `480 ms`, `2.5 s`.
pub fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        _ if seconds < 0.000_999_5 => (seconds * 1e6, "µs"),
        _ if seconds < 0.9995 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    let digits = match value {
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// Formats a number of bytes: `512 B`, `1.5 KiB`, `12 MiB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in UNITS.into_iter().skip(1) {
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (rate_of, text) in [
            (0.0, "0"),
            (0.1, "0.10"),
            (0.994, "0.99"),
            (0.996, "1.0"),
            (12.34, "12.3"),
            (99.96, "100"),
            (1234.4, "1,234"),
            (1_234_000.0, "1.23 M"),
        ] {
            assert_eq!(rate(Some(rate_of)), text);
        }
        assert_eq!(rate(None), NONE);
    }

    #[test]
    fn counts() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
            (1_234_567, "1.23 M"),
            (5_000_000_000, "5.00 G"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn a_share_that_is_not_none_is_not_zero_and_one_that_is_not_all_is_not_hundred() {
        for (share, text) in [
            (0.0, "0 %"),
            (0.0001, "<0.1 %"),
            (0.025, "2.5 %"),
            (0.9996, ">99.9 %"),
            (1.0, "100 %"),
        ] {
            assert_eq!(percent(Some(share)), text);
        }
    }

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0.000_001_5, "1.5 µs"),
            (0.000_095, "95 µs"),
            (0.000_25, "250 µs"),
            (0.000_999_9, "1 ms"),
            (0.001_25, "1.25 ms"),
            (0.0105, "10.5 ms"),
            (0.48, "480 ms"),
            (0.9999, "1 s"),
            (2.5, "2.5 s"),
            (100.0, "100 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(latency(Some(1.0), &[0.1, 1.0]), "≥1 s");
        assert_eq!(latency(Some(0.1), &[0.1, 1.0]), "100 ms");
        assert_eq!(latency(None, &[0.1]), NONE);
    }

    #[test]
    fn lengths() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (12 << 20, "12 MiB"),
            (1023 << 10, "1023 KiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}

//! The connections as text for a terminal.

use observer_core::names::escape::visible;
use unicode_width::UnicodeWidthStr as _;

use super::{Following, Model, Process};

/// The indent of the lines of a process.
const INDENT: &str = "  ";

/// Minimum width of a line of advice.
const LEAST: usize = 40;

/// Formats the processes. Lines of advice are at most `width` columns wide, if their words fit.
pub fn table(model: &Model, source: &str, width: usize) -> String {
    let mut all = vec![format!("observer, {}.", visible(source))];
    all.extend(lines(model, width, |_| true));
    all.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// The lines of [`table`] without the source, with only the processes that `admits`.
pub fn lines(model: &Model, width: usize, admits: impl Fn(&Process) -> bool) -> Vec<String> {
    let mut lines = vec![
        match model.tls {
            Following::Auto => "TLS: followed in known libraries (--tls auto).",
            Following::Off => "TLS: not followed (--tls off).",
            Following::Unavailable => "TLS: cannot be followed here (--tls auto).",
        }
        .into(),
        "SEEN: since the daemon started. OPEN: now; - is not known.".into(),
        String::new(),
    ];
    let admitted: Vec<&Process> =
        model.processes.iter().filter(|process| admits(process)).collect();
    if model.processes.is_empty() {
        lines.push("No connection of a running process has been seen.".into());
    } else if admitted.is_empty() {
        lines.push("No process matches the filter.".into());
    } else {
        lines.push(row("PROCESS, CONNECTIONS", "OPEN", "SEEN"));
    }
    for process in admitted {
        of_process(process, width, &mut lines);
    }
    lines.push(String::new());
    lines.extend(wrapped(
        "A process that is not listed has moved no bytes on a TCP or Unix stream socket since the \
         daemon started, or is not selected.",
        "",
        width,
    ));
    lines
}

fn of_process(process: &Process, width: usize, lines: &mut Vec<String>) {
    lines.push(format!("{} ({})", visible(&process.name), process.pid));
    for connections in &process.connections {
        let open = connections.open.map_or_else(|| "-".into(), |open| open.to_string());
        let kind = format!("{INDENT}{}", connections.kind.name());
        lines.push(row(&kind, &open, &connections.seen.to_string()));
        for text in [connections.ties().as_deref(), connections.advice.as_deref()] {
            lines.extend(text.into_iter().flat_map(|text| wrapped(&visible(text), "    ", width)));
        }
    }
    for library in process.probed() {
        let text = format!("{} in {}", library.name(), library.path);
        lines.push(format!("{INDENT}probed: {}", visible(&text)));
    }
}

fn row(kind: &str, open: &str, seen: &str) -> String {
    format!("{kind:<24}{open:>8}{seen:>10}")
}

/// The text in lines of at most `width` columns, each with this indent.
fn wrapped(text: &str, indent: &str, width: usize) -> Vec<String> {
    let width = width.max(LEAST);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use observer_core::record::Tie;

    use super::{
        super::{Connections, Kind, Library},
        *,
    };

    fn process(advice: Option<&str>) -> Process {
        let connections = |kind, open| Connections {
            kind,
            seen: 12,
            open,
            joined_late: 0,
            with_gaps: 0,
            advice: advice.map(str::to_owned),
            tied: [(Tie::ClientRandom, 10), (Tie::Call, 2)]
                .into_iter()
                .filter(|_| open.is_some())
                .collect(),
        };
        Process {
            pid: 47,
            name: "or\u{1b}ders".into(),
            connections: vec![
                connections(Kind::TlsFollowed, Some(3)),
                connections(Kind::Http1, None),
            ],
            libraries: vec![Library {
                library: "go".into(),
                version: "go1.26.8".into(),
                path: "/app/orders".into(),
                result: "attached".into(),
            }],
        }
    }

    #[test]
    fn the_table_of_a_process() {
        let model = Model { tls: Following::Auto, processes: vec![process(None)] };
        let text = table(&model, "http://127.0.0.1:9464", 80);
        let expected = "\
PROCESS, CONNECTIONS        OPEN      SEEN
or\\u{1b}ders (47)
  HTTP/2 over TLS              3        12
    tied to sockets by the client's random (10), system calls of the library (2)
  HTTP/1                       -        12
  probed: Go's crypto/tls 1.26.8 in /app/orders
";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn advice_is_wrapped() {
        let long = "word ".repeat(40);
        let model = Model { tls: Following::Off, processes: vec![process(Some(long.trim()))] };
        let text = table(&model, "this process", 60);
        assert!(text.lines().all(|line| line.width() <= 60), "{text}");
        assert_eq!(text.matches("word").count(), 80);
    }

    #[test]
    fn no_connections() {
        let text = table(&Model::default(), "this process", 80);
        assert!(text.contains("No connection of a running process has been seen."), "{text}");
        assert!(text.contains("--tls off"), "{text}");
    }
}

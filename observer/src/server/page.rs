//! The page as HTML. It is complete without script; the script keeps it up to date.
//!
//! Names come from peers and processes. They are always written as [`Text`] here, and as `textContent` in `view.js`. If
//! that fails, the policy still allows only the daemon's own scripts.

use std::fmt::{self, Display, Formatter, Write};

use crate::metrics::view::{DaemonFigures, Filter, Model, Order, Row, text};
use observer_core::names::escape::visible;

/// The content security policy: the page may load only what the daemon serves.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'";

const BEGIN: &str = include_str!("assets/begin.html");
const END: &str = include_str!("assets/end.html");

/// The columns: heading, order, and whether they have numbers.
const COLUMNS: [(&str, Option<Order>, bool); 11] = [
    ("Process", Some(Order::Process), false),
    ("Method", Some(Order::Method), false),
    ("Calls/s", Some(Order::Rate), true),
    ("Last minute", None, false),
    ("Errors", Some(Order::Errors), true),
    ("In flight", Some(Order::InFlight), true),
    ("p50", Some(Order::P50), true),
    ("p90", Some(Order::P90), true),
    ("p99", Some(Order::P99), true),
    ("Calls", Some(Order::Calls), true),
    ("Codes", None, false),
];

/// The whole page.
pub(super) fn page(model: &Model) -> String {
    let mut page = BEGIN.to_owned();
    // Writing to a String does not fail.
    let _ = summary(&mut page, model)
        .and_then(|()| table(&mut page, model))
        .and_then(|()| map(&mut page, model))
        .and_then(|()| health(&mut page, &model.daemon));
    page + END
}

/// Text escaped for HTML, between tags or in an attribute's quotes. Invisible characters are shown.
pub(super) struct Text<'a>(pub(super) &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in visible(self.0).chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

fn summary(f: &mut String, model: &Model) -> fmt::Result {
    let summary = &model.summary;
    let row = |at: Option<usize>| at.and_then(|at| model.rows.get(at));
    writeln!(f, "<section id=\"summary\" aria-label=\"At a glance\">")?;
    let rates = [("served", summary.server_rate), ("made", summary.client_rate)];
    let [served, made] = rates.map(|(what, rate)| format!("{} {what}", text::rate(rate)));
    tile(f, "rate", "", "Calls per second", &served, &made)?;
    let failing = row(summary.most_failing);
    let kind = if failing.is_some() { "bad" } else { "" };
    let share = failing.map_or("no errors".into(), |row| text::percent(row.recent.error_ratio));
    tile(f, "failing", kind, "Most errors", &share, &failing.map_or(String::new(), name))?;
    let slow = row(summary.slowest_unary);
    let p99 = slow.and_then(|row| row.recent.quantiles.p99);
    let p99 = text::latency(p99, &model.bounds_seconds);
    tile(f, "slowest", "", "Slowest unary p99", &p99, &slow.map_or(String::new(), name))?;
    let served = format!("{} served", text::count(summary.server_in_flight));
    let made = format!("{} made", text::count(summary.client_in_flight));
    tile(f, "in-flight", "", "In flight", &served, &made)?;
    let states = model.daemon.connections;
    let open = states.complete + states.joined_late + states.gaps + states.undecodable;
    let others: Vec<String> = [
        (states.joined_late, "joined late"),
        (states.gaps, "with gaps"),
        (states.undecodable, "undecodable"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{} {what}", text::count(count)))
    .collect();
    let others =
        if others.is_empty() { "seen from the first byte".into() } else { others.join(", ") };
    let open = format!("{} open", text::count(open));
    tile(f, "connections", "", "Connections", &open, &others)?;
    let daemon = &model.daemon;
    let lost = daemon.losses.iter().any(|loss| loss.recent > 0);
    let kind = if lost { "bad" } else { "" };
    let cpu = format!("{} CPU", text::percent(daemon.cpu_ratio));
    let value = if lost { "losses".into() } else { cpu };
    let note = format!("{}, {}", memory(daemon), missed(daemon));
    tile(f, "daemon", kind, "Daemon", &value, &note)?;
    writeln!(f, "</section>")
}

fn tile(
    f: &mut String,
    id: &str,
    kind: &str,
    heading: &str,
    value: &str,
    note: &str,
) -> fmt::Result {
    let (value, note) = (Text(value), Text(note));
    writeln!(
        f,
        "<div class=\"tile {kind}\" id=\"tile-{id}\"><h2>{heading}</h2><strong>{value}</strong>\
         <span title=\"{note}\">{note}</span></div>"
    )
}

/// The name of a row: `Place · orders[47]`.
fn name(row: &Row) -> String {
    let pid = if row.pid == 0 { String::new() } else { format!("[{}]", row.pid) };
    format!("{} · {}{pid}", row.method, row.process)
}

fn memory(daemon: &DaemonFigures) -> String {
    daemon.resident_memory_bytes.map_or(text::NONE.into(), text::bytes)
}

fn missed(daemon: &DaemonFigures) -> String {
    let causes: Vec<&str> = daemon.losses.iter().map(|loss| loss.cause.as_ref()).collect();
    if causes.is_empty() {
        "nothing missed".into()
    } else {
        format!("missed: {}", causes.join(", "))
    }
}

fn table(f: &mut String, model: &Model) -> fmt::Result {
    writeln!(
        f,
        "<div id=\"calls\"><table aria-label=\"Calls by method and process\">\n<thead><tr>"
    )?;
    for (heading, order, number) in COLUMNS {
        let class = if number { " class=\"number\"" } else { "" };
        let order =
            order.map_or(String::new(), |order| format!(" data-order=\"{}\"", order.name()));
        writeln!(f, "<th scope=\"col\"{class}{order}>{heading}</th>")?;
    }
    writeln!(f, "</tr></thead>\n<tbody>")?;
    for row in model.ordered(Order::default(), &Filter::default()) {
        table_row(f, row, &model.bounds_seconds)?;
    }
    writeln!(f, "</tbody></table>")?;
    if model.rows.is_empty() {
        writeln!(f, "<p class=\"empty\">No gRPC call has been seen yet.</p>")?;
    }
    if model.rows_left_out > 0 {
        let more = text::grouped(model.rows_left_out as u64);
        writeln!(f, "<p>{more} more rows with fewer calls are in /metrics.</p>")?;
    }
    writeln!(f, "</div>")
}

fn table_row(f: &mut String, row: &Row, bounds: &[f64]) -> fmt::Result {
    let Row { process, pid, role, service, method, in_flight, total, recent, .. } = row;
    let role = role.as_str();
    // A service has no pid.
    let pid = if *pid == 0 { String::new() } else { format!("{pid} ") };
    write!(
        f,
        "<tr><td class=\"process\"><b>{}</b> <small>{pid}{role}</small></td>\
         <th scope=\"row\" class=\"method\"><b>{}</b> <small>{}</small></th>",
        Text(process),
        Text(method),
        Text(service)
    )?;
    let failing = if recent.counts.failed > 0 { " bad" } else { "" };
    let quantiles = [recent.quantiles.p50, recent.quantiles.p90, recent.quantiles.p99];
    let [p50, p90, p99] = quantiles.map(|seconds| text::latency(seconds, bounds));
    let figures = [
        ("", text::rate(recent.rate)),
        ("spark", String::new()),
        (failing, text::percent(recent.error_ratio)),
        ("", text::count(*in_flight)),
        ("", p50),
        ("", p90),
        ("", p99),
        ("", text::grouped(total.counts.ended)),
    ];
    for (class, figure) in figures {
        let class = if class == "spark" { class.to_owned() } else { format!("number{class}") };
        write!(f, "<td class=\"{class}\">{figure}</td>")?;
    }
    write!(f, "<td class=\"codes\">")?;
    for of in &total.codes {
        write!(f, "<span>{} {}</span> ", Text(&of.code), text::grouped(of.calls))?;
    }
    writeln!(f, "</td></tr>")
}

/// The calls between services, as a table; the script draws a map of them.
fn map(f: &mut String, model: &Model) -> fmt::Result {
    const HEADINGS: [&str; 8] =
        ["Client", "Server", "Calls/s", "Errors", "p50", "p95", "p99", "Calls"];
    let hidden = if model.edges.is_some() { "" } else { " hidden" };
    writeln!(
        f,
        "<section id=\"map\" aria-label=\"Who calls whom\"{hidden}><h2>Who calls whom</h2>"
    )?;
    write!(f, "<table aria-label=\"Calls between services\">\n<thead><tr>")?;
    for (at, heading) in HEADINGS.into_iter().enumerate() {
        let class = if at > 1 { " class=\"number\"" } else { "" };
        write!(f, "<th scope=\"col\"{class}>{heading}</th>")?;
    }
    writeln!(f, "</tr></thead>\n<tbody>")?;
    for edge in model.edges.iter().flatten() {
        let latency = |seconds| text::latency(seconds, &model.bounds_seconds);
        let bad = if edge.recent_failed > 0 { " bad" } else { "" };
        write!(f, "<tr><td>{}</td><td>{}</td>", Text(&edge.client), Text(&edge.server))?;
        for (class, figure) in [
            ("", text::rate(edge.rate)),
            (bad, text::percent(edge.error_ratio)),
            ("", latency(edge.p50)),
            ("", latency(edge.p95)),
            ("", latency(edge.p99)),
            ("", text::grouped(edge.calls)),
        ] {
            write!(f, "<td class=\"number{class}\">{figure}</td>")?;
        }
        writeln!(f, "</tr>")?;
    }
    writeln!(f, "</tbody></table></section>")
}

fn health(f: &mut String, daemon: &DaemonFigures) -> fmt::Result {
    let DaemonFigures { connections, connections_seen: seen, calls, .. } = daemon;
    writeln!(f, "<section id=\"health\" aria-label=\"The daemon\"><h2>The daemon</h2><dl>")?;
    let mut line = |what: &str, text: String| {
        writeln!(f, "<div><dt>{what}</dt><dd>{}</dd></div>", Text(&text))
    };
    line("Version", format!("{}, backend {}", daemon.version, daemon.backend))?;
    line("Cost", format!("{} CPU, {}", text::percent(daemon.cpu_ratio), memory(daemon)))?;
    line(
        "Records read",
        format!("{}; {} streams open", text::count(daemon.records), daemon.streams),
    )?;
    line(
        "Open connections",
        format!(
            "{} complete, {} joined late, {} with gaps, {} undecodable",
            connections.complete,
            connections.joined_late,
            connections.gaps,
            connections.undecodable
        ),
    )?;
    line(
        "Connections seen",
        format!(
            "{} gRPC, {} other HTTP/2, {} HTTP/1, {} TLS, {} Thrift, {} yamux, {} other",
            seen.grpc, seen.http2, seen.http1, seen.tls, seen.thrift, seen.yamux, seen.other
        ),
    )?;
    line(
        "Calls",
        format!(
            "{} complete, {} without method, {} without code, {} without either",
            text::count(calls.complete),
            text::count(calls.no_method),
            text::count(calls.no_code),
            text::count(calls.nothing)
        ),
    )?;
    let missed: Vec<String> = daemon
        .losses
        .iter()
        .map(|loss| {
            let bytes = if loss.bytes > 0 {
                format!(" ({})", text::bytes(loss.bytes))
            } else {
                String::new()
            };
            format!("{} {}{bytes}", loss.cause, text::count(loss.events))
        })
        .collect();
    let missed = if missed.is_empty() { "nothing".into() } else { missed.join(", ") };
    line("Missed", missed)?;
    writeln!(f, "</dl></section>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_be_markup() {
        let text = Text("<script>alert(\"1\")</script> & 'x'").to_string();
        let safe = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#39;x&#39;";
        assert_eq!(text, safe);
        assert_eq!(Text("a\u{202e}<\u{2028}").to_string(), "a\\u{202e}&lt;\\u{2028}");
    }
}

//! Pictures of the dashboards in `deploy/grafana`, for the documents: a page of the tests (`dashboard.html`) draws a
//! real Prometheus' answers to their queries, without Grafana.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::browser::Browser;
use crate::openmetrics::Labels;
use crate::prometheus::{Dashboard, Panel, Prometheus, Range, Target};

/// The width in pixels at which GitHub shows a README.
const WIDTH: u32 = 1280;

/// The time span of a picture, up to now.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Its length in seconds.
    pub seconds: f64,
    /// The seconds between two points.
    pub step: f64,
    /// The range of rates, such as `[15s]`.
    pub range: &'static str,
}

/// Draws a dashboard of servers to a file, with everything selected.
pub fn draw(
    browser: &Browser,
    prometheus: &Prometheus,
    board: &Dashboard,
    span: Span,
    file: &Path,
) -> Result<()> {
    let panels = board.panels.iter().map(|panel| {
        let drawn = if panel.kind == "table" {
            table(prometheus, panel, span)
        } else {
            graph(prometheus, panel, span)
        };
        drawn.with_context(|| format!("{}: {}", board.title, panel.title))
    });
    let panels = panels.collect::<Result<Vec<_>>>()?;
    let page = crate::stack::package().join("support/look/dashboard.html");
    browser.open(&format!("file://{}", page.display()))?;
    let script = format!("return draw({})", json!({"title": board.title, "panels": panels}));
    browser.look(WIDTH, 800, false)?;
    let height = browser.run(&script)?.as_u64().context("no height")?;
    browser.look(WIDTH, height as u32, false)?;
    browser.run(&script)?;
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "the browser complains: {}", complaints.join("\n"));
    browser.screenshot(file)
}

fn graph(prometheus: &Prometheus, panel: &Panel, span: Span) -> Result<Value> {
    let mut series = Vec::new();
    for target in &panel.targets {
        let expression = target.asked("server", span.range)?;
        for Range { values, labels } in
            prometheus.query_range(&expression, span.seconds, span.step)?
        {
            let values: Vec<_> =
                values.into_iter().filter(|(_, value)| value.is_finite()).collect();
            if !values.is_empty() {
                series.push(json!({"name": name(target, &labels), "values": values}));
            }
        }
    }
    ensure!(!series.is_empty(), "there is nothing to draw");
    let unit = panel.field_config.pointer("/defaults/unit");
    Ok(json!({
        "title": panel.title, "kind": panel.kind, "place": panel.grid_pos, "unit": unit,
        "series": series,
    }))
}

/// The name in the legend; missing labels are empty.
fn name(target: &Target, labels: &Labels) -> String {
    let mut name = labels.iter().fold(target.legend_format.clone(), |name, (label, value)| {
        name.replace(&format!("{{{{{label}}}}}"), value)
    });
    while let Some((before, rest)) = name.split_once("{{")
        && let Some((_, after)) = rest.split_once("}}")
    {
        name = format!("{before}{after}");
    }
    name.trim().to_owned()
}

/// A table with a row per set of labels, and a column per label and per query.
fn table(prometheus: &Prometheus, panel: &Panel, span: Span) -> Result<Value> {
    let mut rows: BTreeMap<Labels, Vec<Option<f64>>> = BTreeMap::new();
    for (at, target) in panel.targets.iter().enumerate() {
        let expression = target.asked("server", span.range)?;
        for sample in prometheus.query(&expression, None)? {
            let row = rows.entry(sample.labels).or_default();
            row.resize(panel.targets.len(), None);
            if let Some(cell) = row.get_mut(at) {
                *cell = Some(sample.value).filter(|value| value.is_finite());
            }
        }
    }
    let Some(labels) = rows.keys().next() else { bail!("there is nothing to draw") };
    let labels: Vec<String> = labels.keys().cloned().collect();
    let mut columns: Vec<Value> =
        labels.iter().map(|label| json!({"title": panel.column(label)})).collect();
    for query in ('A'..='Z').take(panel.targets.len()) {
        // Grafana's name for the only query's value, or for one of several.
        let [numbered, plain] =
            [format!("Value #{query}"), "Value".into()].map(|own| panel.column(&own));
        let title = if numbered.starts_with("Value") { plain } else { numbered };
        columns.push(json!({"title": title, "number": true, "unit": panel.unit(&title)}));
    }
    let rows: Vec<Vec<Value>> = rows
        .into_iter()
        .map(|(labels, values)| {
            labels
                .into_values()
                .map(Value::from)
                .chain(values.into_iter().map(Value::from))
                .collect()
        })
        .collect();
    Ok(json!({
        "title": panel.title, "kind": panel.kind, "place": panel.grid_pos, "columns": columns,
        "rows": rows,
    }))
}

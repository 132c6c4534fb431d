//! Writes docs/generated/benchmarks.md and its plots.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

use crate::Bench;
use crate::figures::{Figure, Plot, Results};

const SIZE: (u32, u32) = (720, 360);

const HEAD: &str = "Written by `cargo xtask bench --plot`; do not edit.\n\n# Benchmarks\n\n\
    `cargo xtask bench --plot` runs all of them and writes this page; `cargo xtask bench --plot NAME` runs one and \
    writes its section. A figure is the median over repeats, with the lowest and the highest in parentheses. What is compared is measured in turns, \
    and a ratio is of one turn. [performance.md](../performance.md) says what the figures mean and why some miss \
    their target.\n";

/// Writes the page from the last run of each benchmark. What has not been run here stays as it is there.
pub(crate) fn write<'a>(benches: impl IntoIterator<Item = &'a Bench>) -> Result<()> {
    let docs = support::stack::workspace()?.join("docs");
    let path = docs.join("generated/benchmarks.md");
    let before = fs::read_to_string(&path).unwrap_or_default();
    let mut text = String::from(HEAD);
    for bench in benches {
        let title = format!("\n## {}\n", bench.name);
        let Ok(results) = Results::kept(bench.name) else {
            match section(&before, &title) {
                Some(section) => text.push_str(section),
                None => write!(text, "{title}\n{}. Not run.\n", bench.about)?,
            }
            continue;
        };
        write!(text, "{title}\n{}. On {}.\n", bench.about, results.machine)?;
        tables(&results.figures, &mut text)?;
        for plot in &results.plots {
            draw(plot, &docs.join("images"))?;
            write!(text, "\n![{}](../images/bench-{}.svg)\n", plot.title, plot.name)?;
        }
    }
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// The section with this title.
fn section<'a>(page: &'a str, title: &str) -> Option<&'a str> {
    let start = page.find(title)?;
    let section = page.get(start..)?;
    let end = section.get(title.len()..)?.find("\n## ");
    section.get(..end.map_or(section.len(), |end| title.len() + end))
}

/// Writes the figures: a table of those that are named `ROW: COLUMN`, if there are two columns with several rows, and a
/// list of all others.
fn tables(figures: &[Figure], text: &mut String) -> Result<()> {
    let mut cells = BTreeMap::<_, BTreeMap<_, _>>::new();
    let (mut rows, mut columns) = (Vec::new(), Vec::new());
    for figure in figures {
        let Some((row, column)) = figure.name.rsplit_once(": ") else { continue };
        cells.entry(column).or_default().insert(row, figure);
        for (names, name) in [(&mut rows, row), (&mut columns, column)] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    cells.retain(|_, rows| rows.len() > 1);
    if cells.len() < 2 {
        cells.clear();
    }
    columns.retain(|column| cells.contains_key(column));
    rows.retain(|row| cells.values().any(|rows| rows.contains_key(row)));
    if !columns.is_empty() {
        writeln!(text, "\n| | {} |\n|---|{}", columns.join(" | "), "---|".repeat(columns.len()))?;
    }
    for row in rows {
        write!(text, "| {row} |")?;
        for column in &columns {
            let figure = cells.get(column).and_then(|rows| rows.get(row));
            write!(text, " {} |", figure.map_or_else(String::new, |figure| cell(figure)))?;
        }
        text.push('\n');
    }
    let is_listed = |figure: &&Figure| {
        figure.name.rsplit_once(": ").is_none_or(|(_, column)| !cells.contains_key(column))
    };
    let mut head = "\n| figure | median | unit | target |\n|---|---|---|---|\n";
    for figure in figures.iter().filter(is_listed) {
        let Figure { name, unit, .. } = figure;
        writeln!(text, "{head}| {name} | {} | {unit} | {} |", figure.value(), figure.verdict())?;
        head = "";
    }
    Ok(())
}

/// The value and, if there is one, the target.
fn cell(figure: &Figure) -> String {
    let value = format!("{} {}", figure.value(), figure.unit);
    match figure.verdict() {
        verdict if verdict.is_empty() => value.trim_end().to_owned(),
        verdict => format!("{}; {verdict}", value.trim_end()),
    }
}

fn draw(plot: &Plot, images: &Path) -> Result<()> {
    let path = images.join(format!("bench-{}.svg", plot.name));
    let area = SVGBackend::new(&path, SIZE).into_drawing_area();
    let drawn = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let values = plot.lines.iter().flat_map(|(_, values)| values);
        let most = values.copied().fold(0.0, f64::max) * 1.1;
        let last = plot.points.len().saturating_sub(1) as f64;
        let mut chart = ChartBuilder::on(&area)
            .caption(&plot.title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(-0.25..last + 0.25, 0.0..most)?;
        let label = |x: &f64| {
            let whole = (x - x.round()).abs() < 0.01;
            let point = whole.then(|| plot.points.get(x.round() as usize)).flatten();
            point.cloned().unwrap_or_default()
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(4 * plot.points.len() + 1)
            .x_label_formatter(&label)
            .x_desc(&plot.x)
            .y_desc(&plot.y)
            .draw()?;
        for (index, (name, values)) in plot.lines.iter().enumerate() {
            let colour = Palette99::pick(index).to_rgba();
            let points: Vec<_> =
                values.iter().enumerate().map(|(x, value)| (x as f64, *value)).collect();
            chart
                .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
            chart.draw_series(points.into_iter().map(|at| Circle::new(at, 3, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
        Ok(())
    };
    drawn().map_err(|error| anyhow!("draw {}: {error}", path.display()))
}

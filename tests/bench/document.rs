//! Writes docs/benchmarks.md and its plots.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

use crate::Bench;
use crate::figures::{Plot, Results};

const SIZE: (u32, u32) = (720, 360);

/// Writes the document from the last run of each benchmark.
pub(crate) fn write(benches: &[Bench]) -> Result<()> {
    let docs = support::stack::workspace()?.join("docs");
    let mut text = String::from(
        "# Benchmarks\n\nMade by `cargo xtask bench --plot`, which runs them all; `cargo xtask bench NAME` \
         runs one. Medians over repeats, the least and the most in brackets. What is compared is \
         measured in turns, and ratios are of the same turn. What the figures mean, and why some miss \
         what they are to reach: [performance.md](performance.md).\n",
    );
    let mut machine = String::new();
    for bench in benches {
        let Ok(results) = Results::kept(bench.name) else {
            write!(text, "\n## {}\n\n{}. Not run.\n", bench.name, bench.about)?;
            continue;
        };
        if results.machine != machine {
            machine.clone_from(&results.machine);
            write!(text, "\nOn {machine}:\n")?;
        }
        write!(text, "\n## {}\n\n{}.\n", bench.name, bench.about)?;
        text.push_str("\n| figure | median | | to reach |\n|---|---|---|---|\n");
        for figure in &results.figures {
            let (name, unit) = (&figure.name, &figure.unit);
            writeln!(text, "| {name} | {} | {unit} | {} |", figure.value(), figure.verdict())?;
        }
        for plot in &results.plots {
            draw(plot, &docs.join("images"))?;
            write!(text, "\n![{}](images/bench-{}.svg)\n", plot.title, plot.name)?;
        }
    }
    let path = docs.join("benchmarks.md");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
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

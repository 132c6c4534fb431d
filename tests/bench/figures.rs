//! Figures: medians over repeats, with their spread and their bounds.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use support::stack::target_dir;

/// The bound that a figure must reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl Display for Bound {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {}", Number(*least)),
            Self::AtMost(most) => write!(f, "≤ {}", Number(*most)),
        }
    }
}

/// A figure: one sample per repeat.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) samples: Vec<f64>,
    pub(crate) bound: Option<Bound>,
}

impl Figure {
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let half = sorted.len() / 2;
        if sorted.len().is_multiple_of(2) && half > 0 {
            return f64::midpoint(at(half - 1), at(half));
        }
        at(half)
    }

    pub(crate) fn least(&self) -> f64 {
        self.samples.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn most(&self) -> f64 {
        self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// Whether the median reaches the bound, if there is one.
    pub(crate) fn is_reached(&self) -> Option<bool> {
        self.bound.map(|bound| bound.holds(self.median()))
    }

    /// The median as a text, with the minimum and maximum of more than one sample.
    pub(crate) fn value(&self) -> String {
        let median = Number(self.median());
        if self.samples.len() < 2 {
            return median.to_string();
        }
        format!("{median} ({} … {})", Number(self.least()), Number(self.most()))
    }

    /// The bound as a text, and whether it is reached.
    pub(crate) fn verdict(&self) -> String {
        match (self.bound, self.is_reached()) {
            (Some(bound), Some(true)) => format!("{bound}: reached"),
            (Some(bound), _) => format!("{bound}: MISSED"),
            (None, _) => String::new(),
        }
    }
}

/// A number with three or four significant digits, and commas in large ones.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.abs() {
            n if n >= 1000.0 => {
                let digits = format!("{:.0}", self.0);
                let (sign, digits) =
                    digits.split_at(digits.len() - digits.trim_start_matches('-').len());
                f.write_str(sign)?;
                for (index, digit) in digits.chars().enumerate() {
                    if index > 0 && (digits.len() - index).is_multiple_of(3) {
                        f.write_str(",")?;
                    }
                    write!(f, "{digit}")?;
                }
                Ok(())
            }
            n if n >= 100.0 => write!(f, "{:.0}", self.0),
            n if n >= 10.0 => write!(f, "{:.1}", self.0),
            n if n.total_cmp(&n.trunc()).is_eq() => write!(f, "{:.0}", self.0),
            n if n >= 0.1 => write!(f, "{:.3}", self.0),
            _ => write!(f, "{:.4}", self.0),
        }
    }
}

/// The results of a benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) bench: String,
    pub(crate) machine: String,
    pub(crate) figures: Vec<Figure>,
    pub(crate) plots: Vec<Plot>,
}

/// A plot: values by what was varied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plot {
    /// The name of its file, without `bench-` and the extension.
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) y: String,
    /// The labels of the points.
    pub(crate) points: Vec<String>,
    /// The lines by name, with a value for each point.
    pub(crate) lines: Vec<(String, Vec<f64>)>,
}

impl Results {
    pub(crate) fn new(bench: &str) -> Result<Self> {
        let (figures, plots) = (Vec::new(), Vec::new());
        Ok(Self { bench: bench.to_owned(), machine: machine()?, figures, plots })
    }

    /// Adds a figure, prints it, and returns its median.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        unit: &str,
        bound: Option<Bound>,
        samples: Vec<f64>,
    ) -> f64 {
        let figure = Figure { name: name.into(), unit: unit.to_owned(), samples, bound };
        println!(
            "{:13} {:62} {:>32} {:14} {}",
            self.bench,
            figure.name,
            figure.value(),
            figure.unit,
            figure.verdict()
        );
        let median = figure.median();
        self.figures.push(figure);
        median
    }

    /// Writes the results to a file, for docs/generated/benchmarks.md.
    pub(crate) fn keep(&self) -> Result<()> {
        let folder = kept()?;
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let text = serde_json::to_vec_pretty(self).context("write figures")?;
        fs::write(folder.join(format!("{}.json", self.bench)), text).context("keep figures")
    }

    /// Reads the last results of a benchmark.
    pub(crate) fn kept(bench: &str) -> Result<Self> {
        let path = kept()?.join(format!("{bench}.json"));
        let text = fs::read(&path)
            .with_context(|| format!("{bench} has not been run: read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    }
}

fn kept() -> Result<PathBuf> {
    Ok(target_dir()?.join("bench"))
}

/// A description of the machine: kernel, CPUs.
fn machine() -> Result<String> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let cpus = std::thread::available_parallelism().context("the number of CPUs")?;
    let model = fs::read_to_string("/proc/cpuinfo").context("the name of the CPU")?;
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    Ok(format!("Linux {}, {cpus} CPUs ({model})", release.trim()))
}

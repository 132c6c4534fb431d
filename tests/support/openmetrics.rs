//! A strict reader of the OpenMetrics text format, version 1.0.0: what a lenient scraper would
//! forgive is an error here. The daemon's unit tests compile this file too.

#![expect(clippy::float_cmp, reason = "counts are exact in f64")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};

/// The content of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    series: BTreeMap<(String, Labels), f64>,
    families: BTreeMap<String, Family>,
    exemplars: Vec<Exemplar>,
}

/// An exemplar, with the name and labels of its sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// The sample's name.
    pub name: String,
    /// The sample's labels.
    pub labels: Labels,
    /// The trace id: 32 hexadecimal digits.
    pub trace: String,
    /// The span id: 16 hexadecimal digits; empty if there is none.
    pub span: String,
    /// The observed value.
    pub value: f64,
    /// Seconds since the Unix epoch.
    pub time: f64,
}

/// The metadata of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// The type: `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// The HELP text.
    pub help: String,
}

/// Suffixes of sample names of which each series has exactly one.
const SUFFIXES: [&str; 4] = ["", "_total", "_count", "_info"];

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// The value of a label, or an empty text without it.
pub fn label<'a>(labels: &'a Labels, name: &str) -> &'a str {
    labels.get(name).map_or("", String::as_str)
}

impl Metrics {
    /// Parses an exposition; an error names the line that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let body = text.strip_suffix("# EOF\n").context("the text does not end with # EOF")?;
        let mut parser = Parser::default();
        for (index, line) in body.split_terminator('\n').enumerate() {
            parser.line(line).with_context(|| format!("line {}: {line}", index + 1))?;
        }
        ensure!(body.is_empty() || body.ends_with('\n'), "# EOF is not a line of its own");
        parser.end_family()?;
        Ok(parser.metrics)
    }

    /// The series with this name: their labels and values.
    pub fn series(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        self.series.iter().filter(move |((n, _), _)| n == name).map(|((_, l), value)| (l, *value))
    }

    /// The series with this name and these labels, among others.
    pub fn series_with(
        &self,
        name: &str,
        labels: &[(&str, &str)],
    ) -> impl Iterator<Item = (&Labels, f64)> {
        let has = move |series: &Labels| {
            labels.iter().all(|(name, value)| series.get(*name).is_some_and(|v| v == value))
        };
        self.series(name).filter(move |(series, _)| has(series))
    }

    /// All samples by name and labels.
    pub fn samples(&self) -> &BTreeMap<(String, Labels), f64> {
        &self.series
    }

    /// The families by name.
    pub fn families(&self) -> &BTreeMap<String, Family> {
        &self.families
    }

    /// Whether the family has a series.
    pub fn has_series_of(&self, family: &str) -> bool {
        let is_its =
            |name: &String| name.strip_prefix(family).is_some_and(|rest| SUFFIXES.contains(&rest));
        self.series.keys().any(|(name, _)| is_its(name))
    }

    /// The number of series whose name starts with `prefix`.
    pub fn series_count(&self, prefix: &str) -> usize {
        self.series.keys().filter(|(name, _)| name.starts_with(prefix)).count()
    }

    /// Whether an exemplar has this trace id.
    pub fn has_trace(&self, trace: &str) -> bool {
        self.exemplars.iter().any(|exemplar| exemplar.trace == trace)
    }

    /// The exemplars in their order in the text.
    pub fn exemplars(&self) -> &[Exemplar] {
        &self.exemplars
    }

    /// The sum of the series with this name and these labels, among others.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(name, labels).iter().fold(0.0, |sum, value| sum + value)
    }

    /// The number of series with this name and these labels, among others.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        self.values(name, labels).len()
    }

    /// The values of the series with this name and these labels, among others.
    pub fn values(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        self.series_with(name, labels).map(|(_, value)| value).collect()
    }

    /// An error unless [`Self::sum`] is this number.
    pub fn expect_sum(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        number: impl Into<f64>,
    ) -> Result<()> {
        let (sum, number) = (self.sum(name, labels), number.into());
        ensure!(sum == number, "{name} {labels:?} is {sum}, not {number}");
        Ok(())
    }

    /// The values of a label in all series with this name.
    pub fn label_values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        self.series(name).filter_map(|(labels, _)| labels.get(label)).map(String::as_str).collect()
    }

    /// An error unless each family has a HELP text without escapes and at least one series, and all values are finite
    /// and not below 0, as the daemon's are.
    pub fn is_the_daemons(&self) -> Result<()> {
        let names: BTreeSet<&str> = self.series.keys().map(|(name, _)| name.as_str()).collect();
        for (name, Family { help, .. }) in &self.families {
            ensure!(!help.is_empty() && !help.contains('\\'), "the help of {name}: {help}");
            let has = |suffix| names.contains(format!("{name}{suffix}").as_str());
            ensure!(SUFFIXES.into_iter().any(has), "{name} has no series");
        }
        for ((name, labels), value) in &self.series {
            ensure!(value.is_finite() && *value >= 0.0, "{name} {labels:?} {value}");
        }
        Ok(())
    }

    /// An error if a method has two values of `grpc_type`: rates that are summed by it would have the method twice.
    pub fn types_agree(&self) -> Result<()> {
        let mut types = BTreeMap::new();
        for (name, labels) in self.series.keys() {
            let label = |name: &str| labels.get(name).map(String::as_str);
            let method = (label("grpc_service"), label("grpc_method"));
            let Some(grpc_type) = label("grpc_type") else { continue };
            let (other, first) = *types.entry(method).or_insert((grpc_type, name));
            ensure!(
                other == grpc_type,
                "{method:?} is {other} in {first} and {grpc_type} in {name}"
            );
        }
        Ok(())
    }

    /// The series whose name starts with `prefix` and whose value is not 0, one per line; no buckets, and no times of
    /// creation.
    pub fn nonzero(&self, prefix: &str) -> String {
        let mut text = String::new();
        for ((name, labels), value) in &self.series {
            let is_value = ["_bucket", "_created"].iter().all(|suffix| !name.ends_with(suffix));
            if name.starts_with(prefix) && is_value && *value != 0.0 {
                // Writing to a String does not fail.
                let _ = writeln!(text, "  {name} {labels:?} {value}");
            }
        }
        text
    }
}

#[derive(Default)]
struct Parser {
    metrics: Metrics,
    family: Begun,
    families: BTreeSet<String>,
    /// The family of each sample's name.
    names: BTreeMap<String, String>,
}

/// The family whose samples are being read.
#[derive(Default)]
struct Begun {
    name: String,
    kind: Option<Kind>,
    unit: bool,
    help: bool,
    /// The labels, without `le`, of the samples that are being read, and of all before them.
    run: Option<Labels>,
    runs: BTreeSet<Labels>,
    /// The series of a histogram without their `le`, in order of appearance of the buckets.
    buckets: BTreeMap<Labels, Vec<(f64, f64)>>,
    counts: BTreeMap<Labels, f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<()> {
        match line.strip_prefix("# ") {
            Some(metadata) => self.metadata(metadata),
            None => self.sample(line),
        }
    }

    fn metadata(&mut self, metadata: &str) -> Result<()> {
        let mut words = metadata.splitn(3, ' ');
        let (word, name) = (words.next().unwrap_or_default(), words.next().context("no name")?);
        let text = words.next().context("no text")?;
        if self.family.name != name {
            self.end_family()?;
            ensure!(is_name(name), "a family's name");
            ensure!(self.families.insert(name.to_owned()), "the family was there before");
            self.family = Begun { name: name.to_owned(), ..Begun::default() };
        }
        let family = &mut self.family;
        ensure!(family.run.is_none(), "described after its samples");
        let described = self.metrics.families.entry(name.to_owned()).or_default();
        let again = match word {
            "TYPE" => {
                text.clone_into(&mut described.kind);
                family.kind.replace(kind(text)?).is_some()
            }
            "HELP" => {
                text.clone_into(&mut described.help);
                std::mem::replace(&mut family.help, true)
            }
            "UNIT" => {
                ensure!(name.ends_with(&format!("_{text}")), "the name does not end with the unit");
                std::mem::replace(&mut family.unit, true)
            }
            _ => bail!("a comment"),
        };
        ensure!(!again, "said twice");
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<()> {
        let end = line.find(['{', ' ']).context("no value")?;
        let (name, rest) = line.split_at(end);
        let (mut labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => parse_labels(rest)?,
            None => (Labels::new(), rest),
        };
        let value = rest.strip_prefix(' ').context("no space before the value")?;
        let (value, exemplar) =
            value.split_once(" # ").map_or((value, None), |(v, e)| (v, Some(e)));
        let value = parse_value(value)?;
        let suffix = name.strip_prefix(&self.family.name).context("not of the family above")?;
        let kind = self.family.kind.context("a sample before its type")?;
        let fits = match kind {
            Kind::Counter => ["_total", "_created"].contains(&suffix) && value >= 0.0,
            Kind::Gauge => suffix.is_empty(),
            Kind::Info => suffix == "_info" && value == 1.0,
            Kind::Histogram => {
                ["_bucket", "_count", "_sum", "_created"].contains(&suffix) && value >= 0.0
            }
        };
        ensure!(fits, "name or value are not those of the family's type");
        let of = self.names.entry(name.to_owned()).or_insert_with(|| self.family.name.clone());
        ensure!(*of == self.family.name, "a sample's name that {of} has, too");
        let key = (name.to_owned(), labels.clone());
        let le = labels.remove("le").filter(|_| suffix == "_bucket");
        if self.family.run.as_ref() != Some(&labels) {
            ensure!(
                self.family.runs.insert(labels.clone()),
                "the samples of a series do not stand together"
            );
            self.family.run = Some(labels.clone());
        }
        let mut bounds = (f64::NEG_INFINITY, f64::INFINITY);
        if suffix == "_bucket" {
            let buckets = self.family.buckets.entry(labels).or_default();
            bounds.0 = buckets.last().map_or(f64::NEG_INFINITY, |bucket| bucket.0);
            bounds.1 = parse_value(&le.context("a bucket without le")?)?;
            buckets.push((bounds.1, value));
        } else if suffix == "_count" {
            self.family.counts.insert(labels, value);
        }
        if let Some(exemplar) = exemplar {
            ensure!(["_total", "_bucket"].contains(&suffix), "no place for an exemplar");
            let ((trace, span), value, time) = parse_exemplar(exemplar).context("the exemplar")?;
            ensure!(bounds.0 < value && value <= bounds.1, "an exemplar of another bucket");
            let (name, labels) = key.clone();
            self.metrics.exemplars.push(Exemplar { name, labels, trace, span, value, time });
        }
        ensure!(self.metrics.series.insert(key, value).is_none(), "the series was there before");
        Ok(())
    }

    /// Checks what only the whole of a family can show.
    fn end_family(&mut self) -> Result<()> {
        let family = &self.family;
        if family.kind == Some(Kind::Histogram) {
            let context = || format!("histogram {}", family.name);
            ensure!(family.buckets.keys().eq(family.counts.keys()), "{}: count?", context());
            for (buckets, count) in family.buckets.values().zip(family.counts.values()) {
                let rising = buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
                ensure!(rising, "{}: buckets do not rise", context());
                let last = buckets.last().copied();
                ensure!(last == Some((f64::INFINITY, *count)), "{}: +Inf", context());
            }
        }
        Ok(())
    }
}

fn kind(text: &str) -> Result<Kind> {
    Ok(match text {
        "counter" => Kind::Counter,
        "gauge" => Kind::Gauge,
        "histogram" => Kind::Histogram,
        "info" => Kind::Info,
        _ => bail!("a type that the daemon should have no use for"),
    })
}

/// The ids of trace and span, what was observed, and when.
fn parse_exemplar(text: &str) -> Result<((String, String), f64, f64)> {
    let (mut labels, rest) = parse_labels(text.strip_prefix('{').context("no labels")?)?;
    let trace = labels.remove("trace_id").context("no trace")?;
    let hexadecimal = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    ensure!(trace.len() == 32 && trace.chars().all(hexadecimal), "{trace} is no trace");
    let span = labels.remove("span_id");
    let is_span = |span: &String| span.len() == 16 && span.chars().all(hexadecimal);
    ensure!(span.as_ref().is_none_or(is_span), "{span:?} is no span");
    let rest = rest.strip_prefix(' ').context("no space before the value")?;
    let (value, time) = rest.split_once(' ').context("no value and time")?;
    let (value, time) = (parse_value(value)?, parse_value(time)?);
    ensure!(value >= 0.0 && time > 0.0, "below 0");
    ensure!(labels.is_empty(), "other labels than the trace and span");
    Ok(((trace, span.unwrap_or_default()), value, time))
}

fn is_name(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| !c.is_ascii_digit()) && text.chars().all(valid)
}

/// No timestamps: the daemon has none.
fn parse_value(text: &str) -> Result<f64> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            text.parse().context("not a number")
        }
        _ => bail!("not a number"),
    }
}

/// The labels after `{`, and what follows their `}`.
fn parse_labels(text: &str) -> Result<(Labels, &str)> {
    let mut labels = Labels::new();
    let mut rest = text;
    if let Some(after) = rest.strip_prefix('}') {
        return Ok((labels, after));
    }
    loop {
        let (name, after) = rest.split_once("=\"").context("a label without value")?;
        ensure!(is_name(name), "a label's name");
        let (value, after) = parse_label_value(after)?;
        ensure!(labels.insert(name.to_owned(), value).is_none(), "a label twice");
        if let Some(after) = after.strip_prefix('}') {
            return Ok((labels, after));
        }
        rest = after.strip_prefix(',').context("no comma between labels")?;
    }
}

/// The value up to its closing quote, and what follows.
fn parse_label_value(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        match c {
            '"' => return Ok((value, text.get(index + 1..).unwrap_or_default())),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('\\' | '"'))) => c,
                _ => bail!("an unknown escape"),
            }),
            c => value.push(c),
        }
    }
    bail!("a label value without end")
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    const GOOD: &str = r#"# HELP a_b Text.
# TYPE a_b counter
a_b_total{x="1",y="q\"\\\n"} 3
a_b_total{x="2"} 4
# HELP h_seconds Text.
# TYPE h_seconds histogram
# UNIT h_seconds seconds
h_seconds_sum{x="1"} 0.5
h_seconds_count{x="1"} 3
h_seconds_bucket{le="0.1",x="1"} 1
h_seconds_bucket{le="+Inf",x="1"} 3 # {trace_id="0af7651916cd43dd8448eb211c80319c"} 0.2 1.5
h_seconds_created{x="1"} 1.5
# TYPE g gauge
g 1e-3
# EOF
"#;

    #[test]
    fn reads_and_sums() {
        let metrics = Metrics::parse(GOOD).unwrap();
        assert_eq!(metrics.sum("a_b_total", &[]), 7.0);
        assert_eq!(metrics.sum("a_b_total", &[("x", "2")]), 4.0);
        assert_eq!(metrics.sum("a_b_total", &[("y", "q\"\\\n")]), 3.0);
        assert_eq!(metrics.sum("g", &[("x", "2")]).to_bits(), 0, "not the -0 of an empty sum");
        assert_eq!(metrics.sum("h_seconds_count", &[]), 3.0);
        assert_eq!(
            metrics.label_values("a_b_total", "x").into_iter().collect::<Vec<_>>(),
            ["1", "2"]
        );
    }

    #[test]
    fn the_daemon_describes_all_that_it_has() {
        let is = |text: &str| Metrics::parse(text).unwrap().is_the_daemons();
        let described = GOOD.replacen("# TYPE g ", "# HELP g Text.\n# TYPE g ", 1);
        is(&described).unwrap();
        assert!(is(GOOD).is_err(), "no help");
        assert!(is(&described.replacen("g 1e-3\n", "", 1)).is_err(), "no series");
        assert!(is(&described.replacen("g 1e-3", "g -1", 1)).is_err(), "below 0");
    }

    #[test]
    fn a_method_has_one_type() {
        let of = |first: &str, second: &str, method: &str| {
            let text = format!(
                "# TYPE a counter\na_total{{grpc_type=\"{first}\",grpc_service=\"s\",grpc_method=\"M\"}} 1\n\
                 # TYPE b counter\nb_total{{grpc_type=\"{second}\",grpc_service=\"s\",grpc_method=\"{method}\"}} 1\n\
                 # EOF\n"
            );
            Metrics::parse(&text).unwrap().types_agree()
        };
        of("unary", "unary", "M").unwrap();
        of("unary", "bidi_stream", "N").unwrap();
        assert!(of("unary", "bidi_stream", "M").is_err());
    }

    #[test]
    fn forgives_nothing() {
        let wrong = [
            ("# EOF\n", "", "no end"),
            ("# EOF\n", "# EOF", "no last line feed"),
            ("# EOF\n", "# EOF\n# EOF\n", "two ends"),
            ("# EOF\n", "\n# EOF\n", "an empty line"),
            ("# EOF\n", "g 2\n# EOF\n", "a series twice"),
            ("# EOF\n", "a_b_total 2\n# EOF\n", "a family in two places"),
            ("# EOF\n", "# HELP a_b Text.\n# EOF\n", "a family described in two places"),
            ("# TYPE a_b counter\n", "", "a sample without type"),
            ("a_b_total{x=\"2\"} 4", "a_b{x=\"2\"} 4", "a counter without _total"),
            ("a_b_total{x=\"2\"} 4", "a_b_total{x=\"2\"} -4", "a counter below 0"),
            ("a_b_total{x=\"2\"} 4", "a_b_total{x=\"2\"} NaN", "a counter that is no number"),
            ("a_b_total{x=\"2\"} 4", "a_b_total{x=\"2\"}4", "no space"),
            ("a_b_total{x=\"2\"} 4", "a_b_total{x=\"2\",x=\"2\"} 4", "a label twice"),
            ("a_b_total{x=\"2\"} 4", "a_b_total{x=\"2} 4", "a label without end"),
            (r#"q\"\\\n"#, r"q\t", "an unknown escape"),
            ("h_seconds_count{x=\"1\"} 3", "h_seconds_count{x=\"1\"} 4", "count is not +Inf's"),
            ("h_seconds_count{x=\"1\"} 3\n", "", "no count"),
            ("le=\"0.1\",x=\"1\"} 1", "le=\"0.1\",x=\"1\"} 4", "a falling bucket"),
            ("le=\"+Inf\",x=\"1\"} 3", "le=\"9\",x=\"1\"} 3", "no +Inf"),
            ("0af7651916cd43dd8448eb211c80319c", "0af7", "a trace that is none"),
            ("} 0.2 1.5", "} 0.2", "an exemplar without time"),
            ("g 1e-3", "g 1e-3 # {trace_id=\"0af7651916cd43dd8448eb211c80319c\"} 1 1", "a gauge's"),
            ("UNIT h_seconds seconds", "UNIT h_seconds bytes", "a unit that is not in the name"),
            ("} 0.2 1.5", "} 0.1 1.5", "an exemplar of the bucket before"),
            (
                "# TYPE g gauge",
                "# TYPE h_seconds_sum gauge\nh_seconds_sum 1\n# TYPE g gauge",
                "a name of two",
            ),
            ("# EOF\n", "# HELP g Text.\n# EOF\n", "a description after the samples"),
            (
                "a_b_total{x=\"2\"} 4",
                "a_b_total{x=\"2\",0=\"\"} 4",
                "a label that begins with a digit",
            ),
            (
                "h_seconds_created{x=\"1\"} 1.5\n",
                "h_seconds_created{x=\"2\"} 1.5\nh_seconds_created{x=\"1\"} 1.5\n",
                "samples that do not stand together",
            ),
        ];
        for (good, bad, what) in wrong {
            assert!(GOOD.contains(good), "{what}");
            assert!(Metrics::parse(&GOOD.replacen(good, bad, 1)).is_err(), "{what}");
        }
    }
}

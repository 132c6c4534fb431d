//! Prometheus from Debian's package, which scrapes daemons; its answers; Grafana's dashboards, which query it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Daemon, Log, free_address, http_get};
use crate::openmetrics::Labels;
use crate::pace;
use crate::process::{Process, is_installed};

/// Time for Prometheus to start, to scrape, or to end.
const LIMIT: Duration = Duration::from_secs(30);

/// Time between two scrapes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Whether Prometheus and promtool are installed. With `CI` in the environment they must be.
pub fn is_there() -> Result<bool> {
    Ok(is_installed("prometheus", "--version")? && is_installed("promtool", "--version")?)
}

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
    log: Log,
    _folder: TempDir,
}

/// An element of an instant vector.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its labels, with `__name__` if it has a name.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
}

/// An element of a range vector.
#[derive(Clone, Debug)]
pub struct Range {
    /// Times in seconds since the Unix epoch, and values.
    pub values: Vec<(f64, f64)>,
    /// Its labels, with `__name__`.
    pub labels: Labels,
}

impl Prometheus {
    /// Starts a Prometheus and waits until it is ready. `scrapes` are scrape configurations: entries of a YAML list.
    /// In files of rules, the first of `ranges` is replaced by the second: ranges of minutes are long for a test.
    pub fn start(
        scrapes: &str,
        rules: &[PathBuf],
        ranges: (&str, &str),
        features: &[&str],
    ) -> Result<Self> {
        let folder = TempDir::with_prefix("prometheus-").context("create a folder")?;
        let mut names = Vec::new();
        for path in rules {
            let text = fs::read_to_string(path)
                .with_context(|| format!("read {}", path.display()))?
                .replace(ranges.0, ranges.1);
            let name = path.file_name().context("a file without a name")?;
            fs::write(folder.path().join(name), text)?;
            names.push(name.display().to_string());
        }
        let interval = INTERVAL.as_millis();
        let config = format!(
            "global:\n  scrape_interval: {interval}ms\n  scrape_timeout: {interval}ms\n  \
             evaluation_interval: {interval}ms\nrule_files: [{}]\nscrape_configs:\n{scrapes}",
            names.join(", ")
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config)?;
        let address = free_address()?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(features.iter().map(|feature| format!("--enable-feature={feature}")))
            // Then everything that it logs is a problem.
            .arg("--log.level=warn")
            .current_dir(folder.path())
            .stdout(Stdio::null());
        let (process, log) = Process::logged(&mut command)?;
        let prometheus = Self { process, address, log, _folder: folder };
        prometheus.wait_until(|prometheus| {
            ensure!(http_get(prometheus.address, "/-/ready")?.0 == 200, "Prometheus is not ready");
            Ok(())
        })?;
        Ok(prometheus)
    }

    /// Polls until `condition` holds, for 30 s at most; then its last error is returned, with the log.
    pub fn wait_until<T>(&self, condition: impl Fn(&Self) -> Result<T>) -> Result<T> {
        pace::wait_for(LIMIT, || Ok(condition(self).with_context(|| self.log.text())))
    }

    /// Evaluates an expression to an instant vector, at a time in seconds since the Unix epoch, or now.
    pub fn query(&self, expression: &str, time: Option<f64>) -> Result<Vec<Sample>> {
        let Data::Vector(elements) = self.ask(expression, time)? else {
            bail!("not an instant vector: {expression}");
        };
        elements
            .into_iter()
            .map(|Element { metric, value: (_, value) }| {
                Ok(Sample { labels: metric, value: value.parse()? })
            })
            .collect()
    }

    /// Evaluates a range selector at a time in seconds since the Unix epoch.
    pub fn range(&self, selector: &str, time: f64) -> Result<Vec<Range>> {
        let Data::Matrix(rows) = self.ask(selector, Some(time))? else {
            bail!("not a range vector: {selector}");
        };
        rows.into_iter().map(Row::range).collect()
    }

    /// Evaluates an expression every `step` seconds of the last `seconds`.
    pub fn query_range(&self, expression: &str, seconds: f64, step: f64) -> Result<Vec<Range>> {
        let end = epoch()?;
        let path = format!(
            "/api/v1/query_range?query={}&start={}&end={end}&step={step}",
            percent_encoded(expression),
            end - seconds
        );
        let Data::Matrix(rows) = self.data(&path)? else { bail!("not a matrix: {expression}") };
        rows.into_iter().map(Row::range).collect()
    }

    /// The `trace_id` of each exemplar in the last nine minutes of the selector's series.
    pub fn exemplars(&self, selector: &str) -> Result<BTreeSet<String>> {
        #[derive(Deserialize)]
        struct OfSeries {
            exemplars: Vec<Exemplar>,
        }
        #[derive(Deserialize)]
        struct Exemplar {
            labels: Labels,
        }
        let end = epoch()? + 60.0;
        let path = format!(
            "/api/v1/query_exemplars?query={}&start={}&end={end}",
            percent_encoded(selector),
            end - 600.0
        );
        let series: Vec<OfSeries> = self.data(&path)?;
        let exemplars = series.into_iter().flat_map(|series| series.exemplars);
        exemplars
            .map(|Exemplar { mut labels }| labels.remove("trace_id").context("no trace_id"))
            .collect()
    }

    /// The values of a label in the series of a selector, as Grafana requests them for a variable.
    pub fn label_values(&self, selector: &str, label: &str) -> Result<BTreeSet<String>> {
        let path = format!(
            "/api/v1/label/{label}/values?match[]={}&start={}",
            percent_encoded(selector),
            epoch()? - 600.0
        );
        self.data(&path)
    }

    fn ask(&self, expression: &str, time: Option<f64>) -> Result<Data> {
        let at = time.map_or(String::new(), |time| format!("&time={time}"));
        self.data(&format!("/api/v1/query?query={}{at}", percent_encoded(expression)))
    }

    fn data<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (_, body) = http_get(self.address, path)?;
        let answer: Answer<T> = serde_json::from_str(&body).with_context(|| body.clone())?;
        answer.data.with_context(|| format!("{path}: {}", answer.error.unwrap_or_default()))
    }

    /// An error unless every target is scraped without an error and the log is empty.
    pub fn is_content(&self) -> Result<()> {
        let answer: Value = self.data("/api/v1/targets?state=active")?;
        let targets = answer.get("activeTargets").and_then(Value::as_array);
        for target in targets.context("no targets")? {
            let says = |key| target.get(key).and_then(Value::as_str).unwrap_or_default();
            ensure!(says("health") == "up" && says("lastError").is_empty(), "{target}");
        }
        let log = self.log.text();
        ensure!(log.is_empty(), "Prometheus logs:\n{log}");
        Ok(())
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(LIMIT)?;
        Ok(())
    }
}

/// The configuration by which Prometheus scrapes a daemon without TLS, as job `observer`.
pub fn scrape_of(daemon: &Daemon) -> String {
    let address = daemon.address();
    format!("  - job_name: observer\n    static_configs: [{{targets: ['{address}']}}]\n")
}

#[derive(Deserialize)]
struct Answer<T> {
    data: Option<T>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Element>),
    Matrix(Vec<Row>),
}

#[derive(Deserialize)]
struct Element {
    metric: Labels,
    value: (f64, String),
}

#[derive(Deserialize)]
struct Row {
    metric: Labels,
    values: Vec<(f64, String)>,
}

impl Row {
    fn range(self) -> Result<Range> {
        let Self { metric, values } = self;
        let pair = |(time, value): (f64, String)| Ok((time, value.parse()?));
        let values = values.into_iter().map(pair).collect::<Result<_>>()?;
        Ok(Range { values, labels: metric })
    }
}

/// The time now, in seconds since the Unix epoch.
fn epoch() -> Result<f64> {
    Ok(UNIX_EPOCH.elapsed().context("a clock before 1970")?.as_secs_f64())
}

fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

/// An error if `promtool check metrics` finds a problem with names, types or HELP texts in a text of Prometheus' own
/// format.
pub fn check_metrics(text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start promtool")?;
    // It reads everything before it writes.
    child.stdin.take().context("promtool without stdin")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success() && said.trim().is_empty(), "promtool says:\n{said}");
    Ok(())
}

/// An error unless `promtool check web-config` accepts the file.
pub fn check_web_config(file: &Path) -> Result<()> {
    let mut promtool = Command::new("promtool");
    let output = promtool.args(["check", "web-config"]).arg(file).output().context("promtool")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "promtool does not accept {}:\n{said}", file.display());
    Ok(())
}

/// The part of a Grafana dashboard that the tests use.
#[derive(Debug, Deserialize)]
pub struct Dashboard {
    /// Its title.
    pub title: String,
    /// Its panels.
    pub panels: Vec<Panel>,
    templating: Templating,
}

/// A panel of a dashboard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// The type: `timeseries`, `stat`, `heatmap`, `table`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Position and size, in 24ths of the width.
    pub grid_pos: Value,
    /// The unit, and more.
    #[serde(default)]
    pub field_config: Value,
    /// Its queries.
    pub targets: Vec<Target>,
    #[serde(default)]
    transformations: Vec<Value>,
}

impl Panel {
    /// The title of a table's column; its own name if it is not renamed.
    pub fn column(&self, own: &str) -> String {
        let renamed = self.transformations.iter().find_map(|transformation| {
            transformation.pointer("/options/renameByName")?.get(own)?.as_str()
        });
        renamed.unwrap_or(own).to_owned()
    }

    /// The unit of a table's column.
    pub fn unit(&self, column: &str) -> Option<&str> {
        let overrides = self.field_config.get("overrides")?.as_array()?;
        let of_column = overrides
            .iter()
            .find(|of| of.pointer("/matcher/options").and_then(Value::as_str) == Some(column))?;
        let mut properties = of_column.get("properties")?.as_array()?.iter();
        let unit = properties.find(|property| property.get("id").is_some_and(|id| id == "unit"))?;
        unit.get("value")?.as_str()
    }
}

/// A query of a panel.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The expression, with Grafana's variables in it.
    pub expr: String,
    /// The name of each series in the legend, with `{{label}}` in it.
    #[serde(default)]
    pub legend_format: String,
}

#[derive(Debug, Deserialize)]
struct Templating {
    list: Vec<Variable>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    query: Value,
}

impl Dashboard {
    /// Reads all dashboards of a folder, in the order of their file names.
    pub fn all(folder: &Path) -> Result<Vec<Self>> {
        let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<BTreeSet<_>>>()?;
        let json = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "json");
        let read = |path: &PathBuf| {
            serde_json::from_str(&fs::read_to_string(path)?)
                .with_context(|| format!("read {}", path.display()))
        };
        paths.iter().filter(json).map(read).collect()
    }

    /// The queries of the variables: selectors and labels.
    pub fn variables(&self, role: &str) -> Result<Vec<(String, String)>> {
        let queries = self.templating.list.iter();
        let queries = queries.filter_map(|variable| variable.query.get("query")?.as_str());
        queries
            .map(|query| {
                let arguments = query
                    .strip_prefix("label_values(")
                    .and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", "));
                let (selector, label) = arguments.with_context(|| query.to_owned())?;
                Ok((filled(selector, role, "")?, label.to_owned()))
            })
            .collect()
    }
}

impl Target {
    /// The expression as Grafana sends it if every variable selects everything; an error if a variable is not known.
    pub fn asked(&self, role: &str, range: &str) -> Result<String> {
        filled(&self.expr, role, range)
    }
}

fn filled(text: &str, role: &str, range: &str) -> Result<String> {
    let text = text
        .replace("[$__rate_interval]", range)
        .replace("[$__range]", range)
        .replace("${role}", role);
    let text = ["instance", "process", "service", "method"]
        .iter()
        .fold(text, |text, name| text.replace(&format!("\"${name}\""), "\".+\""));
    ensure!(!text.contains('$'), "not all variables are known: {text}");
    Ok(text)
}

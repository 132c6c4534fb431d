//! A real Prometheus, as Debian has it, that scrapes daemons; and what it answers.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Log, free_address, http_get};
use crate::openmetrics::Labels;
use crate::process::{POLL, Process};

/// For it to start, to scrape, and to end.
const LIMIT: Duration = Duration::from_secs(30);

/// Between two scrapes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Whether it is installed. With `CI` in the environment it must be.
pub fn is_there() -> Result<bool> {
    let runs = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let there = runs("prometheus") && runs("promtool");
    ensure!(
        there || std::env::var_os("CI").is_none(),
        "no prometheus and promtool: apt-get install prometheus"
    );
    Ok(there)
}

/// One that runs.
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
    /// With `__name__`, where it has one.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
}

/// An element of a range vector.
#[derive(Clone, Debug)]
pub struct Range {
    /// Seconds since the epoch, and values.
    pub values: Vec<(f64, f64)>,
    /// With `__name__`.
    pub labels: Labels,
}

impl Prometheus {
    /// Starts one with these scrape configurations (YAML, a list's entries) and files of rules, in
    /// which each `from` is read as `to`: ranges of minutes are long for a test.
    pub fn start(scrapes: &str, rules: &[PathBuf], ranges: (&str, &str)) -> Result<Self> {
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
            // All that it says is that something is wrong.
            .arg("--log.level=warn")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("start prometheus")?;
        let log = Log::of(child.stderr.take().context("prometheus without stderr")?);
        let prometheus = Self { process: Process::new(child), address, log, _folder: folder };
        prometheus.wait_until(|prometheus| {
            ensure!(http_get(prometheus.address, "/-/ready")?.0 == 200, "it is not ready");
            Ok(())
        })?;
        Ok(prometheus)
    }

    /// Asks again until it holds; the last error when it does not come about.
    pub fn wait_until<T>(&self, condition: impl Fn(&Self) -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            match condition(self) {
                Err(error) if begin.elapsed() > LIMIT => {
                    return Err(error.context(self.log.text()));
                }
                Err(_) => sleep(POLL),
                outcome => return outcome,
            }
        }
    }

    /// Evaluates an expression, at a time in seconds since the epoch, or now.
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

    /// The samples that a range selector selects.
    pub fn range(&self, selector: &str, time: f64) -> Result<Vec<Range>> {
        let Data::Matrix(rows) = self.ask(selector, Some(time))? else {
            bail!("not a range vector: {selector}");
        };
        let pair = |(time, value): (f64, String)| Ok((time, value.parse()?));
        rows.into_iter()
            .map(|Row { metric, values }| {
                let values = values.into_iter().map(pair).collect::<Result<_>>()?;
                Ok(Range { values, labels: metric })
            })
            .collect()
    }

    fn ask(&self, expression: &str, time: Option<f64>) -> Result<Data> {
        let at = time.map_or(String::new(), |time| format!("&time={time}"));
        let path = format!("/api/v1/query?query={}{at}", percent_encoded(expression));
        let (_, body) = http_get(self.address, &path)?;
        let answer: Answer = serde_json::from_str(&body).context("an answer that is no JSON")?;
        answer.data.with_context(|| format!("{expression}: {}", answer.error.unwrap_or_default()))
    }

    /// That every target is scraped without an error, and that nothing was found wrong.
    pub fn is_content(&self) -> Result<()> {
        let (_, body) = http_get(self.address, "/api/v1/targets?state=active")?;
        let answer: Value = serde_json::from_str(&body)?;
        let targets = answer.pointer("/data/activeTargets").and_then(Value::as_array);
        for target in targets.context("no targets")? {
            let says = |key| target.get(key).and_then(Value::as_str).unwrap_or_default();
            ensure!(says("health") == "up" && says("lastError").is_empty(), "{target}");
        }
        let log = self.log.text();
        ensure!(log.is_empty(), "it says:\n{log}");
        Ok(())
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(LIMIT)?;
        Ok(())
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Data>,
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

fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

/// What `promtool check metrics` says of a text in Prometheus' own format, of whatever it knows to
/// be wrong with names, types and texts.
pub fn check_metrics(text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start promtool")?;
    // It reads all before it says anything.
    child.stdin.take().context("promtool without stdin")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success() && said.trim().is_empty(), "promtool says:\n{said}");
    Ok(())
}

/// An expression of a dashboard, with where it stands.
#[derive(Debug)]
pub struct Panel {
    /// Dashboard and panel.
    pub name: String,
    /// With Grafana's variables still in it.
    pub expression: String,
}

/// All queries of all panels of all dashboards in a folder; and that each panel has one.
pub fn panels(folder: &Path) -> Result<Vec<Panel>> {
    let mut panels = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let board: Value =
            serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        let list = |value: &Value, key| value.get(key).and_then(Value::as_array).cloned();
        for panel in list(&board, "panels").context("a dashboard without panels")? {
            let title = panel.get("title").and_then(Value::as_str).context("no title")?;
            let name = format!("{}: {title}", path.display());
            let targets = list(&panel, "targets").unwrap_or_default();
            ensure!(!targets.is_empty(), "{name} asks nothing");
            for target in targets {
                let expression = target.get("expr").and_then(Value::as_str);
                let expression = expression.with_context(|| format!("{name}: no expr"))?.to_owned();
                panels.push(Panel { name: name.clone(), expression });
            }
        }
    }
    Ok(panels)
}

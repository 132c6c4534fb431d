//! A real Prometheus scrapes real daemons, without TLS, and over TLS with a password. Its answers to the queries of
//! the README, the rules and the dashboards are compared with the plan.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::openmetrics::Labels;
use support::peer::{Client, Listen, Server};
use support::prometheus::{self, Dashboard, Prometheus, Sample, scrape_of};
use support::stack::Stack;

use super::protected::{ONLY_CLIENTS_WITH_CERTIFICATES, PASSWORD, Protected, USER};
use crate::case::Case;

/// The range of queries, instead of `[5m]` in the documents.
const RANGE: &str = "[12s]";
const RANGE_SECONDS: f64 = 12.0;

/// The numbers of fast, slow and failing calls of the method that is compared. Their p95 is a slow one.
const FAST: u32 = 85;
const SLOW: u32 = 10;
const FAILING: u32 = 5;
const SLOW_MS: u32 = 300;
/// The bounds of the slow ones' bucket.
const BUCKET: (f64, f64) = (0.25, 0.5);
/// The number of calls that do not end.
const HELD: u32 = 7;

/// The case, ignored without Prometheus or the stack.
pub(crate) fn case(stack: Option<&'static Stack>) -> Result<Case> {
    let name = "Prometheus: the README's queries, rules and dashboards";
    let case = Case::new(name, move || answers(stack.context("the stack is missing")?));
    Ok(case.only_if(prometheus::is_there()? && stack.is_some()))
}

fn answers(stack: &Stack) -> Result<()> {
    let server = Server::start(stack, Listen::V4)?;
    let clear = Daemon::start(&["--port", &server.port()?])?;
    let protected = Protected::by_tls(ONLY_CLIENTS_WITH_CERTIFICATES)?;
    // It must not watch the calls too.
    let by_tls = Daemon::start(&["--port", "1", "--web-config-file", &protected.config()?])?;
    let root = &support::stack::workspace()?;
    let rules = ["rules.yml", "alerts.yml"].map(|name| root.join("deploy/prometheus").join(name));
    let scrapes = scrape_of(&clear) + &scrape_by_tls(&protected, &by_tls.address());
    let prometheus = Prometheus::start(&scrapes, &rules, ("[5m]", RANGE), &[])?;
    // A code has no series before its first call, and rates are not extrapolated to before a counter was 0. So
    // there is a fifth of the calls of each code, and then a pause until the range starts after them.
    let pause = held(1, ((RANGE_SECONDS + 2.0) * 1000.0) as u32);
    let main = calls(FAST, SLOW, FAILING);
    let plan = [calls(20, 1, 1), failures(), pause, main, failures(), held(HELD, 60_000)];
    let client = Client::start(stack, &server, &plan)?;
    let scene = Scene { prometheus, process: server.identity().comm.clone() };
    let time = scene.seen_at()?;
    scene.readme(root, time)?;
    scene.recorded(time)?;
    scene.dashboards(&root.join("deploy/grafana"), time)?;
    drop(client);
    let seen = scene.prometheus.query("observer_build_info{job=\"observer-tls\"}", None)?;
    ensure!(seen.len() == 1, "not scraped by TLS: {seen:?}");
    scene.prometheus.is_content()?;
    scene.prometheus.stop()?;
    prometheus::check_metrics(&clear.metrics_as("text/plain; version=0.0.4")?)?;
    prometheus::check_web_config(&protected.path("web.yml"))?;
    by_tls.stop()?;
    clear.stop()
}

/// A stage with the calls that are compared.
fn calls(fast: u32, slow: u32, failing: u32) -> Vec<Value> {
    vec![
        json!({"rpc": "Unary", "count": fast, "concurrency": 4, "payload": 10}),
        json!({"rpc": "Unary", "count": slow, "concurrency": 5, "sleep_ms": SLOW_MS}),
        json!({"rpc": "Unary", "count": failing, "code": 5}),
    ]
}

/// A stage with other calls, which the dashboards show.
fn failures() -> Vec<Value> {
    vec![
        json!({"rpc": "ServerStream", "responses": 3, "response_size": 100}),
        json!({"rpc": "ClientStream", "requests": 2, "code": 14}),
        json!({"rpc": "ClientStream", "requests": 2, "sleep_ms": 60_000, "deadline_ms": 300}),
    ]
}

/// A stage with calls that stay open.
fn held(count: u32, sleep_ms: u32) -> Vec<Value> {
    vec![json!({
        "rpc": "Bidi", "count": count, "concurrency": count, "requests": 1, "responses": 1,
        "sleep_ms": sleep_ms,
    })]
}

struct Scene {
    prometheus: Prometheus,
    /// The name of the server's process.
    process: String,
}

impl Scene {
    /// Waits until Prometheus has all calls, and returns that time.
    fn seen_at(&self) -> Result<f64> {
        let Self { prometheus, process } = self;
        let of = |metric, method| {
            format!("sum({metric}{{process=\"{process}\",grpc_method=\"{method}\"}})")
        };
        let handled = of("grpc_server_handled_total", "Unary");
        let held = of("grpc_server_in_flight", "Bidi");
        prometheus.wait_until(|prometheus| {
            let time = value(&prometheus.query("vector(time())", None)?)?;
            for (expression, expected) in [(&handled, FAST + SLOW + FAILING + 22), (&held, HELD)] {
                let seen = value(&prometheus.query(expression, Some(time))?)?;
                ensure!(is(seen, f64::from(expected)), "{expression}: {seen}, not {expected}");
            }
            Ok(time)
        })
    }

    /// Compares the answers to the README's queries, for the method that is compared.
    fn readme(&self, root: &Path, time: f64) -> Result<()> {
        let page = fs::read_to_string(root.join("README.md")).context("read the README")?;
        let queries = queries(&page)?;
        let [rate, errors, p95, in_flight] = queries.as_slice() else {
            bail!("not four queries in the README: {queries:?}");
        };
        let of = |query: &str, method| {
            let query = query.replace("[5m]", RANGE);
            let samples = self.prometheus.query(&query, Some(time))?;
            let labels = [("process", self.process.as_str()), ("grpc_method", method)];
            value_of(&samples, &labels).with_context(|| format!("{query}: {samples:?}"))
        };
        let (seconds, increase) = self.slope(time)?;
        let calls = f64::from(FAST + SLOW + FAILING);
        ensure!(is(increase, calls), "{increase} calls in the range, not {calls}");
        let seen = of(rate, "Unary")?;
        // Between the rate of the samples and that of an extrapolation to the ends of the range.
        ensure!(
            (calls / RANGE_SECONDS..=calls / seconds * (1.0 + 1e-9)).contains(&seen),
            "rate: {seen}, of {calls} calls in {seconds} s"
        );
        let seen = of(errors, "Unary")?;
        ensure!(is(seen, f64::from(FAILING) / calls), "error ratio: {seen}");
        let seen = of(p95, "Unary")?;
        ensure!(BUCKET.0 < seen && seen <= BUCKET.1, "p95: {seen} s, for {SLOW_MS} ms");
        let seen = of(in_flight, "Bidi")?;
        ensure!(is(seen, f64::from(HELD)), "in flight: {seen}");
        Ok(())
    }

    /// The seconds and the calls between the first and the last sample in the range.
    fn slope(&self, time: f64) -> Result<(f64, f64)> {
        let selector = format!(
            "grpc_server_handled_total{{process=\"{}\",grpc_method=\"Unary\"}}{RANGE}",
            self.process
        );
        let (mut seconds, mut increase) = (0.0, 0.0);
        for range in self.prometheus.range(&selector, time)? {
            let (Some(first), Some(last)) = (range.values.first(), range.values.last()) else {
                bail!("an empty range");
            };
            seconds = last.0 - first.0;
            increase += last.1 - first.1;
        }
        ensure!(seconds > 0.5 * RANGE_SECONDS, "samples over {seconds} s only");
        Ok((seconds, increase))
    }

    /// An error unless the rules have recorded all their series, with the ratio of these calls.
    fn recorded(&self, time: f64) -> Result<()> {
        let ratio = "process_method:grpc_server_errors:ratio_rate5m{grpc_method=\"Unary\"}";
        self.prometheus.wait_until(|prometheus| {
            let seen = value(&prometheus.query(ratio, None)?)?;
            ensure!(is(seen, f64::from(FAILING) / f64::from(FAST + SLOW + FAILING)), "{seen}");
            Ok(())
        })?;
        for name in [
            "process_method_code:grpc_client_handled:rate5m",
            "process_method:grpc_client_errors:ratio_rate5m",
            "process_method:grpc_server_faults:ratio_rate5m",
            "process_method:grpc_server_handling_seconds:p95_5m",
            "process_method:grpc_client_handling_seconds:p95_5m",
            "process_method:grpc_server_in_flight:sum",
            "process_method:grpc_client_in_flight:sum",
            "instance:observer_calls_complete:ratio_rate5m",
        ] {
            ensure!(!self.prometheus.query(name, Some(time))?.is_empty(), "no {name}");
        }
        Ok(())
    }

    /// An error unless every query of every panel and every variable has an answer, for both sides.
    fn dashboards(&self, folder: &Path, time: f64) -> Result<()> {
        let boards = Dashboard::all(folder)?;
        let mut asked = 0;
        for (board, role) in boards.iter().flat_map(|board| [(board, "server"), (board, "client")])
        {
            for panel in &board.panels {
                let name = format!("{}: {}", board.title, panel.title);
                ensure!(!panel.targets.is_empty(), "{name} has no query");
                for target in &panel.targets {
                    let expression = target.asked(role, RANGE)?;
                    let answer = self.prometheus.query(&expression, Some(time));
                    let answer = answer.with_context(|| name.clone())?;
                    ensure!(!answer.is_empty(), "{name}: nothing for {expression}");
                    asked += 1;
                }
            }
            for (selector, label) in board.variables(role)? {
                let values = self.prometheus.label_values(&selector, &label)?;
                ensure!(!values.is_empty(), "{}: no {label} of {selector}", board.title);
                let own = label != "process" || role == "client" || values.contains(&self.process);
                ensure!(own, "{}: {} is not in {values:?}", board.title, self.process);
            }
        }
        ensure!(asked > 80, "{asked} queries only");
        Ok(())
    }
}

/// The expressions between "```promql" and "```": one after each comment.
fn queries(page: &str) -> Result<Vec<String>> {
    let (_, rest) = page.split_once("```promql\n").context("no queries in the README")?;
    let (block, _) = rest.split_once("```").context("queries without an end")?;
    let mut queries: Vec<String> = Vec::new();
    for line in block.lines() {
        if line.starts_with('#') {
            queries.push(String::new());
        } else {
            let query = queries.last_mut().context("a query without a comment")?;
            query.push_str(line);
            query.push('\n');
        }
    }
    Ok(queries)
}

/// Whether two numbers are equal, except for rounding.
pub(super) fn is(seen: f64, expected: f64) -> bool {
    (seen - expected).abs() <= expected.abs() * 1e-9
}

fn value(samples: &[Sample]) -> Result<f64> {
    match samples {
        [sample] => Ok(sample.value),
        _ => bail!("not one sample: {samples:?}"),
    }
}

fn value_of(samples: &[Sample], labels: &[(&str, &str)]) -> Result<f64> {
    let has = |own: &Labels| {
        labels.iter().all(|(name, value)| own.get(*name).is_some_and(|own| own == value))
    };
    let with: Vec<Sample> = samples.iter().filter(|sample| has(&sample.labels)).cloned().collect();
    value(&with)
}

/// The configuration by which Prometheus scrapes a daemon over TLS.
fn scrape_by_tls(protected: &Protected, address: &str) -> String {
    let path = |name| protected.path(name).display().to_string();
    format!(
        "  - job_name: observer-tls\n    scheme: https\n    static_configs: [{{targets: ['{address}']}}]\n    \
         basic_auth: {{username: {USER}, password: {PASSWORD}}}\n    tls_config: {{server_name: \
         daemon.test, ca_file: '{}', cert_file: '{}', key_file: '{}'}}\n",
        path("ca.crt"),
        path("scraper.crt"),
        path("scraper.key")
    )
}

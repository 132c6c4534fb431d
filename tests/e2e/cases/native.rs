//! What a Prometheus that asks for protobuf gets and text has not: native histograms; and exemplars,
//! which it keeps if it is told to.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use support::daemon::Daemon;
use support::prometheus::{self, Prometheus};
use support::raw::talk::Role;
use support::raw::{Address, Call, Talk};

use super::OK;
use crate::case::Case;

/// Calls that are answered at once, and those that wait: of 40, the 95th of a hundred is slow.
const FAST: u32 = 30;
const SLOW: u32 = 10;
const WAIT: Duration = Duration::from_millis(300);

/// From one bound to the next: schema 3.
const STEP: f64 = 1.090_507_732_665_257_7;

/// Shown as ignored where there is no Prometheus.
pub(crate) fn case() -> Result<Case> {
    const NAME: &str = "Prometheus: native histograms and exemplars";
    let case = Case::new(NAME, || answers(NAME));
    Ok(case.only_if(prometheus::is_there()?))
}

fn answers(name: &str) -> Result<()> {
    let daemon = Daemon::start(&["--native-histograms"])?;
    let features = ["native-histograms", "exemplar-storage"];
    let scrapes = format!(
        "  - job_name: observer\n    static_configs: [{{targets: ['{}']}}]\n",
        daemon.address()
    );
    let prometheus = Prometheus::start_with(&scrapes, &[], ("", ""), &features)?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    let begin = Instant::now();
    for call in 0..FAST {
        ask(&mut talk, call)?;
        answer(&mut talk, call)?;
    }
    for call in FAST..FAST + SLOW {
        ask(&mut talk, call)?;
    }
    sleep(WAIT);
    for call in FAST..FAST + SLOW {
        answer(&mut talk, call)?;
    }
    let longest = begin.elapsed().as_secs_f64();
    talk.compare()?;

    let pid = talk.pid(Role::Server)?;
    let of = |family: &str| format!("{family}{{pid=\"{pid}\"}}");
    let histogram = of("grpc_server_handling_seconds");
    let value = |expression: &str| -> Result<f64> {
        let samples = prometheus.query(expression, None)?;
        let [sample] = samples.as_slice() else { anyhow::bail!("{expression}: {samples:?}") };
        Ok(sample.value)
    };
    prometheus.wait_until(|_| {
        let count = value(&format!("histogram_count({histogram})"))?;
        ensure!(is(count, f64::from(FAST + SLOW)), "{count} calls in the histogram");
        Ok(())
    })?;
    // The daemon's own text has the same sum.
    let told = daemon.scrape()?.sum("grpc_server_handling_seconds_sum", &[("pid", &pid)]);
    let sum = value(&format!("histogram_sum({histogram})"))?;
    ensure!(is(sum, told), "{sum} s in all, not {told}");
    let quantile = value(&format!("histogram_quantile(0.95, {histogram})"))?;
    let bounds = WAIT.as_secs_f64() / STEP..=longest * STEP;
    ensure!(bounds.contains(&quantile), "p95 is {quantile} s, not within {bounds:?}");
    let classic = prometheus.query(&of("grpc_server_handling_seconds_bucket"), None)?;
    ensure!(classic.is_empty(), "buckets came instead: {classic:?}");

    // Of the code the last call, of each bucket one of those in it.
    let of_code = prometheus.exemplars(&of("grpc_server_handled_total"))?;
    let last = trace(FAST + SLOW - 1);
    ensure!(of_code.contains(&last), "{last} is not among {of_code:?}");
    let of_buckets = prometheus.exemplars(&histogram)?;
    let calls: BTreeSet<String> = (0..FAST + SLOW).map(trace).collect();
    ensure!(!of_buckets.is_empty(), "the histogram has no exemplar");
    let foreign = of_code.union(&of_buckets).find(|trace| !calls.contains(*trace));
    ensure!(foreign.is_none(), "no call has the trace {foreign:?}");
    prometheus.is_content()?;
    prometheus.stop()?;
    talk.finish()
}

fn trace(call: u32) -> String {
    format!("4bf92f3577b34da6a3ce9{:011x}", call + 1)
}

fn ask(talk: &mut Talk<'_>, call: u32) -> Result<()> {
    let traceparent = format!("00-{}-00f067aa0ba902b7-01", trace(call));
    let stream = 2 * call + 1;
    talk.client(|f| {
        f.request_with(stream, "Get", &[("traceparent", &traceparent)]).last_message(stream, 5)
    })
    .context("a request")
}

fn answer(talk: &mut Talk<'_>, call: u32) -> Result<()> {
    let stream = 2 * call + 1;
    talk.server(|f| f.response(stream).message(stream, 6).trailers(stream, OK))?;
    talk.expect(Call::new("Get", OK).unary(5, 6))
}

fn is(seen: f64, expected: f64) -> bool {
    (seen - expected).abs() <= expected.abs() * 1e-9
}

//! Native histograms, which a Prometheus only gets in protobuf, and exemplars, which it stores if that is enabled.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use support::daemon::Daemon;
use support::prometheus::{self, Prometheus, scrape_of};
use support::raw::talk::Role;
use support::raw::{Address, Call, Talk};

use super::OK;
use super::scraped::is;
use crate::case::Case;

/// The number of fast and of slow calls: p95 of 40 is a slow one.
const FAST: u32 = 30;
const SLOW: u32 = 10;
const WAIT: Duration = Duration::from_millis(300);

/// The factor from one bound to the next in schema 3.
const STEP: f64 = 1.090_507_732_665_257_7;

/// The case, ignored without Prometheus.
pub(crate) fn case() -> Result<Case> {
    const NAME: &str = "Prometheus: native histograms and exemplars";
    let case = Case::new(NAME, || answers(NAME));
    Ok(case.only_if(prometheus::is_there()?))
}

fn answers(name: &str) -> Result<()> {
    let daemon = Daemon::start(&["--native-histograms"])?;
    let features = ["native-histograms", "exemplar-storage"];
    let prometheus = Prometheus::start(&scrape_of(&daemon), &[], ("", ""), &features)?;
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
    let own = daemon.scrape()?.sum("grpc_server_handling_seconds_sum", &[("pid", &pid)]);
    let sum = value(&format!("histogram_sum({histogram})"))?;
    ensure!(is(sum, own), "{sum} s in all, not {own}");
    let quantile = value(&format!("histogram_quantile(0.95, {histogram})"))?;
    let bounds = WAIT.as_secs_f64() / STEP..=longest * STEP;
    ensure!(bounds.contains(&quantile), "p95 is {quantile} s, not within {bounds:?}");
    let classic = prometheus.query(&of("grpc_server_handling_seconds_bucket"), None)?;
    ensure!(classic.is_empty(), "it has classic buckets: {classic:?}");

    // A code has the exemplar of its last call, a bucket one of its calls'.
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

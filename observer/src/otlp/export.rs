//! The thread that exports: takes spans out of the queue, and sends them until they are taken or too old.

use std::{
    hash::{BuildHasher as _, RandomState},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use observer_core::{
    ends::Ends,
    process::{ProcessId, Processes},
};
use prost::Message;
use rustc_hash::FxHashMap;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::{
    OtlpConfig, Receiver,
    message::{ExportTraceRequest, ResourceSpans, Scope, ScopeSpans, Span},
    names,
    queue::{DeliveryCounts, Queue, add},
    resource::Resources,
    span::Finished,
    transport::{Answer, Transport},
};

/// Maximum size of a request in bytes, before it is compressed. Receivers written in Go refuse 4 MiB for good.
pub(crate) const REQUEST_AT_MOST: usize = 2 << 20;

/// What the thread knows of calls beyond their spans.
pub(super) struct Exporter {
    pub(super) config: OtlpConfig,
    pub(super) receiver: Receiver,
    pub(super) queue: Queue,
    pub(super) processes: Processes,
    pub(super) ends: Ends,
}

impl Exporter {
    /// Starts the thread, which runs until the process ends.
    pub(super) fn start(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // For name lookups.
            .max_blocking_threads(1)
            .build()
            .context("cannot start the runtime of the export")?;
        thread::Builder::new()
            .name("otlp".into())
            .spawn(move || runtime.block_on(self.run()))
            .context("cannot start the thread that exports")?;
        Ok(())
    }

    async fn run(self) {
        let resources = Resources::new(&self.config.resource);
        let mut delivery = Delivery::new(self.receiver.clone(), "spans");
        loop {
            let batch = self.queue.next(self.config.delay).await;
            for request in self.requests(batch, &resources) {
                let spans = request.resource_spans.iter().flat_map(|of| &of.scope_spans);
                let spans = spans.map(|of| of.spans.len() as u64).sum();
                let counts = self.queue.delivery();
                delivery.deliver(&request, spans, self.config.patience, counts).await;
            }
        }
    }

    /// Whether the client's end of a call is watched: by this daemon, or by another as far as its user says so.
    fn is_client_watched(&self, call: &Finished) -> bool {
        let Some(pair) = call.pair else { return false };
        let by_another = |ip| self.config.watched.iter().any(|network| network.contains(ip));
        self.ends.is_watched(pair) || call.client_address().is_some_and(by_another)
    }

    /// Requests with the spans of all these calls, each below the bound.
    fn requests(&self, calls: Vec<Finished>, resources: &Resources) -> Vec<ExportTraceRequest> {
        let mut of_process: FxHashMap<ProcessId, Vec<Finished>> = FxHashMap::default();
        for call in calls {
            of_process.entry(call.process).or_default().push(call);
        }
        let mut requests = Requests::default();
        for (process, calls) in of_process {
            let resource = resources.of(self.processes.process(process));
            requests.begin(ResourceSpans {
                resource: Some(resource),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope()),
                    spans: Vec::new(),
                    schema_url: names::SCHEMA_URL.into(),
                }],
                schema_url: names::SCHEMA_URL.into(),
            });
            for call in calls {
                let is_joined = self.is_client_watched(&call);
                requests.add(call.span(is_joined, self.config.adds_old));
            }
        }
        requests.finish()
    }
}

/// What made the data.
pub(crate) fn scope() -> Scope {
    Scope { name: "observer".into(), version: env!("CARGO_PKG_VERSION").into() }
}

/// Requests that are being filled.
#[derive(Default)]
struct Requests {
    whole: Vec<ExportTraceRequest>,
    last: ExportTraceRequest,
    bytes: usize,
    /// The resource of the next spans, without spans.
    resource: ResourceSpans,
}

impl Requests {
    /// The next spans have this resource.
    fn begin(&mut self, resource: ResourceSpans) {
        self.bytes += resource.encoded_len();
        self.last.resource_spans.push(resource.clone());
        self.resource = resource;
    }

    fn add(&mut self, span: Span) {
        // A key and a length of two bytes or more for each level.
        let bytes = span.encoded_len() + 16;
        let has_spans = |of: &ResourceSpans| of.scope_spans.iter().any(|of| !of.spans.is_empty());
        let is_empty = !self.last.resource_spans.iter().any(has_spans);
        if self.bytes + bytes > REQUEST_AT_MOST && !is_empty {
            self.whole.push(std::mem::take(&mut self.last));
            self.bytes = self.resource.encoded_len();
            self.last.resource_spans.push(self.resource.clone());
        }
        self.bytes += bytes;
        let scope = self.last.resource_spans.last_mut().and_then(|of| of.scope_spans.last_mut());
        if let Some(scope) = scope {
            scope.spans.push(span);
        }
    }

    fn finish(mut self) -> Vec<ExportTraceRequest> {
        if !self.last.resource_spans.is_empty() {
            self.whole.push(self.last);
        }
        self.whole
    }
}

/// Sends requests one after the other, and remembers how the last ones went.
pub(crate) struct Delivery {
    transport: Transport,
    /// The word for what is sent.
    what: &'static str,
    backoff: Backoff,
    /// The receiver asked for a pause until then.
    not_before: Instant,
    /// Whether the last request was not accepted: only the first failure of a row is logged.
    fails: bool,
}

impl Delivery {
    pub(crate) fn new(receiver: Receiver, what: &'static str) -> Self {
        let (transport, backoff) = (Transport::new(receiver), Backoff::default());
        Self { transport, what, backoff, not_before: Instant::now(), fails: false }
    }

    /// Sends a request with this number of items until it is accepted or refused for good, at most for `patience`. Counts
    /// the items.
    pub(crate) async fn deliver(
        &mut self,
        request: &impl Message,
        items: u64,
        patience: Duration,
        counts: &DeliveryCounts,
    ) {
        let body = self.transport.body(request);
        let deadline = Instant::now() + patience;
        loop {
            sleep_until(self.not_before).await;
            let answer = self.transport.send(body.clone()).await;
            let is_accepted = matches!(answer, Answer::Accepted { .. });
            add(if is_accepted { &counts.answered } else { &counts.failed }, 1);
            match answer {
                Answer::Accepted { rejected, message } => {
                    self.succeeded();
                    let rejected = rejected.min(items);
                    add(&counts.exported, items - rejected);
                    add(&counts.rejected, rejected);
                    if rejected > 0 || !message.is_empty() {
                        self.warn(&format!("{rejected} of {items} are rejected: {message}"));
                    }
                    return;
                }
                Answer::Refused { reason } => {
                    add(&counts.refused, items);
                    return self.failed(&reason);
                }
                Answer::Later { after, reason } => {
                    self.failed(&reason);
                    let pause = after.unwrap_or_else(|| self.backoff.next());
                    if after.is_some() {
                        // It holds for the next request, too.
                        self.not_before = Instant::now() + pause;
                    }
                    if Instant::now() + pause >= deadline {
                        return add(&counts.gave_up, items);
                    }
                    sleep(pause).await;
                }
            }
        }
    }

    fn succeeded(&mut self) {
        self.backoff = Backoff::default();
        if std::mem::take(&mut self.fails) {
            info!("{} takes {} again", self.transport.url(), self.what);
        }
    }

    fn failed(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.fails, true) {
            self.warn(&format!("{reason}. If this lasts, some are dropped, and counted"));
        }
    }

    fn warn(&self, reason: &str) {
        warn!("cannot export {} to {}: {reason}", self.what, self.transport.url());
    }
}

/// Pauses that double, up to half a minute, each with jitter of a half.
#[derive(Default)]
struct Backoff {
    failures: u32,
    random: RandomState,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const AT_MOST: Duration = Duration::from_secs(30);

    fn next(&mut self) -> Duration {
        let whole = Self::FIRST * 2_u32.pow(self.failures.min(10));
        let whole = whole.min(Self::AT_MOST);
        // The hasher's keys are random.
        let part = self.random.hash_one(self.failures) as u32;
        self.failures = self.failures.saturating_add(1);
        whole / 2 + whole.mul_f64(f64::from(part) / f64::from(u32::MAX)) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.next()).collect();
        for (pause, whole) in pauses.iter().zip([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]) {
            let whole = Duration::from_secs_f64(whole);
            assert!((whole / 2..=whole).contains(pause), "{pauses:?}");
        }
        assert!(pauses.iter().all(|pause| *pause <= Backoff::AT_MOST));
    }

    #[test]
    fn a_request_is_cut_at_the_bound_and_keeps_its_resource() {
        let resource = |url: &str| ResourceSpans {
            scope_spans: vec![ScopeSpans::default()],
            schema_url: url.into(),
            ..ResourceSpans::default()
        };
        let span = |name: &str| Span { name: name.into(), ..Span::default() };
        let mut requests = Requests::default();
        let long = "x".repeat(700 << 10);
        requests.begin(resource("one"));
        for name in ["a", &long, &long, &long, "b"] {
            requests.add(span(name));
        }
        requests.begin(resource("two"));
        requests.add(span("c"));
        let requests = requests.finish();
        let mut told = Vec::new();
        for request in &requests {
            assert!(request.encoded_len() <= REQUEST_AT_MOST, "{}", request.encoded_len());
            let of = |of: &ResourceSpans| (of.schema_url.clone(), of.scope_spans[0].spans.len());
            told.push(request.resource_spans.iter().map(of).collect::<Vec<_>>());
        }
        let [one, two] = ["one", "two"].map(str::to_owned);
        assert_eq!(told, [vec![(one.clone(), 3)], vec![(one, 2), (two, 1)]]);
        assert!(Requests::default().finish().is_empty());
    }
}

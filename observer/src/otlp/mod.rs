//! The export by OTLP, OpenTelemetry's protocol: a span for each end of each call that has ended.
//!
//! [`Spans`] is an output of the pipeline, in the threads of the workers. It decides which calls get a span, and puts
//! these into a bounded queue. A thread of its own ([`export`]) takes them out, adds what is known of their processes, and
//! sends them. No worker ever waits for it.

#![forbid(unsafe_code)]

mod config;
mod export;
mod ids;
pub(crate) mod message;
pub(crate) mod names;
mod queue;
mod resource;
mod sampler;
mod span;
mod tls;
mod trace_state;
mod transport;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use anyhow::Result;
use observer_core::{
    call::{CallKey, CallProtocol, Code, Context, Coverage, Ended},
    ends::{Call, Ends},
    names::PathId,
    output::{Names, Output},
    process::Processes,
    record::Peer,
};
use percent_encoding::percent_decode;
use tracing::info;

pub use self::{
    config::{MetricsConfig, OtlpConfig, OtlpFlags, Protocol, Receiver},
    queue::{DeliveryFigures, OtlpFigures},
    sampler::{Root, Sampler},
};
use self::{
    export::Exporter,
    ids::{CallName, Ids},
    queue::{Queue, add},
    span::{Finished, MessageCounts},
};
pub(crate) use self::{
    export::{Delivery, REQUEST_AT_MOST, scope},
    queue::DeliveryCounts,
    resource::Resources,
};
use crate::clock::Clock;

/// Maximum number of `grpc-message` texts that are kept until their calls end: those of one record, and those in HPACK
/// tables.
const MAX_TEXTS: usize = 4096;

/// The start of the paths of OTLP itself. A span for each export would make another export necessary.
const EXPORTS: &str = "/opentelemetry.proto.collector.";

/// Puts calls that have ended into the queue of spans.
#[derive(Debug)]
pub struct Spans {
    sampler: Sampler,
    queue: Queue,
    /// The difference of the clocks, as of the last tick: the same for the start and the end of a call.
    clock: Clock,
    /// A random number, for the ids of calls that only this daemon knows.
    daemon: u64,
}

impl Spans {
    /// Creates the output, if spans are exported. They wait in its queue until [`start`](Self::start).
    pub fn new(config: &OtlpConfig) -> Option<Self> {
        config.traces.as_ref().map(|_| Self {
            sampler: config.sampler,
            queue: Queue::new(config.max_batch, config.max_queue),
            clock: Clock::read(),
            daemon: RandomState::new().hash_one(config.max_batch),
        })
    }

    /// Starts the thread that exports. `processes` and `ends` are those of the pipelines.
    pub fn start(&self, config: OtlpConfig, processes: Processes, ends: Ends) -> Result<()> {
        let Some(receiver) = config.traces.clone() else { return Ok(()) };
        info!("exporting spans to {}", receiver.url);
        let queue = self.queue.clone();
        Exporter { config, receiver, queue, processes, ends }.start()
    }

    /// The means to have everything exported at once.
    pub fn flush(&self) -> Flush {
        Flush(self.queue.clone())
    }

    /// The figures of all workers' spans.
    pub(crate) fn figures(&self) -> OtlpFigures {
        self.queue.figures()
    }

    /// The span of a call; `None` if it gets none, which is counted.
    fn finished(&self, call: &Call, key: Option<CallKey>, names: &Names<'_>) -> Option<Finished> {
        let &Call { connection, pair, peer, time_ns, ended, .. } = call;
        let text = key.and_then(|key| names.interner.resolve(key.path).cloned());
        if text.as_ref().is_some_and(|text| text.starts_with(EXPORTS)) {
            return None;
        }
        let context = match ended.context {
            Context::Of(context) => Some(context),
            Context::Absent => None,
            Context::NotSeen => return self.not_seen(),
        };
        // A call without an answer is over at once.
        let oneway_ns = (ended.code == Some(Code::Oneway)).then_some(0);
        let (Some(key), Some(elapsed_ns)) = (key, ended.elapsed_ns.or(oneway_ns)) else {
            return self.not_seen();
        };
        // The sockets of a Unix pair have no numbers of their own: later pairs get the same.
        let pair = Some(pair).filter(|pair| *pair != 0 && matches!(peer, Some(Peer::Address(_))));
        // A Thrift call is named by its position, which a connection that joined late does not have.
        let has_stream =
            key.protocol.family() == CallProtocol::Grpc || ended.coverage != Coverage::JoinedLate;
        let pair = pair.filter(|_| has_stream);
        let stream = ended.stream;
        let ids = || {
            Ids::of(match pair {
                Some(pair) => CallName::Shared { pair, stream },
                None => CallName::Own { daemon: self.daemon, connection, stream },
            })
        };
        let trace = || context.map_or_else(|| ids().trace, |context| context.trace);
        if !self.sampler.takes(context.map(|context| context.is_sampled), trace) {
            add(&self.queue.counts().not_sampled, 1);
            return None;
        }
        // Without `traceparent`, it says nothing (Trace Context §3.3).
        let trace_state = context.and(ended.trace_state);
        let trace_state = trace_state.and_then(|id| names.interner.states.get(id));
        let trace_state = trace_state.and_then(trace_state::valid);
        let Ended { request_messages, response_messages, request_bytes, response_bytes, .. } =
            ended;
        let message = ended.message.and_then(|message| names.interner.texts.get(message));
        let message = message.map(|text| percent_decode(text).decode_utf8_lossy());
        Some(Finished {
            protocol: key.protocol,
            process: key.process,
            role: key.role,
            path: if text.is_some() { key.path } else { without_text(key.path) },
            text: text.unwrap_or_else(|| Arc::from("")),
            ids: ids(),
            pair,
            context: context.map(|context| (context.trace, context.parent)),
            trace_state: trace_state.unwrap_or_default().into(),
            start_unix_ns: self.clock.unix_ns(time_ns.saturating_sub(elapsed_ns)),
            end_unix_ns: self.clock.unix_ns(time_ns),
            code: ended.code,
            message: message.unwrap_or_default().into(),
            peer,
            authority: ended.authority.and_then(|id| names.interner.resolve(id).cloned()),
            coverage: ended.coverage,
            counts: MessageCounts {
                requests: request_messages,
                responses: response_messages,
                request_bytes,
                response_bytes,
            },
        })
    }

    fn not_seen<T>(&self) -> Option<T> {
        add(&self.queue.counts().not_seen, 1);
        None
    }
}

/// A path whose text is gone was not seen.
fn without_text(path: PathId) -> PathId {
    if path == PathId::OTHER { path } else { PathId::NOT_SEEN }
}

impl Output for Spans {
    fn sharing(&self) -> Self {
        let Self { sampler, ref queue, clock, daemon } = *self;
        Self { sampler, queue: queue.clone(), clock, daemon }
    }

    fn max_texts(&self) -> usize {
        MAX_TEXTS
    }

    fn needs_parents(&self) -> bool {
        true
    }

    fn needs_authorities(&self) -> bool {
        true
    }

    fn call(&mut self, call: &mut Call, key: Option<CallKey>, names: &Names<'_>) {
        if let Some(span) = self.finished(call, key, names) {
            let exported = span.exported();
            call.span = self.queue.push(span).then_some(exported);
        }
    }

    fn tick(&mut self, _: u64) {
        self.clock = Clock::read();
    }
}

/// Ends the waiting of spans.
#[derive(Clone, Debug)]
pub struct Flush(Queue);

impl Flush {
    /// Has everything that waits, and what still comes, exported at once: the daemon ends.
    pub fn flush(&self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests;

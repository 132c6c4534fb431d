//! The spans that wait to be exported: bounded in bytes. A new span that finds no room is dropped and counted.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::span::Finished;
use crate::sync::lock;

/// Memory in bytes that the waiting spans may take: about 50,000 of them.
const MAX_BYTES: usize = 16 << 20;

/// How long spans wait for others while the daemon ends.
const AT_THE_END: Duration = Duration::from_millis(50);

/// What became of the calls that ended, before their spans are sent.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) not_sampled: AtomicU64,
    pub(super) not_seen: AtomicU64,
    pub(super) queue_full: AtomicU64,
}

/// What became of the items that were sent, and of the requests.
#[derive(Debug, Default)]
pub(crate) struct DeliveryCounts {
    pub(super) exported: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) gave_up: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Figures of items that are sent, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFigures {
    /// Items that the receiver accepted.
    pub exported: u64,
    /// Items in requests that the receiver refused for good.
    pub refused: u64,
    /// Items that the receiver left out of a request that it accepted.
    pub rejected: u64,
    /// Items in requests that were not answered in time, however often they were sent.
    pub gave_up: u64,
    /// Requests that the receiver accepted.
    pub answered: u64,
    /// Requests that it did not accept or answer.
    pub failed: u64,
}

impl DeliveryCounts {
    pub(crate) fn figures(&self) -> DeliveryFigures {
        DeliveryFigures {
            exported: of(&self.exported),
            refused: of(&self.refused),
            rejected: of(&self.rejected),
            gave_up: of(&self.gave_up),
            answered: of(&self.answered),
            failed: of(&self.failed),
        }
    }
}

/// Figures of the export of spans, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtlpFigures {
    /// Calls without a span, because the sampler did not take their trace.
    pub not_sampled: u64,
    /// Calls without a span, because their start, their end or their trace was not seen.
    pub not_seen: u64,
    /// Spans that found the queue full.
    pub queue_full: u64,
    /// The spans that were sent.
    pub sent: DeliveryFigures,
}

/// The waiting spans, shared by the workers and the thread that exports.
#[derive(Clone, Debug)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Wakes the thread that exports.
    wake: Notify,
    /// Number of spans that wake it.
    batch: usize,
    max_spans: usize,
    counts: Counts,
    delivery: DeliveryCounts,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: VecDeque<Finished>,
    bytes: usize,
    /// The daemon ends: spans hardly wait for others any more.
    is_ending: bool,
}

impl Queue {
    /// Creates a queue of at most `max_spans`, whose batches have at most `batch` spans.
    pub(super) fn new(batch: usize, max_spans: usize) -> Self {
        Self(Arc::new(Shared {
            waiting: Mutex::default(),
            wake: Notify::new(),
            batch,
            max_spans,
            counts: Counts::default(),
            delivery: DeliveryCounts::default(),
        }))
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.0.counts
    }

    pub(super) fn delivery(&self) -> &DeliveryCounts {
        &self.0.delivery
    }

    pub(super) fn figures(&self) -> OtlpFigures {
        let Shared { counts: Counts { not_sampled, not_seen, queue_full }, delivery, .. } =
            &*self.0;
        OtlpFigures {
            not_sampled: of(not_sampled),
            not_seen: of(not_seen),
            queue_full: of(queue_full),
            sent: delivery.figures(),
        }
    }

    /// Adds a span, or counts it as dropped and returns false. Never waits for the receiver.
    pub(super) fn push(&self, span: Finished) -> bool {
        let Shared { waiting, wake, batch, max_spans, counts, .. } = &*self.0;
        let bytes = span.memory();
        let mut waiting = lock(waiting);
        if waiting.bytes + bytes > MAX_BYTES || waiting.spans.len() >= *max_spans {
            drop(waiting);
            add(&counts.queue_full, 1);
            return false;
        }
        waiting.bytes += bytes;
        waiting.spans.push_back(span);
        let is_whole = waiting.spans.len() == *batch;
        drop(waiting);
        if is_whole {
            wake.notify_one();
        }
        true
    }

    /// Has everything that waits, and will come, exported at once.
    pub(super) fn end(&self) {
        lock(&self.0.waiting).is_ending = true;
        self.0.wake.notify_one();
    }

    /// Waits for a batch: a whole one, or what there is after `delay`.
    pub(super) async fn next(&self, delay: Duration) -> Vec<Finished> {
        let Shared { waiting, wake, batch, .. } = &*self.0;
        let state = || {
            let waiting = lock(waiting);
            (waiting.spans.len() >= *batch, waiting.is_ending)
        };
        let delay = match state() {
            (true, _) => Duration::ZERO,
            (false, true) => delay.min(AT_THE_END),
            (false, false) => delay,
        };
        if !delay.is_zero() {
            // Without a notification in time there is what there is.
            let _ = timeout(delay, wake.notified()).await;
        }
        let mut waiting = lock(waiting);
        let count = waiting.spans.len().min(*batch);
        let taken: Vec<Finished> = waiting.spans.drain(..count).collect();
        waiting.bytes -= taken.iter().map(Finished::memory).sum::<usize>();
        if waiting.spans.is_empty() {
            // A burst must not keep its memory.
            waiting.spans = VecDeque::new();
        }
        taken
    }
}

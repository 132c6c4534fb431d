//! Live samples for viewers: one a second, shared by all of them.
//!
//! Sampling starts with the first request and ends some seconds after the last viewer has gone. In between, each viewer
//! costs only the writing to its socket.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use super::Pages;
use super::render::OneSnapshot;
use crate::metrics::view::{Model, Sampler};
use crate::sync::lock;

/// The start of an event. A viewer that has lost the connection should retry soon.
const EVENT: &[u8] = b"retry: 1000\ndata: ";

/// A sample.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) model: Model,
    /// The model in JSON.
    pub(super) json: Bytes,
    /// The model as a server-sent event.
    pub(super) event: Bytes,
    /// The model as HTML, once it was requested.
    pub(super) page: OnceLock<Bytes>,
}

/// A sample, or the reason why there is none.
pub(super) type Sampled = Result<Arc<Frame>, String>;

/// The state of sampling, for watchers.
#[derive(Clone, Debug)]
pub(super) enum Tick {
    /// There was no request yet, or not for a while.
    Idle,
    Sampled(Sampled),
    /// The server ends.
    Over,
}

/// Takes samples while there are viewers.
#[derive(Clone)]
pub(super) struct Live {
    pages: Arc<dyn Pages>,
    one: OneSnapshot,
    instance: u32,
    period: Duration,
    linger: Duration,
    ticks: watch::Sender<Tick>,
    sampling: Arc<Mutex<Sampling>>,
}

/// The state while there are viewers.
#[derive(Default)]
struct Sampling {
    /// `None` while there are no viewers.
    sampler: Option<Sampler>,
    asked: Option<Instant>,
}

impl Live {
    /// Creates a sampler that takes a sample every `period`, until `linger` after the last request.
    pub(super) fn new(
        pages: Arc<dyn Pages>,
        one: OneSnapshot,
        period: Duration,
        linger: Duration,
    ) -> Self {
        let ticks = watch::Sender::new(Tick::Idle);
        // The keys of the hasher are random.
        let instance = RandomState::new().hash_one(()) as u32;
        Self { pages, one, instance, period, linger, ticks, sampling: Arc::default() }
    }

    /// The ticks from now on, starting with the latest sample.
    pub(super) async fn watch(&self) -> watch::Receiver<Tick> {
        let ticks = self.ticks.subscribe();
        self.ask().await;
        ticks
    }

    /// The latest sample, at most a period old. Waits for one with this number at least: the first one has no rates.
    pub(super) async fn latest(&self, at_least: u64) -> Sampled {
        let mut ticks = self.watch().await;
        let enough = |tick: &Tick| match tick {
            Tick::Idle => false,
            Tick::Sampled(Ok(frame)) => frame.model.sample >= at_least,
            Tick::Sampled(Err(_)) | Tick::Over => true,
        };
        match ticks.wait_for(enough).await.as_deref() {
            Ok(Tick::Sampled(sampled)) => sampled.clone(),
            Ok(Tick::Idle | Tick::Over) | Err(_) => Err("the daemon is stopping".into()),
        }
    }

    /// Ends all watchers.
    pub(super) fn end(&self) {
        self.ticks.send_replace(Tick::Over);
    }

    /// Starts sampling, or keeps it going.
    async fn ask(&self) {
        let mut sampling = self.sampling.lock().await;
        sampling.asked = Some(Instant::now());
        if sampling.sampler.is_none() {
            sampling.sampler = Some(Sampler::new(self.instance));
            tokio::spawn(self.clone().run());
        }
    }

    async fn run(self) {
        let begun = Instant::now();
        let mut seconds = interval(self.period);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            seconds.tick().await;
            let mut sampling = Arc::clone(&self.sampling).lock_owned().await;
            let asked = sampling.asked.map_or(Duration::MAX, |asked| asked.elapsed());
            let over = matches!(*self.ticks.borrow(), Tick::Over);
            if over || self.ticks.receiver_count() == 0 && asked > self.linger {
                *sampling = Sampling::default();
                self.tick(Tick::Idle);
                return;
            }
            let sampled = self.sample(sampling, begun.elapsed()).await;
            if let Err(reason) = &sampled {
                error!(reason, "cannot take a snapshot for the viewers");
            }
            self.tick(Tick::Sampled(sampled));
        }
    }

    /// Publishes a tick, unless the server has ended.
    fn tick(&self, tick: Tick) {
        self.ticks.send_if_modified(|latest| {
            let goes_on = !matches!(latest, Tick::Over);
            if goes_on {
                *latest = tick;
            }
            goes_on
        });
    }

    async fn sample(&self, mut sampling: OwnedMutexGuard<Sampling>, now: Duration) -> Sampled {
        let (pages, one) = (Arc::clone(&self.pages), Arc::clone(&self.one));
        let made = tokio::task::spawn_blocking(move || {
            let only = lock(&one);
            let snapshot = pages.snapshot()?;
            let sampler = sampling.sampler.as_mut().ok_or("there is no viewer")?;
            let model = sampler.sample(&snapshot, now);
            drop((snapshot, only));
            // JSON has no line feeds, which would end an event's data.
            let mut event = EVENT.to_vec();
            serde_json::to_writer(&mut event, &model).map_err(|error| error.to_string())?;
            event.extend(b"\n\n");
            let event = Bytes::from(event);
            let json = event.slice(EVENT.len()..event.len() - 2);
            Ok(Arc::new(Frame { model, json, event, page: OnceLock::new() }))
        });
        made.await.unwrap_or_else(|error| Err(format!("sampling failed: {error}")))
    }
}

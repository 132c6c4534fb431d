//! What people look at, while they look: one sample a second, shared by all who want one.
//!
//! Sampling begins when somebody asks and ends some seconds after the last one has gone; in
//! between, nobody who looks costs the daemon more than writing to a socket.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use super::Pages;
use super::render::OneSnapshot;
use crate::metrics::view::{Model, Sampler};

/// How an event begins. Who has lost the connection is to come back soon.
const EVENT: &[u8] = b"retry: 1000\ndata: ";

/// A sample.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) model: Model,
    /// The model in JSON.
    pub(super) json: Bytes,
    /// It as a server-sent event.
    pub(super) event: Bytes,
    /// It as HTML, once somebody has asked for it.
    pub(super) page: std::sync::Mutex<Option<Bytes>>,
}

/// A sample, or why there is none.
pub(super) type Sampled = Result<Arc<Frame>, String>;

/// What watchers see.
#[derive(Clone, Debug)]
pub(super) enum Tick {
    /// Nobody has asked yet, or not for long.
    Idle,
    Sampled(Sampled),
    /// The server is about to end.
    Over,
}

/// See the module.
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

/// What is only there while somebody looks.
#[derive(Default)]
struct Sampling {
    /// None when nobody has looked for long.
    sampler: Option<Sampler>,
    asked: Option<Instant>,
}

impl Live {
    /// Samples every `period`, until `linger` after the last request.
    pub(super) fn new(
        pages: Arc<dyn Pages>,
        one: OneSnapshot,
        period: Duration,
        linger: Duration,
    ) -> Self {
        let ticks = watch::Sender::new(Tick::Idle);
        // Its keys are random.
        let instance = RandomState::new().hash_one(()) as u32;
        Self { pages, one, instance, period, linger, ticks, sampling: Arc::default() }
    }

    /// The ticks from now on, the latest sample first.
    pub(super) async fn watch(&self) -> watch::Receiver<Tick> {
        let ticks = self.ticks.subscribe();
        self.ask().await;
        ticks
    }

    /// The latest sample, at most a period old; of one that has just begun, `recent` tells nothing.
    pub(super) async fn latest(&self) -> Sampled {
        self.sample_with(1).await
    }

    /// The latest sample that tells of some time: waits for one.
    pub(super) async fn latest_with_rates(&self) -> Sampled {
        self.sample_with(2).await
    }

    async fn sample_with(&self, at_least: u64) -> Sampled {
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

    /// Ends all that watch.
    pub(super) fn end(&self) {
        self.ticks.send_replace(Tick::Over);
    }

    /// Sampling begins, or goes on.
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

    /// Nothing follows the end.
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
            let only = one.lock().unwrap_or_else(PoisonError::into_inner);
            let snapshot = pages.snapshot()?;
            let sampler = sampling.sampler.as_mut().ok_or("there is no viewer")?;
            let model = sampler.sample(&snapshot, now);
            drop((snapshot, only));
            // JSON has no line feeds in it, with which an event's data would end.
            let mut event = EVENT.to_vec();
            serde_json::to_writer(&mut event, &model).map_err(|error| error.to_string())?;
            event.extend(b"\n\n");
            let event = Bytes::from(event);
            let json = event.slice(EVENT.len()..event.len() - 2);
            Ok(Arc::new(Frame { model, json, event, page: std::sync::Mutex::default() }))
        });
        made.await.unwrap_or_else(|error| Err(format!("sampling failed: {error}")))
    }
}

//! The samples as server-sent events (HTML, §9.2), for a bounded number of viewers.
//!
//! A viewer gets the latest sample once it has taken the one before. So a slow viewer misses some, and is dropped if it
//! takes too long for one ([`super::stream`]). No samples are queued.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};

use super::live::{Live, Tick};

/// The viewers that get events.
pub(super) struct Watchers {
    live: Live,
    places: Arc<Semaphore>,
}

impl Watchers {
    pub(super) fn new(live: Live, at_most: usize) -> Self {
        Self { live, places: Arc::new(Semaphore::new(at_most)) }
    }

    /// Events for one more viewer; `None` if there are too many.
    pub(super) async fn admit(&self) -> Option<Events> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let ticks = WatchStream::new(self.live.watch().await);
        let goes_on = |tick: &Tick| !matches!(tick, Tick::Over);
        let events = ticks.take_while(goes_on).filter_map(move |tick| {
            // The stream owns the viewer's place.
            let _place = &place;
            Some(Ok(Frame::data(event(&tick)?)))
        });
        Some(StreamBody::new(Box::pin(events)))
    }
}

/// The body of a response with events.
pub(super) type Events =
    StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

fn event(tick: &Tick) -> Option<Bytes> {
    match tick {
        Tick::Idle | Tick::Over => None,
        Tick::Sampled(Ok(frame)) => Some(frame.event.clone()),
        Tick::Sampled(Err(reason)) => {
            let reason = reason.replace(['\r', '\n'], " ");
            Some(format!("event: trouble\ndata: {reason}\n\n").into())
        }
    }
}

//! The samples as server-sent events (HTML, §9.2), for as many as there are places.
//!
//! Each gets the latest sample when it has taken the one before: one that is slow misses some, and
//! is dropped when it takes too long for one ([`super::stream`]). Nothing is kept for anybody.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};

use super::live::{Live, Tick};

/// Who watches at the same time.
pub(super) struct Watchers {
    live: Live,
    places: Arc<Semaphore>,
}

impl Watchers {
    pub(super) fn new(live: Live, at_most: usize) -> Self {
        Self { live, places: Arc::new(Semaphore::new(at_most)) }
    }

    /// Events for one more, if there is a place.
    pub(super) async fn admit(&self) -> Option<Events> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let ticks = WatchStream::new(self.live.watch().await);
        let goes_on = |tick: &Tick| !matches!(tick, Tick::Over);
        let events = ticks.take_while(goes_on).filter_map(|tick| event(&tick));
        Some(Events { events: Box::pin(events), _place: place })
    }
}

/// The body of a response.
pub(super) struct Events {
    events: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    _place: OwnedSemaphorePermit,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.events.as_mut().poll_next(context).map(|event| Some(Ok(Frame::data(event?))))
    }
}

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

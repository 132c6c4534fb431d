//! One rendering of the metrics at a time, shared by all who wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Mutex;

use super::Pages;

/// What a rendering gave: the text, or why there is none.
pub(super) type Rendered = Result<Bytes, String>;

/// Gives each caller a text that was begun after its call, so that what it has seen happen is in
/// it. Callers that arrive during one rendering wait for it and then share the next.
pub(super) struct Renderer {
    pages: Arc<dyn Pages>,
    /// Calls so far; each takes the number it finds.
    calls: Arc<AtomicU64>,
    latest: Arc<Mutex<Latest>>,
}

struct Latest {
    /// Begun after all calls with a lower number.
    covers: u64,
    rendered: Rendered,
}

impl Renderer {
    pub(super) fn new(pages: Arc<dyn Pages>) -> Self {
        let latest = Latest { covers: 0, rendered: Ok(Bytes::new()) };
        Self { pages, calls: Arc::default(), latest: Arc::new(Mutex::new(latest)) }
    }

    pub(super) async fn render(&self) -> Rendered {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut latest = Arc::clone(&self.latest).lock_owned().await;
        if latest.covers > call {
            return latest.rendered.clone();
        }
        let (pages, calls) = (Arc::clone(&self.pages), Arc::clone(&self.calls));
        // The lock goes along: when the caller is gone, the rendering it began is still the only
        // one.
        let rendering = tokio::task::spawn_blocking(move || {
            let covers = calls.load(Ordering::SeqCst);
            let rendered = pages.metrics().map(Bytes::from);
            *latest = Latest { covers, rendered: rendered.clone() };
            rendered
        });
        rendering.await.unwrap_or_else(|error| Err(format!("rendering failed: {error}")))
    }
}

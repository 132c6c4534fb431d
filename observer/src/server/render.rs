//! One rendering of the metrics at a time, shared by all who wait for it in the same format.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{Mutex, OnceCell};

use super::held::{Held, Ledger};
use super::{Pages, encoding};
use crate::metrics::Format;

/// What a rendering gave: the metrics, or why there are none.
pub(super) type Rendered = Result<Arc<Rendering>, String>;

/// Metrics as of one moment.
pub(super) struct Rendering {
    text: Arc<Held>,
    /// Packed for the first who asks, and kept for the others.
    gzip: OnceCell<Arc<Held>>,
    ledger: Arc<Ledger>,
}

impl Rendering {
    fn new(text: impl Into<Bytes>, ledger: &Arc<Ledger>) -> Arc<Self> {
        let ledger = Arc::clone(ledger);
        Arc::new(Self { text: ledger.hold(text.into()), gzip: OnceCell::new(), ledger })
    }

    /// As it is.
    pub(super) fn text(&self) -> &Arc<Held> {
        &self.text
    }

    /// Packed, on a thread where it holds up nobody.
    pub(super) async fn gzip(&self) -> io::Result<&Arc<Held>> {
        let pack = || async {
            let (text, ledger) = (self.text.whole()?, Arc::clone(&self.ledger));
            let packed = tokio::task::spawn_blocking(move || encoding::gzip(&text)).await??;
            Ok(ledger.hold(packed))
        };
        self.gzip.get_or_try_init(pack).await
    }
}

/// Gives each caller a text that was begun after its call, so that what it has seen happen is in
/// it. Callers that arrive during one rendering wait for it and then share the next of their format.
pub(super) struct Renderer {
    pages: Arc<dyn Pages>,
    /// Calls so far; each takes the number it finds.
    calls: Arc<AtomicU64>,
    latest: Arc<Mutex<HashMap<Format, Latest>>>,
    ledger: Arc<Ledger>,
}

struct Latest {
    /// Begun after all calls with a lower number.
    covers: u64,
    rendered: Rendered,
}

impl Renderer {
    /// Whose renderings that are still being read take so many bytes, or one of them does.
    pub(super) fn new(pages: Arc<dyn Pages>, at_most: usize) -> Self {
        let ledger = Arc::new(Ledger::new(at_most));
        Self { pages, calls: Arc::default(), latest: Arc::default(), ledger }
    }

    pub(super) async fn render(&self, format: Format) -> Rendered {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut latest = Arc::clone(&self.latest).lock_owned().await;
        if let Some(latest) = latest.get(&format).filter(|latest| latest.covers > call) {
            return latest.rendered.clone();
        }
        let (pages, calls) = (Arc::clone(&self.pages), Arc::clone(&self.calls));
        let ledger = Arc::clone(&self.ledger);
        // The lock goes along: when the caller is gone, the rendering it began is still the only
        // one.
        let rendering = tokio::task::spawn_blocking(move || {
            let covers = calls.load(Ordering::SeqCst);
            let rendered = pages.metrics(format).map(|text| Rendering::new(text, &ledger));
            latest.insert(format, Latest { covers, rendered: rendered.clone() });
            rendered
        });
        rendering.await.unwrap_or_else(|error| Err(format!("rendering failed: {error}")))
    }
}

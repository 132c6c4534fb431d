//! Renders the metrics, once at a time, for all clients that wait for the same format.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::held::{Held, Ledger};
use super::socket::Asker;
use super::{Limits, Pages};
use crate::metrics::Format;
use crate::sync::lock;

/// On average, rendering takes at most 1/`PART` of one CPU's time.
const PART: u32 = 10;

/// The rendered metrics, or the reason why there are none.
pub(super) type Rendered = Result<Arc<Held>, String>;

/// A lock that is held while there is a snapshot: it may take as much memory as the statistics, so there is one at a time.
pub(super) type OneSnapshot = Arc<std::sync::Mutex<()>>;

/// Renders for each caller a text that was started after its call, so that it contains everything that happened before.
/// Callers that arrive during a rendering wait for it, and then share the next one of their format.
///
/// This holds while all renderings together cost less than a tenth of one CPU, with some credit. Beyond that, a caller
/// gets a text that is at most a second old.
pub(super) struct Renderer {
    pages: Arc<dyn Pages>,
    one: OneSnapshot,
    shared: Duration,
    /// The number of calls. Each call takes the number that it finds.
    calls: Arc<AtomicU64>,
    state: Arc<Mutex<State>>,
    ledger: Arc<Ledger>,
}

struct State {
    latest: HashMap<Format, Latest>,
    budget: Budget,
}

struct Latest {
    /// The rendering started after all calls with a lower number.
    covers: u64,
    /// When the rendering started.
    begun: Instant,
    rendered: Rendered,
}

/// The CPU time that rendering may take.
struct Budget {
    at_most: Duration,
    /// The time that may be spent, as of `at`.
    credit: Duration,
    debt: Duration,
    at: Instant,
}

impl Budget {
    fn new(at_most: Duration) -> Self {
        Self { at_most, credit: at_most, debt: Duration::ZERO, at: Instant::now() }
    }

    fn is_spent(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at) / PART;
        self.at = now;
        self.credit = (self.credit + earned.saturating_sub(self.debt)).min(self.at_most);
        self.debt = self.debt.saturating_sub(earned);
        self.credit.is_zero()
    }

    fn spend(&mut self, cost: Duration) {
        self.debt += cost.saturating_sub(self.credit);
        self.credit = self.credit.saturating_sub(cost);
    }
}

impl Renderer {
    pub(super) fn new(pages: Arc<dyn Pages>, one: OneSnapshot, limits: &Limits) -> Self {
        let budget = Budget::new(limits.credit);
        Self {
            pages,
            one,
            shared: limits.shared,
            calls: Arc::default(),
            state: Arc::new(Mutex::new(State { latest: HashMap::new(), budget })),
            ledger: Arc::new(Ledger::new(limits.held)),
        }
    }

    pub(super) async fn render(&self, format: Format, asker: &Asker) -> Rendered {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut state = Arc::clone(&self.state).lock_owned().await;
        // The client may have gone while others were served.
        if asker.is_gone() {
            return Err("the scraper has closed the connection".into());
        }
        let shares = state.budget.is_spent(Instant::now());
        let does = |latest: &&Latest| {
            latest.covers > call || shares && latest.begun.elapsed() < self.shared
        };
        if let Some(latest) = state.latest.get(&format).filter(does) {
            return latest.rendered.clone();
        }
        let (pages, calls) = (Arc::clone(&self.pages), Arc::clone(&self.calls));
        let (ledger, one) = (Arc::clone(&self.ledger), Arc::clone(&self.one));
        // The thread takes the lock along: even if the caller is gone, its rendering is the only one.
        let rendering = tokio::task::spawn_blocking(move || {
            let _only = lock(&one);
            let (begun, covers) = (Instant::now(), calls.load(Ordering::SeqCst));
            let rendered = rendered(&*pages, format, &ledger);
            state.budget.spend(begun.elapsed());
            state.latest.insert(format, Latest { covers, begun, rendered: rendered.clone() });
            rendered
        });
        let rendered = rendering.await;
        self.forget_later();
        rendered.unwrap_or_else(|error| Err(format!("rendering failed: {error}")))
    }

    /// Drops texts once they are too old to be shared.
    fn forget_later(&self) {
        let (state, shared) = (Arc::clone(&self.state), self.shared);
        tokio::spawn(async move {
            tokio::time::sleep(shared).await;
            state.lock().await.latest.retain(|_, latest| latest.begun.elapsed() < shared);
        });
    }
}

fn rendered(pages: &dyn Pages, format: Format, ledger: &Ledger) -> Rendered {
    let mut text = ledger.begin();
    pages.metrics(format, &mut text)?;
    ledger.hold(text).map_err(|error| format!("compression failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_comes_back_slowly() {
        let mut budget = Budget::new(Duration::from_secs(1));
        let begun = budget.at;
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert!(!budget.is_spent(begun));
        budget.spend(Duration::from_millis(900));
        assert!(!budget.is_spent(begun));
        budget.spend(Duration::from_millis(1100));
        assert!(budget.is_spent(begun) && budget.is_spent(after(9)));
        assert!(!budget.is_spent(after(11)));
        // It is not saved up without end.
        assert!(!budget.is_spent(after(1_000)));
        budget.spend(Duration::from_secs(1));
        assert!(budget.is_spent(after(1_000)));
    }
}

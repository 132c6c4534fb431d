//! One rendering of the metrics at a time, shared by all who wait for it in the same format.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::held::{Held, Ledger};
use super::socket::Asker;
use super::{Limits, Pages};
use crate::metrics::Format;

/// Rendering takes one of so many parts of a processor's time, on average.
const PART: u32 = 10;

/// What a rendering gave: the metrics, or why there are none.
pub(super) type Rendered = Result<Arc<Held>, String>;

/// Held by whoever has a snapshot, which may take as much memory as the statistics: there is one at a time.
pub(super) type OneSnapshot = Arc<std::sync::Mutex<()>>;

/// Gives each caller a text that was begun after its call, so that what it has seen happen is in
/// it. Callers that arrive during one rendering wait for it and then share the next of their format.
///
/// This holds as long as all renderings together cost less than a tenth of a processor, with some credit. Who
/// asks more often is answered with a text that is at most a second old.
pub(super) struct Renderer {
    pages: Arc<dyn Pages>,
    one: OneSnapshot,
    shared: Duration,
    /// Calls so far; each takes the number it finds.
    calls: Arc<AtomicU64>,
    state: Arc<Mutex<State>>,
    ledger: Arc<Ledger>,
}

struct State {
    latest: HashMap<Format, Latest>,
    budget: Budget,
}

struct Latest {
    /// Begun after all calls with a lower number,
    covers: u64,
    /// which was then.
    begun: Instant,
    rendered: Rendered,
}

/// What rendering may cost.
struct Budget {
    at_most: Duration,
    /// It is this time's.
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
        // Nothing is begun for who has gone while others were served.
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
        // The lock goes along: when the caller is gone, the rendering it began is still the only
        // one.
        let rendering = tokio::task::spawn_blocking(move || {
            let _only = one.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// What is too old to be shared is not kept.
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

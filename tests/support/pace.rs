//! Time limits and polling. On an emulated machine everything takes longer, and nothing is wrong with it.

use std::env;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

/// The environment variable by which `cargo xtask vm` sets [`slowness`].
const SLOWNESS: &str = "OBSERVER_TEST_SLOWNESS";

/// The factor by which this machine is slower than those that time limits are meant for; at least 1.
pub fn slowness() -> u32 {
    static TIMES: LazyLock<u32> = LazyLock::new(|| {
        let said = env::var(SLOWNESS).ok().and_then(|times| times.parse().ok());
        said.unwrap_or(1).max(1)
    });
    *TIMES
}

/// Whether this machine is emulated, and so only runs the tests.
pub fn is_emulated() -> bool {
    slowness() > 1
}

/// A time limit multiplied by [`slowness`].
pub fn limit(limit: Duration) -> Duration {
    limit.saturating_mul(slowness())
}

/// Time between two polls.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Polls until there is an answer. The outer result of `ask` ends that at once if it is an error; the inner one is
/// returned only after `within`, times [`slowness`].
pub fn wait_for<T>(within: Duration, mut ask: impl FnMut() -> Result<Result<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match ask()? {
            Err(_) if begin.elapsed() <= limit(within) => sleep(POLL),
            last => return last,
        }
    }
}

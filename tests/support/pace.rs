//! How long is waited: where a machine is emulated everything takes longer, and nothing is wrong with it.

use std::env;
use std::sync::LazyLock;
use std::time::Duration;

/// The environment variable by which `cargo xtask vm` says so.
const SLOWNESS: &str = "OBSERVER_TEST_SLOWNESS";

/// How many times slower this machine is than those that limits are meant for.
pub fn slowness() -> u32 {
    static TIMES: LazyLock<u32> = LazyLock::new(|| {
        let said = env::var(SLOWNESS).ok().and_then(|times| times.parse().ok());
        said.unwrap_or(1).max(1)
    });
    *TIMES
}

/// Whether this is a machine for the tests alone: an emulated one.
pub fn is_emulated() -> bool {
    slowness() > 1
}

/// A limit, as it is here.
pub fn limit(limit: Duration) -> Duration {
    limit.saturating_mul(slowness())
}

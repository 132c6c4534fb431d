//! How long is waited: where a machine is emulated everything takes longer, and nothing is wrong with it.

use std::env;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

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

/// Between two looks at something that will change.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Asks again and again until there is an answer; why there is none yet is the error when it does not come in time.
pub fn wait_for<T>(
    within: Duration,
    mut ask: impl FnMut() -> Result<Result<T, String>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        match ask()? {
            Ok(answer) => return Ok(answer),
            Err(why) if begin.elapsed() > limit(within) => bail!(why),
            Err(_) => sleep(POLL),
        }
    }
}

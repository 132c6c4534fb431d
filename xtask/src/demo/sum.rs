//! The sum of all calls, from a snapshot of `observer top`.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// Calls by process.
pub(super) struct Sum(BTreeMap<String, Calls>);

#[derive(Default, Deserialize)]
struct Calls {
    ended: u64,
    failed: u64,
}

#[derive(Deserialize)]
struct Snapshot {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    process: String,
    total: Calls,
}

impl Sum {
    pub(super) fn of(json: &[u8]) -> Result<Self> {
        let snapshot: Snapshot = serde_json::from_slice(json).context("the snapshot")?;
        let mut sum = BTreeMap::<_, Calls>::new();
        for Row { process, total: Calls { ended, failed } } in snapshot.rows {
            let calls = sum.entry(process).or_default();
            calls.ended += ended;
            calls.failed += failed;
        }
        Ok(Self(sum))
    }

    /// Returns an error unless calls of each of these processes were seen.
    pub(super) fn check(&self, processes: &[&str]) -> Result<()> {
        for process in processes {
            let seen = self.0.get(*process).is_some_and(|calls| calls.ended > 0);
            ensure!(seen, "the daemon saw no gRPC call of {process}");
        }
        Ok(())
    }
}

impl Display for Sum {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("calls seen, without a change to any process:")?;
        for (at, (process, Calls { ended, failed })) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma} {process} {ended} calls ({failed} failed)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;

    const PROCESSES: [&str; 3] = ["demo-shop", "demo-orders", "demo-feed"];

    const ROWS: &str = r#"{"rows": [
        {"process": "demo-shop", "total": {"ended": 7, "failed": 2}},
        {"process": "demo-shop", "total": {"ended": 1, "failed": 0}},
        {"process": "demo-orders", "total": {"ended": 7, "failed": 2}},
        {"process": "demo-feed", "total": {"ended": 1, "failed": 0}}
    ]}"#;

    #[test]
    fn calls_are_added_up_by_process() {
        let sum = Sum::of(ROWS.as_bytes()).unwrap();
        sum.check(&PROCESSES).unwrap();
        let expected =
            "demo-feed 1 calls (0 failed), demo-orders 7 calls (2 failed), demo-shop 8 calls";
        assert!(sum.to_string().contains(expected), "{sum}");
    }

    #[test]
    fn a_process_that_was_not_seen_is_an_error() {
        for missing in
            [ROWS.replace("demo-feed", "other"), ROWS.replace("\"ended\": 1,", "\"ended\": 0,")]
        {
            let error = Sum::of(missing.as_bytes()).unwrap().check(&PROCESSES).unwrap_err();
            assert!(error.to_string().contains("demo-feed"), "{error}");
        }
    }
}

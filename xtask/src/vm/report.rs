//! What became of the tests: a row for each kernel and backend.

/// What the table has of one kernel and backend.
pub(super) struct Cell {
    pub(super) kernel: &'static str,
    pub(super) backend: &'static str,
    pub(super) release: String,
    pub(super) passed: u64,
    /// How often numbers were compared and programs had been skipped by then.
    pub(super) lossy: u64,
    /// Their names.
    pub(super) failed: Vec<String>,
    /// Why not all cases were run.
    pub(super) broken: Option<String>,
    /// What was wrong when they were run for the first time.
    pub(super) at_first: Option<String>,
}

impl Cell {
    pub(super) fn is_good(&self) -> bool {
        self.broken.is_none() && self.failed.is_empty() && self.passed > 0
    }

    /// What is wrong, in a line.
    pub(super) fn fault(&self) -> String {
        let failed = self.failed.iter().map(|name| format!("failed: {name}"));
        failed.chain(self.broken.clone()).collect::<Vec<_>>().join("; ")
    }
}

/// How many cases passed, and which failed, line by line: there may be no sum.
pub(super) fn counts(output: &str) -> (u64, Vec<String>) {
    let of = |end| {
        let cases = output.lines().filter_map(|line| line.trim_end().strip_prefix("test "));
        cases.filter_map(move |case| Some(case.strip_suffix(end)?.trim_end().to_owned()))
    };
    (of("... ok").count() as u64, of("... FAILED").collect())
}

pub(super) fn print(cells: &[Cell]) {
    println!(
        "{:<8} {:<24} {:<11} {:<6} {:>6} {:>6}",
        "kernel", "release", "backend", "", "passed", "failed"
    );
    for cell in cells {
        let outcome = if cell.is_good() { "pass" } else { "FAIL" };
        println!(
            "{:<8} {:<24} {:<11} {outcome:<6} {:>6} {:>6}",
            cell.kernel,
            cell.release,
            cell.backend,
            cell.passed,
            cell.failed.len()
        );
        if cell.lossy > 0 {
            println!(
                "         programs were skipped: {} times numbers were not compared for being complete, but \
                 for being true",
                cell.lossy
            );
        }
        if let Some(fault) = &cell.at_first {
            println!("         at first: {fault}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_counted_by_line() {
        let output =
            "running 3 tests\ntest a: b ... ok\ntest c   ... FAILED\ntest d\ntest e ... ok\n";
        assert_eq!(counts(output), (2, vec!["c".to_owned()]));
    }
}

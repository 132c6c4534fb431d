//! The results of the tests: a row for each kernel and backend.

use std::fmt::Write as _;

/// The results of one kernel and backend.
pub(super) struct Cell {
    pub(super) kernel: &'static str,
    pub(super) backend: &'static str,
    pub(super) release: String,
    pub(super) passed: u64,
    /// The number of comparisons that allowed gaps, because the kernel had skipped programs.
    pub(super) lossy: u64,
    /// The names of the failed cases.
    pub(super) failed: Vec<String>,
    /// Why not all cases ran.
    pub(super) broken: Option<String>,
    /// The fault of the first run, if there were two.
    pub(super) at_first: Option<String>,
}

impl Cell {
    pub(super) fn is_good(&self) -> bool {
        self.broken.is_none() && self.failed.is_empty() && self.passed > 0
    }

    /// The failed cases and the reason, in one line.
    pub(super) fn fault(&self) -> String {
        let failed = self.failed.iter().map(|name| format!("failed: {name}"));
        failed.chain(self.broken.clone()).collect::<Vec<_>>().join("; ")
    }
}

/// The number of cases that passed, and the names of those that failed. A run that broke off prints no sum.
pub(super) fn counts(output: &str) -> (u64, Vec<String>) {
    let of = |end| {
        let cases = output.lines().filter_map(|line| line.trim_end().strip_prefix("test "));
        cases.filter_map(move |case| Some(case.strip_suffix(end)?.trim_end().to_owned()))
    };
    (of("... ok").count() as u64, of("... FAILED").collect())
}

/// The table in Markdown: a row for each kernel and backend.
pub(super) fn table(cells: &[Cell]) -> String {
    let mut text =
        "| kernel | backend | result | passed | failed | remarks |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for cell in cells {
        let result = if cell.is_good() { "passed" } else { "**failed**" };
        let skipped = (cell.lossy > 0).then(|| {
            format!("the kernel skipped programs, so {} comparisons allow gaps", cell.lossy)
        });
        let first = cell.at_first.as_ref().map(|fault| format!("in the first run: {fault}"));
        let remarks: Vec<String> = skipped.into_iter().chain(first).collect();
        let Cell { release, backend, passed, failed, .. } = cell;
        let failed = failed.len();
        let remarks = remarks.join("; ").replace('|', "\\|");
        let _ = writeln!(
            text,
            "| {release} | {backend} | {result} | {passed} | {failed} | {remarks} |"
        );
    }
    text
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

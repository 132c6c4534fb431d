//! `cargo xtask test`

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::io::{BufRead as _, BufReader, Write as _, stdout};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{build, cases, exec, setup, tools};

/// The results of one or more test binaries.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) passed: u64,
    /// The failed tests, by name.
    pub(crate) failed: BTreeMap<String, Printed>,
    /// Tests that this machine cannot run.
    pub(crate) ignored: u64,
}

/// The first lines that a failed test printed.
type Printed = Vec<String>;

impl Outcome {
    /// Returns an error if a test failed.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.failed.is_empty(), "{} tests failed", self.failed.len());
        Ok(())
    }

    fn is_one_passed(&self) -> bool {
        self.passed == 1 && self.failed.is_empty()
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.ignored += other.ignored;
    }
}

/// The counts, and for each failed test what it printed, so that they are also at the end of a long log.
impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, printed) in &self.failed {
            writeln!(f, "failed: {name}")?;
            printed.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        let Self { passed, failed, ignored } = self;
        write!(f, "{passed} passed, {} failed, {ignored} ignored", failed.len())
    }
}

pub(crate) fn run(document: bool, args: &[OsString]) -> Result<()> {
    // Tools that the chosen tests may not need are not worth waiting for.
    let missing = if args.is_empty() { tools::install } else { tools::find }(&tools::TESTS)?;
    setup::ensure()?;
    if document {
        list()?;
        return cases::write();
    }
    let outcome = all(args)?;
    println!("{outcome}");
    tools::name(&missing);
    outcome.check()
}

/// Runs the tests that need neither root nor a gRPC stack.
pub(crate) fn fast(args: &[OsString]) -> Result<()> {
    const SEEDS: &str = "100";
    setup::ensure()?;
    let outcome = shown(unprivileged(args).env("OBSERVER_SEEDS", SEEDS))?;
    println!("{outcome}");
    outcome.check()
}

/// Has the end-to-end tests take the pictures in docs/images.
pub(crate) fn screenshots() -> Result<()> {
    setup::ensure()?;
    let daemon = build::daemon(true)?;
    let mut cargo = privileged(&daemon, &["--exact".into(), "screenshots".into()])?;
    let outcome = shown(cargo.env("OBSERVER_TEST_SCREENSHOTS", "1"))?;
    ensure!(outcome.is_one_passed(), "the pictures were not taken: {outcome}");
    Ok(())
}

/// Runs all tests. Returns an error if some could not be run, so that the counts are never partial.
pub(crate) fn all(args: &[OsString]) -> Result<Outcome> {
    println!("test: building and running the tests that need no root, about 4 min the first time");
    let mut outcome = shown(&mut unprivileged(args))?;
    // The missing tool is listed. Only CI needs it.
    if exec::as_root().is_err() && env::var_os("CI").is_none() {
        return Ok(outcome);
    }
    println!("test: building the daemon, optimized, about 3 min the first time");
    let daemon = build::daemon(true)?;
    println!("test: building and running the end-to-end tests, about 15 min for all of them");
    if !exec::is_root() {
        // Run as root, the peers are built into files of root in the target directory. So they are built here.
        exec::run(end_to_end().args(["--", "--list"]).stdout(Stdio::null()))?;
    }
    let privileged = shown(&mut privileged(&daemon, args)?)?;
    outcome.add(again(&daemon, privileged)?);
    Ok(outcome)
}

/// Runs some end-to-end tests with one backend. Returns an error unless all of them passed.
pub(crate) fn slice(backend: &str, filter: &str) -> Result<()> {
    let daemon = build::daemon(true)?;
    let mut cargo = privileged(&daemon, &[filter.into()])?;
    // The list of all cases must stay as it is.
    cargo.env("OBSERVER_TEST_REPORT", exec::target()?.join("slice.jsonl"));
    let outcome = shown(cargo.env("OBSERVER_BACKEND", backend))?;
    ensure!(outcome.passed > 0, "no test has {filter:?} in its name");
    outcome.check().with_context(|| outcome.to_string())
}

/// Has the end-to-end tests list their cases, with every stack.
fn list() -> Result<()> {
    exec::run(end_to_end().args(["--", "--list"]).env("CI", "1").stdout(Stdio::null()))
}

/// Builds and runs the end-to-end tests. It selects the packages and features of the other tests, so that nothing is
/// built twice.
pub(crate) fn end_to_end() -> Command {
    let mut cargo = exec::cargo(&["test", "--workspace", "--exclude", "observer-ebpf"]);
    cargo.args(["--features", "observer/kubernetes,tests/privileged", "--test", "e2e"]);
    cargo
}

/// Runs failed end-to-end tests once more, alone. They have deadlines of real peers in them, and
/// the machine may have had something else to do; what passes only now is named.
fn again(daemon: &Path, mut outcome: Outcome) -> Result<Outcome> {
    /// More than this are no accident.
    const AT_MOST: usize = 8;
    if outcome.failed.len() > AT_MOST {
        return Ok(outcome);
    }
    let names: Vec<String> = outcome.failed.keys().cloned().collect();
    for name in names {
        // A name may start with dashes.
        let mut cargo = privileged(daemon, &["--exact".into(), "--".into(), (&name).into()])?;
        if shown(&mut cargo)?.is_one_passed() {
            println!("test: failed at first, passed when run again: {name}");
            outcome.failed.remove(&name);
            outcome.passed += 1;
        }
    }
    Ok(outcome)
}

/// Unit tests, property tests and examples in the documentation. They need neither root nor a kernel feature.
fn unprivileged(args: &[OsString]) -> Command {
    let mut cargo =
        exec::cargo(&["test", "--workspace", "--exclude", "observer-ebpf", "--no-fail-fast"]);
    cargo.args(["--features", "observer/kubernetes"]);
    if !args.is_empty() {
        // rustdoc splits a filter at its spaces, so examples are left out.
        cargo.arg("--tests");
    }
    cargo.arg("--").args(args);
    cargo
}

/// The end-to-end tests, with the daemon as users build it. They prepare the peers themselves.
fn privileged(daemon: &Path, args: &[OsString]) -> Result<Command> {
    let mut cargo = end_to_end();
    cargo.env("OBSERVER_BIN", daemon);
    as_root(&mut cargo)?;
    cargo.arg("--").args(args);
    Ok(cargo)
}

/// Has cargo run the built program as root. cargo itself does not run as root, because the target directory would then
/// belong to root.
pub(crate) fn as_root(cargo: &mut Command) -> Result<()> {
    let runner = exec::as_root()?;
    if !runner.is_empty() {
        let words: Vec<String> = runner.iter().map(toml_string).collect();
        cargo.arg("--config");
        cargo.arg(format!("target.'cfg(all())'.runner=[{}]", words.join(",")));
    }
    Ok(())
}

fn toml_string(word: &OsString) -> String {
    let text = word.to_string_lossy();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Runs `cargo test` and shows its output.
fn shown(cargo: &mut Command) -> Result<Outcome> {
    println!("$ {}", exec::shown(cargo));
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut tally = Tally::default();
    let mut lines = BufReader::new(child.stdout.take().context("cargo has no output")?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).context("cannot read what cargo prints")? > 0 {
        let mut out = stdout().lock();
        out.write_all(&line).and_then(|()| out.flush()).context("cannot print")?;
        tally.line(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait().context("cannot wait for cargo")?;
    tally.outcome(status.success())
}

/// Reads the output of libtest, one test binary after the other.
#[derive(Debug, Default)]
struct Tally {
    begun: u64,
    ended: u64,
    outcome: Outcome,
    /// The failed test whose output is being read.
    printing: Option<String>,
    /// How many tests failed, by the results of the binaries.
    failed: usize,
}

impl Tally {
    fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if line.starts_with("running ") && line.contains(" test") {
            self.begun += 1;
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.printing = None;
            self.ended += 1;
            self.outcome.passed += count(result, " passed");
            self.outcome.ignored += count(result, " ignored");
            self.failed += usize::try_from(count(result, " failed")).unwrap_or(usize::MAX);
            return;
        }
        let test = line.strip_prefix("test ").and_then(|test| test.strip_suffix("... FAILED"));
        if let Some(name) = test {
            self.outcome.failed.entry(name.trim_end().to_owned()).or_default();
        } else if line == "failures:" {
            self.printing = None;
        } else if let Some(name) = title(line) {
            self.printing = Some(name.to_owned());
        } else if let Some(name) = &self.printing {
            let printed = self.outcome.failed.entry(name.clone()).or_default();
            if printed.len() < LINES {
                printed.push(line.to_owned());
            }
        }
    }

    /// Returns an error if a binary printed no result, or if something other than a test failed.
    fn outcome(self, success: bool) -> Result<Outcome> {
        if self.ended == 0 || self.begun != self.ended {
            bail!(
                "not all tests were run: {} of {} test binaries printed a result",
                self.ended,
                self.begun
            );
        }
        if success != (self.failed == 0) {
            bail!("cargo test failed, but no test did: see above");
        }
        ensure!(
            success || !self.outcome.failed.is_empty(),
            "tests without a name failed: see above"
        );
        Ok(self.outcome)
    }
}

/// How many lines of a failed test's output are kept.
const LINES: usize = 40;

/// The test that the output after this line is of.
fn title(line: &str) -> Option<&str> {
    let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
    Some(name.strip_suffix(" stdout").unwrap_or(name))
}

/// `12` from `ok. 12 passed; 0 failed; …`.
fn count(result: &str, what: &str) -> u64 {
    let field = result.split(';').find_map(|field| field.strip_suffix(what));
    field.and_then(|field| field.rsplit(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered \
                          out; finished in 0.01s\n";
    const FAILED: &str =
        "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out\n";

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.line(line);
        }
        tally
    }

    #[test]
    fn filter_stays_in_one_piece() {
        let shown = |args: &[OsString]| exec::shown(&unprivileged(args));
        assert!(shown(&["a -> b".into()]).ends_with("--tests -- a -> b"));
        assert!(shown(&[]).ends_with("observer/kubernetes --"));
    }

    #[test]
    fn results_of_all_binaries_are_added_up() {
        let tally = tally(&["running 12 tests\n", PASSED, "running 1 test\n", PASSED]);
        let outcome = Outcome { passed: 24, ignored: 2, ..Outcome::default() };
        assert_eq!(tally.outcome(true).unwrap(), outcome);
    }

    #[test]
    fn failed_tests_are_named_with_what_they_printed() {
        let many = "a line\n".repeat(LINES);
        let lines = [
            "running 5 tests\n",
            "test one of two ports      ... ok\n",
            "test errors: a -> b        ... FAILED\n",
            "test a::unit_test ... FAILED\n",
            "\n",
            "failures:\n",
            "\n",
            "---- errors: a -> b ----\n",
            "not exact\n",
        ];
        let after = ["---- a::unit_test stdout ----\n", "left\n", "failures:\n", "    a\n", FAILED];
        let lines: Vec<&str> =
            lines.into_iter().chain(many.split_inclusive('\n')).chain(after).collect();
        let outcome = tally(&lines).outcome(false).unwrap();
        assert_eq!(outcome.failed.keys().collect::<Vec<_>>(), ["a::unit_test", "errors: a -> b"]);
        assert_eq!(outcome.failed["a::unit_test"], ["left"]);
        let printed = &outcome.failed["errors: a -> b"];
        assert_eq!((printed.len(), &*printed[0]), (LINES, "not exact"));
        let text = outcome.to_string();
        assert!(text.starts_with("failed: a::unit_test\n    left\nfailed: errors"), "{text}");
        assert!(text.ends_with("3 passed, 2 failed, 0 ignored"), "{text}");
    }

    #[test]
    fn a_failed_test_without_a_name_leaves_no_sum() {
        assert!(tally(&["running 5 tests\n", FAILED]).outcome(false).is_err());
    }

    #[test]
    fn a_binary_that_died_leaves_no_sum() {
        assert!(
            tally(&["running 5 tests\n", PASSED, "running 12 tests\n"]).outcome(false).is_err()
        );
        assert!(tally(&[]).outcome(true).is_err());
    }

    #[test]
    fn a_failure_next_to_the_tests_leaves_no_sum() {
        assert!(tally(&["running 12 tests\n", PASSED]).outcome(false).is_err());
    }
}

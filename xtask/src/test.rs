//! `cargo xtask test`

use std::env;
use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::io::{BufRead as _, BufReader, Write as _, stdout};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{build, cases, exec, setup, tools};

/// The results of one or more test binaries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that this machine cannot run.
    pub(crate) ignored: u64,
}

impl Counts {
    /// Returns an error if a test failed.
    pub(crate) fn check(self) -> Result<()> {
        ensure!(self.failed == 0, "{} tests failed", self.failed);
        Ok(())
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
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
    let counts = all(args)?;
    println!("{counts}");
    tools::name(&missing);
    counts.check()
}

/// Runs the tests that need neither root nor a gRPC stack.
pub(crate) fn fast(args: &[OsString]) -> Result<()> {
    const SEEDS: &str = "100";
    setup::ensure()?;
    let (counts, _) = counted(unprivileged(args).env("OBSERVER_SEEDS", SEEDS))?;
    println!("{counts}");
    counts.check()
}

/// Has the end-to-end tests take the pictures in docs/images.
pub(crate) fn screenshots() -> Result<()> {
    setup::ensure()?;
    let daemon = build::daemon(true)?;
    let mut cargo = privileged(&daemon, &["--exact".into(), "screenshots".into()])?;
    let (counts, _) = counted(cargo.env("OBSERVER_TEST_SCREENSHOTS", "1"))?;
    ensure!((counts.passed, counts.failed) == (1, 0), "the pictures were not taken: {counts}");
    Ok(())
}

/// Runs all tests. Returns an error if some could not be run, so that the counts are never partial.
pub(crate) fn all(args: &[OsString]) -> Result<Counts> {
    println!("test: building and running the tests that need no root, about 4 min the first time");
    let (unprivileged, _) = counted(&mut unprivileged(args))?;
    // The missing tool is listed. Only CI needs it.
    if exec::as_root().is_err() && env::var_os("CI").is_none() {
        return Ok(unprivileged);
    }
    println!("test: building the daemon, optimized, about 3 min the first time");
    let daemon = build::daemon(true)?;
    println!("test: building and running the end-to-end tests, about 15 min for all of them");
    if !exec::is_root() {
        // Run as root, the peers are built into files of root in the target directory. So they are built here.
        exec::run(end_to_end().args(["--", "--list"]).stdout(Stdio::null()))?;
    }
    let (privileged, failed) = counted(&mut privileged(&daemon, args)?)?;
    let privileged = again(&daemon, privileged, &failed)?;
    Ok(Counts {
        passed: unprivileged.passed + privileged.passed,
        failed: unprivileged.failed + privileged.failed,
        ignored: unprivileged.ignored + privileged.ignored,
    })
}

/// Runs some end-to-end tests with one backend. Returns an error unless all of them passed.
pub(crate) fn slice(backend: &str, filter: &str) -> Result<()> {
    let daemon = build::daemon(true)?;
    let mut cargo = privileged(&daemon, &[filter.into()])?;
    // The list of all cases must stay as it is.
    cargo.env("OBSERVER_TEST_REPORT", exec::target()?.join("slice.jsonl"));
    let (counts, _) = counted(cargo.env("OBSERVER_BACKEND", backend))?;
    ensure!(counts.passed > 0, "no test has {filter:?} in its name");
    counts.check()
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
fn again(daemon: &Path, mut counts: Counts, failed: &[String]) -> Result<Counts> {
    /// More than this are no accident.
    const AT_MOST: usize = 8;
    if failed.len() > AT_MOST {
        return Ok(counts);
    }
    for name in failed {
        // A name may start with dashes.
        let mut cargo = privileged(daemon, &["--exact".into(), "--".into(), name.into()])?;
        let (alone, _) = counted(&mut cargo)?;
        if (alone.passed, alone.failed) == (1, 0) {
            println!("test: failed at first, passed when run again: {name}");
            counts.passed += 1;
            counts.failed -= 1;
        }
    }
    Ok(counts)
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

/// Runs `cargo test` and shows its output. Returns the sum of the results and the names of the failed tests.
fn counted(cargo: &mut Command) -> Result<(Counts, Vec<String>)> {
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
    let failed = std::mem::take(&mut tally.names);
    Ok((tally.counts(status.success())?, failed))
}

/// Reads the output of libtest, one test binary after the other.
#[derive(Debug, Default)]
struct Tally {
    begun: u64,
    ended: u64,
    counts: Counts,
    /// Names of the failed tests.
    names: Vec<String>,
}

impl Tally {
    fn line(&mut self, line: &str) {
        if line.starts_with("running ") && line.contains(" test") {
            self.begun += 1;
        }
        let Some(result) = line.strip_prefix("test result: ") else {
            let test = line.trim_end().strip_prefix("test ");
            let failed = test.and_then(|test| test.strip_suffix("... FAILED"));
            self.names.extend(failed.map(|name| name.trim_end().to_owned()));
            return;
        };
        self.ended += 1;
        self.counts.passed += count(result, " passed");
        self.counts.failed += count(result, " failed");
        self.counts.ignored += count(result, " ignored");
    }

    /// Returns an error if a binary printed no result, or if something other than a test failed.
    fn counts(self, success: bool) -> Result<Counts> {
        if self.ended == 0 || self.begun != self.ended {
            bail!(
                "not all tests were run: {} of {} test binaries printed a result",
                self.ended,
                self.begun
            );
        }
        if success != (self.counts.failed == 0) {
            bail!("cargo test failed, but no test did: see above");
        }
        Ok(self.counts)
    }
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
        let tally = tally(&["running 12 tests\n", PASSED, "running 1 test\n", FAILED]);
        assert_eq!(tally.counts(false).unwrap(), Counts { passed: 15, failed: 2, ignored: 1 });
    }

    #[test]
    fn failed_tests_are_named() {
        let tally = tally(&[
            "test one of two ports      ... ok\n",
            "test errors: a -> b        ... FAILED\n",
            FAILED,
        ]);
        assert_eq!(tally.names, ["errors: a -> b"]);
    }

    #[test]
    fn a_binary_that_died_leaves_no_sum() {
        assert!(tally(&["running 5 tests\n", FAILED, "running 12 tests\n"]).counts(false).is_err());
        assert!(tally(&[]).counts(true).is_err());
    }

    #[test]
    fn a_failure_next_to_the_tests_leaves_no_sum() {
        assert!(tally(&["running 12 tests\n", PASSED]).counts(false).is_err());
    }
}

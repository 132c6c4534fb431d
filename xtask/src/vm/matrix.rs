//! The tests, and `observer check`, on each kernel with each backend.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::filters::CHOOSING;
use super::guest::{self, Guest, Share};
use super::image::Image;
use super::kernels::Kernel;
use super::places::Where;
use super::report::{Cell, counts, print};
use crate::{build, exec, test, verifier};

/// Runs these cases on each kernel with each backend, prints the table, and says whether all passed.
pub(super) fn run(place: &Where, filter: &str) -> Result<bool> {
    guest::install()?;
    let tests = Tests::prepare(filter)?;
    let cells = place.each(|kernel, image, backend| {
        tests.run(kernel, image, backend, place.begins_with(kernel, backend))
    })?;
    print(&cells);
    Ok(!cells.is_empty() && cells.iter().all(Cell::is_good))
}

/// What `observer check` says on each kernel with each backend.
pub(crate) fn check(
    selection: &Where,
    daemon: &Path,
) -> Result<Vec<(&'static str, &'static str, String)>> {
    guest::install()?;
    let told = selection.each(|kernel, image, backend| {
        // Below the floor nothing is loaded.
        if kernel.only.is_some() {
            return Ok(None);
        }
        let share = Share::new(&format!("check-{}-{backend}", kernel.name))?;
        Guest { image, share: &share }.run(&check_script(daemon, backend))?;
        Ok(Some((kernel.name, backend, share.read("check"))))
    })?;
    Ok(told.into_iter().flatten().collect())
}

/// Leaves what `observer check` says.
fn check_script(daemon: &Path, backend: &str) -> String {
    format!("'{}' check --backend {backend} >/mnt/check 2>&1\n", daemon.display())
}

/// The tests, built and their peers prepared.
struct Tests {
    daemon: PathBuf,
    binary: PathBuf,
    filter: String,
}

/// The stacks that are run: those that start quickly.
const PEERS: (&str, &str) = ("OBSERVER_TEST_PEERS", "python,rust");

/// How much slower an emulated machine may be, on one that is busy with other things: what is waited for
/// may take so much longer.
const SLOWNESS: (&str, u32) = ("OBSERVER_TEST_SLOWNESS", 10);

/// Says that this kernel may skip programs.
const LOSSY: &str = "OBSERVER_TEST_LOSSY";

/// Where the list of the cases is left.
const REPORT: &str = "OBSERVER_TEST_REPORT";

impl Tests {
    fn prepare(filter: &str) -> Result<Self> {
        let daemon = build::daemon(true)?;
        let binary = binary()?;
        // With `--list` the peers are prepared and nothing is run.
        let mut list = Command::new(&binary);
        list.arg("--list").env(PEERS.0, PEERS.1).current_dir(exec::workspace());
        // Not all cases: that list is another one.
        let folder = exec::target()?.join("vm");
        fs::create_dir_all(&folder)?;
        list.env(REPORT, folder.join("cases.jsonl"));
        exec::output(&mut list, guest::PREPARE_LIMIT)?;
        Ok(Self { daemon, binary, filter: filter.to_owned() })
    }

    /// Runs them on a kernel, and once more if not all were run, or those that failed: an emulator on a busy
    /// machine may take longer than anything should, and so may a peer.
    fn run(
        &self,
        kernel: &'static Kernel,
        image: &Image,
        backend: &'static str,
        first: bool,
    ) -> Result<Cell> {
        let share = format!("{}-{backend}", kernel.name);
        let skip = if first { String::new() } else { format!("--skip={} ", quoted(CHOOSING)) };
        let all = format!("{skip}{}", quoted(kernel.only.unwrap_or(&self.filter)));
        let cell = self.run_once(kernel, image, backend, &share, &all)?;
        if cell.is_good() {
            return Ok(cell);
        }
        let at_first = Some(cell.fault());
        println!("vm: {share}: not all passed, so once more; {}", cell.fault());
        let share = format!("{share}-again");
        if cell.broken.is_some() {
            let again = self.run_once(kernel, image, backend, &share, &all)?;
            return Ok(Cell { at_first, ..again });
        }
        let failed = quoted(&cell.failed.join("|"));
        let again = self.run_once(kernel, image, backend, &share, &failed)?;
        // Others whose names begin so are among them.
        let passed =
            (cell.passed + cell.failed.len() as u64).saturating_sub(again.failed.len() as u64);
        Ok(Cell { passed, lossy: cell.lossy + again.lossy, at_first, ..again })
    }

    fn run_once(
        &self,
        kernel: &'static Kernel,
        image: &Image,
        backend: &'static str,
        share: &str,
        arguments: &str,
    ) -> Result<Cell> {
        let share = Share::new(share)?;
        let lossy = if kernel.lossy.contains(&backend) {
            format!("export {LOSSY}=1\n")
        } else {
            String::new()
        };
        let script = format!(
            // It refuses the tests' own variables.
            "{}export {}={} OBSERVER_TEST_PEERS_PREPARED=1 OBSERVER_BACKEND={backend}\n\
             {lossy}\
             export {REPORT}=/mnt/cases.jsonl {}={}\n\
             export OBSERVER_BIN='{}' PATH='{}' HOME=/root\n\
             cd '{}'\nuname -r >/mnt/release\n'{}' --test-threads 1 {arguments} >/mnt/tests 2>&1\n",
            check_script(&self.daemon, backend),
            PEERS.0,
            PEERS.1,
            SLOWNESS.0,
            SLOWNESS.1,
            self.daemon.display(),
            std::env::join_paths(exec::search_path())?.display(),
            exec::workspace().display(),
            self.binary.display(),
        );
        let begun = std::time::Instant::now();
        let ran = Guest { image, share: &share }.run(&script);
        let output = share.read("tests");
        let (passed, failed) = counts(&output);
        let broken = match ran {
            Err(error) => Some(format!("{error:#}")),
            // What they say last.
            Ok(()) if !output.contains("numbers of the daemon were compared") => {
                Some("the tests did not end".into())
            }
            // Whose line something else was printed into.
            Ok(()) if failed.is_empty() && output.contains("test result: FAILED") => {
                Some("a case failed".into())
            }
            // Nothing is loaded.
            Ok(()) if kernel.only.is_some() => None,
            Ok(()) => verifier::within_bounds(&share.read("check")).err().map(|e| e.to_string()),
        };
        let cell = Cell {
            kernel: kernel.name,
            backend,
            release: share.read("release").trim().to_owned(),
            passed,
            lossy: output.matches("what was told was true").count() as u64,
            failed,
            broken,
            at_first: None,
        };
        if !cell.is_good() {
            println!("{output}");
        }
        println!(
            "vm: {} {backend}: {} passed, {} failed, {} s{}; see {}",
            cell.kernel,
            cell.passed,
            cell.failed.len(),
            begun.elapsed().as_secs(),
            cell.broken.as_ref().map(|why| format!(", {why}")).unwrap_or_default(),
            share.directory().display()
        );
        Ok(cell)
    }
}

/// A word of a shell's.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Builds the end-to-end tests and says where they are.
fn binary() -> Result<PathBuf> {
    // Shows what it does; then asks where that has left it.
    exec::run(test::end_to_end().arg("--no-run"))?;
    let mut told = test::end_to_end();
    let told =
        exec::output(told.args(["--no-run", "--message-format=json"]), guest::PREPARE_LIMIT)?;
    // `"executable":"…/e2e-0123"`, in JSON, of which this is all that is wanted.
    let path = told
        .lines()
        .filter(|line| line.contains("\"name\":\"e2e\""))
        .find_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next());
    let path = path.map(Path::new).context("cargo does not say where the tests are")?;
    Ok(path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_part_of_a_word() {
        assert_eq!(quoted("a message's body|b"), r"'a message'\''s body|b'");
    }
}

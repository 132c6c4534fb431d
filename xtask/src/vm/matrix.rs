//! Runs the tests and `observer check` on each kernel with each backend.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::filters::CHOOSING;
use super::guest::{self, Share};
use super::image::Image;
use super::kernels::Kernel;
use super::places::Where;
use super::report::{Cell, counts};
use crate::verifier::{self, Parts};
use crate::{build, exec, test};

/// Runs these cases on each kernel with each backend.
pub(super) fn run(place: &Where, filter: &str) -> Result<Vec<Cell>> {
    guest::install()?;
    let tests = Tests::prepare(filter)?;
    place.each(|kernel, image, backend| {
        tests.run(kernel, image, backend, place.begins_with(kernel, backend))
    })
}

/// A kernel, a backend, parts of the programs, and the output of `observer check` for them.
pub(crate) struct Check {
    pub(crate) kernel: String,
    pub(crate) backend: &'static str,
    pub(crate) parts: Parts,
    pub(crate) output: String,
}

/// Runs `observer check` on each kernel with each backend.
pub(crate) fn check(selection: &Where, daemon: &Path) -> Result<Vec<Check>> {
    guest::install()?;
    let checks = selection.each(|kernel, image, backend| {
        // A kernel that observer refuses loads no program.
        if kernel.only.is_some() {
            return Ok(Vec::new());
        }
        let share = Share::new(&format!("check-{}-{backend}", kernel.name))?;
        share.run(image, &check_script(daemon, backend))?;
        let checks = Parts::BOTH.map(|parts| {
            let output = share.read(check_name(parts));
            Check { kernel: kernel.name.to_owned(), backend, parts, output }
        });
        Ok(checks.into())
    })?;
    Ok(checks.into_iter().flatten().collect())
}

/// The name of the output of `observer check` in the share.
fn check_name(parts: Parts) -> &'static str {
    match parts {
        Parts::Default => "check",
        Parts::All => "check-all",
    }
}

/// Writes the outputs of `observer check` to the share.
fn check_script(daemon: &Path, backend: &str) -> String {
    let daemon = daemon.display();
    let check = |parts: Parts| {
        let (flags, name) = (parts.flags().join(" "), check_name(parts));
        format!("'{daemon}' check --backend {backend} {flags} >/mnt/{name} 2>&1\n")
    };
    Parts::BOTH.map(check).concat()
}

/// The built tests, with their peers prepared.
struct Tests {
    daemon: PathBuf,
    binary: PathBuf,
    filter: String,
}

/// The stacks that start quickly.
const PEERS: (&str, &str) = ("OBSERVER_TEST_PEERS", "python,rust,go");

/// The factor for all time limits of the cases, because an emulated machine is slow.
const SLOWNESS: (&str, u32) = ("OBSERVER_TEST_SLOWNESS", 10);

/// Tells the tests that this kernel may skip programs.
const LOSSY: &str = "OBSERVER_TEST_LOSSY";

/// The path for the list of cases.
const REPORT: &str = "OBSERVER_TEST_REPORT";

impl Tests {
    fn prepare(filter: &str) -> Result<Self> {
        let daemon = build::daemon(true)?;
        let binary = binary()?;
        // `--list` prepares the peers and runs nothing.
        let mut list = Command::new(&binary);
        list.arg("--list").env(PEERS.0, PEERS.1).current_dir(exec::workspace());
        // This is not the list of all cases.
        let folder = exec::target()?.join("vm");
        fs::create_dir_all(&folder)?;
        list.env(REPORT, folder.join("cases.jsonl"));
        exec::output_within(&mut list, guest::PREPARE_LIMIT)?;
        Ok(Self { daemon, binary, filter: filter.to_owned() })
    }

    /// Runs the cases on a kernel. Failed cases run once more, and all of them if the run did not end: a time limit may
    /// be too short for an emulator on a busy machine.
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
        println!("vm: {share}: not all passed, running again: {}", cell.fault());
        let share = format!("{share}-again");
        if cell.broken.is_some() {
            let again = self.run_once(kernel, image, backend, &share, &all)?;
            return Ok(Cell { at_first, ..again });
        }
        let failed = quoted(&cell.failed.join("|"));
        let again = self.run_once(kernel, image, backend, &share, &failed)?;
        // The filter also matches cases whose names begin like a failed one.
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
            // The daemon refuses the variables of the tests, so the check is first.
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
        let ran = share.run(image, &script);
        let output = share.read("tests");
        let (passed, failed) = counts(&output);
        let broken = match ran {
            Err(error) => Some(format!("{error:#}")),
            // The tests print this last.
            Ok(()) if !output.contains("numbers of the daemon were compared") => {
                Some("the tests did not end".into())
            }
            // Other output may be in the line of the failed case.
            Ok(()) if failed.is_empty() && output.contains("test result: FAILED") => {
                Some("a case failed".into())
            }
            // This kernel loads no program.
            Ok(()) if kernel.only.is_some() => None,
            Ok(()) => Parts::BOTH.into_iter().find_map(|parts| {
                let checked = verifier::within_bounds(&share.read(check_name(parts)), parts);
                checked.err().map(|error| error.to_string())
            }),
        };
        let cell = Cell {
            kernel: kernel.name,
            backend,
            release: share.read("release").trim().to_owned(),
            passed,
            lossy: output.matches("the numbers were true").count() as u64,
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

/// The word, quoted for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Builds the end-to-end tests. Returns their path.
fn binary() -> Result<PathBuf> {
    // The first command shows the build; the second one prints the path.
    exec::run(test::end_to_end().arg("--no-run"))?;
    let mut cargo = test::end_to_end();
    cargo.args(["--no-run", "--message-format=json"]);
    let messages = exec::output_within(&mut cargo, guest::PREPARE_LIMIT)?;
    // `"executable":"…/e2e-0123"` in a message in JSON.
    let path = messages
        .lines()
        .filter(|line| line.contains("\"name\":\"e2e\""))
        .find_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next());
    let path = path.map(Path::new).context("cargo does not print where the tests are")?;
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

//! `cargo xtask vm`: the end-to-end tests on other kernels than this machine's, in QEMU.
//!
//! Debian's kernels, fetched by apt, boot in a virtual machine whose root is this machine's, read
//! only, so that the tests run there as they were built here. Emulation in software suffices, so
//! neither KVM nor a nested virtual machine is needed; it is some ten times slower.

mod guest;
mod image;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

use crate::{bpf_stats, build, exec, setup, test};
use guest::{Guest, Share};
use image::Image;

/// A kernel, by the Debian suite that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    /// As `--kernel` names it.
    name: &'static str,
    suite: &'static str,
    /// Its packages are called `linux-image-<this>…`.
    version: &'static str,
    /// `-rt`, as their names end before the architecture, or nothing.
    flavour: &'static str,
    /// What can be had on it.
    backends: &'static [&'static str],
    /// Of these it skips programs now and then, as it preempts them: that nothing is told that is not true
    /// is all that can be asked.
    lossy: &'static [&'static str],
    /// The only case that is meant for it.
    only: Option<&'static str>,
}

pub(crate) const BACKENDS: &[&str] = &["socket", "fentry", "kprobe", "tracepoint"];

/// Those of kernels without the tracepoints of sockets.
const BEFORE_6_3: &[&str] = &["fentry", "kprobe", "tracepoint"];

const KERNELS: &[Kernel] = &[
    // Below the floor: which backend makes no difference.
    Kernel {
        name: "5.10",
        suite: "bullseye",
        version: "5.10.",
        flavour: "",
        backends: &["kprobe"],
        lossy: &[],
        only: Some("refuses a kernel before 5.17, with the reason"),
    },
    Kernel {
        name: "6.1",
        suite: "bookworm",
        version: "6.1.",
        flavour: "",
        backends: BEFORE_6_3,
        lossy: &[],
        only: None,
    },
    Kernel {
        name: "6.12",
        suite: "trixie",
        version: "6.12.",
        flavour: "",
        backends: BACKENDS,
        lossy: &[],
        only: None,
    },
    // Every lock and interrupt of it can be preempted.
    Kernel {
        name: "6.12-rt",
        suite: "trixie",
        version: "6.12.",
        flavour: "-rt",
        backends: &["socket"],
        lossy: &[],
        only: None,
    },
    Kernel {
        name: "7.2",
        suite: "sid",
        // Whatever that suite has by now.
        version: "7.",
        flavour: "",
        backends: BACKENDS,
        lossy: &["socket", "fentry", "tracepoint"],
        only: None,
    },
];

/// For `cargo xtask ci`: few cases, one or two minutes for each kernel and backend.
pub(crate) const FEW: &str = "four kinds of call: tonic -> tonic|\
    raw codes: all of them, trailers-only|raw codes: no grpc-status, HTTP status 503|\
    raw frames: writev, buffers of 7 bytes|raw frames: readv, buffers of 7 bytes|\
    raw frames: recvfrom, MSG_PEEK|raw frames: sendto, MSG_DONTWAIT|\
    raw frames: sendmsg, buffers of 1000 bytes|raw frames: recvmsg, buffers of 1000 bytes|\
    a Unix socket, bytes one by one|io_uring on a watched connection|\
    raw gaps: a call written by io_uring|raw gaps: a request read by io_uring|\
    raw gaps: a preface read by io_uring|raw transports: MPTCP|\
    a processor taken offline and back|the wall clock jumps";

/// All that raw peers do, but for what is about the daemon and its files alone; of real stacks those
/// that start quickly.
const FILTER: &str = "four kinds of call: tonic -> tonic|\
    four kinds of call: python-asyncio -> python-threaded|errors: tonic -> python-asyncio|\
    cancelled: tonic -> tonic|cancelled: python-asyncio -> python-threaded|\
    expired: tonic -> tonic|expired: python-asyncio -> python-threaded|\
    raw codes|raw ends|raw frames|raw transports|raw processes|raw late|raw gaps|\
    raw privileges|--backend |costs no number|Unix socket|\
    a processor taken offline and back|the wall clock jumps";

/// The beginning of the names of cases that choose the backend themselves: run with the first one of each
/// kernel, for they are the same with the others.
const CHOOSING: &str = "--backend ";

/// What the table has of one kernel and backend.
struct Cell {
    kernel: &'static str,
    backend: &'static str,
    release: String,
    passed: u64,
    /// How often numbers were compared and programs had been skipped by then.
    lossy: u64,
    /// Their names.
    failed: Vec<String>,
    /// Why not all cases were run.
    broken: Option<String>,
    /// What was wrong when they were run for the first time.
    at_first: Option<String>,
}

impl Cell {
    fn is_good(&self) -> bool {
        self.broken.is_none() && self.failed.is_empty() && self.passed > 0
    }

    /// What is wrong, in a line.
    fn fault(&self) -> String {
        let failed = self.failed.iter().map(|name| format!("failed: {name}"));
        failed.chain(self.broken.clone()).collect::<Vec<_>>().join("; ")
    }
}

/// Where to run.
#[derive(clap::Args)]
pub(crate) struct Where {
    /// Kernels: 5.10, 6.1, 6.12, 6.12-rt, 7.2 or all.
    ///
    /// 5.10 is below the floor: that it is refused is all that is tested there.
    #[arg(long = "kernel", value_name = "VERSION", default_value = "all", value_delimiter = ',')]
    kernels: Vec<String>,
    /// Backends: socket, fentry, kprobe, tracepoint or all.
    #[arg(long = "backend", value_name = "NAME", default_value = "all", value_delimiter = ',')]
    backends: Vec<String>,
}

/// What to run where.
#[derive(clap::Args)]
pub(crate) struct Selection {
    #[command(flatten)]
    place: Where,
    /// Which cases, after `--`: parts of their names, with `|` between them.
    #[arg(last = true, value_name = "FILTER")]
    filter: Option<String>,
}

impl Selection {
    /// All kernels and backends, and the cases that are meant for them.
    pub(crate) fn everything() -> Self {
        let all = || vec!["all".to_owned()];
        Self { place: Where { kernels: all(), backends: all() }, filter: None }
    }

    /// For `cargo xtask ci`: an old and a new kernel, and the backends that this machine's kernel
    /// need not have.
    pub(crate) fn of_ci() -> Self {
        Self {
            place: Where {
                kernels: vec!["5.10".into(), "6.1".into(), "6.12".into()],
                backends: vec!["fentry".into(), "kprobe".into()],
            },
            filter: Some(FEW.into()),
        }
    }
}

pub(crate) fn run(selection: &Selection) -> Result<ExitCode> {
    setup::ensure()?;
    Ok(if matrix(selection)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the matrix, prints its table, and says whether all of it passed.
pub(crate) fn matrix(selection: &Selection) -> Result<bool> {
    guest::install()?;
    let tests = Tests::prepare(selection.filter.as_deref().unwrap_or(FILTER))?;
    let place = &selection.place;
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

impl Where {
    /// Whether this is the first backend that is chosen on this kernel.
    fn begins_with(&self, kernel: &Kernel, backend: &str) -> bool {
        let is_chosen =
            |name: &&&str| self.backends.iter().any(|one| one == "all" || one == **name);
        kernel.backends.iter().find(is_chosen).is_some_and(|first| *first == backend)
    }

    /// Calls `run` with each kernel and backend that can be had on it, as many at once as there are
    /// processors: a guest waits much. What they answer is in that order.
    fn each<T: Send>(
        &self,
        run: impl Fn(&'static Kernel, &Image, &'static str) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let kernels = chosen(&self.kernels, KERNELS, |kernel| kernel.name)?;
        let backends = chosen(&self.backends, BACKENDS, |backend| backend)?;
        let mut images = Vec::new();
        for kernel in kernels {
            let image = Image::of(kernel).with_context(|| format!("kernel {}", kernel.name))?;
            images.push((kernel, image));
        }
        let places: Vec<_> = images
            .iter()
            .flat_map(|(kernel, image)| {
                let possible = backends.iter().filter(|backend| kernel.backends.contains(backend));
                possible.map(move |backend| (*kernel, image, *backend))
            })
            .collect();
        in_parallel(&places, |&(kernel, image, backend)| run(kernel, image, backend))
    }
}

/// Answers in the order of `all`, each made on one of as many threads as there are processors.
fn in_parallel<P: Sync, T: Send>(
    all: &[P],
    make: impl Fn(&P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let made = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(turn) else { break };
                    let one = make(one);
                    made.lock().unwrap_or_else(PoisonError::into_inner).insert(turn, one);
                }
            });
        }
    });
    made.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

fn chosen<'a, T>(wanted: &[String], all: &'a [T], name: fn(&T) -> &str) -> Result<Vec<&'a T>> {
    if wanted.iter().any(|wanted| wanted == "all") {
        return Ok(all.iter().collect());
    }
    let find = |wanted: &String| {
        all.iter().find(|one| name(one) == wanted).with_context(|| {
            let names: Vec<_> = all.iter().map(name).collect();
            format!("{wanted:?} is not one of {}, all", names.join(", "))
        })
    };
    wanted.iter().map(find).collect()
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
            Ok(()) => bpf_stats::within_bounds(&share.read("check")).err().map(|e| e.to_string()),
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

/// How many cases passed, and which failed, line by line: there may be no sum.
fn counts(output: &str) -> (u64, Vec<String>) {
    let of = |end| {
        let cases = output.lines().filter_map(|line| line.trim_end().strip_prefix("test "));
        cases.filter_map(move |case| Some(case.strip_suffix(end)?.trim_end().to_owned()))
    };
    (of("... ok").count() as u64, of("... FAILED").collect())
}

fn print(cells: &[Cell]) {
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
    use anyhow::ensure;

    use super::*;

    #[test]
    fn cases_are_counted_by_line() {
        let output =
            "running 3 tests\ntest a: b ... ok\ntest c   ... FAILED\ntest d\ntest e ... ok\n";
        assert_eq!(counts(output), (2, vec!["c".to_owned()]));
    }

    #[test]
    fn a_quote_is_part_of_a_word() {
        assert_eq!(quoted("a message's body|b"), r"'a message'\''s body|b'");
    }

    #[test]
    fn answers_are_in_order_and_an_error_is_one_of_them() {
        let numbers: Vec<u64> = (0..100).collect();
        let doubled = in_parallel(&numbers, |number| Ok(number * 2)).unwrap();
        assert_eq!(doubled, (0..100).map(|number| number * 2).collect::<Vec<_>>());
        let refused = in_parallel(&numbers, |&number| {
            ensure!(number != 7, "not {number}");
            Ok(number)
        });
        assert_eq!(refused.unwrap_err().to_string(), "not 7");
    }

    #[test]
    fn what_is_not_there_cannot_be_chosen() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
            chosen(&wanted, BACKENDS, |backend| backend).map(|chosen| chosen.len())
        };
        assert_eq!(names(&["all"]).unwrap(), 4);
        assert_eq!(names(&["kprobe", "fentry"]).unwrap(), 2);
        assert!(names(&["uprobe"]).unwrap_err().to_string().contains("fentry, kprobe"));
    }
}

//! The soak: services of every stack call each other over TLS, while daemons with `--tls auto` come and go:
//! `cargo xtask soak`. CI does not run it.
//!
//! - [`load`]: the servers and their clients;
//! - [`churn`]: a process that forks, executes programs, and loads and unloads a TLS library;
//! - [`daemons`]: the daemons, which end by SIGTERM and by SIGKILL, some while they attach.
//!
//! No call may fail, no process may crash, no probe may be left, the daemons' memory must be bounded, and no status that
//! they publish may be wrong. All numbers of the last daemon, which is left in peace, must be exact. It needs root.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "saying what happened is what this program is for"
)]

mod churn;
mod daemons;
mod load;

use std::env;
use std::fs;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use support::stack;
use support::tls::Certificates;

use churn::Churn;
use load::{Peers, Round};

/// The shortest and the longest time for the last daemon.
const PEACE: [Duration; 2] = [Duration::from_secs(20), Duration::from_mins(3)];

/// Time for probes to disappear once the last daemon has ended.
const REMOVED: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Not main's result: with RUST_BACKTRACE set, a backtrace would hide the message.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Some(minutes) = minutes()? else {
        println!("soak: not run: `cargo xtask soak` runs it");
        return Ok(());
    };
    ensure!(rustix::process::geteuid().is_root(), "the daemon needs root: cargo xtask soak");
    let stacks = stack::prepare()?;
    let certificates = Certificates::new()?;
    let peers = Peers::start(&stacks, &certificates)?;
    let churn = Churn::start(&certificates)?;
    let tainted = tainted()?;

    let limit = Duration::from_secs(60 * minutes);
    let (rounds, lives) =
        under_load(&peers, limit, |over| daemons::come_and_go(&peers, limit, over))?;
    peers.await_probes(false, REMOVED).context("after the last of them has ended")?;
    println!("soak: {lives}; {} calls", load::calls(&rounds));

    let last = daemons::Last::start()?;
    peers.await_probes(true, daemons::ATTACHED)?;
    let peace = (limit / 10).clamp(PEACE[0], PEACE[1]);
    let (peaceful, ()) = under_load(&peers, peace, |over| last.watch(peace, over))?;
    last.settle(&peers, &peaceful)?;
    println!("soak: the last daemon's numbers of {} calls are exact", load::calls(&peaceful));
    last.stop()?;
    peers.await_probes(false, REMOVED).context("after the last daemon has ended")?;

    let churned = churn.stop()?;
    peers.stop(&[rounds, peaceful].concat())?;
    ensure!(tainted == self::tainted()?, "the kernel has reported an error: see dmesg");
    println!("soak: passed; meanwhile {churned}");
    Ok(())
}

/// The argument of `--minutes`.
fn minutes() -> Result<Option<u64>> {
    let mut arguments = env::args().skip_while(|argument| argument != "--minutes").skip(1);
    arguments.next().map(|minutes| minutes.parse().context("--minutes needs a number")).transpose()
}

/// The kernel's flags for errors that it has seen (`Documentation/admin-guide/tainted-kernels.rst`).
fn tainted() -> Result<String> {
    fs::read_to_string("/proc/sys/kernel/tainted").context("read kernel.tainted")
}

/// Has all clients make calls for this time and until `act` has ended. The first error ends it.
fn under_load<T: Send>(
    peers: &Peers,
    time: Duration,
    act: impl FnOnce(&AtomicBool) -> Result<T> + Send,
) -> Result<(Vec<Round>, T)> {
    let over = AtomicBool::new(false);
    let (begin, over) = (Instant::now(), &over);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..peers.len())
            .map(|client| {
                scope.spawn(move || {
                    let rounds = peers.call(client, over);
                    over.fetch_or(rounds.is_err(), Ordering::Relaxed);
                    rounds
                })
            })
            .collect();
        let acted = act(over);
        while acted.is_ok() && begin.elapsed() < time && !over.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(100));
        }
        over.store(true, Ordering::Relaxed);
        let mut rounds = Vec::new();
        for client in clients {
            rounds.extend(client.join().map_err(|_| anyhow!("a client's thread panicked"))??);
        }
        Ok((rounds, acted?))
    })
}

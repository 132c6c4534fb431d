//! What the daemon may do: with little it starts, and with nothing it goes on.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use tests::daemon::{Daemon, User, free_address, refusal};
use tests::footprint::{status, threads};
use tests::raw::{Address, Call, Talk};

use super::backends::is_since;
use super::{NOT_FOUND, Table};

/// What it needs.
const LEAST: &[&str] = &["bpf", "perfmon", "dac_read_search"];

/// What it needs where it would see no other processes.
const SEES_ALL: &[&str] = &["bpf", "perfmon", "dac_read_search", "sys_ptrace"];

/// The backend that reads the ids of tracepoints.
const TRACEPOINT: &[&str] = &["--backend", "tracepoint"];

const SYS_PTRACE: u64 = 1 << 19;

pub(super) fn add(table: &mut Table) {
    table.alone("started by root, no thread keeps a capability", |name| {
        let daemon = Daemon::start::<&str>(&[])?;
        watches(&daemon, name)?;
        left(&daemon, 0)
    });
    table.alone("started by nobody with what it needs, it watches the same", |name| {
        let daemon = Daemon::start_as::<&str>(&[], User::With(LEAST))?;
        watches(&daemon, name)?;
        left(&daemon, 0)
    });
    table.alone_if(is_since(6, 3), "two capabilities suffice for --backend socket", |name| {
        let _back = Paranoid::set("3")?;
        let user = User::Untraced(&["bpf", "perfmon"]);
        let daemon = Daemon::start_as(&["--backend", "socket"], user)?;
        watches(&daemon, name)?;
        left(&daemon, 0)
    });
    table.alone("where processes are hidden from it, it keeps CAP_SYS_PTRACE alone", |name| {
        let daemon = Daemon::start_as::<&str>(&[], User::Blindfolded(SEES_ALL))?;
        watches(&daemon, name)?;
        left(&daemon, SYS_PTRACE)
    });
    table.alone("--backend tracepoint without tracefs: it mounts it for itself alone", |name| {
        let daemon = Daemon::start_as(TRACEPOINT, User::WithoutTracefs)?;
        watches(&daemon, name)?;
        left(&daemon, 0)?;
        let mounts = format!("/proc/{}/mountinfo", daemon.pid());
        let mounts = fs::read_to_string(&mounts).with_context(|| format!("read {mounts}"))?;
        ensure!(!mounts.contains(" - tracefs "), "it is left mounted: {mounts}");
        Ok(())
    });
    table.alone("--backend tracepoint without tracefs or CAP_SYS_ADMIN: refused", |_| {
        let listen = free_address()?.to_string();
        let args = [TRACEPOINT, &["--listen", &listen]].concat();
        let line = refusal(&args, User::Untraced(LEAST))?;
        let told = "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing";
        ensure!(line.contains(told), "not the reason: {line}");
        Ok(())
    });
    for (missing, others) in
        [("CAP_BPF", &["perfmon", "dac_read_search"]), ("CAP_PERFMON", &["bpf", "dac_read_search"])]
    {
        table.alone(format!("refuses to run without {missing}"), move |_| refuses(missing, others));
    }
    table.alone("refuses to run without CAP_DAC_READ_SEARCH", |name| {
        let others: &[&str] = &["bpf", "perfmon"];
        // It is for tracefs, which only one backend reads.
        if Daemon::start::<&str>(&[])?.backend()? == "tracepoint" {
            return refuses("CAP_DAC_READ_SEARCH", others);
        }
        // It cannot see whether the kernel preempts, so it may not watch sockets that count no bytes.
        let daemon = Daemon::start_as::<&str>(&[], User::With(others))?;
        watches_over(&daemon, name, Address::V4(0))
    });
}

/// Who may open perf events.
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

/// What it was, once this is dropped.
struct Paranoid(String);

impl Paranoid {
    fn set(level: &str) -> Result<Self> {
        let before = fs::read_to_string(PARANOID).with_context(|| format!("read {PARANOID}"))?;
        fs::write(PARANOID, level).with_context(|| format!("write {PARANOID}"))?;
        Ok(Self(before))
    }
}

impl Drop for Paranoid {
    fn drop(&mut self) {
        // There is nothing else to be done about it.
        let _ = fs::write(PARANOID, self.0.trim());
    }
}

fn refuses(missing: &str, others: &'static [&'static str]) -> Result<()> {
    let listen = free_address()?.to_string();
    let line = refusal(&["--listen", &listen], User::With(others))?;
    // Behind "without" or "add": not in the list of all that it needs.
    let named = [format!("without {missing}"), format!("add {missing}")];
    ensure!(named.iter().any(|text| line.contains(text)), "{missing} is not named: {line}");
    Ok(())
}

/// Calls over a Unix socket: the end of the connection is found only by a system call that the
/// daemon makes when it has given up what it had.
fn watches(daemon: &Daemon, name: &str) -> Result<()> {
    let folder = tempfile::TempDir::with_prefix("raw-").context("create a folder")?;
    let path = folder.path().join("socket").to_string_lossy().into_owned();
    watches_over(daemon, name, Address::Unix(path))
}

fn watches_over(daemon: &Daemon, name: &str, address: Address) -> Result<()> {
    let mut talk = Talk::begin(daemon, name, address)?;
    talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
    talk.server(|f| f.response(1).message(1, 6).trailers(1, NOT_FOUND))?;
    talk.expect(Call::new("Get", NOT_FOUND).unary(5, 6))?;
    talk.finish()
}

/// No thread has other capabilities, or can get any.
fn left(daemon: &Daemon, capabilities: u64) -> Result<()> {
    let pid = daemon.pid();
    let threads = threads(pid)?;
    ensure!(threads.len() > 1, "only one thread: {threads:?}");
    for thread in threads {
        for (set, expected) in
            [("CapInh", 0), ("CapPrm", capabilities), ("CapEff", capabilities), ("CapAmb", 0)]
        {
            let left = status(pid, thread, set)?;
            let left = u64::from_str_radix(&left, 16).context("no set of capabilities")?;
            ensure!(left == expected, "thread {thread}: {set} is {left:#x}");
        }
        let bound = status(pid, thread, "NoNewPrivs")?;
        ensure!(bound == "1", "thread {thread}: NoNewPrivs is {bound}");
    }
    Ok(())
}

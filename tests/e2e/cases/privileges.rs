//! The daemon's privileges: few to start, and none while it runs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, bail, ensure};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo};
use observer_common::selected::CGROUP_NAME;
use support::daemon::{Daemon, User, refusal};
use support::footprint::{described_of, field, map_numbers, status, threads};
use support::nobody::{NOBODY, as_nobody};
use support::raw::{Address, Talk};

use super::backends::{Restored, is_since};
use super::refusals::refuses;
use super::{NOT_FOUND, Table};

/// The capabilities that it needs.
const LEAST: &[&str] = &["bpf", "perfmon", "dac_read_search"];

/// The capabilities that it needs where `/proc` hides other processes.
const SEES_ALL: &[&str] = &["bpf", "perfmon", "dac_read_search", "sys_ptrace"];

/// The flags for the backend that reads the ids of tracepoints.
const TRACEPOINT: &[&str] = &["--backend", "tracepoint"];

const SYS_PTRACE: u64 = 1 << 19;

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark("tshark cannot tell: what the daemon may do is not on the wire.");
    table.alone("started by root, no thread keeps a capability, or is root", |name| {
        let daemon = Daemon::start(&[])?;
        counts_a_call(&daemon, name)?;
        has_no_right(&daemon, NOBODY, NOBODY)?;
        is_closed_to_its_user(&daemon)
    });
    table.alone("--run-as: another user and its group", |name| {
        let daemon = Daemon::start(&["--run-as", "4711:4712"])?;
        counts_a_call(&daemon, name)?;
        has_no_right(&daemon, 4711, 4712)
    });
    table.alone("--run-as root: root without any right", |name| {
        let daemon = Daemon::start(&["--run-as", "root"])?;
        counts_a_call(&daemon, name)?;
        has_no_right(&daemon, 0, 0)
    });
    table.alone("refuses to run as a user that there is not", |_| {
        refuses(&["--run-as", "nosuch"], User::Own, "--run-as: there is no user nosuch")
    });
    table.alone("of maps it has only counters open, to be read, and rings", |name| {
        let daemon = Daemon::start(&["--workers", "2"])?;
        counts_a_call(&daemon, name)?;
        has_only_counters_and_rings_open(&daemon, 2)
    });
    table.alone("the filters of its programs cannot be changed, by root either", |_| {
        filters_are_frozen(&Daemon::start(&["--port", "1"])?)
    });
    table.alone("started by nobody with what it needs, it watches the same", |name| {
        let daemon = Daemon::start_as(&[], User::With(LEAST))?;
        counts_a_call(&daemon, name)?;
        has_only_capabilities(&daemon, 0)?;
        is_user(&daemon, NOBODY, NOBODY)?;
        is_closed_to_its_user(&daemon)
    });
    table.alone_if(is_since(6, 3), "two capabilities suffice for --backend socket", |name| {
        let _back = Restored::set(PARANOID, "3")?;
        let user = User::Untraced(&["bpf", "perfmon"]);
        let daemon = Daemon::start_as(&["--backend", "socket"], user)?;
        counts_a_call(&daemon, name)?;
        has_only_capabilities(&daemon, 0)
    });
    table.alone("where processes are hidden from it, it keeps CAP_SYS_PTRACE alone", |name| {
        let daemon = Daemon::start_as(&[], User::Blindfolded(SEES_ALL))?;
        counts_a_call(&daemon, name)?;
        has_only_capabilities(&daemon, SYS_PTRACE)
    });
    table.alone("--backend tracepoint without tracefs: it mounts it for itself alone", |name| {
        let daemon = Daemon::start_as(TRACEPOINT, User::WithoutTracefs)?;
        counts_a_call(&daemon, name)?;
        has_only_capabilities(&daemon, 0)?;
        let mounts = format!("/proc/{}/mountinfo", daemon.pid());
        let mounts = fs::read_to_string(&mounts).with_context(|| format!("read {mounts}"))?;
        ensure!(!mounts.contains(" - tracefs "), "it is left mounted: {mounts}");
        Ok(())
    });
    table.alone("--backend tracepoint without tracefs or CAP_SYS_ADMIN: refused", |_| {
        let told = "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing";
        refuses(TRACEPOINT, User::Untraced(LEAST), told)
    });
    for (missing, others) in
        [("CAP_BPF", &["perfmon", "dac_read_search"]), ("CAP_PERFMON", &["bpf", "dac_read_search"])]
    {
        table.alone(format!("refuses to run without {missing}"), move |_| {
            refuses_to_run_without(missing, others)
        });
    }
    table.alone("refuses to run without CAP_DAC_READ_SEARCH", |name| {
        let others: &[&str] = &["bpf", "perfmon"];
        // It needs that for tracefs, which only one backend reads.
        if Daemon::start(&[])?.backend()? == "tracepoint" {
            return refuses_to_run_without("CAP_DAC_READ_SEARCH", others);
        }
        // It cannot find out whether the kernel preempts, so it may not watch sockets that count no bytes.
        let daemon = Daemon::start_as(&[], User::With(others))?;
        counts_a_call_over(&daemon, name, Address::V4(0))
    });
}

/// The setting that restricts perf events.
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

fn refuses_to_run_without(missing: &str, others: &'static [&'static str]) -> Result<()> {
    let line = refusal(&[], User::With(others))?;
    // After "without" or "add": not in the list of all capabilities that it needs.
    let named = [format!("without {missing}"), format!("add {missing}")];
    ensure!(
        named.iter().any(|text| line.contains(text)),
        "the error does not name {missing}: {line}"
    );
    Ok(())
}

/// Counts a call over a Unix socket: the daemon finds the end of the connection with a system call that it makes
/// without privileges.
fn counts_a_call(daemon: &Daemon, name: &str) -> Result<()> {
    let folder = tempfile::TempDir::with_prefix("raw-").context("create a folder")?;
    let path = folder.path().join("socket").to_string_lossy().into_owned();
    counts_a_call_over(daemon, name, Address::Unix(path))
}

fn counts_a_call_over(daemon: &Daemon, name: &str, address: Address) -> Result<()> {
    let mut talk = Talk::begin(daemon, name, address)?;
    talk.expected_call(1, "Get", NOT_FOUND)?;
    talk.finish()
}

/// An error if a thread has other capabilities, or can get any.
pub(super) fn has_only_capabilities(daemon: &Daemon, capabilities: u64) -> Result<()> {
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
        // 2: a filter of system calls.
        for (field, expected) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
            let found = status(pid, thread, field)?;
            ensure!(found == expected, "thread {thread}: {field} is {found}");
        }
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).context("read its limits")?;
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    let core: Vec<_> = core.context("no limit of cores")?.split_whitespace().collect();
    ensure!(core == ["0", "0", "bytes"], "it may dump cores: {core:?}");
    Ok(())
}

/// An error unless all threads have this user and group, and neither have a capability nor can get one, even as root
/// after a mistake in the kernel.
fn has_no_right(daemon: &Daemon, user: u32, group: u32) -> Result<()> {
    has_only_capabilities(daemon, 0)?;
    for thread in threads(daemon.pid())? {
        let bound = status(daemon.pid(), thread, "CapBnd")?;
        ensure!(bound.trim_matches('0').is_empty(), "thread {thread}: CapBnd is {bound}");
    }
    is_user(daemon, user, group)
}

/// An error unless all threads have this user and group, and no others.
fn is_user(daemon: &Daemon, user: u32, group: u32) -> Result<()> {
    for thread in threads(daemon.pid())? {
        for (field, number) in [("Uid", user), ("Gid", group)] {
            let found = status(daemon.pid(), thread, field)?;
            let all_are = found.split_whitespace().all(|word| word == number.to_string());
            ensure!(all_are, "thread {thread}: {field} is {found}, not {number}");
        }
        let groups = status(daemon.pid(), thread, "Groups")?;
        ensure!(groups.is_empty(), "thread {thread}: it is in the groups {groups}");
    }
    Ok(())
}

/// An error if other processes of its user, which an attacker may control, can read its memory or its open files.
fn is_closed_to_its_user(daemon: &Daemon) -> Result<()> {
    let pid = daemon.pid();
    // Its files in /proc are its user's, or root's if it is closed (proc(5), PR_SET_DUMPABLE).
    let owner = fs::metadata(format!("/proc/{pid}/status")).context("look at its status")?.uid();
    ensure!(owner == 0, "its files in /proc are of user {owner}");
    for name in ["maps", "mem", "environ", "fd/0"] {
        let mut look = as_nobody("head");
        look.args(["-c", "1", &format!("/proc/{pid}/{name}")]);
        let outcome = look.output().context("run head")?;
        let said = String::from_utf8_lossy(&outcome.stderr);
        ensure!(said.contains("Permission denied"), "nobody reads {name} of it: {said}");
    }
    Ok(())
}

/// An error if root can change the filters: a word of ports, or a key of the other maps, would select more.
fn filters_are_frozen(daemon: &Daemon) -> Result<()> {
    let mut tried = BTreeSet::new();
    for id in map_numbers(daemon.pid())? {
        let name = MapInfo::from_id(id)?.name_as_str().unwrap_or_default().to_owned();
        let written = match &*name {
            "PORTS" => {
                let mut ports: Array<_, u64> = Map::Array(MapData::from_id(id)?).try_into()?;
                ports.set(0, u64::MAX, 0)
            }
            "PIDS" | "UIDS" => insert(id, 1_u32)?,
            "COMMS" => insert(id, [b'x'; 16])?,
            "CGROUPS" => insert(id, [b'x'; CGROUP_NAME])?,
            _ => continue,
        };
        let Err(error) = written else { bail!("{name} can be written") };
        let error = format!("{:#}", anyhow::Error::from(error));
        ensure!(error.contains("not permitted"), "{name}: {error}");
        tried.insert(name);
    }
    ensure!(tried.len() == 5, "only {tried:?}");
    Ok(())
}

/// Tries to insert a key into the map with this number.
fn insert<K: Pod>(id: u32, key: K) -> Result<Result<(), MapError>> {
    let mut map: HashMap<_, K, u8> = Map::HashMap(MapData::from_id(id)?).try_into()?;
    Ok(map.insert(key, 1, 0))
}

/// An error if a thread has other files open besides maps and programs than sockets, pipes, objects of the kernel
/// (epoll, events, links of programs) and files of `/proc` and `/sys`, which are opened and closed at the same time.
fn nothing_else_is_open(pid: u32, thread: u32) -> Result<()> {
    let folder = format!("/proc/{pid}/task/{thread}/fd");
    for entry in fs::read_dir(&folder).with_context(|| format!("list {folder}"))?.flatten() {
        let Ok(place) = fs::read_link(entry.path()) else { continue };
        let place = place.to_string_lossy();
        let usual = ["socket:", "pipe:", "anon_inode:", "/proc/", "/sys/"];
        let is_usual = usual.iter().any(|begin| place.starts_with(begin)) || place == "/dev/null";
        ensure!(is_usual, "thread {thread} has {place} open");
    }
    Ok(())
}

/// Checks each thread, because one may have its own descriptors.
fn has_only_counters_and_rings_open(daemon: &Daemon, workers: usize) -> Result<()> {
    const ARRAY_PER_CPU: &str = "6";
    const HASH_LRU: &str = "9";
    const RINGBUF: &str = "27";
    const ACCESS: u32 = 0o3;
    const READ_ONLY: u32 = 0;
    let pid = daemon.pid();
    let mut tables = BTreeSet::new();
    for thread in threads(pid)? {
        let name = status(pid, thread, "Name")?;
        let (mut rings, mut counters, mut programs, mut others) = (0, 0, 0, 0);
        for text in described_of(pid, thread)? {
            if let Some(kind) = field(&text, "map_type:") {
                let flags = field(&text, "flags:").context("a descriptor without flags")?;
                let access = u32::from_str_radix(&flags, 8).context("no flags")? & ACCESS;
                match &*kind {
                    RINGBUF => rings += 1,
                    ARRAY_PER_CPU | HASH_LRU if access == READ_ONLY => counters += 1,
                    _ => bail!("thread {name} has a map of type {kind} open: {text}"),
                }
            } else if text.contains("prog_type:") {
                programs += 1;
            } else {
                others += 1;
            }
        }
        nothing_else_is_open(pid, thread)?;
        tables.insert((name == "figures", rings, counters, programs));
        ensure!(name != "figures" || others == 0, "thread {name} has {others} other descriptors");
    }
    let programs = |alone: bool| {
        tables.iter().filter(move |(figures, ..)| *figures == alone).map(|(.., programs)| *programs)
    };
    // The threads have the program that can be run without arguments. The thread for figures cannot run any, and has
    // all.
    ensure!(programs(false).collect::<Vec<_>>() == [1], "programs to be run: {tables:?}");
    ensure!(programs(true).all(|programs| programs > 4), "programs to be read: {tables:?}");
    let maps: BTreeSet<_> =
        tables.iter().map(|(alone, rings, counters, _)| (*alone, *rings, *counters)).collect();
    ensure!(maps == [(false, workers, 3), (true, 0, 0)].into(), "maps: {tables:?}");
    Ok(())
}

//! Loads and attaches the kernel programs of a backend.

use std::fs;

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _, TracePoint},
};
use observer_common::counter::{self, Counter, Protocol};

use super::{Layout, Ring};
use crate::config::{Backend, Config, Filter};

/// The calls of the tracepoint backend; each has a program `exit_<call>`.
const CALLS: [&str; 10] = [
    "read", "readv", "recvfrom", "recvmsg", "recvmmsg", "write", "writev", "sendto", "sendmsg",
    "sendmmsg",
];

/// Programs of every backend, and the raw tracepoints that they are attached to.
const LIFECYCLE: [(&str, &str); 4] = [
    ("sock_state", "inet_sock_set_state"),
    ("process_exit", "sched_process_exit"),
    ("process_exec", "sched_process_exec"),
    ("process_fork", "sched_process_fork"),
];

/// Attached to nothing; run by [`Probes::sweep`].
const SWEEP: &str = "sweep";

/// The loaded and attached programs. Dropped, they are detached.
pub struct Probes {
    ebpf: Ebpf,
    counts: PerCpuArray<MapData, counter::Count>,
    backend: Backend,
}

/// What the kernel programs counted for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How often.
    pub events: u64,
    /// Bytes that it concerns.
    pub bytes: u64,
}

/// A program's own figures, as the kernel keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramFigures {
    /// Its name.
    pub name: String,
    /// How often it ran, while `kernel.bpf_stats_enabled` is 1.
    pub runs: u64,
    /// How long, likewise.
    pub run_time_ns: u64,
    /// How often it was skipped because another program ran on that CPU.
    pub misses: u64,
}

impl Probes {
    /// Loads and attaches the programs: all of them, or none.
    pub fn attach(config: &Config) -> Result<(Self, Ring)> {
        let backend = choose(config.backend)?;
        let layout = Layout::read(&config.btf)?;
        let mut ebpf = load(config, &layout)?;
        select(&mut ebpf, &config.filter)?;
        let ring = ebpf.take_map("RING").context("the kernel programs have no ring")?;
        let ring = Ring::new(RingBuf::try_from(ring)?)?;
        let counts = ebpf.take_map("COUNTS").context("the kernel programs count nothing")?;
        let counts = PerCpuArray::try_from(counts)?;
        attach_all(&mut ebpf)?;
        give_memory_back();
        Ok((Self { ebpf, counts, backend }, ring))
    }

    /// The backend in use.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Why it is in use.
    pub fn reason(&self) -> &'static str {
        "the exits of the calls that read from and write to sockets can be watched"
    }

    /// Has the kernel programs look for connections that ended without a tracepoint.
    pub fn sweep(&self) -> Result<()> {
        let program = self.ebpf.program(SWEEP).context("no sweep program")?;
        let program: &RawTracePoint = program.try_into()?;
        program.test_run(RawTracePointRunOptions::new())?;
        Ok(())
    }

    /// What was counted, summed over the CPUs.
    pub fn counts(&self) -> Result<Vec<(Counter, Count)>> {
        Counter::ALL.iter().map(|&counter| Ok((counter, self.count(counter as u32)?))).collect()
    }

    /// Selected sockets by what they carry.
    pub fn protocols(&self) -> Result<Vec<(Protocol, u64)>> {
        Protocol::ALL
            .iter()
            .map(|&protocol| Ok((protocol, self.count(protocol.position())?.events)))
            .collect()
    }

    fn count(&self, position: u32) -> Result<Count> {
        let values = self.counts.get(&position, 0)?;
        Ok(values.iter().fold(Count { events: 0, bytes: 0 }, |sum, [events, bytes]| Count {
            events: sum.events + events,
            bytes: sum.bytes + bytes,
        }))
    }

    /// The programs' own figures.
    pub fn programs(&self) -> Vec<ProgramFigures> {
        self.ebpf.programs().filter_map(|(name, program)| figures(name, program).ok()).collect()
    }
}

/// Reading the kernel's types and loading took some 12 MiB, which are not needed again.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Which backend to use.
fn choose(wanted: Backend) -> Result<Backend> {
    match wanted {
        Backend::Auto | Backend::Tracepoint => Ok(Backend::Tracepoint),
        Backend::Fentry | Backend::Kprobe => {
            bail!("this version has no {wanted} programs: use --backend tracepoint or auto")
        }
    }
}

fn load(config: &Config, layout: &Layout) -> Result<Ebpf> {
    let filter = &config.filter;
    let filter_ports = u32::from(!filter.ports.is_empty());
    let filter_processes = u32::from(!filter.selects_all_processes());
    let follow_children = u32::from(filter.children);
    let ring_size = config.ring_size.bytes();
    // Half full: enough time is left for the daemon to come before the rest is.
    let wake_at = ring_size / 2;
    EbpfLoader::new()
        // Only for relocations, of which rustc emits none; reading it takes time and memory.
        .btf(None)
        .override_global("OFFSETS", &layout.offsets, true)
        .override_global("FILTER_PORTS", &filter_ports, true)
        .override_global("FILTER_PROCESSES", &filter_processes, true)
        .override_global("FOLLOW_CHILDREN", &follow_children, true)
        .override_global("WAKE_AT", &wake_at, true)
        .map_max_entries("RING", ring_size)
        .map_max_entries("CONNECTIONS", config.max_connections)
        .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer-ebpf")))
        .context("the kernel refused the maps of the kernel programs")
}

/// Fills the maps of the filters, before anything is attached.
fn select(ebpf: &mut Ebpf, filter: &Filter) -> Result<()> {
    let mut ports: Array<_, u64> = map(ebpf, "PORTS")?.try_into()?;
    let mut bits = [0_u64; 1024];
    for port in filter.ports.iter() {
        if let Some(word) = bits.get_mut(usize::from(port >> 6)) {
            *word |= 1 << (port & 63);
        }
    }
    for (index, word) in bits.iter().enumerate().filter(|(_, word)| **word != 0) {
        ports.set(index as u32, word, 0)?;
    }
    let mut pids: HashMap<_, u32, u8> = map(ebpf, "PIDS")?.try_into()?;
    for pid in &filter.pids {
        pids.insert(pid, 1, 0).context("too many --pid")?;
    }
    let mut comms: HashMap<_, [u8; 16], u8> = map(ebpf, "COMMS")?.try_into()?;
    for comm in &filter.comms {
        comms.insert(comm.bytes(), 1, 0).context("too many --comm: 256 names can be selected")?;
    }
    Ok(())
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::maps::Map> {
    ebpf.map_mut(name).ok_or_else(|| anyhow!("the kernel programs have no map {name}"))
}

fn attach_all(ebpf: &mut Ebpf) -> Result<()> {
    let refused = |name: &str| format!("the kernel refused the program {name}");
    for call in CALLS {
        let name = format!("exit_{call}");
        let program: &mut TracePoint = program(ebpf, &name)?.try_into()?;
        program.load().with_context(|| refused(&name))?;
    }
    for (name, _) in LIFECYCLE.into_iter().chain([(SWEEP, "")]) {
        let program: &mut RawTracePoint = program(ebpf, name)?.try_into()?;
        program.load().with_context(|| refused(name))?;
    }
    for (name, tracepoint) in LIFECYCLE {
        let program: &mut RawTracePoint = program(ebpf, name)?.try_into()?;
        program.attach(tracepoint).with_context(|| format!("cannot attach to {tracepoint}"))?;
    }
    for call in CALLS {
        let name = format!("exit_{call}");
        let tracepoint = format!("sys_exit_{call}");
        let program: &mut TracePoint = program(ebpf, &name)?.try_into()?;
        program
            .attach("syscalls", &tracepoint)
            .with_context(|| format!("cannot attach to syscalls:{tracepoint}"))?;
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::programs::Program> {
    ebpf.program_mut(name).ok_or_else(|| anyhow!("there is no program {name}"))
}

/// Reads a program's figures. aya has no accessor for the misses; the kernel also prints them in
/// the file descriptor's `fdinfo` (`bpf_prog_show_fdinfo`).
fn figures(name: &str, program: &aya::programs::Program) -> Result<ProgramFigures> {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let fd = program.fd()?.as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
            .unwrap_or(0)
    };
    Ok(ProgramFigures {
        name: name.to_owned(),
        runs: field("run_cnt"),
        run_time_ns: field("run_time_ns"),
        misses: field("recursion_misses"),
    })
}

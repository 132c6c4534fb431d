//! The loaded and attached BPF programs, and what they count.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    mem,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Error, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use aya_obj::generated::bpf_map_type;
use observer_common::{
    counter::{self, Counter, CountsOfProcess, Protocol},
    layout::{Field, NOWHERE},
    selected,
    settings::Settings,
    writer::{self, Writer},
};
use zerocopy::{IntoBytes as _, transmute};

#[cfg(feature = "kernel-log")]
use super::log;
use super::{
    Layout, Preemption, Ring,
    choice::{Losses, choose},
    figures::Figures,
    preemption,
    programs::{self, Link},
    sys, tracefs,
    uprobes::{self, Method, Uprobes},
};
use crate::{
    clock,
    config::{self, Backend, CgroupName, Config, Filter, Ports, Tls},
    files::first_of,
    memory,
    metrics::{DroppedRecords, Gap, Program},
    system_paths::SystemPaths,
};
use observer_core::process::Comm;

/// The loaded and attached programs. When this is dropped, they are detached.
///
/// Only the maps with counters are kept open, to be read; the others are closed once the programs are attached.
pub struct Probes {
    _links: Vec<Link>,
    /// The program of [`Self::sweep`].
    sweep: OwnedFd,
    /// All programs, until they are handed over to `figures`.
    programs: Vec<(String, OwnedFd)>,
    figures: Option<Figures>,
    sizes: Vec<ProgramSize>,
    counts: PerCpuArray<MapData, counter::Count>,
    writers: Writers,
    others: HashMap<MapData, u32, CountsOfProcess>,
    tls: Option<TlsProbes>,
    tls_absent: Option<Error>,
    backend: Backend,
    reason: String,
    #[cfg(feature = "kernel-log")]
    print: log::Print,
}

/// The words of a [`Writer`], by ring and process.
type Writers = HashMap<MapData, u64, [u64; size_of::<Writer>() / size_of::<u64>()]>;

/// The program for the places of TLS libraries, which is not attached yet.
pub struct TlsProbes {
    /// The program.
    pub uprobes: Uprobes,
    /// Processes that use TLS, by pid, each once.
    pub pids: RingBuf<MapData>,
}

/// The size of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSize {
    /// The name of the program.
    pub name: String,
    /// Instructions that the verifier followed; kernels before 5.16 do not report them.
    pub verified: Option<u32>,
    /// Bytes of machine code; `None` without a JIT compiler.
    pub machine_code: Option<u32>,
    /// Instructions after the verifier's rewriting.
    pub instructions: u32,
}

impl Display for ProgramSize {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, verified, machine_code, instructions } = self;
        write!(f, "{name}: {instructions} instructions")?;
        if let Some(verified) = verified {
            write!(f, ", {verified} verified")?;
        }
        if let Some(bytes) = machine_code {
            write!(f, ", {bytes} bytes of machine code")?;
        }
        Ok(())
    }
}

impl Probes {
    /// Loads and attaches the programs of the configured backend, or of the best one that this kernel allows: all of
    /// them, or none. Returns a ring for each worker.
    pub fn attach(config: &Config) -> Result<(Self, Vec<Ring>)> {
        needs_bpf_loop()?;
        let layout = Layout::read(&config.btf)?;
        needs_groups(&config.filter, &layout)?;
        let places = SystemPaths::default();
        let losses = Losses {
            preemption: Preemption::of(&places),
            in_syscalls: layout.syscalls_preempt,
            in_raw_tracepoints: preemption::is_in_raw_tracepoints(&places),
        };
        let method = match config.tls {
            Tls::Auto => Some(Method::available()),
            Tls::Off => None,
        };
        let attempt = |backend| {
            let method = method.as_ref().and_then(|method| method.as_ref().ok()).copied();
            let counted_only = losses.are_of(backend);
            match Self::attempt(backend, config, &layout, counted_only, method) {
                Err(error) if error.is::<TlsRefused>() => {
                    let (mut probes, rings) =
                        Self::attempt(backend, config, &layout, counted_only, None)?;
                    probes.tls_absent = Some(error);
                    Ok((probes, rings))
                }
                attempted => attempted,
            }
        };
        let (_, reason, (mut probes, rings)) = choose(config.backend, losses, attempt)?;
        probes.reason = reason;
        if let Some(Err(error)) = method {
            probes.tls_absent = Some(error);
        }
        // Reading the kernel's types and loading took some 12 MiB, which are not needed again.
        memory::give_back();
        Ok((probes, rings))
    }

    /// Attaches the programs of one backend. After an error, nothing remains in the kernel.
    fn attempt(
        backend: Backend,
        config: &Config,
        layout: &Layout,
        counted_only: bool,
        method: Option<Method>,
    ) -> Result<(Self, Vec<Ring>)> {
        layout.supports(backend)?;
        let mut ebpf = load(backend, config, layout, counted_only, method.is_some())?;
        select(&mut ebpf, config)?;
        let tls = method.map(|method| tls(&mut ebpf, layout, method).context(TlsRefused));
        let tls = tls.transpose()?;
        let rings = rings(&mut ebpf, config)?;
        let counts = ebpf.take_map("COUNTS").context("the BPF programs have no map COUNTS")?;
        let counts = PerCpuArray::try_from(counts)?;
        let writers = ebpf.take_map("WRITERS").context("the BPF programs have no map WRITERS")?;
        let writers = HashMap::try_from(writers)?;
        let others = ebpf.take_map("OTHERS").context("the BPF programs have no map OTHERS")?;
        let others = HashMap::try_from(others)?;
        #[cfg(feature = "kernel-log")]
        let print = log::printer(&mut ebpf)?;
        let mut attach = || programs::attach(&mut ebpf, backend, config, layout);
        let links = match backend {
            Backend::Socket | Backend::Fentry | Backend::Kprobe => attach()?,
            Backend::Tracepoint | Backend::Auto => {
                tracefs::at_hand(&SystemPaths::default().tracefs, attach)?
            }
        };
        freeze(&ebpf)?;
        let (sweep, mut programs) = opened(&ebpf)?;
        let mut sizes = sizes(&ebpf);
        if let Some(TlsProbes { uprobes, pids: _ }) = &tls {
            sizes.push(uprobes.size());
            let program = uprobes.program().try_clone_to_owned();
            programs.push((uprobes::PROGRAM.into(), program.context("cannot open a BPF program")?));
        }
        // With `ebpf` all other maps are closed; the programs keep them alive.
        let probes = Self {
            _links: links,
            sweep,
            programs,
            figures: None,
            sizes,
            counts,
            writers,
            others,
            tls,
            tls_absent: None,
            backend,
            reason: String::new(),
            #[cfg(feature = "kernel-log")]
            print,
        };
        Ok((probes, rings))
    }

    /// Hands the programs over to a thread that can only read their [figures](Self::programs). To be called once
    /// privileges are dropped.
    pub fn hand_over(&mut self) -> Result<()> {
        self.figures = Some(Figures::of(mem::take(&mut self.programs))?);
        Ok(())
    }

    /// Takes the program for TLS libraries. The error says why there is none with `--tls auto`.
    pub fn take_tls(&mut self) -> Result<Option<TlsProbes>> {
        self.tls_absent.take().map_or_else(|| Ok(self.tls.take()), Err)
    }

    /// The backend in use.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Why this backend is in use, and why those that are preferred to it are not.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Writes the log lines of the BPF programs since the last call.
    #[cfg(feature = "kernel-log")]
    pub fn print_log(&mut self) {
        (self.print)();
    }

    /// Makes the BPF programs look for connections that ended without a tracepoint.
    pub fn sweep(&self) -> Result<()> {
        sys::run(self.sweep.as_fd()).context("cannot run the BPF program sweep")
    }

    /// The gaps that the BPF programs counted, by cause, summed over the CPUs.
    pub fn gaps(&self) -> Result<Vec<Gap>> {
        let gap = |&counter: &Counter| {
            let [events, bytes] = self.count(counter as u32)?;
            Ok(Gap { cause: counter.label(), events, bytes })
        };
        Counter::ALL.iter().map(gap).collect()
    }

    /// Number of events that were not reported and may have been a process's exit.
    pub fn ends_unreported(&self) -> Result<u64> {
        let [ring_full, _] = self.count(Counter::RingFull as u32)?;
        let [processes_full, _] = self.count(Counter::ProcessesFull as u32)?;
        Ok(ring_full + processes_full)
    }

    /// The processes with most dropped records, at most `most` of them. O(processes that wrote into the last quarter of
    /// a ring).
    pub fn dropped(&self, most: usize) -> Result<Vec<DroppedRecords>> {
        if self.count(Counter::RingFull as u32)? == [0; 2] {
            return Ok(Vec::new());
        }
        let mut dropped: BTreeMap<u32, DroppedRecords> = BTreeMap::new();
        for entry in &self.writers {
            // An entry that is removed meanwhile makes the kernel start again from the first.
            let Ok((key, words)) = entry else { break };
            let writer: Writer = transmute!(words);
            let pid = writer::pid(key);
            let new = || DroppedRecords { pid, comm: Comm::new([0; 16]), records: 0 };
            let of = dropped.entry(pid).or_insert_with(new);
            of.records += writer.dropped;
            if writer.dropped > 0 && writer.comm != [0; 16] {
                of.comm = Comm::new(writer.comm);
            }
        }
        let mut dropped: Vec<_> = dropped.into_values().filter(|of| of.records > 0).collect();
        dropped.sort_by_key(|of| (Reverse(of.records), of.pid));
        dropped.truncate(most);
        Ok(dropped)
    }

    /// Number of selected sockets, by protocol.
    pub fn protocols(&self) -> Result<Vec<(Protocol, u64)>> {
        let seen = |&protocol: &Protocol| Ok((protocol, self.count(protocol.position())?[0]));
        Protocol::ALL.iter().map(seen).collect()
    }

    /// Number of sockets that are not watched, by process and protocol. O(processes).
    pub fn others(&self) -> Vec<(u32, CountsOfProcess)> {
        // An entry that is removed meanwhile makes the kernel start again from the first.
        let mut others: BTreeMap<u32, CountsOfProcess> = BTreeMap::new();
        others.extend(self.others.iter().map_while(Result::ok));
        others.into_iter().collect()
    }

    /// Events and bytes of one counter, summed over the CPUs.
    fn count(&self, position: u32) -> Result<counter::Count> {
        let values = self.counts.get(&position, 0)?;
        Ok(values.iter().fold([0; 2], |sum, value| [sum[0] + value[0], sum[1] + value[1]]))
    }

    /// Sizes of the loaded programs, sorted by name.
    pub fn sizes(&self) -> &[ProgramSize] {
        &self.sizes
    }

    /// The programs' own figures, once they are [handed over](Self::hand_over).
    pub fn programs(&self) -> Result<Vec<Program>> {
        self.figures.as_ref().map_or_else(|| Ok(Vec::new()), Figures::read)
    }
}

/// The reason for which the programs are loaded once more, without TLS.
#[derive(Debug)]
struct TlsRefused;

impl Display for TlsRefused {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the BPF programs for TLS cannot be loaded")
    }
}

fn tls(ebpf: &mut Ebpf, layout: &Layout, method: Method) -> Result<TlsProbes> {
    let preemption = layout.preemption.clone().map_err(Error::msg)?;
    let uprobes = Uprobes::load(ebpf, OBJECT, method, preemption)?;
    let pids = ebpf.take_map("TLS_PIDS").context("the BPF programs have no map TLS_PIDS")?;
    Ok(TlsProbes { uprobes, pids: RingBuf::try_from(pids)? })
}

fn sizes(ebpf: &Ebpf) -> Vec<ProgramSize> {
    let mut sizes = Vec::new();
    for (name, program) in ebpf.programs() {
        // Not loaded: it belongs to another backend.
        let Ok(info) = program.info() else { continue };
        sizes.push(ProgramSize {
            name: name.to_owned(),
            verified: info.verified_instruction_count(),
            machine_code: Some(info.size_jitted()).filter(|&bytes| bytes != 0),
            instructions: info.size_translated().unwrap_or(0) / 8,
        });
    }
    sizes.sort_by(|a, b| a.name.cmp(&b.name));
    sizes
}

/// Entries of a map with a bit for each port.
const PORT_WORDS: u32 = 1024;

/// The maps that select what is watched.
const FILTERS: [&str; 6] = ["PORTS", "THRIFT_PORTS", "PIDS", "COMMS", "UIDS", "CGROUPS"];

/// Makes the filters read-only for every process: only the BPF programs can still write them. aya freezes the globals.
fn freeze(ebpf: &Ebpf) -> Result<()> {
    for name in FILTERS {
        let map = ebpf.map(name).with_context(|| format!("the BPF programs have no map {name}"))?;
        let (Map::Array(map) | Map::HashMap(map)) = map else {
            anyhow::bail!("the map {name} has the wrong type");
        };
        sys::freeze(map.fd().as_fd()).with_context(|| format!("cannot freeze the map {name}"))?;
    }
    Ok(())
}

/// The program of [`Probes::sweep`], and all that are loaded, by name.
fn opened(ebpf: &Ebpf) -> Result<(OwnedFd, Vec<(String, OwnedFd)>)> {
    let (mut sweep, mut others) = (None, Vec::new());
    for (name, program) in ebpf.programs() {
        // Not loaded: it belongs to another backend.
        let Ok(program) = program.fd() else { continue };
        let program = program.as_fd().try_clone_to_owned().context("cannot open a BPF program")?;
        if name == programs::SWEEP {
            sweep = Some(program.try_clone().context("cannot open a BPF program")?);
        }
        others.push((name.to_owned(), program));
    }
    Ok((sweep.context("there is no BPF program sweep")?, others))
}

/// Returns an error on kernels without `bpf_loop`: the verifier does not follow a bounded loop with as many iterations
/// as a transfer can take.
fn needs_bpf_loop() -> Result<()> {
    let has = is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_loop)
        .context("cannot find out whether the kernel has bpf_loop")?;
    ensure!(has, "this kernel has no bpf_loop: Linux 5.17 or later is needed");
    Ok(())
}

/// Returns an error if `--cgroup` cannot work: it compares cgroups of version 2, where a process of version 1 is in the
/// root.
fn needs_groups(filter: &Filter, layout: &Layout) -> Result<()> {
    if filter.cgroups.is_empty() {
        return Ok(());
    }
    let mounts = first_of(Path::new("/proc/self/mountinfo"), 1 << 20).unwrap_or_default();
    let is_mounted = mounts.windows(9).any(|text| text == b" cgroup2 ");
    let has = |field: Field| layout.offsets.get(field as usize).is_some_and(|at| *at != NOWHERE);
    ensure!(
        is_mounted && has(Field::TaskCgroups) && has(Field::NodeParent),
        "--cgroup needs cgroups of version 2, and this machine does not use them: select with \
         --uid or --comm"
    );
    Ok(())
}

/// Maximum number of threads that are in a function of the kprobe backend at once.
const MAX_ENTERED: u32 = 32_768;

/// Maximum number of threads that are in a system call for several messages at once, with the socket backend.
const MAX_MULTIPLE: u32 = 4_096;

/// Sizes of the maps for TLS connections, if they are followed: connections, their keys by
/// socket, their randoms, the processes that have some,
/// calls of TLS libraries that are under way, objects of these, threads that read, and slots for invocations that may sleep.
const TLS_MAPS: [(&str, u32); 8] = [
    ("SECURED", 16_384),
    ("TLS_SOCKETS", 16_384),
    ("RANDOMS", 32_768),
    ("TLS_ANNOUNCED", 4_096),
    ("TLS_CALLS", 32_768),
    ("TLS_TIES", 32_768),
    ("TLS_READS", 4_096),
    ("TLS_SCRATCH", 8),
];

/// The BPF programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer-ebpf"));

/// Loads the object and creates its maps. `counted_only` limits watching to sockets that count their bytes, where a
/// missed transfer shows.
fn load(
    backend: Backend,
    config: &Config,
    layout: &Layout,
    counted_only: bool,
    with_tls: bool,
) -> Result<Ebpf> {
    let settings = settings(config, layout, counted_only, with_tls);
    let mut loader = EbpfLoader::new();
    #[cfg(feature = "kernel-log")]
    let level = log::level();
    #[cfg(feature = "kernel-log")]
    loader.override_global(log::LEVEL, &level, true);
    for (name, entries) in TLS_MAPS {
        loader.map_max_entries(name, if settings.tls == 0 { 1 } else { entries });
    }
    loader
        // It is only for relocations, which rustc does not emit; reading it takes time and memory.
        .btf(None)
        .override_global("SETTINGS", settings.as_bytes(), true)
        .map_max_entries("ENTERED", if backend == Backend::Kprobe { MAX_ENTERED } else { 1 })
        .map_max_entries("MULTIPLE", if backend == Backend::Socket { MAX_MULTIPLE } else { 1 })
        .map_max_entries("CONNECTIONS", config.max_connections)
        .map_max_entries("THRIFT_PORTS", if settings.thrift_ports == 0 { 1 } else { PORT_WORDS })
        .map_max_entries("THRIFT", if config.protocols.thrift { config.max_connections } else { 1 })
        .load(OBJECT)
        .context("the kernel refused the maps of the BPF programs")
}

fn settings(config: &Config, layout: &Layout, counted_only: bool, with_tls: bool) -> Settings {
    let filter = &config.filter;
    Settings {
        offsets: layout.offsets,
        iterator_kinds: layout.iterator_kinds,
        receive_parameters: layout.receive_parameters,
        rings: config.workers,
        // Half full: that leaves the daemon enough time before the ring is full.
        wake_at: config.ring_size.bytes() / 2,
        tick_ns: clock::tick_ns(),
        max_connections: config.max_connections,
        counted_only: counted_only.into(),
        filter_ports: (!filter.ports.is_empty()).into(),
        filter_processes: (!filter.selects_all_processes()).into(),
        filter_uids: (!filter.uids.is_empty()).into(),
        filter_cgroups: (!filter.cgroups.is_empty()).into(),
        follow_children: filter.children.into(),
        tls: with_tls.into(),
        grpc: config.protocols.grpc.into(),
        thrift: config.protocols.thrift.into(),
        thrift_ports: (!config.thrift_ports.is_empty()).into(),
        web: config.relatives.any().into(),
    }
}

/// Creates the rings, one for each worker, and passes them to the BPF programs.
fn rings(ebpf: &mut Ebpf, config: &Config) -> Result<Vec<Ring>> {
    let mut of_programs: ArrayOfMaps<_, RingBuf<MapData>> = map(ebpf, "RINGS")?.try_into()?;
    let ring = |number| {
        let kind = bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
        let ring = aya_obj::Map::new_from_params(kind, 0, 0, config.ring_size.bytes(), 0);
        let ring = MapData::create(ring, "RING", None).context("cannot create a ring buffer")?;
        let ring = RingBuf::try_from(Map::RingBuf(ring))?;
        of_programs.set(number, &ring, 0)?;
        Ring::new(ring)
    };
    (0..config.workers).map(ring).collect()
}

/// Fills the maps of the filters, before anything is attached.
fn select(ebpf: &mut Ebpf, config: &Config) -> Result<()> {
    let filter = &config.filter;
    fill_ports(ebpf, "PORTS", &filter.ports)?;
    fill_ports(ebpf, "THRIFT_PORTS", &config.thrift_ports)?;
    fill(ebpf, "PIDS", filter.pids.iter().copied(), "too many processes with --pid")?;
    let comms = filter.comms.iter().map(config::Comm::bytes);
    fill(ebpf, "COMMS", comms, "too many --comm: 256 names can be selected")?;
    fill(ebpf, "UIDS", filter.uids.iter().copied(), "too many --uid: 256 users can be selected")?;
    let cgroups = filter.cgroups.iter().map(CgroupName::bytes);
    fill(ebpf, "CGROUPS", cgroups, "too many --cgroup: 64 cgroups can be selected")
}

/// Sets the ports' bits in the map `name`.
fn fill_ports(ebpf: &mut Ebpf, name: &str, ports: &Ports) -> Result<()> {
    let mut map: Array<_, u64> = map(ebpf, name)?.try_into()?;
    let mut bits = [0_u64; PORT_WORDS as usize];
    for port in ports.iter() {
        if let Some(word) = bits.get_mut(usize::from(port >> 6)) {
            *word |= 1 << (port & 63);
        }
    }
    for (index, word) in bits.iter().enumerate().filter(|(_, word)| **word != 0) {
        map.set(index as u32, word, 0)?;
    }
    Ok(())
}

/// Adds the keys to the map `name`, as selected for good. `too_many` is the error if there is no room for all.
fn fill<K: Pod>(
    ebpf: &mut Ebpf,
    name: &str,
    keys: impl IntoIterator<Item = K>,
    too_many: &'static str,
) -> Result<()> {
    let mut map: HashMap<_, K, u8> = map(ebpf, name)?.try_into()?;
    keys.into_iter().try_for_each(|key| map.insert(key, selected::FOR_GOOD, 0)).context(too_many)
}

pub(super) fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map> {
    ebpf.map_mut(name).ok_or_else(|| anyhow!("the BPF programs have no map {name}"))
}

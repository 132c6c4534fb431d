//! The BPF programs, loaded and attached, and what they count.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    mem,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use aya_obj::generated::bpf_map_type;
use observer_common::{
    counter::{self, Counter, Protocol},
    layout::{Field, NOWHERE},
    selected::{self, CGROUP_NAME},
    settings::Settings,
    writer::{self, Writer},
};
use zerocopy::{IntoBytes as _, transmute};

#[cfg(feature = "kernel-log")]
use super::log;
use super::{
    Layout, Preemption, Ring,
    choice::{Losses, choose},
    figures::{Figures, ProgramFigures},
    preemption,
    programs::{self, Link},
    sys, tracefs,
};
use crate::{
    clock,
    config::{Backend, Config, Filter},
    files::first_of,
    memory,
    system_paths::SystemPaths,
};

/// The loaded and attached programs. Dropped, they are detached.
///
/// Of their maps only the counters are open, to be read; the rest is closed once the programs are attached.
pub struct Probes {
    _links: Vec<Link>,
    /// The program of [`Self::sweep`].
    sweep: OwnedFd,
    /// The others, until they are handed over to `figures`.
    programs: Vec<(String, OwnedFd)>,
    figures: Option<Figures>,
    sizes: Vec<ProgramSize>,
    counts: PerCpuArray<MapData, counter::Count>,
    writers: Writers,
    backend: Backend,
    reason: String,
    #[cfg(feature = "kernel-log")]
    print: log::Print,
}

/// The words of a [`Writer`], by ring and process.
type Writers = HashMap<MapData, u64, [u64; size_of::<Writer>() / size_of::<u64>()]>;

/// Records of a process for which a ring had no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The process.
    pub pid: u32,
    /// Name of its main thread then, padded with zero bytes; empty if it was not known.
    pub comm: [u8; 16],
    /// How many.
    pub records: u64,
}

/// What the BPF programs counted for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How often.
    pub events: u64,
    /// Bytes that it concerns.
    pub bytes: u64,
}

/// What a loaded program takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSize {
    /// Its name.
    pub name: String,
    /// Instructions that the verifier followed; kernels before 5.16 do not tell.
    pub verified: Option<u32>,
    /// Bytes of machine code; `None` without a JIT compiler.
    pub machine_code: Option<u32>,
    /// Instructions, as the kernel runs them.
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
    /// Loads and attaches the programs of the backend that was asked for, or of the best that this
    /// kernel allows: all of them, or none. There is a ring for each worker.
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
        let attempt = |backend| Attached::attempt(backend, config, &layout, losses.are_of(backend));
        let (backend, reason, attached) = choose(config.backend, losses, attempt)?;
        // Reading the kernel's types and loading took some 12 MiB, which are not needed again.
        memory::give_back();
        let probes = Self {
            _links: attached.links,
            sweep: attached.sweep,
            programs: attached.programs,
            figures: None,
            sizes: attached.sizes,
            counts: attached.counts,
            writers: attached.writers,
            backend,
            reason,
            #[cfg(feature = "kernel-log")]
            print: attached.print,
        };
        Ok((probes, attached.rings))
    }

    /// Hands the programs over to a thread that can only read their [figures](Self::programs). To be called once
    /// privileges are given up.
    pub fn hand_over(&mut self) -> Result<()> {
        self.figures = Some(Figures::of(mem::take(&mut self.programs))?);
        Ok(())
    }

    /// The backend in use.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Why it is in use: what is wrong with the cheaper ones.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Logs what the BPF programs have said since.
    #[cfg(feature = "kernel-log")]
    pub fn print_log(&mut self) {
        (self.print)();
    }

    /// Has the BPF programs look for connections that ended without a tracepoint.
    pub fn sweep(&self) -> Result<()> {
        sys::run(self.sweep.as_fd()).context("cannot run the BPF program sweep")
    }

    /// What was counted, summed over the CPUs.
    pub fn counts(&self) -> Result<Vec<(Counter, Count)>> {
        Counter::ALL.iter().map(|&counter| Ok((counter, self.count(counter as u32)?))).collect()
    }

    /// How often something could not be told that may have been a process's end.
    pub fn ends_untold(&self) -> Result<u64> {
        let events = |counter: Counter| Ok::<_, anyhow::Error>(self.count(counter as u32)?.events);
        Ok(events(Counter::RingFull)? + events(Counter::ProcessesFull)?)
    }

    /// The processes of which most records found no room in a ring, at most so many. O(processes that wrote into the
    /// last quarter of a ring).
    pub fn dropped(&self, most: usize) -> Result<Vec<Dropped>> {
        if self.count(Counter::RingFull as u32)?.events == 0 {
            return Ok(Vec::new());
        }
        let mut dropped: BTreeMap<u32, Dropped> = BTreeMap::new();
        for entry in &self.writers {
            // One that is forgotten meanwhile makes the kernel begin anew.
            let Ok((key, words)) = entry else { break };
            let writer: Writer = transmute!(words);
            let pid = writer::pid(key);
            let of = dropped.entry(pid).or_insert(Dropped { pid, comm: [0; 16], records: 0 });
            of.records += writer.dropped;
            if writer.dropped > 0 && writer.comm != [0; 16] {
                of.comm = writer.comm;
            }
        }
        let mut dropped: Vec<_> = dropped.into_values().filter(|of| of.records > 0).collect();
        dropped.sort_by_key(|of| (Reverse(of.records), of.pid));
        dropped.truncate(most);
        Ok(dropped)
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

    /// What the loaded programs take, by name.
    pub fn sizes(&self) -> &[ProgramSize] {
        &self.sizes
    }

    /// The programs' own figures, once they are [handed over](Self::hand_over).
    pub fn programs(&self) -> Result<Vec<ProgramFigures>> {
        self.figures.as_ref().map_or_else(|| Ok(Vec::new()), Figures::read)
    }
}

fn sizes(ebpf: &Ebpf) -> Vec<ProgramSize> {
    let mut sizes = Vec::new();
    for (name, program) in ebpf.programs() {
        // Not loaded: of another backend.
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

/// What an attempt with one backend leaves. Dropped, nothing of it remains in the kernel.
struct Attached {
    links: Vec<Link>,
    sweep: OwnedFd,
    programs: Vec<(String, OwnedFd)>,
    sizes: Vec<ProgramSize>,
    counts: PerCpuArray<MapData, counter::Count>,
    writers: Writers,
    rings: Vec<Ring>,
    #[cfg(feature = "kernel-log")]
    print: log::Print,
}

impl Attached {
    fn attempt(
        backend: Backend,
        config: &Config,
        layout: &Layout,
        counted_only: bool,
    ) -> Result<Self> {
        match backend {
            Backend::Socket => layout.for_sockets()?,
            Backend::Fentry | Backend::Kprobe => layout.for_functions()?,
            Backend::Tracepoint | Backend::Auto => layout.for_syscalls()?,
        }
        let mut ebpf = load(backend, config, layout, counted_only)?;
        select(&mut ebpf, &config.filter)?;
        let rings = rings(&mut ebpf, config)?;
        let counts = ebpf.take_map("COUNTS").context("the BPF programs have no map COUNTS")?;
        let counts = PerCpuArray::try_from(counts)?;
        let writers = ebpf.take_map("WRITERS").context("the BPF programs have no map WRITERS")?;
        let writers = HashMap::try_from(writers)?;
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
        let (sweep, programs) = opened(&ebpf)?;
        // With `ebpf` all other maps are closed, which the programs have for themselves.
        Ok(Self {
            links,
            sweep,
            programs,
            sizes: sizes(&ebpf),
            counts,
            writers,
            rings,
            #[cfg(feature = "kernel-log")]
            print,
        })
    }
}

/// The maps that say what is watched.
const FILTERS: [&str; 5] = ["PORTS", "PIDS", "COMMS", "UIDS", "CGROUPS"];

/// Has the filters written by the BPF programs alone from now on, whoever opens them: aya does so with the globals.
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

/// The program of [`Probes::sweep`], and the other ones that are loaded.
fn opened(ebpf: &Ebpf) -> Result<(OwnedFd, Vec<(String, OwnedFd)>)> {
    let (mut sweep, mut others) = (None, Vec::new());
    for (name, program) in ebpf.programs() {
        // Not loaded: of another backend.
        let Ok(program) = program.fd() else { continue };
        let program = program.as_fd().try_clone_to_owned().context("cannot open a BPF program")?;
        if name == programs::SWEEP {
            sweep = Some(program.try_clone().context("cannot open a BPF program")?);
        }
        others.push((name.to_owned(), program));
    }
    Ok((sweep.context("there is no BPF program sweep")?, others))
}

/// Without `bpf_loop` the programs cannot walk over a call: a bounded loop of as many steps as it
/// takes is more than the verifier follows.
fn needs_bpf_loop() -> Result<()> {
    let has = is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_loop)
        .context("cannot find out whether the kernel has bpf_loop")?;
    ensure!(has, "this kernel has no bpf_loop: Linux 5.17 or later is needed");
    Ok(())
}

/// `--cgroup` is about control groups of version 2, of which a process of version 1 is in the root.
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

/// Most threads that are in a function of the kprobe backend at once.
const MAX_ENTERED: u32 = 32_768;

/// Most threads that are in a call on several messages at once, with the socket backend.
const MAX_MULTIPLE: u32 = 4_096;

/// Where calls may be missed only sockets are watched that count their bytes, which shows it.
fn load(backend: Backend, config: &Config, layout: &Layout, counted_only: bool) -> Result<Ebpf> {
    let settings = settings(config, layout, counted_only);
    let mut loader = EbpfLoader::new();
    #[cfg(feature = "kernel-log")]
    let level = log::level();
    #[cfg(feature = "kernel-log")]
    loader.override_global(log::LEVEL, &level, true);
    loader
        // Only for relocations, of which rustc emits none; reading it takes time and memory.
        .btf(None)
        .override_global("SETTINGS", settings.as_bytes(), true)
        .map_max_entries("ENTERED", if backend == Backend::Kprobe { MAX_ENTERED } else { 1 })
        .map_max_entries("MULTIPLE", if backend == Backend::Socket { MAX_MULTIPLE } else { 1 })
        .map_max_entries("CONNECTIONS", config.max_connections)
        .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer-ebpf")))
        .context("the kernel refused the maps of the BPF programs")
}

fn settings(config: &Config, layout: &Layout, counted_only: bool) -> Settings {
    let filter = &config.filter;
    Settings {
        offsets: layout.offsets,
        iterator_kinds: layout.iterator_kinds,
        receive_parameters: layout.receive_parameters,
        rings: config.workers,
        // Half full: enough time is left for the daemon to come before the rest is.
        wake_at: config.ring_size.bytes() / 2,
        tick_ns: clock::tick_ns(),
        max_connections: config.max_connections,
        counted_only: counted_only.into(),
        filter_ports: (!filter.ports.is_empty()).into(),
        filter_processes: (!filter.selects_all_processes()).into(),
        filter_uids: (!filter.uids.is_empty()).into(),
        filter_cgroups: (!filter.cgroups.is_empty()).into(),
        follow_children: filter.children.into(),
    }
}

/// Makes the rings, and gives them to the BPF programs.
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
        pids.insert(pid, selected::FOR_GOOD, 0).context("too many processes with --pid")?;
    }
    let mut comms: HashMap<_, [u8; 16], u8> = map(ebpf, "COMMS")?.try_into()?;
    for comm in &filter.comms {
        comms.insert(comm.bytes(), 1, 0).context("too many --comm: 256 names can be selected")?;
    }
    let mut uids: HashMap<_, u32, u8> = map(ebpf, "UIDS")?.try_into()?;
    for uid in &filter.uids {
        uids.insert(uid, 1, 0).context("too many --uid: 256 users can be selected")?;
    }
    let mut cgroups: HashMap<_, [u8; CGROUP_NAME], u8> = map(ebpf, "CGROUPS")?.try_into()?;
    for cgroup in &filter.cgroups {
        cgroups
            .insert(cgroup.bytes(), 1, 0)
            .context("too many --cgroup: 64 control groups can be selected")?;
    }
    Ok(())
}

pub(super) fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map> {
    ebpf.map_mut(name).ok_or_else(|| anyhow!("the BPF programs have no map {name}"))
}

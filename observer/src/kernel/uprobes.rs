//! The BPF program at the places of TLS libraries, and its links to files.
//!
//! aya attaches uprobes as perf events, one for each place. The kernel also has one link for all places of a file
//! (`BPF_TRACE_UPROBE_MULTI`, Linux 6.6), which needs no capability once the program is open. It takes only programs that
//! are loaded for it, which aya does not do. So the program is parsed a second time and loaded with aya's maps.

use std::{
    collections::{HashMap, HashSet},
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use anyhow::{Context as _, Error, Result, bail, ensure};
use aya::{
    Ebpf, features,
    maps::{Map, MapData},
};
use aya_obj::{Object, generated::bpf_attach_type};

use rustix::thread::{CapabilitySet, capabilities};
use tracing::debug;

use super::{
    ProgramSize,
    private_stack::{EXIT, PreemptionControl, instruction, number},
    sys::{self, Functions},
};

/// The program.
pub(super) const PROGRAM: &str = "tls_hook";

/// The type of perf events of uprobes.
const PMU: &str = "/sys/bus/event_source/devices/uprobe/type";

/// How programs are attached to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One link for all places of a file.
    Multi,
    /// A perf event for each place. This is the number of their type.
    PerfEvents(u32),
}

/// The capabilities that a process needs to open the files of other processes, and their names.
const OPENS_FILES: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    (CapabilitySet::CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE"),
];

/// The capability that it also needs to create perf events.
const PERF_EVENTS: (CapabilitySet, &str) = (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN");

impl Method {
    /// The method that can be used here. The error says why none can, and what to do.
    pub(super) fn available() -> Result<Self> {
        let method = Self::of_this_kernel()?;
        let has = capabilities(None).context("cannot read the process's capabilities")?.effective;
        let needed = method.needed().filter(|(capability, _)| !has.contains(*capability));
        let missing: Vec<&str> = needed.map(|(_, name)| name).collect();
        ensure!(missing.is_empty(), "add {}", missing.join(", "));
        Ok(method)
    }

    /// The capabilities of the process that opens files and creates links.
    pub(crate) fn capabilities(self) -> CapabilitySet {
        self.needed().map(|(capability, _)| capability).collect()
    }

    fn needed(self) -> impl Iterator<Item = (CapabilitySet, &'static str)> {
        let events = matches!(self, Self::PerfEvents(_)).then_some(PERF_EVENTS);
        OPENS_FILES.into_iter().chain(events)
    }

    /// The method that this kernel has. The error says why there is none.
    fn of_this_kernel() -> Result<Self> {
        let instructions = [number(0, 0), instruction(EXIT)];
        let load =
            |attach| sys::load_uprobe(c"tls_try", &instructions, None, c"GPL", attach, &mut []);
        if let Ok(program) = load(bpf_attach_type::BPF_TRACE_UPROBE_MULTI) {
            // A directory is no file to probe: EBADF, if the kernel gets as far as that.
            let tried = sys::link_uprobes(program.as_fd(), c"/", &[0], &[0]);
            if tried.is_err_and(|error| error.raw_os_error() == Some(libc::EBADF)) {
                return Ok(Self::Multi);
            }
        }
        load(bpf_attach_type::BPF_CGROUP_INET_INGRESS)
            .context("this kernel has no sleepable uprobes: Linux 6.0 or later is needed")?;
        let kind = fs::read_to_string(PMU).ok().and_then(|text| text.trim().parse().ok());
        let kind = kind.context("this kernel has no uprobes (CONFIG_UPROBES)")?;
        // Rights are checked before the file, which is none.
        match sys::open_uprobe(kind, c"/", 0) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                bail!("before Linux 6.6 it needs CAP_SYS_ADMIN")
            }
            Ok(_) | Err(_) => Ok(Self::PerfEvents(kind)),
        }
    }

    fn attach_type(self) -> bpf_attach_type {
        match self {
            Self::Multi => bpf_attach_type::BPF_TRACE_UPROBE_MULTI,
            // 0, as for other programs of perf events.
            Self::PerfEvents(_) => bpf_attach_type::BPF_CGROUP_INET_INGRESS,
        }
    }
}

/// The loaded program.
#[derive(Debug)]
pub struct Uprobes {
    program: OwnedFd,
    /// The number of its instructions.
    instructions: usize,
    method: Method,
}

/// The links of a file. When this is dropped, its places are no longer probed.
#[derive(Debug)]
pub struct FileLinks {
    _links: Vec<OwnedFd>,
}

#[cfg(test)]
impl FileLinks {
    /// No links.
    pub fn none() -> Self {
        Self { _links: Vec::new() }
    }
}

impl Uprobes {
    /// Loads the program of `object`, whose maps are those of `ebpf`. With `preemption`, it is disabled meanwhile.
    pub(super) fn load(
        ebpf: &Ebpf,
        object: &[u8],
        method: Method,
        preemption: Option<PreemptionControl>,
    ) -> Result<Self> {
        let mut object = Object::parse(object).context("cannot read the BPF programs")?;
        let btf = match features().btf() {
            Some(features) => {
                object.fixup_and_sanitize_btf(features)?.map(aya_obj::btf::Btf::to_bytes)
            }
            None => None,
        };
        let btf = btf.map(|btf| sys::load_btf(&btf)).transpose().context("cannot load BTF")?;
        let maps = object_maps(ebpf, &object.maps)?;
        let sections: HashSet<usize> =
            object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(maps.iter().map(|(name, fd, map)| (&**name, *fd, map)), &sections)?;
        object.relocate_calls(&sections)?;
        let program = object.programs.get(PROGRAM);
        let program = program.with_context(|| format!("there is no program {PROGRAM}"))?;
        let function = object.functions.get(&program.function_key());
        let function = function.with_context(|| format!("the program {PROGRAM} has no code"))?;
        let name = CString::new(PROGRAM)?;
        let mut instructions = function.instructions.clone();
        let mut records = function.func_info.func_info_bytes();
        if let Some(preemption) = preemption {
            let length = function.func_info_rec_size;
            preemption.disable_in(&mut instructions, &mut records, length)?;
        }
        let functions = btf.as_ref().map(|btf| Functions {
            btf: btf.as_fd(),
            records: &records,
            record_length: function.func_info_rec_size,
        });
        let load = |log: &mut [u8]| {
            let (functions, attach) = (functions.as_ref(), method.attach_type());
            sys::load_uprobe(&name, &instructions, functions, &program.license, attach, log)
        };
        match load(&mut []) {
            Ok(program) => Ok(Self { program, instructions: instructions.len(), method }),
            Err(error) => {
                let mut log = vec![0; 1 << 20];
                // It fails again, or its log is not needed.
                let _ = load(&mut log);
                let words = CStr::from_bytes_until_nul(&log).unwrap_or_default();
                let words = words.to_string_lossy();
                debug!("the kernel refused the program {PROGRAM}: {}", words.trim_end());
                Err(Error::from(error).context(format!("the kernel refused the program {PROGRAM}")))
            }
        }
    }

    /// How it is attached.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The size of the program.
    pub(super) fn size(&self) -> ProgramSize {
        let path = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let text = fs::read_to_string(path).unwrap_or_default();
        let verified = text.lines().find_map(|line| line.strip_prefix("verified_insns:"));
        ProgramSize {
            name: PROGRAM.into(),
            verified: verified.and_then(|number| number.trim().parse().ok()),
            machine_code: None,
            instructions: self.instructions as u32,
        }
    }

    /// The program's descriptor.
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Attaches the program at places of an open file, by offset and cookie: at all of them or none.
    pub fn attach(&self, file: BorrowedFd<'_>, places: &[(u64, u64)]) -> io::Result<FileLinks> {
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let program = self.program.as_fd();
        let links = match self.method {
            Method::Multi => {
                let (offsets, cookies): (Vec<u64>, Vec<u64>) = places.iter().copied().unzip();
                vec![sys::link_uprobes(program, &path, &offsets, &cookies)?]
            }
            Method::PerfEvents(kind) => {
                let mut links = Vec::with_capacity(2 * places.len());
                for &(offset, cookie) in places {
                    let event = sys::open_uprobe(kind, &path, offset)?;
                    // The link is dropped first.
                    links.push(sys::link_event(program, event.as_fd(), cookie)?);
                    links.push(event);
                }
                links
            }
        };
        Ok(FileLinks { _links: links })
    }
}

/// The maps of an object, with the descriptors of those that aya has created. They are copies: the object is changed while
/// they are in use.
fn object_maps(
    ebpf: &Ebpf,
    maps: &HashMap<String, aya_obj::Map>,
) -> Result<Vec<(String, RawFd, aya_obj::Map)>> {
    let mut found = Vec::new();
    for (name, map) in maps {
        let Some(created) = ebpf.map(name) else { continue };
        found.push((name.clone(), data_of(created)?.fd().as_fd().as_raw_fd(), map.clone()));
    }
    ensure!(found.len() == maps.len(), "a map of the BPF programs was not created");
    Ok(found)
}

fn data_of(map: &Map) -> Result<&MapData> {
    Ok(match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::RingBuf(data)
        | Map::Unsupported(data) => data,
        _ => bail!("the BPF programs have a map of another type"),
    })
}

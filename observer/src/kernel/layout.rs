//! What the BPF programs must know about the running kernel, from its BTF: where the fields of its structs are, what
//! kinds of iterators it has, and how its functions are called.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use observer_common::{
    layout::{Field, NOWHERE, Reader},
    settings::{NO_KIND, WITH_ADDRESS, WITH_NEITHER, WITH_NONBLOCK},
};

use super::{btf::Btf, private_stack::PreemptionControl};
use crate::{config::Backend, files::all_of};

/// Maximum size of a kernel's BTF in bytes; usual are some 6 MiB.
const AT_MOST: usize = 64 << 20;

/// The layout of the running kernel's structs and functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offsets in bytes, by the position in [`Field::ALL`]; [`NOWHERE`] if the kernel does not have the field.
    pub offsets: [u32; Field::COUNT],
    /// Kinds of `struct iov_iter`: `ITER_IOVEC`, `ITER_UBUF`.
    pub iterator_kinds: [u32; 2],
    /// Number of parameters of `tcp_recvmsg`.
    pub receive_parameters: u32,
    /// The first thing that the programs at the kernel's functions need and do not find.
    functions: Result<(), String>,
    /// The first thing that the programs at system calls need and do not find.
    syscalls: Result<(), String>,
    /// The first thing that the programs at the tracepoints of sockets need and do not find.
    sockets: Result<(), String>,
    /// Whether the kernel has the functions of MPTCP.
    pub mptcp: bool,
    /// Whether the programs at the tracepoints of system calls can be preempted (`trace_call_bpf_faultable`).
    pub syscalls_preempt: bool,
    /// How the program for TLS libraries disables preemption, if it must.
    pub(super) preemption: Result<Option<PreemptionControl>, String>,
}

impl Layout {
    /// Reads the layout from a file with raw BTF. A field that the programs of all backends need and that is not there
    /// is an error.
    pub fn read(path: &Path) -> Result<Self> {
        let unreadable = || format!("cannot read the kernel's types from {}", path.display());
        let bytes = all_of(path, AT_MOST).with_context(unreadable)?;
        let btf = Btf::parse(&bytes).with_context(unreadable)?;
        Self::of(&btf)
    }

    fn of(btf: &Btf<'_>) -> Result<Self> {
        let mut layout = Self {
            offsets: [NOWHERE; Field::COUNT],
            iterator_kinds: [NO_KIND; 2],
            receive_parameters: 0,
            functions: Ok(()),
            syscalls: Ok(()),
            sockets: Ok(()),
            mptcp: false,
            syscalls_preempt: btf.parameters("trace_call_bpf_faultable").is_some(),
            preemption: PreemptionControl::needed(btf),
        };
        for (place, &field) in layout.offsets.iter_mut().zip(Field::ALL) {
            let (container, paths) = field.place();
            if let Some(offset) = paths.iter().find_map(|path| btf.offset(container, path)) {
                *place = offset;
                continue;
            }
            let missing =
                format!("this kernel's {container} has no {}", paths.first().unwrap_or(&""));
            match field.reader() {
                Reader::All => bail!(
                    "{missing}, which the BPF programs need: please report the kernel's version"
                ),
                Reader::Functions => layout.functions = layout.functions.and(Err(missing)),
                Reader::Syscalls => layout.syscalls = layout.syscalls.and(Err(missing)),
                Reader::Sockets => layout.sockets = layout.sockets.and(Err(missing)),
                Reader::Newer => {}
            }
        }
        let functions = layout.read_functions(btf);
        layout.functions = layout.functions.and(functions);
        Ok(layout)
    }

    fn read_functions(&mut self, btf: &Btf<'_>) -> Result<(), String> {
        let kind = |name| btf.enumerator("iter_type", name);
        let iovec = kind("ITER_IOVEC").ok_or("this kernel's enum iter_type has no ITER_IOVEC")?;
        self.iterator_kinds = [iovec, kind("ITER_UBUF").unwrap_or(NO_KIND)];
        self.mptcp = btf.parameters("mptcp_recvmsg").is_some();
        for function in ["tcp_sendmsg", "unix_stream_sendmsg", "unix_stream_recvmsg"] {
            if btf.parameters(function).is_none() {
                return Err(format!("this kernel has no function {function}"));
            }
        }
        let parameters =
            btf.parameters("tcp_recvmsg").ok_or("this kernel has no function tcp_recvmsg")?;
        self.receive_parameters = parameters.len() as u32;
        let flags = parameters.iter().position(|&name| name == b"flags");
        match (self.receive_parameters, flags) {
            (WITH_NONBLOCK, Some(4)) | (WITH_ADDRESS | WITH_NEITHER, Some(3)) => Ok(()),
            _ => Err("this kernel's tcp_recvmsg has unknown parameters".into()),
        }
    }

    /// Returns an error if the programs of a backend do not find what they need.
    pub(super) fn supports(&self, backend: Backend) -> Result<()> {
        let found = match backend {
            Backend::Socket => self.sockets.as_ref().and(self.syscalls.as_ref()),
            Backend::Fentry | Backend::Kprobe => self.functions.as_ref(),
            Backend::Tracepoint | Backend::Auto => self.syscalls.as_ref(),
        };
        found.copied().map_err(|missing| anyhow!("{missing}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Layout;

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = format!("{:#}", Layout::read(Path::new("/nonexistent")).unwrap_err());
        assert!(error.contains("/nonexistent"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_btf_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not BTF, but long enough to be its header").unwrap();
        let error = format!("{:#}", Layout::read(file.path()).unwrap_err());
        assert!(error.contains("not BTF"), "{error}");
    }
}

//! Commands of bpf(2) for which aya has no function.

use std::{
    ffi::{CStr, c_char},
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{
    BPF_F_SLEEPABLE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type, perf_event_attr,
};

/// Makes a map read-only for user space; BPF programs can still write it (`BPF_MAP_FREEZE`, Linux 5.2).
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}

/// Runs a program of a raw tracepoint once, without arguments (`BPF_PROG_TEST_RUN`, Linux 5.10).
pub(super) fn run(program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.test.prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).map(drop)
}

/// What describes the functions of a program, for callbacks: its BTF, and the records of its functions with their length.
pub(super) struct Functions<'a> {
    pub btf: BorrowedFd<'a>,
    pub records: &'a [u8],
    pub record_length: usize,
}

/// Loads BTF (`BPF_BTF_LOAD`).
pub(super) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: all fields of a union of structs of integers are valid.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = btf.as_ptr() as u64;
    load.btf_size = btf.len() as u32;
    new(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// Loads a sleepable program for uprobes (`BPF_PROG_LOAD`). The verifier's words are written to `log`, as a text that ends
/// with a zero byte.
pub(super) fn load_uprobe(
    name: &CStr,
    instructions: &[bpf_insn],
    functions: Option<&Functions<'_>>,
    license: &CStr,
    attach: bpf_attach_type,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: all fields of a union of structs of integers are valid.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
    load.expected_attach_type = attach as u32;
    load.prog_flags = BPF_F_SLEEPABLE;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = license.as_ptr() as u64;
    if let Some(Functions { btf, records, record_length }) = functions {
        load.prog_btf_fd = btf.as_raw_fd() as u32;
        load.func_info = records.as_ptr() as u64;
        load.func_info_rec_size = *record_length as u32;
        load.func_info_cnt = records.len().checked_div(*record_length).unwrap_or(0) as u32;
    }
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = log.len() as u32;
    }
    for (to, from) in load.prog_name.iter_mut().zip(name.to_bytes().iter().take(15)) {
        // Signed on x86-64, not on aarch64.
        *to = c_char::from_ne_bytes([*from]);
    }
    new(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// Attaches a program at offsets of a file, each with its cookie, in all processes (`BPF_TRACE_UPROBE_MULTI`, Linux 6.6).
pub(super) fn link_uprobes(
    program: BorrowedFd<'_>,
    path: &CStr,
    offsets: &[u64],
    cookies: &[u64],
) -> io::Result<OwnedFd> {
    if offsets.len() != cookies.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut attr = zeroed();
    // SAFETY: all fields of a union of structs of integers are valid.
    let link = unsafe { &mut attr.link_create };
    link.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    link.attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
    // SAFETY: as above.
    let uprobes = unsafe { &mut link.__bindgen_anon_3.uprobe_multi };
    uprobes.path = path.as_ptr() as u64;
    uprobes.offsets = offsets.as_ptr() as u64;
    uprobes.cookies = cookies.as_ptr() as u64;
    uprobes.cnt = offsets.len() as u32;
    new(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Opens a perf event at an offset of a file, for all processes. `kind` is the number of the kernel's PMU `uprobe`.
pub(super) fn open_uprobe(kind: u32, path: &CStr, offset: u64) -> io::Result<OwnedFd> {
    const ALL_PROCESSES: i32 = -1;
    const CPU: i32 = 0;
    const NO_GROUP: i32 = -1;
    const CLOEXEC: u64 = 8;
    // SAFETY: a struct of integers, where 0 is valid for each.
    let mut attr: perf_event_attr = unsafe { mem::zeroed() };
    attr.type_ = kind;
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.__bindgen_anon_3.uprobe_path = path.as_ptr() as u64;
    attr.__bindgen_anon_4.probe_offset = offset;
    // SAFETY: the kernel reads `attr` and the text of its path, which both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            ALL_PROCESSES,
            CPU,
            NO_GROUP,
            CLOEXEC,
        )
    };
    owned(result)
}

/// Attaches a program to a perf event, with a cookie (`bpf_perf_link_attach`, Linux 5.15).
pub(super) fn link_event(
    program: BorrowedFd<'_>,
    event: BorrowedFd<'_>,
    cookie: u64,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: all fields of a union of structs of integers are valid.
    let link = unsafe { &mut attr.link_create };
    link.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    link.__bindgen_anon_2.target_fd = event.as_raw_fd() as u32;
    link.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
    link.__bindgen_anon_3.perf_event.bpf_cookie = cookie;
    new(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of structs of integers, where 0 is valid for each.
    unsafe { mem::zeroed() }
}

/// Runs a command that returns a new descriptor.
fn new(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    owned(bpf(command, attr)?)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most the given number of bytes of `attr`. The pointers in it are of slices
    // and texts that the callers borrow for longer than the call, with their lengths.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

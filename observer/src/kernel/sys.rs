//! Commands of bpf(2) for which aya has no function.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// Makes a map read-only for user space; BPF programs can still write it (`BPF_MAP_FREEZE`, Linux 5.2).
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr)
}

/// Runs a program of a raw tracepoint once, without arguments (`BPF_PROG_TEST_RUN`, Linux 5.10).
pub(super) fn run(program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.test.prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of structs of integers, where 0 is valid for each.
    unsafe { mem::zeroed() }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: the kernel reads and writes at most the given number of bytes of `attr`, and no pointer in it is set.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

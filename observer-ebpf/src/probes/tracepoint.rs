//! The syscall tracepoint backend: the exits of the calls that read from and write to sockets.
//!
//! At the exit of a syscall its argument registers are still in the task's `pt_regs`, so no
//! program is needed at its entry, and the buffers hold what was moved.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::{bpf_loop, generated::bpf_task_pt_regs},
    macros::tracepoint,
    programs::TracePointContext,
};
use observer_common::{counter::Counter, record::direction};

use super::MSG_TRUNC;
use crate::{
    buffers::{self, Shape},
    count::count,
    filter,
    kernel::current_task,
    socket::Socket,
    watch::{Call, watch},
};

/// Offsets of the call's number and of the return value in `struct syscall_trace_exit`.
const NUMBER: usize = 8;
const RETURNED: usize = 16;

/// Most messages of one recvmmsg or sendmmsg that are looked at (`UIO_MAXIOV`).
const MESSAGES_MAX: u64 = 1024;

/// Numbers of the calls (asm/unistd_64.h).
#[cfg(bpf_target_arch = "x86_64")]
mod number {
    pub(super) const READ: u32 = 0;
    pub(super) const WRITE: u32 = 1;
    pub(super) const READV: u32 = 19;
    pub(super) const WRITEV: u32 = 20;
    pub(super) const SENDTO: u32 = 44;
    pub(super) const RECVFROM: u32 = 45;
    pub(super) const SENDMSG: u32 = 46;
    pub(super) const RECVMSG: u32 = 47;
    pub(super) const RECVMMSG: u32 = 299;
    pub(super) const SENDMMSG: u32 = 307;
}

/// Numbers of the calls (asm-generic/unistd.h).
#[cfg(bpf_target_arch = "aarch64")]
mod number {
    pub(super) const READ: u32 = 63;
    pub(super) const WRITE: u32 = 64;
    pub(super) const READV: u32 = 65;
    pub(super) const WRITEV: u32 = 66;
    pub(super) const SENDTO: u32 = 206;
    pub(super) const RECVFROM: u32 = 207;
    pub(super) const SENDMSG: u32 = 211;
    pub(super) const RECVMSG: u32 = 212;
    pub(super) const RECVMMSG: u32 = 243;
    pub(super) const SENDMMSG: u32 = 269;
}

/// The first four argument registers of the syscall that is being left.
struct Arguments([u64; 4]);

impl Arguments {
    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn of_current() -> Self {
        let registers = registers();
        // SAFETY: the verifier knows the pointer's type.
        unsafe { Self([(*registers).rdi, (*registers).rsi, (*registers).rdx, (*registers).r10]) }
    }

    #[cfg(bpf_target_arch = "aarch64")]
    #[inline(always)]
    fn of_current() -> Self {
        let registers = registers();
        // The first register holds the return value by now; `orig_x0`, right after `user_pt_regs`
        // in `struct pt_regs`, holds the first argument.
        // SAFETY: the verifier knows the pointer's type.
        unsafe {
            let first = *registers.add(1).cast::<u64>();
            Self([first, (*registers).regs[1], (*registers).regs[2], (*registers).regs[3]])
        }
    }
}

#[inline(always)]
fn registers() -> *const pt_regs {
    // SAFETY: the current task has registers, as it is in a syscall.
    (unsafe { bpf_task_pt_regs(current_task().cast_mut()) }) as *const pt_regs
}

/// What a call did: which way the bytes went, where they are, and its flags if it has any.
#[inline(always)]
fn meaning(number: u32, arguments: &Arguments) -> Option<(u8, Shape, u32)> {
    const RECEIVED: u8 = direction::RECEIVED;
    const SENT: u8 = direction::SENT;
    let [_, second, third, fourth] = arguments.0;
    Some(match number {
        // read(fd, buf, count)
        number::READ => (RECEIVED, Shape::Flat { base: second }, 0),
        // readv(fd, iov, iovcnt)
        number::READV => (RECEIVED, Shape::Vector { iov: second }, 0),
        // recvfrom(fd, buf, len, flags, …)
        number::RECVFROM => (RECEIVED, Shape::Flat { base: second }, fourth as u32),
        // recvmsg(fd, msg, flags)
        number::RECVMSG => (RECEIVED, Shape::Message { header: second }, third as u32),
        // recvmmsg(fd, msgvec, vlen, flags, …)
        number::RECVMMSG => (RECEIVED, Shape::Messages { headers: second }, fourth as u32),
        // write(fd, buf, count), sendto(fd, buf, len, flags, …)
        number::WRITE | number::SENDTO => (SENT, Shape::Flat { base: second }, 0),
        // writev(fd, iov, iovcnt)
        number::WRITEV => (SENT, Shape::Vector { iov: second }, 0),
        // sendmsg(fd, msg, flags)
        number::SENDMSG => (SENT, Shape::Message { header: second }, 0),
        // sendmmsg(fd, msgvec, vlen, flags)
        number::SENDMMSG => (SENT, Shape::Messages { headers: second }, 0),
        _ => return None,
    })
}

/// Attached to the exit of each of the calls: one program, so that the verifier follows it once.
#[tracepoint]
fn exit(ctx: TracePointContext) -> u32 {
    // SAFETY: `struct syscall_trace_exit` is this long.
    let returned = unsafe { *ctx.as_ptr().add(RETURNED).cast::<i64>() };
    if returned > 0 {
        // SAFETY: likewise.
        let number = unsafe { *ctx.as_ptr().add(NUMBER).cast::<u32>() };
        let _ = try_exit(number, returned as u64);
    }
    0
}

#[inline(always)]
fn try_exit(number: u32, returned: u64) -> Option<()> {
    let pid = filter::current_pid();
    if !filter::selects_process(pid) {
        return None;
    }
    let arguments = Arguments::of_current();
    let socket = Socket::of_fd(arguments.0[0] as u32)?;
    let (sent, shape, flags) = meaning(number, &arguments)?;
    let received = sent == direction::RECEIVED;
    if received && super::leaves_the_stream(flags) {
        return None;
    }
    let total = match shape {
        Shape::Messages { headers } => total_length(headers, returned)?,
        _ => returned,
    };
    let discarded = received && flags & MSG_TRUNC != 0;
    watch(&Call { socket, shape, returned, total, pid, sent, discarded })
}

/// The lengths of an array of `struct mmsghdr`, added up.
struct Total {
    headers: u64,
    bytes: u64,
    unreadable: u64,
}

/// Bytes moved by a call on several messages.
#[inline(always)]
fn total_length(headers: u64, messages: u64) -> Option<u64> {
    let mut total = Total { headers, bytes: 0, unreadable: 0 };
    let messages = if messages < MESSAGES_MAX { messages } else { MESSAGES_MAX };
    let add = add_length as *mut c_void;
    // SAFETY: the callback takes what it is given: this total, which outlives the loop.
    unsafe { bpf_loop(messages as u32, add, (&raw mut total).cast(), 0) };
    if total.unreadable != 0 {
        count(Counter::Unreadable, 0);
        return None;
    }
    Some(total.bytes)
}

extern "C" fn add_length(index: u32, total: *mut c_void) -> i64 {
    // SAFETY: what `total_length` passed.
    let total = unsafe { &mut *total.cast::<Total>() };
    match buffers::message_length(total.headers, u64::from(index)) {
        Some(length) => total.bytes += u64::from(length),
        None => total.unreadable = 1,
    }
    0
}

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

/// Offset of the return value in `struct syscall_trace_exit`.
const RETURNED: usize = 16;

/// Most messages of one recvmmsg or sendmmsg that are looked at (`UIO_MAXIOV`).
const MESSAGES_MAX: u64 = 1024;

/// Argument registers of the syscall that is being left.
struct Arguments(*const pt_regs);

impl Arguments {
    #[inline(always)]
    fn of_current() -> Self {
        // SAFETY: the current task has registers, as it is in a syscall.
        Self(unsafe { bpf_task_pt_regs(current_task().cast_mut()) } as *const pt_regs)
    }

    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn get(&self, n: u32) -> u64 {
        // SAFETY: the verifier knows the pointer's type.
        unsafe {
            match n {
                0 => (*self.0).rdi,
                1 => (*self.0).rsi,
                2 => (*self.0).rdx,
                _ => (*self.0).r10,
            }
        }
    }

    #[cfg(bpf_target_arch = "aarch64")]
    #[inline(always)]
    fn get(&self, n: u32) -> u64 {
        // The first register holds the return value by now; `orig_x0`, right after `user_pt_regs`
        // in `struct pt_regs`, holds the first argument.
        // SAFETY: the verifier knows the pointer's type.
        unsafe {
            match n {
                0 => *self.0.add(1).cast::<u64>(),
                1 => (*self.0).regs[1],
                2 => (*self.0).regs[2],
                _ => (*self.0).regs[3],
            }
        }
    }
}

/// Which argument holds the flags of a receiving call.
const NO_FLAGS: u32 = u32::MAX;

#[inline(always)]
fn leave(ctx: &TracePointContext, sent: u8, flags: u32, shape: fn(&Arguments) -> Shape) -> u32 {
    // SAFETY: `struct syscall_trace_exit` is this long.
    let returned = unsafe { *ctx.as_ptr().add(RETURNED).cast::<i64>() };
    if returned > 0 {
        let _ = try_leave(returned as u64, sent, flags, shape);
    }
    0
}

#[inline(always)]
fn try_leave(returned: u64, sent: u8, flags: u32, shape: fn(&Arguments) -> Shape) -> Option<()> {
    let pid = filter::current_pid();
    if !filter::selects_process(pid) {
        return None;
    }
    let arguments = Arguments::of_current();
    let socket = Socket::of_fd(arguments.get(0) as u32)?;
    let flags = if flags == NO_FLAGS { 0 } else { arguments.get(flags) as u32 };
    if sent == direction::RECEIVED && super::leaves_the_stream(flags) {
        return None;
    }
    let shape = shape(&arguments);
    let total = match shape {
        Shape::Messages { headers } => total_length(headers, returned)?,
        _ => returned,
    };
    let discarded = sent == direction::RECEIVED && flags & MSG_TRUNC != 0;
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

macro_rules! exits {
    ($($name:ident: $direction:ident, $flags:expr, |$arguments:ident| $shape:expr;)*) => {
        $(
            #[tracepoint]
            fn $name(ctx: TracePointContext) -> u32 {
                leave(&ctx, direction::$direction, $flags, |$arguments| $shape)
            }
        )*
    };
}

exits! {
    // read(fd, buf, count)
    exit_read: RECEIVED, NO_FLAGS, |a| Shape::Flat { base: a.get(1) };
    // readv(fd, iov, iovcnt)
    exit_readv: RECEIVED, NO_FLAGS, |a| Shape::Vector { iov: a.get(1) };
    // recvfrom(fd, buf, len, flags, …)
    exit_recvfrom: RECEIVED, 3, |a| Shape::Flat { base: a.get(1) };
    // recvmsg(fd, msg, flags)
    exit_recvmsg: RECEIVED, 2, |a| Shape::Message { header: a.get(1) };
    // recvmmsg(fd, msgvec, vlen, flags, …)
    exit_recvmmsg: RECEIVED, 3, |a| Shape::Messages { headers: a.get(1) };
    // write(fd, buf, count)
    exit_write: SENT, NO_FLAGS, |a| Shape::Flat { base: a.get(1) };
    // writev(fd, iov, iovcnt)
    exit_writev: SENT, NO_FLAGS, |a| Shape::Vector { iov: a.get(1) };
    // sendto(fd, buf, len, flags, …)
    exit_sendto: SENT, 3, |a| Shape::Flat { base: a.get(1) };
    // sendmsg(fd, msg, flags)
    exit_sendmsg: SENT, 2, |a| Shape::Message { header: a.get(1) };
    // sendmmsg(fd, msgvec, vlen, flags)
    exit_sendmmsg: SENT, 3, |a| Shape::Messages { headers: a.get(1) };
}

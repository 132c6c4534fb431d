//! The tracepoint backend: the exits of the system calls that read from and write to sockets.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, helpers::bpf_loop, macros::tracepoint, programs::TracePointContext};
use observer_common::{counter::Counter, record::direction};

use super::{
    MSG_TRUNC,
    syscall::{Meaning, Syscall},
};
use crate::{
    buffers::{self, Shape},
    connections::{ignored::may_be_ours, known},
    count::count,
    filter,
    kernel::current_pid,
    socket::Socket,
    transfer::{Transfer, may_be_left},
    watch::{self, watch_known},
};

/// Offsets of the call's number and of the return value in `struct syscall_trace_exit`.
const NUMBER: usize = 8;
const RETURNED: usize = 16;

/// Most messages of one recvmmsg or sendmmsg that are looked at (`UIO_MAXIOV`).
const MESSAGES_MAX: u64 = 1024;

/// Attached to the exit of each of the calls: one program, so that the verifier follows it once.
#[tracepoint]
fn exit(ctx: TracePointContext) -> u32 {
    // SAFETY: `struct syscall_trace_exit` is this long.
    let returned = unsafe { *ctx.as_ptr().add(RETURNED).cast::<i64>() };
    if returned > 0 {
        // SAFETY: likewise.
        let number = unsafe { *ctx.as_ptr().add(NUMBER).cast::<u32>() };
        let _ = try_exit(number, returned as u64);
    } else if may_be_left(returned as i32) {
        // SAFETY: likewise.
        let number = unsafe { *ctx.as_ptr().add(NUMBER).cast::<u32>() };
        if let Some(socket) = Socket::of_fd(Syscall::left(number).fd()) {
            watch::leave(socket.sock, returned as i32);
        }
    }
    0
}

#[inline(always)]
fn try_exit(number: u32, returned: u64) -> Option<()> {
    let pid = current_pid();
    if !filter::selects_process(pid) {
        return None;
    }
    let call = Syscall::left(number);
    let socket = Socket::of_fd(call.fd())?;
    let Meaning { sent, flags, .. } = call.meaning()?;
    let received = sent == direction::RECEIVED;
    if received && super::leaves_the_stream(flags) {
        return None;
    }
    let known = known(&socket);
    if known.is_none() && !may_be_ours(&socket, sent) {
        return None;
    }
    let discarded = received && flags & MSG_TRUNC != 0;
    let shape = Shape::Elsewhere;
    let transfer = Transfer { socket, shape, returned, total: returned, pid, sent, discarded };
    watch_known(&transfer, known, |transfer| {
        transfer.shape = call.meaning()?.shape;
        if let Shape::Messages { headers, .. } = transfer.shape {
            transfer.total = total_length(headers, returned)?;
        }
        Some(())
    })
}

/// The lengths of an array of `struct mmsghdr`, added up.
struct Total {
    headers: u64,
    bytes: u64,
    unreadable: u64,
}

/// Bytes moved by a system call on several messages.
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

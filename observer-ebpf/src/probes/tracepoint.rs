//! The tracepoint backend: the exits of the system calls that read from and write to sockets.

use aya_ebpf::{EbpfContext, macros::tracepoint, programs::TracePointContext};
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

/// Offsets of the system call's number and of the return value in `struct syscall_trace_exit`.
const NUMBER: usize = 8;
const RETURNED: usize = 16;

/// Attached to the exit of each of the system calls: one program, so that the verifier follows it once.
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
            let Some(total) = buffers::messages_length(headers, returned) else {
                count(Counter::Unreadable, 0);
                return None;
            };
            transfer.total = total;
        }
        Some(())
    })
}

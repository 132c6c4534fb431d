//! The socket backend: the tracepoints after the kernel's `sock_sendmsg` and `sock_recvmsg` (net/socket.c, since Linux
//! 6.3). Every transfer except `splice` from a socket goes through these.
//!
//! The tracepoints pass the socket and the return value. The system call that the task is in shows the buffers. Other
//! transfers (io_uring, Linux AIO, splice, sendfile, kernel threads) are gaps of their length.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};
use observer_common::record::direction;

use super::{MSG_TRUNC, syscall::Syscall};
use crate::{
    buffers::{self, Iovecs, Shape},
    connections::{ignored::may_be_ours, known},
    filter, globals,
    kernel::{Address, current_pid},
    maps::{MULTIPLE, Multiple, Values as _},
    socket::Socket,
    transfer::{Transfer, may_be_left},
    watch,
};

/// `sock_send_length(struct sock *sk, int ret, int flags)`
#[raw_tracepoint(tracepoint = "sock_send_length")]
fn socket_sent(ctx: RawTracePointContext) -> i32 {
    leave(&Moved { sock: ctx.arg(0), returned: ctx.arg(1), flags: 0, sent: direction::SENT })
}

/// `sock_recv_length(struct sock *sk, int ret, int flags)`
#[raw_tracepoint(tracepoint = "sock_recv_length")]
fn socket_received(ctx: RawTracePointContext) -> i32 {
    leave(&Moved {
        sock: ctx.arg(0),
        returned: ctx.arg(1),
        flags: ctx.arg(2),
        sent: direction::RECEIVED,
    })
}

/// The arguments of a tracepoint.
struct Moved {
    sock: Address,
    returned: i32,
    flags: u32,
    /// One of `record::direction`.
    sent: u8,
}

#[inline(always)]
fn leave(moved: &Moved) -> i32 {
    if moved.returned > 0 {
        let _ = try_leave(moved);
    } else {
        if may_be_left(moved.returned) {
            watch::leave(moved.sock, moved.returned);
        }
        end_multiple();
    }
    0
}

#[inline(always)]
fn try_leave(moved: &Moved) -> Option<()> {
    let Moved { sock, returned, flags, sent } = *moved;
    let received = sent == direction::RECEIVED;
    if received && super::leaves_the_stream(flags) {
        return None;
    }
    let socket = Socket::of_sock(sock)?;
    let pid = current_pid();
    let selected = filter::selects_process(pid);
    let known = known(&socket);
    let is_new = known.is_none();
    if is_new && !(selected && may_be_ours(&socket, sent)) {
        return None;
    }
    let returned = returned as u64;
    let discarded = received && flags & MSG_TRUNC != 0;
    let shape = Shape::Elsewhere;
    let transfer = Transfer { socket, shape, returned, total: returned, pid, sent, discarded };
    watch::watch_known(&transfer, known, |transfer| {
        // Another process, or a kernel thread, may use a watched connection too: their transfers are gaps.
        if selected && let Some(shape) = shape_of(moved, is_new) {
            transfer.shape = shape;
        }
        Some(())
    })
}

/// The buffers of a transfer, by the system call that the task is in. `None` if another system call made it.
#[inline(always)]
fn shape_of(moved: &Moved, is_new: bool) -> Option<Shape> {
    let call = Syscall::current()?.meaning()?;
    if call.sent != moved.sent {
        return None;
    }
    // A system call on a file may have the kernel use a socket of its own, as NFS does. The socket of a watched
    // connection is known to be a process's.
    if is_new && Socket::of_fd(call.fd)?.sock != moved.sock {
        return None;
    }
    match call.shape {
        // If the program may be skipped, messages cannot be counted. If the system call may end between two messages
        // because of a timeout, the next system call would continue with the next message.
        Shape::Messages { .. } if call.has_timeout || globals::counted_only() => None,
        Shape::Messages { headers, iovecs } => message(moved, headers, iovecs, call.messages),
        shape => Some(shape),
    }
}

/// The message that a system call on several messages has just moved. The tracepoint does not show which, so they are
/// counted. `None` if that is not certain.
#[inline(never)]
fn message(moved: &Moved, headers: u64, iovecs: Iovecs, messages: u64) -> Option<Shape> {
    let thread = bpf_get_current_pid_tgid();
    // Only this thread writes it.
    let before = MULTIPLE.value(thread).filter(|before| before.headers == headers);
    let n = before.map_or(0, |before| before.next);
    let header = buffers::message_at(headers, n, iovecs);
    let is_last = n + 1 >= messages
        // The system call ends after a message that was sent in part (`__sys_sendmmsg`).
        || moved.sent == direction::SENT
            && buffers::message_room(header, iovecs)? > moved.returned as u64;
    if is_last {
        let _ = MULTIPLE.remove(thread);
    } else {
        MULTIPLE.insert(thread, Multiple { headers, next: n + 1 }, 0).ok()?;
    }
    Some(Shape::Message { header, iovecs })
}

/// Handles that a transfer failed: that ends a system call on several messages.
#[inline(always)]
fn end_multiple() {
    if Syscall::current().is_some_and(|call| call.is_on_messages()) {
        let _ = MULTIPLE.remove(bpf_get_current_pid_tgid());
    }
}

/// Does nothing: if it can be attached, the other programs can too. Cheaper to try than those.
#[raw_tracepoint]
fn socket_try(_: RawTracePointContext) -> i32 {
    0
}

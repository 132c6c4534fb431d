//! The kprobe backend: as the fexit backend, but at the return of a function its arguments are no
//! longer to be had, so they are kept from its entry on.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use observer_common::{counter::Counter, record::direction};

use super::function::{Handle, Returned, leave};
use crate::{
    count::count,
    filter, globals,
    kernel::Address,
    maps::{ENTERED, Entered},
};

/// Which function a thread is in: [`Entered::function`].
mod function {
    pub(super) const TCP_SENDMSG: u32 = 0;
    pub(super) const TCP_RECVMSG: u32 = 1;
    pub(super) const UNIX_STREAM_SENDMSG: u32 = 2;
    pub(super) const UNIX_STREAM_RECVMSG: u32 = 3;
    pub(super) const MPTCP_SENDMSG: u32 = 4;
    pub(super) const MPTCP_RECVMSG: u32 = 5;
}

/// Keeps what a function was called with, for its return. `flags` is the argument that has them.
#[inline(always)]
fn enter(ctx: &ProbeContext, function: u32, flags: Option<usize>) -> u32 {
    if filter::selects_process(filter::current_pid()) {
        let _ = try_enter(ctx, function, flags);
    }
    0
}

#[inline(always)]
fn try_enter(ctx: &ProbeContext, function: u32, flags: Option<usize>) -> Option<()> {
    let handle: Address = ctx.arg(0)?;
    let message: Address = ctx.arg(1)?;
    let flags = match flags {
        Some(n) => ctx.arg::<u32>(n)?,
        None => 0,
    };
    let entered = Entered { handle, message, flags, function };
    if ENTERED.insert(bpf_get_current_pid_tgid(), entered, 0).is_err() {
        count(Counter::EnteredFull, 0);
    }
    Some(())
}

/// What the function that this thread returns from was called with. A return whose entry was
/// missed finds nothing, or another function's.
#[inline(always)]
fn entered(function: u32) -> Option<Entered> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied; only this thread writes it.
    let entered = unsafe { *ENTERED.get(thread)? };
    let _ = ENTERED.remove(thread);
    (entered.function == function).then_some(entered)
}

#[inline(always)]
fn leave_sock(ctx: &RetProbeContext, function: u32, sent: u8) -> u32 {
    if let Some(entered) = entered(function) {
        returned(ctx, &entered, Handle::Sock(entered.handle), sent);
    }
    0
}

#[inline(always)]
fn leave_socket(ctx: &RetProbeContext, function: u32, sent: u8) -> u32 {
    if let Some(entered) = entered(function) {
        returned(ctx, &entered, Handle::Socket(entered.handle), sent);
    }
    0
}

#[inline(always)]
fn returned(ctx: &RetProbeContext, entered: &Entered, handle: Handle, sent: u8) {
    let returned: i32 = ctx.ret();
    let (message, flags) = (entered.message, entered.flags);
    leave(&Returned { handle, message, flags, returned, sent });
}

/// Where a function that receives from a `struct sock` has its flags: see the fexit backend.
#[inline(always)]
fn enter_receive(ctx: &ProbeContext, function: u32) -> u32 {
    match globals::receive_parameters() {
        globals::WITH_NONBLOCK => enter(ctx, function, Some(4)),
        _ => enter(ctx, function, Some(3)),
    }
}

/// `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`
#[kprobe]
fn kprobe_tcp_sendmsg(ctx: ProbeContext) -> u32 {
    enter(&ctx, function::TCP_SENDMSG, None)
}

#[kretprobe]
fn kretprobe_tcp_sendmsg(ctx: RetProbeContext) -> u32 {
    leave_sock(&ctx, function::TCP_SENDMSG, direction::SENT)
}

/// `int mptcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t len)`
#[kprobe]
fn kprobe_mptcp_sendmsg(ctx: ProbeContext) -> u32 {
    enter(&ctx, function::MPTCP_SENDMSG, None)
}

#[kretprobe]
fn kretprobe_mptcp_sendmsg(ctx: RetProbeContext) -> u32 {
    leave_sock(&ctx, function::MPTCP_SENDMSG, direction::SENT)
}

/// `int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)`
#[kprobe]
fn kprobe_unix_stream_sendmsg(ctx: ProbeContext) -> u32 {
    enter(&ctx, function::UNIX_STREAM_SENDMSG, None)
}

#[kretprobe]
fn kretprobe_unix_stream_sendmsg(ctx: RetProbeContext) -> u32 {
    leave_socket(&ctx, function::UNIX_STREAM_SENDMSG, direction::SENT)
}

/// `int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, [int nonblock,] int flags
/// [, int *addr_len])`
#[kprobe]
fn kprobe_tcp_recvmsg(ctx: ProbeContext) -> u32 {
    enter_receive(&ctx, function::TCP_RECVMSG)
}

#[kretprobe]
fn kretprobe_tcp_recvmsg(ctx: RetProbeContext) -> u32 {
    leave_sock(&ctx, function::TCP_RECVMSG, direction::RECEIVED)
}

/// `int mptcp_recvmsg(…)`, as `tcp_recvmsg`
#[kprobe]
fn kprobe_mptcp_recvmsg(ctx: ProbeContext) -> u32 {
    enter_receive(&ctx, function::MPTCP_RECVMSG)
}

#[kretprobe]
fn kretprobe_mptcp_recvmsg(ctx: RetProbeContext) -> u32 {
    leave_sock(&ctx, function::MPTCP_RECVMSG, direction::RECEIVED)
}

/// `int unix_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`
#[kprobe]
fn kprobe_unix_stream_recvmsg(ctx: ProbeContext) -> u32 {
    enter(&ctx, function::UNIX_STREAM_RECVMSG, Some(3))
}

#[kretprobe]
fn kretprobe_unix_stream_recvmsg(ctx: RetProbeContext) -> u32 {
    leave_socket(&ctx, function::UNIX_STREAM_RECVMSG, direction::RECEIVED)
}

/// Does nothing: whether it can be loaded and attached tells whether the others can, for less.
#[kretprobe]
fn kretprobe_try(_: RetProbeContext) -> u32 {
    0
}

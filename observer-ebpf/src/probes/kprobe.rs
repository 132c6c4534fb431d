//! The kprobe backend: as the fentry backend, but the arguments of a function are not available at its return, so they
//! are stored at its entry.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_get_func_ip},
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use observer_common::{counter::Counter, record::direction};

use super::function::{Handle, Returned, leave};
use crate::{
    connections::entered::forget_entered,
    count::count,
    filter, globals,
    kernel::{Address, current_pid},
    maps::{BPF_NOEXIST, ENTERED, Entered, Values as _},
};

/// The first argument: [`Handle::Sock`] or [`Handle::Socket`].
type First = fn(Address) -> Handle;

/// Stores the arguments of a function, for its return. `flags`: the position of the argument with flags.
#[inline(always)]
fn enter(ctx: &ProbeContext, first: First, sent: u8, flags: Option<usize>) -> u32 {
    if filter::selects_process(current_pid()) {
        let _ = try_enter(ctx, first, sent, flags);
    }
    0
}

#[inline(always)]
fn try_enter(ctx: &ProbeContext, first: First, sent: u8, flags: Option<usize>) -> Option<()> {
    let sock = first(ctx.arg(0)?).sock()?;
    let message: Address = ctx.arg(1)?;
    let flags = match flags {
        Some(n) => ctx.arg::<u32>(n)?,
        None => 0,
    };
    let function = function(ctx);
    let entered = Entered { sock, message, function, flags, sent, _reserved: [0; 3] };
    let thread = bpf_get_current_pid_tgid();
    if ENTERED.insert(thread, entered, BPF_NOEXIST).is_ok() {
        return Some(());
    }
    forget_entered(thread);
    if ENTERED.insert(thread, entered, BPF_NOEXIST).is_err() {
        count(Counter::EnteredFull, 0);
    }
    Some(())
}

/// The address of the kernel function that the program is attached to.
#[inline(always)]
fn function(ctx: &impl EbpfContext) -> Address {
    // SAFETY: the context of this program.
    unsafe { bpf_get_func_ip(ctx.as_ptr()) }
}

/// Attached to the return of each of the functions: one program, so that the verifier follows it once.
#[kretprobe]
fn kretprobe_leave(ctx: RetProbeContext) -> u32 {
    let _ = try_return(&ctx);
    0
}

#[inline(always)]
fn try_return(ctx: &RetProbeContext) -> Option<()> {
    let thread = bpf_get_current_pid_tgid();
    // Only this thread writes it.
    let entered = *ENTERED.value(thread)?;
    let _ = ENTERED.remove(thread);
    // If the entry was missed, there is none, or another function's.
    if entered.function != function(ctx) {
        return None;
    }
    let Entered { sock, message, flags, sent, .. } = entered;
    leave(&Returned { handle: Handle::Sock(sock), message, flags, returned: ctx.ret(), sent });
    Some(())
}

/// [`enter`] for a function that receives from a `struct sock`: see the fentry backend for the place of its flags, and
/// for why the argument is not chosen first and then read.
#[inline(always)]
fn enter_receive(ctx: &ProbeContext) -> u32 {
    match globals::receive_parameters() {
        globals::WITH_NONBLOCK => enter(ctx, Handle::Sock, direction::RECEIVED, Some(4)),
        _ => enter(ctx, Handle::Sock, direction::RECEIVED, Some(3)),
    }
}

/// `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`
#[kprobe]
fn kprobe_tcp_sendmsg(ctx: ProbeContext) -> u32 {
    enter(&ctx, Handle::Sock, direction::SENT, None)
}

/// `int mptcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t len)`
#[kprobe]
fn kprobe_mptcp_sendmsg(ctx: ProbeContext) -> u32 {
    enter(&ctx, Handle::Sock, direction::SENT, None)
}

/// `int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)`
#[kprobe]
fn kprobe_unix_stream_sendmsg(ctx: ProbeContext) -> u32 {
    enter(&ctx, Handle::Socket, direction::SENT, None)
}

/// `int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, [int nonblock,] int flags
/// [, int *addr_len])`
#[kprobe]
fn kprobe_tcp_recvmsg(ctx: ProbeContext) -> u32 {
    enter_receive(&ctx)
}

/// `int mptcp_recvmsg(…)`, with the parameters of `tcp_recvmsg`
#[kprobe]
fn kprobe_mptcp_recvmsg(ctx: ProbeContext) -> u32 {
    enter_receive(&ctx)
}

/// `int unix_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`
#[kprobe]
fn kprobe_unix_stream_recvmsg(ctx: ProbeContext) -> u32 {
    enter(&ctx, Handle::Socket, direction::RECEIVED, Some(3))
}

/// Does nothing: if it can be loaded and attached, the other programs can too. Cheaper to try than those.
#[kretprobe]
fn kretprobe_try(_: RetProbeContext) -> u32 {
    0
}

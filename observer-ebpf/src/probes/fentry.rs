//! The fentry backend: the returns (fexit) of the kernel functions that read from and write to sockets. Their arguments
//! are still available then, and the process's buffers hold the bytes.

use core::arch::asm;

use aya_ebpf::{EbpfContext as _, macros::fexit, programs::FExitContext};
use observer_common::record::direction;

use super::function::{Handle, Returned, leave};
use crate::globals;

/// The `N`th value of the context: the arguments, then the return value.
///
/// In assembler, because the compiler would merge the loads of several `N` into one at a computed address, which
/// verifiers before Linux 6.10 refuse ("dereference of modified ctx ptr").
#[inline(always)]
fn value<const N: i16>(ctx: &FExitContext) -> u64 {
    let value: u64;
    // SAFETY: only reads, within the context: the verifier knows its length.
    unsafe {
        asm!("{value} = *(u64 *)({ctx} + {at})", value = out(reg) value, ctx = in(reg) ctx.as_ptr(), at = const N * 8, options(pure, readonly, nostack));
    }
    value
}

/// Flags and return value of a function that receives from a `struct sock`. Linux 5.19 removed its parameter `nonblock`
/// before `flags`, Linux 7.1 removed `addr_len` after it.
#[inline(always)]
fn flags_and_returned(ctx: &FExitContext) -> (u64, u64) {
    match globals::receive_parameters() {
        globals::WITH_NONBLOCK => (value::<4>(ctx), value::<6>(ctx)),
        globals::WITH_ADDRESS => (value::<3>(ctx), value::<5>(ctx)),
        _ => (value::<3>(ctx), value::<4>(ctx)),
    }
}

#[inline(always)]
fn sent(ctx: &FExitContext, handle: Handle) -> i32 {
    let returned = value::<3>(ctx) as i32;
    leave(&Returned { handle, message: value::<1>(ctx), flags: 0, returned, sent: direction::SENT })
}

#[inline(always)]
fn received(ctx: &FExitContext, handle: Handle, flags: u64, returned: u64) -> i32 {
    leave(&Returned {
        handle,
        message: value::<1>(ctx),
        flags: flags as u32,
        returned: returned as i32,
        sent: direction::RECEIVED,
    })
}

/// `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`
#[fexit]
fn fexit_tcp_sendmsg(ctx: FExitContext) -> i32 {
    sent(&ctx, Handle::Sock(value::<0>(&ctx)))
}

/// `int mptcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t len)`
#[fexit]
fn fexit_mptcp_sendmsg(ctx: FExitContext) -> i32 {
    sent(&ctx, Handle::Sock(value::<0>(&ctx)))
}

/// `int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)`
#[fexit]
fn fexit_unix_stream_sendmsg(ctx: FExitContext) -> i32 {
    sent(&ctx, Handle::Socket(value::<0>(&ctx)))
}

/// `int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, [int nonblock,] int flags
/// [, int *addr_len])`
#[fexit]
fn fexit_tcp_recvmsg(ctx: FExitContext) -> i32 {
    let (flags, returned) = flags_and_returned(&ctx);
    received(&ctx, Handle::Sock(value::<0>(&ctx)), flags, returned)
}

/// `int mptcp_recvmsg(…)`, with the parameters of `tcp_recvmsg`
#[fexit]
fn fexit_mptcp_recvmsg(ctx: FExitContext) -> i32 {
    let (flags, returned) = flags_and_returned(&ctx);
    received(&ctx, Handle::Sock(value::<0>(&ctx)), flags, returned)
}

/// `int unix_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`
#[fexit]
fn fexit_unix_stream_recvmsg(ctx: FExitContext) -> i32 {
    received(&ctx, Handle::Socket(value::<0>(&ctx)), value::<3>(&ctx), value::<4>(&ctx))
}

/// Does nothing: if it can be loaded and attached, the other programs can too. Cheaper to try than those.
#[fexit]
fn fexit_try(_: FExitContext) -> i32 {
    0
}

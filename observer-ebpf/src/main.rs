//! The kernel side: sees what sockets send and receive, finds the HTTP/2 frames in it, and sends
//! the daemon what it needs to know of them. Message payload never leaves the kernel.
//!
//! A probe (`probes`) finds the socket (`socket`) and the process's buffers (`buffers`) of a transfer;
//! `watch` finds the connection (`connections`), or decides that the socket is none of ours. What is done with the
//! bytes is decided by `observer_common::driver`, of which `host` has the buffers, the maps and the `record`; `ring` sends it.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::cast_ptr_alignment, reason = "a record begins aligned, and so does every item")]
#![expect(clippy::needless_pass_by_value, reason = "the macros of programs pass contexts so")]

mod buffers;
mod connections;
mod count;
mod filter;
mod globals;
mod host;
mod kernel;
#[cfg(feature = "kernel-log")]
mod log;
mod maps;
mod probes;
mod record;
mod ring;
mod scratch;
mod share;
mod socket;
mod transfer;
mod watch;
mod window;

/// Nothing here panics: bounds are masked, not checked. Should the compiler keep a panic all the
/// same, the endless loop makes the verifier refuse the program instead of hiding it.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers such as `bpf_probe_read_kernel` are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

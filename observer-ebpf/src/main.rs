//! The BPF programs: they capture what sockets send and receive, find the HTTP/2 frames in it, and send records of
//! these to the daemon. No byte of a message leaves the kernel.
//!
//! A probe (`probes`) finds the socket (`socket`) and the process's buffers (`buffers`) of a transfer. `watch` finds
//! the connection (`connections`), or decides that the socket is ignored. `observer_common::driver` decides what
//! happens to the bytes; `host` gives it the buffers, the maps and the `record`, and `ring` sends the record.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::cast_ptr_alignment, reason = "records and items are aligned")]
#![expect(clippy::needless_pass_by_value, reason = "the macros of programs pass contexts by value")]

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
mod thrift;
mod tls;
mod transfer;
mod watch;
mod window;

/// Is never called: bounds are masked, not checked. If the compiler keeps a panic all the same, the verifier refuses
/// the program because of the endless loop.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The license that helpers such as `bpf_probe_read_kernel` require: a GPL-compatible one.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

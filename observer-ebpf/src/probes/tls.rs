//! The program at all probes of TLS libraries.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_attach_cookie, macros::uprobe,
    programs::ProbeContext,
};
use observer_common::{
    counter::Counter,
    record::direction,
    tls::{
        balance::Order,
        cookie::{Cookie, routine},
    },
};

use super::registers::Registers;
use crate::{
    buffers::{Iovecs, Shape},
    count::count,
    filter,
    kernel::{copy_user, current_pid, now_ns},
    scratch,
    tls::{
        calls::{self, Call, Caller, NONE, Plaintext},
        plaintext::{self, Own},
    },
};

/// A type of content (RFC 8446 §5.1).
const APPLICATION_DATA: u8 = 23;

/// Attached to the places that `observer_tls::locate` finds, with a [`Cookie`] that says what a place is.
#[uprobe(sleepable)]
fn tls_hook(ctx: ProbeContext) -> u32 {
    // SAFETY: the context of this program.
    let cookie = Cookie::of_number(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    if let Some(slot) = take(&ctx, cookie) {
        plaintext::watch(slot);
    }
    0
}

/// Takes the plaintext of a place that has some, into a slot. Not inlined: its values would stay on the caller's stack.
#[inline(never)]
fn take(ctx: &ProbeContext, cookie: Cookie) -> Option<&'static mut Own> {
    let plaintext = plaintext_at(cookie, &Registers::of(ctx))?;
    let Some(slot) = scratch::claim_sleepable() else {
        // The balance shows that its bytes are missing.
        count(Counter::ScratchBusy, 0);
        return None;
    };
    slot.plaintext.write(plaintext);
    Some(slot)
}

#[inline(always)]
fn plaintext_at(cookie: Cookie, registers: &Registers) -> Option<Plaintext> {
    if !filter::selects_process(current_pid()) {
        return None;
    }
    let caller =
        if cookie.is_go() { Caller::goroutine(registers.goroutine()) } else { Caller::thread() };
    match (cookie.routine(), cookie.is_return()) {
        (routine::MAKE_CIPHER, _) => {
            plaintext::made(registers.result());
            None
        }
        (routine::DECRYPT, true) => decrypted(cookie, caller),
        (_, true) => leave(cookie, registers, caller),
        (routine::SEAL, _) => seal(cookie, registers),
        (routine::ENCRYPT, _) => encrypt(cookie, registers),
        (routine::DECRYPT, _) => {
            decrypt(cookie, registers, caller);
            None
        }
        _ => {
            enter(cookie, registers, caller);
            None
        }
    }
}

/// Remembers the arguments of a call.
#[inline(always)]
fn enter(cookie: Cookie, registers: &Registers, caller: Caller) {
    let [handle, buffer, _, fourth, fifth, ..] =
        if cookie.is_go() { registers.go_arguments() } else { registers.arguments() };
    let moved = match cookie.routine() {
        routine::READ_EX | routine::WRITE_EX => fourth,
        routine::WRITE_EX2 => fifth,
        _ => 0,
    };
    let routine = u64::from(cookie.routine());
    let entered_ns = now_ns();
    calls::enter(caller, &Call { handle, buffer, moved, socket: NONE, entered_ns, routine });
}

/// The plaintext of a call that returns, if it has moved some.
#[inline(always)]
fn leave(cookie: Cookie, registers: &Registers, caller: Caller) -> Option<Plaintext> {
    let Call { handle, buffer, moved, socket, entered_ns, routine } = calls::leave(caller)?;
    if routine != u64::from(cookie.routine()) {
        return None;
    }
    let returned = registers.result();
    let length = if moved != 0 {
        if returned as u32 != 1 {
            return None;
        }
        copy_user::<u64>(moved)?
    } else if cookie.is_go() {
        returned
    } else {
        // An `int`.
        i64::from(returned as i32) as u64
    };
    if length as i64 <= 0 {
        return None;
    }
    // A library that does not write to the socket itself returns before its records are there.
    let is_before = !cookie.is_read() && socket == NONE;
    let order = if is_before { Order::PlaintextFirst } else { Order::RecordsFirst };
    let sent = if cookie.is_read() { direction::RECEIVED } else { direction::SENT };
    let shape = Shape::Flat { base: buffer };
    // What is sent may be answered before the call returns.
    let time_ns = if cookie.is_read() { 0 } else { entered_ns };
    Some(Plaintext { handle, shape, skip: 0, length, socket, time_ns, cookie, order, sent })
}

/// The plaintext of a record that is being written.
#[inline(always)]
fn seal(cookie: Cookie, registers: &Registers) -> Option<Plaintext> {
    let [handle, _, _, _, kind, base, _] = registers.arguments();
    if kind as u8 != APPLICATION_DATA {
        return None;
    }
    let length = registers.seventh(cookie.pushed())?;
    if length as i64 <= 0 {
        return None;
    }
    Some(Plaintext::of_record(handle, Shape::Flat { base }, length, cookie))
}

/// Remembers a record that rustls decrypts in its place: the message begins with its address and length.
#[inline(always)]
fn decrypt(cookie: Cookie, registers: &Registers, caller: Caller) {
    let [_, handle, message, ..] = registers.arguments();
    if let Some([buffer, length]) = copy_user::<[u64; 2]>(message) {
        let routine = u64::from(cookie.routine());
        calls::enter(
            caller,
            &Call { handle, buffer, moved: length, socket: NONE, entered_ns: 0, routine },
        );
    }
}

/// The plaintext of a record that rustls has decrypted.
#[inline(always)]
fn decrypted(cookie: Cookie, caller: Caller) -> Option<Plaintext> {
    // Content of TLS 1.2 that is so long is an alert: a frame is longer.
    const ALERT: u64 = 2;
    let Call { handle, buffer, moved, routine, .. } = calls::leave(caller)?;
    let sealed = cookie.sealed();
    if routine != u64::from(cookie.routine()) || moved <= u64::from(sealed.overhead) {
        return None;
    }
    let length = moved - u64::from(sealed.overhead);
    let base = buffer + u64::from(sealed.start);
    let is_application = if sealed.hides_type {
        copy_user::<u8>(base + length)? == APPLICATION_DATA
    } else {
        length != ALERT
    };
    if !is_application {
        return None;
    }
    Some(Plaintext::of_record(handle, Shape::Flat { base }, length, cookie))
}

/// The plaintext of a record that rustls encrypts.
#[inline(always)]
fn encrypt(cookie: Cookie, registers: &Registers) -> Option<Plaintext> {
    /// `OutboundPlainMessage`, as `observer_tls::Routine::Encrypt` describes it.
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Message {
        chunks: u64,
        rest: [u64; 3],
        kind: u64,
    }
    // Rust's number of `ContentType::ApplicationData`.
    const APPLICATION_DATA: u8 = 3;
    let [_, handle, message, ..] = registers.arguments();
    let Message { chunks, rest: [first, second, end], kind } = copy_user(message)?;
    if kind as u8 != APPLICATION_DATA {
        return None;
    }
    let (shape, skip, length) = if chunks == 0 {
        (Shape::Flat { base: first }, 0, second)
    } else {
        (Shape::Vector { iov: chunks, iovecs: Iovecs::Native }, second, end.wrapping_sub(second))
    };
    if length as i64 <= 0 {
        return None;
    }
    Some(Plaintext { skip, ..Plaintext::of_record(handle, shape, length, cookie) })
}

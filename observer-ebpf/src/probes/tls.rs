//! The program at all probes of TLS libraries.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_attach_cookie, macros::uprobe,
    programs::ProbeContext,
};
use observer_common::tls::{
    balance::Order,
    cookie::{Cookie, routine},
};

use super::registers::Registers;
use crate::{
    filter,
    kernel::{copy_user, current_pid},
    tls::{
        calls::{self, Call, Caller},
        plaintext::{self, Plaintext},
    },
};

/// Attached to the places that `observer_tls::locate` finds, with a [`Cookie`] that says what a place is.
#[uprobe(sleepable)]
fn tls_hook(ctx: ProbeContext) -> u32 {
    // SAFETY: the context of this program.
    let cookie = Cookie::of_number(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    let registers = Registers::of(&ctx);
    let _ = try_hook(cookie, &registers);
    0
}

#[inline(always)]
fn try_hook(cookie: Cookie, registers: &Registers) -> Option<()> {
    if !filter::selects_process(current_pid()) {
        return None;
    }
    let caller =
        if cookie.is_go() { Caller::goroutine(registers.goroutine()) } else { Caller::thread() };
    let plaintext = if cookie.is_return() {
        leave(cookie, registers, caller)
    } else if cookie.routine() == routine::SEAL {
        seal(cookie, registers)
    } else {
        enter(cookie, registers, caller);
        None
    }?;
    plaintext::watch(&plaintext)
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
    calls::enter(caller, &Call { handle, buffer, moved, sock: 0, routine });
}

/// The plaintext of a call that returns, if it has moved some.
#[inline(always)]
fn leave(cookie: Cookie, registers: &Registers, caller: Caller) -> Option<Plaintext> {
    let Call { handle, buffer, moved, sock, routine } = calls::leave(caller)?;
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
    let is_before = !cookie.is_read() && sock == 0;
    let order = if is_before { Order::PlaintextFirst } else { Order::RecordsFirst };
    Some(Plaintext { handle, base: buffer, length, sock, cookie, order })
}

/// The plaintext of a record that is being written.
#[inline(always)]
fn seal(cookie: Cookie, registers: &Registers) -> Option<Plaintext> {
    const APPLICATION_DATA: u8 = 23;
    let [handle, _, _, _, kind, base, _] = registers.arguments();
    if kind as u8 != APPLICATION_DATA {
        return None;
    }
    let length = registers.seventh(cookie.pushed())?;
    if length as i64 <= 0 {
        return None;
    }
    Some(Plaintext { handle, base, length, sock: 0, cookie, order: Order::PlaintextFirst })
}

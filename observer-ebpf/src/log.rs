//! Logs the programs' decisions, as lines of the daemon's log: only with the feature `kernel-log`. No line has a byte
//! of a transfer.

use observer_common::{
    counter::{Counter, ForOne, Protocol},
    driver::{
        connection::{DirectionState, Shared},
        walk::Outcome,
    },
    record::direction,
};

use crate::{kernel::current_pid, transfer::Transfer};

/// A function for each line. Not inlined: its values would stay on the caller's stack.
macro_rules! lines {
    ($($level:ident $name:ident($($value:ident: $type:ty),*) = $text:literal $(, $label:expr)?;)*) => {
        $(#[inline(never)]
        pub fn $name($($value: $type),*) {
            aya_log_ebpf::$level!(0, target: "observer::kernel_log", $text $(, $value)* $(, $label)?);
        })*
    };
}

lines! {
    info name_not_selected(pid: u32) = "process {}: its name is not selected";
    info not_stream(inode: u64) = "socket {}: not a stream socket of TCP, MPTCP or Unix";
    info not_counted(inode: u64) = "socket {}: it does not count its bytes, so gaps would not show";
    info port_not_selected(inode: u64) = "socket {}: its ports are not selected";
    info ignored_for_good(inode: u64) = "socket {}: ignored from now on";
    info ignored_until_upgrade(inode: u64) = "socket {}: ignored, unless HTTP/1 is upgraded";
    info not_watched_yet(inode: u64, transfers: u16, bytes: u32) =
        "socket {}: not watched yet, {} transfers did not start with a frame, {} bytes";
    info from_beginning(inode: u64, connection: u64) = "socket {}: watched as connection {}";
    info joined_late(inode: u64, connection: u64) = "socket {}: joined late as connection {}";
    info no_preface(connection: u64) = "connection {}: no client preface";
    info no_frames(connection: u64) = "connection {}: no frames";
    info given_up(connection: u64) = "connection {}: not known where messages begin";
    info side_not_selected(connection: u64) = "connection {}: the port of its side is not selected";
    debug received(connection: u64, bytes: u64, position: u64, gap: u64) =
        "connection {}: received {} bytes, walked to {}, {} not read";
    debug sent(connection: u64, bytes: u64, position: u64, gap: u64) =
        "connection {}: sent {} bytes, walked to {}, {} not read";
}

/// Logs that a connection is watched from now on.
#[inline(always)]
pub fn watched(connection: &Shared) {
    if connection.joined == 0 {
        from_beginning(connection.inode, connection.id);
    } else {
        joined_late(connection.inode, connection.id);
    }
}

/// Logs the result of a walk.
#[inline(always)]
pub fn walked(connection: &Shared, own: &DirectionState, transfer: &Transfer, outcome: Outcome) {
    let DirectionState { position, gap_bytes, .. } = *own;
    if transfer.sent == direction::SENT {
        sent(connection.id, transfer.total, position, gap_bytes);
    } else {
        received(connection.id, transfer.total, position, gap_bytes);
    }
    match outcome {
        Outcome::Walked => {}
        Outcome::NotPreface => no_preface(connection.id),
        Outcome::NotFrames => no_frames(connection.id),
        Outcome::GivenUp => given_up(connection.id),
        Outcome::NotSelected => side_not_selected(connection.id),
    }
}

/// Logs a count, by its cause.
#[inline(always)]
pub fn counted(counter: Counter, bytes: u64) {
    counter.with_position(Counted(bytes));
}

struct Counted(u64);

impl ForOne for Counted {
    /// A function for each variant: the compiler must know the label.
    #[inline(never)]
    #[expect(clippy::indexing_slicing, reason = "of a constant, by the compiler")]
    fn at<const POSITION: usize>(self) {
        let label = const { Counter::ALL[POSITION].label() };
        let (pid, bytes) = (current_pid(), self.0);
        aya_log_ebpf::info!(0, target: "observer::kernel_log", "process {}: {} bytes: {}", pid, bytes, label);
    }
}

/// Logs the protocol of a socket.
#[inline(always)]
pub fn carries(protocol: Protocol) {
    protocol.with_position(Carries);
}

struct Carries;

impl ForOne for Carries {
    /// A function for each variant, for the same reason.
    #[inline(never)]
    #[expect(clippy::indexing_slicing, reason = "of a constant, by the compiler")]
    fn at<const POSITION: usize>(self) {
        let label = const { Protocol::ALL[POSITION].label() };
        aya_log_ebpf::info!(0, target: "observer::kernel_log", "process {}: a socket carries {}", current_pid(), label);
    }
}

//! The ends of connections and processes.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_for_each_map_elem, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use observer_common::{
    counter::{Counter, Protocol},
    layout::Field,
    record::{MAX_RINGS, NamedRecord, RecordHeader, direction, record_kind},
    selected, writer,
};

use crate::{
    connection::{Connection, Direction, state},
    count::{count, count_protocol},
    emit, filter, globals,
    kernel::{Address, name_at, own_name, read},
    maps::{
        CONNECTIONS, ENTERED, Entered, IGNORED, Kept, MESSAGES, MessageKey, PIDS, PROCESSES,
        Renames, SHARES, Share, WRITERS,
    },
    share::{self, Of},
    socket::{self, Socket, counted},
    walk::count_lost,
    watch::sent_by,
};

// States of `struct sock` (net/tcp_states.h).
const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_CLOSE: i32 = 7;
const TCP_CLOSE_WAIT: i32 = 8;
const TCP_LAST_ACK: i32 = 9;

const SHUTDOWN_MASK: u8 = 3;

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn sock_state(ctx: RawTracePointContext) -> i32 {
    let sock: u64 = ctx.arg(0);
    let (before, state): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if globals::filter_ports() && before == TCP_SYN_SENT && state == TCP_ESTABLISHED {
        connected(sock);
    }
    if !matches!(state, TCP_FIN_WAIT1 | TCP_CLOSE | TCP_LAST_ACK) {
        return 0;
    }
    let _ = IGNORED.remove(sock);
    if let Some(connection) = CONNECTIONS.get_ptr_mut(sock) {
        // SAFETY: a map value, valid for the run.
        let known = unsafe { &mut *connection };
        if !(Socket { sock, inode: known.inode }).is_open() {
            // The connection ended untold, and this is another socket.
            close_later(sock, connection);
            return 0;
        }
        if !known.is_tcp() {
            forget_entered(bpf_get_current_pid_tgid());
        }
        if known.ended_by == direction::UNKNOWN {
            known.ended_by = ended_by(sock, before, state);
        }
        if !is_over(sock, state) || state == TCP_CLOSE && is_moving(sock, known) {
            if state == TCP_CLOSE {
                reset(sock, known);
            }
            return 0;
        }
        let unseen = unseen(sock, state, known);
        close(sock, connection, unseen);
    }
    0
}

/// Who ends the connection, where nobody has before: the direction in which that one sends.
#[inline(always)]
fn ended_by(sock: Address, from: i32, to: i32) -> u8 {
    match (from, to) {
        // The peer's FIN came first.
        (TCP_CLOSE_WAIT, _) | (_, TCP_LAST_ACK) => direction::RECEIVED,
        (_, TCP_FIN_WAIT1) => direction::SENT,
        // Reset: by `tcp_close`, which has shut both directions by now, as there is data that nobody read; or by
        // the peer, or because it does not answer.
        (TCP_ESTABLISHED, _) if !is_shut_by_close(sock) => direction::RECEIVED,
        _ => direction::SENT,
    }
}

#[inline(always)]
fn is_shut_by_close(sock: Address) -> bool {
    read::<u8>(sock, Field::SockShutdown).unwrap_or(0) & SHUTDOWN_MASK == SHUTDOWN_MASK
}

#[inline(always)]
fn connected(sock: Address) {
    if let Some(socket) = Socket::of_sock(sock)
        && let Some(ports) = socket::ports(sock, socket::AF_INET)
    {
        filter::connects(&socket, ports);
    }
}

/// Whether the process can neither read nor write any more. After a reset it may still read what
/// had arrived before; then the sweep sees it close the socket.
#[inline(always)]
fn is_over(sock: Address, state: i32) -> bool {
    if state != TCP_CLOSE {
        // `shutdown(SHUT_WR)` has shut only one direction.
        return is_shut_by_close(sock);
    }
    let next: Option<u32> = read(sock, Field::TcpRcvNxt);
    let copied: Option<u32> = read(sock, Field::TcpCopiedSeq);
    // A FIN that arrived counts as one and is no data.
    matches!((next, copied), (Some(next), Some(copied)) if next.wrapping_sub(copied) <= 1)
}

/// Whether a call may be moving bytes just now, which its return will show: the answer to a write can
/// be a reset, which arrives before the write has returned.
#[inline(always)]
fn is_moving(sock: Address, connection: &Connection) -> bool {
    let is_behind = |direction: &Direction, sent| {
        let sequence = socket::sequence(sock, connection.counts, sent);
        direction.walking != 0 || sequence.is_some_and(|sequence| missed(direction, sequence) != 0)
    };
    is_behind(connection.received(), false) || is_behind(connection.sent(), true)
}

/// The peer reset the connection, but it is not over yet: the sweep sees the process close the socket.
#[inline(always)]
fn reset(sock: Address, connection: &mut Connection) {
    // SAFETY: a helper without arguments.
    connection.reset_ns = unsafe { bpf_ktime_get_ns() };
    let counts = connection.counts;
    for (sequence, sent) in connection.reset_sequences.iter_mut().zip([false, true]) {
        *sequence = socket::sequence(sock, counts, sent).unwrap_or(0);
    }
}

/// By how many bytes what was seen of a direction is behind its socket's counter.
#[inline(always)]
fn missed(direction: &Direction, sequence: u32) -> u32 {
    // As a signed number: behind what was seen is not past it. One more is a FIN.
    let missed = sequence.wrapping_sub(direction.sequence) as i32;
    if direction.counted == 0 || missed <= 1 { 0 } else { missed as u32 }
}

/// As [`close`], of a socket that may be another one by now, whose counters say nothing: but less
/// may have been seen than had gone by when the peer reset it.
#[inline(always)]
pub fn close_later(sock: Address, connection: *mut Connection) {
    // SAFETY: a map value, valid for the run.
    let known = unsafe { &mut *connection };
    if known.ended_by == direction::UNKNOWN && !known.is_tcp() {
        known.ended_by = ended_first(sock, known);
    }
    let mut unseen = known.unseen();
    if ends_unread(sock, known) {
        unseen |= 1 << direction::RECEIVED;
    }
    if known.reset_ns != 0 {
        let [received, sent] = known.reset_sequences;
        for (of, sequence, bit) in [
            (known.received(), received, direction::RECEIVED),
            (known.sent(), sent, direction::SENT),
        ] {
            let missed = missed(of, sequence);
            if missed != 0 {
                unseen |= 1 << bit;
                if known.closed_ns == 0 {
                    count(Counter::Unseen, u64::from(missed));
                }
            }
        }
    }
    close(sock, connection, unseen);
}

/// Who was first, of a socket without states that is found closed, where no call has told the process that
/// its peer is gone.
#[inline(always)]
fn ended_first(sock: Address, connection: &Connection) -> u8 {
    let Some(peer) = CONNECTIONS.get_ptr_mut(connection.peer) else { return direction::SENT };
    // SAFETY: a map value, valid for the run.
    let peer = unsafe { &mut *peer };
    if peer.peer != sock || peer.ended_by != direction::UNKNOWN {
        return direction::SENT;
    }
    let is_open = Socket { sock: connection.peer, inode: peer.inode }.is_open();
    let [own, peers] =
        if is_open { [direction::SENT, direction::RECEIVED] } else { [direction::UNSURE; 2] };
    peer.ended_by = peers;
    own
}

/// Whether the peer of a Unix socket may have sent more than was seen to be received: nothing says whether it
/// was never received, or in a way that is not seen.
#[inline(always)]
fn ends_unread(sock: Address, connection: &Connection) -> bool {
    if connection.counts != counted::BY_PEER {
        return connection.counts == counted::NOTHING;
    }
    let sent = match connection.peer_ended {
        0 => sent_by(connection.peer, sock),
        _ => Some(connection.peer_sent),
    };
    let received = connection.received().sequence;
    sent.is_none_or(|sent| sent.wrapping_sub(received) as i32 > 0)
}

/// Leaves for the other end of a Unix socket how many bytes this one has sent.
#[inline(always)]
fn leave_to_peer(sock: Address, connection: &Connection) {
    if connection.counts != counted::BY_PEER {
        return;
    }
    let Some(peer) = CONNECTIONS.get_ptr_mut(connection.peer) else { return };
    // SAFETY: a map value, valid for the run.
    let peer = unsafe { &mut *peer };
    if peer.peer == sock && peer.peer_ended == 0 {
        peer.peer_sent = connection.total_sent();
        peer.peer_ended = 1;
    }
}

/// Tells the daemon that a connection is over, and in which directions (`RecordHeader::unseen`)
/// not all was seen, and forgets it. A function of its own: inlined, its values would be kept on the stack
/// to the caller's end.
#[inline(never)]
pub fn close(sock: Address, connection: *mut Connection, unseen: u8) {
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { &mut *connection };
    leave_to_peer(sock, connection);
    if connection.closed_ns == 0 {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        connection.closed_ns = if connection.reset_ns == 0 { now } else { connection.reset_ns };
        count_untold(connection);
    }
    if connection.announced != 0 {
        let header = RecordHeader {
            connection: connection.id,
            time_ns: connection.closed_ns,
            pid: connection.pid,
            kind: record_kind::CLOSED,
            direction: connection.ended_by,
            role: connection.role,
            flags: unseen,
            ..RecordHeader::default()
        };
        if !emit::output_header(&header) {
            // The sweep tries again.
            count(Counter::RingFull, 0);
            return;
        }
    }
    let owner = connection.owner;
    if CONNECTIONS.remove(sock).is_ok() {
        share::give(owner, Of::Connections);
    }
}

/// Counts what nothing that comes will tell of any more.
#[inline(always)]
fn count_untold(connection: &Connection) {
    if connection.is_only_http1() {
        count_protocol(Protocol::Http1);
    }
    if connection.state != state::WATCHED {
        return;
    }
    for direction in &connection.directions {
        let tried = direction.step.tried();
        if tried != 0 {
            count_lost(connection, direction, tried);
        }
    }
}

/// The directions that ended unseen, by the counters of a socket that is being closed too: a call
/// may have been missed that no later one showed.
#[inline(always)]
fn unseen(sock: Address, state: i32, connection: &Connection) -> u8 {
    let mut unseen = connection.unseen();
    // The own FIN is sent once the state has changed to one of those that wait for its acknowledgement;
    // the peer's has most often been read where the process is the second to close.
    if ends_unseen(sock, connection, false, state == TCP_LAST_ACK) {
        unseen |= 1 << direction::RECEIVED;
    }
    if ends_unseen(sock, connection, true, false) {
        unseen |= 1 << direction::SENT;
    }
    unseen
}

/// Whether more bytes went through the socket than were seen, or a call is being looked at just now,
/// on another processor. Counts them, when it is first asked, without the `fin`.
#[inline(always)]
fn ends_unseen(sock: Address, connection: &Connection, sent: bool, fin: bool) -> bool {
    let direction = if sent { connection.sent() } else { connection.received() };
    if direction.walking != 0 {
        return true;
    }
    let Some(sequence) = socket::sequence(sock, connection.counts, sent) else { return false };
    let missed = missed(direction, sequence);
    if missed == 0 {
        return false;
    }
    if connection.closed_ns == 0 {
        count(Counter::Unseen, u64::from(missed - u32::from(fin)));
    }
    true
}

/// Forgets what a thread has entered and, as that is so, returned from: if anything is left of it, the
/// kernel has missed the return.
#[inline(always)]
pub fn forget_entered(thread: u64) {
    // SAFETY: the value is copied; only this thread writes it.
    let Some(&entered) = (unsafe { ENTERED.get(thread) }) else { return };
    let _ = ENTERED.remove(thread);
    if let Some(connection) = CONNECTIONS.get_ptr_mut(entered.sock) {
        // SAFETY: a map value, valid for the run.
        return_missed(unsafe { &mut *connection }, entered.sent);
    }
}

/// A call of which nobody knows what it moved. Where a socket counts its bytes the next call shows it, or
/// the end; elsewhere no frame boundary is known any more.
#[inline(always)]
fn return_missed(connection: &mut Connection, sent: u8) {
    if connection.is_tcp() {
        return;
    }
    count(Counter::Unseen, 0);
    let direction = connection.direction(sent);
    direction.gap |= 1;
    direction.step.lose();
}

/// Attached to nothing: the daemon runs it about once a second, less often where there are tens of
/// thousands. Finds the connections whose end no tracepoint told: Unix sockets, sockets reset with data unread, a full ring.
#[raw_tracepoint]
fn sweep(_: RawTracePointContext) -> i32 {
    // SAFETY: the callbacks take what the helper passes for maps of these types.
    unsafe {
        bpf_for_each_map_elem(
            (&raw const ENTERED).cast_mut().cast(),
            sweep_entered as *mut c_void,
            core::ptr::null_mut(),
            0,
        );
        bpf_for_each_map_elem(
            (&raw const CONNECTIONS).cast_mut().cast(),
            sweep_connection as *mut c_void,
            core::ptr::null_mut(),
            0,
        );
        bpf_for_each_map_elem(
            (&raw const MESSAGES).cast_mut().cast(),
            sweep_message as *mut c_void,
            core::ptr::null_mut(),
            0,
        );
        bpf_for_each_map_elem(
            (&raw const SHARES).cast_mut().cast(),
            sweep_share as *mut c_void,
            core::ptr::null_mut(),
            0,
        );
    }
    0
}

/// A socket cannot be closed while a thread is in one of its functions: the return was missed.
extern "C" fn sweep_entered(
    _: *mut c_void,
    _: *const u64,
    entered: *const Entered,
    _: *mut c_void,
) -> i64 {
    // SAFETY: what the helper passed: a value of `ENTERED`.
    let Entered { sock, sent, .. } = unsafe { *entered };
    if let Some(connection) = CONNECTIONS.get_ptr_mut(sock) {
        // SAFETY: a map value, valid for the run.
        let connection = unsafe { &mut *connection };
        if connection.closed_ns == 0 && !(Socket { sock, inode: connection.inode }).is_open() {
            return_missed(connection, sent);
        }
    }
    0
}

extern "C" fn sweep_connection(
    _: *mut c_void,
    sock: *const Address,
    connection: *mut Connection,
    _: *mut c_void,
) -> i64 {
    // SAFETY: what the helper passed: key and value of `CONNECTIONS`.
    let (sock, inode, closed_ns) = unsafe { (*sock, (*connection).inode, (*connection).closed_ns) };
    if closed_ns != 0 || !(Socket { sock, inode }).is_open() {
        close_later(sock, connection);
    }
    0
}

/// Drops what closed connections left behind.
extern "C" fn sweep_message(
    _: *mut c_void,
    key: *const MessageKey,
    kept: *mut Kept,
    _: *mut c_void,
) -> i64 {
    // SAFETY: what the helper passed: key and value of `MESSAGES`.
    let (key, in_share_of) = unsafe { (*key, (*kept).owner) };
    let owner = CONNECTIONS.get_ptr(key.sock);
    // SAFETY: a map value, valid for the run.
    let is_left = owner.is_none_or(|owner| unsafe { (*owner).id } != key.connection);
    if is_left && MESSAGES.remove(key).is_ok() {
        share::give(in_share_of, Of::Messages);
    }
    0
}

/// Drops what processes that have nothing any more left behind.
extern "C" fn sweep_share(
    _: *mut c_void,
    pid: *const u32,
    share: *const Share,
    _: *mut c_void,
) -> i64 {
    // SAFETY: what the helper passed: key and value of `SHARES`.
    let (pid, share) = unsafe { (*pid, *share) };
    if share.is_empty() {
        let _ = SHARES.remove(pid);
    }
    0
}

/// `sched_process_exit(struct task_struct *p, …)`
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn process_exit(ctx: RawTracePointContext) -> i32 {
    forget_entered(bpf_get_current_pid_tgid());
    let pid = filter::current_pid();
    let task: u64 = ctx.arg(0);
    let live = read::<Address>(task, Field::TaskSignal)
        .and_then(|signal| read::<i32>(signal, Field::SignalLive));
    // Other threads go on.
    if live.is_some_and(|live| live > 0) {
        return 0;
    }
    filter::exits(pid);
    if PROCESSES.remove(pid).is_ok() {
        tell(&header(pid, record_kind::EXITED), pid);
        for ring in 0..MAX_RINGS {
            if ring >= globals::rings() {
                break;
            }
            if let Some(writer) = WRITERS.get_ptr_mut(writer::key(ring, pid)) {
                // SAFETY: a map value, valid for the run.
                unsafe { (*writer).exited = 1 };
            }
        }
    }
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_exec(_: RawTracePointContext) -> i32 {
    let pid = filter::current_pid();
    filter::executes(pid);
    // SAFETY: the value is not kept.
    if unsafe { PROCESSES.get(pid) }.is_some() {
        let header = header(pid, record_kind::EXECUTED);
        tell(&NamedRecord { header, comm: own_name() }, pid);
    }
    0
}

/// `task_rename(struct task_struct *task, const char *comm)`: the task, which need not be the current one, is
/// about to take the name.
#[raw_tracepoint(tracepoint = "task_rename")]
fn process_rename(ctx: RawTracePointContext) -> i32 {
    let task: u64 = ctx.arg(0);
    // Other threads have names of their own.
    if read::<Address>(task, Field::TaskGroupLeader) != Some(task) {
        return 0;
    }
    let Some(pid) = read::<u32>(task, Field::TaskTgid) else { return 0 };
    let comm = name_at(ctx.arg(1));
    filter::renames(pid, &comm);
    let Some(renames) = PROCESSES.get_ptr_mut(pid) else { return 0 };
    let header = header(pid, record_kind::RENAMED);
    // SAFETY: a map value, valid for the run.
    let count = renamed(unsafe { &mut *renames }, header.time_ns);
    if count <= MAX_RENAMES {
        let unseen = u8::from(count == MAX_RENAMES);
        tell(&NamedRecord { header: RecordHeader { flags: unseen, ..header }, comm }, pid);
    }
    0
}

/// Names of a process in a second from which on it is told as one that has none.
const MAX_RENAMES: u64 = 32;

/// Counts a new name; answers how many there were in this second.
#[inline(always)]
fn renamed(renames: &mut Renames, now_ns: u64) -> u64 {
    const SECOND_NS: u64 = 1_000_000_000;
    if now_ns.wrapping_sub(renames.since_ns) >= SECOND_NS {
        *renames = Renames { since_ns: now_ns, count: 0 };
    }
    renames.count += 1;
    renames.count
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_fork(ctx: RawTracePointContext) -> i32 {
    if !globals::follow_children() {
        return 0;
    }
    let parent = filter::current_pid();
    if !filter::selects_process(parent) {
        return 0;
    }
    let child: u64 = ctx.arg(1);
    // A thread is no child.
    if let Some(pid) = read::<u32>(child, Field::TaskTgid).filter(|&pid| pid != parent) {
        // Full: the child is not watched; 8,192 processes are.
        let _ = PIDS.insert(pid, selected::FOR_GOOD, 0);
    }
    0
}

#[inline(always)]
fn header(pid: u32, kind: u8) -> RecordHeader {
    // SAFETY: a helper without arguments.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    RecordHeader { time_ns, pid, kind, ..RecordHeader::default() }
}

#[inline(always)]
fn tell<T>(record: &T, pid: u32) {
    if !emit::output_to_all(record, pid) {
        count(Counter::RingFull, 0);
    }
}

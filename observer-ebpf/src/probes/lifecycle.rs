//! Programs for the ends of connections, and for the ends, names and children of processes.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};
use observer_common::{
    counter::Counter,
    layout::Field,
    record::{MAX_RINGS, NamedRecord, RecordHeader, record_kind},
    selected, writer,
};

use crate::{
    connections::{
        close::{
            self, TCP_CLOSE, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_LISTEN, TCP_SYN_SENT,
        },
        entered::forget_entered,
        ignored, sweep,
    },
    count::count,
    filter, globals,
    kernel::{Address, current_pid, name_at, now_ns, own_name, read},
    maps::{CONNECTIONS, OTHERS, PIDS, PROCESSES, Renames, Values as _, WRITERS},
    ring,
    socket::{self, Socket},
    tls::secured,
};

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn sock_state(ctx: RawTracePointContext) -> i32 {
    let sock: u64 = ctx.arg(0);
    let (before, state): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if globals::filter_ports() && before == TCP_SYN_SENT && state == TCP_ESTABLISHED {
        connected(sock);
    }
    // Its libraries are searched before it has a connection.
    if globals::tls() && matches!(state, TCP_LISTEN | TCP_SYN_SENT) {
        let pid = current_pid();
        if filter::selects_process(pid) {
            secured::announce(pid);
        }
    }
    if !matches!(state, TCP_FIN_WAIT1 | TCP_CLOSE | TCP_LAST_ACK) {
        return 0;
    }
    // Until then the process may read more, even after it has shut the other direction or after a reset. That is no
    // other connection.
    let key = if globals::tls() { secured::key_of(sock).unwrap_or(sock) } else { sock };
    if state == TCP_CLOSE && close::is_over(sock, state) {
        ignored::forget(sock);
        if globals::tls() && !CONNECTIONS.has(key) {
            secured::tls_over(key);
        }
    }
    if let Some(connection) = CONNECTIONS.value(key) {
        if !(Socket { sock, inode: connection.shared.inode }).is_open() {
            // The end of the connection was not captured, and this is another socket.
            close::close_later::<true>(key, connection);
            return 0;
        }
        if !connection.shared.is_tcp() {
            forget_entered(bpf_get_current_pid_tgid());
        }
        close::changes_state(sock, key, connection, before, state);
    }
    0
}

#[inline(always)]
fn connected(sock: Address) {
    if let Some(socket) = Socket::of_sock(sock)
        && let Some(ports) = socket::ports(sock, socket::AF_INET)
    {
        filter::connects(&socket, ports);
    }
}

/// Attached to nothing: the daemon runs it about once a second, or less often if there are tens of thousands of
/// connections. Finds those whose end no tracepoint reported: Unix sockets, sockets that were reset with unread data,
/// and those that ended while the ring was full.
#[raw_tracepoint]
fn sweep(_: RawTracePointContext) -> i32 {
    sweep::sweep();
    0
}

/// `sched_process_exit(struct task_struct *p, …)`
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn process_exit(ctx: RawTracePointContext) -> i32 {
    forget_entered(bpf_get_current_pid_tgid());
    let pid = current_pid();
    let task: u64 = ctx.arg(0);
    let live = read::<Address>(task, Field::TaskSignal)
        .and_then(|signal| read::<i32>(signal, Field::SignalLive));
    // Other threads still run.
    if live.is_some_and(|live| live > 0) {
        return 0;
    }
    filter::exits(pid);
    let _ = OTHERS.remove(pid);
    if PROCESSES.remove(pid).is_ok() {
        send(&header(pid, record_kind::EXITED), pid);
        for ring in 0..MAX_RINGS {
            if ring >= globals::rings() {
                break;
            }
            if let Some(writer) = WRITERS.value(writer::key(ring, pid)) {
                writer.exited = 1;
            }
        }
    }
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_exec(_: RawTracePointContext) -> i32 {
    let pid = current_pid();
    filter::executes(pid);
    if PROCESSES.has(pid) {
        let header = header(pid, record_kind::EXECUTED);
        send(&NamedRecord { header, comm: own_name() }, pid);
    }
    0
}

/// `task_rename(struct task_struct *task, const char *comm)`: the task, which may not be the current one, is about to
/// take the name.
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
    let Some(renames) = PROCESSES.value(pid) else { return 0 };
    let header = header(pid, record_kind::RENAMED);
    let count = renamed(renames, header.time_ns);
    if count <= MAX_RENAMES {
        let has_none = u8::from(count == MAX_RENAMES);
        send(&NamedRecord { header: RecordHeader { flags: has_none, ..header }, comm }, pid);
    }
    0
}

/// Number of new names in a second from which on a process is reported as one without a name.
const MAX_RENAMES: u64 = 32;

/// Counts a new name. Returns the number of new names in this second.
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
    let parent = current_pid();
    if !filter::selects_process(parent) {
        return 0;
    }
    let child: u64 = ctx.arg(1);
    // A new thread has the same pid.
    if let Some(pid) = read::<u32>(child, Field::TaskTgid).filter(|&pid| pid != parent) {
        // If the map is full, the child is not watched; 8,192 processes are.
        let _ = PIDS.insert(pid, selected::FOR_GOOD, 0);
    }
    0
}

#[inline(always)]
fn header(pid: u32, kind: u8) -> RecordHeader {
    RecordHeader { time_ns: now_ns(), pid, kind, ..RecordHeader::default() }
}

#[inline(always)]
fn send<T>(record: &T, pid: u32) {
    if !ring::output_to_all(record, pid) {
        count(Counter::RingFull, 0);
    }
}

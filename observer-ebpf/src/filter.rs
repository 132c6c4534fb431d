//! Decides which processes and ports are watched, before any byte is read.

use aya_ebpf::{helpers::bpf_get_current_uid_gid, maps::Array};
use observer_common::{
    layout::Field,
    record::role,
    selected::{self, CGROUP_NAME},
};

use crate::{
    globals,
    kernel::{Address, current_task, name_at, own_name, read},
    maps::{
        BPF_ANY, BPF_NOEXIST, CGROUPS, COMMS, CONNECTED, PIDS, PORTS, THRIFT_PORTS, UIDS, UNNAMED,
        Values as _,
    },
    socket::{self, Listens, Socket},
};

/// Whether the current process, which has this pid, is selected. Without `--pid`, `--comm`, `--uid` and `--cgroup`,
/// every process is.
#[inline(always)]
pub fn selects_process(pid: u32) -> bool {
    if !globals::filter_processes() {
        return true;
    }
    if PIDS.has(pid) {
        return true;
    }
    // User and cgroup are looked up each time, because a process may change them.
    if globals::filter_uids() && UIDS.has(bpf_get_current_uid_gid() as u32)
        || globals::filter_cgroups() && selects_cgroup().unwrap_or(false)
    {
        return true;
    }
    !UNNAMED.has(pid) && selects_name(pid)
}

/// Cgroups that are compared, from the innermost outwards.
const MAX_DEPTH: u32 = 10;

/// Whether the current task is in a selected cgroup, or in a descendant of one. Compares names: when a unit is
/// restarted, its cgroup has another id. Not inlined, for the stack.
#[inline(never)]
fn selects_cgroup() -> Option<bool> {
    let set: Address = read(current_task() as Address, Field::TaskCgroups)?;
    let group: Address = read(set, Field::CssSetCgroup)?;
    let mut node: Address = read(group, Field::CgroupNode)?;
    for _ in 0..MAX_DEPTH {
        let at: Address = read(node, Field::NodeName)?;
        let name: [u8; CGROUP_NAME] = name_at(at);
        #[expect(
            clippy::needless_borrows_for_generic_args,
            reason = "it would be on the stack twice"
        )]
        let found = CGROUPS.has(&name);
        if found {
            return Some(true);
        }
        node = read(node, Field::NodeParent)?;
    }
    Some(false)
}

/// Whether the current process's name is selected. Not inlined: its values would stay on the caller's stack.
#[inline(never)]
fn selects_name(pid: u32) -> bool {
    let named = COMMS.has(own_name());
    // If the result cannot be stored, it is looked up again. `BPF_NOEXIST`: a result that is already there may be that
    // of a later name.
    let _ = if named {
        PIDS.insert(pid, selected::BY_NAME, BPF_NOEXIST)
    } else {
        #[cfg(feature = "kernel-log")]
        crate::log::name_not_selected(pid);
        UNNAMED.insert(pid, 0, BPF_NOEXIST)
    };
    named
}

/// Handles that the process is about to take this name. A process that was selected by an earlier name stays selected:
/// otherwise the ends of its calls would not be captured.
#[inline(always)]
pub fn renames(pid: u32, name: &[u8; 16]) {
    if !globals::filter_processes() {
        return;
    }
    // Not only removed: another thread may still read the old name, and store that result.
    if COMMS.has(name) {
        let _ = PIDS.insert(pid, selected::BY_NAME, BPF_NOEXIST);
        let _ = UNNAMED.remove(pid);
    } else {
        let _ = UNNAMED.insert(pid, 0, BPF_ANY);
    }
}

/// Handles that the process now runs another program, and has its name.
#[inline(always)]
pub fn executes(pid: u32) {
    let _ = UNNAMED.remove(pid);
    if PIDS.value(pid).is_some_and(|why| *why == selected::BY_NAME) {
        let _ = PIDS.remove(pid);
    }
}

/// Handles that the process has exited.
#[inline(always)]
pub fn exits(pid: u32) {
    let _ = UNNAMED.remove(pid);
    let _ = PIDS.remove(pid);
}

/// Whether the port that is listened on is selected or, while it is not known which one that is, either port. Without
/// `--port`, every port is.
#[inline(always)]
pub fn selects_ports((local, remote): (u16, u16), listens: Listens) -> bool {
    !globals::filter_ports()
        || !matches!(listens, Listens::There) && is_selected(local)
        || !matches!(listens, Listens::Here) && is_selected(remote)
}

/// Whether a socket is still selected, now that its side is known: if nothing else shows which end listens, it is the
/// server. Not inlined: its values would stay on the caller's stack.
#[inline(never)]
pub fn selects_role(sock: Address, inode: u64, role: u8) -> bool {
    if !globals::filter_ports() {
        return true;
    }
    let listens = match (socket::listens(&Socket { sock, inode }), role) {
        (Listens::Unknown, role::SERVER) => Listens::Here,
        (Listens::Unknown, role::CLIENT) => Listens::There,
        (known, _) => known,
    };
    // If ports are selected, only sockets that have ports get here.
    socket::ports(sock, socket::AF_INET).is_some_and(|ports| selects_ports(ports, listens))
}

/// Handles that the socket has connected: it is remembered if one of its ports is selected.
#[inline(always)]
pub fn connects(socket: &Socket, ports: (u16, u16)) {
    if selects_ports(ports, Listens::Unknown) {
        let _ = CONNECTED.insert(socket.sock, socket.inode, BPF_ANY);
    }
}

#[inline(always)]
fn is_selected(port: u16) -> bool {
    is_in(&PORTS, port)
}

#[inline(always)]
fn is_in(ports: &Array<u64>, port: u16) -> bool {
    ports.get(u32::from(port >> 6)).is_some_and(|bits| bits >> (port & 63) & 1 != 0)
}

/// Whether the port that is listened on is one of `--thrift-port` or, while it is not known which one that is, either
/// port. Not inlined: its values would stay on the caller's stack.
#[inline(never)]
pub fn is_thrift_port(socket: &Socket) -> bool {
    if !globals::thrift_ports() {
        return false;
    }
    let family = socket::stream_family(socket.sock);
    let ports = family.and_then(|family| socket::ports(socket.sock, family));
    let Some((local, remote)) = ports else { return false };
    let listens = socket::listens(socket);
    !matches!(listens, Listens::There) && is_in(&THRIFT_PORTS, local)
        || !matches!(listens, Listens::Here) && is_in(&THRIFT_PORTS, remote)
}

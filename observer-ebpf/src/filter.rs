//! Which processes and ports are watched, decided before any byte is read.

use aya_ebpf::helpers::bpf_get_current_uid_gid;
use observer_common::{
    layout::Field,
    record::role,
    selected::{self, CGROUP_NAME},
};

use crate::{
    globals,
    kernel::{Address, current_task, name_at, own_name, read},
    maps::{CGROUPS, COMMS, CONNECTED, PIDS, PORTS, UIDS, UNNAMED, Values as _},
    socket::{self, Listens, Socket},
};

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

/// Whether the process, which is the current one, is selected. Without `--pid`, `--comm`, `--uid` and
/// `--cgroup` all are.
#[inline(always)]
pub fn selects_process(pid: u32) -> bool {
    if !globals::filter_processes() {
        return true;
    }
    if PIDS.has(pid) {
        return true;
    }
    if globals::filter_uids() && selects_user()
        || globals::filter_cgroups() && selects_cgroup().unwrap_or(false)
    {
        return true;
    }
    !UNNAMED.has(pid) && selects_name(pid)
}

/// Whether the current task's user is selected. Not remembered: a process may take another one.
#[inline(always)]
fn selects_user() -> bool {
    let uid = bpf_get_current_uid_gid() as u32;
    UIDS.has(uid)
}

/// Control groups that are looked at, from the innermost.
const MAX_DEPTH: u32 = 10;

/// Whether the current task is in a selected control group, or in one that is in one. By their names: one that
/// is made anew, as that of a unit is when it is started again, has another id. A function of its own for the
/// stack.
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
            reason = "it would be twice on the stack"
        )]
        let found = CGROUPS.has(&name);
        if found {
            return Some(true);
        }
        node = read(node, Field::NodeParent)?;
    }
    Some(false)
}

/// Whether the current process's name is selected. A function of its own: inlined, its values would be kept on
/// the stack to the caller's end.
#[inline(never)]
fn selects_name(pid: u32) -> bool {
    let named = is_named(&own_name());
    // If it cannot be remembered it is looked up again. What another thread's new name has left is newer than
    // the name that was read.
    let _ = if named {
        PIDS.insert(pid, selected::BY_NAME, BPF_NOEXIST)
    } else {
        #[cfg(feature = "kernel-log")]
        crate::log::name_not_selected(pid);
        UNNAMED.insert(pid, 0, BPF_NOEXIST)
    };
    named
}

#[inline(always)]
fn is_named(name: &[u8; 16]) -> bool {
    COMMS.has(name)
}

/// The process is about to take this name. One that was selected under an earlier name stays so: otherwise
/// the ends of its calls would be missed.
#[inline(always)]
pub fn renames(pid: u32, name: &[u8; 16]) {
    if !globals::filter_processes() {
        return;
    }
    // Not just forgotten: another thread may still read the old name, and remember what that says.
    if is_named(name) {
        let _ = PIDS.insert(pid, selected::BY_NAME, BPF_NOEXIST);
        let _ = UNNAMED.remove(pid);
    } else {
        let _ = UNNAMED.insert(pid, 0, BPF_ANY);
    }
}

/// The process runs another program now, and has its name.
#[inline(always)]
pub fn executes(pid: u32) {
    let _ = UNNAMED.remove(pid);
    if PIDS.value(pid).is_some_and(|why| *why == selected::BY_NAME) {
        let _ = PIDS.remove(pid);
    }
}

/// The process is over.
#[inline(always)]
pub fn exits(pid: u32) {
    let _ = UNNAMED.remove(pid);
    let _ = PIDS.remove(pid);
}

/// Whether the port that is listened on is selected, or one of both while it is not known which that is.
/// Without `--port` all are.
#[inline(always)]
pub fn selects_ports((local, remote): (u16, u16), listens: Listens) -> bool {
    !globals::filter_ports()
        || !matches!(listens, Listens::There) && is_selected(local)
        || !matches!(listens, Listens::Here) && is_selected(remote)
}

/// Whether a socket is still selected, now that it is known which end it is: where nothing else says which
/// end listens, it is the server. A function of its own: inlined, its values would be kept on the stack to the
/// caller's end.
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
    // Asked for before: the socket has ports.
    socket::ports(sock, socket::AF_INET).is_some_and(|ports| selects_ports(ports, listens))
}

/// The socket has connected to another: remembered if one of its ports is selected.
#[inline(always)]
pub fn connects(socket: &Socket, ports: (u16, u16)) {
    if selects_ports(ports, Listens::Unknown) {
        let _ = CONNECTED.insert(socket.sock, socket.inode, BPF_ANY);
    }
}

#[inline(always)]
fn is_selected(port: u16) -> bool {
    PORTS.get(u32::from(port >> 6)).is_some_and(|bits| bits >> (port & 63) & 1 != 0)
}

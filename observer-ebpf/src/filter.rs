//! Which processes and ports are watched, decided before any byte is read.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use crate::{
    globals,
    kernel::process_name,
    maps::{COMMS, NAMED, PIDS, PORTS},
};

/// The current thread group.
#[inline(always)]
pub fn current_pid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Whether the process is selected. Without `--pid` and `--comm` all are.
#[inline(always)]
pub fn selects_process(pid: u32) -> bool {
    if !globals::filter_processes() {
        return true;
    }
    // SAFETY: the value is not kept.
    if unsafe { PIDS.get(pid) }.is_some() {
        return true;
    }
    // SAFETY: the value is not kept.
    if let Some(named) = unsafe { NAMED.get(pid) } {
        return *named != 0;
    }
    let mut name = [0; 16];
    process_name(&mut name);
    // SAFETY: the value is not kept.
    let named = unsafe { COMMS.get(name) }.is_some();
    // If it cannot be remembered it is looked up again.
    let _ = NAMED.insert(pid, u8::from(named), 0);
    named
}

/// Whether one of a socket's ports is selected. Without `--port` all are.
#[inline(always)]
pub fn selects_ports(local: u16, remote: u16) -> bool {
    !globals::filter_ports() || is_selected(local) || is_selected(remote)
}

#[inline(always)]
fn is_selected(port: u16) -> bool {
    PORTS.get(u32::from(port >> 6)).is_some_and(|bits| bits >> (port & 63) & 1 != 0)
}

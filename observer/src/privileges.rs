//! Gives up what the daemon was started with, once the kernel programs are attached.
//!
//! What is attached stays attached, and maps are used through descriptors that are open: from here
//! on the daemon reads a ring, files of `/proc`, and what scrapers send, and none of that takes a
//! capability. So a mistake in it is worth nothing to whoever finds it.
//!
//! Capabilities and `no_new_privs` are a thread's own, and a thread has those of the one that
//! started it: [`give_up`] comes before there is another thread.

#![forbid(unsafe_code)]

use anyhow::{Context as _, Result};
use rustix::io;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

use crate::{
    kernel::Probes,
    process::{Detail, ProcFs, ProcessSource as _},
};

/// Gives up every capability that this kernel does not go on asking for to tell these labels, for
/// good: not even a program that this process executed would have them again. Says which ones are
/// left.
pub fn give_up(probes: &Probes, labels: &[Detail]) -> Result<CapabilitySet> {
    set_no_new_privs(true).context("cannot set no_new_privs")?;
    let had = capabilities(None).context("cannot read the own capabilities")?.permitted;
    // Asked for without them, and while they can still be had back.
    set(CapabilitySet::empty(), had).context("cannot give up capabilities")?;
    let left = asked_for(probes, labels) & had;
    set(left, left).context("cannot give up capabilities")?;
    Ok(left)
}

fn asked_for(probes: &Probes, labels: &[Detail]) -> CapabilitySet {
    let mut asked_for = CapabilitySet::empty();
    // Before Linux 5.19, with `kernel.unprivileged_bpf_disabled`, for every bpf(2).
    if probes.sweep().is_err() {
        asked_for |= CapabilitySet::BPF;
    }
    // Where proc(5) is mounted with `hidepid`, for the names of other users' processes; everywhere,
    // for their programs.
    if ProcFs::default().comm(1).is_none() || labels.contains(&Detail::Exe) {
        asked_for |= CapabilitySet::SYS_PTRACE;
    }
    asked_for
}

/// Takes the ambient ones along: they are never more than the permitted and inheritable ones.
fn set(effective: CapabilitySet, permitted: CapabilitySet) -> io::Result<()> {
    set_capabilities(
        None,
        CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() },
    )
}

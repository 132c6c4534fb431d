//! Selects the descendants of selected processes that were started before the daemon.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use aya::{
    Ebpf,
    maps::{HashMap as BpfMap, MapData},
};
use observer_common::selected;
use observer_core::process::{Identity, ProcessSource as _};
use procfs::process::{Stat, all_processes};
use tracing::warn;

use super::probes::map;
use crate::{
    config::{CgroupName, Filter},
    process::ProcFs,
};

/// Selects the descendants. To be called once the BPF programs select the children that start from now on, and before
/// anything is watched.
///
/// A process may start a child before it is selected itself. So `/proc` is read again until there is nothing new. A
/// child whose parent has exited is not found.
pub(super) fn select(ebpf: &mut Ebpf, filter: &Filter) -> Result<()> {
    if !filter.children {
        return Ok(());
    }
    let mut pids: BpfMap<_, u32, u8> = map(ebpf, "PIDS")?.try_into()?;
    let mut selected: HashSet<u32> = filter.pids.iter().copied().collect();
    loop {
        let found =
            descendants(&processes()?, filter, &selected, |pid| ProcFs::default().identity(pid));
        if found.is_empty() {
            return Ok(());
        }
        for stat in found {
            let pid = stat.pid.cast_unsigned();
            selected.insert(pid);
            if pids.insert(pid, selected::FOR_GOOD, 0).is_err() {
                warn!("too many children of the selected processes: some of them are not watched");
                return Ok(());
            }
            forget_if_over(&mut pids, &stat);
        }
    }
}

/// Removes a pid if its process has exited: another process may get the pid.
fn forget_if_over(pids: &mut BpfMap<&mut MapData, u32, u8>, stat: &Stat) {
    let now = procfs::process::Process::new(stat.pid).and_then(|process| process.stat());
    if !now.is_ok_and(|now| now.starttime == stat.starttime && is_running(&now)) {
        // The BPF programs may have removed it.
        let _ = pids.remove(&stat.pid.cast_unsigned());
    }
}

/// Whether a process is not a zombie, whose exit was already reported.
fn is_running(stat: &Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X')
}

fn processes() -> Result<Vec<Stat>> {
    // A process that cannot be read has exited.
    let stats = all_processes()?.filter_map(|process| process.ok()?.stat().ok());
    Ok(stats.filter(is_running).collect())
}

/// The processes in `all` that descend from a selected one and are not selected themselves.
fn descendants(
    all: &[Stat],
    filter: &Filter,
    selected: &HashSet<u32>,
    identity: impl Fn(u32) -> Identity,
) -> Vec<Stat> {
    let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for stat in all {
        children.entry(stat.ppid).or_default().push(stat);
    }
    let is_named = |stat: &Stat| filter.comms.iter().any(|comm| comm.as_str() == stat.comm);
    let is_selected = |stat: &Stat| selected.contains(&stat.pid.cast_unsigned());
    let Filter { uids, cgroups, .. } = filter;
    let belongs = |stat: &Stat| {
        if uids.is_empty() && cgroups.is_empty() {
            return false;
        }
        let identity = identity(stat.pid.cast_unsigned());
        let is_in =
            |name: &CgroupName| identity.cgroup.path.split('/').any(|of| of == name.as_str());
        uids.iter().any(|uid| *identity.uid == *uid.to_string()) || cgroups.iter().any(is_in)
    };
    let is_root = |stat: &&Stat| is_selected(stat) || is_named(stat) || belongs(stat);
    let roots = all.iter().filter(is_root);
    let mut to_visit: Vec<i32> = roots.map(|stat| stat.pid).collect();
    let mut found = Vec::new();
    while let Some(pid) = to_visit.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            to_visit.push(child.pid);
            if !is_selected(child) {
                found.push(child.clone());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Filter, Identity, Stat, descendants};

    /// A line of `/proc/PID/stat`; the other fields are not used.
    fn stat(pid: i32, ppid: i32, comm: &str) -> Stat {
        let rest = "0 ".repeat(48);
        let line = format!("{pid} ({comm}) S {ppid} {rest}");
        procfs::FromRead::from_read(line.as_bytes()).unwrap()
    }

    fn found(selected: &[u32], comm: Option<&str>) -> Vec<i32> {
        let comms = comm.iter().map(|comm| comm.parse().unwrap()).collect();
        found_by(selected, &Filter { comms, ..Filter::default() })
    }

    /// The user and the cgroup of each process have its pid.
    fn found_by(selected: &[u32], filter: &Filter) -> Vec<i32> {
        let all = [
            stat(1, 0, "init"),
            stat(13, 12, "grandchild"),
            stat(10, 1, "master"),
            stat(11, 10, "worker"),
            stat(12, 10, "worker"),
            stat(20, 1, "other"),
            stat(21, 20, "worker"),
        ];
        let identity = |pid: u32| {
            let mut identity = Identity { uid: pid.to_string().into(), ..Identity::default() };
            identity.cgroup.path = format!("/a/{pid}.service/b").into();
            identity
        };
        let selected: HashSet<u32> = selected.iter().copied().collect();
        let mut found: Vec<_> =
            descendants(&all, filter, &selected, identity).iter().map(|stat| stat.pid).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn children_and_theirs_are_found_whatever_the_order() {
        assert_eq!(found(&[10], None), [11, 12, 13]);
        assert_eq!(found(&[10, 11, 12], None), [13], "what is selected already is not new");
        assert_eq!(found(&[12], None), [13]);
        assert!(found(&[4711], None).is_empty());
        assert_eq!(found(&[], Some("master")), [11, 12, 13]);
        assert_eq!(found(&[20], Some("worker")), [13, 21]);
        assert_eq!(found_by(&[], &Filter { uids: vec![12], ..Filter::default() }), [13]);
        let cgroups = vec!["12.service".parse().unwrap()];
        assert_eq!(found_by(&[], &Filter { cgroups, ..Filter::default() }), [13]);
    }
}

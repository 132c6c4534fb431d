//! What can be told of a process beside its pid and name.

use std::str::FromStr;

use super::Identity;

/// One thing that is known of a process: a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// See [`Identity::exe`].
    Exe,
    /// See [`Identity::cmdline_hash`].
    CmdlineHash,
    /// See [`Cgroup::container_id`](super::Cgroup::container_id).
    ContainerId,
    /// See [`Cgroup::runtime`](super::Cgroup::runtime).
    ContainerRuntime,
    /// See [`Cgroup::pod_uid`](super::Cgroup::pod_uid).
    PodUid,
    /// See [`Pod::namespace`](super::Pod::namespace).
    Namespace,
    /// See [`Pod::name`](super::Pod::name).
    Pod,
    /// See [`Cgroup::unit`](super::Cgroup::unit).
    SystemdUnit,
    /// See [`Cgroup::path`](super::Cgroup::path).
    Cgroup,
    /// See [`Identity::uid`].
    Uid,
}

impl Detail {
    /// All details, in the order of their labels.
    pub const ALL: [Self; 10] = [
        Self::Exe,
        Self::CmdlineHash,
        Self::ContainerId,
        Self::ContainerRuntime,
        Self::PodUid,
        Self::Namespace,
        Self::Pod,
        Self::SystemdUnit,
        Self::Cgroup,
        Self::Uid,
    ];

    /// The label's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exe => "exe",
            Self::CmdlineHash => "cmdline_hash",
            Self::ContainerId => "container_id",
            Self::ContainerRuntime => "container_runtime",
            Self::PodUid => "pod_uid",
            Self::Namespace => "namespace",
            Self::Pod => "pod",
            Self::SystemdUnit => "systemd_unit",
            Self::Cgroup => "cgroup",
            Self::Uid => "uid",
        }
    }

    /// The value for this process; empty if it is not known.
    pub fn of(self, identity: &Identity) -> &[u8] {
        let Identity { exe, cmdline_hash, uid, cgroup, pod } = identity;
        let text = match self {
            Self::Exe => return exe,
            Self::CmdlineHash => cmdline_hash,
            Self::ContainerId => &cgroup.container_id,
            Self::ContainerRuntime => cgroup.runtime,
            Self::PodUid => &cgroup.pod_uid,
            Self::Namespace => pod.as_ref().map_or("", |pod| &pod.namespace),
            Self::Pod => pod.as_ref().map_or("", |pod| &pod.name),
            Self::SystemdUnit => &cgroup.unit,
            Self::Cgroup => &cgroup.path,
            Self::Uid => uid,
        };
        text.as_bytes()
    }
}

impl FromStr for Detail {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|detail| detail.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("'{name}' is not a label of processes: write one or more of {names}")
        })
    }
}

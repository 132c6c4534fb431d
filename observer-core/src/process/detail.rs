//! The labels of a process, in addition to its pid and name.

use std::str::FromStr;

use super::{Identity, Process, Service};

/// A label of a process, and the value of its identity, or service, that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// [`Identity::exe`].
    Exe,
    /// [`Identity::cmdline_hash`].
    CmdlineHash,
    /// [`Cgroup::container_id`](super::Cgroup::container_id).
    ContainerId,
    /// [`Cgroup::runtime`](super::Cgroup::runtime).
    ContainerRuntime,
    /// [`Cgroup::pod_uid`](super::Cgroup::pod_uid).
    PodUid,
    /// [`Pod::namespace`](super::Pod::namespace).
    Namespace,
    /// [`Pod::name`](super::Pod::name).
    Pod,
    /// [`Cgroup::unit`](super::Cgroup::unit).
    SystemdUnit,
    /// [`Cgroup::path`](super::Cgroup::path).
    Cgroup,
    /// [`Identity::uid`].
    Uid,
    /// [`Service::name`].
    Service,
    /// [`Service::namespace`].
    ServiceNamespace,
    /// [`Service::instance_id`].
    ServiceInstanceId,
}

impl Detail {
    /// All labels, in the order of the exposition.
    pub const ALL: [Self; 13] = [
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
        Self::Service,
        Self::ServiceNamespace,
        Self::ServiceInstanceId,
    ];

    /// The label's name, in the exposition and in `--labels`.
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
            Self::Service => "service",
            Self::ServiceNamespace => "service_namespace",
            Self::ServiceInstanceId => "service_instance_id",
        }
    }

    /// The value for a process; empty if it is not known.
    pub fn of(self, process: &Process) -> &[u8] {
        let Process { identity, service, .. } = process;
        let Identity { exe, cmdline_hash, uid, cgroup, pod, .. } = &**identity;
        let Service { name, namespace, instance_id } = service;
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
            Self::Service => name,
            Self::ServiceNamespace => namespace,
            Self::ServiceInstanceId => instance_id,
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

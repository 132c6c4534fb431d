//! The resource of a watched process: the attributes that all its spans have in common.

use observer_core::{names::escape::escape, process::Process};

use super::{
    message::{KeyValue, Resource, attribute},
    names::{own, resource as names},
};

/// Makes resources.
pub(crate) struct Resources {
    host: String,
    /// The attributes of every resource.
    all: Vec<KeyValue>,
}

impl Resources {
    /// `added` are attributes for every resource. They replace those that this host has.
    pub(crate) fn new(added: &[(String, String)]) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut all = vec![
            attribute(names::DISTRO, "observer"),
            attribute(names::DISTRO_VERSION, env!("CARGO_PKG_VERSION")),
        ];
        let given = added.iter().find(|(key, _)| key == names::HOST).map(|(_, host)| host);
        let host = given.cloned().unwrap_or(host);
        all.push(attribute(names::HOST, &*host));
        let others = added.iter().filter(|(key, _)| key != names::HOST);
        all.extend(others.map(|(key, value)| attribute(key, &**value)));
        Self { host, all }
    }

    /// The resource of all processes of a service on this node.
    pub(crate) fn of_service(&self, process: &Process) -> Resource {
        let service = &process.service;
        let name = if service.name.is_empty() { "unknown_service" } else { &service.name };
        let mut attributes = self.all.clone();
        attributes.push(attribute(names::SERVICE_NAME, name));
        if !service.namespace.is_empty() {
            attributes.push(attribute(names::SERVICE_NAMESPACE, &*service.namespace));
        }
        // The same service on another node has other figures.
        attributes.push(attribute(names::SERVICE_INSTANCE, &*self.host));
        Resource { attributes }
    }

    /// The resource of a process; `None` is one that is not known any more.
    pub(crate) fn of(&self, process: Option<Process>) -> Resource {
        let mut attributes = self.all.clone();
        let mut add = |key, text: &str| {
            if !text.is_empty() && !self.all.iter().any(|of| of.key == key) {
                attributes.push(attribute(key, text));
            }
        };
        let Some(process) = process.filter(|process| process.pid != 0) else {
            add(names::SERVICE_NAME, "unknown_service");
            return Resource { attributes };
        };
        let comm = escape(process.comm.as_bytes());
        let service = &process.service;
        // What OpenTelemetry calls a service without a name.
        let unknown = format!("unknown_service:{comm}");
        add(names::SERVICE_NAME, if service.name.is_empty() { &unknown } else { &service.name });
        add(names::SERVICE_NAMESPACE, &service.namespace);
        add(names::SERVICE_INSTANCE, &service.instance_id);
        add(names::EXECUTABLE, &comm);
        let identity = &process.identity;
        add(names::EXECUTABLE_PATH, &escape(&identity.exe));
        add(own::SYSTEMD_UNIT, &identity.cgroup.unit);
        add(names::CONTAINER, &identity.cgroup.container_id);
        add(names::CONTAINER_RUNTIME, identity.cgroup.runtime);
        add(names::POD_UID, &identity.cgroup.pod_uid);
        if let Some(pod) = &identity.pod {
            add(names::POD_NAMESPACE, &pod.namespace);
            add(names::POD_NAME, &pod.name);
        }
        attributes.push(attribute(names::PID, i64::from(process.pid)));
        Resource { attributes }
    }
}

//! The service of a process: `service.name`, `service.namespace` and `service.instance.id` of OpenTelemetry's semantic
//! conventions for resources.
//!
//! The name comes from the first of these that has one: the configuration ([`ServiceNames`]), the environment
//! ([`Resource::of_environment`]), Kubernetes ([`Pod::service`]), the systemd unit, the container ([`Resource::of_docker`]
//! and its like), and what the process [runs](Runs).

mod container;
mod environment;
mod runs;

use std::{str::FromStr, sync::Arc};

pub use self::{environment::Resource, runs::Runs};
use super::{
    Comm,
    identity::{Cgroup, Identity, Pod},
};
use crate::names::{Pattern, escape::escape};

/// The longest name in bytes.
const AT_MOST: usize = 255;

/// The service of a process. Texts are empty if they are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// The name: the same for all instances of the service.
    pub name: Box<str>,
    /// The namespace of the name.
    pub namespace: Box<str>,
    /// The id of this instance: unique among all instances of the service.
    pub instance_id: Box<str>,
}

impl Service {
    /// The service of a process with this name and identity.
    pub(super) fn of(names: &ServiceNames, comm: Comm, identity: &Identity) -> Self {
        let Identity { cgroup, pod, environment, container, runs, instance_id, .. } = identity;
        let pod = pod.as_deref();
        let of_pod = pod.map(|pod| &pod.service);
        let declared = |declared: fn(&Resource) -> &str| {
            let texts = [declared(environment), of_pod.map_or("", declared)];
            texts.into_iter().find(|text| !text.is_empty())
        };
        let name = names.of(comm).or_else(|| declared(|resource| &resource.name));
        let name = name.or_else(|| of_unit(cgroup));
        let name = name.or_else(|| Some(&*container.name).filter(|name| !name.is_empty()));
        let namespace = declared(|resource| &resource.namespace);
        let instance = declared(|resource| &resource.instance_id).map(Into::into);
        let instance = instance.or_else(|| Some(container_of(pod?, cgroup)?.into()));
        Self {
            name: name.unwrap_or(runs).into(),
            namespace: namespace.unwrap_or(&container.namespace).into(),
            instance_id: instance.unwrap_or_else(|| instance_id.clone()),
        }
    }
}

/// The name of the container in its pod: `namespace.pod.container`.
fn container_of(pod: &Pod, cgroup: &Cgroup) -> Option<String> {
    let Pod { namespace, name, containers, .. } = pod;
    let (_, container) = containers.iter().find(|(id, _)| **id == *cgroup.container_id)?;
    Some(format!("{namespace}.{name}.{container}"))
}

/// The name of the systemd service that the process belongs to: `orders` for `orders.service` and `orders@1.service`.
///
/// A scope is not a service, nor is a user's manager. A unit outside of a container is the runtime's.
fn of_unit(cgroup: &Cgroup) -> Option<&str> {
    let Cgroup { path, container_id, unit, .. } = cgroup;
    let name = unit.strip_suffix(".service")?;
    if !container_id.is_empty() {
        let (_, inside) = path.rsplit_once(&**container_id)?;
        inside.contains(&**unit).then_some(())?;
    }
    let name = name.split_once('@').map_or(name, |(template, _)| template);
    (!name.is_empty() && name != "user").then_some(name)
}

/// The names that the configuration gives to processes: the first pattern that matches counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceNames(Arc<[ServiceName]>);

impl ServiceNames {
    /// The name for a process with this name; `None` if no pattern matches.
    fn of(&self, comm: Comm) -> Option<&str> {
        let comm = escape(comm.as_bytes());
        let named = self.0.iter().find(|named| named.process.matches(&comm))?;
        Some(&named.service)
    }
}

impl FromIterator<ServiceName> for ServiceNames {
    fn from_iter<I: IntoIterator<Item = ServiceName>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// A name for the processes whose names a pattern matches: `PATTERN=NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    process: Pattern,
    service: Box<str>,
}

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((process, service)) = text.split_once('=') else {
            return Err(format!("'{text}' has no '=': write PATTERN=NAME, such as shop-*=shop"));
        };
        let (process, service) = (process.trim().parse()?, service.trim());
        if service.is_empty() || service.len() > AT_MOST {
            return Err(format!(
                "the name of the service has {} bytes: write 1 to {AT_MOST}",
                service.len()
            ));
        }
        Ok(Self { process, service: service.into() })
    }
}

/// A name without white space around it, cut at [`AT_MOST`] bytes.
fn bounded(text: &str) -> Box<str> {
    let text = text.trim();
    text.get(..text.floor_char_boundary(AT_MOST)).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4e9a0c7c5f4f0e8a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071";

    fn names(texts: &[&str]) -> ServiceNames {
        texts.iter().map(|text| text.parse::<ServiceName>().unwrap()).collect()
    }

    fn resource(name: &str, namespace: &str, instance_id: &str) -> Resource {
        let [name, namespace, instance_id] = [name, namespace, instance_id].map(Into::into);
        Resource { name, namespace, instance_id }
    }

    /// A process for which each rule has a name.
    fn identity() -> Identity {
        let pod = Pod {
            namespace: "prod".into(),
            name: "shop-7d4b9c-x2x".into(),
            service: resource("of-pod", "of-pod", ""),
            containers: vec![("other".into(), "proxy".into()), (ID.into(), "app".into())],
        };
        let path = format!("/system.slice/docker-{ID}.scope/system.slice/unit@1.service");
        let cgroup = Cgroup {
            path: path.into(),
            container_id: ID.into(),
            unit: "unit@1.service".into(),
            ..Cgroup::default()
        };
        Identity {
            cgroup,
            pod: Some(Arc::new(pod)),
            environment: resource("of-environment", "of-environment", "i"),
            container: resource("container", "of-container", ""),
            runs: "program".into(),
            instance_id: "uuid".into(),
            ..Identity::default()
        }
    }

    #[test]
    fn the_first_rule_that_has_a_name_counts() {
        let comm = Comm::truncated(b"python3");
        let configured = names(&["java=x", "pyth*=configured", "*=y"]);
        let service = |names: &ServiceNames, identity: &Identity| {
            let Service { name, namespace, instance_id } = Service::of(names, comm, identity);
            (String::from(name), String::from(namespace), String::from(instance_id))
        };
        let texts = |name: &str, namespace: &str, id: &str| {
            (name.to_owned(), namespace.to_owned(), id.to_owned())
        };
        let mut identity = identity();
        assert_eq!(service(&configured, &identity), texts("configured", "of-environment", "i"));
        let none = names(&["java=x"]);
        assert_eq!(service(&none, &identity), texts("of-environment", "of-environment", "i"));
        identity.environment = Resource::default();
        let of_pod = texts("of-pod", "of-pod", "prod.shop-7d4b9c-x2x.app");
        assert_eq!(service(&none, &identity), of_pod);
        identity.pod = None;
        assert_eq!(service(&none, &identity), texts("unit", "of-container", "uuid"));
        identity.cgroup.unit = "run-1.scope".into();
        assert_eq!(service(&none, &identity), texts("container", "of-container", "uuid"));
        identity.container = Resource::default();
        assert_eq!(service(&none, &identity), texts("program", "", "uuid"));
        assert_eq!(service(&none, &Identity::default()), texts("", "", ""));
        assert_eq!(service(&configured, &Identity::default()), texts("configured", "", ""));
    }

    #[test]
    fn a_unit_is_the_service_that_the_process_belongs_to() {
        let unit = |unit: &str, path: &str, container_id: &str| {
            let [unit, container_id] = [unit, container_id].map(Into::into);
            let path = path.replace("ID", ID).into();
            let cgroup = Cgroup { path, container_id, unit, ..Cgroup::default() };
            of_unit(&cgroup).map(str::to_owned)
        };
        assert_eq!(
            unit("orders.service", "/system.slice/orders.service", ""),
            Some("orders".into())
        );
        assert_eq!(unit("orders@eu.service", "/x", ""), Some("orders".into()));
        assert_eq!(unit("user@1000.service", "/x", ""), None);
        assert_eq!(unit("session-3.scope", "/x", ""), None);
        assert_eq!(unit("", "/", ""), None);
        let inner = "/docker/ID/system.slice/a.service";
        assert_eq!(unit("a.service", inner, ID), Some("a".into()));
        let outer = "/user@1.service/docker.service/docker-ID.scope";
        assert_eq!(unit("docker.service", outer, ID), None);
    }

    #[test]
    fn a_name_for_a_pattern_has_both() {
        let error = |text: &str| text.parse::<ServiceName>().unwrap_err();
        assert!(error("shop").contains("no '='"));
        assert!(error("=shop").contains("the pattern is empty"));
        assert!(error("shop= ").contains("has 0 bytes"));
        assert!(error(&format!("shop={}", "x".repeat(256))).contains("has 256 bytes"));
        assert_eq!(names(&["a=b=c"]).of(Comm::truncated(b"a")), Some("b=c"));
        // Names are compared as they are shown.
        assert_eq!(names(&["a\\x0ab=c"]).of(Comm::truncated(b"a\nb")), Some("c"));
    }
}

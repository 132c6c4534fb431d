//! Reads a `PodList` of a kubelet (`/pods`) or an API server (`/api/v1/pods`).

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use observer_core::process::{Pod, Resource};

/// Maximum number of pods that are kept of a list; the kubelet's default for a node is 110.
const MAX_PODS: usize = 4096;

/// Maximum number of containers that are kept of a pod.
const MAX_CONTAINERS: usize = 64;

/// Maximum length of a name at the API server (RFC 1123 subdomain).
const NAME_AT_MOST: usize = 253;

/// A pod, with the UID in the name of its cgroup.
#[derive(Debug, PartialEq, Eq)]
pub struct Listed {
    /// The UID in the names of its cgroups.
    pub uid: Box<str>,
    /// Its namespace and name.
    pub pod: Arc<Pod>,
}

#[derive(Deserialize)]
struct PodList {
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) uid: String,
    name: String,
    namespace: String,
    #[serde(default)]
    annotations: Annotations,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    owner_references: Vec<Owner>,
    /// Set once the pod is to end.
    pub(super) deletion_timestamp: Option<String>,
    #[serde(default)]
    pub(super) resource_version: String,
}

impl Metadata {
    /// Whether its texts have the usual lengths.
    pub(super) fn fits(&self) -> bool {
        let Self { uid, name, namespace, .. } = self;
        [uid, name, namespace].into_iter().all(|text| fits(text))
    }

    /// The name and namespace of an object.
    pub(super) fn named(&self) -> (&str, &str) {
        (&self.name, &self.namespace)
    }
}

/// The labels that name a service; the last one ends the name of the pod's `ReplicaSet`.
#[derive(Default, Deserialize)]
struct Labels {
    #[serde(rename = "app.kubernetes.io/instance")]
    instance: Option<String>,
    #[serde(rename = "app.kubernetes.io/name")]
    name: Option<String>,
    #[serde(rename = "pod-template-hash")]
    hash: Option<String>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    container_statuses: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    /// `containerd://ID`; missing until it runs.
    #[serde(default, rename = "containerID")]
    id: String,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(rename = "resource.opentelemetry.io/service.name")]
    service_name: Option<String>,
    #[serde(rename = "resource.opentelemetry.io/service.namespace")]
    service_namespace: Option<String>,
    #[serde(rename = "resource.opentelemetry.io/service.instance.id")]
    service_instance_id: Option<String>,
    /// Set for a static pod, which the kubelet reads from a file. Its cgroup has this value; the API server has only a
    /// mirror with another UID.
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Option<String>,
}

/// Parses the list, at most [`MAX_PODS`]. Pods with a name or UID above [`NAME_AT_MOST`] bytes are left out.
pub fn parse(body: &[u8]) -> Result<Vec<Listed>> {
    let list: PodList = serde_json::from_slice(body).context("this is not a list of pods")?;
    let named = list.items.unwrap_or_default().into_iter().filter(|item| item.metadata.fits());
    let listed = named.map(|Item { metadata, status }| {
        let service = service(&metadata);
        let Metadata { uid, name, namespace, annotations, .. } = metadata;
        let uid = annotations.hash.filter(|hash| fits(hash)).unwrap_or(uid).into();
        let containers = status.container_statuses.into_iter().filter_map(|container| {
            let (_, id) = container.id.split_once("://")?;
            (fits(id) && fits(&container.name)).then(|| (id.into(), container.name.into()))
        });
        let containers = containers.take(MAX_CONTAINERS).collect();
        let (namespace, name) = (namespace.into(), name.into());
        Listed { uid, pod: Arc::new(Pod { namespace, name, service, containers }) }
    });
    Ok(listed.take(MAX_PODS).collect())
}

fn fits(text: &str) -> bool {
    text.len() <= NAME_AT_MOST
}

/// The service of a pod, in the order of OpenTelemetry's operator: annotations, labels, owner, pod.
///
/// Source: "Specify resource attributes using Kubernetes annotations" in OpenTelemetry's semantic conventions.
pub(super) fn service(of: &Metadata) -> Resource {
    let Metadata { name: pod, namespace, annotations, labels, owner_references: owners, .. } = of;
    let given = |text: &Option<String>| {
        text.clone().filter(|text| !text.trim().is_empty() && fits(text)).map(Into::into)
    };
    let owner = || owners.iter().find_map(|owner| of_owner(owner, labels.hash.as_deref()));
    let name = given(&annotations.service_name)
        .or_else(|| given(&labels.instance))
        .or_else(|| given(&labels.name))
        .or_else(|| owner().map(Into::into));
    Resource {
        name: name.unwrap_or_else(|| pod.as_str().into()),
        namespace: given(&annotations.service_namespace)
            .unwrap_or_else(|| namespace.as_str().into()),
        instance_id: given(&annotations.service_instance_id).unwrap_or_default(),
    }
}

/// The name of the workload that the owner of a pod belongs to.
fn of_owner<'a>(Owner { kind, name }: &'a Owner, hash: Option<&str>) -> Option<&'a str> {
    let is_named = !name.is_empty() && fits(name);
    let without = |end: &str| name.strip_suffix(end)?.strip_suffix('-').filter(|it| !it.is_empty());
    match kind.as_str() {
        _ if !is_named => None,
        // A Deployment names its ReplicaSets after itself and the hash of their pods' template.
        "ReplicaSet" => Some(hash.and_then(without).unwrap_or(name)),
        // A CronJob names its Jobs after itself and their time in minutes since 1970, of eight digits since 1989.
        "Job" => {
            let time = name.rsplit_once('-').map(|(_, time)| time);
            let time =
                time.filter(|time| time.len() == 8 && time.bytes().all(|c| c.is_ascii_digit()));
            Some(time.and_then(without).unwrap_or(name))
        }
        // The owner of a static pod's mirror is the node.
        "Node" => None,
        _ => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    /// The name, namespace and instance id of the service of a pod with this metadata.
    fn service(metadata: &str) -> [String; 3] {
        let pod =
            format!(r#""uid": "u", "name": "shop-7d4b9c-x2x", "namespace": "prod", {metadata}"#);
        let listed = parse(format!(r#"{{"items": [{{"metadata": {{{pod}}}}}]}}"#).as_bytes());
        let service = &listed.unwrap()[0].pod.service;
        [&service.name, &service.namespace, &service.instance_id].map(ToString::to_string)
    }

    #[test]
    fn annotations_come_first_then_labels_then_owners() {
        let annotations = r#""annotations": {"resource.opentelemetry.io/service.name": "annotated",
            "resource.opentelemetry.io/service.namespace": "space",
            "resource.opentelemetry.io/service.instance.id": "one"}"#;
        let instance = r#""labels": {"app.kubernetes.io/instance": "instance",
            "app.kubernetes.io/name": "name", "pod-template-hash": "7d4b9c"}"#;
        let name = r#""labels": {"app.kubernetes.io/instance": " ",
            "app.kubernetes.io/name": "name", "pod-template-hash": "7d4b9c"}"#;
        let hash = r#""labels": {"pod-template-hash": "7d4b9c"}"#;
        let set = r#""ownerReferences": [{"kind": "ReplicaSet", "name": "shop-7d4b9c"}]"#;
        let all = [annotations, instance, set].join(",");
        assert_eq!(service(&all), ["annotated", "space", "one"]);
        assert_eq!(service(&[instance, set].join(",")), ["instance", "prod", ""]);
        assert_eq!(service(&[name, set].join(",")), ["name", "prod", ""]);
        assert_eq!(service(&[hash, set].join(",")), ["shop", "prod", ""]);
        assert_eq!(service(set), ["shop-7d4b9c", "prod", ""], "a ReplicaSet without a Deployment");
        for (kind, name, want) in [
            ("StatefulSet", "db", "db"),
            ("DaemonSet", "agent", "agent"),
            ("Job", "report-29931840", "report"),
            ("Job", "migrate-42", "migrate-42"),
            ("Node", "node-7", "shop-7d4b9c-x2x"),
            ("ReplicaSet", "", "shop-7d4b9c-x2x"),
        ] {
            let owner = format!(r#""ownerReferences": [{{"kind": "{kind}", "name": "{name}"}}]"#);
            assert_eq!(service(&owner), [want, "prod", ""], "{kind} {name}");
        }
    }

    #[test]
    fn containers_have_their_names_by_id() {
        let text = r#"{"items": [{"metadata": {"uid": "u", "name": "n", "namespace": "s"},
            "status": {"containerStatuses": [{"name": "app", "containerID": "containerd://0f"},
            {"name": "waits"}]}}]}"#;
        let listed = parse(text.as_bytes()).unwrap();
        assert_eq!(listed[0].pod.containers, [("0f".into(), "app".into())]);
    }
}

//! Reads a `PodList` of a kubelet (`/pods`) or an API server (`/api/v1/pods`).

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use observer_core::process::Pod;

/// Maximum number of pods that are kept of a list; the kubelet's default for a node is 110.
const MAX_PODS: usize = 4096;

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
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
    name: String,
    namespace: String,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Default, Deserialize)]
struct Annotations {
    /// Set for a static pod, which the kubelet reads from a file. Its cgroup has this value; the API server has only a
    /// mirror with another UID.
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Option<String>,
}

/// Parses the list, at most [`MAX_PODS`]. Pods with a name or UID above [`NAME_AT_MOST`] bytes are left out.
pub fn parse(body: &[u8]) -> Result<Vec<Listed>> {
    let list: PodList = serde_json::from_slice(body).context("this is not a list of pods")?;
    let metadata = list.items.unwrap_or_default().into_iter().map(|item| item.metadata);
    let named = metadata.filter(|metadata| {
        let Metadata { uid, name, namespace, .. } = metadata;
        [uid, name, namespace].into_iter().all(|text| text.len() <= NAME_AT_MOST)
    });
    let listed = named.map(|Metadata { uid, name, namespace, annotations }| Listed {
        uid: annotations.hash.filter(|hash| hash.len() <= NAME_AT_MOST).unwrap_or(uid).into(),
        pod: Arc::new(Pod { namespace: namespace.into(), name: name.into() }),
    });
    Ok(listed.take(MAX_PODS).collect())
}

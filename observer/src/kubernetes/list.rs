//! A `PodList`, as kubelet (`/pods`) and API server (`/api/v1/pods`) write it.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use observer_core::process::Pod;

/// Pods of one node that are kept; kubelet's own default bound is 110.
const MAX_PODS: usize = 4096;

/// What the API server lets a name be at most (RFC 1123 subdomain).
const NAME_AT_MOST: usize = 253;

/// A pod by the UID that its cgroup is called by.
#[derive(Debug, PartialEq, Eq)]
pub struct Listed {
    /// As its control groups say it.
    pub uid: Box<str>,
    /// What it is called.
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
    /// Of a pod that the node itself has from a file. Its cgroup is called by this; what the API
    /// server has of it is a mirror with another UID.
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Option<String>,
}

/// Reads the list; what is too long for a name is not taken.
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

//! The names of pods.
//!
//! The cgroup of a process has the UID of its pod. The node's kubelet and the API server know its name and namespace. A
//! thread requests the list of this node's pods from one of them when there is an unknown UID, at most every ten seconds.
//! Scrapes do not wait for it: until the answer is there, the labels are empty.

#![forbid(unsafe_code)]

mod client;
pub mod cluster;
pub mod list;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::Uri;
use rustc_hash::{FxHashMap, FxHashSet};
use tracing::{debug, info, warn};

use self::client::PodClient;
use self::list::Listed;
use crate::metrics::{PodRequests, Snapshot};
use crate::sync::lock;
use observer_core::process::{Pod, PodAnswer};

/// The time between two requests.
const INTERVAL: Duration = Duration::from_secs(10);

/// The longest time between two requests, after several failures.
const INTERVAL_AT_MOST: Duration = Duration::from_mins(5);

/// A UID that this number of lists did not have is no longer requested: it is not a pod of this cluster.
const LISTS: u8 = 6;

const NO_SERVER: &str = "--kubernetes-node, --kubernetes-token-file and --kubernetes-ca-file \
                             need --kubernetes: add it, or remove them";

/// Maximum number of UIDs that are wanted at the same time.
const MAX_WANTED: usize = 4096;

/// The server with the names of pods, and its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The URL of a kubelet, or, with `node`, of the API server.
    pub server: Uri,
    /// The name of the node whose pods are requested from the API server.
    pub node: Option<String>,
    /// The file with the bearer token. It is read before each request, because tokens are renewed.
    pub token_file: Option<PathBuf>,
    /// The file with the CA certificate for the server. It is read before each request.
    pub ca_file: Option<PathBuf>,
}

const NO_API_SERVER: &str = "--kubernetes-peers needs the API server and --service-graph: add --kubernetes, \
                             --kubernetes-node and --service-graph, or remove it";

/// Parses the URL of a server.
pub(crate) fn server(text: &str) -> Result<Uri, String> {
    const WRITE: &str = "write e.g. https://10.0.0.7:10250 or https://kubernetes.default.svc";
    let uri: Uri = text.trim().parse().map_err(|error| format!("{error}: {WRITE}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(format!("this is not the URL of a server: {WRITE}"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(format!("the URL must not have a path: {WRITE}"));
    }
    Ok(uri)
}

impl Choice {
    /// An error unless the addresses of the cluster can be asked for, and are used.
    pub(crate) fn check_peers(choice: Option<&Self>, service_graph: bool) -> Result<(), String> {
        let has_server = choice.is_some_and(|choice| choice.node.is_some());
        if has_server && service_graph { Ok(()) } else { Err(NO_API_SERVER.into()) }
    }

    /// Combines the flags; `None` without a server. Flags that do not work together are an error.
    pub(crate) fn new(
        server: Option<Uri>,
        node: Option<String>,
        token_file: Option<PathBuf>,
        ca_file: Option<PathBuf>,
    ) -> Result<Option<Self>, String> {
        let Some(server) = server else {
            let given = node.is_some() || token_file.is_some() || ca_file.is_some();
            return if given { Err(NO_SERVER.into()) } else { Ok(None) };
        };
        if server.scheme_str() == Some("https") && ca_file.is_none() {
            return Err(
                "--kubernetes with https needs --kubernetes-ca-file: the CA certificate for the \
                 server"
                    .into(),
            );
        }
        Ok(Some(Self { server, node, token_file, ca_file }))
    }
}

/// The known names of pods, and the thread that requests others.
#[derive(Debug)]
pub struct Pods {
    known: Arc<Mutex<Known>>,
    wake: SyncSender<()>,
}

/// The state that scrapes and the thread share. It is never locked during a request.
#[derive(Debug, Default)]
struct Known {
    pods: FxHashMap<Box<str>, Arc<Pod>>,
    /// UIDs without a name, with the number of lists that did not have them.
    wanted: FxHashMap<Box<str>, u8>,
    /// UIDs in the last snapshot. Their names are kept even after the pod is gone.
    used: FxHashSet<Box<str>>,
    requests: PodRequests,
}

impl Pods {
    /// Starts the thread. It makes the first request at once.
    pub fn start(choice: Choice) -> Result<Self> {
        Self::asking_every(choice, INTERVAL)
    }

    fn asking_every(choice: Choice, interval: Duration) -> Result<Self> {
        let known = Arc::new(Mutex::new(Known::default()));
        // One wish is enough: a list has all pods.
        let (wake, wishes) = sync_channel(1);
        let (client, shared) = (PodClient::new(choice)?, Arc::clone(&known));
        thread::Builder::new()
            .name("kubernetes".into())
            .spawn(move || ask(&client, &shared, interval, &wishes))
            .context("cannot start the thread that asks Kubernetes")?;
        Ok(Self { known, wake })
    }

    /// Adds the names of pods, and the number of requests, to a snapshot.
    pub fn complete(&self, snapshot: &mut Snapshot) {
        let mut known = lock(&self.known);
        let mut used = FxHashSet::default();
        snapshot.processes.set_pods(|uid| {
            used.insert(uid.into());
            known.answer(uid)
        });
        Arc::make_mut(&mut snapshot.daemon).pod_requests = Some(known.requests);
        if known.want(used) {
            // Full: the thread is awake already. Closed: it has ended.
            let _ = self.wake.try_send(());
        }
    }
}

impl Known {
    /// What is known about a pod.
    fn answer(&self, uid: &str) -> PodAnswer {
        match (self.pods.get(uid), self.wanted.get(uid)) {
            (Some(pod), _) => PodAnswer::Known(Arc::clone(pod)),
            (None, Some(lists)) if *lists >= LISTS => PodAnswer::Unknown,
            (None, _) => PodAnswer::Pending,
        }
    }

    /// Takes the UIDs of a snapshot. Returns whether some of them should be requested.
    fn want(&mut self, used: FxHashSet<Box<str>>) -> bool {
        let Self { pods, wanted, .. } = self;
        wanted.retain(|uid, _| used.contains(uid));
        for uid in used.iter().filter(|uid| !pods.contains_key(*uid)) {
            if wanted.len() < MAX_WANTED {
                wanted.entry(uid.clone()).or_default();
            }
        }
        self.used = used;
        self.is_wanting()
    }

    fn is_wanting(&self) -> bool {
        self.wanted.values().any(|lists| *lists < LISTS)
    }

    fn learn(&mut self, listed: Vec<Listed>) {
        let Self { pods, wanted, used, requests } = self;
        requests.answered += 1;
        pods.retain(|uid, _| used.contains(uid));
        for Listed { uid, pod } in listed {
            pods.insert(uid, pod);
        }
        wanted.retain(|uid, lists| {
            *lists = lists.saturating_add(1);
            !pods.contains_key(uid)
        });
    }
}

/// Makes requests until [`Pods`] is dropped.
fn ask(client: &PodClient, known: &Mutex<Known>, interval: Duration, wishes: &Receiver<()>) {
    let mut failures: u32 = 0;
    loop {
        match client.pods() {
            Ok(listed) => {
                if failures > 0 {
                    info!("{client} answers again");
                }
                failures = 0;
                debug!("{client} returned {} pods", listed.len());
                lock(known).learn(listed);
            }
            Err(error) => {
                lock(known).requests.failed += 1;
                // Only the first failure of a row is logged; all are counted.
                if failures == 0 {
                    warn!("cannot get pod names: {error:#}");
                }
                failures = failures.saturating_add(1);
            }
        }
        let pause = interval * 2_u32.saturating_pow(failures.min(10));
        thread::sleep(pause.min(INTERVAL_AT_MOST));
        // After a failure it retries without a wish. The last list may already have fulfilled a wish.
        while failures == 0 && !lock(known).is_wanting() {
            if wishes.recv().is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

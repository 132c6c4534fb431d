//! Names of pods: which process is whose, in the words of the people who run it.
//!
//! The cgroup of a process has its pod's UID; name and namespace are known to the node's kubelet and
//! to the API server. A thread of its own asks one of them for the list of this node's pods, when
//! there is a UID that it has not got, and at most every ten seconds. Nobody waits for it: until the
//! answer is there, the labels are empty.

#![forbid(unsafe_code)]

mod client;
pub mod list;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::Uri;
use rustc_hash::{FxHashMap, FxHashSet};
use tracing::{debug, info, warn};

use self::client::PodClient;
use self::list::Listed;
use crate::metrics::{PodRequests, Snapshot};
use observer_core::process::Pod;

/// Between two requests.
const INTERVAL: Duration = Duration::from_secs(10);

/// Between two requests, when one after the other fails.
const INTERVAL_AT_MOST: Duration = Duration::from_mins(5);

/// A UID that so many lists did not have is not asked for any more: it is no pod of this cluster.
const LISTS: u8 = 6;

const NOBODY_TO_ASK: &str = "--kubernetes-node, --kubernetes-token-file and --kubernetes-ca-file \
                             need --kubernetes: add it, or remove them";

/// UIDs that are asked for at once.
const MAX_WANTED: usize = 4096;

/// Who is asked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// A kubelet, or, with `node`, the API server.
    pub server: Uri,
    /// Whose pods the API server is asked for.
    pub node: Option<String>,
    /// Has the bearer token; read before each request, as tokens are renewed.
    pub token_file: Option<PathBuf>,
    /// Has the certificate that the server's is verified by; likewise.
    pub ca_file: Option<PathBuf>,
}

/// Reads where the server is.
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
    /// What the flags say, if it can work.
    pub(crate) fn new(
        server: Option<Uri>,
        node: Option<String>,
        token_file: Option<PathBuf>,
        ca_file: Option<PathBuf>,
    ) -> Result<Option<Self>, String> {
        let Some(server) = server else {
            let given = node.is_some() || token_file.is_some() || ca_file.is_some();
            return if given { Err(NOBODY_TO_ASK.into()) } else { Ok(None) };
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

/// The names that are known, and the thread that asks for others.
#[derive(Debug)]
pub struct Pods {
    known: Arc<Mutex<Known>>,
    wake: SyncSender<()>,
}

/// What the two sides share; nobody holds it while waiting for anything.
#[derive(Debug, Default)]
struct Known {
    pods: FxHashMap<Box<str>, Arc<Pod>>,
    /// UIDs of processes that had no name, with the number of lists that did not have them.
    wanted: FxHashMap<Box<str>, u8>,
    /// UIDs of the last snapshot, whose names stay, even when their pod is gone.
    used: FxHashSet<Box<str>>,
    requests: PodRequests,
}

impl Pods {
    /// Starts the thread, which asks at once.
    pub fn start(choice: Choice) -> Result<Self> {
        Self::asking_every(choice, INTERVAL)
    }

    fn asking_every(choice: Choice, interval: Duration) -> Result<Self> {
        let known = Arc::new(Mutex::new(Known::default()));
        // One wish is enough: the list has all.
        let (wake, wishes) = sync_channel(1);
        let asker = Asker { client: PodClient::new(choice)?, known: Arc::clone(&known), interval };
        thread::Builder::new()
            .name("kubernetes".into())
            .spawn(move || asker.run(&wishes))
            .context("cannot start the thread that asks Kubernetes")?;
        Ok(Self { known, wake })
    }

    /// Adds the names to the processes of a snapshot, and how often they were asked for.
    pub fn complete(&self, snapshot: &mut Snapshot) {
        let mut known = lock(&self.known);
        let mut used = FxHashSet::default();
        Arc::make_mut(&mut snapshot.processes).set_pods(|uid| {
            used.insert(uid.into());
            known.pods.get(uid).map(Arc::clone)
        });
        Arc::make_mut(&mut snapshot.daemon).pod_requests = Some(known.requests);
        if known.want(used) {
            // Full: it is awake already. Closed: it has ended, and there is nothing to be had.
            let _ = self.wake.try_send(());
        }
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    /// Notes what there are processes of; whether there is reason to ask.
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

struct Asker {
    client: PodClient,
    known: Arc<Mutex<Known>>,
    interval: Duration,
}

impl Asker {
    /// Until nobody can have a wish any more.
    fn run(&self, wishes: &Receiver<()>) {
        let mut failures: u32 = 0;
        loop {
            match self.client.pods() {
                Ok(listed) => {
                    if failures > 0 {
                        info!("{} answers again", self.client);
                    }
                    failures = 0;
                    debug!("{} returned {} pods", self.client, listed.len());
                    lock(&self.known).learn(listed);
                }
                Err(error) => {
                    lock(&self.known).requests.failed += 1;
                    // Once, however long it lasts: the counter goes on.
                    if failures == 0 {
                        warn!("cannot get pod names: {error:#}");
                    }
                    failures = failures.saturating_add(1);
                }
            }
            let pause = self.interval * 2_u32.saturating_pow(failures.min(10));
            thread::sleep(pause.min(INTERVAL_AT_MOST));
            // After a failure it goes on by itself. A wish may have been granted by the last list.
            while failures == 0 && !lock(&self.known).is_wanting() {
                if wishes.recv().is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

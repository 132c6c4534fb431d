//! The services at the addresses of a cluster: those of its pods, and of its Services.
//!
//! A thread for each of the two kinds lists all objects of the API server, and then watches for changes. An address is a
//! pod's from its start until it is to end. Pods with the network of their node have the node's addresses, which say
//! nothing. While the API server cannot be reached, what is known is soon forgotten: an address may be another pod's by
//! then.

use std::io::{BufRead, Read as _};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use observer_core::edges::{Addresses, Node};
use serde::Deserialize;
use tracing::{debug, info, warn};

use super::Choice;
use super::client::PodClient;
use super::list::{self, Metadata};

/// Maximum number of objects in an answer to a request for a list.
const PAGE: usize = 500;

/// Bound on the objects of a list.
const OBJECTS_AT_MOST: usize = 200_000;

/// Maximum size of an event in bytes: etcd's own bound on an object is 1.5 MiB.
const EVENT_AT_MOST: u64 = 4 << 20;

/// Maximum number of addresses of an object; usual are two, one of each family.
const ADDRESSES_AT_MOST: usize = 8;

/// How long the API server lets a watch wait for events. A client that has waited a bit longer has lost its server.
const WATCH: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_secs(75);

/// The times of a watcher.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The shortest pause after a failure, and the longest.
    pub(super) pauses: [Duration; 2],
    /// How long addresses are used after the last answer.
    pub(super) forgets_after: Duration,
}

const PACE: Pace = Pace {
    pauses: [Duration::from_secs(1), Duration::from_secs(30)],
    forgets_after: Duration::from_mins(1),
};

/// A kind of objects with addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pods,
    Services,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Pods, Self::Services];

    /// Its name in paths.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Services => "services",
        }
    }
}

/// Starts the threads, which run until the process ends. Their addresses are in `learned`, in the order of the kinds.
pub fn start(choice: &Choice, learned: &[Addresses]) -> Result<()> {
    start_with(choice, learned, PACE)
}

pub(super) fn start_with(choice: &Choice, learned: &[Addresses], pace: Pace) -> Result<()> {
    for (kind, addresses) in Kind::ALL.into_iter().zip(learned) {
        let client = PodClient::patient(choice.clone(), PATIENCE)?;
        let mut watcher =
            Watcher { kind, client, addresses: addresses.clone(), has_room: true, pace };
        thread::Builder::new()
            .name(format!("cluster-{}", kind.as_str()))
            .spawn(move || watcher.run())
            .context("cannot start a thread that watches the cluster")?;
    }
    Ok(())
}

/// Keeps the addresses of a kind up to date.
struct Watcher {
    kind: Kind,
    client: PodClient,
    addresses: Addresses,
    /// Whether there was room for all addresses so far.
    has_room: bool,
    pace: Pace,
}

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    items: Option<Vec<Object>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

/// A pod or a Service.
#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    host_network: bool,
    #[serde(default, rename = "clusterIP")]
    cluster_ip: String,
    #[serde(default, rename = "clusterIPs")]
    cluster_ips: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default, rename = "podIP")]
    pod_ip: String,
    #[serde(default, rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: String,
}

/// The type of an event of a watch.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
}

/// An event with an object: a pod or a Service, or a bookmark.
#[derive(Deserialize)]
struct EventOf<T> {
    object: T,
}

/// The object of a bookmark, which has nothing but a version.
#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMetadata {
    resource_version: String,
}

impl Object {
    /// The addresses at which it is found, and nothing else.
    fn addresses(&self, kind: Kind) -> Vec<IpAddr> {
        let Self { metadata, spec, status } = self;
        let texts: Vec<&String> = match kind {
            Kind::Pods => {
                let runs = matches!(&*status.phase, "Running" | "Pending")
                    && metadata.deletion_timestamp.is_none();
                if !runs || spec.host_network {
                    return Vec::new();
                }
                let all = status.pod_ips.iter().map(|PodIp { ip }| ip);
                all.chain([&status.pod_ip]).collect()
            }
            // A Service without an address of its own has "None".
            Kind::Services => spec.cluster_ips.iter().chain([&spec.cluster_ip]).collect(),
        };
        let mut addresses = Vec::new();
        for address in texts.iter().filter_map(|text| text.parse().ok()) {
            if addresses.len() < ADDRESSES_AT_MOST && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    fn node(&self, kind: Kind) -> Node {
        match kind {
            Kind::Pods => {
                let service = list::service(&self.metadata);
                Node { name: service.name, namespace: service.namespace }
            }
            Kind::Services => {
                let (name, namespace) = self.metadata.named();
                Node { name: name.into(), namespace: namespace.into() }
            }
        }
    }
}

impl Watcher {
    fn run(&mut self) {
        let [shortest, longest] = self.pace.pauses;
        let (mut pause, mut answered) = (shortest, Instant::now());
        let mut fails = false;
        loop {
            let error = match self.follow(&mut answered, &mut fails) {
                Ok(()) => {
                    pause = shortest;
                    thread::sleep(shortest);
                    continue;
                }
                Err(error) => error,
            };
            // Only the first failure of a row is logged.
            if !std::mem::replace(&mut fails, true) {
                warn!("cannot watch the {} of the cluster: {error:#}", self.kind.as_str());
            }
            if answered.elapsed() >= self.pace.forgets_after && !self.addresses.is_empty() {
                info!("the addresses of the cluster's {} are forgotten", self.kind.as_str());
                self.addresses.replace(Vec::new());
            }
            thread::sleep(pause);
            pause = (pause * 2).min(longest);
        }
    }

    /// Lists all objects, and follows changes until the API server no longer has them. `answered` gets the time of the last
    /// answer.
    fn follow(&mut self, answered: &mut Instant, fails: &mut bool) -> Result<()> {
        let kind = self.kind.as_str();
        let mut version = self.list()?;
        *answered = Instant::now();
        if std::mem::take(fails) {
            info!("the {kind} of the cluster are known again");
        }
        debug!("{} addresses of {kind}", self.addresses.len());
        loop {
            let path = format!(
                "/api/v1/{kind}?watch=1&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
                WATCH.as_secs(),
                encoded(&version)
            );
            let Self { client, addresses, has_room, .. } = self;
            let of = self.kind;
            let goes_on = client.read(&path, |body| {
                while let Some(line) = line(body)? {
                    *answered = Instant::now();
                    if !take(of, &line, addresses, has_room, &mut version)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            })?;
            *answered = Instant::now();
            if !goes_on {
                return Ok(());
            }
            // A server may end watches at once. What changes meanwhile is in the next one.
            let [pause, _] = self.pace.pauses;
            thread::sleep(pause);
        }
    }

    /// Replaces all addresses. Returns the version of the list.
    fn list(&mut self) -> Result<String> {
        let (mut all, mut next, mut count) = (Vec::new(), String::new(), 0);
        loop {
            let mut path = format!("/api/v1/{}?limit={PAGE}", self.kind.as_str());
            if !next.is_empty() {
                path = format!("{path}&continue={}", encoded(&next));
            }
            let list: List = serde_json::from_slice(&self.client.get(&path)?)
                .with_context(|| format!("this is not a list of {}", self.kind.as_str()))?;
            let items = list.items.unwrap_or_default();
            count += items.len();
            ensure!(count <= OBJECTS_AT_MOST, "there are more than {OBJECTS_AT_MOST}");
            for object in items.into_iter().filter(|object| object.metadata.fits()) {
                let addresses = object.addresses(self.kind);
                if !addresses.is_empty() {
                    all.push((
                        object.metadata.uid.as_str().into(),
                        addresses,
                        object.node(self.kind),
                    ));
                }
            }
            next = list.metadata.next;
            if next.is_empty() {
                let has_room = self.addresses.replace(all);
                say_full(self.kind, has_room, &mut self.has_room);
                return Ok(list.metadata.resource_version);
            }
        }
    }
}

/// Logs once that there is no room.
fn say_full(kind: Kind, has_room: bool, had_room: &mut bool) {
    if !has_room && std::mem::take(had_room) {
        warn!("there is no room for all addresses of the cluster's {}", kind.as_str());
    }
}

/// Takes an event, and its version. Returns false if all objects must be listed again.
fn take(
    kind: Kind,
    line: &[u8],
    addresses: &Addresses,
    had_room: &mut bool,
    version: &mut String,
) -> Result<bool> {
    let Event { kind: event } = serde_json::from_slice(line).context("this is not an event")?;
    match &*event {
        "BOOKMARK" => {
            let EventOf { object: Bookmark { metadata } } = serde_json::from_slice(line)?;
            *version = metadata.resource_version;
        }
        // The version is too old.
        "ERROR" => return Ok(false),
        "ADDED" | "MODIFIED" | "DELETED" => {
            let EventOf { object }: EventOf<Object> = serde_json::from_slice(line)?;
            let Metadata { uid, resource_version, .. } = &object.metadata;
            let found = object.addresses(kind);
            if event == "DELETED" || found.is_empty() || !object.metadata.fits() {
                addresses.remove(uid);
            } else {
                let has_room = addresses.set(uid, &found, object.node(kind));
                say_full(kind, has_room, had_room);
            }
            version.clone_from(resource_version);
        }
        _ => bail!("unknown event {event:?}"),
    }
    Ok(true)
}

/// The next line; `None` at the end.
fn line(body: &mut dyn BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    body.take(EVENT_AT_MOST).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    ensure!(
        line.ends_with(b"\n"),
        "an event is incomplete, or has more than {EVENT_AT_MOST} bytes"
    );
    Ok(Some(line))
}

fn encoded(text: &str) -> percent_encoding::PercentEncode<'_> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

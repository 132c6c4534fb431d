//! An API server of Kubernetes with a few pods and Services: lists of them, and watches that stay open.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::pace;

/// Time for daemons to list everything and to watch.
const LIMIT: Duration = Duration::from_secs(20);

/// The server. Its threads end with the tests.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    pods: Vec<Value>,
    services: Vec<Value>,
    /// The connections of watches for pods, and the number of those for Services.
    pod_watches: Vec<TcpStream>,
    service_watches: usize,
}

/// A pod of a Deployment that runs at this address.
pub fn pod(uid: &str, deployment: &str, address: &str) -> Value {
    json!({
        "metadata": {
            "uid": uid, "name": format!("{deployment}-7d4b9c5f6-x2x1z"), "namespace": "prod",
            "resourceVersion": "7", "labels": {"app": "x", "pod-template-hash": "7d4b9c5f6"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": format!("{deployment}-7d4b9c5f6"), "uid": "r", "controller": true}],
        },
        "spec": {"nodeName": "elsewhere", "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

/// A Service with this address.
pub fn service(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"uid": name, "name": name, "namespace": "prod", "resourceVersion": "7"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address]},
        "status": {"loadBalancer": {}},
    })
}

impl ApiServer {
    /// Starts a server with these objects.
    pub fn start(pods: Vec<Value>, services: Vec<Value>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("an API server")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State { pods, services, ..State::default() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that goes away is not the server's concern.
                thread::spawn(move || answer(stream, &state));
            }
        });
        Ok(Self { address, state })
    }

    /// The flags of a daemon that uses it.
    pub fn flags(&self) -> Vec<String> {
        let server = format!("http://{}", self.address);
        let flags = ["--kubernetes", &server, "--kubernetes-node", "here", "--kubernetes-peers"];
        flags.map(str::to_owned).to_vec()
    }

    /// Waits until this number of daemons watch: they know all objects then.
    pub fn wait_for_watches(&self, daemons: usize) -> Result<()> {
        pace::wait_for(LIMIT, || {
            let state = lock(&self.state);
            let watches = [state.pod_watches.len(), state.service_watches];
            Ok(if watches == [daemons; 2] {
                Ok(())
            } else {
                Err(anyhow::anyhow!("there are {watches:?} watches, not {daemons} of each"))
            })
        })
    }

    /// Sends an event about a pod to all that watch pods.
    pub fn tell(&self, event: &str, pod: &Value) -> Result<()> {
        let line = format!("{}\n", json!({"type": event, "object": pod}));
        let watches = &lock(&self.state).pod_watches;
        ensure!(!watches.is_empty(), "no daemon watches pods");
        watches.iter().try_for_each(|mut stream| stream.write_all(line.as_bytes()))?;
        Ok(())
    }
}

/// Answers one request. The connection of a watch stays open.
fn answer(stream: TcpStream, state: &Mutex<State>) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "half a request");
    }
    let path = head.split(' ').nth(1).context("a path")?;
    let is_watch = path.contains("watch=1");
    let mut state = lock(state);
    let of_services = path.starts_with("/api/v1/services?");
    let items = match path {
        // The pods of the daemon's own node.
        _ if path.contains("fieldSelector=") => &Vec::new(),
        _ if of_services => &state.services,
        _ if path.starts_with("/api/v1/pods?") => &state.pods,
        _ => return respond(&stream, "404 Not Found", ""),
    };
    if !is_watch {
        let list = json!({"kind": "List", "metadata": {"resourceVersion": "7"}, "items": items});
        return respond(&stream, "200 OK", &list.to_string());
    }
    respond(&stream, "200 OK", "")?;
    if of_services {
        state.service_watches += 1;
        drop(state);
        // Nothing happens to Services: the watch lasts until the client ends it.
        reader.read_line(&mut head)?;
    } else {
        state.pod_watches.push(stream);
    }
    Ok(())
}

/// The end of the connection is the end of the body.
fn respond(mut stream: &TcpStream, status: &str, body: &str) -> Result<()> {
    let kind = "Content-Type: application/json\r\nConnection: close";
    write!(stream, "HTTP/1.1 {status}\r\n{kind}\r\n\r\n{body}").context("answer")
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

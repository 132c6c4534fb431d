//! Tests with a small server, with and without TLS.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Instant;

use observer_core::edges::Addresses;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::*;
use crate::metrics::{Format, render};

const UID: &str = "8c1f2a3b-4d5e-6f70-8192-a3b4c5d6e7f8";
const LIMIT: Duration = Duration::from_secs(20);

fn list(uid: &str, name: &str) -> String {
    format!(
        r#"{{"kind":"PodList","metadata":{{}},"items":[{{"metadata":{{"name":"{name}",
        "namespace":"shop","uid":"{uid}","labels":{{"app":"x"}}}},"spec":{{"nodeName":"n"}}}}]}}"#
    )
}

/// Answers each connection's request with the next of these, the last one again and again.
struct Stub {
    address: SocketAddr,
    /// The requests' lines and headers.
    requests: Receiver<String>,
}

impl Stub {
    fn start(answers: Vec<(u16, String)>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            let mut turn = 0;
            for stream in listener.incoming() {
                let stream = stream.expect("accepted");
                let Some((status, body)) = answers.get(turn.min(answers.len() - 1)) else { return };
                let asked = match &tls {
                    None => answer(stream, *status, body),
                    Some(config) => {
                        let session = ServerConnection::new(Arc::clone(config)).expect("a session");
                        answer(StreamOwned::new(session, stream), *status, body)
                    }
                };
                // A client that does not trust the certificate has sent nothing.
                if let Ok(head) = asked {
                    turn += 1;
                    // Not every test wants to know.
                    let _ = sender.send(head);
                }
            }
        });
        Self { address, requests }
    }

    fn choice(&self, scheme: &str) -> Choice {
        let server = server(&format!("{scheme}://{}", self.address)).expect("an address");
        Choice { server, node: None, token_file: None, ca_file: None }
    }

    fn request(&self) -> String {
        self.requests.recv_timeout(LIMIT).expect("a request")
    }
}

fn answer(mut stream: impl Read + Write, status: u16, body: &str) -> std::io::Result<String> {
    let mut head = String::new();
    let mut reader = BufReader::new(&mut stream);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    stream.flush()?;
    Ok(head)
}

/// The text of a scrape with one process, in the pod with this UID, after names were added.
fn told(pods: &Pods, uid: &str) -> String {
    let mut snapshot = crate::metrics::in_a_pod(uid);
    pods.complete(&mut snapshot);
    String::from_utf8(render(&snapshot, Format::OpenMetricsText)).expect("text")
}

fn told_when(pods: &Pods, uid: &str, what: &str) -> String {
    let begin = Instant::now();
    loop {
        let text = told(pods, uid);
        if text.contains(what) {
            return text;
        }
        assert!(begin.elapsed() < LIMIT, "{what} is not in:\n{text}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn asking(choice: Choice) -> Pods {
    Pods::asking_every(choice, Duration::from_millis(10)).expect("started")
}

#[test]
fn a_pod_has_its_names_once_the_kubelet_has_answered() {
    let stub = Stub::start(vec![(200, list(UID, "orders-1"))], None);
    let pods = asking(stub.choice("http"));
    let text = told_when(&pods, UID, r#"namespace="shop",pod="orders-1""#);
    assert!(text.contains(r#"service="orders-1",service_namespace="shop""#), "{text}");
    assert!(text.contains("observer_pod_requests_total{outcome=\"answered\"} 1"), "{text}");
    assert!(text.contains("observer_pod_requests_total{outcome=\"failed\"} 0"), "{text}");
    let request = stub.request();
    assert!(request.starts_with("GET /pods HTTP/1.1\r\n"), "{request}");
    assert!(!request.to_lowercase().contains("authorization"), "{request}");
    // It has all that it wants.
    told(&pods, UID);
    assert!(stub.requests.recv_timeout(Duration::from_millis(200)).is_err(), "it asks again");
}

#[test]
fn a_pod_that_comes_later_is_asked_for_and_one_that_went_keeps_its_name() {
    let answers = vec![(200, list("a", "first")), (200, list(UID, "second"))];
    let pods = asking(Stub::start(answers, None).choice("http"));
    told_when(&pods, "a", r#"pod="first""#);
    told_when(&pods, UID, r#"pod="second""#);
    let known = lock(&pods.known);
    assert_eq!(known.pods.len(), 1, "nobody speaks of the first any more: {known:?}");
}

#[test]
fn what_no_list_has_is_not_asked_for_for_ever() {
    let stub = Stub::start(vec![(200, r#"{"items":null}"#.into())], None);
    let pods = asking(stub.choice("http"));
    let begin = Instant::now();
    while lock(&pods.known).wanted.get(UID).is_none_or(|lists| *lists < LISTS) {
        assert!(told(&pods, UID).contains(r#"namespace="",pod="""#));
        assert!(begin.elapsed() < LIMIT);
        thread::sleep(Duration::from_millis(2));
    }
    while stub.requests.try_recv().is_ok() {}
    told(&pods, UID);
    assert!(stub.requests.recv_timeout(Duration::from_millis(200)).is_err(), "it asks again");
}

#[test]
fn failures_are_counted_and_what_was_known_stays() {
    let answers = vec![
        (200, list("a", "first")),
        (500, String::new()),
        (200, "no JSON".into()),
        (200, list(UID, "second")),
    ];
    let pods = asking(Stub::start(answers, None).choice("http"));
    told_when(&pods, "a", r#"pod="first""#);
    let text = told_when(&pods, UID, r#"pod="second""#);
    assert!(text.contains("observer_pod_requests_total{outcome=\"failed\"} 2"), "{text}");
}

#[test]
fn a_server_that_is_not_there_holds_nobody_up() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port");
    let pods = asking(Choice {
        server: server(&format!("http://{}", nobody.local_addr().expect("bound"))).expect("one"),
        node: None,
        token_file: None,
        ca_file: None,
    });
    let begin = Instant::now();
    let text = told(&pods, UID);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(text.contains(r#"namespace="",pod="""#), "{text}");
}

#[test]
fn the_api_server_is_asked_by_tls_with_the_token_of_the_day() {
    let folder = TempDir::new().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path
    };
    let authority = || {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
    };
    let (ours, other) = (authority(), authority());
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
    let certificate = params.signed_by(&key, &ours).expect("signed").pem();
    let stub = Stub::start(vec![(200, list(UID, "orders-1"))], Some(tls(&certificate, &key)));
    let choice = Choice {
        node: Some("node/7".into()),
        token_file: Some(write("token", "first\n")),
        ca_file: Some(write("ca.crt", &other.pem())),
        ..stub.choice("https")
    };
    let pods = asking(choice);
    // By an authority that it does not know, nothing is said, the token least of all.
    told_when(&pods, UID, "observer_pod_requests_total{outcome=\"failed\"} 2");
    assert!(stub.requests.try_recv().is_err());

    write("token", "second\n");
    write("ca.crt", &ours.pem());
    told_when(&pods, UID, r#"namespace="shop",pod="orders-1""#);
    let request = stub.request();
    let line = "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dnode%2F7 HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
    assert!(request.contains("authorization: Bearer second\r\n"), "{request}");
}

fn tls(certificate: &str, key: &KeyPair) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key);
    Arc::new(config.expect("they belong together"))
}

#[test]
fn a_pod_of_the_node_itself_is_called_by_its_hash() {
    let text = r#"{"items":[{"metadata":{"name":"etcd","namespace":"kube-system","uid":"mirror",
        "annotations":{"kubernetes.io/config.hash":"0123456789abcdef0123456789abcdef"}}},
        {"metadata":{"name":"NAME","namespace":"n","uid":"b"}}]}"#;
    let long = text.replace("NAME", &"x".repeat(254));
    let listed = list::parse(long.as_bytes()).expect("a list");
    let [etcd] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!((&*etcd.uid, &*etcd.pod.name), ("0123456789abcdef0123456789abcdef", "etcd"));
}

#[test]
fn addresses_are_read() {
    for (text, told) in [
        ("10.0.0.7:10250", "not the URL"),
        ("ftp://x", "not the URL"),
        ("https://", "write e.g."),
        ("https://10.0.0.7:10250/pods", "a path"),
    ] {
        let refused = server(text).expect_err(text);
        assert!(refused.contains(told), "{refused}");
    }
    let choice = |text, ca: Option<&str>| {
        Choice::new(Some(server(text).expect(text)), None, None, ca.map(Into::into))
    };
    assert!(choice("https://[::1]:10250", None).is_err_and(|told| told.contains("ca-file")));
    assert!(choice("https://[::1]:10250", Some("/ca")).is_ok_and(|choice| choice.is_some()));
    assert!(choice("http://127.0.0.1:10255", None).is_ok_and(|choice| choice.is_some()));
    assert_eq!(Choice::new(None, None, None, None), Ok(None));
    let nobody = Choice::new(None, Some("node".into()), None, None);
    assert!(nobody.is_err_and(|told| told.contains("add it")));
}

/// A pod that runs, as the API server describes it.
fn running(uid: &str, name: &str, version: u32, spec: &str, address: &str) -> String {
    format!(
        r#"{{"metadata":{{"uid":"{uid}","name":"{name}-x1","namespace":"prod","resourceVersion":"{version}",
        "labels":{{"app.kubernetes.io/name":"{name}"}}}},"spec":{{{spec}}},
        "status":{{"phase":"Running","podIP":"{address}","podIPs":[{{"ip":"{address}"}},{{"ip":"fd00::{version}"}}]}}}}"#
    )
    .replace('\n', " ")
}

fn listed(version: u32, next: &str, items: &[String]) -> String {
    let items = items.join(",");
    format!(
        r#"{{"metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{items}]}}"#
    )
}

fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

/// Answers requests for pods with the next of these, and those for Services with a list and then nothing but ends.
struct ApiServer {
    address: SocketAddr,
    requests: Receiver<String>,
}

impl ApiServer {
    fn start(pods: Vec<(u16, String)>, services: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, requests) = mpsc::channel();
        let of_pods = Arc::new(Mutex::new(pods.into_iter()));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("accepted");
                let (of_pods, services, sender) =
                    (Arc::clone(&of_pods), services.clone(), sender.clone());
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
                    let mut line = String::new();
                    while !line.ends_with("\r\n\r\n") {
                        assert_ne!(reader.read_line(&mut line).expect("read"), 0, "{line}");
                    }
                    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                    let (status, body) = if path.starts_with("/api/v1/services") {
                        (200, if path.contains("watch=1") { String::new() } else { services })
                    } else {
                        // Not every test wants to know.
                        let _ = sender.send(path);
                        let next = lock(&of_pods).next();
                        next.unwrap_or((500, String::new()))
                    };
                    let head = format!(
                        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    (&stream).write_all((head + &body).as_bytes()).expect("written");
                });
            }
        });
        Self { address, requests }
    }

    /// Starts to learn from it.
    fn learned(&self, forgets_after: Duration) -> [Addresses; 2] {
        let learned: [Addresses; 2] = Default::default();
        let server = server(&format!("http://{}", self.address)).expect("an address");
        let choice = Choice { server, node: Some("n".into()), token_file: None, ca_file: None };
        let pauses = [Duration::from_millis(10), Duration::from_millis(20)];
        let pace = cluster::Pace { pauses, forgets_after };
        cluster::start_with(&choice, &learned, pace).expect("started");
        learned
    }
}

fn at(known: &Addresses, address: &str) -> Option<String> {
    let node = known.at(address.parse().expect("an address"))?;
    Some(format!("{}/{}", node.namespace, node.name))
}

fn becomes(known: &Addresses, address: &str, want: Option<&str>) {
    let begin = Instant::now();
    while at(known, address).as_deref() != want {
        assert!(begin.elapsed() < LIMIT, "{address} is {:?}, not {want:?}", at(known, address));
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn addresses_of_the_cluster_are_those_of_pods_that_run_and_of_services() {
    let shop = running("a", "shop", 1, "", "10.0.0.1");
    let of_node = running("b", "agent", 2, r#""hostNetwork":true"#, "192.0.2.7");
    let done = running("c", "job", 3, "", "10.0.0.3").replace("Running", "Succeeded");
    let ending = running("d", "old", 4, "", "10.0.0.4")
        .replace(r#""uid":"d""#, r#""uid":"d","deletionTimestamp":"2026-01-01T00:00:00Z""#);
    let pods = vec![
        (200, listed(0, "more/+", &[shop.clone(), of_node])),
        (200, listed(10, "", &[done, ending])),
        // Its address is another pod's before its own end is reported.
        (
            200,
            event("ADDED", &running("e", "orders", 11, "", "10.0.0.5"))
                + &event("BOOKMARK", r#"{"metadata":{"resourceVersion":"12"}}"#)
                + &event("MODIFIED", &running("e", "orders", 13, "", "10.0.0.1"))
                + &event("DELETED", &shop),
        ),
        // The API server does not have these versions any more.
        (200, event("ERROR", r#"{"kind":"Status","code":410}"#)),
        (200, listed(20, "", &[running("f", "db", 20, "", "10.0.0.6")])),
    ];
    let service = |name: &str, address: &str| {
        format!(
            r#"{{"metadata":{{"uid":"{name}","name":"{name}","namespace":"prod"}},
            "spec":{{"clusterIP":"{address}","clusterIPs":["{address}"]}}}}"#
        )
    };
    let services = [service("orders", "10.96.0.1"), service("headless", "None")];
    let api = ApiServer::start(pods, listed(5, "", &services));
    let [pods, services] = api.learned(LIMIT);
    becomes(&services, "10.96.0.1", Some("prod/orders"));
    assert_eq!(services.len(), 1);
    // All of it in the order of the answers.
    becomes(&pods, "10.0.0.6", Some("prod/db"));
    for address in ["10.0.0.1", "192.0.2.7", "10.0.0.3", "10.0.0.4", "10.0.0.5"] {
        assert_eq!(at(&pods, address), None, "{address}");
    }
    let requests: Vec<_> = (0..5).map(|_| api.requests.recv_timeout(LIMIT).expect("one")).collect();
    let watch = |version: &str| {
        let rest = "allowWatchBookmarks=true&timeoutSeconds=60";
        format!("/api/v1/pods?watch=1&{rest}&resourceVersion={version}")
    };
    let want = [
        "/api/v1/pods?limit=500".into(),
        "/api/v1/pods?limit=500&continue=more%2F%2B".into(),
        watch("10"),
        watch("1"),
        "/api/v1/pods?limit=500".into(),
    ];
    assert_eq!(requests, want);
}

#[test]
fn events_change_addresses_and_an_unreachable_cluster_has_none() {
    let pods = vec![
        (200, listed(1, "", &[running("a", "shop", 1, "", "10.0.0.1")])),
        (200, event("ADDED", &running("b", "orders", 2, "", "10.0.0.2"))),
        (200, "no event\n".into()),
        (403, String::new()),
        // From here on there is nothing but failures.
    ];
    let api = ApiServer::start(pods, String::new());
    let [pods, services] = api.learned(Duration::from_secs(1));
    becomes(&pods, "10.0.0.1", Some("prod/shop"));
    becomes(&pods, "10.0.0.2", Some("prod/orders"));
    becomes(&pods, "fd00::2", Some("prod/orders"));
    becomes(&pods, "10.0.0.1", None);
    becomes(&pods, "10.0.0.2", None);
    assert!(pods.is_empty() && services.is_empty());
}

#[test]
fn the_cluster_needs_the_api_server_and_the_service_graph() {
    let choice = |node: Option<&str>| {
        let server = server("http://127.0.0.1:1").expect("an address");
        Choice { server, node: node.map(Into::into), token_file: None, ca_file: None }
    };
    assert!(Choice::check_peers(Some(&choice(Some("n"))), true).is_ok());
    for (choice, graph) in
        [(Some(choice(None)), true), (Some(choice(Some("n"))), false), (None, true)]
    {
        assert!(Choice::check_peers(choice.as_ref(), graph).is_err());
    }
}

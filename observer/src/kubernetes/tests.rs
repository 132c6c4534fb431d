//! Tests with a small server, with and without TLS.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Instant;

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

//! TLS and passwords.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("written");
    }

    /// Key and certificate of a server, by an authority.
    fn write_pair(&self, authority: &Authority) {
        let (certificate, key) = pair(authority);
        self.write("node.crt", &certificate);
        self.write("node.key", &key);
    }

    fn read(&self) -> anyhow::Result<Protection> {
        Protection::read(Some(&self.path().join("web.yml"))).map(Protection::impatient)
    }

    fn serve(&self) -> Served {
        Served::protected(GENEROUS, Stub::default(), self.read().expect("valid"))
    }
}

fn authority() -> Authority {
    let mut params = CertificateParams::new([]).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

fn pair(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, authority).expect("signed");
    (certificate.pem(), key.serialize_pem())
}

/// A client that trusts the authority, and uses the pair `own`.
fn connect(
    served: &Served,
    trusted: &Authority,
    own: Option<&(String, String)>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Client<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let config = match own {
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"),
            )
            .expect("a pair"),
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let stream = TcpStream::connect(served.address).expect("connected");
    stream.set_read_timeout(Some(LONG)).expect("set");
    Client(BufReader::new(StreamOwned::new(connection, stream)))
}

/// Whether a request is answered.
fn answered(client: &mut Client<StreamOwned<ClientConnection, TcpStream>>) -> bool {
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut text = Vec::new();
    let sent = client.0.get_mut().write_all(request);
    // Bytes that were read before an end without close_notify count too.
    drop(sent.and_then(|()| client.0.read_to_end(&mut text)));
    text.starts_with(b"HTTP/1.1 200")
}

const TLS: &str = "tls_server_config: {cert_file: node.crt, key_file: node.key";

/// A folder for a server with these further TLS settings, and the authority of its certificate.
fn with_tls(more: &str) -> (Folder, Authority) {
    let (folder, authority) = (Folder::new(), authority());
    folder.write_pair(&authority);
    folder.write("web.yml", &format!("{TLS}{more}}}"));
    (folder, authority)
}

#[test]
fn metrics_come_by_tls() {
    let (folder, authority) = with_tls("");
    let served = folder.serve();
    for versions in [rustls::ALL_VERSIONS, &[&TLS12]] {
        let mut client = connect(&served, &authority, None, versions);
        for _ in 0..3 {
            assert_eq!(client.request("GET", "/metrics").text(), "# EOF\n");
        }
    }
    let mut plain = served.asked("/metrics");
    assert!(!plain.rest().starts_with(b"HTTP"), "nothing is served without TLS");
    assert!(answered(&mut connect(&served, &authority, None, rustls::ALL_VERSIONS)));
}

#[test]
fn old_tls_is_refused_where_only_new_is_wanted() {
    let (folder, authority) = with_tls(", min_version: TLS13");
    let served = folder.serve();
    assert!(!answered(&mut connect(&served, &authority, None, &[&TLS12])));
    assert!(answered(&mut connect(&served, &authority, None, rustls::ALL_VERSIONS)));
}

#[test]
fn suites_curves_and_versions_are_those_that_are_named() {
    let (folder, authority) = with_tls("");
    let negotiated = |more: &str| {
        folder.write("web.yml", &format!("{TLS}, {more}}}"));
        let served = folder.serve();
        let mut client = connect(&served, &authority, None, rustls::ALL_VERSIONS);
        assert!(answered(&mut client), "{more}");
        let connection = &client.0.get_ref().conn;
        let suite = connection.negotiated_cipher_suite().expect("done").suite();
        let group = connection.negotiated_key_exchange_group().expect("done").name();
        (suite.as_str().expect("known"), format!("{group:?}"))
    };
    let suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
    let chosen = format!(
        "max_version: TLS12, cipher_suites: [TLS_AES_128_GCM_SHA256, {suite}], curve_preferences: [CurveP384]"
    );
    assert_eq!(negotiated(&chosen), (suite, "secp384r1".to_owned()));
    let (suite, group) = negotiated("curve_preferences: [CurveP256]");
    assert!(suite.starts_with("TLS13_") && group == "secp256r1", "{suite} {group}");
    folder.write("web.yml", &format!("{TLS}, max_version: TLS12}}"));
    let served = folder.serve();
    assert!(!answered(&mut connect(&served, &authority, None, &[&rustls::version::TLS13])));

    for (more, told) in [
        ("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]", "TLS_RSA_WITH_AES_128_CBC_SHA"),
        ("curve_preferences: [CurveP521]", "CurveP256"),
    ] {
        folder.write("web.yml", &format!("{TLS}, {more}}}"));
        let refused = format!("{:#}", folder.read().expect_err(more));
        assert!(refused.contains(told) && refused.contains("is not supported"), "{refused}");
    }
}

#[test]
fn headers_of_the_file_are_on_every_answer_that_has_not_its_own() {
    let folder = Folder::new();
    folder.write(
        "web.yml",
        "http_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: deny\n    \
         Content-Security-Policy: sandbox\n",
    );
    let served = folder.serve();
    for path in ["/metrics", "/nowhere", "/"] {
        let answer = served.get(path);
        assert_eq!(answer.header("x-frame-options"), Some("deny"), "{path}");
        let policy = answer.header("content-security-policy").expect("there");
        assert_eq!(policy == "sandbox", path != "/", "{path}: {policy}");
    }
}

#[test]
fn clients_show_certificates_where_they_must() {
    let (folder, ours, theirs) = (Folder::new(), authority(), authority());
    folder.write_pair(&ours);
    folder.write("ca.crt", &ours.pem());
    for (kind, without) in
        [("RequireAndVerifyClientCert", false), ("VerifyClientCertIfGiven", true)]
    {
        let text = format!("{TLS}, client_auth_type: {kind}, client_ca_file: ca.crt}}");
        folder.write("web.yml", &text);
        let served = folder.serve();
        let answered =
            |own: Option<&_>| answered(&mut connect(&served, &ours, own, rustls::ALL_VERSIONS));
        assert!(answered(Some(&pair(&ours))), "{kind}");
        assert!(!answered(Some(&pair(&theirs))), "{kind}");
        assert_eq!(answered(None), without, "{kind}");
    }
}

#[test]
fn a_renewed_certificate_is_served() {
    let ((folder, first), second) = (with_tls(""), authority());
    let served = folder.serve();
    let trusted = |by| answered(&mut connect(&served, by, None, rustls::ALL_VERSIONS));
    assert!(trusted(&first) && !trusted(&second));
    // A file that is incomplete, or gone, is not used.
    folder.write("node.crt", "-----BEGIN CERTIFICATE-----\n");
    assert!(trusted(&first));
    folder.write("web.yml", "");
    assert!(trusted(&first), "TLS does not go by itself");
    folder.write("web.yml", &format!("{TLS}}}"));
    folder.write_pair(&second);
    assert!(trusted(&second) && !trusted(&first));
}

#[test]
fn files_that_are_not_right_are_named() {
    let (folder, authority) = (Folder::new(), authority());
    let refused = || format!("{:#}", folder.read().expect_err("refused"));
    assert!(refused().contains("web.yml"));
    folder.write("web.yml", &format!("{TLS}}}"));
    assert!(refused().contains("node.crt"));
    folder.write_pair(&authority);
    folder.read().expect("right");
    folder.write(
        "node.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    assert!(refused().contains("no private key in"), "{}", refused());
    folder.write("node.key", &pair(&authority).1);
    assert!(refused().contains("do not match"), "{}", refused());
    folder.write("node.crt", "");
    assert!(refused().contains("no PEM certificate in"), "{}", refused());
}

#[test]
fn silent_handshakes_lose_the_place() {
    let (folder, authority) = with_tls("");
    let limits = Limits { crowd: ONE, headers: Duration::from_millis(200), ..GENEROUS };
    let served = Served::protected(limits, Stub::default(), folder.read().expect("valid"));
    let mut silent = served.connect();
    // The first byte of a handshake.
    silent.send("\x16");
    assert!(answered(&mut connect(&served, &authority, None, rustls::ALL_VERSIONS)));
    assert!(silent.rest().is_empty());
}

#[test]
fn who_reads_nothing_by_tls_loses_the_place() {
    let (folder, authority) = with_tls("");
    let limits = Limits { crowd: ONE, response: Duration::from_millis(200), ..GENEROUS };
    let large = Stub::metrics(|| Ok("x".repeat(64 << 20)));
    let served = Served::protected(limits, large, folder.read().expect("valid"));
    let mut deaf = connect(&served, &authority, None, rustls::ALL_VERSIONS);
    deaf.ask("/metrics");
    let mut other = connect(&served, &authority, None, rustls::ALL_VERSIONS);
    assert_eq!(other.request("GET", "/healthz").status(), 200);
}

#[test]
fn passwords_are_asked_for_everywhere_and_follow_the_file() {
    let folder = Folder::new();
    let hash = bcrypt::hash_with_salt("secret", 4, [9; 16]).expect("hashed").to_string();
    folder.write("web.yml", &format!("basic_auth_users: {{alice: {hash}}}"));
    let served = folder.serve();
    let status = |path: &str, given: &str| {
        let header = format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(given));
        served.connect().request_with("GET", path, &header).status()
    };
    for path in ["/metrics", "/", "/healthz", "/nowhere"] {
        let refusal = served.get(path);
        assert_eq!(refusal.status(), 401, "{path}");
        let challenge = refusal.header("www-authenticate").expect("says how");
        assert!(challenge.starts_with("basic realm="), "{challenge}");
        assert_eq!(status(path, "alice:wrong"), 401, "{path}");
    }
    assert_eq!(status("/metrics", "alice:secret"), 200);
    assert_eq!(status("/nowhere", "alice:secret"), 404);
    folder.write("web.yml", "basic_auth_users: {}");
    assert_eq!(served.get("/metrics").status(), 401, "users do not go by themselves");
    folder.write("web.yml", &format!("basic_auth_users: {{bob: {hash}}}"));
    assert_eq!(status("/metrics", "alice:secret"), 401);
    assert_eq!(status("/metrics", "bob:secret"), 200);
}

#[test]
fn who_comes_when_too_many_passwords_wait_is_told_to_come_later() {
    let folder = Folder::new();
    // It takes longer than all of this.
    let hash = bcrypt::hash_with_salt("secret", 12, [9; 16]).expect("hashed").to_string();
    folder.write("web.yml", &format!("basic_auth_users: {{alice: {hash}}}"));
    let served = folder.serve();
    let ask = |given: &str| {
        let given = BASE64_STANDARD.encode(given);
        let mut client = served.connect();
        client.send(&format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {given}\r\n\r\n"
        ));
        client
    };
    let mut guesses: Vec<_> = (0..12).map(|n| ask(&format!("alice:{n}"))).collect();
    let refusal = guesses.pop().expect("twelve").answer(true);
    assert_eq!((refusal.status(), refusal.header("retry-after")), (429, Some("10")));
    drop(guesses);
    // Clients that have hung up are not in the way.
    assert_eq!(ask("alice:secret").answer(true).status(), 200);
    assert!(served.refused("password_queue") >= 1);
    assert!(served.counts.figures().password_checks <= 4, "{:?}", served.counts);
    assert_eq!(ask("alice:secret").answer(true).status(), 200);
}

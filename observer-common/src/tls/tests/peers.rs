//! A client and a server that speak TLS with each other, and what an observer sees of it.

use std::{
    io::{Read as _, Write as _},
    sync::{Arc, Mutex},
};

use rcgen::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, HandshakeKind, KeyLog, RootCertStore,
    ServerConfig, ServerConnection, SideData, SupportedCipherSuite,
    crypto::{CryptoProvider, SupportedKxGroup, ring},
    pki_types::{PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
};

/// The client's bytes go in this direction.
pub const FROM_CLIENT: usize = 0;
/// The server's.
pub const FROM_SERVER: usize = 1;

/// What happened, one after the other.
#[derive(Clone, Debug)]
pub enum Step {
    /// Bytes went through the sockets, in this direction.
    Wire(usize, Vec<u8>),
    /// The program gave its library so many bytes to send.
    Wrote(usize, usize),
    /// The library returned so many bytes that went in this direction.
    Returned(usize, usize),
}

/// What the peers can.
pub struct Peers {
    client: ClientConfig,
    server: ServerConfig,
    randoms: Arc<Randoms>,
}

/// One connection.
pub struct Conversation {
    client: ClientConnection,
    server: ServerConnection,
    pub steps: Vec<Step>,
    randoms: Arc<Randoms>,
}

/// The client's randoms, by what it would log for a decoder.
#[derive(Debug, Default)]
struct Randoms(Mutex<Vec<Vec<u8>>>);

impl KeyLog for Randoms {
    fn log(&self, _: &str, client_random: &[u8], _: &[u8]) {
        self.0.lock().unwrap().push(client_random.to_vec());
    }
}

/// What peers differ in.
#[derive(Clone, Default)]
pub struct Options {
    pub suites: Vec<SupportedCipherSuite>,
    pub client_alpn: Vec<&'static str>,
    pub server_alpn: Vec<&'static str>,
    /// The client must try again, with another group.
    pub retry: bool,
    pub client_certificate: bool,
    pub early_data: bool,
}

impl Options {
    pub fn of(suite: SupportedCipherSuite) -> Self {
        let (client_alpn, server_alpn) = (vec!["h2"], vec!["h2"]);
        Self { suites: vec![suite], client_alpn, server_alpn, ..Self::default() }
    }
}

/// All suites that both can, with the certificate that they have.
pub fn suites() -> impl Iterator<Item = SupportedCipherSuite> {
    let is_usable = |suite: &SupportedCipherSuite| !format!("{suite:?}").contains("_RSA_");
    ring::ALL_CIPHER_SUITES.iter().copied().filter(is_usable)
}

impl Peers {
    pub fn new(options: &Options) -> Self {
        let all = [ring::kx_group::X25519, ring::kx_group::SECP384R1];
        let provider = |groups: &[&'static dyn SupportedKxGroup]| {
            Arc::new(CryptoProvider {
                cipher_suites: options.suites.clone(),
                kx_groups: groups.to_vec(),
                ..ring::default_provider()
            })
        };
        let for_server = provider(if options.retry { &all[1..] } else { &all });
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = || PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let chain = vec![cert.der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let client = ClientConfig::builder_with_provider(provider(&all))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(Arc::clone(&roots));
        let server = ServerConfig::builder_with_provider(Arc::clone(&for_server))
            .with_safe_default_protocol_versions()
            .unwrap();
        let (mut client, mut server) = if options.client_certificate {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, for_server);
            let server = server.with_client_cert_verifier(verifier.build().unwrap());
            let client = client.with_client_auth_cert(chain.clone(), key()).unwrap();
            (client, server.with_single_cert(chain, key()).unwrap())
        } else {
            let server = server.with_no_client_auth();
            (client.with_no_client_auth(), server.with_single_cert(chain, key()).unwrap())
        };
        let protocols =
            |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        client.alpn_protocols = protocols(&options.client_alpn);
        server.alpn_protocols = protocols(&options.server_alpn);
        client.enable_early_data = options.early_data;
        server.max_early_data_size = if options.early_data { 16_384 } else { 0 };
        let randoms = Arc::<Randoms>::default();
        client.key_log = Arc::<Randoms>::clone(&randoms);
        Self { client, server, randoms }
    }

    /// A connection whose handshake has not begun. If `early` is not empty, the client sends that with it.
    pub fn connect(&self, early: &[u8]) -> Conversation {
        self.randoms.0.lock().unwrap().clear();
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::new(self.client.clone()), name).unwrap();
        let server = ServerConnection::new(Arc::new(self.server.clone())).unwrap();
        let randoms = Arc::clone(&self.randoms);
        let mut peers = Conversation { client, server, steps: Vec::new(), randoms };
        if !early.is_empty() {
            peers.client.early_data().unwrap().write_all(early).unwrap();
            peers.steps.push(Step::Wrote(FROM_CLIENT, early.len()));
        }
        peers
    }
}

impl Conversation {
    /// A client and a server of gRPC talk for a while, with these lengths.
    pub fn talk(&mut self, lengths: &[usize]) {
        self.run();
        // The client preface and SETTINGS, the server's SETTINGS.
        self.write(FROM_CLIENT, 24 + 27);
        self.write(FROM_SERVER, 27);
        for (at, &length) in lengths.iter().enumerate() {
            self.write(at % 2, length);
        }
    }

    /// Both do what is to be done, until there is nothing left.
    pub fn run(&mut self) {
        while self.move_bytes(FROM_CLIENT) | self.move_bytes(FROM_SERVER) {}
    }

    /// A program sends so many bytes; the other one receives them.
    pub fn write(&mut self, direction: usize, length: usize) {
        // The library takes no more at once.
        for part in vec![b'x'; length].chunks(40_000) {
            let mut writer =
                if direction == FROM_CLIENT { self.client.writer() } else { self.server.writer() };
            writer.write_all(part).unwrap();
            self.steps.push(Step::Wrote(direction, part.len()));
            self.run();
        }
    }

    /// A peer renews its keys (RFC 8446 §4.6.3).
    pub fn update_keys(&mut self, direction: usize) {
        if direction == FROM_CLIENT {
            self.client.refresh_traffic_keys().unwrap();
        } else {
            self.server.refresh_traffic_keys().unwrap();
        }
        self.run();
    }

    /// A peer ends its direction.
    pub fn close(&mut self, direction: usize) {
        if direction == FROM_CLIENT {
            self.client.send_close_notify();
        } else {
            self.server.send_close_notify();
        }
        self.run();
    }

    /// All bytes of a direction.
    pub fn bytes(&self, direction: usize) -> Vec<u8> {
        let of = |step: &Step| match step {
            Step::Wire(way, bytes) if *way == direction => bytes.clone(),
            _ => Vec::new(),
        };
        self.steps.iter().flat_map(of).collect()
    }

    pub fn client_random(&self) -> Vec<u8> {
        self.randoms.0.lock().unwrap()[0].clone()
    }

    pub fn kind(&self) -> HandshakeKind {
        self.client.handshake_kind().unwrap()
    }

    fn move_bytes(&mut self, direction: usize) -> bool {
        let Self { client, server, steps, .. } = self;
        if direction == FROM_CLIENT {
            let moved = pass(direction, client, server, steps);
            // What comes before the handshake has ended.
            let mut early = Vec::new();
            if let Some(mut data) = server.early_data() {
                data.read_to_end(&mut early).unwrap();
            }
            if !early.is_empty() {
                steps.push(Step::Returned(direction, early.len()));
            }
            moved
        } else {
            pass(direction, server, client, steps)
        }
    }
}

/// Moves all bytes that one peer has to send to the other one, which reads all that they hold.
fn pass<A: SideData, B: SideData>(
    direction: usize,
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
    steps: &mut Vec<Step>,
) -> bool {
    let mut moved = false;
    while from.wants_write() {
        let mut bytes = Vec::new();
        from.write_tls(&mut bytes).unwrap();
        moved = true;
        let mut rest = &bytes[..];
        steps.push(Step::Wire(direction, bytes.clone()));
        while !rest.is_empty() {
            to.read_tls(&mut rest).unwrap();
            to.process_new_packets().unwrap();
            let mut plain = [0; 5_000];
            while let Ok(n @ 1..) = to.reader().read(&mut plain) {
                steps.push(Step::Returned(direction, n));
            }
        }
    }
    moved
}

//! Any bytes from a client of the HTTP port, which asks for a password: a client without it gets no page.
#![no_main]

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use std::{fs, future, thread};

use libfuzzer_sys::fuzz_target;
use observer::connections::Model;
use observer::metrics::{Format, Snapshot};
use observer::server::{self, Counts, Front, Pages, Protection};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::runtime;

/// The start of `fuzz:secret`, the user and password, in base64: not to be found by chance.
const KNOWN: &[u8] = b"ZnV6ejpzZWNyZXQ";

const USERS: &str =
    "basic_auth_users:\n  fuzz: $2b$04$elYrzlYaAztjcLIk2lnSfOKcl4T0Qb.6y/gWGrs3aaJD1myXfjDhe\n";

/// The content of every page.
const PAGE: &str = "only_with_the_password 1";

/// Longest time for an answer, and for the end of a connection.
const LIMIT: Duration = Duration::from_secs(20);

struct Secret;

impl Pages for Secret {
    fn metrics(&self, _: Format, to: &mut dyn io::Write) -> Result<(), String> {
        writeln!(to, "{PAGE}").map_err(|error| error.to_string())
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        Err(PAGE.into())
    }

    fn connections(&self) -> Result<Model, String> {
        Err(PAGE.into())
    }

    fn health(&self) -> Result<(), String> {
        Err(PAGE.into())
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let file = NamedTempFile::new().expect("a file");
    fs::write(file.path(), USERS).expect("written");
    let protection = Arc::new(Protection::read(Some(file.path())).expect("a web configuration"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("it does not block");
    thread::spawn(move || {
        let _file = file;
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::from_std(listener).expect("a listener");
            let front = Front { protection, hosts: Vec::new(), counts: Arc::<Counts>::default() };
            server::serve(listener, Arc::new(Secret), front, future::pending()).await;
        });
    });
    address
});

fuzz_target!(|data: &[u8]| {
    let mut stream = TcpStream::connect(*SERVER).expect("connected");
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    // The server may close the connection before everything is written.
    let _ = stream.write_all(data);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    // It may also reset it.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "no answer and no end");
    }
    let is_known = data.windows(KNOWN.len()).any(|bytes| bytes == KNOWN);
    let has_page = answer.windows(PAGE.len()).any(|bytes| bytes == PAGE.as_bytes());
    assert!(!has_page || is_known, "{:?}", String::from_utf8_lossy(&answer));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
});

//! Many clients at once, most of them hostile.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;

use tempfile::TempDir;

use super::*;

/// The usual number of places, and little patience.
const CROWDED: Bounds = Bounds { silence: Duration::from_millis(20), ..LIMITS.crowd };

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let served = Served::start(Limits { crowd: CROWDED, ..GENEROUS }, Stub::default());
    let mut scraper = served.connect();
    assert_eq!(scraper.request("GET", "/metrics").status(), 200);
    let mut idle: Vec<_> = (0..200).map(|_| served.connect()).collect();
    assert_eq!(served.get("/healthz").status(), 200);
    // The oldest silent ones made room, and none that are served.
    assert!(idle[0].rest().is_empty());
    assert_eq!(served.refused("connections"), 200 + 1 - LIMITS.lobby.each as u64);
    assert_eq!(scraper.request("GET", "/metrics").status(), 200);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(served.get(path).status(), 200, "{path}");
    }
    // From many addresses, a few each.
    let from = |last: u8| {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        );
        let socket = socket.expect("a socket");
        let own: SocketAddr = ([127, 0, 1, last], 0).into();
        rustix::net::bind(&socket, &own).expect("an address of this machine");
        rustix::net::connect(&socket, &served.address).expect("connected");
        Client(BufReader::new(TcpStream::from(socket)))
    };
    idle.extend((1..=200).map(from));
    // And some that send a part of a request.
    for client in idle.iter_mut().rev().take(100) {
        client.send("GET /metr");
    }
    assert_eq!(from(201).request("GET", "/healthz").status(), 200);
    assert_eq!(served.get("/metrics").status(), 200);
}

#[test]
fn scrapers_that_read_nothing_keep_nobody_out() {
    let page = "x".repeat(16 << 20);
    let crowd = Bounds { answer: Duration::from_millis(100), ..CROWDED };
    let limits = Limits { crowd, ..GENEROUS };
    let served = Served::start(limits, Stub::metrics(move || Ok(page.clone())));
    let deaf: Vec<_> = (0..LIMITS.crowd.all).map(|_| served.asked("/metrics")).collect();
    assert_eq!(served.get("/healthz").status(), 200);
    assert_eq!(served.get("/metrics").body.len(), 16 << 20);
    drop(deaf);
}

/// Each may request something that takes long, and not wait for it.
#[test]
fn whoever_hangs_up_gets_nothing_rendered() {
    let (stub, begins, go) = Stub::held_up(|| "done".into());
    let served = Served::start(Limits { credit: Duration::ZERO, ..GENEROUS }, stub);
    let mut first = served.asked("/metrics");
    begins.recv().expect("the first rendering");
    for _ in 0..80 {
        // The second request hides the end of the connection from a server that only reads on.
        served.asked("/metrics").ask("/metrics");
    }
    // All of them have been taken, and have gone.
    assert_eq!(served.get("/healthz").status(), 200);
    drop(go);
    assert_eq!(first.answer(true).text(), "done");
    assert_eq!(served.get("/healthz").status(), 200);
    assert_eq!(begins.try_iter().count(), 0, "renderings for who has gone");
}

#[test]
fn who_asks_more_often_than_rendering_may_cost_shares() {
    let count = Arc::new(AtomicUsize::new(0));
    let renderings = Arc::clone(&count);
    let limits = Limits { credit: Duration::from_millis(40), shared: LONG, ..GENEROUS };
    let served = Served::start(
        limits,
        Stub::metrics(move || {
            thread::sleep(Duration::from_millis(10));
            Ok(renderings.fetch_add(1, Ordering::SeqCst).to_string())
        }),
    );
    let mut client = served.connect();
    let texts: Vec<String> =
        (0..200).map(|_| client.request("GET", "/metrics").text().to_owned()).collect();
    let count = count.load(Ordering::SeqCst);
    assert!((2..100).contains(&count), "{count} renderings");
    assert_eq!(texts[..2], ["0", "1"], "at first each has its own");
    // A text is shared only within a format.
    let accept = "Accept: application/openmetrics-text\r\n";
    let other = client.request_with("GET", "/metrics", accept);
    assert_eq!(other.text(), count.to_string());
}

#[test]
fn a_text_that_is_too_long_is_an_error() {
    let metrics = Box::new(|_| Ok(held::tests::noise(1 << 20)));
    let limits = Limits { held: 64 << 10, ..GENEROUS };
    let served = Served::start(limits, Stub { metrics, ..Stub::default() });
    let answer = served.get("/metrics");
    assert_eq!(answer.status(), 500);
    assert!(answer.text().contains("more than 65536 bytes"), "{}", answer.text());
    assert_eq!(served.get("/healthz").status(), 200);
}

/// Checks a listener for probes among idle and invalid connections.
fn probed<S: Read + Write>(connect: impl Fn() -> S) {
    let client = || Client(BufReader::new(connect()));
    let mut idle: VecDeque<_> = (0..100).map(|_| client()).collect();
    for (path, status) in [("/healthz", 200), ("/readyz", 503), ("/metrics", 404), ("/", 404)] {
        idle.push_back(client());
        let answer = client().request("GET", path);
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.header("connection"), Some("close"), "{path}");
    }
    assert_eq!(client().request("POST", "/healthz").status(), 405);
    assert_eq!(client().request("HEAD", "/healthz").status(), 200);
    let mut garbage = client();
    garbage.send("garbage\r\n\r\n");
    assert_eq!(garbage.answer(true).status(), 400);
}

#[test]
fn probes_have_a_listener_of_their_own() {
    let pages = || Stub { ready: Box::new(|| Err("not attached".into())), ..Stub::default() };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("set");
    let address = listener.local_addr().expect("bound");
    let health = Health::start(HealthListener::Tcp(listener), Arc::new(pages())).expect("started");
    probed(|| TcpStream::connect(address).expect("connected"));
    drop(health);
    assert!(TcpStream::connect(address).is_err(), "it goes on");

    let folder = TempDir::new().expect("a folder");
    let place = crate::config::HealthListen::Unix(folder.path().join("health.sock"));
    let bind = || crate::preconditions::bind_health(&place);
    let health = Health::start(bind().expect("free"), Arc::new(pages())).expect("started");
    assert!(bind().is_err(), "it is in use");
    let path = folder.path().join("health.sock");
    probed(|| UnixStream::connect(&path).expect("connected"));
    drop(health);
    assert!(path.exists());
    drop(bind().expect("nobody listens"));
    std::fs::remove_file(&path).expect("there");
    std::fs::write(&path, "not ours").expect("written");
    assert!(bind().is_err(), "a file of somebody else's");
}

/// A compressed exposition is small in every format, even with many series.
#[test]
fn an_exposition_packs_well() {
    let names: Vec<String> =
        (0..3000).map(|n| format!("/shop.v{}.Orders{}/Place{n}", n % 7, n % 50)).collect();
    let paths: Vec<&str> = names.iter().map(String::as_str).collect();
    let snapshot = watching::calls_to(&paths);
    for format in [Format::OpenMetricsText, Format::PrometheusText, Format::Protobuf] {
        let ledger = held::Ledger::new(usize::MAX);
        let mut text = ledger.begin();
        crate::metrics::write(&snapshot, format, &mut text).expect("there is room");
        let held = ledger.hold(text).expect("there is room");
        let [length, packed] =
            [held.read(), held.read_packed()].map(|text| text.size_hint().exact().expect("known"));
        assert!(packed * 16 < length, "{packed} of {length} bytes as {format:?}");
    }
}

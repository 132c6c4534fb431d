//! Tests over real sockets, with clients that write bytes: no HTTP client misbehaves on demand.

mod crowded;
mod protected;
mod sites;

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use flate2::read::GzDecoder;
use tokio::sync::oneshot;

use super::*;

mod watching;

/// A long time: a test that waits for it has failed.
const LONG: Duration = Duration::from_mins(1);

/// Bounds that no test meets unless it sets them.
const GENEROUS: Limits = Limits {
    lobby: LIMITS.lobby,
    crowd: Bounds { all: 128, each: 128, silence: LONG, answer: LONG },
    first_byte: LONG,
    headers: LONG,
    page: LONG,
    response: LONG,
    grace: LONG,
    held: usize::MAX,
    credit: LONG,
    shared: Duration::from_secs(1),
    watchers: 128,
    period: Duration::from_millis(20),
    linger: LONG,
};

/// Bounds for one connection, which keeps its place.
const ONE: Bounds = Bounds { all: 1, each: 1, ..GENEROUS.crowd };

type Page<T> = Box<dyn Fn() -> Result<T, String> + Send + Sync>;

struct Stub {
    metrics: Box<dyn Fn(Format) -> Result<Vec<u8>, String> + Send + Sync>,
    snapshot: Page<Snapshot>,
    connections: Page<Connections>,
    health: Page<()>,
    ready: Page<()>,
}

impl Default for Stub {
    fn default() -> Self {
        Self {
            metrics: Box::new(|_| Ok("# EOF\n".into())),
            snapshot: Box::new(|| Ok(watching::calls_to(&["/a.B/C"]))),
            connections: Box::new(|| Ok(Connections::default())),
            health: Box::new(|| Ok(())),
            ready: Box::new(|| Ok(())),
        }
    }
}

impl Stub {
    fn metrics(make: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self { metrics: Box::new(move |_| make().map(String::into_bytes)), ..Self::default() }
    }

    /// A stub whose metrics wait until the sender is dropped. The receiver gets a message when each rendering starts.
    fn held_up(
        make: impl Fn() -> String + Send + Sync + 'static,
    ) -> (Self, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (begun, begins) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let gone = Mutex::new(gone);
        let stub = Self::metrics(move || {
            begun.send(()).expect("awaited");
            gone.lock().expect("whole").recv().expect_err("dropped, never sent");
            Ok(make())
        });
        (stub, begins, go)
    }

    fn snapshot(make: impl Fn() -> Result<Snapshot, String> + Send + Sync + 'static) -> Self {
        Self { snapshot: Box::new(make), ..Self::default() }
    }
}

impl Pages for Stub {
    fn metrics(&self, format: Format, to: &mut dyn Write) -> Result<(), String> {
        to.write_all(&(self.metrics)(format)?).map_err(|error| error.to_string())
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        (self.snapshot)()
    }

    fn connections(&self) -> Result<Connections, String> {
        (self.connections)()
    }

    fn health(&self) -> Result<(), String> {
        (self.health)()
    }

    fn ready(&self) -> Result<(), String> {
        (self.ready)()
    }
}

/// A server on a thread of its own.
struct Served {
    address: SocketAddr,
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn start(limits: Limits, pages: Stub) -> Self {
        Self::protected(limits, pages, Protection::read(None).expect("none"))
    }

    fn protected(limits: Limits, pages: Stub, protection: Protection) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let counts: Arc<Counts> = Arc::default();
        let front = Front {
            protection: Arc::new(protection),
            hosts: Vec::new(),
            counts: Arc::clone(&counts),
        };
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                tell.send(listener.local_addr().expect("bound")).expect("awaited");
                let shutdown = async {
                    stopped.await.expect_err("dropped, never sent");
                };
                serve_within(limits, listener, Arc::new(pages), front, shutdown).await;
            });
        });
        let address = told.recv().expect("it listens");
        Self { address, counts, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(LONG)).expect("set");
        Client(BufReader::new(stream))
    }

    /// A connection with a request for `path`.
    fn asked(&self, path: &str) -> Client {
        let mut client = self.connect();
        client.ask(path);
        client
    }

    fn get(&self, path: &str) -> Answer {
        self.connect().request("GET", path)
    }

    /// The number of refusals for a reason.
    fn refused(&self, reason: &str) -> u64 {
        let figures = self.counts.figures();
        let refused = figures.refused.iter().find(|(of, _)| *of == reason);
        refused.expect("a reason").1
    }

    fn begin_shutdown(&mut self) {
        drop(self.stop.take());
    }

    fn wait_for_end(&mut self) {
        self.thread.take().expect("once").join().expect("it did not panic");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.begin_shutdown();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Client<S = TcpStream>(BufReader<S>);

impl<S: Read + Write> Client<S> {
    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("sent");
    }

    fn ask(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    }

    fn request(&mut self, method: &str, path: &str) -> Answer {
        self.request_with(method, path, "")
    }

    /// Sends a request with further headers, each with CRLF at its end.
    fn request_with(&mut self, method: &str, path: &str, headers: &str) -> Answer {
        self.send(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
        self.answer(method != "HEAD")
    }

    fn answer(&mut self, with_body: bool) -> Answer {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).expect("read"), 0, "ended in {lines:?}");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_ascii_lowercase()),
            }
        }
        let mut answer = Answer { lines, body: Vec::new() };
        if with_body {
            let length = answer.header("content-length").expect("a length").parse();
            answer.body = vec![0; length.expect("a number")];
            self.0.read_exact(&mut answer.body).expect("as long as announced");
        }
        answer
    }

    /// Reads until the server closes the connection. Returns what it still sent.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => rest,
        }
    }
}

struct Answer {
    lines: Vec<String>,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        self.lines[0].split(' ').nth(1).expect("a status").parse().expect("a number")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("UTF-8")
    }
}

/// Waits until `done` returns true. Fails with `fault` after [`LONG`].
fn wait_until(fault: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LONG, "{fault}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    let named = |format: Format| Ok(format!("{format:?}").into_bytes());
    let served = Served::start(GENEROUS, Stub { metrics: Box::new(named), ..Stub::default() });
    let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                    encoding=delimited";
    for (accept, format) in [
        ("", Format::PrometheusText),
        (
            "Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n",
            Format::OpenMetricsText,
        ),
        ("Accept: text/html\r\nAccept: application/openmetrics-text\r\n", Format::OpenMetricsText),
        (&format!("Accept: {protobuf}\r\n"), Format::Protobuf),
    ] {
        let answer = served.connect().request_with("GET", "/metrics?name=x", accept);
        assert_eq!((answer.status(), answer.text()), (200, &*format!("{format:?}")), "{accept}");
        let content_type = format.content_type().to_ascii_lowercase();
        assert_eq!(answer.header("content-type"), Some(&*content_type), "{accept}");
    }
}

#[test]
fn metrics_are_packed_for_who_takes_gzip() {
    let page = "grpc_server_handled_total 1\n".repeat(1000);
    let made = page.clone();
    let served = Served::start(GENEROUS, Stub::metrics(move || Ok(made.clone())));
    let mut client = served.connect();
    let packed = client.request_with("GET", "/metrics", "Accept-Encoding: gzip\r\n");
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert_eq!(packed.header("vary"), Some("accept, accept-encoding"));
    let mut text = String::new();
    GzDecoder::new(&packed.body[..]).read_to_string(&mut text).expect("gzip");
    assert_eq!(text, page);
    let head = client.request_with("HEAD", "/metrics", "Accept-Encoding: gzip\r\n");
    assert_eq!(head.header("content-length"), packed.header("content-length"));
    let plain = client.request_with("GET", "/metrics", "Accept-Encoding: gzip;q=0\r\n");
    assert_eq!((plain.header("content-encoding"), plain.text()), (None, &*page));
}

#[test]
fn probes_say_ok_or_the_reason() {
    let served = Served::start(
        GENEROUS,
        Stub { ready: Box::new(|| Err("not attached".into())), ..Stub::default() },
    );
    let (healthy, ready) = (served.get("/healthz"), served.get("/readyz"));
    assert_eq!((healthy.status(), healthy.text()), (200, "ok\n"));
    assert_eq!((ready.status(), ready.text()), (503, "not attached\n"));
    let served = Served::start(
        GENEROUS,
        Stub { health: Box::new(|| Err("reader ended".into())), ..Stub::default() },
    );
    assert_eq!((served.get("/healthz").status(), served.get("/readyz").status()), (503, 200));
}

#[test]
fn head_has_the_length_and_no_body() {
    let served = Served::start(GENEROUS, Stub::default());
    for path in ["/metrics", "/", "/healthz", "/nowhere"] {
        let mut client = served.connect();
        let head = client.request("HEAD", path);
        // A body would be read as the start of the next answer.
        let get = client.request("GET", path);
        assert_eq!(head.status(), get.status(), "{path}");
        let length = head.header("content-length").and_then(|length| length.parse().ok());
        // The page has the time in it, which may take a digit more by then.
        let may_grow = if path == "/" { 100 } else { 0 };
        assert!(length.is_some_and(|length: usize| length.abs_diff(get.body.len()) <= may_grow));
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    let served = Served::start(GENEROUS, Stub::default());
    for path in ["/nowhere", "/metrics/", "/Metrics", "/../etc/passwd"] {
        assert_eq!(served.get(path).status(), 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let answer = served.connect().request(method, "/metrics");
        assert_eq!((answer.status(), answer.header("allow")), (405, Some("get, head")), "{method}");
    }
    assert_eq!(served.connect().request("POST", "/nowhere").status(), 404);
}

#[test]
fn garbage_is_a_bad_request_and_ends_only_its_connection() {
    let served = Served::start(GENEROUS, Stub::default());
    for garbage in ["\x16\x03\x01\0\u{1}garbage\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        let mut client = served.connect();
        client.send(garbage);
        assert_eq!(client.answer(true).status(), 400, "{garbage:?}");
        assert!(client.rest().is_empty(), "{garbage:?}");
    }
    let mut client = served.connect();
    client.send(&format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(17 << 10)));
    assert_eq!(client.answer(true).status(), 431);
    assert_eq!(served.get("/metrics").status(), 200);
}

#[test]
fn a_connection_carries_many_requests() {
    let served = Served::start(GENEROUS, Stub::default());
    let mut client = served.connect();
    for _ in 0..100 {
        assert_eq!(client.request("GET", "/metrics").text(), "# EOF\n");
    }
    client.send(&"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(10));
    for _ in 0..10 {
        assert_eq!(client.answer(true).text(), "ok\n");
    }
}

#[test]
fn a_failing_page_fails_alone() {
    let served = Served::start(GENEROUS, Stub::metrics(|| Err("the table is gone".into())));
    let answer = served.get("/metrics");
    assert_eq!((answer.status(), answer.text()), (500, "the table is gone\n"));
    assert_eq!(served.get("/healthz").status(), 200);
}

#[test]
fn a_panicking_page_fails_alone() {
    let panicking = Stub {
        metrics: Box::new(|_| panic!("in metrics")),
        health: Box::new(|| panic!("in health")),
        ..Stub::default()
    };
    let served = Served::start(GENEROUS, panicking);
    for _ in 0..2 {
        assert_eq!(served.get("/metrics").status(), 500);
        assert_eq!(served.get("/healthz").status(), 500);
        assert_eq!(served.get("/readyz").status(), 200);
    }
}

#[test]
fn concurrent_scrapes_render_one_at_a_time_and_see_what_was_before_them() {
    let events = Arc::new(AtomicUsize::new(0));
    let (rendering, seen) = (AtomicUsize::new(0), Arc::clone(&events));
    let served = Served::start(
        Limits { crowd: Bounds { all: 64, ..GENEROUS.crowd }, ..GENEROUS },
        Stub::metrics(move || {
            assert_eq!(rendering.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            let text = seen.load(Ordering::SeqCst).to_string();
            thread::yield_now();
            rendering.fetch_sub(1, Ordering::SeqCst);
            Ok(text)
        }),
    );
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let before = events.fetch_add(1, Ordering::SeqCst) + 1;
                let answer = served.get("/metrics");
                assert_eq!(answer.status(), 200, "{}", answer.text());
                let seen: usize = answer.text().parse().expect("a number");
                assert!(seen >= before, "a scrape was answered with what was before it");
            });
        }
    });
}

#[test]
fn scrapes_that_wait_share_one_rendering() {
    const WAITING: usize = 20;
    let renderings = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&renderings);
    let (stub, begins, go) =
        Stub::held_up(move || count.fetch_add(1, Ordering::SeqCst).to_string());
    let served = Served::start(GENEROUS, stub);
    let mut first = served.asked("/metrics");
    begins.recv().expect("the first rendering");
    let mut others: Vec<Client> = (0..WAITING).map(|_| served.asked("/metrics")).collect();
    // The one thread of the server has taken all requests sent before this one.
    assert_eq!(served.get("/healthz").status(), 200);
    drop(go);
    assert_eq!(first.answer(true).text(), "0");
    for client in &mut others {
        assert_ne!(client.answer(true).text(), "0", "begun before the request");
    }
    assert!(renderings.load(Ordering::SeqCst) <= WAITING, "each had its own");
}

#[test]
fn a_page_that_is_never_made_is_given_up() {
    let (stub, _begins, go) = Stub::held_up(String::new);
    // It is for all pages, and the machine may have something else to do.
    let served = Served::start(Limits { page: Duration::from_millis(500), ..GENEROUS }, stub);
    // Dropped before the server, which waits for it, if an assertion fails.
    let go = go;
    // The second waits for the rendering that the first began.
    for _ in 0..2 {
        assert_eq!(served.get("/metrics").status(), 503);
    }
    assert_eq!(served.get("/healthz").status(), 200);
    drop(go);
}

#[test]
fn who_says_nothing_loses_the_place() {
    let short = Duration::from_millis(20);
    let limits = Limits { crowd: ONE, first_byte: short, headers: short, ..GENEROUS };
    let served = Served::start(limits, Stub::default());
    let mut silent = served.connect();
    let mut halting = served.connect();
    halting.send("GET /metrics HT");
    assert_eq!(served.get("/metrics").status(), 200);
    assert!(silent.rest().is_empty());
    drop(halting.rest());
    assert_eq!(served.refused("connections"), 0, "nobody needed the places");
}

#[test]
fn who_reads_nothing_holds_up_nobody_and_loses_the_place() {
    // More than both kernel buffers hold.
    let page = "x".repeat(64 << 20);
    let large = move || Ok(page.clone());
    let served = Served::start(GENEROUS, Stub::metrics(large.clone()));
    let mut deaf = served.asked("/metrics");
    assert_eq!(served.get("/metrics").body.len(), 64 << 20);
    assert_eq!(served.get("/healthz").status(), 200);
    deaf.0.get_mut().shutdown(Shutdown::Both).expect("ended, or the server waits for it");

    let limits = Limits { crowd: ONE, response: Duration::from_millis(20), ..GENEROUS };
    let served = Served::start(limits, Stub::metrics(large));
    let mut deaf = served.asked("/metrics");
    assert_eq!(served.get("/healthz").status(), 200);
    assert!(deaf.rest().len() < 64 << 20, "cut off");
}

#[test]
fn who_reads_nothing_is_cut_off_for_who_reads() {
    const PAGE: usize = 16 << 20;
    // It has as many bytes when compressed.
    let page = held::tests::noise(PAGE);
    let metrics = Box::new(move |_| Ok(page.clone()));
    let limits = Limits { held: 4 * PAGE + (1 << 20), ..GENEROUS };
    let served = Served::start(limits, Stub { metrics, ..Stub::default() });
    let mut deaf: Vec<Client> = Vec::new();
    for _ in 0..10 {
        let mut client = served.asked("/metrics");
        // Begun, and no rendering shared with the next.
        client.0.read_exact(&mut [0]).expect("an answer begins");
        deaf.push(client);
    }
    assert_eq!(served.get("/metrics").body.len(), PAGE);
    let whole = deaf.into_iter().filter_map(|mut client| {
        let mut sink = Vec::new();
        let limit = Duration::from_millis(500);
        client.0.get_mut().set_read_timeout(Some(limit)).expect("set");
        // A connection that is kept open for the next request ends by the timeout.
        let ended = client.0.read_to_end(&mut sink);
        let waits = ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        (waits && sink.len() >= PAGE).then_some(())
    });
    assert!((1..=4).contains(&whole.count()), "the newest are served, the others cut off");
}

#[test]
fn a_scrape_under_way_at_shutdown_completes() {
    let (stub, begins, go) = Stub::held_up(|| "last".into());
    let mut served = Served::start(GENEROUS, stub);
    let mut idle = served.connect();
    assert_eq!(idle.request("GET", "/healthz").status(), 200);
    let mut scrape = served.asked("/metrics");
    begins.recv().expect("under way");
    served.begin_shutdown();
    assert!(idle.rest().is_empty(), "idle connections end at once");
    // The listener is closed beside them, not before.
    wait_until("no new ones", || TcpStream::connect(served.address).is_err());
    drop(go);
    let last = scrape.answer(true);
    assert_eq!(last.text(), "last");
    // Whether the answer says so depends on which came first, it or the shutdown.
    assert!(scrape.rest().is_empty(), "nothing more, and the connection ends");
    served.wait_for_end();
}

#[test]
fn shutdown_does_not_wait_for_who_reads_nothing() {
    let limits = Limits { grace: Duration::from_millis(20), ..GENEROUS };
    let mut served = Served::start(limits, Stub::metrics(|| Ok("x".repeat(64 << 20))));
    let mut deaf = served.asked("/metrics");
    let mut first = [0];
    deaf.0.read_exact(&mut first).expect("the answer has begun");
    served.begin_shutdown();
    served.wait_for_end();
}

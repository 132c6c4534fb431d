//! The page, the JSON and the events for viewers.

use super::*;
use crate::connections::{Connections as ConnectionsOfKind, Kind, Process};
use crate::metrics::{self, Buckets, Limits as SeriesLimits, Statistics, view::Model};
use observer_core::{
    call::{CallKey, CallProtocol, CallSink as _, Code, Role},
    names::PathId,
    process::{Comm, Processes},
    record::Tie,
};

/// A snapshot with one call of each of these paths.
pub(super) fn calls_to(paths: &[&str]) -> Snapshot {
    let limits = SeriesLimits { max_methods: 10_000, max_series: 100_000 };
    let mut statistics = Statistics::new(Buckets::default(), limits);
    let mut processes = Processes::new(10);
    let process = processes.seen(7, 1, Some(Comm::truncated(b"<b>'shop'"))).id;
    for at in 0..paths.len() {
        let key = CallKey {
            protocol: CallProtocol::Grpc,
            process,
            role: Role::Server,
            path: PathId(at as u32 + 2),
        };
        let id = statistics.started(key);
        let ended = metrics::unary(Some(Code::Ok), 1_000_000);
        statistics.ended(id, ended);
    }
    metrics::snapshot_of(statistics, paths, &processes)
}

/// A stub with calls of these paths, and the number of snapshots taken.
fn counted(paths: &'static [&'static str]) -> (Stub, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let stub = Stub::snapshot(move || {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(calls_to(paths))
    });
    (stub, taken)
}

/// A viewer that reads events.
struct Watcher(BufReader<TcpStream>);

impl Served {
    fn watch(&self) -> Watcher {
        let mut client = self.asked("/events");
        let answer = client.answer(false);
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        assert_eq!(answer.header("connection"), Some("close"));
        Watcher(client.0)
    }
}

/// The answer to one more viewer.
fn one_more(served: &Served) -> Answer {
    served.asked("/events").answer(false)
}

impl Watcher {
    /// The data of the next event; `None` at the end.
    fn next(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).expect("read") == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.trim_end().to_owned());
            }
        }
    }

    fn model(&mut self) -> Model {
        serde_json::from_str(&self.next().expect("an event")).expect("a model")
    }
}

#[test]
fn the_page_has_what_there_is_without_script() {
    let answer = Served::start(GENEROUS, Stub::default()).get("/");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    let text = answer.text();
    for link in ["connections", "metrics", "healthz", "readyz", "api/v1/view"] {
        assert!(text.contains(&format!("href=\"{link}\"")), "{link}");
    }
    assert!(text.contains("<b>C</b> <small>a.B</small>"), "{text}");
    assert!(text.contains("<span>OK 1</span>"), "{text}");
    assert!(!text.contains("://"), "asks somebody else: {text}");
}

#[test]
fn the_page_lets_no_script_run_but_the_daemons() {
    let hostile = "/a.B/<script>alert(\"1\")</script>' onload='x";
    let stub = Stub::snapshot(move || Ok(calls_to(&[hostile])));
    let answer = Served::start(GENEROUS, stub).get("/");
    let text = answer.text();
    assert_eq!(text.matches("<script").count(), 1, "{text}");
    assert!(text.contains("alert(&quot;1&quot;)"), "{text}");
    assert!(text.contains("<b>&lt;b&gt;&#39;shop&#39;</b>"), "{text}");
    let policy = answer.header("content-security-policy").expect("a policy");
    for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[test]
fn all_that_the_page_loads_is_served() {
    let served = Served::start(GENEROUS, Stub::default());
    let mut asked = vec!["view.js".to_owned()];
    let page = served.get("/");
    // Files, and not the places that one may go to.
    let linked = page.text().split("href=\"").skip(1).filter_map(|rest| rest.split_once('"'));
    asked.extend(linked.map(|(path, _)| path.to_owned()).filter(|path| path.contains('.')));
    assert_eq!(asked, ["view.js", "icon.svg", "view.css"]);
    assert!(page.text().contains("src=\"view.js\""));
    while let Some(path) = asked.pop() {
        let answer = served.get(&format!("/{path}"));
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        let imported = answer.text().split("from \"./").skip(1);
        asked.extend(imported.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    }
}

#[test]
fn json_waits_for_rates() {
    let answer = Served::start(GENEROUS, Stub::default()).get("/api/v1/view");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let model: Model = serde_json::from_str(answer.text()).expect("a model");
    assert!(model.sample >= 2 && model.window_seconds.is_some(), "{model:?}");
    assert_eq!(model.rows[0].total.counts.ended, 1);
}

#[test]
fn all_watchers_share_the_samples() {
    let (stub, taken) = counted(&["/a.B/C"]);
    let served = Served::start(Limits { period: Duration::from_millis(200), ..GENEROUS }, stub);
    let mut watchers: Vec<Watcher> = (0..100).map(|_| served.watch()).collect();
    let models: Vec<Model> = watchers.iter_mut().map(Watcher::model).collect();
    let last = models.iter().map(|model| model.sample).max().expect("some") as usize;
    let instance = models[0].daemon.instance;
    assert!(models.iter().all(|model| model.daemon.instance == instance));
    assert!(taken.load(Ordering::SeqCst) <= last + 2, "{taken:?} snapshots, {last} samples");
    let next = watchers[0].model();
    assert_eq!(next.sample, models[0].sample + 1);
}

#[test]
fn nobody_looks_nothing_is_sampled() {
    let (stub, taken) = counted(&["/a.B/C"]);
    let linger = Duration::from_millis(50);
    let served = Served::start(Limits { linger, ..GENEROUS }, stub);
    thread::sleep(3 * linger);
    served.get("/healthz");
    assert_eq!(taken.load(Ordering::SeqCst), 0);
    drop((served.watch().model(), served.get("/")));
    wait_until("it goes on", || {
        let before = taken.load(Ordering::SeqCst);
        thread::sleep(4 * linger);
        taken.load(Ordering::SeqCst) == before
    });
    // Calls from before are not shown as new.
    assert_eq!(served.watch().model().sample, 1);
}

#[test]
fn watchers_have_bounded_places_of_their_own() {
    let crowd = Bounds { all: 2, ..GENEROUS.crowd };
    let limits = Limits { crowd, watchers: 3, ..GENEROUS };
    let served = Served::start(limits, Stub::default());
    let mut watchers: Vec<Watcher> = (0..3).map(|_| served.watch()).collect();
    let refused = one_more(&served);
    assert_eq!((refused.status(), refused.header("retry-after")), (503, Some("10")));
    // More than there are connections are watching, and a scraper gets through.
    assert_eq!(served.get("/metrics").status(), 200);
    watchers.pop();
    wait_until("the place of who has gone stays taken", || one_more(&served).status() == 200);
}

#[test]
fn a_watcher_that_does_not_read_is_dropped() {
    let names: Vec<String> = (0..1000).map(|n| format!("/a.B/{n}{}", "x".repeat(400))).collect();
    let paths: Vec<&str> = names.iter().map(String::as_str).collect();
    let snapshot = calls_to(&paths);
    let stub = Stub::snapshot(move || Ok(snapshot.clone()));
    let limits = Limits {
        watchers: 1,
        period: Duration::from_millis(1),
        response: Duration::from_millis(200),
        ..GENEROUS
    };
    let served = Served::start(limits, stub);
    let deaf = served.watch();
    wait_until("it keeps its place", || one_more(&served).status() == 200);
    drop(deaf);
}

#[test]
fn trouble_is_told_and_watching_goes_on() {
    let broken = Arc::new(AtomicUsize::new(1));
    let is_broken = Arc::clone(&broken);
    let stub = Stub::snapshot(move || match is_broken.load(Ordering::SeqCst) {
        0 => Ok(calls_to(&["/a.B/C"])),
        _ => Err("the worker\nhas ended".to_owned()),
    });
    let served = Served::start(GENEROUS, stub);
    let mut watcher = served.watch();
    assert_eq!(watcher.next().as_deref(), Some("the worker has ended"));
    assert_eq!(served.get("/").status(), 500);
    assert_eq!(served.get("/api/v1/view").status(), 500);
    broken.store(0, Ordering::SeqCst);
    wait_until("the trouble stays", || watcher.next().is_none_or(|data| data.starts_with('{')));
}

#[test]
fn the_end_of_the_server_ends_watching() {
    let mut served = Served::start(GENEROUS, Stub::default());
    let mut watcher = served.watch();
    watcher.model();
    served.begin_shutdown();
    while watcher.next().is_some() {}
    served.wait_for_end();
}

#[test]
fn connections_are_listed_at_most_once_a_second() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let connections = move || {
        count.fetch_add(1, Ordering::SeqCst);
        let of = |advice| ConnectionsOfKind {
            kind: Kind::Http1,
            seen: 3,
            open: None,
            joined_late: 0,
            with_gaps: 0,
            advice,
            tied: [(Tie::Descriptor, 2)].into(),
        };
        let process = Process {
            pid: 47,
            name: "<b>shop</b>".into(),
            connections: vec![of(Some("\"not\" measured".into()))],
            libraries: Vec::new(),
        };
        Ok(Connections { processes: vec![process], ..Connections::default() })
    };
    let served =
        Served::start(GENEROUS, Stub { connections: Box::new(connections), ..Stub::default() });
    let page = served.get("/connections");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").is_some());
    assert!(page.text().contains("<b>&lt;b&gt;shop&lt;/b&gt;</b> <small>47</small>"));
    assert!(page.text().contains("&quot;not&quot; measured"), "{}", page.text());
    assert!(page.text().contains("tied to sockets by the file descriptor (2)"), "{}", page.text());
    let json = served.get("/api/v1/connections");
    assert_eq!(json.header("content-type"), Some("application/json"));
    let model: Connections = serde_json::from_str(json.text()).expect("a model");
    assert_eq!(model.processes[0].connections[0].seen, 3);
    assert_eq!(made.load(Ordering::SeqCst), 1, "the second answer is the same list");
}

#[test]
fn connections_that_cannot_be_listed_are_an_error() {
    let connections = Box::new(|| Err("a worker has ended".into()));
    let served = Served::start(GENEROUS, Stub { connections, ..Stub::default() });
    for path in ["/connections", "/api/v1/connections"] {
        let answer = served.get(path);
        assert_eq!(answer.status(), 500);
        assert!(answer.text().contains("a worker has ended"));
    }
}

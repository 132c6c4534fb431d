use std::sync::{Arc, Mutex};

use clap::ValueEnum as _;

use super::*;
use observer_core::{
    call::{CallProtocol, Role, SeriesId, TraceId},
    ends::Ends,
    names::Texts,
    process::{Comm, Processes},
    protocol::hpack::{self, Decoder},
    record::Peer,
};

/// Collects the lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn failures(&self, per_second: u32, omitted: &[Field]) -> Failures {
        let lines = Arc::clone(&self.0);
        let choice = FailureLogConfig { per_second, omitted: omitted.to_vec() };
        Failures::new(
            &choice,
            Box::new(move |line| {
                lines.lock().unwrap().push(line);
                true
            }),
        )
    }

    fn taken(&self) -> Vec<Value> {
        let lines = std::mem::take(&mut *self.0.lock().unwrap());
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn ended(code: Option<Code>) -> Ended {
    Ended {
        code,
        elapsed_ns: Some(2_500_000),
        request_messages: Some(1),
        response_messages: Some(0),
        half_closed: true,
        ..Ended::default()
    }
}

fn call(time_ns: u64, ended: Ended) -> Call {
    Call {
        connection: 1,
        pair: 0,
        peer: Some(Peer::Unix),
        time_ns,
        series: SeriesId(0),
        ended,
        span: None,
    }
}

/// A call of `/shop.Orders/Place` of process 7, named `orders`, which failed with the message.
fn tell(failures: &mut Failures, message: &[u8]) {
    tell_of(failures, b"/shop.Orders/Place", b"orders", message);
}

/// A failed call of a path and a process with these names.
fn tell_of(failures: &mut Failures, path: &[u8], process: &[u8], message: &[u8]) {
    let mut interner = Interner::new(10);
    interner.texts = Texts::new(MAX_TEXTS);
    let mut processes = Processes::new(10);
    let process = processes.seen(7, 1, Some(Comm::truncated(process))).id;
    let path = interner.intern(path);
    // A literal field without indexing (RFC 7541 §6.2.2).
    let block = [&[0, 12], &b"grpc-message"[..], &[message.len() as u8], message].concat();
    let mut id = None;
    let decoded = Decoder::from_start().decode(&block, &mut interner, |field| {
        if let hpack::Field::GrpcMessage(message) = field {
            id = Some(message);
        }
    });
    decoded.unwrap();
    let key = CallKey { protocol: CallProtocol::Grpc, process, role: Role::Server, path };
    let trace = Some(TraceId([0xab; 16]));
    let ended = Ended { trace, message: id, ..ended(Some(Code::NotFound)) };
    let peer = Some(Peer::Address(([127, 0, 0, 1], 4711).into()));
    let mut call = Call { peer, ..call(1, ended) };
    failures.call(
        &mut call,
        Some(key),
        &Names { interner: &interner, processes: &processes, ends: &Ends::default() },
    );
}

#[test]
fn a_line_says_all_that_is_known() {
    let lines = Lines::default();
    tell(&mut lines.failures(10, &[]), b"no such order: 7%25 of \"it%22, %C3%A9");
    let [mut line] = <[Value; 1]>::try_from(lines.taken()).unwrap();
    let time = line.as_object_mut().unwrap().remove("time").unwrap();
    assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
    let want = serde_json::json!({
        "pid": 7, "process": "orders", "role": "server",
        "service": "shop.Orders", "method": "Place",
        "code": "NotFound", "message": "no such order: 7% of \"it\", é",
        "peer": "127.0.0.1:4711", "duration_seconds": 0.0025,
        "request_messages": 1, "response_messages": 0,
        "trace_id": "abababababababababababababababab",
    });
    assert_eq!(line, want);
}

#[test]
fn what_is_omitted_is_not_told() {
    let lines = Lines::default();
    tell(&mut lines.failures(10, Field::value_variants()), b"secret");
    let [line] = <[Value; 1]>::try_from(lines.taken()).unwrap();
    assert_eq!(line.as_object().unwrap().keys().collect::<Vec<_>>(), ["time"]);
    for &field in Field::value_variants() {
        let lines = Lines::default();
        tell(&mut lines.failures(10, &[field]), b"secret");
        let [line] = <[Value; 1]>::try_from(lines.taken()).unwrap();
        // The time is there too, and the process has not been looked up.
        let is_told = |of: &&Field| ![field, Field::ServiceName].contains(of);
        let told = Field::value_variants().iter().filter(is_told).count() + 1;
        assert_eq!(line.as_object().unwrap().len(), told, "{field:?}");
        assert!(line.get(field.name()).is_none(), "{line}");
    }
}

#[test]
fn messages_may_be_anything() {
    for (message, told) in
        [(&b"%"[..], "%"), (b"%zz%4", "%zz%4"), (b"\xff\0", "\u{fffd}\0"), (b"%ff", "\u{fffd}")]
    {
        let lines = Lines::default();
        tell(&mut lines.failures(10, &[]), message);
        assert_eq!(lines.taken().first().unwrap()["message"], told, "{message:?}");
    }
}

#[test]
fn names_are_told_as_labels_tell_them() {
    for (path, process, service, method, name) in [
        (&b"/a\\b/caf\xc3\xa9"[..], &b"a\\b"[..], "a\\b", "caf\u{e9}", "a\\b"),
        (b"/s/caf%C3%A9", b"\n", "s", "caf%C3%A9", "\\x0a"),
        (b"/s/\\x0a\xff", b"\xff", "s", "\\x5cx0a\\xff", "\\xff"),
    ] {
        let lines = Lines::default();
        tell_of(&mut lines.failures(10, &[]), path, process, b"");
        let [line] = <[Value; 1]>::try_from(lines.taken()).unwrap();
        let told = ["service", "method", "process"].map(|field| line[field].as_str().unwrap());
        assert_eq!(told, [service, method, name]);
    }
}

#[test]
fn only_what_failed_for_certain_is_told() {
    let lines = Lines::default();
    let mut failures = lines.failures(10, &[]);
    let (interner, processes) = (Interner::new(1), Processes::new(1));
    for code in [Some(Code::Ok), None] {
        let names = Names { interner: &interner, processes: &processes, ends: &Ends::default() };
        failures.call(&mut call(1, ended(code)), None, &names);
    }
    assert_eq!(lines.taken(), [] as [Value; 0]);
}

#[test]
fn beyond_the_pace_only_the_number_is_told() {
    let lines = Lines::default();
    let mut failures = lines.failures(2, &[]);
    let (interner, processes) = (Interner::new(1), Processes::new(1));
    for time_ns in 1..=10 {
        let mut call = call(time_ns, ended(Some(Code::Internal)));
        failures.call(
            &mut call,
            None,
            &Names { interner: &interner, processes: &processes, ends: &Ends::default() },
        );
    }
    let told = lines.taken();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|line| line.get("suppressed").is_none() && line["peer"] == "unix"));
    assert_eq!(failures.dropped(), Dropped { rate_limit: 8, output: 0 });
    failures.tick(20);
    assert_eq!(lines.taken().len(), 0, "too early");
    failures.tick(2_000_000_000);
    failures.tick(4_000_000_000);
    let [line] = <[Value; 1]>::try_from(lines.taken()).unwrap();
    assert_eq!((line["suppressed"].as_u64(), line.get("code")), (Some(8), None));
}

#[test]
fn a_line_that_nobody_takes_is_counted_once() {
    let choice = FailureLogConfig { per_second: 10, omitted: Vec::new() };
    let mut failures = Failures::new(&choice, Box::new(|_| false));
    tell(&mut failures, b"lost");
    for second in 1..5 {
        failures.tick(second * 1_000_000_000);
    }
    assert_eq!(
        lock(&failures.lines).suppressed,
        1,
        "seconds in which nothing can be told are no calls"
    );
    assert_eq!(failures.dropped(), Dropped { rate_limit: 0, output: 1 });
}

use std::{fmt::Debug, time::Duration};

use super::{
    message::{AnyValue, Span, Status, Value},
    *,
};
use observer_core::{
    call::{ExportedSpan, Role, SeriesId, SpanId, TraceContext, TraceId},
    ends::Ends,
    names::{Interner, Texts},
    process::Comm,
};
use prost::Message as _;

const SECOND_NS: u64 = 1_000_000_000;

fn config(variables: &[(&str, &str)]) -> OtlpConfig {
    let variable = |name: &str| {
        variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned())
    };
    let endpoint = Some("http://127.0.0.1:4318".to_owned());
    let flags = OtlpFlags { endpoint, ..OtlpFlags::default() };
    OtlpConfig::read(flags, &variable, false).unwrap().unwrap()
}

/// An output, and the tables of a process and its paths.
struct Fixture {
    spans: Spans,
    interner: Interner,
    processes: Processes,
}

impl Fixture {
    fn new(variables: &[(&str, &str)]) -> Self {
        let spans = Spans::new(&config(variables)).unwrap();
        Self { spans, interner: Interner::new(10), processes: Processes::new(10) }
    }

    fn call(&mut self, role: Role, path: &[u8], call: Call) -> Option<ExportedSpan> {
        let path = self.interner.intern(path);
        self.call_of(CallProtocol::Grpc, role, path, call)
    }

    /// Has the output take a call. Returns the span that the call then names.
    fn call_of(
        &mut self,
        protocol: CallProtocol,
        role: Role,
        path: PathId,
        mut call: Call,
    ) -> Option<ExportedSpan> {
        let process = self.processes.seen(7, 1, Some(Comm::truncated(b"orders"))).id;
        let names =
            Names { interner: &self.interner, processes: &self.processes, ends: &Ends::default() };
        self.spans.call(&mut call, Some(CallKey { protocol, process, role, path }), &names);
        call.span
    }

    /// The spans that wait.
    fn taken(&self) -> Vec<Finished> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(self.spans.queue.next(Duration::ZERO))
    }

    /// The only span that waits.
    fn span(&self, is_joined: bool) -> Span {
        let [finished] = <[Finished; 1]>::try_from(self.taken()).unwrap();
        finished.span(is_joined, false)
    }
}

fn ended(code: Option<Code>) -> Ended {
    Ended {
        code,
        elapsed_ns: Some(2 * SECOND_NS),
        request_messages: Some(1),
        response_bytes: Some(6),
        context: Context::Absent,
        stream: 3,
        ..Ended::default()
    }
}

fn call(ended: Ended) -> Call {
    let peer = Some(Peer::Address(([10, 0, 0, 2], 4711).into()));
    Call {
        connection: 9,
        pair: 5,
        peer,
        time_ns: 10 * SECOND_NS,
        series: SeriesId(0),
        ended,
        span: None,
    }
}

fn context(is_sampled: bool) -> Context {
    let (trace, parent) = (TraceId([0xab; 16]), SpanId([0xcd; 8]));
    Context::Of(TraceContext { trace, parent, is_sampled })
}

/// An attribute as text; empty if it is not there.
fn told(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|of| of.key == key);
    match found.and_then(|of| of.value.clone()) {
        Some(AnyValue { value: Some(Value::Text(text)) }) => text,
        Some(AnyValue { value: Some(Value::Number(number)) }) => number.to_string(),
        Some(AnyValue { value: None }) | None => String::new(),
    }
}

#[test]
fn trace_state_is_passed_on_with_a_parent() {
    let of = |context, state: Option<&[u8]>| {
        let mut fixture = Fixture::new(&[]);
        fixture.interner.states = Texts::new(1);
        let trace_state = state.map(|state| fixture.interner.states.keep(state));
        let ended = Ended { context, trace_state, ..ended(Some(Code::Ok)) };
        fixture.call(Role::Client, b"/shop.Orders/Place", call(ended));
        fixture.span(false).trace_state
    };
    assert_eq!(of(context(true), Some(b"a=1,b=2")), "a=1,b=2");
    assert_eq!(of(context(true), Some(b"not valid")), "");
    assert_eq!(of(context(true), None), "");
    assert_eq!(of(Context::Absent, Some(b"a=1")), "");
}

#[test]
fn ends_of_a_call_match() {
    let of = |role, pair, peer| {
        let mut fixture = Fixture::new(&[]);
        fixture.call(
            role,
            b"/shop.Orders/Place",
            Call { pair, peer, ..call(ended(Some(Code::Ok))) },
        );
        fixture.span(true)
    };
    let peer = call(ended(None)).peer;
    let (client, server) = (of(Role::Client, 5, peer), of(Role::Server, 5, peer));
    assert_eq!((&client.trace_id, &client.span_id), (&server.trace_id, &server.parent_span_id));
    assert!(client.parent_span_id.is_empty());
    assert_eq!((client.flags, server.flags), (0x101, 0x301));
    assert_eq!(client.name, "shop.Orders/Place");
    assert_eq!(client.end_unix_ns - client.start_unix_ns, 2 * SECOND_NS);
    assert_ne!(of(Role::Client, 6, peer).trace_id, client.trace_id, "another connection");
    // Without numbers that both ends know, nothing is said of the other end.
    for (pair, peer) in [(0, peer), (5, Some(Peer::Unix)), (5, None)] {
        let [one, other] = [(); 2].map(|()| of(Role::Server, pair, peer));
        assert_ne!(one.trace_id, other.trace_id, "each daemon has ids of its own");
    }
}

#[test]
fn spans_of_thrift_calls() {
    let of = |role, code, coverage| {
        let mut fixture = Fixture::new(&[("OTEL_SEMCONV_STABILITY_OPT_IN", "rpc/dup")]);
        let path = fixture.interner.intern(b"Shop:add");
        let elapsed_ns = (code != Some(Code::Oneway)).then_some(SECOND_NS);
        let ended = Ended { code, elapsed_ns, coverage, ..ended(None) };
        fixture.call_of(CallProtocol::Thrift, role, path, call(ended));
        let [finished] = <[Finished; 1]>::try_from(fixture.taken()).unwrap();
        let is_joined = finished.pair.is_some();
        (finished.span(is_joined, true), is_joined)
    };
    let rows = [
        (Code::Ok, "ok", ["", ""]),
        (Code::Oneway, "oneway", ["", ""]),
        (Code::DeclaredException, "declared_exception", ["declared_exception", ""]),
        (Code::ApplicationException, "application_exception", ["application_exception"; 2]),
        (Code::NoReply, "no_reply", ["no_reply"; 2]),
    ];
    for (code, text, errors) in rows {
        let [(client, _), (server, is_joined)] =
            [Role::Client, Role::Server].map(|role| of(role, Some(code), Coverage::Gaps));
        assert!(is_joined);
        assert_eq!((&client.trace_id, &client.span_id), (&server.trace_id, &server.parent_span_id));
        for (span, error) in [client, server].into_iter().zip(errors) {
            assert_eq!((&*span.name, &*told(&span, "rpc.method")), ("Shop/add", "Shop/add"));
            assert_eq!(told(&span, "rpc.system.name"), "thrift");
            assert_eq!(told(&span, "rpc.response.status_code"), text);
            assert_eq!(
                (&*told(&span, "error.type"), span.status.is_some()),
                (error, !error.is_empty())
            );
            assert_eq!(
                (&*told(&span, "rpc.service"), &*told(&span, "rpc.system")),
                ("Shop", "thrift")
            );
            assert_eq!(told(&span, "rpc.grpc.status_code"), "", "the number is one of gRPC's");
            let lasts = if code == Code::Oneway { 0 } else { SECOND_NS };
            assert_eq!(span.end_unix_ns - span.start_unix_ns, lasts);
        }
    }
    // Of a connection that joined late, nobody knows where a name is.
    let (server, is_joined) = of(Role::Server, Some(Code::Ok), Coverage::JoinedLate);
    assert!(!is_joined && server.parent_span_id.is_empty());
}

#[test]
fn a_span_of_the_application_is_above_both() {
    let of = |role, is_joined| {
        let mut fixture = Fixture::new(&[]);
        let ended = Ended { context: context(true), ..ended(Some(Code::Ok)) };
        fixture.call(role, b"/s/m", call(ended));
        fixture.span(is_joined)
    };
    let (client, server, alone) =
        (of(Role::Client, false), of(Role::Server, true), of(Role::Server, false));
    for span in [&client, &server, &alone] {
        assert_eq!(span.trace_id, [0xab; 16]);
    }
    assert_eq!(client.parent_span_id, [0xcd; 8]);
    assert_eq!(server.parent_span_id, client.span_id);
    assert_eq!(alone.parent_span_id, [0xcd; 8], "the client's end is not watched");
}

#[test]
fn codes_and_errors_of_both_ends() {
    let error = |text: &'static str| Some(text);
    let undecided = Some(Code::CanceledOrDeadlineExceeded);
    let rows = [
        (Some(Code::Ok), "OK", "", None, None),
        (Some(Code::NotFound), "NOT_FOUND", "", error("NOT_FOUND"), None),
        (Some(Code::Internal), "INTERNAL", "", error("INTERNAL"), error("INTERNAL")),
        (Some(Code::Canceled), "CANCELLED", "", error("CANCELLED"), None),
        (undecided, "", "CANCELLED_OR_DEADLINE_EXCEEDED", error("_OTHER"), None),
        (None, "", "not_seen", None, None),
    ];
    for (code, name, own, of_client, of_server) in rows {
        for (role, error) in [(Role::Client, of_client), (Role::Server, of_server)] {
            let mut fixture = Fixture::new(&[]);
            fixture.call(role, b"/s/m", call(ended(code)));
            let span = fixture.span(false);
            assert_eq!(told(&span, "rpc.response.status_code"), name);
            assert_eq!(told(&span, "observer.status_code"), own);
            assert_eq!(told(&span, "error.type"), error.unwrap_or_default(), "{role:?} {code:?}");
            let status = error.map(|_| Status { message: String::new(), code: 2 });
            assert_eq!(span.status, status);
        }
    }
}

#[test]
fn attributes_say_only_what_is_known() {
    let mut fixture = Fixture::new(&[]);
    let late = Ended { coverage: Coverage::Gaps, ..ended(Some(Code::Unimplemented)) };
    fixture.call(Role::Client, b"/s/invented", call(late));
    let span = fixture.span(false);
    let keys: Vec<_> = span.attributes.iter().map(|of| (&*of.key, told(&span, &of.key))).collect();
    let want = [
        ("rpc.system.name", "grpc"),
        ("rpc.method", "_OTHER"),
        ("rpc.method_original", "s/invented"),
        ("rpc.response.status_code", "UNIMPLEMENTED"),
        ("error.type", "UNIMPLEMENTED"),
        ("server.address", "10.0.0.2"),
        ("server.port", "4711"),
        ("network.peer.address", "10.0.0.2"),
        ("network.peer.port", "4711"),
        ("observer.request.messages", "1"),
        ("observer.response.bytes", "6"),
        ("observer.connection", "gaps"),
    ];
    assert_eq!(keys, want.map(|(key, value)| (key, value.to_owned())));
    assert_eq!(span.name, "grpc");
}

#[test]
fn the_server_is_the_one_that_the_client_named() {
    for (authority, address, port) in [
        ("shop.prod:50051", "shop.prod", "50051"),
        ("shop.prod", "shop.prod", ""),
        ("10.0.0.9:1", "10.0.0.9", "1"),
        // It names no host: then the client's end has the address of the connection.
        ("%2Fsocket", "10.0.0.2", "4711"),
    ] {
        for role in [Role::Client, Role::Server] {
            let mut fixture = Fixture::new(&[]);
            // An authority is interned like a path.
            let authority = Some(fixture.interner.intern(authority.as_bytes()));
            let ended = Ended { authority, ..ended(Some(Code::Ok)) };
            fixture.call(role, b"/s/m", call(ended));
            let span = fixture.span(false);
            let is_known = role == Role::Client || address != "10.0.0.2";
            let want = if is_known { [address, port] } else { [""; 2] };
            let keys = ["server.address", "server.port"];
            let has = |key: &str| span.attributes.iter().any(|of| of.key == key);
            let found = keys.map(|key| if has(key) { told(&span, key) } else { String::new() });
            assert_eq!(found, want, "{address} {role:?}");
        }
    }
}

/// For exemplars.
#[test]
fn a_call_names_the_span_that_is_exported() {
    for (of, role) in [
        (Context::Absent, Role::Client),
        (Context::Absent, Role::Server),
        (context(true), Role::Client),
        (context(true), Role::Server),
    ] {
        let mut fixture = Fixture::new(&[("OTEL_BSP_MAX_QUEUE_SIZE", "1")]);
        let ended = || Ended { context: of, ..ended(Some(Code::Ok)) };
        let named = fixture.call(role, b"/s/m", call(ended())).expect("it gets a span");
        assert_eq!(fixture.call(role, b"/s/m", call(ended())), None, "the queue is full");
        let span = fixture.span(false);
        assert_eq!((named.trace.0.to_vec(), named.span.0.to_vec()), (span.trace_id, span.span_id));
        let ended = Ended { context: context(false), ..ended() };
        assert_eq!(fixture.call(role, b"/s/m", call(ended)), None, "it is not sampled");
    }
}

#[test]
fn calls_without_a_span_are_counted() {
    let mut fixture = Fixture::new(&[]);
    let ok = || ended(Some(Code::Ok));
    fixture.call(Role::Client, b"/s/m", call(Ended { context: Context::NotSeen, ..ok() }));
    fixture.call(Role::Client, b"/s/m", call(Ended { elapsed_ns: None, ..ok() }));
    fixture.call(Role::Client, b"/s/m", call(Ended { context: context(false), ..ok() }));
    let export = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    fixture.call(Role::Server, export, call(ok()));
    let figures = OtlpFigures { not_seen: 2, not_sampled: 1, ..OtlpFigures::default() };
    assert_eq!((fixture.taken().len(), fixture.spans.figures()), (0, figures));
}

#[test]
fn the_queue_has_bounds() {
    let mut fixture = Fixture::new(&[("OTEL_BSP_MAX_QUEUE_SIZE", "3")]);
    let mut other = Fixture { spans: fixture.spans.sharing(), ..Fixture::new(&[]) };
    for _ in 0..5 {
        fixture.call(Role::Client, b"/s/m", call(ended(None)));
        other.call(Role::Server, b"/s/m", call(ended(None)));
    }
    assert_eq!((fixture.taken().len(), fixture.spans.figures().queue_full), (3, 7));
    fixture.call(Role::Client, b"/s/m", call(ended(None)));
    assert_eq!(fixture.taken().len(), 1, "there is room again");

    let mut fixture = Fixture::new(&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000000")]);
    for _ in 0..100_000 {
        fixture.call(Role::Client, b"/s/m", call(ended(None)));
    }
    let taken = fixture.taken().len();
    assert!((20_000..90_000).contains(&taken), "{taken}");
    assert_eq!(fixture.spans.figures().queue_full, 100_000 - taken as u64);
}

/// The bytes of a request, as the definitions of OpenTelemetry's protocol lay them out.
#[test]
fn messages_have_the_numbers_of_the_protocol() {
    let mut fixture = Fixture::new(&[]);
    fixture.call(Role::Server, b"/s/m", call(ended(Some(Code::Ok))));
    let span = fixture.span(true);
    let bytes = span.encode_to_vec();
    let starts_with =
        |expected: &[u8], at: usize| bytes.get(at..at + expected.len()) == Some(expected);
    // trace_id = 1, span_id = 2, parent_span_id = 4, name = 5, kind = 6, start = 7, end = 8: fixed64.
    assert!(starts_with(&[1 << 3 | 2, 16], 0) && starts_with(&[2 << 3 | 2, 8], 18));
    assert!(starts_with(&[4 << 3 | 2, 8], 28));
    assert!(starts_with(&[5 << 3 | 2, 3, b's', b'/', b'm', 6 << 3, 2, 7 << 3 | 1], 38));
    let end = 38 + 8 + 8;
    assert!(starts_with(&[8 << 3 | 1], end) && starts_with(&[9 << 3 | 2], end + 9));
    // flags = 16, fixed32, is the last.
    assert!(bytes.ends_with(&[0x85, 0x01, 0x01, 0x03, 0, 0]), "{bytes:?}");
}

#[test]
fn a_resource_is_the_process() {
    let added = [("host.name".to_owned(), "node-7".to_owned()), ("a".to_owned(), "b".to_owned())];
    let resources = Resources::new(&added);
    let mut processes = Processes::new(10);
    let id = processes.seen(7, 1, Some(Comm::truncated(b"or\x01ders"))).id;
    let resource = resources.of(processes.process(id));
    let text = |key: &str| {
        let of = resource.attributes.iter().filter(|of| of.key == key);
        of.map(|of| debug(&of.value)).collect::<Vec<_>>().join(" and ")
    };
    assert!(text("service.name").contains("or\\\\x01ders"), "{}", text("service.name"));
    assert!(text("process.pid").contains("Number(7)"));
    assert!(text("host.name").contains("node-7") && !text("host.name").contains("and"));
    assert!(text("a").contains("\"b\""));
    for unknown in ["container.id", "k8s.pod.uid", "process.executable.path", "service.instance.id"]
    {
        assert_eq!(text(unknown), "", "{unknown}");
    }
    let unknown = resources.of(None);
    assert!(unknown.attributes.iter().any(|of| debug(of).contains("unknown_service")));
}

fn debug(value: &impl Debug) -> String {
    format!("{value:?}")
}

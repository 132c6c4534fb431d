//! Fields by their meaning to gRPC.

use std::str::FromStr;

use super::{Error, string::StringLiteral};
use crate::{
    call::TraceId,
    names::{Interner, ParentId, PathId, TextId},
};

/// A field, by its meaning to gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The field `:method`.
    Method(RequestMethod),
    /// The field `:path`.
    Path(PathId),
    /// The field `:authority`; [`PathId::NOT_SEEN`] if it is empty, or is not kept.
    Authority(PathId),
    /// The field `:status`; 0 if it is not a number.
    Status(u16),
    /// The field `content-type`.
    ContentType(ContentType),
    /// The field `grpc-status`; `None` if it is not a number of at most ten digits and 32 bits.
    GrpcStatus(Option<u32>),
    /// The field `grpc-timeout`; `None` if it is malformed.
    GrpcTimeout(Option<Timeout>),
    /// The field `traceparent`; `None` if it is malformed.
    TraceParent(Option<TraceParent>),
    /// The field `tracestate`, of at most 512 bytes; a longer one is [`Self::Other`].
    TraceState(TextId),
    /// The field `grpc-message`, percent-encoded as on the wire.
    GrpcMessage(TextId),
    /// The field `connect-protocol-version`.
    Connect,
    /// The field `connect-timeout-ms`; `None` if it is malformed.
    ConnectTimeout(Option<Timeout>),
    /// The field `:path` of a Connect call that is a GET, without its query.
    ConnectPath(PathId),
    /// A field that does not matter to gRPC.
    Other,
    /// A field that is not known: it refers to an entry that was inserted before the join, or in a gap.
    Unknown,
}

/// The longest `tracestate` that is kept: the length that tracing systems should pass on at least (W3C Trace Context
/// §3.3.1.5).
const MAX_STATE_LEN: usize = 512;

/// Request methods, as far as gRPC uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestMethod {
    /// `POST`, which all calls use.
    Post,
    /// `GET`, which some idempotent calls used formerly.
    Get,
    /// Any other method.
    Other,
}

/// Content types, as far as they distinguish gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// `application/grpc`, alone or followed by `+` or `;`.
    Grpc,
    /// A content type that starts with `application/grpc-web`.
    GrpcWeb,
    /// A content type that starts with `application/connect+`.
    Connect,
    /// `application/json`, alone or followed by `;`.
    Json,
    /// Any other content type.
    Other,
}

/// The value of `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: TraceId,
    /// The place of its parent in [`Parents`](crate::names::Parents).
    pub parent: ParentId,
    /// Whether the trace is recorded. One that is not cannot be found.
    pub is_sampled: bool,
}

/// The value of `grpc-timeout`: at most `u64::MAX` nanoseconds.
///
/// It is kept in halves, so that its alignment does not make a [`Field`] larger than 20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout([u32; 2]);

impl Timeout {
    /// Creates a timeout from nanoseconds.
    pub fn of_nanoseconds(nanoseconds: u64) -> Self {
        Self([(nanoseconds >> 32) as u32, nanoseconds as u32])
    }

    /// The timeout in nanoseconds.
    pub fn nanoseconds(self) -> u64 {
        let [high, low] = self.0;
        u64::from(high) << 32 | u64::from(low)
    }
}

/// The names of fields that matter to gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Method,
    Path,
    Authority,
    Status,
    ContentType,
    GrpcStatus,
    GrpcTimeout,
    TraceParent,
    TraceState,
    GrpcMessage,
    Connect,
    ConnectTimeout,
    Other,
    Unknown,
}

impl Name {
    /// Recognises a name without decoding it: a string has only one Huffman encoding, and names are in lower case in
    /// HTTP/2 (RFC 9113 section 8.2.1).
    pub(super) fn of(name: StringLiteral<'_>) -> Self {
        // Huffman codes, which a test compares with those of an encoder.
        const METHOD: &[u8] = b"\xb9\x49\x53\x39\xe4";
        const PATH: &[u8] = b"\xb9\x58\xd3\x3f";
        const AUTHORITY: &[u8] = b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f";
        const STATUS: &[u8] = b"\xb8\x84\x8d\x36\xa3";
        const CONTENT_TYPE: &[u8] = b"\x21\xea\x49\x6a\x4a\xc9\xf5\x59\x7f";
        const GRPC_STATUS: &[u8] = b"\x9a\xca\xc8\xb2\x12\x34\xda\x8f";
        const GRPC_TIMEOUT: &[u8] = b"\x9a\xca\xc8\xb2\x4d\x49\x4f\x6a\x7f";
        const TRACE_PARENT: &[u8] = b"\x4d\x83\x21\x6b\x1d\x85\xa9\x3f";
        const TRACE_STATE: &[u8] = b"\x4d\x83\x21\x50\x91\xa4\xbf";
        const GRPC_MESSAGE: &[u8] = b"\x9a\xca\xc8\xb5\x25\x42\x07\x31\x7f";
        const CONNECT: &[u8] =
            b"\x21\xea\xa8\xa4\x4a\xd5\xd8\x74\x9c\x87\xa1\x6e\xe5\xb1\x06\x3d\x5f";
        const CONNECT_TIMEOUT: &[u8] = b"\x21\xea\xa8\xa4\x4a\xc9\x35\x25\x3d\xa9\x5a\x94\x7f";
        match (name.octets, name.huffman) {
            (b":method", false) | (METHOD, true) => Self::Method,
            (b":path", false) | (PATH, true) => Self::Path,
            (b":authority", false) | (AUTHORITY, true) => Self::Authority,
            (b":status", false) | (STATUS, true) => Self::Status,
            (b"content-type", false) | (CONTENT_TYPE, true) => Self::ContentType,
            (b"grpc-status", false) | (GRPC_STATUS, true) => Self::GrpcStatus,
            (b"grpc-timeout", false) | (GRPC_TIMEOUT, true) => Self::GrpcTimeout,
            (b"traceparent", false) | (TRACE_PARENT, true) => Self::TraceParent,
            (b"tracestate", false) | (TRACE_STATE, true) => Self::TraceState,
            (b"grpc-message", false) | (GRPC_MESSAGE, true) => Self::GrpcMessage,
            (b"connect-protocol-version", false) | (CONNECT, true) => Self::Connect,
            (b"connect-timeout-ms", false) | (CONNECT_TIMEOUT, true) => Self::ConnectTimeout,
            _ => Self::Other,
        }
    }

    /// The field with this name and value, as text.
    pub(super) fn of_text(name: &[u8], value: &[u8], interner: &mut Interner) -> Field {
        let name = name.to_ascii_lowercase();
        Self::of(StringLiteral { octets: &name, huffman: false }).with_value(value, interner)
    }

    /// The field with this name and value. A value longer than [`MAX_PATH_LEN`](crate::names::MAX_PATH_LEN) may be cut,
    /// but not to that length or less.
    #[inline]
    pub(super) fn with_value(self, value: &[u8], interner: &mut Interner) -> Field {
        match self {
            Self::Method => Field::Method(request_method(value)),
            Self::Path => match connect_path(value).filter(|_| interner.cuts_queries) {
                Some(path) => Field::ConnectPath(interner.intern(path)),
                None => Field::Path(interner.intern(value)),
            },
            Self::Authority => Field::Authority(interner.intern_authority(value)),
            Self::Status => Field::Status(decimal(value, 5).unwrap_or(0)),
            Self::ContentType => Field::ContentType(content_type(value)),
            // Libraries that parse numbers accept a plus sign.
            Self::GrpcStatus => {
                Field::GrpcStatus(decimal(value.strip_prefix(b"+").unwrap_or(value), 10))
            }
            Self::GrpcTimeout => Field::GrpcTimeout(timeout(value)),
            Self::TraceParent => Field::TraceParent(trace_parent(value, interner)),
            Self::TraceState if value.len() <= MAX_STATE_LEN => {
                Field::TraceState(interner.states.keep(value))
            }
            Self::GrpcMessage => Field::GrpcMessage(interner.texts.keep(value)),
            Self::Connect => Field::Connect,
            Self::ConnectTimeout => Field::ConnectTimeout(
                // Source: "Timeout" in the specification of the Connect protocol.
                decimal::<u64>(value, 10).map(|ms| Timeout::of_nanoseconds(ms * 1_000_000)),
            ),
            Self::TraceState | Self::Other => Field::Other,
            Self::Unknown => Field::Unknown,
        }
    }

    /// The field with this name, if it does not depend on the value.
    pub(super) fn whatever_the_value(self) -> Option<Field> {
        match self {
            Self::Other => Some(Field::Other),
            Self::Connect => Some(Field::Connect),
            Self::Unknown => Some(Field::Unknown),
            _ => None,
        }
    }
}

fn request_method(value: &[u8]) -> RequestMethod {
    match value {
        b"POST" => RequestMethod::Post,
        b"GET" => RequestMethod::Get,
        _ => RequestMethod::Other,
    }
}

/// Source: "Content-Type" in gRPC over HTTP2; the rest as grpc-go does.
fn content_type(value: &[u8]) -> ContentType {
    const GRPC: &[u8] = b"application/grpc";
    const CONNECT: &[u8] = b"application/connect+";
    const JSON: &[u8] = b"application/json";
    let after = |prefix: &[u8]| {
        let (base, rest) = value.split_at_checked(prefix.len())?;
        base.eq_ignore_ascii_case(prefix).then_some(rest)
    };
    let Some(rest) = after(GRPC) else {
        let is_json = after(JSON).is_some_and(|rest| matches!(rest, [] | [b';', ..]));
        return match after(CONNECT) {
            Some(_) => ContentType::Connect,
            None if is_json => ContentType::Json,
            None => ContentType::Other,
        };
    };
    match rest {
        [] | [b'+' | b';', ..] => ContentType::Grpc,
        [b'-', b'w' | b'W', b'e' | b'E', b'b' | b'B', ..] => ContentType::GrpcWeb,
        _ => ContentType::Other,
    }
}

/// The path of a Connect call that is a GET, without its query.
///
/// Source: "Unary-Get-Request" in the specification of the Connect protocol.
fn connect_path(value: &[u8]) -> Option<&[u8]> {
    let at = value.iter().position(|&octet| octet == b'?')?;
    let (path, query) = value.split_at_checked(at)?;
    let mut parameters = query.get(1..)?.split(|&octet| octet == b'&');
    parameters.any(|parameter| parameter == b"connect=v1").then_some(path)
}

/// Source: "Timeout" in gRPC over HTTP2. It is at most 8 digits, and a unit.
fn timeout(value: &[u8]) -> Option<Timeout> {
    let (unit, digits) = value.split_last()?;
    let nanoseconds = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    let count = decimal::<u64>(digits, 8)?;
    Some(Timeout::of_nanoseconds(count.saturating_mul(nanoseconds)))
}

/// The trace and its parent.
///
/// Source: "traceparent Header" in W3C Trace Context. It has version, trace, parent and flags in hexadecimal digits;
/// later versions may append to it.
fn trace_parent(value: &[u8], interner: &mut Interner) -> Option<TraceParent> {
    const SAMPLED: u8 = 1;
    let (known, rest) = value.split_at_checked(55)?;
    let mut parts = known.split(|&octet| octet == b'-');
    let version = hexadecimal::<1>(parts.next()?)?;
    let trace = hexadecimal::<16>(parts.next()?)?;
    let parent = hexadecimal::<8>(parts.next()?)?;
    let [flags] = hexadecimal::<1>(parts.next()?)?;
    let is_whole = match version {
        [0] => rest.is_empty(),
        [0xff] => false,
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    let is_valid = is_whole && trace != [0; 16] && parent != [0; 8];
    is_valid.then(|| TraceParent {
        trace: TraceId(trace),
        parent: interner.parents.keep(trace, parent),
        is_sampled: flags & SAMPLED != 0,
    })
}

/// Reads octets, each from two hexadecimal digits in lower case.
fn hexadecimal<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let pairs: &[[u8; 2]; N] = pairs.try_into().ok()?;
    let digit = |octet: u8| match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        _ => None,
    };
    let mut octets = [0; N];
    for (octet, [high, low]) in octets.iter_mut().zip(pairs) {
        *octet = digit(*high)? << 4 | digit(*low)?;
    }
    Some(octets)
}

/// Reads a number of 1 to `max_digits` digits and nothing else, if it fits.
fn decimal<T: FromStr>(value: &[u8], max_digits: usize) -> Option<T> {
    let is_number = value.len() <= max_digits && value.iter().all(u8::is_ascii_digit);
    str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

/// The field of a literal with this name and value, and the length of the value.
pub(super) fn read(
    name: Name,
    value: StringLiteral<'_>,
    interner: &mut Interner,
) -> Result<(Field, usize), Error> {
    // h2's and nghttp2's encoders never insert a path: each request has it again, and decoding it would take longer
    // than the rest of its block.
    // An authority has the same id as a path of that text.
    let is_coded = matches!(name, Name::Path | Name::Authority) && value.huffman;
    if is_coded && let Some((path, len)) = interner.coded(value.octets) {
        let is_path = name == Name::Path;
        return Ok((if is_path { Field::Path(path) } else { Field::Authority(path) }, len));
    }
    let mut scratch = [0; _];
    let (text, len) = value.read(&mut scratch)?;
    let field = name.with_value(text, interner);
    if is_coded && let Field::Path(path) | Field::Authority(path) = field {
        interner.remember_coded(value.octets, text, path);
    }
    Ok((field, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::hpack::tests::encode_huffman;

    fn field(name: Name, value: &str) -> Field {
        name.with_value(value.as_bytes(), &mut Interner::new(10))
    }

    #[test]
    fn names_in_both_forms() {
        let rows = [
            (":method", Name::Method),
            (":path", Name::Path),
            (":authority", Name::Authority),
            (":status", Name::Status),
            ("content-type", Name::ContentType),
            ("grpc-status", Name::GrpcStatus),
            ("grpc-timeout", Name::GrpcTimeout),
            ("traceparent", Name::TraceParent),
            ("tracestate", Name::TraceState),
            ("tracestats", Name::Other),
            ("", Name::Other),
            (":patH", Name::Other),
            (":pathx", Name::Other),
            ("grpc-statu", Name::Other),
            ("grpc-message", Name::GrpcMessage),
            ("grpc-messagf", Name::Other),
            ("content-typf", Name::Other),
            ("connect-protocol-version", Name::Connect),
            ("connect-timeout-ms", Name::ConnectTimeout),
        ];
        for (text, name) in rows {
            let plain = StringLiteral { octets: text.as_bytes(), huffman: false };
            assert_eq!(Name::of(plain), name, "{text}");
            let octets = encode_huffman(text.as_bytes());
            let coded = StringLiteral { octets: &octets, huffman: true };
            assert_eq!(Name::of(coded), name, "{text}, Huffman-coded");
            let mixed_up = StringLiteral { octets: &octets, huffman: false };
            assert_eq!(Name::of(mixed_up), Name::Other, "{text}, wrongly marked");
        }
    }

    #[test]
    fn methods() {
        assert_eq!(field(Name::Method, "POST"), Field::Method(RequestMethod::Post));
        assert_eq!(field(Name::Method, "GET"), Field::Method(RequestMethod::Get));
        assert_eq!(field(Name::Method, "post"), Field::Method(RequestMethod::Other));
        assert_eq!(field(Name::Method, ""), Field::Method(RequestMethod::Other));
    }

    #[test]
    fn statuses() {
        let rows = [
            ("200", 200),
            ("404", 404),
            ("", 0),
            ("+20", 0),
            ("2x0", 0),
            ("65536", 0),
            (" 200", 0),
        ];
        for (text, status) in rows {
            assert_eq!(field(Name::Status, text), Field::Status(status), "{text:?}");
        }
    }

    #[test]
    fn content_types() {
        let rows = [
            ("application/grpc", ContentType::Grpc),
            ("application/grpc+proto", ContentType::Grpc),
            ("application/grpc;charset=utf-8", ContentType::Grpc),
            ("Application/GRPC+Proto", ContentType::Grpc),
            ("application/grpc-web", ContentType::GrpcWeb),
            ("application/grpc-Web-text+proto", ContentType::GrpcWeb),
            ("application/grpcfoo", ContentType::Other),
            ("application/grpc-we", ContentType::Other),
            ("application/grp", ContentType::Other),
            ("application/json", ContentType::Json),
            ("Application/JSON; charset=utf-8", ContentType::Json),
            ("application/jsonl", ContentType::Other),
            ("application/connect+proto", ContentType::Connect),
            ("application/connect", ContentType::Other),
            ("application/proto", ContentType::Other),
            ("", ContentType::Other),
        ];
        for (text, content_type) in rows {
            let expected = Field::ContentType(content_type);
            assert_eq!(field(Name::ContentType, text), expected, "{text:?}");
        }
    }

    #[test]
    fn grpc_statuses() {
        let rows = [
            ("0", Some(0)),
            ("16", Some(16)),
            ("0000000005", Some(5)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("00000000005", None),
            ("", None),
            ("-1", None),
            ("+5", Some(5)),
            ("++5", None),
            ("+", None),
            ("5+", None),
            ("1 ", None),
            ("OK", None),
        ];
        for (text, status) in rows {
            assert_eq!(field(Name::GrpcStatus, text), Field::GrpcStatus(status), "{text:?}");
        }
    }

    #[test]
    fn paths_of_connect_have_no_query() {
        let mut interner = Interner::new(10);
        let rows = [
            ("/a.A/Get?connect=v1&encoding=json&message=%7B%7D", Some("/a.A/Get")),
            ("/a.A/Get?base64=1&connect=v1", Some("/a.A/Get")),
            ("/a.A/Get?connect=v2", None),
            ("/a.A/Get?xconnect=v1", None),
            ("/a.A/Get", None),
            ("?connect=v1", Some("")),
        ];
        for cuts_queries in [false, true] {
            interner.cuts_queries = cuts_queries;
            for (text, path) in rows {
                let field = Name::Path.with_value(text.as_bytes(), &mut interner);
                let expected = match path.filter(|_| cuts_queries) {
                    Some(path) => Field::ConnectPath(interner.intern(path.as_bytes())),
                    None => Field::Path(interner.intern(text.as_bytes())),
                };
                assert_eq!(field, expected, "{text}");
            }
        }
        let timeout = |ns| Field::ConnectTimeout(Some(Timeout::of_nanoseconds(ns)));
        assert_eq!(field(Name::ConnectTimeout, "1500"), timeout(1_500_000_000));
        assert_eq!(field(Name::ConnectTimeout, "-1"), Field::ConnectTimeout(None));
    }

    #[test]
    fn timeouts() {
        let rows = [
            ("1n", Some(1)),
            ("2u", Some(2_000)),
            ("301m", Some(301_000_000)),
            ("4S", Some(4_000_000_000)),
            ("5M", Some(300_000_000_000)),
            ("1H", Some(3_600_000_000_000)),
            ("99999999S", Some(99_999_999_000_000_000)),
            ("99999999H", Some(u64::MAX)),
            ("100000000n", None),
            ("0n", Some(0)),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("1.5S", None),
        ];
        for (text, timeout) in rows {
            let timeout = timeout.map(Timeout::of_nanoseconds);
            assert_eq!(field(Name::GrpcTimeout, text), Field::GrpcTimeout(timeout), "{text:?}");
        }
        assert_eq!(Timeout::of_nanoseconds(u64::MAX - 1).nanoseconds(), u64::MAX - 1);
    }

    #[test]
    fn traces_and_whether_they_are_recorded() {
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        let of = |text: &str| match field(Name::TraceParent, text) {
            Field::TraceParent(of) => of.map(|of| format!("{} {}", of.trace, of.is_sampled)),
            other => panic!("{other:?}"),
        };
        let known = format!("00-{TRACE}-b7ad6b7169203331-01");
        let [recorded, not] = [true, false].map(|is_sampled| Some(format!("{TRACE} {is_sampled}")));
        assert_eq!(of(&known), recorded);
        assert_eq!(of(&known.replace("-01", "-ff")), recorded);
        assert_eq!(of(&known.replace("-01", "-00")), not);
        assert_eq!(of(&known.replace("-01", "-02")), not);
        let later = known.replace("00-", "01-");
        assert_eq!(of(&later), recorded);
        assert_eq!(of(&format!("{later}-what")), recorded);
        let none = [
            String::new(),
            known.replace("00-", "ff-"),
            known.replace(TRACE, &"0".repeat(32)),
            known.replace("b7ad6b7169203331", &"0".repeat(16)),
            known.to_uppercase(),
            known.replace('-', "_"),
            known.replace("0af", "0xf"),
            known.replace("b7ad6b71692033", "b7ad6b7169203"),
            format!("{known}-what"),
            format!("{later}what"),
            TRACE.into(),
        ];
        for text in none {
            assert_eq!(of(&text), None, "{text}");
        }
    }

    #[test]
    fn a_huffman_coded_path_is_as_long_as_it_is() {
        let mut interner = Interner::new(10);
        for (len, fits) in [(512, true), (513, false), (2000, false)] {
            let octets = encode_huffman(&vec![b'/'; len]);
            let value = StringLiteral { octets: &octets, huffman: true };
            let (field, read_len) = read(Name::Path, value, &mut interner).expect("well formed");
            assert_eq!(read_len, len);
            assert_eq!(field != Field::Path(PathId::OTHER), fits, "{len}");
        }
    }
}

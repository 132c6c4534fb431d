//! Makes the span of a call that has ended.

use std::{net::IpAddr, sync::Arc};

use observer_core::{
    call::{CallProtocol, Code, Coverage, ExportedSpan, Role, SpanId, TraceId},
    names::{Host, PathId},
    process::ProcessId,
    record::Peer,
    statistics::Method,
};

use super::{
    ids::Ids,
    message::{KeyValue, Kind, Span, Status, StatusCode, attribute, flag},
    names::{self, old, own},
};

/// A call that has ended and gets a span.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    pub(super) protocol: CallProtocol,
    pub(super) process: ProcessId,
    pub(super) role: Role,
    pub(super) path: PathId,
    /// The text of the path; empty for one that has none.
    pub(super) text: Arc<str>,
    pub(super) ids: Ids,
    /// The number of the connection, if both ends know it and it names the call.
    pub(super) pair: Option<u64>,
    pub(super) context: Option<(TraceId, SpanId)>,
    /// The request's `tracestate`, if it is valid.
    pub(super) trace_state: Box<str>,
    pub(super) start_unix_ns: u64,
    pub(super) end_unix_ns: u64,
    pub(super) code: Option<Code>,
    /// `grpc-message`, decoded.
    pub(super) message: Box<str>,
    pub(super) peer: Option<Peer>,
    /// The request's `:authority`.
    pub(super) authority: Option<Arc<str>>,
    pub(super) coverage: Coverage,
    pub(super) counts: MessageCounts,
}

/// The messages of a call and their bytes, by direction; `None` if some may not have been seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MessageCounts {
    pub(super) requests: Option<u64>,
    pub(super) responses: Option<u64>,
    pub(super) request_bytes: Option<u64>,
    pub(super) response_bytes: Option<u64>,
}

impl Finished {
    /// The memory that it takes. The text of its path is shared.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.message.len() + self.trace_state.len()
    }

    /// The address of the client, for the server's end.
    pub(super) fn client_address(&self) -> Option<IpAddr> {
        match (self.role, self.peer) {
            (Role::Server, Some(Peer::Address(address))) => Some(address.ip().to_canonical()),
            _ => None,
        }
    }

    /// The ids of the span.
    pub(super) fn exported(&self) -> ExportedSpan {
        let span = match self.role {
            Role::Client => self.ids.client,
            Role::Server => self.ids.server,
        };
        ExportedSpan { trace: self.context.map_or(self.ids.trace, |(trace, _)| trace), span }
    }

    /// The span. `is_joined`: the client's end is watched, so this server's span has a parent; `adds_old`: with the names
    /// of older conventions, too.
    pub(super) fn span(self, is_joined: bool, adds_old: bool) -> Span {
        let kind = match self.role {
            Role::Client => Kind::Client,
            Role::Server => Kind::Server,
        };
        let ExportedSpan { trace: TraceId(trace), span: SpanId(id) } = self.exported();
        let above = self.context.map(|(_, parent)| parent);
        let parent = match self.role {
            Role::Server if is_joined => Some(self.ids.client),
            _ => above,
        };
        let remote = match parent {
            Some(_) if self.role == Role::Server => flag::IS_REMOTE,
            _ => 0,
        };
        let (method, attributes) = self.attributes(adds_old);
        let is_error = self.error().is_some();
        Span {
            trace_id: trace.into(),
            span_id: id.into(),
            trace_state: self.trace_state.into(),
            parent_span_id: parent.map(|SpanId(id)| id.into()).unwrap_or_default(),
            name: method.unwrap_or_else(|| names::system(self.protocol).to_owned()),
            kind: kind.into(),
            start_unix_ns: self.start_unix_ns,
            end_unix_ns: self.end_unix_ns,
            attributes,
            status: is_error
                .then(|| Status { message: self.message.into(), code: StatusCode::Error.into() }),
            flags: flag::SAMPLED | remote | flag::HAS_IS_REMOTE,
        }
    }

    /// The value of `error.type`, if the call is an error for its end; by OpenTelemetry's rules that differs.
    fn error(&self) -> Option<&'static str> {
        let code = self.code?;
        // Only one of the codes that it may be is an error for a server.
        let is_in_doubt = self.role == Role::Server && code == Code::CanceledOrDeadlineExceeded;
        let is_error = code.is_error_for(self.role) && !is_in_doubt;
        is_error.then(|| match code {
            // Both codes that it may be are errors for a client.
            Code::CanceledOrDeadlineExceeded => names::OTHER,
            code => self.protocol.status(code),
        })
    }

    /// The method, if it has a name, and all attributes.
    fn attributes(&self, adds_old: bool) -> (Option<String>, Vec<KeyValue>) {
        let system = names::system(self.protocol);
        let is_grpc = system == names::GRPC;
        let mut list = vec![attribute(names::SYSTEM, system)];
        let method = self.method(adds_old, &mut list);
        match self.code {
            None => list.push(attribute(own::STATUS_CODE, "not_seen")),
            Some(code @ Code::CanceledOrDeadlineExceeded) => {
                list.push(attribute(own::STATUS_CODE, code.as_upper_case()));
            }
            Some(code) => {
                list.push(attribute(names::STATUS_CODE, self.protocol.status(code)));
                if adds_old && is_grpc {
                    list.push(attribute(old::STATUS_CODE, code as i64));
                }
            }
        }
        list.extend(self.error().map(|error| attribute(names::ERROR_TYPE, error)));
        self.server(&mut list);
        if let Some(Peer::Address(address)) = self.peer {
            let (ip, port) = (address.ip().to_canonical().to_string(), i64::from(address.port()));
            list.push(attribute(names::PEER_ADDRESS, ip));
            list.push(attribute(names::PEER_PORT, port));
        }
        let MessageCounts { requests, responses, request_bytes, response_bytes } = self.counts;
        for (key, count) in [
            (own::REQUEST_MESSAGES, requests),
            (own::RESPONSE_MESSAGES, responses),
            (own::REQUEST_BYTES, request_bytes),
            (own::RESPONSE_BYTES, response_bytes),
        ] {
            let count = count.map(|count| i64::try_from(count).unwrap_or(i64::MAX));
            list.extend(count.map(|count| attribute(key, count)));
        }
        if self.coverage != Coverage::Complete {
            list.push(attribute(own::CONNECTION, self.coverage.as_str()));
        }
        if adds_old {
            list.push(attribute(old::SYSTEM, system));
        }
        (method, list)
    }

    /// Adds the attributes of the server: the host and port that the client named, or else those that it connected to.
    fn server(&self, list: &mut Vec<KeyValue>) {
        let named = self.authority.as_deref().and_then(Host::of);
        let (address, port) = match (named, self.peer) {
            (Some(Host { host, port }), _) => (host.to_owned(), port),
            (None, Some(Peer::Address(address))) if self.role == Role::Client => {
                (address.ip().to_canonical().to_string(), Some(address.port()))
            }
            _ => return,
        };
        list.push(attribute(names::SERVER_ADDRESS, address));
        list.extend(port.map(|port| attribute(names::SERVER_PORT, i64::from(port))));
    }

    /// Adds the attributes of the method. A method that the server does not have is not a name: peers invent them.
    fn method(&self, adds_old: bool, list: &mut Vec<KeyValue>) -> Option<String> {
        if self.path == PathId::NOT_SEEN {
            list.push(attribute(own::METHOD, "not_seen"));
            return None;
        }
        if self.path == PathId::OTHER {
            list.push(attribute(names::METHOD, names::OTHER));
            return None;
        }
        let of = Method::new(self.protocol, self.path, &self.text);
        let whole = of.qualified();
        if adds_old {
            let Method { service, method, .. } = of;
            // The conventions give `rpc.method` both meanings. The new one counts.
            list.push(attribute(old::SERVICE, if service.is_empty() { method } else { service }));
        }
        if self.code == Some(Code::Unimplemented) {
            list.push(attribute(names::METHOD, names::OTHER));
            list.push(attribute(names::METHOD_ORIGINAL, &*whole));
            return None;
        }
        list.push(attribute(names::METHOD, &*whole));
        Some(whole.into_owned())
    }
}

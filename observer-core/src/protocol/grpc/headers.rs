//! The fields of a field block that matter to gRPC.

use crate::{
    call::{CallProtocol, Context, Relatives, SpanId, TraceContext, TraceId},
    names::{Parents, PathId, TextId},
    protocol::hpack::{ContentType, Field, RequestMethod, TraceParent},
};

/// The fields of one field block that matter to a call; `None` if a field is absent or could not be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// The field `:method`.
    pub method: Option<RequestMethod>,
    /// The field `:path`.
    pub path: Option<PathId>,
    /// The field `:authority`, if it is kept.
    pub authority: Option<PathId>,
    /// The field `:status`.
    pub status: Option<u16>,
    /// The field `content-type`.
    pub content_type: Option<ContentType>,
    /// The field `grpc-status`; the inner `None` if it is not a number.
    pub grpc_status: Option<Option<u32>>,
    /// The field `grpc-timeout`, or that of Connect, in nanoseconds.
    pub timeout_ns: Option<u64>,
    /// Whether a field shows that a request is one of Connect. The content type alone does not, if it is unary.
    pub connect: bool,
    /// The field `traceparent`; the inner `None` if it is malformed.
    pub trace: Option<Option<TraceParent>>,
    /// What is known of its trace, once [`find_context`](Self::find_context) was called.
    pub context: Context,
    /// The field `tracestate`; the inner `None` if it is there twice.
    pub trace_state: Option<Option<TextId>>,
    /// The field `grpc-message`.
    pub message: Option<TextId>,
    /// Whether some fields could not be decoded: fields that are `None` here may have been there.
    pub incomplete: bool,
}

/// The kinds of calls, by where their status is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// gRPC: in the trailers.
    #[default]
    Grpc,
    /// gRPC-Web: in the body, or in the headers of the response.
    GrpcWeb,
    /// A unary call of Connect: the status of HTTP, and the code in the body of an error.
    ConnectUnary,
    /// A call of Connect with streams: in the last message.
    ConnectStream,
}

impl Kind {
    /// The protocol of such calls.
    pub fn protocol(self) -> CallProtocol {
        match self {
            Self::Grpc => CallProtocol::Grpc,
            Self::GrpcWeb => CallProtocol::GrpcWeb,
            Self::ConnectUnary | Self::ConnectStream => CallProtocol::Connect,
        }
    }
}

impl Headers {
    /// Adds a field of the block.
    ///
    /// If a field is there twice, the first one counts; for `grpc-status` and `grpc-message` the last one, as in grpcio
    /// and grpc-go. Two `traceparent` count as none (Trace Context §3.2), and so do two `tracestate`, which would have to be
    /// joined.
    pub fn add(&mut self, field: Field) {
        match field {
            Field::Method(method) => set(&mut self.method, method),
            Field::Path(path) => set(&mut self.path, path),
            Field::Authority(authority) => {
                if authority != PathId::NOT_SEEN {
                    set(&mut self.authority, authority);
                }
            }
            Field::Status(status) => set(&mut self.status, status),
            Field::ContentType(content_type) => set(&mut self.content_type, content_type),
            Field::GrpcStatus(status) => self.grpc_status = Some(status),
            Field::GrpcTimeout(Some(timeout)) => set(&mut self.timeout_ns, timeout.nanoseconds()),
            Field::TraceParent(trace) => {
                self.trace = Some(trace.filter(|_| self.trace.is_none()));
            }
            Field::TraceState(state) => {
                self.trace_state = Some(Some(state).filter(|_| self.trace_state.is_none()));
            }
            Field::GrpcMessage(message) => self.message = Some(message),
            Field::Connect | Field::ConnectTimeout(None) => self.connect = true,
            Field::ConnectTimeout(Some(timeout)) => {
                self.connect = true;
                set(&mut self.timeout_ns, timeout.nanoseconds());
            }
            Field::ConnectPath(path) => {
                self.connect = true;
                set(&mut self.path, path);
            }
            Field::Unknown => self.incomplete = true,
            Field::GrpcTimeout(None) | Field::Other => {}
        }
    }

    /// Its trace, if it is recorded: a trace that is not recorded cannot be found.
    pub fn recorded_trace(&self) -> Option<TraceId> {
        self.trace.flatten().filter(|of| of.is_sampled).map(|of| of.trace)
    }

    /// Looks up the parent of its trace. To be called before other blocks are decoded.
    pub fn find_context(&mut self, parents: &Parents) {
        self.context = match self.trace {
            None if self.incomplete => Context::NotSeen,
            None | Some(None) => Context::Absent,
            Some(Some(TraceParent { trace, parent, is_sampled })) => {
                match parents.get(parent, trace.0) {
                    Some(parent) => {
                        Context::Of(TraceContext { trace, parent: SpanId(parent), is_sampled })
                    }
                    None => Context::NotSeen,
                }
            }
        };
    }

    /// Whether they are a request's, by their pseudo-header fields (RFC 9113 §8.3); `None` if no such field was seen.
    pub fn is_request(&self) -> Option<bool> {
        if self.status.is_some() {
            return Some(false);
        }
        (self.method.is_some() || self.path.is_some()).then_some(true)
    }

    /// Removes what shows a protocol that is not followed.
    pub fn keep(&mut self, relatives: Relatives) {
        let is_kept = match self.content_type {
            Some(ContentType::GrpcWeb) => relatives.grpc_web,
            Some(ContentType::Connect) => relatives.connect,
            _ => true,
        };
        if !is_kept {
            self.content_type = Some(ContentType::Other);
        }
        if self.connect && !relatives.connect {
            (self.connect, self.timeout_ns) = (false, None);
        }
    }

    /// The kind of their call; `None` if they do not show it.
    pub fn kind(&self) -> Option<Kind> {
        match self.content_type {
            Some(ContentType::Grpc) => Some(Kind::Grpc),
            Some(ContentType::GrpcWeb) => Some(Kind::GrpcWeb),
            Some(ContentType::Connect) => Some(Kind::ConnectStream),
            Some(ContentType::Json | ContentType::Other) => {
                let is_post = self.method == Some(RequestMethod::Post);
                (self.connect && is_post).then_some(Kind::ConnectUnary)
            }
            None => {
                let is_get = self.method == Some(RequestMethod::Get);
                (self.connect && is_get).then_some(Kind::ConnectUnary)
            }
        }
    }

    /// Whether they have a field that only gRPC uses, or a relative that is followed.
    pub fn shows_grpc(&self) -> bool {
        self.kind().is_some()
            || self.grpc_status.is_some()
            || self.timeout_ns.is_some() && !self.connect
    }
}

fn set<T>(place: &mut Option<T>, value: T) {
    place.get_or_insert(value);
}

#[cfg(test)]
mod tests {
    use super::Headers;
    use crate::{
        call::{Context, SpanId, TraceContext, TraceId},
        names::{ParentId, Parents},
        protocol::hpack::{Field, TraceParent},
    };

    fn of(number: u8) -> TraceParent {
        let (trace, parent) = (TraceId([number; 16]), ParentId::default());
        TraceParent { trace, parent, is_sampled: true }
    }

    fn headers(fields: &[Field]) -> Headers {
        let mut headers = Headers::default();
        for field in fields {
            headers.add(*field);
        }
        headers
    }

    #[test]
    fn the_last_of_two_statuses_counts() {
        let status = |status| Field::GrpcStatus(status);
        assert_eq!(headers(&[status(Some(0)), status(Some(13))]).grpc_status, Some(Some(13)));
        assert_eq!(headers(&[status(Some(13)), status(None)]).grpc_status, Some(None));
        assert_eq!(headers(&[Field::Status(200), Field::Status(503)]).status, Some(200));
    }

    #[test]
    fn two_traces_count_as_none() {
        let trace = Some(of(7));
        assert_eq!(headers(&[Field::TraceParent(trace)]).trace, Some(trace));
        for second in [None, trace, Some(of(8))] {
            let two = [Field::TraceParent(trace), Field::TraceParent(second)];
            assert_eq!(headers(&two).trace, Some(None));
            let three = [two[0], two[1], Field::TraceParent(trace)];
            assert_eq!(headers(&three).trace, Some(None));
        }
    }
    #[test]
    fn a_context_is_known_only_if_all_fields_are() {
        let mut parents = Parents::new(true);
        let parent = parents.keep([7; 16], [9; 8]);
        let field = Field::TraceParent(Some(TraceParent { parent, ..of(7) }));
        let context = |fields: &[Field], parents: &Parents| {
            let mut headers = headers(fields);
            headers.find_context(parents);
            headers.context
        };
        let (trace, parent) = (TraceId([7; 16]), SpanId([9; 8]));
        let known = Context::Of(TraceContext { trace, parent, is_sampled: true });
        assert_eq!(context(&[field], &parents), known);
        assert_eq!(context(&[field], &Parents::default()), Context::NotSeen);
        assert_eq!(context(&[field, Field::Unknown], &parents), known);
        assert_eq!(context(&[Field::Unknown], &parents), Context::NotSeen);
        for none in [&[Field::Other][..], &[field, field], &[Field::TraceParent(None)]] {
            assert_eq!(context(none, &parents), Context::Absent);
        }
    }
}

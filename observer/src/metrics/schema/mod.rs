//! The names and labels of the metrics about calls. A schema is a table of families, each with a value of the statistics
//! and its labels. A library that has go's families under other names has rules instead of a table.

mod chosen;
mod go;
mod otel;
mod own;
mod python;
mod rename;
mod requests;
mod thrift;
mod write;

use std::borrow::Cow;

use super::{
    GrpcType,
    exposition::{Family, Kind},
};
use observer_core::call::{CallProtocol, Code, Role};

pub use chosen::{Clash, Schema, Schemas};
pub(super) use write::write;

/// A family of series of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CallFamily {
    family: Family,
    /// The protocol of the calls.
    protocol: CallProtocol,
    /// The side of the calls.
    role: Role,
    value: Value,
    /// The labels, without those of the process.
    labels: Cow<'static, [LabelSpec]>,
}

impl CallFamily {
    const fn new(
        role: Role,
        value: Value,
        labels: &'static [LabelSpec],
        name: &'static str,
        help: &'static str,
    ) -> Self {
        let family = Family::new(value.kind(), name, help);
        let protocol = CallProtocol::Grpc;
        Self { family, protocol, role, value, labels: Cow::Borrowed(labels) }
    }

    /// The family, for calls of Thrift.
    const fn of_thrift(mut self) -> Self {
        self.protocol = CallProtocol::Thrift;
        self
    }
}

/// A label's name and the source of its value.
type LabelSpec = (&'static str, LabelSource);

/// The source of the value of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LabelSource {
    /// `unary`, or `UNARY`.
    Type(Spelling),
    /// `package.Service`
    Service,
    /// `Method`
    Method,
    /// `NotFound`, or `NOT_FOUND`.
    Code(Spelling),
    /// `/package.Service/Method`
    Path,
    /// `package.Service/Method`
    FullMethod,
    /// `NOT_FOUND`; no label if OpenTelemetry does not count the code as an error.
    ErrorType,
    /// The same value for all calls.
    Constant(&'static str),
}

/// The spelling of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// grpc-go's.
    Go,
    /// grpcio's, and that of gRPC's specification.
    Python,
    /// The outcomes of Thrift calls.
    Thrift,
}

impl Spelling {
    fn of_type(self, grpc_type: GrpcType) -> &'static str {
        match self {
            Self::Go | Self::Thrift => grpc_type.as_str(),
            Self::Python => match grpc_type {
                GrpcType::Unary => "UNARY",
                GrpcType::ClientStream => "CLIENT_STREAMING",
                GrpcType::ServerStream => "SERVER_STREAMING",
                GrpcType::BidiStream => "BIDI_STREAMING",
                GrpcType::Unknown => "UNKNOWN",
            },
        }
    }

    fn of_code(self, code: Code) -> &'static str {
        match self {
            Self::Go => code.as_camel_case(),
            Self::Python => code.as_upper_case(),
            Self::Thrift => code.as_thrift_outcome(),
        }
    }
}

/// The value of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Started,
    /// Ended calls by code.
    Handled,
    /// Failed calls by code, without calls whose code was not seen.
    Errors,
    Received,
    ReceivedBytes,
    Sent,
    SentBytes,
    InFlight,
    /// A distribution.
    Handling,
    /// A distribution by code.
    HandlingByCode,
    /// A distribution.
    FirstMessage,
    /// A distribution of times from one received message to the next.
    Receiving,
    /// A distribution of times from one sent message to the next.
    Sending,
    /// Open connections of a process.
    Connections,
    /// 1 for each service of a process.
    Service,
}

impl Value {
    /// The type of a family with this value.
    const fn kind(self) -> Kind {
        match self {
            Self::Started
            | Self::Handled
            | Self::Errors
            | Self::Received
            | Self::ReceivedBytes
            | Self::Sent
            | Self::SentBytes => Kind::Counter,
            Self::InFlight | Self::Connections => Kind::Gauge,
            Self::Handling
            | Self::HandlingByCode
            | Self::FirstMessage
            | Self::Receiving
            | Self::Sending => Kind::Histogram,
            Self::Service => Kind::Info,
        }
    }
}

//! Names and labels of the metrics about calls. A schema is a rendering of the same statistics: a
//! table of families, each with its value and its labels. A library that has go's families under
//! other names has rules instead of a table.

mod chosen;
mod go;
mod otel;
mod own;
mod python;
mod rename;
mod requests;
mod write;

use std::borrow::Cow;

use super::{
    GrpcType,
    exposition::{Family, Kind},
};
use observer_core::call::{Code, Role};

pub use chosen::{Clash, Schema, Schemas};
pub(super) use write::write;

/// A family of series of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CallFamily {
    family: Family,
    /// Whose calls.
    role: Role,
    value: Value,
    /// Beside those that say which process.
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
        Self { family, role, value, labels: Cow::Borrowed(labels) }
    }
}

/// A label's name, and what it says.
type LabelSpec = (&'static str, LabelSource);

/// What a label says of a call.
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
    /// `NOT_FOUND`, where OpenTelemetry takes the code for an error; else the label is not there.
    ErrorType,
    /// The same of all.
    Constant(&'static str),
}

/// Whose spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// grpc-go's.
    Go,
    /// grpcio's, and of gRPC's specification.
    Python,
}

impl Spelling {
    fn of_type(self, grpc_type: GrpcType) -> &'static str {
        match self {
            Self::Go => grpc_type.as_str(),
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
        }
    }
}

/// What a family tells of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Started,
    /// By code.
    Handled,
    /// By code, without OK and what was not seen.
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
    /// A distribution: from one received message to the next.
    Receiving,
    /// A distribution: from one sent message to the next.
    Sending,
    /// Of a process, not of a method.
    Connections,
    /// That the process has the service.
    Service,
}

impl Value {
    /// What a family with it is.
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

//! Names and labels of what is told about calls. A schema is a rendering of the same statistics: a
//! table of families, each of which says what it tells and by which labels.

mod go;
mod own;
mod write;

use std::borrow::Cow;

#[cfg(test)]
use super::exposition::Kind;
use super::{GrpcType, exposition::Family};
use crate::grpc::{Code, Role};

pub(super) use write::write;

/// A family of series of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CallFamily {
    family: Family,
    /// Whose calls.
    role: Role,
    value: Value,
    /// Beside those that say which process.
    labels: Cow<'static, [LabelOf]>,
}

impl CallFamily {
    const fn new(role: Role, value: Value, labels: &'static [LabelOf], family: Family) -> Self {
        Self { family, role, value, labels: Cow::Borrowed(labels) }
    }
}

/// A label's name, and what it says.
type LabelOf = (&'static str, Says);

/// What a label says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// `unary`, or `UNARY`.
    Type(Spelling),
    /// `package.Service`
    Service,
    /// `Method`
    Method,
    /// `NotFound`, or `NOT_FOUND`.
    Code(Spelling),
}

/// Whose spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// grpc-go's.
    Go,
}

impl Spelling {
    fn of_type(self, grpc_type: GrpcType) -> &'static str {
        match self {
            Self::Go => grpc_type.as_str(),
        }
    }

    fn of_code(self, code: Code) -> &'static str {
        match self {
            Self::Go => code.as_camel_case(),
        }
    }
}

/// What a family tells of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Started,
    /// By code.
    Handled,
    Received,
    ReceivedBytes,
    Sent,
    SentBytes,
    InFlight,
    /// A distribution.
    Handling,
    /// A distribution.
    FirstMessage,
    /// Of a process, not of a method.
    Connections,
}

impl Value {
    /// What a family with it is.
    #[cfg(test)]
    fn kind(self) -> Kind {
        match self {
            Self::Started
            | Self::Handled
            | Self::Received
            | Self::ReceivedBytes
            | Self::Sent
            | Self::SentBytes => Kind::Counter,
            Self::InFlight | Self::Connections => Kind::Gauge,
            Self::Handling | Self::FirstMessage => Kind::Histogram,
        }
    }
}

/// What is told of calls.
fn families() -> impl Iterator<Item = &'static CallFamily> {
    go::FAMILIES.iter().chain(own::FAMILIES)
}

#[test]
fn families_are_of_the_kind_of_their_values() {
    for CallFamily { family, value, .. } in families() {
        assert_eq!(family.kind, value.kind(), "{}", family.name);
    }
}

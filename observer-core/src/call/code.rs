//! The gRPC status codes, and one of our own.

/// How a call ended: a status code, as in `grpc-status`, or that it was given up and nobody outside of
/// the client can say why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of gRPC's status code list, but for the last")]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
    /// The client gave the call up when its deadline was near: one of the two, and a failure for certain.
    CanceledOrDeadlineExceeded = 17,
}

/// How many codes gRPC has. They come first in [`Code::ALL`].
const ON_THE_WIRE: usize = 17;

impl Code {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::Ok,
        Self::Canceled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
        Self::CanceledOrDeadlineExceeded,
    ];

    /// The code of a decoded `grpc-status`.
    ///
    /// Numbers outside the list become [`Code::Unknown`]: gRPC's libraries may convert them to
    /// that, and the number is the peer's to choose, so it must not become a label.
    pub fn from_number(number: u32) -> Self {
        usize::try_from(number)
            .ok()
            .filter(|&n| n < ON_THE_WIRE)
            .and_then(|n| Self::ALL.get(n).copied())
            .unwrap_or(Self::Unknown)
    }

    /// The code of a response without `grpc-status`, from its HTTP status.
    ///
    /// Source: gRPC's "HTTP to gRPC Status Code Mapping".
    pub fn from_http_status(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// The code of a stream that was reset before its status, from the HTTP/2 error code.
    ///
    /// Source: the table in "Errors" of gRPC over HTTP2, which is for a client that is told so by the server.
    /// A reset with CANCEL may also be a deadline that ran out; that is for the caller, who has the clock.
    pub fn from_http2_error(error: u32) -> Self {
        match error {
            0x7 => Self::Unavailable,       // REFUSED_STREAM
            0x8 => Self::Canceled,          // CANCEL
            0xb => Self::ResourceExhausted, // ENHANCE_YOUR_CALM
            0xc => Self::PermissionDenied,  // INADEQUATE_SECURITY
            // NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT,
            // FRAME_SIZE_ERROR, COMPRESSION_ERROR, CONNECT_ERROR
            0x0..=0x4 | 0x6 | 0x9 | 0xa => Self::Internal,
            _ => Self::Unknown,
        }
    }

    /// The spelling of go-grpc-prometheus: `NotFound`.
    pub fn as_camel_case(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Canceled => "Canceled",
            Self::Unknown => "Unknown",
            Self::InvalidArgument => "InvalidArgument",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::PermissionDenied => "PermissionDenied",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Aborted => "Aborted",
            Self::OutOfRange => "OutOfRange",
            Self::Unimplemented => "Unimplemented",
            Self::Internal => "Internal",
            Self::Unavailable => "Unavailable",
            Self::DataLoss => "DataLoss",
            Self::Unauthenticated => "Unauthenticated",
            Self::CanceledOrDeadlineExceeded => "CanceledOrDeadlineExceeded",
        }
    }

    /// The spelling of gRPC's list of status codes, and of grpcio: `NOT_FOUND`.
    pub fn as_upper_case(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Canceled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::CanceledOrDeadlineExceeded => "CANCELLED_OR_DEADLINE_EXCEEDED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, ON_THE_WIRE};

    #[test]
    fn numbers_are_positions() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
            let named = if number < ON_THE_WIRE { code } else { Code::Unknown };
            assert_eq!(Code::from_number(number as u32), named, "only ours is not on the wire");
        }
        assert_eq!(Code::from_number(17), Code::Unknown);
        assert_eq!(Code::from_number(u32::MAX), Code::Unknown);
    }

    #[test]
    fn http_status_mapping() {
        let rows = [
            (400, Code::Internal),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (429, Code::Unavailable),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::Unavailable),
            (200, Code::Unknown),
            (500, Code::Unknown),
        ];
        for (status, code) in rows {
            assert_eq!(Code::from_http_status(status), code, "HTTP {status}");
        }
    }

    #[test]
    fn http2_error_mapping() {
        for error in [0x0, 0x1, 0x2, 0x3, 0x4, 0x6, 0x9, 0xa] {
            assert_eq!(Code::from_http2_error(error), Code::Internal, "error {error:#x}");
        }
        assert_eq!(Code::from_http2_error(0x7), Code::Unavailable);
        assert_eq!(Code::from_http2_error(0x8), Code::Canceled);
        assert_eq!(Code::from_http2_error(0xb), Code::ResourceExhausted);
        assert_eq!(Code::from_http2_error(0xc), Code::PermissionDenied);
        assert_eq!(Code::from_http2_error(0x5), Code::Unknown);
        assert_eq!(Code::from_http2_error(0xdead), Code::Unknown);
    }
}

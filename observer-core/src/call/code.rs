//! The gRPC status codes, and one of our own.

use super::Role;

/// The status code of a call, as in `grpc-status`; or one of our own, for a call that only its client knows the code
/// of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the first names are those of gRPC's status code list")]
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
    /// The client gave the call up when its deadline was near. The call failed with one of the two codes; the wire
    /// cannot tell which.
    CanceledOrDeadlineExceeded = 17,
    /// A Thrift reply has an exception that the method declares.
    DeclaredException = 18,
    /// A Thrift call was answered with an exception of the library: `TApplicationException`.
    ApplicationException = 19,
    /// A Thrift call that gets no answer.
    Oneway = 20,
    /// The connection ended before a Thrift call was answered.
    NoReply = 21,
}

impl Code {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 22] = [
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
        Self::DeclaredException,
        Self::ApplicationException,
        Self::Oneway,
        Self::NoReply,
    ];

    /// The number of codes that `grpc-status` may have.
    const GRPC: usize = 17;

    /// The code with this number in `grpc-status`; [`Code::Unknown`] for numbers that gRPC does not have.
    ///
    /// gRPC's libraries may convert such numbers to Unknown. The peer chooses the number, so it must not become a
    /// label.
    pub fn from_number(number: u32) -> Self {
        let of_grpc = Self::ALL.iter().take(Self::GRPC);
        of_grpc.copied().nth(number as usize).unwrap_or(Self::Unknown)
    }

    /// The code of a response without `grpc-status`, from its HTTP status.
    ///
    /// Source: "HTTP to gRPC Status Code Mapping" in gRPC's documentation.
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

    /// The code of a stream that the server reset before its status, from the HTTP/2 error code.
    ///
    /// Source: the table in "Errors" of gRPC over HTTP2. A reset with CANCEL may also be an expired deadline; the
    /// caller has the times to decide that.
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

    /// Whether the call failed. A call that gets no answer did not, as far as can be seen.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Ok | Self::Oneway)
    }

    /// Whether it is an error for an end on this side: a server is not responsible for all codes.
    ///
    /// Source: `rpc.response.status_code` in OpenTelemetry's semantic conventions for gRPC.
    pub fn is_error_for(self, role: Role) -> bool {
        match role {
            Role::Client => self.is_failure(),
            Role::Server => matches!(
                self,
                Self::Unknown
                    | Self::DeadlineExceeded
                    | Self::CanceledOrDeadlineExceeded
                    | Self::Unimplemented
                    | Self::Internal
                    | Self::Unavailable
                    | Self::DataLoss
                    | Self::ApplicationException
                    | Self::NoReply
            ),
        }
    }

    /// The value of the label `thrift_outcome`, for the codes that Thrift calls end with.
    pub fn as_thrift_outcome(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            _ => self.as_upper_case(),
        }
    }

    /// The name as go-grpc-prometheus spells it: `NotFound`.
    pub fn as_camel_case(self) -> &'static str {
        self.spellings().0
    }

    /// The name as gRPC's list of status codes and grpcio spell it: `NOT_FOUND`.
    pub fn as_upper_case(self) -> &'static str {
        self.spellings().1
    }

    fn spellings(self) -> (&'static str, &'static str) {
        match self {
            Self::Ok => ("OK", "OK"),
            Self::Canceled => ("Canceled", "CANCELLED"),
            Self::Unknown => ("Unknown", "UNKNOWN"),
            Self::InvalidArgument => ("InvalidArgument", "INVALID_ARGUMENT"),
            Self::DeadlineExceeded => ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
            Self::NotFound => ("NotFound", "NOT_FOUND"),
            Self::AlreadyExists => ("AlreadyExists", "ALREADY_EXISTS"),
            Self::PermissionDenied => ("PermissionDenied", "PERMISSION_DENIED"),
            Self::ResourceExhausted => ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
            Self::FailedPrecondition => ("FailedPrecondition", "FAILED_PRECONDITION"),
            Self::Aborted => ("Aborted", "ABORTED"),
            Self::OutOfRange => ("OutOfRange", "OUT_OF_RANGE"),
            Self::Unimplemented => ("Unimplemented", "UNIMPLEMENTED"),
            Self::Internal => ("Internal", "INTERNAL"),
            Self::Unavailable => ("Unavailable", "UNAVAILABLE"),
            Self::DataLoss => ("DataLoss", "DATA_LOSS"),
            Self::Unauthenticated => ("Unauthenticated", "UNAUTHENTICATED"),
            Self::CanceledOrDeadlineExceeded => {
                ("CanceledOrDeadlineExceeded", "CANCELLED_OR_DEADLINE_EXCEEDED")
            }
            Self::DeclaredException => ("declared_exception", "declared_exception"),
            Self::ApplicationException => ("application_exception", "application_exception"),
            Self::Oneway => ("oneway", "oneway"),
            Self::NoReply => ("no_reply", "no_reply"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn numbers_are_positions() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
            let named = if number < 17 { code } else { Code::Unknown };
            assert_eq!(Code::from_number(number as u32), named, "only ours is not on the wire");
        }
        assert_eq!(Code::from_number(u32::MAX), Code::Unknown);
    }

    #[test]
    fn http_status_mapping() {
        let rows = [
            (Code::Internal, &[400][..]),
            (Code::Unauthenticated, &[401]),
            (Code::PermissionDenied, &[403]),
            (Code::Unimplemented, &[404]),
            (Code::Unavailable, &[429, 502, 503, 504]),
            (Code::Unknown, &[200, 500]),
        ];
        for (code, statuses) in rows {
            for status in statuses {
                assert_eq!(Code::from_http_status(*status), code, "HTTP {status}");
            }
        }
    }

    #[test]
    fn http2_error_mapping() {
        let rows = [
            (Code::Internal, &[0x0, 0x1, 0x2, 0x3, 0x4, 0x6, 0x9, 0xa][..]),
            (Code::Unavailable, &[0x7]),
            (Code::Canceled, &[0x8]),
            (Code::ResourceExhausted, &[0xb]),
            (Code::PermissionDenied, &[0xc]),
            (Code::Unknown, &[0x5, 0xdead]),
        ];
        for (code, errors) in rows {
            for error in errors {
                assert_eq!(Code::from_http2_error(*error), code, "error {error:#x}");
            }
        }
    }
}

//! Which code a call ends with: one table, for both roles.
//!
//! | what is seen | code |
//! |---|---|
//! | END_STREAM from the server with `grpc-status` | that |
//! | END_STREAM from the server without | from `:status` |
//! | … where fields could not be decoded | not seen |
//! | RST_STREAM with CANCEL, from either side, the deadline had passed | DeadlineExceeded |
//! | RST_STREAM otherwise | from the HTTP/2 error code |
//! | GOAWAY with a last stream identifier below the call's | Unavailable |
//! | connection closed, or process gone | client: Unavailable; server: Canceled |
//! | … where bytes of the connection were not seen | not seen |

use super::{Code, Headers, Role};

/// `CANCEL` (RFC 9113 §7)
const CANCEL: u32 = 0x8;

/// What ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server ended the stream.
    Stream {
        /// `:status` of the response's first header block, if it was seen.
        status: Option<u16>,
        /// `grpc-status`, as in [`Headers::grpc_status`].
        grpc_status: Option<Option<u32>>,
        /// What is absent may have been there.
        incomplete: bool,
    },
    /// Either side reset the stream.
    Reset {
        /// The HTTP/2 error code.
        error: u32,
        /// The time of `grpc-timeout` had run out.
        expired: bool,
    },
    /// The server said that it will not process the stream.
    GoAway,
    /// The connection ended.
    Closed {
        /// Bytes of it were not seen: the call may have ended before.
        incomplete: bool,
    },
}

impl End {
    /// The server ended the stream with a header block: trailers, or a trailers-only response.
    pub fn trailers(first_status: Option<u16>, headers: &Headers) -> Self {
        Self::Stream {
            status: first_status.or(headers.status),
            grpc_status: headers.grpc_status,
            incomplete: headers.incomplete,
        }
    }

    /// The call's code; `None` if it was not seen.
    pub fn code(self, role: Role) -> Option<Code> {
        match self {
            Self::Stream { grpc_status: Some(Some(number)), .. } => Some(Code::from_number(number)),
            // Present and not a number: gRPC's libraries make it Unknown.
            Self::Stream { grpc_status: Some(None), .. } => Some(Code::Unknown),
            Self::Stream { incomplete: true, .. } => None,
            Self::Stream { status, .. } => status.map(Code::from_http_status),
            Self::Reset { error: CANCEL, expired: true } => Some(Code::DeadlineExceeded),
            Self::Reset { error, .. } => Some(Code::from_http2_error(error)),
            Self::GoAway => Some(Code::Unavailable),
            Self::Closed { incomplete: true } => None,
            Self::Closed { incomplete: false } => Some(match role {
                Role::Client => Code::Unavailable,
                Role::Server => Code::Canceled,
            }),
        }
    }
}

/// Whether a reset that long after the request headers comes from a deadline.
///
/// `grpc-timeout` is rounded up by its sender (0.3 s → `301m`), and the sender's timer and its
/// writing to the socket take time: with grpcio on loopback the reset came from 9.8 ms before to
/// 6.5 ms after. So the larger of 10 ms and 1 % is allowed.
pub fn is_expired(elapsed_ns: u64, timeout_ns: u64) -> bool {
    const ALLOWED_NS: u64 = 10_000_000;
    elapsed_ns.saturating_add(ALLOWED_NS.max(timeout_ns / 100)) >= timeout_ns
}

#[cfg(test)]
mod tests {
    use super::{End, is_expired};
    use crate::grpc::{Code, Role};

    const BOTH: [Role; 2] = [Role::Client, Role::Server];

    fn stream(status: Option<u16>, grpc_status: Option<Option<u32>>) -> End {
        End::Stream { status, grpc_status, incomplete: false }
    }

    #[test]
    fn a_status_is_the_code_whatever_else_there_is() {
        for role in BOTH {
            assert_eq!(stream(Some(200), Some(Some(0))).code(role), Some(Code::Ok));
            assert_eq!(stream(Some(503), Some(Some(5))).code(role), Some(Code::NotFound));
            assert_eq!(stream(None, Some(Some(16))).code(role), Some(Code::Unauthenticated));
            assert_eq!(stream(Some(200), Some(Some(99))).code(role), Some(Code::Unknown));
            assert_eq!(stream(Some(200), Some(None)).code(role), Some(Code::Unknown));
            let incomplete =
                End::Stream { status: None, grpc_status: Some(Some(3)), incomplete: true };
            assert_eq!(incomplete.code(role), Some(Code::InvalidArgument));
        }
    }

    #[test]
    fn without_a_status_the_http_status_tells() {
        for role in BOTH {
            assert_eq!(stream(Some(200), None).code(role), Some(Code::Unknown));
            assert_eq!(stream(Some(404), None).code(role), Some(Code::Unimplemented));
            assert_eq!(stream(Some(503), None).code(role), Some(Code::Unavailable));
            assert_eq!(stream(None, None).code(role), None, "no status was seen at all");
        }
    }

    #[test]
    fn a_status_that_may_have_been_there_is_not_guessed() {
        for role in BOTH {
            let end = End::Stream { status: Some(200), grpc_status: None, incomplete: true };
            assert_eq!(end.code(role), None);
        }
    }

    #[test]
    fn resets() {
        for role in BOTH {
            let code = |error, expired| End::Reset { error, expired }.code(role).unwrap();
            assert_eq!(code(0x8, false), Code::Canceled);
            assert_eq!(code(0x8, true), Code::DeadlineExceeded);
            assert_eq!(code(0x7, true), Code::Unavailable);
            assert_eq!(code(0x0, false), Code::Internal);
            assert_eq!(code(0x2, false), Code::Internal);
            assert_eq!(code(0xb, false), Code::ResourceExhausted);
        }
    }

    #[test]
    fn connections_that_end() {
        for role in BOTH {
            assert_eq!(End::GoAway.code(role), Some(Code::Unavailable));
            assert_eq!(End::Closed { incomplete: true }.code(role), None);
        }
        let closed = End::Closed { incomplete: false };
        assert_eq!(closed.code(Role::Client), Some(Code::Unavailable));
        assert_eq!(closed.code(Role::Server), Some(Code::Canceled));
    }

    #[test]
    fn deadlines_have_the_larger_of_10_ms_and_1_percent() {
        const MS: u64 = 1_000_000;
        assert!(is_expired(301 * MS, 301 * MS));
        assert!(is_expired(291 * MS, 301 * MS));
        assert!(!is_expired(290 * MS, 301 * MS));
        assert!(is_expired(9_900 * MS, 10_000 * MS));
        assert!(!is_expired(9_899 * MS, 10_000 * MS));
        assert!(!is_expired(u64::MAX / 2, u64::MAX));
    }
}

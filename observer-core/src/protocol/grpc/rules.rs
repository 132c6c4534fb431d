//! The code that a call ends with: one table, for both sides.
//!
//! | what is seen | code |
//! |---|---|
//! | END_STREAM from the server with `grpc-status` | that |
//! | END_STREAM from the server without | from `:status` |
//! | … where fields could not be decoded | not seen |
//! | RST_STREAM from the client, with any error code | cancelled |
//! | RST_STREAM from the server with CANCEL | cancelled |
//! | RST_STREAM from the server otherwise | from the HTTP/2 error code |
//! | GOAWAY with a last stream identifier below the call's | Unavailable |
//! | the client closed the connection, or its process ended | cancelled |
//! | the server did, or the connection was lost, the deadline had not passed | Unavailable |
//! | … the deadline had passed | DeadlineExceeded |
//! | … one of the two | not seen |
//! | it is not known who closed the connection | not seen |
//! | any but the first, after a gap that the call may have ended in | not seen |
//! | nothing for a minute, after a gap that the call may have ended in | not seen |
//!
//! *Cancelled*: DeadlineExceeded if the deadline had passed, Canceled if not, and CanceledOrDeadlineExceeded if that is
//! undecided ([`deadline`](super::deadline)). The libraries of servers take a reset by the client for a cancel
//! with any error code, and some proxies send INTERNAL_ERROR or NO_ERROR for one.
//!
//! The status that the server sends at the end of the stream is the code even if a reset by the client may be in a gap
//! before it: both were on the wire, and one of them is known.

use super::{Headers, deadline::Reason};
use crate::call::{Code, Role};

/// `CANCEL` (RFC 9113 §7)
const CANCEL: u32 = 0x8;

/// The end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server ended the stream.
    Stream {
        /// `:status` of the response's first field block, if it was seen.
        status: Option<u16>,
        /// `grpc-status`, as in [`Headers::grpc_status`].
        grpc_status: Option<Option<u32>>,
        /// Whether some fields could not be decoded.
        incomplete: bool,
    },
    /// One of the sides reset the stream.
    Reset {
        /// The side that sent the reset.
        by: Role,
        /// The HTTP/2 error code (RFC 9113 §7).
        error: u32,
        /// The reason, if the call was cancelled.
        reason: Reason,
        /// Whether the call may have ended in a gap before.
        incomplete: bool,
    },
    /// The server reported that it will not process the stream.
    GoAway {
        /// Whether the call may have ended in a gap before.
        incomplete: bool,
    },
    /// The call has probably ended in a gap: nothing of it was seen since.
    NotSeen,
    /// The connection ended.
    Closed {
        /// The side that closed first, or whose process ended; `None` if that is not known.
        by: Option<Role>,
        /// The reason, if the call was cancelled.
        reason: Reason,
        /// Whether the call may have ended in a gap before.
        incomplete: bool,
    },
}

impl End {
    /// The end of a stream by a field block of the server: trailers, or a trailers-only response.
    pub fn trailers(first_status: Option<u16>, headers: &Headers) -> Self {
        Self::Stream {
            status: first_status.or(headers.status),
            grpc_status: headers.grpc_status,
            incomplete: headers.incomplete,
        }
    }

    /// Whether it is certain that the call ended with this, and not before.
    pub fn is_seen(self) -> bool {
        match self {
            Self::Stream { .. } => true,
            Self::NotSeen => false,
            Self::Reset { incomplete, .. }
            | Self::GoAway { incomplete }
            | Self::Closed { incomplete, .. } => !incomplete,
        }
    }

    /// Whether the client cancelled the call, or the deadline expired.
    pub fn is_cancellation(self) -> bool {
        match self {
            Self::Reset { by: Role::Server, error: CANCEL, .. }
            | Self::Reset { by: Role::Client, .. }
            | Self::Closed { by: Some(Role::Client), .. } => self.is_seen(),
            _ => false,
        }
    }

    /// The call's code, the same for both sides; `None` if it was not seen.
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Stream { grpc_status: Some(Some(number)), .. } => Some(Code::from_number(number)),
            // gRPC's libraries take a status that is not a number for Unknown.
            Self::Stream { grpc_status: Some(None), .. } => Some(Code::Unknown),
            Self::NotSeen | Self::Stream { incomplete: true, .. } => None,
            Self::Stream { status, .. } => status.map(Code::from_http_status),
            _ if !self.is_seen() => None,
            Self::Reset { by: Role::Server, error, .. } if error != CANCEL => {
                Some(Code::from_http2_error(error))
            }
            Self::GoAway { .. } => Some(Code::Unavailable),
            Self::Reset { reason, .. } | Self::Closed { by: Some(Role::Client), reason, .. } => {
                Some(match reason {
                    Reason::Canceled => Code::Canceled,
                    Reason::DeadlineExceeded => Code::DeadlineExceeded,
                    Reason::Unclear => Code::CanceledOrDeadlineExceeded,
                })
            }
            Self::Closed { by: Some(Role::Server), reason, .. } => match reason {
                Reason::Canceled => Some(Code::Unavailable),
                Reason::DeadlineExceeded => Some(Code::DeadlineExceeded),
                Reason::Unclear => None,
            },
            Self::Closed { by: None, .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Reason};
    use crate::call::{Code, Role};

    const BOTH: [Role; 2] = [Role::Client, Role::Server];

    /// Each reason, and the codes of calls that the client cancelled, and that the server closed.
    const REASONS: [(Reason, Code, Option<Code>); 3] = [
        (Reason::Canceled, Code::Canceled, Some(Code::Unavailable)),
        (Reason::DeadlineExceeded, Code::DeadlineExceeded, Some(Code::DeadlineExceeded)),
        (Reason::Unclear, Code::CanceledOrDeadlineExceeded, None),
    ];

    #[test]
    fn a_status_is_the_code_or_else_the_http_status_unless_there_may_have_been_one() {
        let rows = [
            (Some(200), Some(Some(0)), false, Some(Code::Ok)),
            (Some(503), Some(Some(5)), false, Some(Code::NotFound)),
            (None, Some(Some(16)), false, Some(Code::Unauthenticated)),
            (Some(200), Some(Some(99)), false, Some(Code::Unknown)),
            (Some(200), Some(None), false, Some(Code::Unknown)),
            (None, Some(Some(3)), true, Some(Code::InvalidArgument)),
            (Some(200), None, false, Some(Code::Unknown)),
            (Some(404), None, false, Some(Code::Unimplemented)),
            (Some(503), None, false, Some(Code::Unavailable)),
            (None, None, false, None),
            (Some(200), None, true, None),
        ];
        for (status, grpc_status, incomplete, code) in rows {
            let end = End::Stream { status, grpc_status, incomplete };
            assert_eq!(end.code(), code, "{end:?}");
        }
    }

    #[test]
    fn a_client_that_resets_gives_up_whatever_it_says() {
        for (reason, cancelled, _) in REASONS {
            for error in [0x0, 0x1, 0x2, 0x7, 0x8, 0xb, 0xc, 0xdead] {
                let reset = End::Reset { by: Role::Client, error, reason, incomplete: false };
                assert_eq!(reset.code(), Some(cancelled), "{error:#x}");
            }
        }
    }

    #[test]
    fn a_server_that_resets_says_why() {
        for (reason, cancelled, _) in REASONS {
            for (error, code) in [
                (0x8, cancelled),
                (0x7, Code::Unavailable),
                (0x0, Code::Internal),
                (0x2, Code::Internal),
                (0xb, Code::ResourceExhausted),
            ] {
                let reset = End::Reset { by: Role::Server, error, reason, incomplete: false };
                assert_eq!(reset.code(), Some(code), "{error:#x}");
            }
        }
    }

    #[test]
    fn connections_that_end() {
        assert_eq!(End::GoAway { incomplete: false }.code(), Some(Code::Unavailable));
        for (reason, cancelled, by_server) in REASONS {
            let closed = |by| End::Closed { by, reason, incomplete: false }.code();
            assert_eq!(closed(Some(Role::Client)), Some(cancelled));
            assert_eq!(closed(Some(Role::Server)), by_server);
            assert_eq!(closed(None), None);
        }
    }

    #[test]
    fn an_end_that_may_not_be_the_first_is_not_seen() {
        let incomplete = true;
        for by in BOTH {
            for (reason, ..) in REASONS {
                for end in [
                    End::Reset { by, error: 0x8, reason, incomplete },
                    End::Reset { by, error: 0, reason, incomplete },
                    End::GoAway { incomplete },
                    End::Closed { by: Some(by), reason, incomplete },
                ] {
                    assert_eq!((end.code(), end.is_seen()), (None, false));
                }
            }
        }
    }
}

//! Which code a call ends with: one table, for both roles.
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
//! *Cancelled*: DeadlineExceeded if the deadline had passed, Canceled if not, and where one cannot say,
//! CanceledOrDeadlineExceeded ([`deadline`](super::deadline)). Servers' libraries take a reset by the client
//! for a cancel whatever its error code says, and some proxies send INTERNAL_ERROR or NO_ERROR for one.
//!
//! What the server says at the end of the stream is the code even if a reset by the client may have
//! be in a gap before it: both were on the wire, and one of them is known.

use super::{Headers, deadline::Reason};
use crate::call::{Code, Role};

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
        /// The side that did.
        by: Role,
        /// The HTTP/2 error code.
        error: u32,
        /// Why, if it was cancelled.
        reason: Reason,
        /// There was a gap: the call may have ended before.
        incomplete: bool,
    },
    /// The server said that it will not process the stream.
    GoAway {
        /// There was a gap: the call may have ended before.
        incomplete: bool,
    },
    /// There was a gap, and nothing of the call was seen since.
    NotSeen,
    /// The connection ended.
    Closed {
        /// The side that closed it first, or whose process ended; `None` if that is not known.
        by: Option<Role>,
        /// Why, if it was cancelled.
        reason: Reason,
        /// There was a gap: the call may have ended before.
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

    /// Whether the call ended with this, and not before.
    pub fn is_seen(self) -> bool {
        match self {
            Self::Stream { .. } => true,
            Self::NotSeen => false,
            Self::Reset { incomplete, .. }
            | Self::GoAway { incomplete }
            | Self::Closed { incomplete, .. } => !incomplete,
        }
    }

    /// Whether its client cancelled the call, or its deadline expired, if it ended with this.
    pub fn is_cancellation(self) -> bool {
        match self {
            Self::Reset { by: Role::Server, error: CANCEL, .. }
            | Self::Reset { by: Role::Client, .. }
            | Self::Closed { by: Some(Role::Client), .. } => self.is_seen(),
            _ => false,
        }
    }

    /// The call's code, the same for both roles; `None` if it was not seen.
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Stream { grpc_status: Some(Some(number)), .. } => Some(Code::from_number(number)),
            // Present and not a number: gRPC's libraries make it Unknown.
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
    const REASONS: [Reason; 3] = [Reason::Canceled, Reason::DeadlineExceeded, Reason::Unclear];

    #[expect(clippy::option_option, reason = "as in End::Stream")]
    fn stream(status: Option<u16>, grpc_status: Option<Option<u32>>) -> Option<Code> {
        End::Stream { status, grpc_status, incomplete: false }.code()
    }

    #[test]
    fn a_status_is_the_code_whatever_else_there_is() {
        assert_eq!(stream(Some(200), Some(Some(0))), Some(Code::Ok));
        assert_eq!(stream(Some(503), Some(Some(5))), Some(Code::NotFound));
        assert_eq!(stream(None, Some(Some(16))), Some(Code::Unauthenticated));
        assert_eq!(stream(Some(200), Some(Some(99))), Some(Code::Unknown));
        assert_eq!(stream(Some(200), Some(None)), Some(Code::Unknown));
        let incomplete = End::Stream { status: None, grpc_status: Some(Some(3)), incomplete: true };
        assert_eq!(incomplete.code(), Some(Code::InvalidArgument));
    }

    #[test]
    fn without_a_status_the_http_status_tells() {
        assert_eq!(stream(Some(200), None), Some(Code::Unknown));
        assert_eq!(stream(Some(404), None), Some(Code::Unimplemented));
        assert_eq!(stream(Some(503), None), Some(Code::Unavailable));
        assert_eq!(stream(None, None), None, "no status was seen at all");
    }

    #[test]
    fn a_status_that_may_have_been_there_is_not_guessed() {
        let end = End::Stream { status: Some(200), grpc_status: None, incomplete: true };
        assert_eq!(end.code(), None);
    }

    fn cancelled(reason: Reason) -> Code {
        match reason {
            Reason::Canceled => Code::Canceled,
            Reason::DeadlineExceeded => Code::DeadlineExceeded,
            Reason::Unclear => Code::CanceledOrDeadlineExceeded,
        }
    }

    #[test]
    fn a_client_that_resets_gives_up_whatever_it_says() {
        for reason in REASONS {
            for error in [0x0, 0x1, 0x2, 0x7, 0x8, 0xb, 0xc, 0xdead] {
                let reset = End::Reset { by: Role::Client, error, reason, incomplete: false };
                assert_eq!(reset.code(), Some(cancelled(reason)), "{error:#x}");
            }
        }
    }

    #[test]
    fn a_server_that_resets_says_why() {
        for reason in REASONS {
            let code =
                |error| End::Reset { by: Role::Server, error, reason, incomplete: false }.code();
            assert_eq!(code(0x8), Some(cancelled(reason)));
            assert_eq!(code(0x7), Some(Code::Unavailable));
            assert_eq!(code(0x0), Some(Code::Internal));
            assert_eq!(code(0x2), Some(Code::Internal));
            assert_eq!(code(0xb), Some(Code::ResourceExhausted));
        }
    }

    #[test]
    fn connections_that_end() {
        assert_eq!(End::GoAway { incomplete: false }.code(), Some(Code::Unavailable));
        for reason in REASONS {
            let closed = |by| End::Closed { by, reason, incomplete: false }.code();
            assert_eq!(closed(Some(Role::Client)), Some(cancelled(reason)));
            assert_eq!(closed(None), None);
            let by_server = match reason {
                Reason::Canceled => Some(Code::Unavailable),
                Reason::DeadlineExceeded => Some(Code::DeadlineExceeded),
                Reason::Unclear => None,
            };
            assert_eq!(closed(Some(Role::Server)), by_server);
        }
    }

    #[test]
    fn an_end_that_may_not_be_the_first_is_not_seen() {
        let incomplete = true;
        for by in BOTH {
            for reason in REASONS {
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

//! Decides what a connection carries, by the first bytes of one of its directions.

use super::connection::{Connection, DirectionState, Shared, Tries, protocol, state};
use crate::{
    counter::Protocol,
    frame::{FrameHeader, HEADER_LENGTH, kind},
    record::{direction, role},
    scanner::{
        Scanner,
        opening::{self, Opening},
    },
    sync::FrameSync,
    thrift,
};

/// The first bytes of a transfer, padded with zeros.
pub type First = [u8; 16];

/// Most bytes in [`First`] without the padding.
pub const FIRST_MAX: u32 = 12;

/// The state in which a connection starts to be watched.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    received: Place,
    sent: Place,
    /// Received, sent.
    syncs: [FrameSync; 2],
    /// One of `record::role`.
    pub role: u8,
    state: u8,
    /// One of [`protocol`].
    protocol: u8,
}

/// The place where a direction's scanner starts. The scanners themselves would take too much of the stack.
#[derive(Clone, Copy, Debug)]
enum Place {
    Preface,
    Frame,
    UnprovenFrame,
    Opening,
    Request,
    Response,
}

impl Place {
    #[inline(always)]
    const fn scanner(self) -> Scanner {
        match self {
            Self::Preface => Scanner::at_preface(),
            Self::Frame => Scanner::at_frame(),
            Self::UnprovenFrame => Scanner::at_unproven_frame(),
            Self::Opening => Scanner::at_opening(),
            Self::Request => Scanner::at_request(),
            Self::Response => Scanner::at_response(),
        }
    }
}

/// The result of looking at the first bytes of a new socket.
#[derive(Clone, Copy, Debug)]
pub enum Detected {
    /// A connection that may become HTTP/2.
    New(Beginning),
    /// A connection that may have been open before the daemon: see [`Beginning::late`].
    Late,
    /// Another protocol.
    Other(Protocol),
}

impl Detected {
    /// Decides by the first `n` ≤ [`FIRST_MAX`] bytes of one direction. `late`: whether other bytes went through that
    /// direction before; `None` if the socket does not show it.
    #[inline(always)]
    pub fn of(first: &First, n: u32, sent: u8, late: Option<bool>) -> Self {
        let beginning = match late {
            // The preface counts in any case: another thread may have written since.
            Some(true) if !begins(first, n, opening::PREFACE) => Err(protocol_of(first)),
            _ => Beginning::new(first, n, sent == direction::SENT),
        };
        match beginning {
            Ok(new) => Self::New(new),
            Err(Protocol::Other) if late != Some(false) => Self::Late,
            Err(Protocol::Other) if begins_yamux(first, n) => Self::Other(Protocol::Yamux),
            Err(protocol) => Self::Other(protocol),
        }
    }
}

impl Detected {
    /// Decides the same if HTTP/2 is not watched, by bytes that are not the start of another watched protocol.
    #[inline(always)]
    pub fn without_http2(first: &First, n: u32, late: Option<bool>) -> Self {
        match protocol_of(first) {
            _ if begins_http2(first, n) => Self::Other(Protocol::Http2),
            Protocol::Other if late != Some(false) => Self::Late,
            Protocol::Other if begins_yamux(first, n) => Self::Other(Protocol::Yamux),
            protocol => Self::Other(protocol),
        }
    }
}

impl Beginning {
    /// The start of a connection that may become HTTP/2; otherwise the protocol.
    #[inline(always)]
    fn new(first: &First, n: u32, is_sent: bool) -> Result<Self, Protocol> {
        let by_client = [Place::Frame, Place::Preface];
        let by_server = [Place::Preface, Place::Frame];
        let mut state = state::CANDIDATE;
        let ([received, sent], is_client) = if begins(first, n, opening::PREFACE) {
            // The client sends the preface.
            (if is_sent { by_client } else { by_server }, is_sent)
        } else if begins(first, n, opening::PROXY_LINE)
            || begins(first, n, opening::PROXY_BINARY)
            || begins(first, n, opening::CONNECT)
        {
            ([Place::Opening; 2], is_sent)
        } else if begins_settings(first, n) {
            // A server may send its SETTINGS first (RFC 9113 §3.4); the preface will show it.
            (if is_sent { by_server } else { by_client }, !is_sent)
        } else if begins_upgrade(first) {
            // The end that asked may become the server; the preface will show it.
            state = state::UPGRADED;
            ([Place::Opening; 2], !is_sent)
        } else {
            return Err(protocol_of(first));
        };
        let role = if is_client { role::CLIENT } else { role::SERVER };
        let protocol = protocol::HTTP2;
        Ok(Self { received, sent, syncs: [FrameSync::default(); 2], role, state, protocol })
    }

    /// The start of a connection that was open before the daemon, if the transfer's first `n` bytes may be a frame.
    #[inline(always)]
    pub fn late(first: &First, n: u32, tries: Tries) -> Option<Self> {
        if n < HEADER_LENGTH || !begins_frame(first) {
            return None;
        }
        let refused = |direction| tries.flags >> direction & 1 != 0;
        let syncs = [
            FrameSync::joined_late(refused(direction::RECEIVED)),
            FrameSync::joined_late(refused(direction::SENT)),
        ];
        let (received, sent) = (Place::UnprovenFrame, Place::UnprovenFrame);
        let (state, protocol) = (state::JOINING, protocol::HTTP2);
        Some(Self { received, sent, syncs, role: role::UNKNOWN, state, protocol })
    }

    /// The start of an HTTP/1.1 connection, by the first bytes of a direction.
    #[inline(always)]
    pub fn http1(first: &First, is_sent: bool) -> Self {
        let [b0, b1, b2, b3, ..] = *first;
        let is_response = u32::from_le_bytes([b0, b1, b2, b3]) == u32::from_le_bytes(*b"HTTP");
        let is_client = is_sent != is_response;
        let (received, sent) = if is_client {
            (Place::Response, Place::Request)
        } else {
            (Place::Request, Place::Response)
        };
        let role = if is_client { role::CLIENT } else { role::SERVER };
        let (state, protocol) = (state::CANDIDATE, protocol::HTTP1);
        Self { received, sent, syncs: [FrameSync::default(); 2], role, state, protocol }
    }

    /// The start of a connection that may carry Thrift, by the first bytes of a transfer. `late` is as in
    /// [`Detected::of`]: if other bytes came before, only a message shows it. `is_unversioned`: whether messages may have
    /// no version.
    #[inline(always)]
    pub fn thrift(first: &First, n: u32, late: Option<bool>, is_unversioned: bool) -> Option<Self> {
        let mut begins = thrift::may_begin(first, n);
        if is_unversioned && begins != Some(true) {
            begins = thrift::may_begin_unversioned(first, n).or(begins);
        }
        let is_certain = begins?;
        let is_late = late == Some(true);
        if is_late && !is_certain {
            return None;
        }
        Some(Self {
            received: Place::Frame,
            sent: Place::Frame,
            syncs: [FrameSync::default(); 2],
            role: role::UNKNOWN,
            state: if is_late { state::JOINING } else { state::CANDIDATE },
            protocol: if is_unversioned { protocol::UNVERSIONED_THRIFT } else { protocol::THRIFT },
        })
    }
}

impl Beginning {
    /// The same in TLS. It counts as open before, since a first message does not look different from later ones: probes may
    /// have missed some.
    #[inline(always)]
    pub fn thrift_in_tls(
        first: &First,
        n: u32,
        is_late: bool,
        is_unversioned: bool,
    ) -> Option<Self> {
        let new = Self::thrift(first, n, Some(is_late), is_unversioned)?;
        Some(Self { state: state::JOINING, ..new })
    }
}

impl Connection {
    /// Starts anew, except for `shared.tries`. In place: the stack has no room for a connection.
    #[inline(always)]
    pub fn begin(&mut self, new: Beginning) {
        let shared = &mut self.shared;
        *shared = Shared {
            state: new.state,
            role: new.role,
            ended_by: direction::UNKNOWN,
            joined: u8::from(new.state == state::JOINING),
            tries: shared.tries,
            protocol: new.protocol,
            ..Shared::default()
        };
        let [received, sent] = new.syncs;
        self.directions = [
            DirectionState::new(new.received.scanner(), received),
            DirectionState::new(new.sent.scanner(), sent),
        ];
    }
}

/// Whether only HTTP/2 can start with these bytes.
#[inline(always)]
pub fn begins_http2(first: &First, n: u32) -> bool {
    n >= 8 && begins(first, n, opening::PREFACE) || n >= HEADER_LENGTH && begins_settings(first, n)
}

/// Not inlined: its values would stay on the caller's stack.
#[inline(never)]
fn begins_frame(first: &First) -> bool {
    let [b0, b1, b2, b3, b4, b5, b6, b7, b8, ..] = *first;
    let frame = FrameHeader::parse([b0, b1, b2, b3, b4, b5, b6, b7, b8]);
    frame.is_plausible() && frame.may_follow(&FrameHeader::default())
}

/// Whether the server agrees to another protocol (status 101).
#[inline(always)]
fn begins_upgrade(first: &First) -> bool {
    let status = u32::from_le_bytes([first[8], first[9], first[10], first[11]]);
    begins(first, 8, opening::RESPONSE) && status == u32::from_le_bytes(*b" 101")
}

#[inline(always)]
fn begins(first: &First, n: u32, opening: Opening) -> bool {
    let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = *first;
    opening::may_begin(u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]), n, opening)
}

/// Whether it may be the header of a SETTINGS frame that is not an acknowledgement. Bytes that were not read are 0.
#[inline(always)]
fn begins_settings(first: &First, n: u32) -> bool {
    let length = u32::from_be_bytes([0, first[0], first[1], first[2]]);
    let header = first[4] | first[5] | first[6] | first[7] | first[8];
    length <= 6 * 64
        && (n < 3 || length.is_multiple_of(6))
        && (n <= 3 || first[3] == kind::SETTINGS)
        && header == 0
}

/// Whether a connection of yamux starts with these bytes: a frame's header (version, type, flags, stream, length) that
/// opens the first stream of an end, or asks whether the other end is there. The first frames of HTTP/2 have other
/// bytes in the place of its flags.
#[inline(always)]
fn begins_yamux(first: &First, n: u32) -> bool {
    const DATA: u8 = 0;
    const WINDOW_UPDATE: u8 = 1;
    const PING: u8 = 2;
    const SYN: [u8; 2] = [0, 1];
    let [version, kind, f0, f1, s0, s1, s2, s3, ..] = *first;
    let streams = match kind {
        DATA | WINDOW_UPDATE => 1..=2,
        PING => 0..=0,
        _ => return false,
    };
    n == FIRST_MAX
        && version == 0
        && [f0, f1] == SYN
        && streams.contains(&u32::from_be_bytes([s0, s1, s2, s3]))
}

/// The protocol that starts with these bytes, if it is not HTTP/2.
#[inline(always)]
pub fn protocol_of<const N: usize>(first: &[u8; N]) -> Protocol {
    // Content types from change_cipher_spec to application_data (RFC 8446 §5.1).
    const TLS_RECORDS: core::ops::RangeInclusive<u8> = 20..=23;
    const TLS_MAJOR: u8 = 3;
    let Some(&[b0, b1, b2, b3]) = first.first_chunk() else { return Protocol::Other };
    if TLS_RECORDS.contains(&b0) && b1 == TLS_MAJOR {
        return Protocol::Tls;
    }
    match &[b0, b1, b2, b3] {
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"DELE" | b"OPTI" | b"PATC" | b"CONN" | b"TRAC"
        | b"HTTP" => Protocol::Http1,
        _ => Protocol::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yamux_is_recognized_by_the_first_frame_of_an_end() {
        let is_yamux = |bytes: &[u8], late| {
            let mut first = First::default();
            first[..bytes.len()].copy_from_slice(bytes);
            let n = u32::try_from(bytes.len()).unwrap();
            let detected = [
                Detected::of(&first, n, direction::SENT, late),
                Detected::without_http2(&first, n, late),
            ];
            detected.map(|detected| matches!(detected, Detected::Other(Protocol::Yamux)))
        };
        let first = Some(false);
        for frame in [
            [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9],
            [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
            [0, 1, 0, 1, 0, 0, 0, 2, 0, 4, 0, 0],
            [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7],
        ] {
            assert_eq!(is_yamux(&frame, first), [true; 2], "{frame:?}");
            assert_eq!(is_yamux(&frame[..11], first), [false; 2], "{frame:?}");
            // It may be a frame of HTTP/2.
            assert_eq!([Some(true), None].map(|late| is_yamux(&frame, late)), [[false; 2]; 2]);
            // The version, the type, the flags and the stream.
            for (at, value) in [(0, 1), (1, 3), (3, 3), (7, 5)] {
                let mut other = frame;
                other[at] = value;
                assert_eq!(is_yamux(&other, first), [false; 2], "{other:?}");
            }
        }
    }
}

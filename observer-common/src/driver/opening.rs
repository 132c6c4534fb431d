//! What a connection begins with, by the first bytes of one of its directions.

use super::connection::{Connection, DirectionState, Shared, Tries, state};
use crate::{
    counter::Protocol,
    frame::{FrameHeader, HEADER_LENGTH, kind},
    record::{direction, role},
    scanner::{
        Scanner,
        opening::{self, Opening},
    },
    sync::FrameSync,
};

/// Bytes that are looked at, padded with zeros.
pub type First = [u8; 16];

/// How many of them there may be.
pub const FIRST_MAX: u32 = 12;

/// How a connection begins for us.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    received: Place,
    sent: Place,
    /// Received, sent.
    syncs: [FrameSync; 2],
    /// One of `record::role`.
    pub role: u8,
    /// One of [`state`].
    pub state: u8,
}

/// Where a direction's scanner begins: scanners themselves would take too much of the stack.
#[derive(Clone, Copy, Debug)]
enum Place {
    Preface,
    Frame,
    UnprovenFrame,
    Opening,
}

impl Place {
    #[inline(always)]
    const fn scanner(self) -> Scanner {
        match self {
            Self::Preface => Scanner::at_preface(),
            Self::Frame => Scanner::at_frame(),
            Self::UnprovenFrame => Scanner::at_unproven_frame(),
            Self::Opening => Scanner::at_opening(),
        }
    }
}

/// What a socket that was not seen before is.
#[derive(Clone, Copy, Debug)]
pub enum Detected {
    /// A connection that begins: where the scanners of both directions do and the process's role, as far as that can be
    /// told.
    New(Beginning),
    /// One that may have been open before the daemon: see [`Beginning::late`].
    Late,
    /// Something else.
    Other(Protocol),
}

impl Detected {
    /// By the first `n` ≤ [`FIRST_MAX`] bytes of one of its directions, and whether others went through that before;
    /// `None` if the socket does not show it.
    #[inline(always)]
    pub fn of(first: &First, n: u32, sent: u8, late: Option<bool>) -> Self {
        let begun = match late {
            // Whatever the socket says: another thread may have written since.
            Some(true) if !begins(first, n, opening::PREFACE) => Err(protocol_of(first)),
            _ => places(first, n, sent),
        };
        match begun {
            Ok(([received, sent], role)) => {
                let state = if begins_upgrade(first) { state::UPGRADED } else { state::CANDIDATE };
                Self::New(Beginning {
                    received,
                    sent,
                    syncs: [FrameSync::default(); 2],
                    role,
                    state,
                })
            }
            Err(Protocol::Other) if late != Some(false) => Self::Late,
            Err(protocol) => Self::Other(protocol),
        }
    }
}

impl Beginning {
    /// Of a connection that was open before the daemon, if its transfer's first bytes may be a frame.
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
        Some(Self { received, sent, syncs, role: role::UNKNOWN, state: state::JOINING })
    }
}

impl Connection {
    /// Begins anew, in place: the stack has no room for it. What has been tried so far stays.
    #[inline(always)]
    pub fn begin(&mut self, new: Beginning) {
        let shared = &mut self.shared;
        *shared = Shared {
            state: new.state,
            role: new.role,
            ended_by: direction::UNKNOWN,
            joined: u8::from(new.state == state::JOINING),
            tries: shared.tries,
            ..Shared::default()
        };
        let [received, sent] = new.syncs;
        self.directions = [
            DirectionState::new(new.received.scanner(), received),
            DirectionState::new(new.sent.scanner(), sent),
        ];
    }
}

#[inline(always)]
fn places(first: &First, n: u32, sent: u8) -> Result<([Place; 2], u8), Protocol> {
    let sent = sent == direction::SENT;
    let from_client = [Place::Frame, Place::Preface];
    let from_server = [Place::Preface, Place::Frame];
    let either = [Place::Opening; 2];
    if begins(first, n, opening::PREFACE) {
        // Who sends the preface is the client.
        return Ok(if sent { (from_client, role::CLIENT) } else { (from_server, role::SERVER) });
    }
    if begins(first, n, opening::PROXY_LINE)
        || begins(first, n, opening::PROXY_BINARY)
        || begins(first, n, opening::CONNECT)
    {
        return Ok((either, if sent { role::CLIENT } else { role::SERVER }));
    }
    if begins_settings(first, n) {
        // A server may send its SETTINGS first (RFC 9113 §3.4); the preface will show it.
        return Ok(if sent { (from_server, role::SERVER) } else { (from_client, role::CLIENT) });
    }
    if begins_upgrade(first) {
        // Who asked may become the server: the preface will show it.
        return Ok((either, if sent { role::SERVER } else { role::CLIENT }));
    }
    Err(protocol_of(first))
}

/// Whether these can be the first bytes of HTTP/2 only.
#[inline(always)]
pub fn begins_http2(first: &First, n: u32) -> bool {
    n >= 8 && begins(first, n, opening::PREFACE) || n >= HEADER_LENGTH && begins_settings(first, n)
}

/// A function of its own: inlined, its values would be kept on the stack to the caller's end.
#[inline(never)]
fn begins_frame(first: &First) -> bool {
    let [b0, b1, b2, b3, b4, b5, b6, b7, b8, ..] = *first;
    let frame = FrameHeader::parse([b0, b1, b2, b3, b4, b5, b6, b7, b8]);
    frame.is_plausible() && frame.may_follow(&FrameHeader::default())
}

/// The server agrees to go on in another protocol.
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

/// The header of a SETTINGS frame that is not an acknowledgement; bytes not read are 0.
#[inline(always)]
fn begins_settings(first: &First, n: u32) -> bool {
    let length = u32::from_be_bytes([0, first[0], first[1], first[2]]);
    let header = first[4] | first[5] | first[6] | first[7] | first[8];
    length <= 6 * 64
        && (n < 3 || length.is_multiple_of(6))
        && (n <= 3 || first[3] == kind::SETTINGS)
        && header == 0
}

/// What begins with these bytes, if it is not HTTP/2.
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

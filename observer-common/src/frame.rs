//! The HTTP/2 frame header (RFC 9113 §4.1).
//!
//! ```text
//! +-----------------------------------------------+
//! |                 Length (24)                   |
//! +---------------+---------------+---------------+
//! |   Type (8)    |   Flags (8)   |
//! +-+-------------+---------------+-------------------------------+
//! |R|                 Stream Identifier (31)                      |
//! +=+=============================================================+
//! ```

/// Length of a frame header in bytes.
pub const HEADER_LENGTH: u32 = 9;

/// The client preface: the first bytes that a client sends on a connection (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest plausible frame with fields: libraries accept field blocks of 8 KiB to 64 KiB, and send them in frames of
/// 16 KiB.
const PLAUSIBLE_BLOCK: u32 = 1 << 16;

/// Longest plausible SETTINGS frame: 64 settings. RFC 9113 has six.
const PLAUSIBLE_SETTINGS: u32 = 6 * 64;

/// Frame types (RFC 9113 §6).
#[expect(missing_docs, reason = "the names are those of the RFC")]
pub mod kind {
    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const PRIORITY: u8 = 0x2;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PUSH_PROMISE: u8 = 0x5;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const WINDOW_UPDATE: u8 = 0x8;
    pub const CONTINUATION: u8 = 0x9;
}

/// Frame flags (RFC 9113 §6).
#[expect(missing_docs, reason = "the names are those of the RFC")]
pub mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// A frame header. The peer chooses `kind` and `flags`: they may be any byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FrameHeader {
    /// Payload length, at most 2²⁴ − 1.
    pub length: u32,
    /// Stream identifier without the reserved bit; 0 is the connection.
    pub stream: u32,
    /// One of [`kind`], or unknown.
    pub kind: u8,
    /// Bits of [`flag`], as the kind defines them.
    pub flags: u8,
    /// Padding.
    pub _reserved: u16,
}

impl FrameHeader {
    /// Reads a frame header. Any nine bytes are one.
    #[inline(always)]
    pub const fn parse(bytes: [u8; 9]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
            kind,
            flags,
            _reserved: 0,
        }
    }

    /// Whether the BPF programs send the frame's payload to the daemon.
    #[inline(always)]
    pub const fn is_kept(&self) -> bool {
        matches!(
            self.kind,
            kind::HEADERS
                | kind::RST_STREAM
                | kind::SETTINGS
                | kind::PUSH_PROMISE
                | kind::GOAWAY
                | kind::CONTINUATION
        )
    }

    /// Whether RFC 9113 allows the frame (§4.2, §6). A receiver closes the connection after one that is not legal, so
    /// in a stream that continues, no frame starts there.
    #[inline(always)]
    pub const fn is_legal(&self) -> bool {
        match self.kind {
            kind::DATA | kind::HEADERS | kind::CONTINUATION => self.stream != 0,
            kind::PRIORITY => self.stream != 0 && self.length == 5,
            kind::RST_STREAM => self.stream != 0 && self.length == 4,
            kind::PUSH_PROMISE => self.stream != 0 && self.length >= 4,
            kind::SETTINGS => self.stream == 0 && self.length.is_multiple_of(6),
            kind::PING => self.stream == 0 && self.length == 8,
            kind::GOAWAY => self.stream == 0 && self.length >= 8,
            kind::WINDOW_UPDATE => self.length == 4,
            _ => true,
        }
    }

    /// Whether gRPC peers send such a frame. One that they do not send may be legal, but no frame boundary is believed
    /// because of it. A plausible frame is
    ///
    /// - legal,
    /// - of a known type, with only flags that its type defines,
    /// - not longer than frames of its type usually are,
    /// - on a stream that a client opened, and not without effect: many messages end with zeros, which together with
    ///   the next frame's header look like the header of an empty DATA frame.
    #[inline(always)]
    pub const fn is_plausible(&self) -> bool {
        let (flags, longest) = match self.kind {
            kind::DATA => (flag::END_STREAM | flag::PADDED, u32::MAX),
            kind::HEADERS => (
                flag::END_STREAM | flag::END_HEADERS | flag::PADDED | flag::PRIORITY,
                PLAUSIBLE_BLOCK,
            ),
            kind::PUSH_PROMISE => (flag::END_HEADERS | flag::PADDED, PLAUSIBLE_BLOCK),
            kind::CONTINUATION => (flag::END_HEADERS, PLAUSIBLE_BLOCK),
            kind::SETTINGS => (flag::ACK, PLAUSIBLE_SETTINGS),
            kind::PING => (flag::ACK, u32::MAX),
            kind::GOAWAY => (0, PLAUSIBLE_BLOCK),
            kind::PRIORITY | kind::RST_STREAM | kind::WINDOW_UPDATE => (0, u32::MAX),
            _ => return false,
        };
        let streams = matches!(
            self.kind,
            kind::DATA | kind::HEADERS | kind::RST_STREAM | kind::PUSH_PROMISE | kind::CONTINUATION
        );
        let has_no_effect = match self.kind {
            kind::DATA => self.length == 0 && !self.has(flag::END_STREAM),
            kind::HEADERS => self.length == 0,
            _ => false,
        };
        self.is_legal()
            && self.flags & !flags == 0
            && self.length <= longest
            && !(streams && self.stream.is_multiple_of(2))
            && !has_no_effect
    }

    /// Whether the frame may come right after the frame `before`: other frames do not interrupt a field block, and
    /// CONTINUATION only continues one (RFC 9113 §6.10).
    #[inline(always)]
    pub const fn may_follow(&self, before: &Self) -> bool {
        let block = matches!(before.kind, kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION);
        let goes_on = block && !before.has(flag::END_HEADERS);
        let continuation = self.kind == kind::CONTINUATION;
        goes_on == continuation && (!goes_on || self.stream == before.stream)
    }

    /// Whether all bits of `flag` are set.
    #[inline(always)]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag == flag
    }
}

#[cfg(test)]
mod tests {
    use super::{FrameHeader, flag, kind};

    #[test]
    fn parses_each_field() {
        let header = FrameHeader::parse([0x01, 0x02, 0x03, 0x01, 0x25, 0xff, 0, 0, 0x07]);
        assert_eq!(header.length, 0x01_02_03);
        assert_eq!(header.kind, kind::HEADERS);
        assert!(header.has(flag::END_STREAM | flag::END_HEADERS | flag::PRIORITY));
        assert!(!header.has(flag::PADDED));
        assert_eq!(header.stream, 0x7f00_0007, "the reserved bit is not part of the identifier");
    }

    fn header(kind: u8, flags: u8, stream: u32, length: u32) -> FrameHeader {
        FrameHeader { length, stream, kind, flags, _reserved: 0 }
    }

    #[test]
    fn frames_that_peers_send_are_plausible() {
        for (kind, flags, stream, length) in [
            (kind::DATA, 0, 1, 1),
            (kind::DATA, flag::END_STREAM, 1, 0),
            (kind::DATA, flag::END_STREAM | flag::PADDED, 7, (1 << 24) - 1),
            (kind::HEADERS, 0x2d, 3, 16_384),
            (kind::HEADERS, flag::END_HEADERS, 3, 1),
            (kind::PRIORITY, 0, 3, 5),
            (kind::RST_STREAM, 0, 3, 4),
            (kind::SETTINGS, 0, 0, 36),
            (kind::SETTINGS, flag::ACK, 0, 0),
            (kind::PUSH_PROMISE, flag::END_HEADERS, 1, 20),
            (kind::PING, flag::ACK, 0, 8),
            (kind::GOAWAY, 0, 0, 30),
            (kind::WINDOW_UPDATE, 0, 0, 4),
            (kind::WINDOW_UPDATE, 0, 5, 4),
            (kind::CONTINUATION, flag::END_HEADERS, 5, 100),
        ] {
            let header = header(kind, flags, stream, length);
            assert!(header.is_legal() && header.is_plausible(), "{header:?}");
        }
    }

    #[test]
    fn frames_that_end_a_connection_are_not_legal() {
        for (kind, stream, length) in [
            (kind::DATA, 0, 0),
            (kind::HEADERS, 0, 10),
            (kind::CONTINUATION, 0, 10),
            (kind::PRIORITY, 0, 5),
            (kind::PRIORITY, 1, 4),
            (kind::RST_STREAM, 1, 5),
            (kind::RST_STREAM, 0, 4),
            (kind::SETTINGS, 0, 5),
            (kind::SETTINGS, 1, 6),
            (kind::PUSH_PROMISE, 0, 10),
            (kind::PUSH_PROMISE, 1, 3),
            (kind::PING, 0, 7),
            (kind::PING, 1, 8),
            (kind::GOAWAY, 1, 8),
            (kind::GOAWAY, 0, 7),
            (kind::WINDOW_UPDATE, 1, 5),
        ] {
            let header = header(kind, 0, stream, length);
            assert!(!header.is_legal() && !header.is_plausible(), "{header:?}");
        }
    }

    #[test]
    fn some_legal_frames_are_not_plausible() {
        for (kind, flags, stream, length) in [
            (0x10, 0, 0, 4),
            (kind::DATA, 0x10, 1, 5),
            (kind::RST_STREAM, 1, 1, 4),
            (kind::HEADERS, 0, 1, 1 << 20),
            (kind::SETTINGS, 0, 0, 600),
            (kind::DATA, 0, 1, 0),
            (kind::HEADERS, flag::END_HEADERS, 1, 0),
            (kind::DATA, flag::END_STREAM, 2, 5),
            (kind::HEADERS, flag::END_HEADERS, 4, 5),
        ] {
            let header = header(kind, flags, stream, length);
            assert!(header.is_legal() && !header.is_plausible(), "{header:?}");
        }
    }

    #[test]
    fn zeros_before_a_header_do_not_make_another_one() {
        let next = [0, 0, 0x31, kind::HEADERS, 5, 0, 0, 0, 7];
        for zeros in 1..9 {
            let mut bytes = [0; 9];
            bytes[zeros..].copy_from_slice(&next[..9 - zeros]);
            assert!(!FrameHeader::parse(bytes).is_plausible(), "{zeros}");
        }
        assert!(FrameHeader::parse(next).is_plausible());
    }

    #[test]
    fn other_frames_do_not_interrupt_a_field_block() {
        let begun = header(kind::HEADERS, 0, 1, 10);
        let whole = header(kind::HEADERS, flag::END_HEADERS, 1, 10);
        let more = header(kind::CONTINUATION, 0, 1, 10);
        let data = header(kind::DATA, 0, 1, 10);
        assert!(more.may_follow(&begun) && more.may_follow(&more));
        assert!(!header(kind::CONTINUATION, 0, 3, 10).may_follow(&begun), "another stream");
        assert!(!data.may_follow(&begun) && !data.may_follow(&more));
        assert!(!more.may_follow(&whole) && !more.may_follow(&data));
        assert!(data.may_follow(&whole) && whole.may_follow(&data));
        assert!(!more.may_follow(&FrameHeader::default()), "as the first frame");
    }
}

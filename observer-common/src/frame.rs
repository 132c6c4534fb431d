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

/// What a client sends first on every connection (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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

/// A frame header; `kind` and `flags` are the peer's and may be any byte.
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
    /// Reads the nine bytes of a frame header. Every nine bytes are one.
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

    /// Whether the daemon gets the frame's payload.
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
}

//! Whether it is known where a direction's frames begin, and when a boundary that was found is believed.
//!
//! A direction that was joined late, or that has a gap, is out of sync: no frame boundary is
//! known. Peers write whole frames and read what was written, so most transfers begin at
//! one. Each is tried: the scanner walks over it from a boundary that is
//! [unproven](Scanner::at_unproven_frame), and what it finds is not reported. The boundary is
//! believed once
//!
//! - a transfer ended where a frame did: nine bytes of something else are a plausible header about once in
//!   2²⁰, and then its frame is still to end with the transfer. Where a boundary before it was refused
//!   since the direction was last in sync it takes [`WHOLE_TRANSFERS`] of them, one after the other: there
//!   the transfers may be pieces of one large message, which may be made of frames itself. But who reads just a header,
//!   as Go's net/http does, reads that frame's payload next: if a transfer of nine bytes is a plausible header, and
//!   a later transfer ends where its frame does, that is enough;
//! - or frames followed each other for [`LONG`] bytes: longer than one frame is by default, so that
//!   frames that are a message's content have been interrupted by the header of the next DATA frame.
//!
//! From then on a header that RFC 9113 does not allow shows that the boundary was none.
//!
//! Streams whose header blocks were sent while the direction was out of sync have messages that may begin
//! anywhere. [`FrameSync::is_old`] says which those may be.

use crate::{frame::HEADER_LENGTH, scanner::Scanner};

/// Transfers that must begin and end with frames where one before them did not.
pub const WHOLE_TRANSFERS: u8 = 3;

/// Bytes of frames one after the other that are proof enough, and how many frames at least.
pub const LONG: u64 = 64 << 10;
const LONG_FRAMES: u32 = 4;

/// One direction's.
///
/// Order: [`begin`](Self::begin) for each transfer; if that says so, a walk of
/// the scanner over its bytes, [`frame`](Self::frame) for each frame, and [`end`](Self::end). After a
/// gap, [`lose`](Self::lose).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FrameSync {
    /// Bytes since the boundary that is tried, and frames.
    length: u64,
    frames: u32,
    /// Streams up to this one may have begun while the direction was out of sync.
    old: u32,
    /// Which boundary this is that was tried: what the driver remembered under another one is void.
    epoch: u32,
    /// Not 0 while out of sync.
    out_of_sync: u8,
    /// Not 0 while a boundary is tried.
    trying: u8,
    /// Whole transfers that are still needed.
    needed: u8,
    _reserved: u8,
}

impl FrameSync {
    /// Of a direction that was not seen from its beginning. `refused` says whether bytes of the
    /// connection have been seen already that are no frames.
    #[inline(always)]
    pub const fn joined_late(refused: bool) -> Self {
        let mut sync = Self {
            length: 0,
            frames: 0,
            old: 0,
            epoch: 0,
            out_of_sync: 0,
            trying: 0,
            needed: 0,
            _reserved: 0,
        };
        sync.lose();
        if refused {
            sync.needed = WHOLE_TRANSFERS;
        }
        sync
    }

    /// Whether no frame boundary is known.
    #[inline(always)]
    pub const fn is_out_of_sync(&self) -> bool {
        self.out_of_sync != 0
    }

    /// Whether a boundary is being tried.
    #[inline(always)]
    pub const fn is_trying(&self) -> bool {
        self.trying != 0
    }

    /// Which boundary this is that was tried. What was remembered under another one is void.
    #[inline(always)]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// There was a gap, and it is not known where the next frame begins.
    #[inline(always)]
    pub const fn lose(&mut self) {
        self.trying = 0;
        if self.out_of_sync == 0 {
            self.out_of_sync = 1;
            self.needed = 1;
            self.old = u32::MAX;
        }
    }

    /// Bytes of transfers that were walked over and not reported, since the boundary that is tried.
    #[inline(always)]
    pub const fn tried(&self) -> u64 {
        if self.trying != 0 { self.length } else { 0 }
    }

    /// A transfer while out of sync: tries its beginning, unless a boundary before it is
    /// still being tried.
    #[inline(always)]
    pub fn begin(&mut self, scanner: &mut Scanner) {
        if self.trying == 0 {
            self.trying = 1;
            self.epoch = self.epoch.wrapping_add(1);
            self.length = 0;
            self.frames = 0;
            *scanner = Scanner::at_unproven_frame();
        }
    }

    /// A frame header was found.
    #[inline(always)]
    pub const fn frame(&mut self) {
        self.frames = self.frames.saturating_add(1);
    }

    /// The scanner walked over the transfer's `length` bytes, or refused them. Answers whether the
    /// direction is in sync now.
    #[inline(always)]
    pub fn end(&mut self, scanner: &mut Scanner, length: u64, walked: bool) -> bool {
        if !walked {
            self.trying = 0;
            self.needed = WHOLE_TRANSFERS;
            return false;
        }
        self.length += length;
        if scanner.is_at_boundary() {
            self.needed = self.needed.saturating_sub(1);
        } else if self.length == u64::from(HEADER_LENGTH) && length == self.length {
            self.needed = 1;
        } else if self.needed > 1 {
            // One after the other.
            self.needed = WHOLE_TRANSFERS;
        }
        let whole = self.needed == 0 && self.frames > 0;
        let long = self.length >= LONG && self.frames >= LONG_FRAMES;
        if !(whole || long) {
            return false;
        }
        self.out_of_sync = 0;
        self.trying = 0;
        scanner.prove();
        true
    }

    /// Of some stream it could not be remembered where its messages begin: it is one of those that may
    /// have begun out of sight, and so are all until the next begins.
    #[inline(always)]
    pub const fn forget(&mut self) {
        self.old = u32::MAX;
    }

    /// Whether the stream may have begun while this direction was out of sync.
    #[inline(always)]
    pub const fn is_old(&self, stream: u32) -> bool {
        stream <= self.old
    }

    /// Whether there may be such streams.
    #[inline(always)]
    pub const fn has_old(&self) -> bool {
        self.old != 0
    }

    /// The client was seen to begin streams, up to this one: what it begins from now on, it begins
    /// while this direction is in sync, if it is.
    #[inline(always)]
    pub const fn begun(&mut self, stream: u32) {
        if self.out_of_sync == 0 && self.old == u32::MAX {
            self.old = stream;
        }
    }
}

//! Resync: whether a direction's frame boundaries are known, and when a boundary that was found is believed.
//!
//! A direction that was joined late, or that has a gap, is out of sync: no frame boundary is known. Peers write whole
//! frames and read what was written, so most transfers start at a boundary. The start of each transfer is tried: the
//! scanner walks over the transfer from a boundary that is [unproven](Scanner::at_unproven_frame), and nothing that it
//! finds is reported. The boundary is believed once one of these holds:
//!
//! - A transfer ended where a frame did. Nine bytes of something else are a plausible header about once in 2²⁰, and
//!   even then the frame must end with the transfer. If a boundary was refused since the direction was last in sync,
//!   `WHOLE_TRANSFERS` consecutive transfers are needed: they may be pieces of one large message, which may consist
//!   of frames itself.
//! - A transfer of nine bytes is a plausible header, and a later transfer ends where its frame does. Some programs
//!   read a frame's header by itself and then its payload (Go's net/http).
//! - Frames followed each other for `LONG` bytes. A frame is not that long by default, so frames inside a message
//!   would have been interrupted by the header of the next DATA frame.
//!
//! From then on, a header that RFC 9113 does not allow shows that the boundary was not one.
//!
//! Streams whose field blocks were sent while the direction was out of sync have messages that may start anywhere.
//! [`FrameSync::is_old`] is true for streams that may be among them.

use crate::{frame::HEADER_LENGTH, scanner::Scanner};

/// Consecutive transfers that must start and end with frames after a boundary was refused.
const WHOLE_TRANSFERS: u8 = 3;

/// Bytes of consecutive frames after which a boundary is believed, and the least number of these frames.
const LONG: u64 = 64 << 10;
const LONG_FRAMES: u32 = 4;

/// Whether one direction is in sync, and what has been tried so far if it is not.
///
/// While it is out of sync: [`begin`](Self::begin) for each transfer, then a walk of the scanner over its bytes with
/// [`frame`](Self::frame) for each frame, and [`end`](Self::end). After a gap, [`lose`](Self::lose).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FrameSync {
    /// Bytes since the boundary that is tried, and frames.
    length: u64,
    frames: u32,
    /// Streams up to this one may have started while the direction was out of sync.
    old: u32,
    /// Number of boundaries that were tried.
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
    /// The state of a direction that is joined late. `refused`: whether bytes of it were already seen that are not
    /// frames.
    #[inline(always)]
    pub fn joined_late(refused: bool) -> Self {
        let needed = if refused { WHOLE_TRANSFERS } else { 1 };
        Self { out_of_sync: 1, needed, old: u32::MAX, ..Self::default() }
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

    /// The number of the boundary that was tried last. Messages that were remembered with another number are void.
    #[inline(always)]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Puts the direction out of sync: after a gap it is not known where the next frame starts.
    #[inline(always)]
    pub const fn lose(&mut self) {
        self.trying = 0;
        if self.out_of_sync == 0 {
            self.out_of_sync = 1;
            self.needed = 1;
            self.old = u32::MAX;
        }
    }

    /// Bytes since the boundary that is being tried: they were walked over, and not reported.
    #[inline(always)]
    pub const fn tried(&self) -> u64 {
        if self.trying != 0 { self.length } else { 0 }
    }

    /// Tries the start of a transfer, unless an earlier boundary is still being tried.
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

    /// Counts a frame header that was found.
    #[inline(always)]
    pub const fn frame(&mut self) {
        self.frames = self.frames.saturating_add(1);
    }

    /// Ends a transfer of `length` bytes; `walked`: whether the scanner walked over all of them. Returns whether the
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
            // They must be consecutive.
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

    /// Makes all streams old until the client starts the next one: for one of them it could not be remembered where
    /// its messages start.
    #[inline(always)]
    pub const fn forget(&mut self) {
        self.old = u32::MAX;
    }

    /// Whether the stream may have started while this direction was out of sync.
    #[inline(always)]
    pub const fn is_old(&self, stream: u32) -> bool {
        stream <= self.old
    }

    /// Whether there may be streams that are [old](Self::is_old).
    #[inline(always)]
    pub const fn has_old(&self) -> bool {
        self.old != 0
    }

    /// Records that the client has started streams up to this one. If the direction is in sync, later streams are not
    /// old.
    #[inline(always)]
    pub const fn begun(&mut self, stream: u32) {
        if self.out_of_sync == 0 && self.old == u32::MAX {
            self.old = stream;
        }
    }
}

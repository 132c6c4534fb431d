//! Follows the records of one direction of a TLS connection.
//!
//! ```text
//! +----------+---------------------------+-----------------+
//! | type (8) | legacy_record_version(16) |   length (16)   |
//! +----------+---------------------------+-----------------+--------------+
//! | fragment: as many bytes, in clear at first, encrypted later           |
//! +-----------------------------------------------------------------------+
//! ```
//!
//! RFC 8446 §5.1 and §5.2, RFC 5246 §6.2. [`Records`] reads headers, which transfers may cut anywhere, and passes over
//! fragments. Of these it reads only the first handshake message, which is not encrypted ([`Hello`]). It adds up how
//! many records of each type there are, and how long those of application data.
//!
//! It works as the [scanner](crate::scanner) does. Order of calls for each transfer: [`begin`](Records::begin), or before
//! it [`pass_gap`](Records::pass_gap) if bytes before the transfer are a gap; then [`want`](Records::want) and
//! [`took`](Records::took) with 1 to `want().length` bytes, until all bytes of the transfer are taken.
//!
//! # Out of sync
//!
//! If bytes of a header are in a gap, or if there is no header where one should be, it is not known where the next
//! record begins. The rest of the transfer is passed over. Then each transfer's first bytes are tried. A boundary is
//! believed once two records of application data follow each other there: both headers start with `17 03 03` and have a
//! length that such a record can have. Encrypted bytes look like that by chance about once in 2²⁶ times, so about once in
//! 2⁵² tries a wrong boundary is believed. From then on, the next header that is not legal shows it.
//!
//! What passes meanwhile is in no record: [`Records::gap_bytes`]. How much plaintext was in it is not known, so
//! [`Records::gaps`] goes up, and the [balance](super::balance) starts again.

use super::{
    cipher::OVERHEAD_1_3,
    hello::{Hello, RANDOM_LENGTH},
};

/// Length of a record header.
pub const HEADER_LENGTH: u32 = 5;

/// Longest fragment: 2¹⁴ bytes of content, and what encryption adds (RFC 8446 §5.2).
///
/// RFC 5246 §6.2.3 allows 2¹⁴ + 2048, but no suite of TLS 1.2 adds more than 80 bytes (16 for a vector, 48 for a MAC, 16
/// to fill a block), unless it pads at random, which no library does.
pub const MAX_FRAGMENT: u32 = (1 << 14) + 256;

/// Shortest fragment of application data that a boundary is believed for: a byte and the least that a common suite adds.
const MIN_PLAUSIBLE: u32 = 17;

/// Fragment of TLS 1.3 that may be an alert: two bytes (RFC 8446 §6).
const ALERT_LENGTH: u32 = OVERHEAD_1_3 + 2;

/// Fragment of TLS 1.3 that may be a KeyUpdate: a handshake message of one byte (RFC 8446 §4.6.3).
const KEY_UPDATE_LENGTH: u32 = OVERHEAD_1_3 + 4 + 1;

/// Records of application data whose lengths are kept. A TLS 1.3 handshake has seven at most, if a certificate fits into
/// one record: EncryptedExtensions, CertificateRequest, Certificate, CertificateVerify, Finished, two tickets.
pub(super) const FIRST: u32 = 12;

/// Types of records (RFC 8446 §5.1).
mod kind {
    pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const APPLICATION_DATA: u8 = 23;
}

/// What the driver is to do with the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Copy them into [`Records::buffer`] at [`Want::at`]. Up to [`OVERRUN`] bytes may be overwritten there.
    Read,
    /// Pass over them.
    Skip,
}

/// What is wanted of the bytes that come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// What to do with them.
    pub take: Take,
    /// Offset in [`Records::buffer`], for [`Take::Read`]: at most [`LAST_AT`].
    pub at: u32,
    /// At most this many of them; never 0, and at most [`OVERRUN`] for [`Take::Read`].
    pub length: u32,
    /// The place, carried over so that the verifier need not look for it again.
    phase: u8,
}

/// What the bytes that were taken completed: a set of bits.
pub mod event {
    /// A record is complete, and counted.
    pub const RECORD: u32 = 1;
    /// What is read of the first handshake message is complete: see [`super::Records::hello`].
    pub const HELLO: u32 = 2;
    /// The direction does not begin with a record of TLS. Nothing that follows is read.
    pub const NOT_TLS: u32 = 4;
    /// There is no record where one should begin: the direction is out of sync from here on.
    pub const NOT_RECORD: u32 = 8;
    /// A boundary is believed: the direction is in sync again.
    pub const RESYNC: u32 = 16;
}

/// Where in the stream the next byte is.
mod phase {
    pub(super) const HEADER: u8 = 0;
    /// In a fragment that is passed over.
    pub(super) const FRAGMENT: u8 = 1;
    /// In a fragment that has bytes of the first handshake message.
    pub(super) const HELLO: u8 = 2;
    /// Nowhere that is known.
    pub(super) const OUT: u8 = 3;
}

/// How far record headers are trusted.
mod check {
    /// The first must be one that a connection begins with.
    pub(super) const OPENING: u8 = 0;
    /// They are to be legal.
    pub(super) const LEGAL: u8 = 1;
    /// The boundary is still to be shown: they are to be plausible.
    pub(super) const PLAUSIBLE: u8 = 2;
}

/// Offsets in the buffer. What may be read while another part is incomplete, comes after that part.
pub(super) const AT_RANDOM: usize = 0;
pub(super) const AT_FIELD: usize = 32;
const AT_HEADER: usize = 40;

/// How many bytes a driver may overwrite at [`Want::at`].
pub const OVERRUN: usize = 16;

/// Length of [`Records::buffer`].
pub const BUFFER_LENGTH: usize = 64;

/// Largest [`Want::at`] for which there is room.
pub const LAST_AT: u32 = (BUFFER_LENGTH - OVERRUN) as u32;

const _: () = assert!(AT_HEADER + HEADER_LENGTH as usize <= LAST_AT as usize);

/// One direction's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Records {
    /// Where the driver puts what it is asked to read.
    pub buffer: [u8; BUFFER_LENGTH],
    /// Bytes of the stream so far.
    bytes: u64,
    /// Bytes of records that were counted.
    framed: u64,
    /// Records of application data, and how long their fragments are in sum.
    application: u64,
    application_bytes: u64,
    /// Lengths of the first of them, four in each.
    first: [u64; 3],
    /// Records of other types.
    handshakes: u32,
    alerts: u32,
    change_cipher_specs: u32,
    /// How often it was not known any more where a record begins.
    gaps: u32,
    /// Length of the last record of application data.
    last: u32,
    /// How many of the last ones may be alerts of TLS 1.3.
    alerts_at_end: u32,
    /// How many may be KeyUpdates of TLS 1.3.
    key_updates: u32,
    /// Length of the fragment that began last.
    length: u32,
    /// Bytes of it still to come.
    left: u32,
    /// Length of the fragment before it, while the boundary is to be shown.
    tried: u32,
    hello: Hello,
    /// One of [`phase`].
    phase: u8,
    /// Bytes of the header in the buffer.
    have: u8,
    /// Type of the record that began last.
    kind: u8,
    /// One of [`check`].
    check: u8,
}

const _: () = assert!(size_of::<Records>() == 184);

impl Records {
    /// At the beginning of a connection.
    #[inline(always)]
    pub const fn at_opening() -> Self {
        Self::at(phase::HEADER, check::OPENING, Hello::at_message())
    }

    /// In a stream whose beginning was not seen.
    #[inline(always)]
    pub const fn joined_late() -> Self {
        Self::at(phase::OUT, check::PLAUSIBLE, Hello::refused())
    }

    #[inline(always)]
    const fn at(phase: u8, check: u8, hello: Hello) -> Self {
        Self {
            buffer: [0; BUFFER_LENGTH],
            bytes: 0,
            framed: 0,
            application: 0,
            application_bytes: 0,
            first: [0; 3],
            handshakes: 0,
            alerts: 0,
            change_cipher_specs: 0,
            gaps: 0,
            last: 0,
            alerts_at_end: 0,
            key_updates: 0,
            length: 0,
            left: 0,
            tried: 0,
            hello,
            phase,
            have: 0,
            kind: 0,
            check,
        }
    }

    /// The direction's first handshake message.
    #[inline(always)]
    pub const fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The random of a ClientHello, once all of that was read.
    #[inline(always)]
    pub const fn client_random(&self) -> Option<&[u8; RANDOM_LENGTH as usize]> {
        // The random is the buffer's first part.
        if self.hello.is_client() { self.buffer.first_chunk() } else { None }
    }

    /// Whether it is known where records begin.
    #[inline(always)]
    pub const fn is_in_sync(&self) -> bool {
        self.phase != phase::OUT && self.check != check::PLAUSIBLE
    }

    /// Whether a record begins with the next byte, as far as that is known.
    #[inline(always)]
    pub const fn is_at_boundary(&self) -> bool {
        self.is_in_sync() && self.phase == phase::HEADER && self.have == 0
    }

    /// Bytes of the stream so far, with those of gaps.
    #[inline(always)]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many of the bytes so far are in no record that is known. Fewer, once a boundary that was tried is believed.
    #[inline(always)]
    pub const fn gap_bytes(&self) -> u64 {
        let begun = match self.phase {
            _ if !self.is_in_sync() => 0,
            phase::HEADER => self.have as u32,
            _ => HEADER_LENGTH + self.length - self.left,
        };
        self.bytes - self.framed - begun as u64
    }

    /// How often it was not known any more where a record begins.
    #[inline(always)]
    pub const fn gaps(&self) -> u32 {
        self.gaps
    }

    /// How many records of application data there are. With TLS 1.3 all that are encrypted say so.
    #[inline(always)]
    pub const fn application(&self) -> u64 {
        self.application
    }

    /// How long their fragments are in sum, without as many bytes of each as the cipher suite adds.
    #[inline(always)]
    pub const fn content(&self, overhead: u32) -> u64 {
        // Only a record that both ends refuse is shorter than that.
        self.application_bytes.saturating_sub(self.application.wrapping_mul(overhead as u64))
    }

    /// Length of the fragment of the last one; 0 if there is none.
    #[inline(always)]
    pub const fn last_application(&self) -> u32 {
        self.last
    }

    /// How many records say that they are handshake messages.
    #[inline(always)]
    pub const fn handshakes(&self) -> u32 {
        self.handshakes
    }

    /// How many records say that they are alerts.
    #[inline(always)]
    pub const fn alerts(&self) -> u32 {
        self.alerts
    }

    /// How many records say that they are a ChangeCipherSpec.
    #[inline(always)]
    pub const fn change_cipher_specs(&self) -> u32 {
        self.change_cipher_specs
    }

    /// How many of the last records of application data may be alerts of TLS 1.3, by their length. Nothing follows an alert
    /// but another one (RFC 8446 §6).
    #[inline(always)]
    pub const fn alerts_at_end(&self) -> u32 {
        self.alerts_at_end
    }

    /// How many records of application data may be KeyUpdates of TLS 1.3, by their length.
    #[inline(always)]
    pub const fn key_updates(&self) -> u32 {
        self.key_updates
    }

    /// Whether so many bytes of content come before one of the first records of application data of TLS 1.3, but not before
    /// the very first, and that record has at least `least` bytes of it.
    #[inline(always)]
    pub(super) fn begins_after(&self, content: u64, least: u32) -> bool {
        let mut before = 0;
        for at in 0..FIRST {
            if u64::from(at) >= self.application {
                break;
            }
            let length = self.first_length(at).saturating_sub(OVERHEAD_1_3);
            if at > 0 && before == content && length >= least {
                return true;
            }
            before += u64::from(length);
        }
        false
    }

    /// Whether there is no record of application data of TLS 1.3, or one with this length of content. Alerts at the end do
    /// not count.
    #[inline(always)]
    pub const fn has_only(&self, content: u32) -> bool {
        match self.application.wrapping_sub(self.alerts_at_end as u64) {
            0 => true,
            1 => self.first_length(0) == content + OVERHEAD_1_3,
            _ => false,
        }
    }

    #[inline(always)]
    const fn first_length(&self, at: u32) -> u32 {
        let [one, two, three] = self.first;
        let four = match at / 4 {
            0 => one,
            1 => two,
            _ => three,
        };
        (four >> (16 * (at % 4))) as u32 & 0xffff
    }

    /// A transfer begins. Out of sync, its beginning is tried.
    #[inline(always)]
    pub const fn begin(&mut self) {
        if self.phase == phase::OUT && self.check == check::PLAUSIBLE {
            self.phase = phase::HEADER;
        }
    }

    /// What to do with the next bytes.
    #[inline(always)]
    pub const fn want(&self) -> Want {
        let phase = self.phase;
        let (take, at, length) = match phase {
            phase::HEADER => {
                let have = self.have as u32;
                (Take::Read, AT_HEADER as u32 + have, HEADER_LENGTH - have)
            }
            phase::HELLO => {
                let (take, at, length) = self.hello.want();
                (take, at, if length < self.left { length } else { self.left })
            }
            phase::FRAGMENT => (Take::Skip, 0, self.left),
            _ => (Take::Skip, 0, u32::MAX),
        };
        Want { take, at, length, phase }
    }

    /// `n` bytes were taken as wanted, 1 ≤ `n` ≤ `want.length`. Answers with bits of [`event`].
    #[inline(always)]
    pub fn took(&mut self, want: Want, n: u32) -> u32 {
        self.bytes += u64::from(n);
        match want.phase {
            phase::HEADER => self.took_header(n),
            phase::HELLO => {
                let done = self.hello.took(&self.buffer, n);
                if !self.hello.is_open() {
                    self.phase = phase::FRAGMENT;
                }
                let events = if done { event::HELLO } else { 0 };
                events | self.took_fragment(n)
            }
            phase::FRAGMENT => self.took_fragment(n),
            _ => 0,
        }
    }

    /// Passes over `n` bytes that are a gap. Answers with bits of [`event`] if it is still known where the next record
    /// begins, which is so if they are all of one fragment. Otherwise the direction is out of sync.
    #[inline(always)]
    pub fn pass_gap(&mut self, n: u64) -> Option<u32> {
        self.bytes += n;
        let in_fragment = matches!(self.phase, phase::FRAGMENT | phase::HELLO);
        if n == 0 || in_fragment && n <= u64::from(self.left) {
            if self.phase == phase::HELLO && n != 0 {
                self.hello.refuse();
                self.phase = phase::FRAGMENT;
            }
            return Some(if in_fragment { self.took_fragment(n as u32) } else { 0 });
        }
        self.lose();
        None
    }

    #[inline(always)]
    fn took_header(&mut self, n: u32) -> u32 {
        self.have += n as u8;
        if u32::from(self.have) < HEADER_LENGTH {
            return if self.may_be_header() { 0 } else { self.refuse() };
        }
        self.have = 0;
        let version = u16::from_be_bytes([self.buffer[AT_HEADER + 1], self.buffer[AT_HEADER + 2]]);
        let length = u16::from_be_bytes([self.buffer[AT_HEADER + 3], self.buffer[AT_HEADER + 4]]);
        self.kind = self.buffer[AT_HEADER];
        self.length = u32::from(length);
        if !self.believes(version) {
            return self.refuse();
        }
        self.left = self.length;
        let events = self.believed();
        self.phase = if self.kind == kind::HANDSHAKE && self.hello.is_open() {
            phase::HELLO
        } else {
            phase::FRAGMENT
        };
        events
    }

    /// Whether the header, of which not all bytes are there, may become one. A boundary that is tried is given up at once: a
    /// short transfer would spoil the next one otherwise.
    #[inline(always)]
    const fn may_be_header(&self) -> bool {
        let seen = u32::from_le_bytes([
            self.buffer[AT_HEADER],
            self.buffer[AT_HEADER + 1],
            self.buffer[AT_HEADER + 2],
            0,
        ]);
        let expected = u32::from_le_bytes([kind::APPLICATION_DATA, 3, 3, 0]);
        let have = if self.have < 3 { self.have as u32 } else { 3 };
        // What is not there yet is shifted out.
        self.check != check::PLAUSIBLE || (seen ^ expected) << (32 - 8 * have) == 0
    }

    /// Whether the header may be one.
    #[inline(always)]
    const fn believes(&self, version: u16) -> bool {
        // A record's version says nothing of the connection's (RFC 8446 §5.1); the first may have an older one.
        let is_legal = matches!(version, 0x0300..=0x0303)
            && matches!(self.length, 1..=MAX_FRAGMENT)
            && matches!(self.kind, kind::CHANGE_CIPHER_SPEC..=kind::APPLICATION_DATA);
        is_legal
            && match self.check {
                check::OPENING => matches!(self.kind, kind::ALERT | kind::HANDSHAKE),
                check::PLAUSIBLE => {
                    self.kind == kind::APPLICATION_DATA
                        && version == 0x0303
                        && self.length >= MIN_PLAUSIBLE
                }
                _ => true,
            }
    }

    /// A header was one. The second after a boundary that is tried shows that there was one.
    #[inline(always)]
    fn believed(&mut self) -> u32 {
        if self.check != check::PLAUSIBLE {
            self.check = check::LEGAL;
            return 0;
        }
        if self.tried == 0 {
            return 0;
        }
        self.check = check::LEGAL;
        self.count(kind::APPLICATION_DATA, self.tried);
        self.tried = 0;
        event::RESYNC | event::RECORD
    }

    #[inline(always)]
    const fn refuse(&mut self) -> u32 {
        match self.check {
            check::OPENING => {
                self.phase = phase::OUT;
                event::NOT_TLS
            }
            check::PLAUSIBLE => {
                self.lose();
                0
            }
            _ => {
                self.lose();
                event::NOT_RECORD
            }
        }
    }

    /// It is not known any more where the next record begins, or the boundary that was tried is none.
    #[inline(always)]
    const fn lose(&mut self) {
        if self.check != check::PLAUSIBLE {
            self.gaps = self.gaps.wrapping_add(1);
        }
        self.check = check::PLAUSIBLE;
        self.phase = phase::OUT;
        self.have = 0;
        self.tried = 0;
        self.alerts_at_end = 0;
        self.hello.refuse();
    }

    /// Bytes of the fragment were taken. If that was all of it, a header follows.
    #[inline(always)]
    fn took_fragment(&mut self, n: u32) -> u32 {
        self.left -= n;
        if self.left > 0 {
            return 0;
        }
        self.phase = phase::HEADER;
        if self.check == check::PLAUSIBLE {
            self.tried = self.length;
            return 0;
        }
        self.count(self.kind, self.length);
        event::RECORD
    }

    #[inline(always)]
    fn count(&mut self, kind: u8, length: u32) {
        self.framed += u64::from(HEADER_LENGTH + length);
        match kind {
            kind::APPLICATION_DATA => self.count_application(length),
            kind::HANDSHAKE => self.handshakes = self.handshakes.wrapping_add(1),
            kind::ALERT => self.alerts = self.alerts.wrapping_add(1),
            _ => self.change_cipher_specs = self.change_cipher_specs.saturating_add(1),
        }
    }

    #[inline(always)]
    fn count_application(&mut self, length: u32) {
        let place = u64::from(length) << (16 * (self.application % 4));
        let [one, two, three] = &mut self.first;
        match self.application / 4 {
            0 => *one |= place,
            1 => *two |= place,
            2 => *three |= place,
            _ => {}
        }
        self.application += 1;
        self.application_bytes += u64::from(length);
        self.last = length;
        self.alerts_at_end =
            if length == ALERT_LENGTH { self.alerts_at_end.saturating_add(1) } else { 0 };
        self.key_updates = self.key_updates.wrapping_add(u32::from(length == KEY_UPDATE_LENGTH));
    }
}

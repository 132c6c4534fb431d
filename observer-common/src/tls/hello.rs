//! Reads the first handshake message of a direction: a ClientHello or a ServerHello.
//!
//! ```text
//!  Handshake (RFC 8446 §4)      +----------+----------------------+
//!                               | type (8) |     length (24)      |
//!                               +----------+----------------------+
//!
//!  ClientHello (§4.1.2)                     ServerHello (§4.1.3)
//! +--------------------------+             +--------------------------+
//! | legacy_version      (16) |             | legacy_version      (16) |
//! +--------------------------+             +--------------------------+
//! | random             (256) | kept        | random             (256) |
//! +--------------------------+             +--------------------------+
//! | length (8), session_id   |             | length (8), session_id   |
//! +--------------------------+             +--------------------------+
//! | length (16), suites      |             | cipher_suite        (16) | kept
//! +--------------------------+             +--------------------------+
//! | length (8), compressions |             | compression          (8) |
//! +--------------------------+             +--------------------------+
//! | length (16), extensions  |             | length (16), extensions  |
//! +--------------------------+             +--------------------------+
//!
//!  Extension (§4.2)             +----------------------+----------------------+
//!                               |      type (16)       |     length (16)      |
//!                               +----------------------+----------------------+
//!  ALPN (RFC 7301 §3.1)         | length (16), then names: length (8), bytes  |
//!  supported_versions (§4.2.1)  | ServerHello: the version (16)               |
//!                               +---------------------------------------------+
//! ```
//!
//! TLS 1.2 has the same layout (RFC 5246 §7.4.1), extensions may be absent.
//!
//! **HelloRetryRequest** is a ServerHello with a random of its own (RFC 8446 §4.1.3). Version and suite in it are those
//! of the ServerHello that follows (§4.1.4), and the second ClientHello has the first one's random (§4.1.2). So what is
//! needed is in the first message of each direction, in that case too, and no later one is read.
//!
//! A message may be cut anywhere, by transfers and by records. Fields are read into the buffer that the
//! [records](super::records) have; lists and extensions of no interest are passed over, whatever their length. A message
//! that RFC 8446 does not allow is [refused](Hello::is_refused).

use super::{
    cipher::Cipher,
    records::{AT_FIELD, AT_RANDOM, BUFFER_LENGTH, Take},
};

/// Types of handshake messages.
mod kind {
    pub(super) const CLIENT_HELLO: u8 = 1;
    pub(super) const SERVER_HELLO: u8 = 2;
}

/// Extensions that are read.
mod extension {
    pub(super) const ALPN: u32 = 16;
    pub(super) const SUPPORTED_VERSIONS: u32 = 43;
}

/// Length of a random.
pub const RANDOM_LENGTH: u32 = 32;

/// Longest session id (RFC 8446 §4.1.2).
const MAX_SESSION_ID: u8 = 32;

/// Which field comes next, once [`Hello::skip`] bytes have been passed over.
mod phase {
    /// Type and length of the message.
    pub(super) const MESSAGE: u8 = 0;
    pub(super) const VERSION: u8 = 1;
    pub(super) const RANDOM: u8 = 2;
    /// Length of the session id.
    pub(super) const SESSION: u8 = 3;
    /// Length of the client's suites.
    pub(super) const SUITES: u8 = 4;
    /// How many compressions the client offers.
    pub(super) const COMPRESSIONS: u8 = 5;
    /// The server's suite and compression.
    pub(super) const SUITE: u8 = 6;
    /// Length of all extensions.
    pub(super) const EXTENSIONS: u8 = 7;
    /// Type and length of an extension.
    pub(super) const EXTENSION: u8 = 8;
    /// Length of ALPN's list.
    pub(super) const NAMES: u8 = 9;
    /// Length of one of its names.
    pub(super) const NAME: u8 = 10;
    /// A name of two bytes.
    pub(super) const SHORT_NAME: u8 = 11;
    /// The version that the server selected.
    pub(super) const SELECTED: u8 = 12;
    /// All is known that is read.
    pub(super) const DONE: u8 = 13;
    /// It is not a hello, or bytes of it are missing.
    pub(super) const REFUSED: u8 = 14;
}

/// Length of the field in bytes.
#[inline(always)]
const fn field_length(phase: u8) -> u32 {
    match phase {
        phase::RANDOM => RANDOM_LENGTH,
        phase::MESSAGE | phase::EXTENSION => 4,
        phase::SUITE => 3,
        phase::SESSION | phase::COMPRESSIONS | phase::NAME => 1,
        phase::DONE | phase::REFUSED => 0,
        _ => 2,
    }
}

/// There is ALPN.
const HAS_ALPN: u8 = 1;

/// It has `h2`.
const HAS_H2: u8 = 2;

/// What was read of a hello so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Hello {
    /// Bytes of the message still to come.
    left: u32,
    /// How many of them come before the next field.
    skip: u32,
    /// Bytes of ALPN's list still to come.
    names: u32,
    /// What the server chose, once the message is done.
    cipher: Cipher,
    /// One of [`phase`].
    phase: u8,
    /// Bytes of the field in the buffer.
    have: u8,
    /// One of [`kind`].
    kind: u8,
    /// Bits for ALPN: [`HAS_ALPN`], [`HAS_H2`].
    alpn: u8,
}

impl Hello {
    /// At the first byte of a direction's first handshake message.
    #[inline(always)]
    pub(super) const fn at_message() -> Self {
        Self::at(phase::MESSAGE)
    }

    /// Of a direction whose beginning was not seen.
    #[inline(always)]
    pub(super) const fn refused() -> Self {
        Self::at(phase::REFUSED)
    }

    #[inline(always)]
    const fn at(phase: u8) -> Self {
        let cipher = Cipher::UNKNOWN;
        Self { left: 0, skip: 0, names: 0, cipher, phase, have: 0, kind: 0, alpn: 0 }
    }

    /// Whether it is still being read.
    #[inline(always)]
    pub const fn is_open(&self) -> bool {
        self.phase < phase::DONE
    }

    /// Whether it was no hello, or bytes of it are missing.
    #[inline(always)]
    pub const fn is_refused(&self) -> bool {
        self.phase == phase::REFUSED
    }

    /// Whether it was a ClientHello, of which all was read.
    #[inline(always)]
    pub const fn is_client(&self) -> bool {
        self.phase == phase::DONE && self.kind == kind::CLIENT_HELLO
    }

    /// What the server chose, if it was a ServerHello, of which all was read.
    #[inline(always)]
    pub const fn cipher(&self) -> Option<Cipher> {
        if self.phase == phase::DONE && self.kind == kind::SERVER_HELLO {
            Some(self.cipher)
        } else {
            None
        }
    }

    /// Whether the client offers HTTP/2, or the server selects it. With TLS 1.3 the server's answer is encrypted.
    #[inline(always)]
    pub const fn has_h2(&self) -> bool {
        self.phase == phase::DONE && self.alpn & HAS_H2 != 0
    }

    /// Whether the protocol is to be negotiated.
    #[inline(always)]
    pub const fn has_alpn(&self) -> bool {
        self.alpn & HAS_ALPN != 0
    }

    /// Bytes of the message are missing: unless all is known, nothing more will be.
    #[inline(always)]
    pub(super) const fn refuse(&mut self) {
        if self.is_open() {
            self.phase = phase::REFUSED;
        }
    }

    /// What to do with the next bytes, where in the buffer, and with how many at most.
    #[inline(always)]
    pub(super) const fn want(&self) -> (Take, u32, u32) {
        let have = self.have as u32;
        if self.skip > 0 {
            return (Take::Skip, 0, self.skip);
        }
        match self.phase {
            // Half of it at a time: a driver reads no more at once.
            phase::RANDOM => (Take::Read, AT_RANDOM as u32 + have, 16 - (have & 15)),
            _ => (Take::Read, AT_FIELD as u32 + have, field_length(self.phase) - have),
        }
    }

    /// `n` bytes were taken as wanted. Answers whether that completed what is read of the message.
    #[inline(always)]
    pub(super) fn took(&mut self, buffer: &[u8; BUFFER_LENGTH], n: u32) -> bool {
        if self.phase != phase::MESSAGE {
            self.left -= n;
        }
        if self.skip > 0 {
            self.skip -= n;
            return false;
        }
        self.have += n as u8;
        if u32::from(self.have) < field_length(self.phase) {
            return false;
        }
        self.have = 0;
        self.took_field([
            buffer[AT_FIELD],
            buffer[AT_FIELD + 1],
            buffer[AT_FIELD + 2],
            buffer[AT_FIELD + 3],
        ]);
        self.phase == phase::DONE
    }

    /// A field is complete: the first of these bytes, as many as it has.
    #[inline(always)]
    const fn took_field(&mut self, field: [u8; 4]) {
        let [b0, b1, b2, b3] = field;
        let is_client = self.kind == kind::CLIENT_HELLO;
        let short = u16::from_be_bytes([b0, b1]);
        match self.phase {
            phase::MESSAGE => self.took_message(b0, u32::from_be_bytes([0, b1, b2, b3])),
            phase::VERSION => {
                self.cipher = self.cipher.with_version(short);
                if is_client {
                    self.go_on(0, phase::RANDOM);
                } else {
                    self.go_on(RANDOM_LENGTH, phase::SESSION);
                }
            }
            phase::RANDOM => self.go_on(0, phase::SESSION),
            phase::SESSION if b0 > MAX_SESSION_ID => self.phase = phase::REFUSED,
            phase::SESSION => {
                self.go_on(b0 as u32, if is_client { phase::SUITES } else { phase::SUITE });
            }
            phase::SUITES => self.go_on(short as u32, phase::COMPRESSIONS),
            phase::COMPRESSIONS => self.go_on(b0 as u32, phase::EXTENSIONS),
            phase::SUITE => {
                self.cipher = self.cipher.with_suite(short, b2);
                self.go_on(0, phase::EXTENSIONS);
            }
            phase::EXTENSIONS if short as u32 != self.left => self.phase = phase::REFUSED,
            phase::EXTENSIONS => self.go_on(0, phase::EXTENSION),
            phase::EXTENSION => {
                self.took_extension(short as u32, u16::from_be_bytes([b2, b3]) as u32);
            }
            phase::NAMES => self.took_names(short as u32),
            phase::NAME => self.took_name(b0 as u32),
            phase::SHORT_NAME => {
                if short == u16::from_be_bytes(*b"h2") {
                    self.alpn |= HAS_H2;
                }
                self.go_on(0, self.after_name());
            }
            _ => {
                self.cipher = self.cipher.with_version(short);
                self.go_on(0, phase::EXTENSION);
            }
        }
    }

    #[inline(always)]
    const fn took_message(&mut self, kind: u8, length: u32) {
        self.kind = kind;
        self.left = length;
        match kind {
            kind::CLIENT_HELLO | kind::SERVER_HELLO => self.go_on(0, phase::VERSION),
            _ => self.phase = phase::REFUSED,
        }
    }

    #[inline(always)]
    const fn took_extension(&mut self, kind: u32, length: u32) {
        match kind {
            extension::ALPN => {
                self.alpn |= HAS_ALPN;
                self.names = length;
                self.go_on(0, phase::NAMES);
            }
            // The client's is a list: the versions that it can, of which the server selects one.
            extension::SUPPORTED_VERSIONS if self.kind == kind::SERVER_HELLO => {
                let is_one = length == field_length(phase::SELECTED);
                self.go_on(0, if is_one { phase::SELECTED } else { phase::REFUSED });
            }
            _ => self.go_on(length, phase::EXTENSION),
        }
    }

    /// The list fills the extension.
    #[inline(always)]
    const fn took_names(&mut self, length: u32) {
        let is_all = self.names == length + field_length(phase::NAMES);
        self.names = length;
        self.go_on(0, if is_all { phase::NAME } else { phase::REFUSED });
    }

    #[inline(always)]
    const fn took_name(&mut self, length: u32) {
        let all = length + field_length(phase::NAME);
        if length == 0 || all > self.names {
            self.phase = phase::REFUSED;
            return;
        }
        self.names -= all;
        if length == field_length(phase::SHORT_NAME) {
            self.go_on(0, phase::SHORT_NAME);
        } else {
            self.go_on(length, self.after_name());
        }
    }

    #[inline(always)]
    const fn after_name(&self) -> u8 {
        if self.names == 0 { phase::EXTENSION } else { phase::NAME }
    }

    /// Goes on with a field, after so many bytes of no interest. Where extensions may begin or go on, the message may end
    /// instead; anywhere else, a message that ends is refused.
    #[inline(always)]
    const fn go_on(&mut self, skip: u32, phase: u8) {
        let may_end = matches!(phase, phase::EXTENSIONS | phase::EXTENSION);
        self.skip = 0;
        self.phase = if skip > self.left {
            phase::REFUSED
        } else if skip == self.left && may_end {
            phase::DONE
        } else if self.left - skip < field_length(phase) {
            phase::REFUSED
        } else {
            self.skip = skip;
            phase
        };
    }
}

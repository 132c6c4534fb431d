//! Bodies of gRPC-Web and Connect: the message with the status, which is called the *tail* here, and bodies as text.
//!
//! The flags of the tail's prefix have the highest bit (gRPC-Web) or the second one (streams of Connect); what it has is
//! copied, up to [`MAX_TAIL`] bytes. A unary response of Connect has no prefixes; if it starts as an error does
//! (`{"code":"not_found"`), the number of the code is reported, and nothing is copied. The first prefix
//! of a body shows whether it is encoded as text (base64): as text it begins with `A` or `g`, which are not flags.
//!
//! ```text
//! application/grpc-web:       00 | length (32) | message …   80 | length (32) | trailers
//! application/grpc-web-text:  the same in base64, in one piece or in several, each with its own padding
//! ```
//!
//! Four characters are three octets. A message's body is skipped four characters at a time; its prefix, and what is left
//! of its body, are decoded one by one.

use super::{AT_PAD_LENGTH, AT_PREFIX, PREFIX_LENGTH, Scanner, Take, Want, event, min, phase};

/// The longest tail that is copied, in bytes before it is encoded. A longer one is not followed.
pub const MAX_TAIL: u32 = 2 << 10;

/// The bit of a prefix's flags for the message with the trailers.
const TRAILERS: u8 = 0x80;

/// The bit of a prefix's flags for the last message of a Connect stream.
const END_STREAM: u8 = 2;

/// The bit of a prefix's flags for a message that is compressed.
const COMPRESSED: u8 = 1;

/// The bytes that are read of an error after the first five.
const ERROR_LENGTH: u32 = 11;

// The parts of `Message::text`.
/// The body is encoded as text.
const TEXT: u32 = 1 << 15;
/// In the characters of a message's body: the message's `left` counts characters.
const SKIPPING: u32 = 1 << 14;
/// The number of octets that remain of the body after these.
const REST: u32 = 12;
/// The number of characters of the group of four so far.
const PLACE: u32 = 8;
/// The bits of these that belong to the next octet.
const BITS: u32 = 0x3f;

/// The tail of a body, or its next part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The flags of its prefix.
    pub flags: u8,
    /// 0, the number of a code, or for text [`Tail::TEXT`], the characters of the group of four before it, and the bits of these that belong
    /// to its first octet.
    pub text: u8,
    /// Its length in bytes, or characters.
    pub length: u32,
}

impl Tail {
    /// In [`Tail::flags`]: it is the code of an error in JSON, by its number in gRPC: [`Tail::text`].
    pub const ERROR: u8 = 0x20;
    /// In [`Tail::text`]: the tail is encoded as text.
    pub const TEXT: u8 = 0x80;
    /// In [`Tail::text`]: the place of the number of characters.
    pub const PLACE: u8 = 4;
}

/// The value of a character of base64; 64 for padding, 65 for any other.
#[inline(always)]
pub const fn value_of(character: u8) -> u32 {
    (match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        b'=' => 64,
        _ => 65,
    }) as u32
}

impl Scanner {
    /// The tail that began last.
    #[inline(always)]
    pub const fn tail(&self) -> Tail {
        if self.buffer[AT_PREFIX] == b'{' {
            return Tail { flags: Tail::ERROR, text: self.message_length as u8, length: 0 };
        }
        let place = self.text >> PLACE & 3;
        let text = Tail::TEXT as u32 | place << Tail::PLACE | self.text & 0xf;
        let text = if self.text == 0 { 0 } else { text as u8 };
        Tail { flags: self.buffer[AT_PREFIX], text, length: self.message_length }
    }

    /// Whether the next bytes belong to a tail, to text, or to an error in JSON.
    #[inline(always)]
    pub const fn is_in_web(&self) -> bool {
        matches!(self.phase, phase::TAIL..=phase::ERROR)
    }

    /// Whether the next bytes belong to a tail.
    #[inline(always)]
    pub const fn is_in_tail(&self) -> bool {
        self.phase == phase::TAIL
    }

    /// Whether characters are to be decoded before more bytes are taken: with [`Scanner::took_queued`].
    #[inline(always)]
    pub const fn has_queued(&self) -> bool {
        self.queue != 0
    }

    /// Whether a group of four characters of text was begun.
    #[inline(always)]
    pub(super) const fn is_in_group(&self) -> bool {
        self.text >> PLACE & 3 != 0
    }

    /// The phase of a frame that goes on with a message.
    #[inline(always)]
    pub(super) const fn phase_in_message(&self, web: bool) -> u32 {
        let in_body = self.message_left > 0;
        if !web {
            if in_body { phase::BODY } else { phase::PREFIX }
        } else if in_body && self.prefix_have == 0 && self.buffer[AT_PREFIX] > 1 {
            phase::TAIL
        } else if self.text & SKIPPING != 0 {
            phase::TEXT_BODY
        } else if self.text != 0 {
            phase::TEXT
        } else if in_body {
            phase::BODY
        } else {
            phase::PREFIX
        }
    }

    /// [`Scanner::want`], if [`Scanner::is_in_web`].
    #[inline(always)]
    pub const fn want_web(&self) -> Want {
        let phase = self.phase;
        let (take, at, length) = match phase {
            phase::TAIL => (Take::Copy, 0, min(self.message_left, self.left)),
            phase::TEXT_BODY => (Take::Skip, 0, min(self.message_left, self.left)),
            phase::ERROR => (
                Take::Read,
                AT_PREFIX as u32 + PREFIX_LENGTH + self.prefix_have,
                min(ERROR_LENGTH - self.prefix_have, self.left),
            ),
            _ => (Take::Read, AT_PAD_LENGTH as u32, 1),
        };
        Want { take, at, length, phase }
    }

    /// [`Scanner::took`], if [`Scanner::is_in_web`].
    #[inline(always)]
    pub fn took_web(&mut self, want: Want, n: u32) -> u32 {
        self.left -= n;
        match want.phase {
            phase::TAIL => {
                self.message_left -= n;
                if self.message_left == 0 {
                    // Nothing follows but padding.
                    self.text = 0;
                    self.phase = phase::SKIP;
                }
                self.end_of_part()
            }
            phase::TEXT_BODY => {
                self.message_left -= n;
                if self.message_left > 0 {
                    return self.end_of_part();
                }
                self.message_left = self.text >> REST & 3;
                self.text = TEXT;
                self.phase = phase::TEXT;
                self.end_of_text_body()
            }
            phase::ERROR => self.took_error(n),
            _ => {
                let character = self.buffer[AT_PAD_LENGTH];
                self.took_character(character)
            }
        }
    }

    /// Decodes a character that was read with a prefix.
    #[inline(always)]
    pub fn took_queued(&mut self) -> u32 {
        let character = self.queue as u8;
        self.queue >>= 8;
        self.took_character(character)
    }

    /// Handles a prefix with other flags than a message's.
    #[inline(always)]
    pub(super) fn begin_web(&mut self) -> u32 {
        let [flags, l0, l1, l2, l3] = self.prefix();
        self.message_length = u32::from_be_bytes([l0, l1, l2, l3]);
        if flags & (TRAILERS | END_STREAM) != 0 && flags & !(TRAILERS | END_STREAM) <= COMPRESSED {
            return self.begin_tail();
        }
        if self.prefix() == *b"{\"cod" && self.left > 0 {
            self.phase = phase::ERROR;
            return 0;
        }
        // If the frame ended here, there would be no step in which to decode them.
        let is_text = matches!(flags, b'A' | b'g') && l3 != 0 && self.left > 0;
        if !is_text {
            self.lose_messages();
            return self.end_of_part();
        }
        self.text = TEXT;
        self.queue = u64::from_le_bytes([flags, l0, l1, l2, l3, 0, 0, 0]);
        self.phase = phase::TEXT;
        0
    }

    /// Begins the tail, whose prefix is complete.
    #[inline(always)]
    fn begin_tail(&mut self) -> u32 {
        if self.message_length > MAX_TAIL {
            self.lose_messages();
            return self.end_of_part();
        }
        if self.text != 0 {
            // The bits that are still needed, six in each character.
            let have = match self.text >> PLACE & 3 {
                1 => 6,
                2 => 4,
                3 => 2,
                _ => 0,
            };
            self.message_length = (8 * self.message_length + 5).saturating_sub(have) / 6;
        }
        self.message_left = self.message_length;
        self.phase = if self.message_left == 0 { phase::SKIP } else { phase::TAIL };
        event::TAIL | self.end_of_part()
    }

    /// Takes the code of an error. All of it must be in one frame; what follows is skipped.
    #[inline(always)]
    fn took_error(&mut self, n: u32) -> u32 {
        self.prefix_have += n;
        if self.prefix_have < ERROR_LENGTH && self.left > 0 {
            return 0;
        }
        let is_whole = self.prefix_have == ERROR_LENGTH;
        self.prefix_have = 0;
        self.message_length = if is_whole { self.code_of_error() } else { 0 };
        self.lose_messages();
        let found = if self.message_length == 0 { 0 } else { event::TAIL };
        found | self.end_of_part()
    }

    /// The number of the code of an error, by its first six letters; 0 if it is none.
    ///
    /// Source: "Error Codes" in the specification of the Connect protocol.
    #[inline(always)]
    const fn code_of_error(&self) -> u32 {
        const fn word(letters: [u8; 6]) -> u64 {
            let [b0, b1, b2, b3, b4, b5] = letters;
            u64::from_le_bytes([b0, b1, b2, b3, b4, b5, 0, 0])
        }
        const MASK: u64 = word([0xff; 6]);
        const COMPACT: u32 = u32::from_le_bytes(*b"e\":\"");
        const SPACED: u32 = u32::from_le_bytes(*b"e\": ");
        const CODES: [u64; 16] = [
            word(*b"cancel"),
            word(*b"unknow"),
            word(*b"invali"),
            word(*b"deadli"),
            word(*b"not_fo"),
            word(*b"alread"),
            word(*b"permis"),
            word(*b"resour"),
            word(*b"failed"),
            word(*b"aborte"),
            word(*b"out_of"),
            word(*b"unimpl"),
            word(*b"intern"),
            word(*b"unavai"),
            word(*b"data_l"),
            word(*b"unauth"),
        ];
        let b = &self.buffer;
        let [b5, b6, b7, b8, b9] = [
            b[AT_PREFIX + 5],
            b[AT_PREFIX + 6],
            b[AT_PREFIX + 7],
            b[AT_PREFIX + 8],
            b[AT_PREFIX + 9],
        ];
        let [b10, b11, b12, b13, b14, b15] = [
            b[AT_PREFIX + 10],
            b[AT_PREFIX + 11],
            b[AT_PREFIX + 12],
            b[AT_PREFIX + 13],
            b[AT_PREFIX + 14],
            b[AT_PREFIX + 15],
        ];
        let all = u64::from_le_bytes([b9, b10, b11, b12, b13, b14, b15, 0]);
        let letters = match u32::from_le_bytes([b5, b6, b7, b8]) {
            COMPACT => all & MASK,
            SPACED if b9 == b'"' => all >> 8,
            _ => 0,
        };
        match letters {
            of if of == CODES[0] => 1,
            of if of == CODES[1] => 2,
            of if of == CODES[2] => 3,
            of if of == CODES[3] => 4,
            of if of == CODES[4] => 5,
            of if of == CODES[5] => 6,
            of if of == CODES[6] => 7,
            of if of == CODES[7] => 8,
            of if of == CODES[8] => 9,
            of if of == CODES[9] => 10,
            of if of == CODES[10] => 11,
            of if of == CODES[11] => 12,
            of if of == CODES[12] => 13,
            of if of == CODES[13] => 14,
            of if of == CODES[14] => 15,
            of if of == CODES[15] => 16,
            _ => 0,
        }
    }

    /// Decodes a character of text.
    #[inline(always)]
    fn took_character(&mut self, character: u8) -> u32 {
        let value = value_of(character);
        if value > 64 {
            self.lose_messages();
            return self.end_of_part();
        }
        if value == 64 {
            self.text = TEXT;
            return self.end_of_part();
        }
        let place = self.text >> PLACE & 3;
        let all = (self.text & BITS) << 6 | value;
        // The bits after the octet that is complete.
        let after = match place {
            0 => 6,
            1 => 4,
            2 => 2,
            _ => 0,
        };
        self.text = TEXT | ((place + 1) & 3) << PLACE | all & ((1 << after) - 1);
        if place == 0 {
            return self.end_of_part();
        }
        self.took_octet((all >> after) as u8)
    }

    /// Takes an octet of a message that is encoded as text.
    #[inline(always)]
    fn took_octet(&mut self, octet: u8) -> u32 {
        if self.message_left > 0 {
            self.message_left -= 1;
            return self.end_of_text_body();
        }
        let [_, b1, b2, b3, b4] = self.prefix();
        self.buffer[AT_PREFIX] = b1;
        self.buffer[AT_PREFIX + 1] = b2;
        self.buffer[AT_PREFIX + 2] = b3;
        self.buffer[AT_PREFIX + 3] = b4;
        self.buffer[AT_PREFIX + 4] = octet;
        self.prefix_have += 1;
        if self.prefix_have < PREFIX_LENGTH {
            return self.end_of_part();
        }
        self.prefix_have = 0;
        self.message_length = u32::from_be_bytes([b2, b3, b4, octet]);
        if b1 & !COMPRESSED == TRAILERS {
            return self.begin_tail();
        }
        if b1 > 1 {
            self.lose_messages();
            return self.end_of_part();
        }
        self.message_left = self.message_length;
        self.end_of_text_body()
    }

    /// Ends the message if it is complete; otherwise skips whole groups of characters.
    #[inline(always)]
    fn end_of_text_body(&mut self) -> u32 {
        if self.message_left == 0 {
            return event::MESSAGE_END | self.end_of_part();
        }
        let groups = self.message_left / 3;
        if groups > 0 && !self.is_in_group() && self.queue == 0 && self.message_left < 1 << 29 {
            self.text = TEXT | SKIPPING | (self.message_left - 3 * groups) << REST;
            self.message_left = 4 * groups;
            self.phase = phase::TEXT_BODY;
        }
        self.end_of_part()
    }
}

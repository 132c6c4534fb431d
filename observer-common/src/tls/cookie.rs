//! The number that the daemon attaches to each probe of a TLS library: one BPF program serves all probes, and learns from
//! it what the probed place is.
//!
//! | bits | |
//! |---|---|
//! | 0–4 | which [`routine`], and whether the place is a return instruction |
//! | 5–9 | bytes on the stack before the place, in words of eight bytes |
//! | 10–29 | for rustls: how long a record is besides its plaintext (12–17), how many bytes of that are before the plaintext (18–21), whether the type of the content is behind it (22); otherwise where the random is, if that is known: a pointer, if there is one, and an offset |
//! | 30–52 | where the descriptor is, if that is known: BIO, method, number |
//! | 53–63 | 0 |
//!
//! Offsets are in units of four bytes: what they lead to is aligned to that.

/// Functions of TLS libraries, by the meaning of their arguments. See `observer_tls::Routine`.
pub mod routine {
    /// `int SSL_read(SSL *, void *, int)`
    pub const READ: u8 = 0;
    /// `int SSL_read_ex(SSL *, void *, size_t, size_t *)`
    pub const READ_EX: u8 = 1;
    /// `int SSL_write(SSL *, const void *, int)`
    pub const WRITE: u8 = 2;
    /// `int SSL_write_ex(SSL *, const void *, size_t, size_t *)`
    pub const WRITE_EX: u8 = 3;
    /// `int SSL_write_ex2(SSL *, const void *, size_t, uint64_t, size_t *)`
    pub const WRITE_EX2: u8 = 4;
    /// BoringSSL's `tls_seal_record`.
    pub const SEAL: u8 = 5;
    /// `func (*tls.Conn) Read([]byte) (int, error)`
    pub const GO_READ: u8 = 6;
    /// `func (*tls.Conn) Write([]byte) (int, error)`
    pub const GO_WRITE: u8 = 7;
    /// A function of rustls that returns a new `MessageDecrypter` or `MessageEncrypter`.
    pub const MAKE_CIPHER: u8 = 8;
    /// rustls' `MessageDecrypter::decrypt(result, self, message, sequence)`
    pub const DECRYPT: u8 = 9;
    /// rustls' `MessageEncrypter::encrypt(result, self, message, sequence)`
    pub const ENCRYPT: u8 = 10;
}

/// The number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie(u64);

/// A field of the cookie: its first bit, and how many it has.
type Bits = (u32, u32);

const ROUTINE: Bits = (0, 4);
const IS_RETURN: Bits = (4, 1);
const PUSHED: Bits = (5, 5);
const HAS_RANDOM: Bits = (10, 1);
const HAS_POINTER: Bits = (11, 1);
const POINTER: Bits = (12, 9);
const RANDOM: Bits = (21, 9);
const OVERHEAD: Bits = (12, 6);
const START: Bits = (18, 4);
const HIDES_TYPE: Bits = (22, 1);
const HAS_BIO: Bits = (30, 1);
const READ_BIO: Bits = (31, 8);
const METHOD: Bits = (39, 6);
const NUMBER: Bits = (45, 8);

/// Unit of offsets in an object.
const UNIT: u32 = 4;

/// Unit of bytes on the stack.
const WORD: u32 = 8;

/// Where a library's object has the random of the ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random {
    /// Offset of a pointer to what has it; `None` if the object has it itself.
    pub pointer: Option<u32>,
    /// Its offset there.
    pub offset: u32,
}

/// What a record has besides its plaintext, where a routine gets all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// How many bytes that are.
    pub overhead: u32,
    /// How many of them are before the plaintext.
    pub start: u32,
    /// Whether the byte behind the plaintext is the type of the content, as in TLS 1.3.
    pub hides_type: bool,
}

/// Where a library's object has the file descriptor of its socket: `object→read_bio→number`, if `object→read_bio→
/// method→type` is [`Bio::SOCKET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bio {
    /// Offset of the pointer to the `BIO`.
    pub read_bio: u32,
    /// Offset in it of the pointer to its method.
    pub method: u32,
    /// Offset in it of the descriptor, which has 32 bits.
    pub number: u32,
}

impl Bio {
    /// `BIO_TYPE_SOCKET`: the first 32 bits of the method.
    pub const SOCKET: u32 = 0x0505;
}

impl Cookie {
    /// Of a place in one of the [`routine`]s: its start, behind instructions that put so many bytes on the stack.
    /// `None` if there are more than fit.
    #[inline(always)]
    pub const fn entry(routine: u8, pushed: u32) -> Option<Self> {
        match Self(0).with(ROUTINE, routine as u32, 1) {
            Some(cookie) => cookie.with(PUSHED, pushed, WORD),
            None => None,
        }
    }

    /// Of a return instruction in one of the [`routine`]s.
    #[inline(always)]
    pub const fn of_return(routine: u8) -> Option<Self> {
        match Self(0).with(ROUTINE, routine as u32, 1) {
            Some(cookie) => cookie.with(IS_RETURN, 1, 1),
            None => None,
        }
    }

    /// With the place of the random. `None` if an offset does not fit.
    pub fn with_random(self, random: Random) -> Option<Self> {
        let with = self.with(HAS_RANDOM, 1, 1)?.with(RANDOM, random.offset, UNIT)?;
        match random.pointer {
            Some(pointer) => with.with(HAS_POINTER, 1, 1)?.with(POINTER, pointer, UNIT),
            None => Some(with),
        }
    }

    /// With what a record has besides its plaintext. `None` if that does not fit.
    pub fn with_sealed(self, sealed: Sealed) -> Option<Self> {
        self.with(OVERHEAD, sealed.overhead, 1)?.with(START, sealed.start, 1)?.with(
            HIDES_TYPE,
            u32::from(sealed.hides_type),
            1,
        )
    }

    /// With the place of the descriptor. `None` if an offset does not fit.
    pub fn with_bio(self, bio: Bio) -> Option<Self> {
        self.with(HAS_BIO, 1, 1)?
            .with(READ_BIO, bio.read_bio, UNIT)?
            .with(METHOD, bio.method, UNIT)?
            .with(NUMBER, bio.number, UNIT)
    }

    #[inline(always)]
    const fn with(self, (at, bits): Bits, value: u32, unit: u32) -> Option<Self> {
        let count = value / unit;
        if !value.is_multiple_of(unit) || count >> bits != 0 {
            return None;
        }
        Some(Self(self.0 | (count as u64) << at))
    }

    #[inline(always)]
    const fn get(self, (at, bits): Bits) -> u32 {
        (self.0 >> at) as u32 & ((1 << bits) - 1)
    }

    /// The number that a probe is attached with.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The cookie of a probe.
    #[inline(always)]
    pub const fn of_number(number: u64) -> Self {
        Self(number)
    }

    /// One of the [`routine`]s.
    #[inline(always)]
    pub const fn routine(self) -> u8 {
        self.get(ROUTINE) as u8
    }

    /// Whether the place is a return instruction.
    #[inline(always)]
    pub const fn is_return(self) -> bool {
        self.get(IS_RETURN) != 0
    }

    /// How many bytes the function has put on the stack so far.
    #[inline(always)]
    pub const fn pushed(self) -> u32 {
        self.get(PUSHED) * WORD
    }

    /// Where the object has the random, if that is known.
    #[inline(always)]
    pub const fn random(self) -> Option<Random> {
        if self.get(HAS_RANDOM) == 0 {
            return None;
        }
        let has_pointer = self.get(HAS_POINTER) != 0;
        let pointer = if has_pointer { Some(self.get(POINTER) * UNIT) } else { None };
        Some(Random { pointer, offset: self.get(RANDOM) * UNIT })
    }

    /// What a record has besides its plaintext, for the routines of rustls.
    #[inline(always)]
    pub const fn sealed(self) -> Sealed {
        Sealed {
            overhead: self.get(OVERHEAD),
            start: self.get(START),
            hides_type: self.get(HIDES_TYPE) != 0,
        }
    }

    /// Where the object has the descriptor, if that is known.
    #[inline(always)]
    pub const fn bio(self) -> Option<Bio> {
        if self.get(HAS_BIO) == 0 {
            return None;
        }
        Some(Bio {
            read_bio: self.get(READ_BIO) * UNIT,
            method: self.get(METHOD) * UNIT,
            number: self.get(NUMBER) * UNIT,
        })
    }

    /// Whether it is a routine of Go: its caller is a goroutine, not a thread.
    #[inline(always)]
    pub const fn is_go(self) -> bool {
        matches!(self.routine(), routine::GO_READ | routine::GO_WRITE)
    }

    /// Whether it is a routine of rustls: the socket of its object shows only as that is made.
    #[inline(always)]
    pub const fn is_rustls(self) -> bool {
        matches!(self.routine(), routine::MAKE_CIPHER | routine::DECRYPT | routine::ENCRYPT)
    }

    /// Whether the routine returns plaintext that was received.
    #[inline(always)]
    pub const fn is_read(self) -> bool {
        matches!(
            self.routine(),
            routine::READ | routine::READ_EX | routine::GO_READ | routine::DECRYPT
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Bio, Cookie, Random, Sealed, routine};

    #[test]
    fn has_what_it_is_made_of() {
        let random = Random { pointer: Some(0x30), offset: 0x188 };
        let bio = Bio { read_bio: 0x50, method: 8, number: 0x38 };
        let cookie = Cookie::entry(routine::SEAL, 31 * 8).unwrap();
        let cookie = cookie.with_random(random).unwrap().with_bio(bio).unwrap();
        let cookie = Cookie::of_number(cookie.number());
        assert_eq!((cookie.routine(), cookie.is_return()), (routine::SEAL, false));
        assert_eq!(cookie.pushed(), 31 * 8);
        assert_eq!((cookie.random(), cookie.bio()), (Some(random), Some(bio)));
        assert!(!cookie.is_go() && !cookie.is_read());
    }

    #[test]
    fn has_nothing_else() {
        let cookie = Cookie::of_return(routine::GO_READ).unwrap();
        assert!(cookie.is_return() && cookie.is_go() && cookie.is_read());
        assert_eq!((cookie.random(), cookie.bio(), cookie.pushed()), (None, None, 0));
        let cookie = cookie.with_random(Random { pointer: None, offset: 0 }).unwrap();
        assert_eq!(cookie.random(), Some(Random { pointer: None, offset: 0 }));
    }

    #[test]
    fn has_what_a_record_has_besides_its_plaintext() {
        let sealed = Sealed { overhead: 24, start: 8, hides_type: true };
        let cookie = Cookie::entry(routine::DECRYPT, 8).unwrap().with_sealed(sealed).unwrap();
        assert_eq!((cookie.sealed(), cookie.pushed()), (sealed, 8));
        assert_eq!((cookie.random(), cookie.bio()), (None, None));
        assert!(cookie.is_rustls() && cookie.is_read());
        assert_eq!(cookie.with_sealed(Sealed { overhead: 64, ..sealed }), None);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let cookie = Cookie::entry(routine::READ, 0).unwrap();
        assert_eq!(Cookie::entry(routine::READ, 32 * 8), None);
        assert_eq!(Cookie::entry(routine::READ, 4), None);
        assert_eq!(cookie.with_random(Random { pointer: None, offset: 0x7fc + 4 }), None);
        assert_eq!(cookie.with_random(Random { pointer: None, offset: 2 }), None);
        assert!(cookie.with_random(Random { pointer: Some(0x7fc), offset: 0x7fc }).is_some());
        assert_eq!(cookie.with_bio(Bio { read_bio: 0x10, method: 0x100, number: 0 }), None);
    }
}

//! What a cipher suite adds to the content of each record.
//!
//! | version | cipher | besides the content, in bytes | |
//! |---|---|---|---|
//! | 1.3 | all but CCM_8 | 16 (tag) + 1 (the type of the content) | RFC 8446 §5.2 |
//! | 1.2 | GCM, CCM | 8 (explicit nonce) + 16 (tag) | RFC 5288 §3, RFC 6655 §3 |
//! | 1.2 | CCM_8 | 8 (explicit nonce) + 8 (tag) | RFC 6655 §4 |
//! | 1.2 | ChaCha20-Poly1305 | 16 (tag) | RFC 7905 §2 |
//! | 1.2 | CBC | as many as fill a block: not known | RFC 5246 §6.2.3.2 |
//!
//! HTTP/2 forbids all but the AEAD suites (RFC 9113 §9.2.2). A suite that is not in the table is not known.

/// TLS 1.2, as hellos have it.
const TLS_1_2: u16 = 0x0303;

/// TLS 1.3, as hellos have it.
const TLS_1_3: u16 = 0x0304;

/// What the suites of TLS 1.3 add, but for CCM_8.
pub(super) const OVERHEAD_1_3: u32 = 17;

/// TLS_NULL_WITH_NULL_NULL (RFC 5246 §A.5).
const NO_SUITE: u16 = 0;

/// Version and suite of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Cipher {
    version: u16,
    suite: u16,
}

impl Cipher {
    /// Not chosen yet.
    pub const UNKNOWN: Self = Self { version: 0, suite: NO_SUITE };

    /// With this version.
    #[inline(always)]
    pub(super) const fn with_version(self, version: u16) -> Self {
        Self { version, ..self }
    }

    /// With this suite. Content that is compressed is of no known length.
    #[inline(always)]
    pub(super) const fn with_suite(self, suite: u16, compression: u8) -> Self {
        Self { suite: if compression == 0 { suite } else { NO_SUITE }, ..self }
    }

    /// Of a connection whose hellos were not seen, by how many bytes its records are longer than the plaintext in them:
    /// one of the suites that add so many. `None` if there is no such suite, or if they differ in more than that.
    #[inline(always)]
    pub const fn of_overhead(overhead: u32) -> Option<Self> {
        let (version, suite) = match overhead {
            // TLS_AES_128_GCM_SHA256
            OVERHEAD_1_3 => (TLS_1_3, 0x1301),
            // TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            24 => (TLS_1_2, 0xc02f),
            // TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
            16 => (TLS_1_2, 0xcca8),
            _ => return None,
        };
        Some(Self { version, suite })
    }

    /// Whether the server has chosen.
    #[inline(always)]
    pub const fn is_known(self) -> bool {
        self.version != 0
    }

    /// How many bytes longer each record of application data is than its content; `None` if they differ or if that is not
    /// known.
    #[inline(always)]
    pub const fn overhead(self) -> Option<u32> {
        match (self.version, self.suite) {
            // AES-GCM, ChaCha20-Poly1305, AES-CCM (RFC 8446 §B.4).
            (TLS_1_3, 0x1301..=0x1304) => Some(OVERHEAD_1_3),
            // AES-GCM (RFC 5288, 5289, 5487, 8442), AES-CCM (RFC 6655, 7251).
            (
                TLS_1_2,
                0x009c..=0x00ad
                | 0xc02b..=0xc032
                | 0xd001..=0xd002
                | 0xc09c..=0xc09f
                | 0xc0a4..=0xc0a7
                | 0xc0ac..=0xc0ad,
            ) => Some(24),
            // ChaCha20-Poly1305 (RFC 7905), AES-CCM_8 (RFC 6655, 7251).
            (TLS_1_2, 0xcca8..=0xccae | 0xc0a0..=0xc0a3 | 0xc0a8..=0xc0ab | 0xc0ae..=0xc0af) => {
                Some(16)
            }
            _ => None,
        }
    }

    /// How much content a Finished of TLS 1.3 has: a header, and a hash that the suite chooses (RFC 8446 §4.4.4, §B.4).
    #[inline(always)]
    pub const fn finished(self) -> u32 {
        const HEADER: u32 = 4;
        HEADER + if self.suite == 0x1302 { 48 } else { 32 }
    }

    /// Whether encrypted records all say that they are application data, whatever they carry (RFC 8446 §5.2).
    #[inline(always)]
    pub const fn hides_types(self) -> bool {
        self.version == TLS_1_3
    }
}

//! The names that tell OpenSSL and BoringSSL, which share most of their interface.

use crate::elf::{Elf, Symbol};

/// What the symbol tables say about functions of OpenSSL and BoringSSL; two symbols of a name if there are more.
#[derive(Default)]
pub(crate) struct Symbols {
    pub(crate) read: Vec<Symbol>,
    pub(crate) read_ex: Vec<Symbol>,
    pub(crate) write: Vec<Symbol>,
    pub(crate) write_ex: Vec<Symbol>,
    pub(crate) write_ex2: Vec<Symbol>,
    pub(crate) client_random: Vec<Symbol>,
    pub(crate) rbio: Vec<Symbol>,
    /// Only BoringSSL has it: GREASE (RFC 8701).
    grease: Vec<Symbol>,
    /// BoringSSL's internal function for a record.
    pub(crate) seal_record: Vec<Symbol>,
}

impl Symbols {
    pub(crate) fn read(elf: &Elf) -> Self {
        let mut found = elf
            .functions_named(&[
                b"SSL_read",
                b"SSL_read_ex",
                b"SSL_write",
                b"SSL_write_ex",
                b"SSL_write_ex2",
                b"SSL_get_client_random",
                b"SSL_get_rbio",
                b"SSL_CTX_set_grease_enabled",
                // bssl::tls_seal_record(ssl_st*, unsigned char*, unsigned long*, unsigned long, unsigned char,
                // unsigned char const*, unsigned long). With other arguments it would be another function.
                b"_ZN4bssl15tls_seal_recordEP6ssl_stPhPmmhPKhm",
            ])
            .into_iter();
        let mut next = || found.next().unwrap_or_default();
        Self {
            read: next(),
            read_ex: next(),
            write: next(),
            write_ex: next(),
            write_ex2: next(),
            client_random: next(),
            rbio: next(),
            grease: next(),
            seal_record: next(),
        }
    }

    pub(crate) fn is_openssl(&self) -> bool {
        !self.is_boringssl() && !self.read.is_empty() && !self.read_ex.is_empty()
    }

    pub(crate) fn is_boringssl(&self) -> bool {
        !self.grease.is_empty() || !self.seal_record.is_empty()
    }
}

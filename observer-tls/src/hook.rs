//! Places for probes.

use std::ops::Range;

use crate::code::{Function, Instruction};
use crate::elf::{Elf, Symbol};
use crate::functions::Functions;
use crate::machine::Register;
use crate::refusal::Refusal;

/// The most parts of a function that lie elsewhere.
const MAX_PARTS: usize = 16;

/// A place in a file for a probe.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    /// Where in the file the instruction is.
    pub offset: u64,
    /// The instruction's bytes. Whoever places the probe compares them first.
    pub bytes: Vec<u8>,
    /// Which function it is in.
    pub routine: Routine,
    /// Which side of the function it is.
    pub place: Place,
    /// What the kernel does with the instruction, which decides the cost of a hit.
    pub stepping: Stepping,
}

/// Which side of a function a probe is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Its start: each call passes it once, and the registers of the arguments still have them.
    Entry {
        /// How many bytes the function has put on the stack so far, so `pushed` is to be added to the stack
        /// pointer where an argument on the stack is read.
        pushed: u32,
    },
    /// One of its return instructions: the register of the result has it. Every call that returns passes one.
    Return,
}

/// What the kernel does with the instruction under a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stepping {
    /// The kernel does what the instruction does. Cheap: about a microsecond, most of it the trap.
    Emulated,
    /// The process runs a copy of the instruction, and traps again behind it: about five times as much.
    SingleStepped,
}

/// A function of a TLS library, and where its arguments are.
///
/// | arguments | x86-64 | aarch64 |
/// |---|---|---|
/// | of C and of Rust, by number from 0 | rdi, rsi, rdx, rcx, r8, r9, then the stack | x0 to x7 |
/// | their result; an `int` has 32 bits | rax | x0 |
/// | of Go, by number from 0 | rax, rbx, rcx | x0, x1, x2 |
/// | its result | rax | x0 |
/// | the goroutine | r14 | x28 |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Routine {
    /// `int SSL_read(SSL *, void *buffer, int room)`: returns how many bytes it has read, if more than 0.
    SslRead,
    /// `int SSL_read_ex(SSL *, void *buffer, size_t room, size_t *read)`: has read something if it returns 1.
    SslReadEx,
    /// `int SSL_write(SSL *, const void *buffer, int length)`: returns how many bytes it has taken, if more than 0.
    SslWrite,
    /// `int SSL_write_ex(SSL *, const void *buffer, size_t length, size_t *taken)`: has taken something if it
    /// returns 1.
    SslWriteEx,
    /// `int SSL_write_ex2(SSL *, const void *buffer, size_t length, uint64_t flags, size_t *taken)`, since 3.3: has
    /// taken something if it returns 1. `SSL_write_ex` calls it.
    SslWriteEx2,
    /// `bool bssl::tls_seal_record(SSL *, uint8_t *out, size_t *out_length, size_t room, uint8_t type,
    /// const uint8_t *in, size_t in_length)`: writes one record. The last argument is on the stack on x86-64, behind
    /// the return address. Type 23 is application data.
    SealRecord,
    /// `func (*tls.Conn) Read(buffer []byte) (int, error)`: arguments are the connection, the buffer's address and
    /// its length.
    GoRead,
    /// `func (*tls.Conn) Write(bytes []byte) (int, error)`: as for reading.
    GoWrite,
    /// A function of rustls that returns a new `MessageDecrypter` or `MessageEncrypter`: its address is in the first of the registers of the
    /// result. It is called while the bytes that were read last are processed.
    MakeCipher,
    /// rustls' `MessageDecrypter::decrypt(result, self, message, sequence)`.
    ///
    /// The message starts with the address and the length of a record's payload, which is decrypted in place. The
    /// plaintext has `overhead` bytes less than the payload. In TLS 1.3, the type of the content is behind it.
    Decrypt {
        /// The version of TLS.
        version: Tls,
        /// How many bytes of a payload are no plaintext.
        overhead: u8,
        /// How many of these are before the plaintext.
        start: u8,
    },
    /// rustls' `MessageEncrypter::encrypt(result, self, message, sequence)`.
    ///
    /// The message is 0, address, length; or the address of pairs of address and length, their number, and the
    /// first and last byte of all of these that are sent. Its type is at 32: 3 is application data.
    Encrypt {
        /// The version of TLS.
        version: Tls,
        /// How many bytes of a payload are no plaintext.
        overhead: u8,
    },
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tls {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl Hook {
    fn new(elf: &Elf, at: &Instruction, routine: Routine, place: Place) -> Result<Self, Refusal> {
        let bytes = elf.code(at.address, u64::from(at.length)).ok_or(Refusal::Extent)?;
        let offset = elf.offset_of(at.address).ok_or(Refusal::Extent)?;
        let stepping = if at.is_emulated { Stepping::Emulated } else { Stepping::SingleStepped };
        Ok(Self { offset, bytes: bytes.to_vec(), routine, place, stepping })
    }

    /// The entry of a function, at or behind its first instruction. `arguments` are the registers that are read.
    pub(crate) fn entry(
        elf: &Elf,
        function: &Function,
        routine: Routine,
        arguments: &[Register],
    ) -> Result<Self, Refusal> {
        let (instruction, pushed) = function.entry(arguments)?;
        Self::new(elf, &instruction, routine, Place::Entry { pushed })
    }

    /// A given instruction as the entry of a function.
    pub(crate) fn entry_at(
        elf: &Elf,
        instruction: &Instruction,
        routine: Routine,
    ) -> Result<Self, Refusal> {
        Self::new(elf, instruction, routine, Place::Entry { pushed: 0 })
    }

    /// All return instructions of a function, if it is left by nothing else.
    ///
    /// A jump out of it is no exit if what it leads to does not return: compilers move what ends the process out of the
    /// way, to a part of its own.
    pub(crate) fn returns(
        elf: &Elf,
        functions: Option<&Functions>,
        function: &Function,
        routine: Routine,
    ) -> Result<Vec<Self>, Refusal> {
        let returns = function.returns()?;
        let is_dead_end = |target: &u64| {
            let range = functions.and_then(|functions| functions.at(*target));
            let part = range.and_then(|range| Function::decode(elf, range).ok());
            part.is_some_and(|part| part.is_dead_end_of(&function.range))
        };
        let parts = function.outer_targets();
        if parts.len() > MAX_PARTS || !parts.iter().all(is_dead_end) {
            return Err(Refusal::LeftByJump);
        }
        returns.iter().map(|at| Self::new(elf, at, routine, Place::Return)).collect()
    }

    /// The entry and all return instructions of a function.
    pub(crate) fn both(
        elf: &Elf,
        functions: Option<&Functions>,
        function: &Function,
        routine: Routine,
        arguments: &[Register],
    ) -> Result<Vec<Self>, Refusal> {
        let mut hooks = vec![Self::entry(elf, function, routine, arguments)?];
        hooks.append(&mut Self::returns(elf, functions, function, routine)?);
        Ok(hooks)
    }
}

/// Where a function that a symbol names ends. The symbol and the table of functions must not contradict each other.
pub(crate) fn extent(functions: Option<&Functions>, symbol: Symbol) -> Result<Range<u64>, Refusal> {
    let end = symbol.address.checked_add(symbol.length).ok_or(Refusal::Extent)?;
    let named = (symbol.length > 0).then_some(symbol.address..end);
    let listed = functions.and_then(|functions| functions.at(symbol.address));
    match (named, listed) {
        (Some(named), Some(listed)) if named != listed => Err(Refusal::Extent),
        (named, listed) => listed.or(named).ok_or(Refusal::Extent),
    }
}

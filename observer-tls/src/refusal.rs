//! Why no probe can be placed in a file.

use std::error::Error;
use std::fmt;

/// The reason for which a file, or a library in it, is not probed.
///
/// A refusal costs the connections of that library. A wrong place would cost the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The file does not start with an ELF header.
    NotElf,
    /// The file is not 64-bit little-endian code for x86-64 or aarch64.
    Architecture,
    /// A table of the file points outside of it, or contradicts itself.
    Malformed,
    /// The file has no TLS library that is known.
    NoLibrary,
    /// The file does not say where its functions start and end.
    NoFunctionTable,
    /// A function that must be probed was not found.
    NotFound,
    /// More than one function looks like the one that must be probed.
    Ambiguous,
    /// The sources for the length of a function contradict each other, or there is none.
    Extent,
    /// A function is longer than [`MAX_FUNCTION`](crate::MAX_FUNCTION).
    TooLong,
    /// The instructions of a function do not end where the function does.
    Undecodable,
    /// A function is left by a jump, so its return instructions are not its only exits.
    LeftByJump,
    /// A function jumps to an address in a register: to itself or out of itself.
    IndirectJump,
    /// A function returns by an instruction that the kernel does not probe.
    SignedReturn,
    /// A function has no return instruction.
    NoReturn,
    /// The start of a function is not of the form that the compiler writes.
    Prologue,
    /// The file does not say which version of the library it has.
    NoVersion,
    /// The layout of this version's objects was not checked.
    Version,
    /// The library was not checked on this architecture.
    UncheckedArchitecture,
    /// The code does not use its arguments in the way that the library's known versions do.
    Layout,
}

impl Refusal {
    /// All reasons.
    pub const ALL: [Self; 19] = [
        Self::NotElf,
        Self::Architecture,
        Self::Malformed,
        Self::NoLibrary,
        Self::NoFunctionTable,
        Self::NotFound,
        Self::Ambiguous,
        Self::Extent,
        Self::TooLong,
        Self::Undecodable,
        Self::LeftByJump,
        Self::IndirectJump,
        Self::SignedReturn,
        Self::NoReturn,
        Self::Prologue,
        Self::NoVersion,
        Self::Version,
        Self::UncheckedArchitecture,
        Self::Layout,
    ];

    /// A short name, for a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotElf => "not_elf",
            Self::Architecture => "architecture",
            Self::Malformed => "malformed",
            Self::NoLibrary => "no_library",
            Self::NoFunctionTable => "no_function_table",
            Self::NotFound => "not_found",
            Self::Ambiguous => "ambiguous",
            Self::Extent => "extent",
            Self::TooLong => "too_long",
            Self::Undecodable => "undecodable",
            Self::LeftByJump => "left_by_jump",
            Self::IndirectJump => "indirect_jump",
            Self::SignedReturn => "signed_return",
            Self::NoReturn => "no_return",
            Self::Prologue => "prologue",
            Self::NoVersion => "no_version",
            Self::Version => "version",
            Self::UncheckedArchitecture => "unchecked_architecture",
            Self::Layout => "layout",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotElf => "the file is not an ELF file",
            Self::Architecture => "the file is not 64-bit code for x86-64 or aarch64",
            Self::Malformed => "a table of the ELF file is malformed",
            Self::NoLibrary => "the file has no known TLS library",
            Self::NoFunctionTable => "the file has no table of its functions",
            Self::NotFound => "a function of the library was not found",
            Self::Ambiguous => "several functions look like the same function of the library",
            Self::Extent => "the length of a function is not certain",
            Self::TooLong => "a function is too long",
            Self::Undecodable => "a function does not decode to its end",
            Self::LeftByJump => "a function is left by a jump",
            Self::IndirectJump => "a function jumps to an address in a register",
            Self::SignedReturn => "a function returns by an instruction that cannot be probed",
            Self::NoReturn => "a function does not return",
            Self::Prologue => "a function starts in an unknown way",
            Self::NoVersion => "the file does not contain the library's version",
            Self::Version => "this version of the library is not supported",
            Self::UncheckedArchitecture => "the library is not supported on this architecture",
            Self::Layout => "the library's objects have an unknown layout",
        })
    }
}

impl Error for Refusal {}

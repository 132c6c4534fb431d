//! Where TLS libraries have plaintext: bytes of an ELF file in, places for probes out.
//!
//! A process encrypts before it writes to its socket. To see what it sends, the functions of its TLS library are
//! probed (uprobes), where they are called and where they return. [`locate`] finds these places in a program or a shared
//! library, also in one without symbols, or refuses with a reason.
//!
//! No I/O, no clock, no `unsafe`. Files come from containers and may be hostile: nothing panics, and the same bytes
//! have the same result.
//!
//! # What is found, and how
//!
//! | library | versions | without symbols | module |
//! |---|---|---|---|
//! | OpenSSL | 1.1.1, 3 and later | since 3.0, by the names that errors carry | `openssl` |
//! | BoringSSL | of 2022 and later | by the reasons of errors | `boringssl` |
//! | Go crypto/tls | of Go 1.18 and later | by the runtime's table of functions | `golang` |
//! | rustls | 0.23 | by the places that panics name | `rustls` |
//!
//! Each module explains its method and names its sources. All but rustls are found on x86-64 and aarch64, rustls on
//! x86-64. `cargo run -p observer-tls --example locate -- FILE…` prints what is found in files.
//!
//! # What makes a place certain
//!
//! A probe in the middle of an instruction would crash the process. A probe that some calls pass by would lose
//! bytes. So:
//!
//! - A function's end is known from the file: a symbol's length, the table for unwinding (`.eh_frame`), or Go's
//!   table of functions. If two of them contradict each other, the function is refused.
//! - A function is decoded from its first byte to its last. All its jumps lead to instructions.
//! - Where return instructions are probed, they are the only exits. What the function jumps to outside of itself does
//!   not return (`abort`), and jumps to an address in a register are those of a `switch`, by a table in the file.
//! - A probe behind the entry is passed by each call once, and the registers of the arguments still have them.
//! - Of two functions that lead to each other only one is probed, so that no byte counts twice.
//! - The bytes of a [`Hook`] are to be compared with the file that is probed.
//!
//! There are no return probes of the kernel (`uretprobe`): they replace the return address on the stack, and
//! programs that look at their stack (Go, exceptions, profilers) crash.
//!
//! # Bounds
//!
//! Time is linear in the file's size, beyond a sort of its relocations. Memory besides the file is at most eight times
//! its size if nearly all of it are relocations, and a few MiB for others.
//!
//! | what | at most |
//! |---|---|
//! | segments, sections | 64, 4,096 |
//! | bytes of a function | [`MAX_FUNCTION`] |
//! | bytes of functions that one search decodes | 1 MiB |
//! | places that one search looks at | 16,384 |
//! | steps of one walk through a function | 8,192 |

#![forbid(unsafe_code)]

mod boringssl;
mod bytes;
mod code;
mod elf;
mod functions;
mod getters;
mod golang;
mod hook;
mod imports;
mod library;
mod machine;
mod openssl;
mod references;
mod refusal;
mod rustls;
mod symbols;
#[cfg(test)]
mod tests;

pub use code::MAX_FUNCTION;
pub use elf::BuildId;
pub use hook::{Hook, Place, Routine, Stepping, Tls};
pub use library::{Field, Kind, Layout, Library, Located, SocketBio};
pub use machine::Machine;
pub use refusal::Refusal;

use elf::Elf;
use functions::Functions;
use symbols::Symbols;

/// Finds where to probe the TLS libraries in a file.
///
/// The error is the reason if the file has no library that can be probed: of the first that was refused, or
/// [`Refusal::NoLibrary`].
pub fn locate(file: &[u8]) -> Result<Located, Refusal> {
    let elf = Elf::parse(file)?;
    let functions = Functions::of(&elf);
    let functions = functions.as_ref().map_err(|refusal| *refusal);
    let symbols = Symbols::read(&elf);
    let mut libraries = Vec::new();
    let mut refused = Vec::new();
    let mut add = |kind, result| match result {
        Ok(library) => libraries.push(library),
        Err(refusal) => refused.push((kind, refusal)),
    };
    if let Some(result) = golang::locate(&elf) {
        add(Kind::Go, result);
    }
    if symbols.is_openssl() {
        add(Kind::OpenSsl, openssl::by_symbols(&elf, functions.ok(), &symbols));
    } else if openssl::has_traces(&elf) {
        add(Kind::OpenSsl, functions.and_then(|functions| openssl::stripped(&elf, functions)));
    }
    if symbols.is_boringssl() || boringssl::has_traces(&elf) {
        let none = Symbols::default();
        let symbols = if symbols.is_boringssl() { &symbols } else { &none };
        add(
            Kind::BoringSsl,
            functions.and_then(|functions| boringssl::locate(&elf, functions, symbols)),
        );
    }
    for result in rustls::locate(&elf, functions) {
        add(Kind::Rustls, result);
    }
    match (&*libraries, &*refused) {
        ([], []) => Err(Refusal::NoLibrary),
        ([], [(_, refusal), ..]) => Err(*refusal),
        _ => Ok(Located { machine: elf.machine, libraries, refused }),
    }
}

/// The build id of an ELF file, if it has one.
pub fn build_id(file: &[u8]) -> Option<BuildId<'_>> {
    Elf::parse(file).ok()?.build_id()
}

//! BoringSSL, linked statically: in gRPC's wheels for Python, in netty-tcnative.
//!
//! Two functions are probed: `SSL_read`, and `tls_seal_record`, which writes one record and is called once for each.
//!
//! *With symbols* (netty-tcnative) the symbol table has both.
//!
//! *Stripped* (grpcio) the errors lead to them. `OPENSSL_PUT_ERROR` passes the reason, the name of the source file
//! and the line to `ERR_put_error(library, unused, reason, file, line)`.
//!
//! - `tls_seal_record` is the function of `ssl/tls_record.cc` whose reasons are `OUTPUT_ALIASES_INPUT` and
//!   `BUFFER_TOO_SMALL`.
//! - `SSL_peek` refuses QUIC, and raises nothing else. `SSL_read` calls it with its own arguments, and then takes what
//!   it has read out of the connection's buffer: it writes to the connection's state. `SSL_peek` does not.
//!   Some compilers inline `SSL_peek`. Then both raise the same error in the same line of `ssl/ssl_lib.cc`, and no two
//!   other functions do.
//!
//! *Offsets.* `SSL` has a pointer to its state (`SSL3_STATE`), which starts with the sequence numbers of both
//! directions, `server_random` and `client_random`. That the code uses such a pointer at that offset is checked in both
//! functions. Where `SSL_get_client_random` is exported, it must agree.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;

use crate::code::{Function, Pointer, Source, Walk};
use crate::elf::{Elf, Symbol};
use crate::functions::Functions;
use crate::getters::copied_field;
use crate::hook::{Hook, Routine, extent};
use crate::library::{Field, Kind, Layout, Library};
use crate::machine::Machine;
use crate::references::{for_each_call, functions_that_call, functions_that_refer, names_of_files};
use crate::refusal::Refusal;
use crate::symbols::Symbols;

/// Reasons for errors (`include/openssl/ssl.h`, `err.h`).
const SHOULD_NOT_HAVE_BEEN_CALLED: u64 = 66;
const BUFFER_TOO_SMALL: u64 = 121;
const OUTPUT_ALIASES_INPUT: u64 = 189;

/// Where `SSL` has the pointer to its state, in all versions from 2022 to 2026.
const STATE: i32 = 0x30;
/// Where the state has its fields, in the same versions (`SSL3_STATE` in `ssl/internal.h`).
const READ_SEQUENCE: u32 = 0;
const WRITE_SEQUENCE: u32 = 8;
const CLIENT_RANDOM: u32 = 0x30;

/// The errors that a function raises: reason and line.
type Errors = BTreeSet<(u64, u64)>;

/// If the file has the string that BoringSSL's errors name a file by.
pub(crate) fn has_traces(elf: &Elf) -> bool {
    memmem::find(elf.file, b"ssl/tls_record.cc\0").is_some()
}

/// Probes for a file that has BoringSSL, with or without symbols.
pub(crate) fn locate(
    elf: &Elf,
    functions: &Functions,
    symbols: &Symbols,
) -> Result<Library, Refusal> {
    let named = |found: &[Symbol]| match found {
        [] => Ok(None),
        [symbol] => Function::decode(elf, extent(Some(functions), *symbol)?).map(Some),
        _ => Err(Refusal::Ambiguous),
    };
    let read = match named(&symbols.read)? {
        Some(function) => function,
        None => stripped_read(elf, functions)?,
    };
    let seal = match named(&symbols.seal_record)? {
        Some(function) => function,
        None => stripped_seal(elf, functions)?,
    };
    let seal_walk = Walk::over(&seal);
    if !has_state(&Walk::over(&read)) || !has_state(&seal_walk) || !is_seal(elf, &seal_walk) {
        return Err(Refusal::Layout);
    }
    let state = Some(STATE as u32);
    if let Some(getter) = named(&symbols.client_random)? {
        let expected = Field { pointer: state, offset: CLIENT_RANDOM };
        if copied_field(&Walk::over(&getter)) != Some(expected) {
            return Err(Refusal::Layout);
        }
    }
    let arguments = |count| elf.machine.first_arguments(count);
    let mut hooks = Hook::both(elf, Some(functions), &read, Routine::SslRead, arguments(3))?;
    hooks.push(Hook::entry(elf, &seal, Routine::SealRecord, arguments(7))?);
    let field = |offset| Field { pointer: state, offset };
    let layout = Layout::BoringSsl {
        client_random: field(CLIENT_RANDOM),
        read_sequence: field(READ_SEQUENCE),
        write_sequence: field(WRITE_SEQUENCE),
    };
    Ok(Library { kind: Kind::BoringSsl, version: None, layout, hooks })
}

/// If the function follows the pointer to the state in its first argument.
fn has_state(walk: &Walk) -> bool {
    walk.touched.iter().any(|touch| touch.pointer.source == Source::Field(0, STATE))
}

/// If the last argument is the length of what is written, where it is expected. A `Span` in its place would take two
/// words of the stack.
fn is_seal(elf: &Elf, walk: &Walk) -> bool {
    let on_stack = |offset| walk.touches(Pointer { source: Source::Stack, offset });
    match elf.machine {
        Machine::X86_64 => on_stack(0) && !on_stack(8),
        Machine::Aarch64 => !on_stack(0) && !on_stack(8),
    }
}

fn stripped_seal(elf: &Elf, functions: &Functions) -> Result<Function, Refusal> {
    let errors = errors_of(elf, functions, b"ssl/tls_record.cc\0");
    let is_it = |errors: &Errors| {
        let has = |reason| errors.iter().any(|(it, _)| *it == reason);
        has(OUTPUT_ALIASES_INPUT) && has(BUFFER_TOO_SMALL)
    };
    only(errors.into_iter().filter(|(_, errors)| is_it(errors)).map(|(function, _)| function))
}

fn stripped_read(elf: &Elf, functions: &Functions) -> Result<Function, Refusal> {
    let mut errors = errors_of(elf, functions, b"ssl/ssl_lib.cc\0");
    errors.retain(|(_, errors)| {
        errors.len() == 1 && errors.iter().all(|(it, _)| *it == SHOULD_NOT_HAVE_BEEN_CALLED)
    });
    let mut counts = BTreeMap::new();
    for (_, line) in errors.iter().flat_map(|(_, errors)| errors) {
        *counts.entry(*line).or_insert(0) += 1;
    }
    counts.retain(|_, count| *count == 2);
    match (counts.pop_first(), counts.is_empty()) {
        (None, _) => read_that_calls_peek(elf, functions, &errors),
        (Some((line, _)), true) => {
            errors.retain(|(_, errors)| errors.iter().any(|(_, it)| *it == line));
            only(errors.into_iter().map(|(function, _)| function).filter(writes_to_object))
        }
        (Some(_), false) => Err(Refusal::Ambiguous),
    }
}

/// `SSL_read`, if it calls one of these functions: `SSL_peek` is among them.
fn read_that_calls_peek(
    elf: &Elf,
    functions: &Functions,
    candidates: &[(Function, Errors)],
) -> Result<Function, Refusal> {
    let peeks: Vec<u64> = candidates.iter().map(|(function, _)| function.range.start).collect();
    let found = functions_that_call(elf, functions, &peeks).into_iter();
    only(found.filter(|function| {
        let forwarded_to = Walk::over(function).forwarded_to;
        peeks.iter().any(|peek| forwarded_to.contains(peek)) && writes_to_object(function)
    }))
}

/// If the function writes to the connection's state.
fn writes_to_object(function: &Function) -> bool {
    let is_state = |source| source == Source::Field(0, STATE);
    let walk = Walk::over(function);
    walk.touched.iter().any(|touch| touch.is_write && is_state(touch.pointer.source))
}

fn only(mut found: impl Iterator<Item = Function>) -> Result<Function, Refusal> {
    let function = found.next().ok_or(Refusal::NotFound)?;
    if found.next().is_some() { Err(Refusal::Ambiguous) } else { Ok(function) }
}

/// The functions that raise errors of this source file, with the reason and the line of each.
fn errors_of(elf: &Elf, functions: &Functions, file: &[u8]) -> Vec<(Function, Errors)> {
    let names = names_of_files(elf, file);
    let found = functions_that_refer(elf, functions, &names).into_iter();
    found
        .map(|function| {
            let mut errors = Errors::new();
            for_each_call(&function, |site| {
                if site.argument(3).is_some_and(|file| names.contains(&file)) {
                    errors.extend(site.argument(2).zip(site.argument(4)));
                }
            });
            (function, errors)
        })
        .collect()
}

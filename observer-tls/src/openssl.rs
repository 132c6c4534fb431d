//! OpenSSL 1.1.1 and later, dynamic or static.
//!
//! *By symbols.* `libssl.so` exports its functions, and so does a program that lets its own extensions use its
//! OpenSSL (Node.js). The exported `SSL_read` and its three siblings each do their work in an internal function and
//! return from a return instruction of their own. Since 3.3, `SSL_write_ex` jumps to `SSL_write_ex2`, and that is probed.
//! Debian's 3.5 jumps by name, through the table of imports.
//!
//! *Stripped.* Since 3.0 a function that raises an error passes its own name (`ERR_set_debug(file, line, function)`).
//! `SSL_read` and `SSL_write` raise one if the length is negative. So the function that passes the names of
//! `ssl/ssl_lib.c` and of `SSL_read` is `SSL_read`. The `_ex` forms raise nothing. They are not found, and what is
//! sent and received through them is a gap.
//!
//! *Offsets.* The fields of `SSL` differ between versions and builds. They are read from the getters
//! `SSL_get_client_random` and `SSL_get_rbio`, where the file exports these: the place that the first one copies, and
//! the word that the second one returns. The fields of `BIO` have been the same in all of 1.1 and in all of 3
//! (`crypto/bio/bio_local.h`).

use memchr::memmem;

use crate::code::{Function, Walk};
use crate::elf::{Elf, Symbol};
use crate::functions::Functions;
use crate::getters::{copied_field, returned_field};
use crate::hook::{Hook, Routine, extent};
use crate::imports::called_through;
use crate::library::{Kind, Layout, Library, SocketBio};
use crate::references::{MAX_STRINGS, for_each_call, functions_that_refer, names_of_files};
use crate::refusal::Refusal;
use crate::symbols::Symbols;

/// The functions that are probed.
const NAMES: [&[u8]; 5] =
    [b"SSL_read", b"SSL_read_ex", b"SSL_write", b"SSL_write_ex", b"SSL_write_ex2"];

/// Probes for a file whose symbols name OpenSSL's functions.
pub(crate) fn by_symbols(
    elf: &Elf,
    functions: Option<&Functions>,
    symbols: &Symbols,
) -> Result<Library, Refusal> {
    // In the order of `NAMES`.
    let routines = [
        (&symbols.read, Routine::SslRead),
        (&symbols.read_ex, Routine::SslReadEx),
        (&symbols.write, Routine::SslWrite),
        (&symbols.write_ex, Routine::SslWriteEx),
        (&symbols.write_ex2, Routine::SslWriteEx2),
    ];
    let mut found = Vec::new();
    for (name, (symbols, routine)) in routines.into_iter().enumerate() {
        if let Some(symbol) = one(symbols)? {
            found.push((Function::decode(elf, extent(functions, symbol)?)?, name, routine));
        }
    }
    let slots = elf.slots_of(&NAMES)?;
    let mut hooks = Vec::new();
    for (function, name, routine) in &found {
        let called = called_through(elf, function, &slots);
        // It is another file's function, or this function itself in another file.
        if called.iter().any(|it| it == name || !found.iter().any(|(_, other, _)| other == it)) {
            return Err(Refusal::Ambiguous);
        }
        // What one of them does through another one is seen there.
        let passes_on = |(other, other_name, _): &(Function, usize, Routine)| {
            let start = other.range.start;
            let is_called = || function.targets().any(|target| target == start);
            called.contains(other_name) || (start != function.range.start && is_called())
        };
        if !found.iter().any(passes_on) {
            hooks.append(&mut hooks_in(elf, functions, function, *routine)?);
        }
    }
    let version = version(elf);
    let getter = |found: &[Symbol]| {
        let symbol = one(found).ok().flatten()?;
        Some(Walk::over(&Function::decode(elf, extent(functions, symbol).ok()?).ok()?))
    };
    let client_random = getter(&symbols.client_random).and_then(|walk| copied_field(&walk));
    let read_bio = getter(&symbols.rbio).and_then(|walk| returned_field(&walk));
    let socket = read_bio.and_then(|field| socket_bio(field, version.as_deref()?));
    let layout = Layout::OpenSsl { client_random, socket };
    Ok(Library { kind: Kind::OpenSsl, version, layout, hooks })
}

/// The symbol of a name, if there is one.
fn one(found: &[Symbol]) -> Result<Option<Symbol>, Refusal> {
    match found {
        [] => Ok(None),
        [symbol] => Ok(Some(*symbol)),
        _ => Err(Refusal::Ambiguous),
    }
}

fn hooks_in(
    elf: &Elf,
    functions: Option<&Functions>,
    function: &Function,
    routine: Routine,
) -> Result<Vec<Hook>, Refusal> {
    let count = match routine {
        Routine::SslReadEx | Routine::SslWriteEx => 4,
        Routine::SslWriteEx2 => 5,
        _ => 3,
    };
    let arguments = elf.machine.first_arguments(count);
    Hook::both(elf, functions, function, routine, arguments)
}

/// If the file has the string that OpenSSL's errors name its file by.
pub(crate) fn has_traces(elf: &Elf) -> bool {
    memmem::find(elf.file, b"ssl/ssl_lib.c\0").is_some()
}

/// Probes for a file without symbols.
pub(crate) fn stripped(elf: &Elf, functions: &Functions) -> Result<Library, Refusal> {
    let files = names_of_files(elf, b"ssl/ssl_lib.c\0");
    let mut hooks = Vec::new();
    for (name, routine) in
        [(&b"SSL_read\0"[..], Routine::SslRead), (&b"SSL_write\0"[..], Routine::SslWrite)]
    {
        let names = elf.find(name, MAX_STRINGS);
        let mut found = functions_that_refer(elf, functions, &names);
        found.retain(|function| raises_error_as(function, &files, &names));
        let [function] = &*found else {
            return Err(if found.is_empty() { Refusal::NotFound } else { Refusal::Ambiguous });
        };
        hooks.append(&mut hooks_in(elf, Some(functions), function, routine)?);
    }
    let layout = Layout::OpenSsl { client_random: None, socket: None };
    Ok(Library { kind: Kind::OpenSsl, version: version(elf), layout, hooks })
}

/// If the function calls `ERR_set_debug(file, line, function)` with these strings.
fn raises_error_as(function: &Function, files: &[u64], names: &[u64]) -> bool {
    let has = |strings: &[u64], argument: Option<u64>| {
        argument.is_some_and(|argument| strings.contains(&argument))
    };
    let mut is_found = false;
    for_each_call(function, |site| {
        is_found |= has(files, site.argument(0)) && has(names, site.argument(2));
    });
    is_found
}

fn socket_bio(read_bio: u32, version: &str) -> Option<SocketBio> {
    match version.split('.').next()? {
        "1" => Some(SocketBio { read_bio, method: 0, number: 0x30 }),
        "3" => Some(SocketBio { read_bio, method: 8, number: 0x38 }),
        _ => None,
    }
}

/// The version: from "OpenSSL 3.0.19 27 Jan 2026", which libcrypto has, or from the versions of libssl's symbols.
fn version(elf: &Elf) -> Option<String> {
    const PREFIX: &[u8] = b"OpenSSL ";
    const MAX_TEXTS: usize = 1 << 14;
    let texts = memmem::find_iter(elf.file, PREFIX).take(MAX_TEXTS);
    let mut versions = texts.filter_map(|at| version_in(elf.file.get(at + PREFIX.len()..)?));
    versions.next().or_else(|| {
        let (_, strings) = elf.section(".dynstr")?;
        // The newest first: a later version has the symbols of earlier ones, too.
        [("4", &b"\0OPENSSL_4."[..]), ("3", b"\0OPENSSL_3."), ("1.1", b"\0OPENSSL_1_1_")]
            .iter()
            .find(|(_, name)| memmem::find(strings, name).is_some())
            .map(|(version, _)| (*version).to_owned())
    })
}

/// A version such as 1.1.1w, 1.1.1v+quic or 3.0.19, if it is followed by a date, whose day may be of one digit.
fn version_in(text: &[u8]) -> Option<String> {
    const MAX_VERSION: usize = 16;
    let length = text.iter().take(MAX_VERSION).position(|byte| *byte == b' ')?;
    let (version, date) = text.split_at_checked(length)?;
    let begins_with_digit =
        |text: &[u8]| text.trim_ascii_start().first().is_some_and(u8::is_ascii_digit);
    let is_version = version.split(|byte| *byte == b'.').count() == 3
        && version.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(byte));
    (begins_with_digit(version) && begins_with_digit(date) && is_version)
        .then(|| String::from_utf8_lossy(version).into_owned())
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn versions_are_those_before_a_date() {
        for (text, version) in [
            ("3.0.19 27 Jan 2026", Some("3.0.19")),
            ("1.1.1w  11 Sep 2023", Some("1.1.1w")),
            ("1.1.1v+quic  1 Aug 2023", Some("1.1.1v+quic")),
            ("3.6.0-beta1 16 Sep 2025", Some("3.6.0-beta1")),
            ("3.0.19", None),
            ("3.0 27 Jan 2026", None),
            ("library of 2026", None),
            ("3.0.19 or later", None),
            ("3.0.19 ", None),
            ("", None),
        ] {
            assert_eq!(version_in(text.as_bytes()).as_deref(), version, "{text}");
        }
    }
}

//! rustls 0.23 with ring and with aws-lc-rs.
//!
//! Each record is decrypted and encrypted by an object behind a trait, `MessageDecrypter` or `MessageEncrypter`. A call
//! through a trait object keeps its form whatever is optimised, and its target is in a table of the type's methods.
//! The way there, in a file without symbols:
//!
//! 1. The functions that make these objects can panic. So the file has the names of their source files, such as
//!    `…/rustls-0.23.46/src/crypto/ring/tls13.rs`, and `Location`s (file, line, column) that point to them.
//! 2. The functions that refer to these `Location`s are the ones that make the objects. They return an object and its
//!    table of methods: `{drop, size, alignment, methods …}`.
//! 3. A `MessageEncrypter` has two methods. The second, `encrypted_payload_len`, adds a constant to its argument: the
//!    bytes that a record has besides its plaintext. A `MessageDecrypter` has one method.
//!    The functions of step 2 return the object: where they return it is seen which connection it is for.
//! 4. In TLS 1.3 that constant is 17 for all ciphers. In TLS 1.2 it depends on the cipher. `tls12.rs` has the maker of
//!    a cipher's decrypter right before the maker of its `MessageEncrypter`, so lines tell which belong together.
//!
//! Rust promises no layout of types. The path has rustls' version, and only versions whose messages were checked are
//! accepted ([`CHECKED`]). The methods must use the fields of the message where they are expected.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use memchr::memmem;

use crate::bytes::{u32_at, u64_at};
use crate::code::{Function, Pointer, Source, Walk};
use crate::elf::{Elf, Relocations};
use crate::functions::Functions;
use crate::hook::{Hook, Routine, Tls};
use crate::library::{Kind, Layout, Library};
use crate::machine::Machine;
use crate::references::{constants, functions_that_refer};
use crate::refusal::Refusal;

/// The versions whose messages have the layout that [`Routine`] describes: from 0.23.0 to this patch. Their sources are
/// the same where it matters, but for [`IN_ITS_PLACE`].
const CHECKED: u32 = 46;

/// The most mentions of rustls' files that are looked at.
const MAX_MENTIONS: usize = 1 << 14;

/// The most versions of rustls in one file, and the most copies of a file's name.
const MAX_RELEASES: usize = 8;
const MAX_COPIES: usize = 16;

/// The most places of one source file that can panic. `tls13.rs` has about ten.
const MAX_LOCATIONS: usize = 256;

/// The most tables that are looked at for one source file. A maker refers to one or two.
const MAX_TABLES: usize = 256;

/// The longest method that can be `encrypted_payload_len`, in bytes.
const MAX_ADDITION: u64 = 128;

/// The longest path that a compiler was given.
const MAX_PATH: u64 = 4096;

/// The objects that encrypt and decrypt have less bytes.
const MAX_OBJECT: u64 = 1 << 14;

/// A record of TLS 1.3 has a tag of 16 bytes, and the type of its content (RFC 8446, 5.2).
const OVERHEAD_1_3: u8 = 17;
/// In TLS 1.2: a tag, and for GCM 8 bytes of the nonce before the ciphertext (RFC 5288, RFC 7905).
const NONCE: u8 = 8;
const OVERHEAD_GCM: u8 = NONCE + 16;
const OVERHEAD_CHACHA: u8 = 16;

/// The first version that with aws-lc-rs decrypts GCM of TLS 1.2 where the ciphertext is. Before that it moved the
/// plaintext to the start of the payload, as with ring.
const IN_ITS_PLACE: u32 = 18;

/// A source file that makes decrypters and encrypters.
struct SourceFile {
    path: &'static [u8],
    version: Tls,
    is_aws_lc: bool,
}

const SOURCES: [SourceFile; 4] = [
    SourceFile { path: b"/src/crypto/ring/tls13.rs", version: Tls::V1_3, is_aws_lc: false },
    SourceFile { path: b"/src/crypto/ring/tls12.rs", version: Tls::V1_2, is_aws_lc: false },
    SourceFile { path: b"/src/crypto/aws_lc_rs/tls13.rs", version: Tls::V1_3, is_aws_lc: true },
    SourceFile { path: b"/src/crypto/aws_lc_rs/tls12.rs", version: Tls::V1_2, is_aws_lc: true },
];

/// The addresses behind each copy of the names of [`SOURCES`].
type Ends = [Vec<u64>; SOURCES.len()];

/// Probes for each version of rustls that a file has.
pub(crate) fn locate(
    elf: &Elf,
    functions: Result<&Functions, Refusal>,
) -> Vec<Result<Library, Refusal>> {
    let releases = mentions(elf).into_iter();
    releases
        .map(|(release, ends)| {
            let release = release.ok_or(Refusal::NoVersion)?;
            let patch = release.strip_prefix("0.23.").and_then(|patch| patch.parse::<u32>().ok());
            let patch = patch.filter(|patch| *patch <= CHECKED).ok_or(Refusal::Version)?;
            if elf.machine != Machine::X86_64 {
                return Err(Refusal::UncheckedArchitecture);
            }
            let hooks = in_sources(elf, functions?, patch, &ends)?;
            let version = Some(release);
            Ok(Library { kind: Kind::Rustls, version, layout: Layout::Rustls, hooks })
        })
        .collect()
}

/// The versions of rustls whose files are named, and where.
fn mentions(elf: &Elf) -> BTreeMap<Option<String>, Ends> {
    let mut found: BTreeMap<Option<String>, Ends> = BTreeMap::new();
    for at in memmem::find_iter(elf.file, b"/rustls").take(MAX_MENTIONS) {
        let Some(path) = elf.file.get(at + b"/rustls".len()..) else { continue };
        let Some((release, rest)) = release_in(path) else { continue };
        let source = SOURCES.iter().position(|source| rest.starts_with(source.path));
        let is_other = release.is_some() && rest.starts_with(b"/src/");
        let is_new = !found.contains_key(&release);
        if (source.is_none() && !is_other) || (is_new && found.len() == MAX_RELEASES) {
            continue;
        }
        let ends = found.entry(release).or_default();
        if let Some(ends) = source.and_then(|at| ends.get_mut(at))
            && let Some(source) = source.and_then(|at| SOURCES.get(at))
            && let Some(address) = elf.address_of((elf.file.len() - rest.len()) as u64)
            && ends.len() < MAX_COPIES
        {
            ends.push(address + source.path.len() as u64);
        }
    }
    found
}

/// The version behind the name of the crate, and what follows. Vendored crates have none.
fn release_in(path: &[u8]) -> Option<(Option<String>, &[u8])> {
    const MAX_RELEASE: usize = 24;
    if path.first()? == &b'/' {
        return Some((None, path));
    }
    let path = path.strip_prefix(b"-")?;
    let length = path.iter().take(MAX_RELEASE).position(|byte| *byte == b'/')?;
    let (release, rest) = path.split_at_checked(length)?;
    let is_release = release.first().is_some_and(u8::is_ascii_digit)
        && release.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(byte));
    is_release.then(|| (Some(String::from_utf8_lossy(release).into_owned()), rest))
}

fn in_sources(
    elf: &Elf,
    functions: &Functions,
    patch: u32,
    ends: &Ends,
) -> Result<Vec<Hook>, Refusal> {
    let relocations = Relocations::read(elf)?;
    let mut routines = BTreeMap::new();
    let mut hooks = Vec::new();
    for (source, ends) in SOURCES.iter().zip(ends).filter(|(_, ends)| !ends.is_empty()) {
        let Found { routines: found, makers } =
            find(elf, functions, &relocations, source, patch, ends)?;
        for maker in &makers {
            let routine = Routine::MakeCipher;
            hooks.append(&mut Hook::returns(elf, Some(functions), maker, routine)?);
        }
        for (address, routine) in found {
            if routines.insert(address, routine).is_some_and(|other| other != routine) {
                return Err(Refusal::Ambiguous);
            }
        }
    }
    if routines.is_empty() {
        return Err(Refusal::NotFound);
    }
    for (address, routine) in routines {
        let range = functions.at(address).ok_or(Refusal::Extent)?;
        let function = Function::decode(elf, range)?;
        let walk = Walk::over(&function);
        // Other compilers may have put a word before these fields. Then there would be one more behind them.
        let (fields, length) = match routine {
            Routine::Decrypt { .. } => (&[0, 8][..], 24),
            _ => (&[0, 16, 24, 32][..], 40),
        };
        let is_message = |pointer: Pointer| pointer.source == Source::Argument(2);
        let touched = walk.touched.iter().map(|touch| touch.pointer).filter(|it| is_message(*it));
        let touched: BTreeSet<i32> = touched.map(|pointer| pointer.offset).collect();
        let is_known = fields.iter().all(|field| touched.contains(field));
        if !is_known || touched.last().is_some_and(|last| *last >= length) {
            return Err(Refusal::Layout);
        }
        let arguments = elf.machine.first_arguments(4);
        match routine {
            Routine::Decrypt { .. } => {
                hooks.append(&mut Hook::both(elf, Some(functions), &function, routine, arguments)?);
            }
            _ => hooks.push(Hook::entry(elf, &function, routine, arguments)?),
        }
    }
    Ok(hooks)
}

/// What a source file has.
struct Found {
    /// The methods of decrypters and encrypters.
    routines: Vec<(u64, Routine)>,
    /// The functions that make these objects.
    makers: Vec<Function>,
}

fn find(
    elf: &Elf,
    functions: &Functions,
    relocations: &Relocations,
    source: &SourceFile,
    patch: u32,
    ends: &[u64],
) -> Result<Found, Refusal> {
    let version = source.version;
    let decrypt = |overhead| {
        let start = start_of_plaintext(source, patch, overhead);
        Routine::Decrypt { version, overhead, start }
    };
    let locations: BTreeMap<u64, u32> =
        ends.iter().flat_map(|end| locations_in(elf, relocations, *end)).collect();
    let places: Vec<u64> = locations.keys().copied().collect();
    if places.len() > MAX_LOCATIONS {
        return Err(Refusal::Ambiguous);
    }
    let mut makers = Vec::new();
    let mut left = MAX_TABLES;
    for function in functions_that_refer(elf, functions, &places) {
        let mut maker = Maker { line: u32::MAX, decrypters: Vec::new(), encrypters: Vec::new() };
        let addresses: BTreeSet<u64> = constants(&function).map(|(_, value)| value).collect();
        for address in addresses {
            maker.line = maker.line.min(locations.get(&address).copied().unwrap_or(u32::MAX));
            let Some(table) = Table::at(elf, functions, relocations, address) else { continue };
            left = left.checked_sub(1).ok_or(Refusal::Ambiguous)?;
            table.methods(elf).iter().for_each(|methods| maker.add(methods));
        }
        if !maker.decrypters.is_empty() || !maker.encrypters.is_empty() {
            makers.push((maker, function));
        }
    }
    makers.sort_by_key(|(maker, _)| maker.line);
    let mut routines = Vec::new();
    let mut waiting: Option<Vec<u64>> = None;
    for (maker, _) in &makers {
        if !maker.decrypters.is_empty() && !maker.encrypters.is_empty() {
            return Err(Refusal::Ambiguous);
        }
        for &(address, overhead) in &maker.encrypters {
            routines.push((address, Routine::Encrypt { version, overhead }));
        }
        match (version, &*maker.encrypters) {
            (Tls::V1_3, encrypters) => {
                if encrypters.iter().any(|(_, overhead)| *overhead != OVERHEAD_1_3) {
                    return Err(Refusal::Layout);
                }
                let routine = decrypt(OVERHEAD_1_3);
                routines.extend(maker.decrypters.iter().map(|address| (*address, routine)));
            }
            (Tls::V1_2, []) => {
                if waiting.replace(maker.decrypters.clone()).is_some() {
                    return Err(Refusal::Ambiguous);
                }
            }
            (Tls::V1_2, [(_, overhead @ (OVERHEAD_GCM | OVERHEAD_CHACHA))]) => {
                let decrypters = waiting.take().ok_or(Refusal::Ambiguous)?;
                let routine = decrypt(*overhead);
                routines.extend(decrypters.into_iter().map(|address| (address, routine)));
            }
            (Tls::V1_2, _) => return Err(Refusal::Layout),
        }
    }
    let decrypts = routines.iter().any(|(_, it)| matches!(it, Routine::Decrypt { .. }));
    let encrypts = routines.iter().any(|(_, it)| matches!(it, Routine::Encrypt { .. }));
    if waiting.is_some() || !decrypts || !encrypts {
        return Err(Refusal::NotFound);
    }
    let makers = makers.into_iter().map(|(_, function)| function).collect();
    Ok(Found { routines, makers })
}

/// How many bytes of a record's payload are before the plaintext, once it is decrypted.
fn start_of_plaintext(source: &SourceFile, patch: u32, overhead: u8) -> u8 {
    let stays = source.is_aws_lc && source.version == Tls::V1_2 && patch >= IN_ITS_PLACE;
    if stays && overhead == OVERHEAD_GCM { NONCE } else { 0 }
}

/// Where a `Location` of a file is, and its line: `{file: &str, line: u32, column: u32}`.
fn locations_in(elf: &Elf, relocations: &Relocations, end: u64) -> Vec<(u64, u32)> {
    let names = relocations.pointers_to(end.saturating_sub(MAX_PATH)..end);
    let location = |&(start, place): &(u64, u64)| {
        let rest = elf.bytes(place.checked_add(8)?, 16)?;
        let is_name = u64_at(rest, 0)? == end - start;
        is_name.then_some((place, u32_at(rest, 8)?))
    };
    names.iter().filter_map(location).collect()
}

/// What one function makes.
struct Maker {
    /// The first line in the source file.
    line: u32,
    /// Addresses of `decrypt`.
    decrypters: Vec<u64>,
    /// Addresses of `encrypt`, and the overhead.
    encrypters: Vec<(u64, u8)>,
}

impl Maker {
    fn add(&mut self, methods: &Methods) {
        match *methods {
            Methods::Decrypter(method) if !self.decrypters.contains(&method) => {
                self.decrypters.push(method);
            }
            Methods::Encrypter(method, overhead)
                if !self.encrypters.contains(&(method, overhead)) =>
            {
                self.encrypters.push((method, overhead));
            }
            _ => {}
        }
    }
}

enum Methods {
    Decrypter(u64),
    Encrypter(u64, u8),
}

/// A table of a type's methods with at least one.
struct Table {
    first: u64,
    second: Option<Range<u64>>,
    /// With one method only, the second is the first entry of the table that follows.
    is_another_next: bool,
}

impl Table {
    /// The table at an address, if it can be one: `{drop or 0, size, alignment, methods …}`.
    fn at(
        elf: &Elf,
        functions: &Functions,
        relocations: &Relocations,
        address: u64,
    ) -> Option<Self> {
        let place = |index: u64| address.checked_add(index * 8);
        let method = |index: u64| functions.at(relocations.pointer_at(place(index)?)?);
        let number = |index: u64| {
            let place = place(index)?;
            let number = u64_at(elf.bytes(place, 8)?, 0)?;
            relocations.pointer_at(place).is_none().then_some(number)
        };
        let has_drop = method(0).is_some() || number(0) == Some(0);
        // Errors are objects with methods, too; those of cryptography have no size.
        let has_size = (1..MAX_OBJECT).contains(&number(1)?);
        let first = method(3).filter(|_| has_drop && has_size && is_alignment(number(2)))?.start;
        let is_another_next = number(5).is_some() && is_alignment(number(6));
        Some(Self { first, second: method(4), is_another_next })
    }

    /// The methods, if they can be those of a `MessageDecrypter` or a `MessageEncrypter`.
    fn methods(self, elf: &Elf) -> Option<Methods> {
        let Some(second) = self.second else { return Some(Methods::Decrypter(self.first)) };
        match added_constant(elf, second) {
            Some(overhead) => Some(Methods::Encrypter(self.first, overhead)),
            None => self.is_another_next.then_some(Methods::Decrypter(self.first)),
        }
    }
}

fn is_alignment(number: Option<u64>) -> bool {
    number.is_some_and(|number| number.is_power_of_two() && number <= 64)
}

/// The number that a method adds to its argument, if it does nothing else.
fn added_constant(elf: &Elf, method: Range<u64>) -> Option<u8> {
    if method.end - method.start > MAX_ADDITION {
        return None;
    }
    let walk = Walk::over(&Function::decode(elf, method).ok()?);
    let mut returned = walk.returned.iter();
    match (returned.next(), returned.next()) {
        (Some(Pointer { source: Source::Argument(1), offset }), None) if walk.is_complete => {
            u8::try_from(*offset).ok().filter(|number| *number > 0)
        }
        _ => None,
    }
}

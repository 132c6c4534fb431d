//! Messages between the daemon, the opener and its parsers: of fixed size, and checked by whoever receives them.
//!
//! ```text
//! daemon ── Request: a pid ──▶ opener ── a file ──▶ parser
//! daemon ◀── Report: what is in its files ── opener ◀── Piece: libraries and places ── parser
//! ```
//!
//! A parser has read a hostile file, and may have been taken over by it. So may the daemon, by what it reads from peers.
//! Bytes that are no message are refused as a whole.

#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use observer_tls::{BuildId, Hook, Kind, Library, Located, Refusal};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The highest number of a process (`PID_MAX_LIMIT` of a 64-bit kernel, `include/linux/threads.h`).
const MAX_PID: u32 = 1 << 22;

/// The most places to probe in one file. grpcio has 5, Go 18, rustls some 30.
pub(super) const MAX_HOOKS: usize = 512;

/// The most libraries of one file.
const MAX_LIBRARIES: usize = 16;

/// The longest instruction of x86-64.
const MAX_INSTRUCTION: usize = 15;

/// Asks the opener to look at the files of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Request {
    pid: u32,
}

impl Request {
    pub(super) fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// The pid of a message; `None` if it is not valid.
    pub(super) fn pid_of(message: &[u8]) -> Option<u32> {
        let Self { pid } = Self::read_from_bytes(message).ok()?;
        (1..=MAX_PID).contains(&pid).then_some(pid)
    }
}

/// What became of a library in a file, or of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Its places are probed.
    Attached,
    /// No place in it can be probed.
    Refused(Refusal),
    /// It was not read, or not probed.
    Failed(Failure),
}

impl Outcome {
    const FIRST_FAILURE: u8 = 16;
    const FIRST_REFUSAL: u8 = 64;

    fn code(self) -> u8 {
        match self {
            Self::Attached => 1,
            Self::Failed(failure) => Self::FIRST_FAILURE + failure as u8,
            Self::Refused(refusal) => Self::FIRST_REFUSAL + refusal_code(refusal),
        }
    }

    fn of_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Attached),
            Self::FIRST_REFUSAL.. => refusal_of(code - Self::FIRST_REFUSAL).map(Self::Refused),
            Self::FIRST_FAILURE.. => {
                let failure = Failure::ALL.get(usize::from(code - Self::FIRST_FAILURE))?;
                Some(Self::Failed(*failure))
            }
            _ => None,
        }
    }

    /// A short name, for a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Refused(refusal) => refusal.label(),
            Self::Failed(failure) => failure.label(),
        }
    }
}

/// Why a file was not read, or not probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Failure {
    /// The opener may not read the process or its file.
    Denied,
    /// The file cannot be read for another reason.
    Unreadable,
    /// The file is too large.
    TooLarge,
    /// Parsing took too long.
    TimedOut,
    /// The parser ended without a result.
    Crashed,
    /// The file changed while it was read.
    Changed,
    /// There are too many files.
    Limit,
    /// The kernel refused the probes.
    Kernel,
    /// The BPF program cannot follow this library.
    Unsupported,
    /// The request was not valid.
    BadRequest,
    /// The file is a Java virtual machine. TLS that is written in Java (JSSE) is not in any file.
    Jvm,
}

impl Failure {
    const ALL: [Self; 11] = [
        Self::Denied,
        Self::Unreadable,
        Self::TooLarge,
        Self::TimedOut,
        Self::Crashed,
        Self::Changed,
        Self::Limit,
        Self::Kernel,
        Self::Unsupported,
        Self::BadRequest,
        Self::Jvm,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::TimedOut => "timed_out",
            Self::Crashed => "crashed",
            Self::Changed => "changed",
            Self::Limit => "limit",
            Self::Kernel => "kernel",
            Self::Unsupported => "unsupported",
            Self::BadRequest => "bad_request",
            Self::Jvm => "jvm",
        }
    }
}

fn refusal_code(refusal: Refusal) -> u8 {
    let place = Refusal::ALL.iter().position(|known| *known == refusal);
    place.and_then(|place| u8::try_from(place).ok()).expect("all refusals are listed")
}

fn refusal_of(code: u8) -> Option<Refusal> {
    Refusal::ALL.get(usize::from(code)).copied()
}

const KINDS: [Kind; 4] = [Kind::OpenSsl, Kind::BoringSsl, Kind::Go, Kind::Rustls];

fn kind_code(kind: Option<Kind>) -> u8 {
    let place = KINDS.iter().position(|known| Some(*known) == kind);
    place.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0)
}

/// A code that is not in use.
struct NotInUse;

/// The kind of a code: 0 is none.
fn kind_of(code: u8) -> Result<Option<Kind>, NotInUse> {
    match code.checked_sub(1) {
        None => Ok(None),
        Some(place) => KINDS.get(usize::from(place)).copied().map(Some).ok_or(NotInUse),
    }
}

/// A short name of a library, for a label.
pub fn library_label(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::OpenSsl) => "openssl",
        Some(Kind::BoringSsl) => "boringssl",
        Some(Kind::Go) => "go",
        Some(Kind::Rustls) => "rustls",
        None => "none",
    }
}

/// A text of at most `N` bytes, the rest of which are 0.
fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut padded = [0; N];
    for (to, from) in padded.iter_mut().zip(text) {
        *to = *from;
    }
    padded
}

/// The text before the first byte that is 0.
fn unpadded(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The version of a library: ASCII without spaces and controls, or nothing.
fn version(text: &[u8]) -> Option<&str> {
    let text = str::from_utf8(unpadded(text)).ok()?;
    text.bytes().all(|byte| byte.is_ascii_graphic()).then_some(text)
}

/// What the opener has found out about a library, a file, or that it has looked at all files of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Report {
    pid: u32,
    /// The number of places that are probed.
    hooks: u32,
    kind: u8,
    /// 0 says that the request is answered.
    outcome: u8,
    /// 1 if it was reported before, for this process or another one.
    again: u8,
    unused: u8,
    version: [u8; VERSION],
    path: [u8; PATH],
}

const VERSION: usize = 24;
const PATH: usize = 220;

/// A [`Report`], checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// All files of the process were looked at.
    Done { pid: u32 },
    /// A file of the process.
    File(FileReport),
}

/// What was found out about a file, or a library in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileReport {
    pub(super) pid: u32,
    pub(super) kind: Option<Kind>,
    pub(super) outcome: Outcome,
    pub(super) version: String,
    /// The end of the path, if it is long.
    pub(super) path: Vec<u8>,
    pub(super) hooks: u32,
    /// It was reported before, for this process or another one.
    pub(super) again: bool,
}

impl Report {
    pub(super) fn done(pid: u32) -> Self {
        Self {
            pid,
            hooks: 0,
            kind: 0,
            outcome: 0,
            again: 0,
            unused: 0,
            version: [0; VERSION],
            path: [0; PATH],
        }
    }

    pub(super) fn file(
        pid: u32,
        kind: Option<Kind>,
        outcome: Outcome,
        version: &str,
        path: &[u8],
        hooks: usize,
    ) -> Self {
        let end = path.get(path.len().saturating_sub(PATH)..).unwrap_or_default();
        Self {
            pid,
            hooks: u32::try_from(hooks).unwrap_or(u32::MAX),
            kind: kind_code(kind),
            outcome: outcome.code(),
            again: 0,
            unused: 0,
            version: padded(version.as_bytes()),
            path: padded(end),
        }
    }

    /// The same, as it is reported for another process or once more.
    pub(super) fn again(self, pid: u32) -> Self {
        Self { pid, again: 1, ..self }
    }

    /// Whether it was reported before.
    pub(super) fn is_again(&self) -> bool {
        self.again != 0
    }

    /// Whether it says something about the connections of the processes that have the file: it has a library, or it is
    /// not known whether it has one.
    pub(super) fn matters(&self) -> bool {
        let nothing = [Refusal::NoLibrary, Refusal::NotElf].map(Outcome::Refused);
        !nothing.iter().any(|outcome| outcome.code() == self.outcome)
    }

    /// Checks a message; `None` if it is not valid.
    pub(super) fn read(message: &[u8]) -> Option<Told> {
        let Self { pid, hooks, kind, outcome, again, unused: _, version: text, path } =
            Self::read_from_bytes(message).ok()?;
        if outcome == 0 {
            return Some(Told::Done { pid });
        }
        Some(Told::File(FileReport {
            pid,
            kind: kind_of(kind).ok()?,
            outcome: Outcome::of_code(outcome)?,
            version: version(&text)?.to_owned(),
            path: unpadded(&path).to_vec(),
            hooks,
            again: again != 0,
        }))
    }
}

/// A part of what a parser has found: a library, a place to probe in the library before it, the build id, or the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Piece {
    /// Of a place, or of the build id: where in the file it is.
    offset: u64,
    /// Of a place: what it is, for the BPF program.
    cookie: u64,
    /// Of a place: the bytes of its instruction.
    bytes: [u8; 16],
    /// The version of a library, or the bytes of the build id.
    text: [u8; VERSION],
    tag: u8,
    /// Of a library.
    kind: u8,
    /// Of a library, or of the end: 0, or the [`Outcome`] if nothing is to be probed.
    outcome: u8,
    /// Of a place, or of the build id: how many bytes it has.
    length: u8,
    unused: [u8; 4],
}

/// The bytes that a parser writes at most.
pub(super) const MAX_PIECES: usize = (MAX_HOOKS + MAX_LIBRARIES + 2) * size_of::<Piece>();

const LIBRARY: u8 = 1;
const PLACE: u8 = 2;
const END: u8 = 3;
const BUILD_ID: u8 = 4;

/// The shortest build id that says enough (`ld.lld --build-id=fast`).
const MIN_BUILD_ID: usize = 8;

/// What a parser has found in a file, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) libraries: Vec<FoundLibrary>,
    /// All places to probe.
    pub(super) places: Vec<PlaceToProbe>,
    /// Why there is no library.
    pub(super) refusal: Option<Outcome>,
    /// What it shares with no other build.
    pub(super) build_id: Option<Bytes>,
}

/// Bytes of a file, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// A library in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundLibrary {
    pub(super) kind: Kind,
    pub(super) version: String,
    pub(super) places: usize,
    /// Why it is not to be probed.
    pub(super) refusal: Option<Outcome>,
}

/// A place to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlaceToProbe {
    pub(super) instruction: Bytes,
    pub(super) cookie: u64,
}

impl Piece {
    fn empty(tag: u8) -> Self {
        Self {
            offset: 0,
            cookie: 0,
            bytes: [0; 16],
            text: [0; VERSION],
            tag,
            kind: 0,
            outcome: 0,
            length: 0,
            unused: [0; 4],
        }
    }

    fn library(kind: Kind, version: Option<&str>, outcome: u8) -> Self {
        // What does not fit is left out: half a version would be another one.
        let version = version.filter(|version| version.len() <= VERSION).unwrap_or_default();
        Self {
            kind: kind_code(Some(kind)),
            text: padded(version.as_bytes()),
            outcome,
            ..Self::empty(LIBRARY)
        }
    }

    fn place(hook: &Hook, cookie: u64) -> Self {
        Self {
            offset: hook.offset,
            cookie,
            bytes: padded(&hook.bytes),
            length: u8::try_from(hook.bytes.len()).unwrap_or(u8::MAX),
            ..Self::empty(PLACE)
        }
    }

    /// A build id, unless it is too short or too long.
    fn build_id(id: &BuildId<'_>) -> Option<Self> {
        let is_whole = (MIN_BUILD_ID..=VERSION).contains(&id.bytes.len());
        is_whole.then(|| Self {
            offset: id.offset,
            text: padded(id.bytes),
            length: id.bytes.len() as u8,
            ..Self::empty(BUILD_ID)
        })
    }

    /// The bytes of a piece about a file of `length` bytes; `None` if they are not as many as they may be, or not in it.
    fn bytes_of(&self, bytes: &[u8], lengths: RangeInclusive<usize>, length: u64) -> Option<Bytes> {
        let bytes = bytes.get(..usize::from(self.length))?.to_vec();
        let is_in_file = self.offset.checked_add(bytes.len() as u64)? <= length;
        (lengths.contains(&bytes.len()) && is_in_file)
            .then_some(Bytes { offset: self.offset, bytes })
    }

    /// What a parser writes about a file. `cookie` describes a place for the BPF program, if that understands it.
    pub(super) fn of(
        located: &Result<Located, Refusal>,
        build_id: Option<BuildId<'_>>,
        cookie: impl Fn(&Library, &Hook) -> Option<u64>,
    ) -> Vec<Self> {
        let mut pieces = Vec::new();
        let mut end = Self::empty(END);
        match located {
            Err(refusal) => end.outcome = Outcome::Refused(*refusal).code(),
            Ok(located) => {
                for library in &located.libraries {
                    let version = library.version.as_deref();
                    let place = |hook| Some(Self::place(hook, cookie(library, hook)?));
                    let places: Option<Vec<Self>> = library.hooks.iter().map(place).collect();
                    let unsupported = || Outcome::Failed(Failure::Unsupported).code();
                    let outcome = if places.is_some() { 0 } else { unsupported() };
                    pieces.push(Self::library(library.kind, version, outcome));
                    pieces.extend(places.into_iter().flatten());
                }
                let refused = located.refused.iter();
                pieces.extend(refused.map(|(kind, refusal)| {
                    Self::library(*kind, None, Outcome::Refused(*refusal).code())
                }));
            }
        }
        pieces.extend(build_id.as_ref().and_then(Self::build_id));
        pieces.push(end);
        pieces
    }
}

impl Bytes {
    /// From where to where they are. It does not overflow: they are in the file.
    fn range(&self) -> (u64, u64) {
        (self.offset, self.offset + self.bytes.len() as u64)
    }
}

impl Found {
    /// Checks what a parser has written about a file of `length` bytes; `None` if any of it is not valid.
    pub(super) fn read(bytes: &[u8], length: u64) -> Option<Self> {
        let pieces = <[Piece]>::ref_from_bytes(bytes).ok()?;
        let (end, pieces) = pieces.split_last()?;
        let mut found = Self::default();
        for piece in pieces {
            found.add(piece, length)?;
        }
        if end.tag != END || found.places.len() > MAX_HOOKS {
            return None;
        }
        found.refusal = why_not(end.outcome).ok()?;
        if found.refusal.is_some() != found.libraries.is_empty() {
            return None;
        }
        // A library without a place is not probed, whatever it says.
        let is_whole = |library: &FoundLibrary| library.refusal.is_some() == (library.places == 0);
        if !found.libraries.iter().all(is_whole) {
            return None;
        }
        found.has_distinct_places().then_some(found)
    }

    fn add(&mut self, piece: &Piece, length: u64) -> Option<()> {
        match piece.tag {
            LIBRARY if self.libraries.len() < MAX_LIBRARIES => {
                self.libraries.push(FoundLibrary {
                    kind: kind_of(piece.kind).ok()??,
                    version: version(&piece.text)?.to_owned(),
                    places: 0,
                    refusal: why_not(piece.outcome).ok()?,
                });
            }
            PLACE => {
                let instruction = piece.bytes_of(&piece.bytes, 1..=MAX_INSTRUCTION, length)?;
                self.libraries.last_mut()?.places += 1;
                self.places.push(PlaceToProbe { instruction, cookie: piece.cookie });
            }
            BUILD_ID if self.build_id.is_none() => {
                self.build_id =
                    Some(piece.bytes_of(&piece.text, MIN_BUILD_ID..=VERSION, length)?);
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether the file has the instructions of all places. `has` says whether it has these bytes.
    pub(super) fn has_instructions(&self, has: impl Fn(&Bytes) -> bool) -> bool {
        self.places.iter().all(|place| has(&place.instruction))
    }

    /// Whether no two instructions overlap: a place that is probed twice would count its bytes twice.
    fn has_distinct_places(&self) -> bool {
        let mut ranges: Vec<_> =
            self.places.iter().map(|place| place.instruction.range()).collect();
        ranges.sort_unstable();
        ranges.is_sorted_by(|(_, end), (next, _)| end <= next)
    }
}

/// Why nothing is to be probed, from a piece: 0 is nothing.
fn why_not(code: u8) -> Result<Option<Outcome>, NotInUse> {
    match (code, Outcome::of_code(code)) {
        (0, _) => Ok(None),
        (_, None | Some(Outcome::Attached)) => Err(NotInUse),
        (_, outcome) => Ok(outcome),
    }
}

const _: () = {
    assert!(size_of::<Piece>() == 64);
    assert!(size_of::<Report>() == 256);
};

#[cfg(test)]
mod tests;

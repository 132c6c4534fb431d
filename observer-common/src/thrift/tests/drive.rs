//! Drives the scanner over slices, and reads the same bytes in a straightforward way.

use observer_common::{
    scanner::Take,
    thrift::{MAX_NAME, Scanner, event, first, kind},
};

/// A message that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// 0 until the end, if there is no version.
    pub kind: u8,
    pub name: Vec<u8>,
    /// The sequence id and the first field; `None` if the message has not ended.
    pub end: Option<(u32, u8)>,
}

/// The scanner over one direction, with its buffer and what it has found.
pub struct Driver {
    pub scanner: Scanner,
    pub found: Vec<Found>,
    buffer: [u8; 48],
}

impl Driver {
    pub fn new() -> Self {
        Self { scanner: Scanner::NEW, found: Vec::new(), buffer: [0; 48] }
    }

    /// With messages that may have no version.
    pub fn unversioned() -> Self {
        let mut driver = Self::new();
        driver.scanner.expect_unversioned();
        driver
    }

    /// Takes the bytes of one buffer, up to the first that are not a message.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !self.scanner.is_refused() && (self.scanner.is_pending() || !bytes.is_empty()) {
            let want = self.scanner.want();
            let n = bytes.len().min(want.length as usize);
            assert!(n > 0 || self.scanner.is_pending(), "{want:?}");
            let (now, later) = bytes.split_at(n);
            if !want.stays {
                bytes = later;
            }
            match want.take {
                Take::Read => {
                    // As the BPF programs do: whole words are copied.
                    let to = &mut self.buffer[want.at as usize..];
                    to[..16].fill(0xa5);
                    to[..n].copy_from_slice(now);
                }
                Take::Copy => self.found.last_mut().expect("it has begun").name.extend(now),
                Take::Skip => {}
            }
            let buffer = self.buffer.first_chunk().expect("it is long enough");
            let events = self.scanner.took(buffer, want, n as u32);
            if events & event::BEGIN != 0 {
                self.found.push(Found { kind: self.scanner.kind(), ..Found::default() });
            }
            if events & event::NAME_END != 0 {
                let name = &self.found.last().expect("it has begun").name;
                assert_eq!(name.len(), self.scanner.name_length() as usize);
            }
            if events & event::END != 0 {
                let end = (self.scanner.sequence(), self.scanner.first());
                let kind = self.scanner.kind();
                let found = self.found.last_mut().expect("it has begun");
                assert!(found.kind == 0 || found.kind == kind);
                (found.kind, found.end) = (kind, Some(end));
            }
        }
    }
}

/// The messages in these bytes, and whether all bytes are messages, or the start of one. The bytes came in pieces that
/// end at `cuts`.
pub fn reference(bytes: &[u8], cuts: &[usize]) -> (Vec<Found>, bool) {
    read(Reader(bytes, bytes.as_ptr().addr(), cuts, false))
}

/// The same, where messages may have no version.
pub fn unversioned_reference(bytes: &[u8], cuts: &[usize]) -> (Vec<Found>, bool) {
    read(Reader(bytes, bytes.as_ptr().addr(), cuts, true))
}

fn read(mut rest: Reader<'_>) -> (Vec<Found>, bool) {
    let mut found = Vec::new();
    loop {
        let mut kind = 0;
        match rest.message(&mut found, &mut kind) {
            Ok(()) => {
                if let Some(found) = found.last_mut() {
                    found.kind = kind;
                }
                if rest.0.is_empty() {
                    return (found, true);
                }
            }
            Err(end) => return (found, end == End::TooShort),
        }
    }
}

/// The reason why reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    TooShort,
    Invalid,
}

/// The rest of the bytes, the address of the first byte, the cuts, and whether messages may have no version.
struct Reader<'a>(&'a [u8], usize, &'a [usize], bool);

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], End> {
        if n > self.0.len() as u64 {
            return Err(End::TooShort);
        }
        let (taken, rest) = self.0.split_at(n as usize);
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, End> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u32, End> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A number of the compact protocol.
    fn digits(&mut self) -> Result<u32, End> {
        let mut number = 0_u64;
        for at in 0..5 {
            let digit = self.byte()?;
            number |= u64::from(digit & 0x7f) << (7 * at);
            if digit & 0x80 == 0 {
                return Ok(number as u32);
            }
        }
        Err(End::Invalid)
    }

    /// Reads a message. `kind` gets its kind, which is only found at the end if there is no version.
    fn message(&mut self, found: &mut Vec<Found>, kind: &mut u8) -> Result<(), End> {
        if self.compact_kind()?.is_some() {
            return self.body(u32::MAX, found, kind);
        }
        let before = self.0;
        let word = self.number()?;
        let is_name = self.3 && self.begins_name(word)?;
        if is_name || !(6..1 << 28).contains(&word) {
            self.0 = before;
            return self.body(u32::MAX, found, kind);
        }
        let before = self.0.len();
        let header = self.headers(word)?;
        // A frame's rest is skipped, whatever it is.
        self.body(word - header, found, kind)?;
        let used = (before - self.0.len()) as u64;
        // The message ends with its frame.
        let end = found.last_mut().and_then(|found| found.end.take());
        self.take(u64::from(word).checked_sub(used).ok_or(End::Invalid)?)?;
        if let Some(found) = found.last_mut() {
            found.end = end;
        }
        Ok(())
    }

    /// Passes over the headers in a frame. Returns their length.
    fn headers(&mut self, frame: u32) -> Result<u32, End> {
        let mut length = 0;
        while self.limited(2, frame - length)? == [0x0f, 0xff] {
            self.limited(4, frame - length)?;
            let header = self.limited(12, frame - length)?;
            let words = u32::from(u16::from_be_bytes([header[8], header[9]]));
            if words == 0 || ![0, 2].contains(&header[10]) || header[11] != 0 {
                return Err(End::Invalid);
            }
            length += 10 + 4 * words;
            if length > frame {
                return Err(End::Invalid);
            }
            self.take(u64::from(10 + 4 * words))?;
        }
        Ok(length)
    }

    /// The next bytes, which are not taken, in a frame with so many bytes left. The scanner notices a byte that is too
    /// much once it has it.
    fn limited(&self, n: u32, left: u32) -> Result<&'a [u8], End> {
        let there = self.0.len() as u32;
        if there >= n && left >= n {
            return Ok(&self.0[..n as usize]);
        }
        Err(if there <= left { End::TooShort } else { End::Invalid })
    }

    /// The number of bytes, at most 8, up to the next cut: the scanner looks at these bytes of a name.
    fn in_sight(&self) -> usize {
        let at = self.0.as_ptr().addr() - self.1;
        let cut = self.2.iter().map(|cut| cut.saturating_sub(at)).find(|left| *left > 0);
        cut.unwrap_or(usize::MAX).min(8)
    }

    /// Whether a name of this length seems to follow: the first bytes of it are printable.
    fn begins_name(&self, length: u32) -> Result<bool, End> {
        if length == 0 || length > MAX_NAME {
            return Ok(false);
        }
        let there = self.0.len().min(length as usize).min(self.in_sight());
        if there == 0 {
            return Err(End::TooShort);
        }
        Ok(self.0[..there].iter().all(u8::is_ascii_graphic))
    }

    /// The kind of the next message, if it is one of the compact protocol.
    fn compact_kind(&self) -> Result<Option<u8>, End> {
        let [a, b, ..] = *self.0 else { return Err(End::TooShort) };
        let kind = b >> 5;
        Ok((a == 0x82 && b & 0x1f == 1 && (1..=4).contains(&kind)).then_some(kind))
    }

    /// Reads a message. `frame`: the bytes that are left in its frame; `u32::MAX` without one.
    fn body(&mut self, frame: u32, found: &mut Vec<Found>, kind: &mut u8) -> Result<(), End> {
        let framed = frame != u32::MAX;
        let whole = self.0;
        // The scanner stops at the first byte that is not in the frame.
        if framed {
            self.0 = &self.0[..self.0.len().min(frame as usize)];
        }
        let cut = whole.len() - self.0.len();
        let result = self.parts(framed.then_some(frame), found, kind);
        let taken = whole.len() - cut - self.0.len();
        self.0 = &whole[taken..];
        match result {
            Err(End::TooShort) if cut > 0 => Err(End::Invalid),
            result => result,
        }
    }

    fn parts(
        &mut self,
        frame: Option<u32>,
        found: &mut Vec<Found>,
        of: &mut u8,
    ) -> Result<(), End> {
        let started = self.0.len();
        let kind = self.compact_kind()?;
        let (mut kind, compact, sequence, length) = if let Some(kind) = kind {
            self.take(2)?;
            let sequence = self.digits()?;
            (kind, true, sequence, self.digits()?)
        } else {
            let version = self.number()?;
            if version >> 8 == 0x80_0100 && (1..=4).contains(&(version as u8)) {
                (version as u8, false, 0, self.number()?)
            } else if self.3 && version <= MAX_NAME {
                (0, false, 0, version)
            } else {
                return Err(End::Invalid);
            }
        };
        let used = (started - self.0.len()) as u32;
        let rest = if compact { 1 } else { 5 + u32::from(kind == 0) };
        if length == 0 || length > MAX_NAME || frame.is_some_and(|it| used + length + rest > it) {
            return Err(End::Invalid);
        }
        let there = self.0.len().min(length as usize);
        let name = self.0[..there].to_vec();
        if (compact || kind == 0) && !self.begins_name(length)? {
            return Err(End::Invalid);
        }
        found.push(Found { kind, name, end: None });
        self.take(u64::from(length))?;
        if kind == 0 {
            // The scanner looks at it together with the sequence id.
            let [there, _, _, _, _, ..] = *self.0 else { return Err(End::TooShort) };
            if !(1..=4).contains(&there) {
                return Err(End::Invalid);
            }
            kind = self.byte()?;
        }
        *of = kind;
        let sequence = if compact { sequence } else { self.number()? };
        let mut first = first::NOT_SEEN;
        if frame.is_none() {
            self.fields(compact, 0, &mut first)?;
        } else if kind == kind::REPLY {
            first = self.first_field(compact)?;
        }
        let first = if kind == kind::REPLY { first } else { first::NOT_SEEN };
        if let Some(found) = found.last_mut() {
            found.end = Some((sequence, first));
        }
        Ok(())
    }

    /// The first field of a reply in a frame.
    fn first_field(&mut self, compact: bool) -> Result<u8, End> {
        let of = self.byte()?;
        if is_stop(compact, of) {
            return Ok(first::NONE);
        }
        let is_result = self.is_result(compact, of)?;
        Ok(if is_result { first::RESULT } else { first::EXCEPTION })
    }

    /// Reads the id of a field with this type. Returns whether it is 0.
    fn is_result(&mut self, compact: bool, of: u8) -> Result<bool, End> {
        if !compact {
            return Ok(self.take(2)? == [0, 0]);
        }
        Ok(of >> 4 == 0 && self.digits()? == 0)
    }

    fn fields(&mut self, compact: bool, depth: u32, first: &mut u8) -> Result<(), End> {
        if depth >= 16 {
            return Err(End::Invalid);
        }
        loop {
            let of = self.byte()?;
            if is_stop(compact, of) {
                if depth == 0 && *first == first::NOT_SEEN {
                    *first = first::NONE;
                }
                return Ok(());
            }
            let is_result = self.is_result(compact, of)?;
            if depth == 0 && *first == first::NOT_SEEN {
                *first = if is_result { first::RESULT } else { first::EXCEPTION };
            }
            match of & 15 {
                1 | 2 if compact => {}
                of if compact => self.compact_value(of, depth + 1, first)?,
                _ => self.value(of, depth + 1, first)?,
            }
        }
    }

    /// Reads a value of the compact protocol that is so deep in the message.
    fn compact_value(&mut self, of: u8, depth: u32, first: &mut u8) -> Result<(), End> {
        match of {
            1..=3 => {
                self.byte()?;
            }
            4..=6 => while self.byte()? & 0x80 != 0 {},
            7 => {
                self.take(8)?;
            }
            8 => {
                let length = self.digits()?;
                self.take(checked(length)?)?;
            }
            9 | 10 => {
                let byte = self.byte()?;
                let count =
                    if byte >> 4 == 15 { checked(self.digits()?)? } else { u64::from(byte >> 4) };
                self.compact_elements(count, &[byte & 15], depth, first)?;
            }
            11 => {
                let count = self.digits()?;
                if count != 0 {
                    let types = self.byte()?;
                    let count = checked(count)?;
                    self.compact_elements(count, &[types >> 4, types & 15], depth, first)?;
                }
            }
            12 => self.fields(true, depth, first)?,
            13 => {
                self.take(16)?;
            }
            _ => return Err(End::Invalid),
        }
        Ok(())
    }

    fn compact_elements(
        &mut self,
        count: u64,
        types: &[u8],
        depth: u32,
        first: &mut u8,
    ) -> Result<(), End> {
        let types = if let [key, 0] = types { &[*key] } else { types };
        let is_nested = |of: &u8| !matches!(of, 1..=7 | 13);
        let is_number = |of: &u8| matches!(of, 4..=6);
        let is_mixed = types.iter().any(is_number) && !types.iter().all(is_number);
        if count > 0 && (types.iter().any(is_nested) || is_mixed) && depth >= 16 {
            return Err(End::Invalid);
        }
        for _ in 0..count {
            for of in types {
                self.compact_value(*of, depth + 1, first)?;
            }
        }
        Ok(())
    }

    /// Reads a value that is so deep in the message.
    fn value(&mut self, of: u8, depth: u32, first: &mut u8) -> Result<(), End> {
        if size(of) != 0 {
            self.take(size(of))?;
            return Ok(());
        }
        match of {
            11 => {
                let length = self.count()?;
                self.take(length)?;
            }
            12 => self.fields(false, depth, first)?,
            13 => {
                let types = self.take(2)?;
                let count = self.count()?;
                self.elements(count, &[types[0], types[1]], depth, first)?;
            }
            14 | 15 => {
                let element = self.byte()?;
                let count = self.count()?;
                self.elements(count, &[element], depth, first)?;
            }
            _ => return Err(End::Invalid),
        }
        Ok(())
    }

    fn count(&mut self) -> Result<u64, End> {
        checked(self.number()?)
    }

    fn elements(
        &mut self,
        count: u64,
        types: &[u8],
        depth: u32,
        first: &mut u8,
    ) -> Result<(), End> {
        // As in the scanner: a map whose values have the type 0 is read like a list.
        let types = if let [key, 0] = types { &[*key] } else { types };
        if count == 0 {
            return Ok(());
        }
        if types.iter().all(|of| size(*of) != 0) {
            let one: u64 = types.iter().map(|of| size(*of)).sum();
            self.take(count * one)?;
            return Ok(());
        }
        if depth >= 16 {
            return Err(End::Invalid);
        }
        for _ in 0..count {
            for of in types {
                self.value(*of, depth + 1, first)?;
            }
        }
        Ok(())
    }
}

/// Whether a struct ends with this byte.
fn is_stop(compact: bool, of: u8) -> bool {
    of == 0 || compact && of.is_multiple_of(16)
}

fn checked(count: u32) -> Result<u64, End> {
    if count > i32::MAX as u32 { Err(End::Invalid) } else { Ok(count.into()) }
}

fn size(of: u8) -> u64 {
    match of {
        2 | 3 => 1,
        6 => 2,
        8 => 4,
        4 | 10 => 8,
        16 => 16,
        _ => 0,
    }
}

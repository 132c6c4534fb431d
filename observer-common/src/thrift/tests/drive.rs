//! Drives the scanner over slices, and reads the same bytes in a straightforward way.

use observer_common::{
    scanner::Take,
    thrift::{MAX_NAME, Scanner, event, first, kind},
};

/// A message that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
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

    /// Takes the bytes of one buffer, up to the first that are not a message.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !self.scanner.is_refused() && (self.scanner.is_pending() || !bytes.is_empty()) {
            let want = self.scanner.want();
            let n = bytes.len().min(want.length as usize);
            assert!(n > 0 || self.scanner.is_pending(), "{want:?}");
            let (now, later) = bytes.split_at(n);
            bytes = later;
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
                self.found.last_mut().expect("it has begun").end = Some(end);
            }
        }
    }
}

/// The messages in these bytes, and whether all bytes are messages, or the start of one.
pub fn reference(bytes: &[u8]) -> (Vec<Found>, bool) {
    let mut found = Vec::new();
    let mut rest = Reader(bytes);
    loop {
        match rest.message(&mut found) {
            Ok(()) if rest.0.is_empty() => return (found, true),
            Ok(()) => {}
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

struct Reader<'a>(&'a [u8]);

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

    fn message(&mut self, found: &mut Vec<Found>) -> Result<(), End> {
        let word = self.number()?;
        if !(14..1 << 28).contains(&word) {
            return self.body(word, u32::MAX, found);
        }
        let version = self.number()?;
        let length = word - 4;
        let before = self.0.len();
        // A frame's rest is skipped, whatever it is.
        self.body(version, length, found)?;
        let used = (before - self.0.len()) as u64;
        // The message ends with its frame.
        let end = found.last_mut().and_then(|found| found.end.take());
        self.take(u64::from(length).checked_sub(used).ok_or(End::Invalid)?)?;
        if let Some(found) = found.last_mut() {
            found.end = end;
        }
        Ok(())
    }

    /// Reads a message after its version. `frame`: the bytes that are left in its frame; `u32::MAX` without one.
    fn body(&mut self, version: u32, frame: u32, found: &mut Vec<Found>) -> Result<(), End> {
        let framed = frame != u32::MAX;
        if version >> 8 != 0x80_0100 || !(1..=4).contains(&(version as u8)) {
            return Err(End::Invalid);
        }
        let kind = version as u8;
        if framed && frame < 4 {
            return Err(End::Invalid);
        }
        let length = self.number()?;
        if length == 0 || length > MAX_NAME || framed && length + 5 > frame - 4 {
            return Err(End::Invalid);
        }
        let there = self.0.len().min(length as usize);
        let name = self.0[..there].to_vec();
        found.push(Found { kind, name, end: None });
        self.take(u64::from(length))?;
        let sequence = self.number()?;
        let mut first = first::NOT_SEEN;
        if !framed {
            self.fields(0, &mut first)?;
        } else if kind == kind::REPLY {
            first = self.first_field(frame - 4 - length - 4)?;
        }
        let first = if kind == kind::REPLY { first } else { first::NOT_SEEN };
        if let Some(found) = found.last_mut() {
            found.end = Some((sequence, first));
        }
        Ok(())
    }

    /// The first field of a reply in a frame with so many bytes left.
    fn first_field(&mut self, left: u32) -> Result<u8, End> {
        if self.byte()? == 0 {
            return Ok(first::NONE);
        }
        if left < 3 {
            // The scanner notices once it has a byte that is too much.
            let is_short = (self.0.len() as u32) < left;
            return Err(if is_short { End::TooShort } else { End::Invalid });
        }
        let id = self.take(2)?;
        Ok(if id == [0, 0] { first::RESULT } else { first::EXCEPTION })
    }

    fn fields(&mut self, depth: u32, first: &mut u8) -> Result<(), End> {
        if depth >= 16 {
            return Err(End::Invalid);
        }
        loop {
            let of = self.byte()?;
            if of == 0 {
                if depth == 0 && *first == first::NOT_SEEN {
                    *first = first::NONE;
                }
                return Ok(());
            }
            let id = self.take(2)?;
            if depth == 0 && *first == first::NOT_SEEN {
                *first = if id == [0, 0] { first::RESULT } else { first::EXCEPTION };
            }
            self.value(of, depth + 1, first)?;
        }
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
            12 => self.fields(depth, first)?,
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
        let count = self.number()?;
        if count > i32::MAX as u32 { Err(End::Invalid) } else { Ok(count.into()) }
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

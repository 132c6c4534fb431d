//! One side's writer: HTTP/2 frames, and what each of them means.

use std::collections::VecDeque;

use observer_common::frame::{PREFACE, flag, kind};

use crate::{
    encoder::{Encoder, Field},
    random::Random,
};

/// The byte that message bodies consist of, and nothing else does: no record may have it.
pub const BODY: u8 = 0xee;

/// HTTP/2's default SETTINGS_MAX_FRAME_SIZE.
const MAX_FRAME: usize = 16_384;

/// An event of a call at the last byte of a frame, or of a message.
#[derive(Debug)]
pub enum Happening {
    /// Request headers.
    Begins {
        stream: u32,
        request: Request,
        half_closed: bool,
    },
    /// The client has no more to send.
    HalfClosed {
        stream: u32,
    },
    /// A message is complete; `length` is without the prefix.
    Message {
        stream: u32,
        from_client: bool,
        length: u32,
    },
    /// The server ended the stream, and means this code.
    Answered {
        stream: u32,
        code: usize,
    },
    Reset {
        stream: u32,
        by_client: bool,
        error: u32,
    },
    /// The server will not process streams above this one.
    GoAway {
        last_stream: u32,
    },
}

/// A client's request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Position in [`crate::model::METHODS`].
    pub method: usize,
    pub timeout_ns: Option<u64>,
}

/// A happening, and the bytes of the stream that show it.
#[derive(Debug)]
pub struct Mark {
    pub begin: u64,
    pub end: u64,
    pub happening: Happening,
}

/// Messages that are not yet in DATA frames.
#[derive(Default)]
pub struct Outgoing {
    bytes: VecDeque<u8>,
    /// Bytes from the front to the end of each message, and its length.
    ends: VecDeque<(usize, u32)>,
}

impl Outgoing {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether one frame has room for all of it.
    pub fn fits(&self) -> bool {
        self.bytes.len() <= MAX_FRAME - 300
    }

    /// Adds bytes that are not a message.
    pub fn push_other(&mut self, random: &mut Random) {
        let length = 1 + random.below(300);
        self.bytes.extend(std::iter::repeat_n(BODY, length));
    }

    pub fn push(&mut self, random: &mut Random) {
        let length = match random.below(20) {
            0..5 => 0,
            5..19 => random.below(200),
            _ => random.below(40_000),
        };
        self.bytes.push_back(u8::from(random.chance(100)));
        self.bytes.extend((length as u32).to_be_bytes());
        self.bytes.extend(std::iter::repeat_n(BODY, length));
        self.ends.push_back((self.bytes.len(), length as u32));
    }
}

/// The writer of one direction of a connection.
pub struct Writer {
    encoder: Encoder,
    /// Not written to the socket yet.
    pub bytes: VecDeque<u8>,
    pub marks: VecDeque<Mark>,
    /// Position in the stream after `bytes`.
    end: u64,
}

impl Writer {
    pub fn new(random: &mut Random) -> Self {
        let encoder = Encoder::new(random);
        Self { encoder, bytes: VecDeque::new(), marks: VecDeque::new(), end: 0 }
    }

    pub fn preface(&mut self) {
        self.bytes.extend(PREFACE);
        self.end += PREFACE.len() as u64;
    }

    /// Appends a frame; returns where it begins.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> u64 {
        let begin = self.end;
        self.bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        self.bytes.extend([kind, flags]);
        self.bytes.extend(stream.to_be_bytes());
        self.bytes.extend(payload);
        self.end += 9 + payload.len() as u64;
        begin
    }

    fn mark(&mut self, begin: u64, end: u64, happening: Happening) {
        self.marks.push_back(Mark { begin, end, happening });
    }

    /// Appends a field block: a HEADERS frame, perhaps with padding or a priority, and perhaps CONTINUATION frames.
    pub fn headers(
        &mut self,
        random: &mut Random,
        stream: u32,
        fields: &[Field],
        end_stream: bool,
        happening: Option<Happening>,
    ) {
        let block = self.encoder.encode(random, fields);
        let (mut before, mut after, mut flags) = (Vec::new(), Vec::new(), 0);
        if random.chance(100) {
            flags |= flag::PADDED;
            let padding = random.below(256);
            before.push(padding as u8);
            after.resize(padding, 0);
        }
        if random.chance(100) {
            flags |= flag::PRIORITY;
            before.extend([0, 0, 0, 0, 200]);
        }
        flags |= if end_stream { flag::END_STREAM } else { 0 };
        let begin = self.block(random, kind::HEADERS, flags, stream, [&before, &block, &after]);
        if let Some(happening) = happening {
            self.mark(begin, self.end, happening);
        }
    }

    /// Appends a PUSH_PROMISE, perhaps with CONTINUATION frames.
    pub fn promise(&mut self, random: &mut Random, stream: u32, promised: u32, fields: &[Field]) {
        let block = self.encoder.encode(random, fields);
        let before = promised.to_be_bytes();
        self.block(random, kind::PUSH_PROMISE, 0, stream, [&before, &block, &[]]);
    }

    fn block(
        &mut self,
        random: &mut Random,
        kind: u8,
        flags: u8,
        stream: u32,
        [before, mut block, after]: [&[u8]; 3],
    ) -> u64 {
        let mut fragments = Vec::new();
        while block.len() > MAX_FRAME - 300 || random.chance(150) {
            let (fragment, rest) =
                block.split_at(random.below(block.len().min(MAX_FRAME - 300) + 1));
            fragments.push(fragment);
            block = rest;
        }
        fragments.push(block);
        let last = fragments.len() - 1;
        let end_headers = |at| if at == last { flag::END_HEADERS } else { 0 };
        let first = [before, fragments[0], after].concat();
        let begin = self.frame(kind, flags | end_headers(0), stream, &first);
        for (at, fragment) in fragments.iter().enumerate().skip(1) {
            self.frame(kind::CONTINUATION, end_headers(at), stream, fragment);
        }
        begin
    }

    /// Appends a DATA frame with some of the bytes of `outgoing`.
    pub fn data(
        &mut self,
        random: &mut Random,
        stream: u32,
        from_client: bool,
        outgoing: &mut Outgoing,
        end: Option<Happening>,
    ) {
        let most = outgoing.bytes.len().min(MAX_FRAME - 300);
        let n = match most {
            0 => 0,
            // An empty frame is allowed.
            _ if end.is_none() && random.chance(30) => 0,
            _ if end.is_none() => random.part_of(most),
            _ => most,
        };
        let data: Vec<u8> = outgoing.bytes.drain(..n).collect();
        let padding = random.chance(150).then(|| random.below(256));
        let before: Vec<u8> = padding.iter().map(|&length| length as u8).collect();
        let after = vec![0; padding.unwrap_or(0)];
        let padded = if before.is_empty() { 0 } else { flag::PADDED };
        let end_stream = if end.is_some() { flag::END_STREAM } else { 0 };
        let payload = [&before[..], &data, &after].concat();
        let begin = self.frame(kind::DATA, padded | end_stream, stream, &payload);
        let data_begin = begin + 9 + before.len() as u64;
        while let Some(&(at, length)) = outgoing.ends.front()
            && at <= n
        {
            let at = data_begin + at as u64;
            self.mark(begin, at, Happening::Message { stream, from_client, length });
            outgoing.ends.pop_front();
        }
        outgoing.ends.iter_mut().for_each(|(at, _)| *at -= n);
        if let Some(happening) = end {
            self.mark(begin, self.end, happening);
        }
    }

    pub fn reset(&mut self, stream: u32, by_client: bool, error: u32) {
        let begin = self.frame(kind::RST_STREAM, 0, stream, &error.to_be_bytes());
        self.mark(begin, self.end, Happening::Reset { stream, by_client, error });
    }

    pub fn go_away(&mut self, last_stream: u32) {
        let payload = [last_stream.to_be_bytes(), [0; 4]].concat();
        let begin = self.frame(kind::GOAWAY, 0, 0, &payload);
        self.mark(begin, self.end, Happening::GoAway { last_stream });
    }
}

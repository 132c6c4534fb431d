//! Puts frames and header blocks together from the pieces that records hold.

use observer_common::{
    frame::{FrameHeader, flag, kind},
    scanner::MAX_KEPT,
};

/// Bound on a header block that is put together from HEADERS and CONTINUATION frames. Libraries
/// accept 8 KiB to 64 KiB; one that never ends must not fill memory.
pub const MAX_BLOCK: usize = 1 << 20;

/// A buffer larger than this is freed once what was in it has been read.
const KEPT: usize = 1 << 12;

/// Something in pieces, of one direction: its head, and its bytes so far.
#[derive(Debug, Default)]
pub struct Assembly<H> {
    head: H,
    bytes: Vec<u8>,
    open: bool,
}

/// A frame in pieces.
pub type FrameAssembly = Assembly<FrameHeader>;

/// A header block in pieces.
pub type BlockAssembly = Assembly<BlockHead>;

impl<H> Assembly<H> {
    fn open(&mut self, head: H, bytes: &[u8]) {
        self.head = head;
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.open = true;
    }

    /// Whether something has begun and is not complete.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Drops what has begun, and its memory.
    pub fn clear(&mut self) {
        self.open = false;
        self.bytes = Vec::new();
    }

    /// Frees much memory, after what is complete has been read.
    pub fn release(&mut self) {
        if !self.open && self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
    }

    /// The memory that it has allocated, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

impl FrameAssembly {
    /// Takes the first payload bytes of a frame that is not whole.
    pub fn begin(&mut self, header: FrameHeader, payload: &[u8]) {
        self.open(header, payload);
    }

    /// Takes more of the frame, and returns it once it is complete.
    pub fn part(&mut self, payload: &[u8]) -> Option<(FrameHeader, &[u8])> {
        if !self.open || self.bytes.len() + payload.len() > MAX_KEPT as usize {
            self.clear();
            return None;
        }
        self.bytes.extend_from_slice(payload);
        if (self.bytes.len() as u64) < u64::from(self.head.length) {
            return None;
        }
        self.open = false;
        Some((self.head, &self.bytes))
    }
}

/// What is known of a header block before its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockHead {
    /// The stream that it is on.
    pub stream: u32,
    /// Whether the HEADERS frame ended the stream.
    pub end_stream: bool,
    /// Whether the server announces a request with it (PUSH_PROMISE): no call, but the decoder must see it.
    pub promised: bool,
}

/// A header block that is complete, with its bytes.
pub type Block<'a> = (BlockHead, &'a [u8]);

/// Why there is no header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The block goes on in a CONTINUATION frame.
    NeedMore,
    /// The frames are not as RFC 9113 §6.2 and §6.10 want them, or the block is longer than
    /// [`MAX_BLOCK`]: a block is in a gap.
    Lost,
}

impl BlockAssembly {
    /// Takes a HEADERS, PUSH_PROMISE or CONTINUATION frame.
    pub fn frame<'a>(
        &'a mut self,
        header: FrameHeader,
        payload: &'a [u8],
    ) -> Result<Block<'a>, BlockError> {
        if header.kind == kind::CONTINUATION {
            return self.continuation(header, payload);
        }
        if self.open {
            // Nothing may come between HEADERS and its CONTINUATION (RFC 9113 §6.10).
            self.clear();
            return Err(BlockError::Lost);
        }
        let fragment = fragment(header, payload).ok_or(BlockError::Lost)?;
        let promised = header.kind == kind::PUSH_PROMISE;
        let end_stream = !promised && header.has(flag::END_STREAM);
        let head = BlockHead { stream: header.stream, end_stream, promised };
        if header.has(flag::END_HEADERS) {
            return Ok((head, fragment));
        }
        self.open(head, fragment);
        Err(BlockError::NeedMore)
    }

    fn continuation(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Block<'_>, BlockError> {
        let fits = self.bytes.len() + payload.len() <= MAX_BLOCK;
        if !self.open || header.stream != self.head.stream || !fits {
            self.clear();
            return Err(BlockError::Lost);
        }
        self.bytes.extend_from_slice(payload);
        if !header.has(flag::END_HEADERS) {
            return Err(BlockError::NeedMore);
        }
        self.open = false;
        Ok((self.head, &self.bytes))
    }
}

/// The field block fragment of a HEADERS (RFC 9113 §6.2) or PUSH_PROMISE (§6.6) frame.
///
/// ```text
/// +---------------+-----------------------------------------------+
/// | Pad Length? 8 | PRIORITY: dependency 32, weight 8             |
/// +---------------+   PUSH_PROMISE: promised stream 32            |
/// +---------------------------------------------------------------+
/// | Field block fragment …                                        |
/// +---------------------------------------------------------------+
/// | Padding …                                                     |
/// +---------------------------------------------------------------+
/// ```
fn fragment(header: FrameHeader, mut payload: &[u8]) -> Option<&[u8]> {
    let mut padding = 0;
    if header.has(flag::PADDED) {
        let (length, rest) = payload.split_first()?;
        padding = usize::from(*length);
        payload = rest;
    }
    if header.kind == kind::PUSH_PROMISE {
        payload = payload.get(4..)?;
    } else if header.has(flag::PRIORITY) {
        payload = payload.get(5..)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}

#[cfg(test)]
mod tests {
    use super::{BlockAssembly, BlockError, FrameAssembly, MAX_BLOCK};
    use observer_common::frame::{FrameHeader, flag, kind};

    fn header(kind: u8, flags: u8, stream: u32, length: usize) -> FrameHeader {
        FrameHeader { length: length as u32, stream, kind, flags, _reserved: 0 }
    }

    fn block(kind: u8, flags: u8, payload: &[u8]) -> Result<Vec<u8>, BlockError> {
        BlockAssembly::default()
            .frame(header(kind, flags, 1, payload.len()), payload)
            .map(|(_, bytes)| bytes.to_vec())
    }

    #[test]
    fn padding_and_priority_are_no_part_of_the_block() {
        let end = flag::END_HEADERS;
        assert_eq!(block(kind::HEADERS, end, b"abc").unwrap(), b"abc");
        assert_eq!(block(kind::HEADERS, end | flag::PADDED, b"\x02abc..").unwrap(), b"abc");
        assert_eq!(block(kind::HEADERS, end | flag::PRIORITY, b"12345abc").unwrap(), b"abc");
        let both = end | flag::PRIORITY | flag::PADDED;
        assert_eq!(block(kind::HEADERS, both, b"\x0112345abc.").unwrap(), b"abc");
        assert_eq!(block(kind::PUSH_PROMISE, end | flag::PADDED, b"\x001234abc").unwrap(), b"abc");
        assert_eq!(block(kind::HEADERS, end, b"").unwrap(), b"");
    }

    #[test]
    fn frames_too_short_for_their_flags_are_lost() {
        let end = flag::END_HEADERS;
        for (flags, payload) in [
            (flag::PADDED, &b""[..]),
            (flag::PADDED, b"\x04abc"),
            (flag::PRIORITY, b"1234"),
            (flag::PRIORITY | flag::PADDED, b"\x0112345"),
        ] {
            assert_eq!(block(kind::HEADERS, end | flags, payload), Err(BlockError::Lost));
        }
        assert_eq!(block(kind::PUSH_PROMISE, end, b"123"), Err(BlockError::Lost));
    }

    #[test]
    fn continuations_are_put_together() {
        let mut assembly = BlockAssembly::default();
        let first = header(kind::HEADERS, flag::END_STREAM, 5, 2);
        assert_eq!(assembly.frame(first, b"ab"), Err(BlockError::NeedMore));
        let more = header(kind::CONTINUATION, 0, 5, 1);
        assert_eq!(assembly.frame(more, b"c"), Err(BlockError::NeedMore));
        let last = header(kind::CONTINUATION, flag::END_HEADERS, 5, 2);
        let (head, bytes) = assembly.frame(last, b"de").unwrap();
        assert_eq!((head.stream, bytes, head.end_stream), (5, &b"abcde"[..], true));
    }

    #[test]
    fn a_continuation_out_of_place_is_lost() {
        let mut assembly = BlockAssembly::default();
        let last = header(kind::CONTINUATION, flag::END_HEADERS, 5, 0);
        assert_eq!(assembly.frame(last, b""), Err(BlockError::Lost), "without HEADERS");
        let first = header(kind::HEADERS, 0, 3, 0);
        assert_eq!(assembly.frame(first, b""), Err(BlockError::NeedMore));
        assert_eq!(assembly.frame(last, b""), Err(BlockError::Lost), "of another stream");
        assert_eq!(assembly.frame(first, b""), Err(BlockError::NeedMore));
        assert_eq!(assembly.frame(first, b""), Err(BlockError::Lost), "HEADERS instead");
    }

    #[test]
    fn a_block_that_never_ends_is_given_up() {
        let mut assembly = BlockAssembly::default();
        let chunk = vec![0; 1 << 16];
        assert!(assembly.frame(header(kind::HEADERS, 0, 1, chunk.len()), &chunk).is_err());
        let more = header(kind::CONTINUATION, 0, 1, chunk.len());
        let mut outcomes = (0..32).map(|_| assembly.frame(more, &chunk).unwrap_err());
        assert_eq!(
            outcomes.position(|outcome| outcome == BlockError::Lost),
            Some(MAX_BLOCK / chunk.len() - 1)
        );
        assert_eq!(assembly.bytes.capacity(), 0);
    }

    #[test]
    fn frames_are_put_together_from_parts() {
        let mut assembly = FrameAssembly::default();
        let whole = header(kind::HEADERS, 0, 1, 5);
        assembly.begin(whole, b"ab");
        assert!(assembly.part(b"c").is_none());
        assert!(assembly.is_open());
        assert_eq!(assembly.part(b"de"), Some((whole, &b"abcde"[..])));
        assert!(!assembly.is_open());
        assert!(assembly.part(b"x").is_none(), "a part of nothing");
    }
}

//! Puts frames and field blocks together from the pieces in records.

use observer_common::{
    frame::{FrameHeader, flag, kind},
    scanner::MAX_KEPT,
};

/// Bound on a field block of several frames: 1 MiB. Libraries accept 8 KiB to 64 KiB; a block that never ends must not
/// fill the memory.
pub const MAX_BLOCK: usize = 1 << 20;

/// A buffer larger than this is freed after it has been read.
const KEPT: usize = 1 << 12;

/// The pieces of a frame or field block of one direction: its head `H`, and its bytes so far.
#[derive(Debug, Default)]
pub struct Assembly<H> {
    head: H,
    bytes: Vec<u8>,
    open: bool,
}

/// The pieces of a frame.
pub type FrameAssembly = Assembly<FrameHeader>;

/// The pieces of a field block.
pub type BlockAssembly = Assembly<BlockHead>;

impl<H> Assembly<H> {
    /// Takes the head, and the first bytes.
    pub fn begin(&mut self, head: H, bytes: &[u8]) {
        self.head = head;
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.open = true;
    }

    /// Whether there is a piece, and more pieces are missing.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Drops the pieces, and frees their memory.
    pub fn clear(&mut self) {
        self.open = false;
        self.bytes = Vec::new();
    }

    /// Frees the memory of a large buffer, after the complete frame or block has been read.
    pub fn release(&mut self) {
        if !self.open && self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
    }

    /// The memory of the buffer, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

impl FrameAssembly {
    /// Takes more payload bytes, and returns the frame once it is complete. Drops a frame longer than [`MAX_KEPT`].
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

/// The head of a field block: the first frame's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockHead {
    /// The identifier of the block's stream.
    pub stream: u32,
    /// Whether the HEADERS frame ended the stream.
    pub end_stream: bool,
    /// Whether the block is of a PUSH_PROMISE frame. It starts no call, but the decoder needs it.
    pub promised: bool,
}

/// A complete field block: its head and its bytes.
pub type Block<'a> = (BlockHead, &'a [u8]);

/// The reason why a frame does not complete a field block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The block goes on in a CONTINUATION frame.
    NeedMore,
    /// A block is in a gap: the frames are not in the order of RFC 9113 §6.2 and §6.10, a frame is too short, or the
    /// block is longer than [`MAX_BLOCK`].
    Lost,
}

impl BlockAssembly {
    /// Takes a HEADERS, PUSH_PROMISE or CONTINUATION frame, and returns the field block if the frame completes it.
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
        self.begin(head, fragment);
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
    fn frames_too_short_for_their_flags_are_gaps() {
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
    fn a_continuation_out_of_place_is_a_gap() {
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
        let lost = outcomes.position(|outcome| outcome == BlockError::Lost);
        assert_eq!(lost, Some(MAX_BLOCK / chunk.len() - 1));
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

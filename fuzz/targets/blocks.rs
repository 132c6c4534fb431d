//! Field blocks assembled from frames in any order, compared with a simple model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_common::frame::{FrameHeader, flag, kind};
use observer_core::protocol::http2::frames::{BlockAssembly, BlockError, FrameAssembly, MAX_BLOCK};
use observer_fuzz::input::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut blocks = BlockAssembly::default();
    let mut open: Option<(u32, Vec<u8>)> = None;
    while !input.is_empty() {
        let choice = input.byte();
        let kind = [kind::HEADERS, kind::CONTINUATION, kind::PUSH_PROMISE][usize::from(choice % 3)];
        let (flags, stream) = (input.byte(), u32::from(choice >> 6));
        // Repeated, so that the bound is reached.
        let payload = input.bytes().repeat(if choice & 4 == 0 { 1 } else { 64 });
        let header =
            FrameHeader { length: payload.len() as u32, stream, kind, flags, _reserved: 0 };
        let expected = model(&mut open, header, &payload);
        let block = blocks.frame(whole(header, &payload, choice), &payload);
        assert_eq!(block.map(|(head, bytes)| (head.stream, bytes.to_vec())), expected);
        blocks.release();
        assert!(blocks.memory() <= 2 * MAX_BLOCK);
    }
});

/// The header of the same frame, assembled from parts.
fn whole(header: FrameHeader, payload: &[u8], choice: u8) -> FrameHeader {
    let cut = payload.len() * usize::from(choice >> 3) / 32;
    let (first, rest) = payload.split_at(cut);
    let mut frames = FrameAssembly::default();
    frames.begin(header, first);
    let Some((middle, last)) = rest.split_at_checked(1) else { return header };
    let (header, bytes) = match frames.part(middle) {
        Some(whole) => whole,
        None => frames.part(last).expect("all of its bytes are there"),
    };
    assert_eq!(bytes, payload);
    header
}

type Outcome = Result<(u32, Vec<u8>), BlockError>;

fn model(open: &mut Option<(u32, Vec<u8>)>, header: FrameHeader, payload: &[u8]) -> Outcome {
    let begun = open.take();
    let (stream, block) = match begun {
        Some((stream, mut block)) => {
            let follows = header.kind == kind::CONTINUATION && header.stream == stream;
            if !follows || block.len() + payload.len() > MAX_BLOCK {
                return Err(BlockError::Lost);
            }
            block.extend(payload);
            (stream, block)
        }
        None if header.kind == kind::CONTINUATION => return Err(BlockError::Lost),
        None => (header.stream, fragment(header, payload).ok_or(BlockError::Lost)?.to_vec()),
    };
    if header.has(flag::END_HEADERS) {
        return Ok((stream, block));
    }
    *open = Some((stream, block));
    Err(BlockError::NeedMore)
}

/// RFC 9113 sections 6.2 and 6.6.
fn fragment(header: FrameHeader, payload: &[u8]) -> Option<&[u8]> {
    let mut begin = 0;
    let mut end = payload.len();
    if header.has(flag::PADDED) {
        begin += 1;
        end = end.checked_sub(usize::from(*payload.first()?))?;
    }
    begin += match header.kind {
        kind::PUSH_PROMISE => 4,
        _ if header.has(flag::PRIORITY) => 5,
        _ => 0,
    };
    payload.get(begin..end)
}

//! One direction's frames and header fields, compared with those that `h2` decodes, as far as it decodes.
#![no_main]

use std::collections::HashMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream as _;
use h2::Codec;
use h2::frame::{self, Frame, Pseudo};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use observer_common::driver::connection::Shared;
use observer_common::frame::{FrameHeader, flag, kind};
use observer_common::scanner::Scanner;
use observer_core::protocol::http2::frames::{BlockAssembly, BlockError};
use observer_core::{
    names::Interner,
    protocol::hpack::{Decoder, Error, Field},
};
use observer_fuzz::drive::{Driver, Seen, take_messages};
use observer_fuzz::fields::{decode, meaning};
use observer_fuzz::input::Input;

/// A frame, or several DATA frames, as both decode it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    /// Sorted fields, because `h2` does not keep their order; `None` for an invalid block.
    Headers {
        stream: u32,
        ends: bool,
        fields: Option<Vec<String>>,
    },
    /// Messages that end in consecutive DATA frames of a stream: their number, and the sum of their lengths.
    Data {
        stream: u32,
        ends: bool,
        messages: u64,
        bytes: u64,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    GoAway {
        last: u32,
    },
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let cut = usize::from(input.byte()) + 1;
    let mut bytes = Vec::new();
    while !input.is_empty() {
        let choice = input.byte();
        let kind = [
            kind::DATA,
            kind::HEADERS,
            kind::HEADERS,
            kind::CONTINUATION,
            kind::DATA,
            kind::RST_STREAM,
            kind::GOAWAY,
            input.byte(),
        ][usize::from(choice & 7)];
        let (flags, stream) = (input.byte(), u32::from(choice >> 4 & 3) * 2 + 1);
        let payload = input.bytes();
        bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
    }
    let mut interner = Interner::new(64);
    let (mut theirs, to_the_end) = theirs(&bytes, &mut interner);
    let (mut ours, misread) = ours(&bytes, cut, &mut interner);
    if let Some(from) = misread {
        for read in [&mut theirs, &mut ours] {
            read.truncate(from);
            drop_data(read);
        }
    }
    // If `h2` gives up a connection or a stream, our side continues.
    let compared = if to_the_end {
        ours.len()
    } else {
        drop_data(&mut theirs);
        theirs.len()
    };
    assert_eq!(ours.get(..compared), Some(&theirs[..]));
});

/// Removes DATA frames at the end of a list: the other list may have more messages there.
fn drop_data(read: &mut Vec<Read>) {
    read.pop_if(|last| matches!(last, Read::Data { .. }));
}

/// Adds messages that end in a DATA frame, or in several.
fn add_data(read: &mut Vec<Read>, of: u32, also_ends: bool, more: u64, more_bytes: u64) {
    match read.last_mut() {
        Some(Read::Data { stream, ends, messages, bytes }) if *stream == of => {
            *ends |= also_ends;
            *messages += more;
            *bytes += more_bytes;
        }
        _ if more != 0 || also_ends => {
            read.push(Read::Data {
                stream: of,
                ends: also_ends,
                messages: more,
                bytes: more_bytes,
            });
        }
        _ => {}
    }
}

/// Our frames, and the first one from which on `h2` decodes differently without an error.
fn ours(bytes: &[u8], cut: usize, interner: &mut Interner) -> (Vec<Read>, Option<usize>) {
    let mut driver = Driver::new(Scanner::at_frame());
    for piece in bytes.chunks(cut) {
        driver.feed(piece);
    }
    let mut blocks = BlockAssembly::default();
    let mut decoder = Decoder::from_start();
    let mut names = loona_hpack::Decoder::new();
    let mut misread = None;
    // The first frame of the open block.
    let mut begun = FrameHeader::default();
    let mut read = Vec::new();
    for seen in &driver.seen {
        let (header, kept) = match seen {
            Seen::Kept(header, kept) => (header, kept),
            Seen::Data(data) => {
                add_data(&mut read, data.stream, data.ends, data.messages, data.bytes);
                continue;
            }
            Seen::Tail(..) | Seen::Head(..) => {
                unreachable!("only gRPC-Web and HTTP/1.1 have these")
            }
        };
        let stream = header.stream;
        match header.kind {
            kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION => {
                if header.kind != kind::CONTINUATION {
                    begun = *header;
                }
                let fields = match blocks.frame(*header, kept) {
                    Ok((_, bytes)) => {
                        let fields = decode(&mut decoder, bytes, interner);
                        let nameless = names
                            .decode(bytes)
                            .is_ok_and(|fields| fields.iter().any(|(name, _)| name.is_empty()));
                        // In a block of several frames, `h2` leaves out a field without a name, and allows a size
                        // update at the start of each frame.
                        if nameless || matches!(fields, Err(Error::TableSizeMisplaced)) {
                            misread.get_or_insert(read.len());
                        }
                        fields.ok().map(known)
                    }
                    Err(BlockError::NeedMore) => continue,
                    Err(BlockError::Lost) => None,
                };
                blocks.release();
                if begun.kind != kind::PUSH_PROMISE {
                    let ends = begun.has(flag::END_STREAM);
                    read.push(Read::Headers { stream, ends, fields });
                }
            }
            kind::RST_STREAM => read.push(Read::Reset { stream, code: number(kept) }),
            kind::GOAWAY => read.push(Read::GoAway { last: number(kept) & 0x7fff_ffff }),
            _ => {}
        }
    }
    (read, misread)
}

/// The number in the first four bytes.
fn number(payload: &[u8]) -> u32 {
    payload.first_chunk().copied().map_or(0, u32::from_be_bytes)
}

/// The fields that have a meaning in gRPC, sorted.
fn known(fields: Vec<Field>) -> Vec<String> {
    let known = fields.iter().filter(|field| !matches!(field, Field::Other | Field::Authority(_)));
    let mut known: Vec<String> = known.map(|field| format!("{field:?}")).collect();
    known.sort();
    known
}

/// The frames of `h2`, and whether it decoded all of the bytes.
fn theirs(bytes: &[u8], interner: &mut Interner) -> (Vec<Read>, bool) {
    let mut codec = pin!(Codec::<_, Bytes>::with_max_recv_frame_size(
        tokio::io::join(bytes, tokio::io::sink()),
        (1 << 24) - 1
    ));
    let mut context = Context::from_waker(Waker::noop());
    let mut read = Vec::new();
    let mut messages = HashMap::new();
    let mut resets = Shared::default();
    loop {
        let frame = match codec.as_mut().poll_next(&mut context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(None) => return (read, true),
            _ => return (read, false),
        };
        match frame {
            Frame::Headers(headers) => {
                if headers.is_over_size() {
                    return (read, false);
                }
                let (stream, ends) = (headers.stream_id().into(), headers.is_end_stream());
                let (pseudo, fields) = headers.into_parts();
                let fields = Some(known(meanings(&pseudo, &fields, interner)));
                read.push(Read::Headers { stream, ends, fields });
            }
            Frame::Data(data) if !resets.is_reset(data.stream_id().into()) => {
                add_messages(&mut read, &data, &mut messages);
            }
            Frame::Reset(reset) => {
                let stream = reset.stream_id().into();
                read.push(Read::Reset { stream, code: reset.reason().into() });
                resets.reset(stream);
                messages.remove(&stream);
            }
            Frame::GoAway(goaway) => {
                read.push(Read::GoAway { last: goaway.last_stream_id().into() });
            }
            _ => {}
        }
    }
}

fn meanings(pseudo: &Pseudo, fields: &HeaderMap, interner: &mut Interner) -> Vec<Field> {
    let method = pseudo.method.as_ref().map(|method| method.as_str());
    let status = pseudo.status.as_ref().map(|status| status.as_str());
    let path = pseudo.path.as_deref();
    let pseudo = [(":method", method), (":path", path), (":status", status)];
    let pseudo = pseudo.iter().filter_map(|(name, value)| Some((*name, (*value)?.as_bytes())));
    let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    pseudo.chain(fields).map(|(name, value)| meaning(name.as_bytes(), value, interner)).collect()
}

/// Adds the gRPC messages in a DATA frame. `h2` does not know messages, so they are found in its payloads.
fn add_messages(
    read: &mut Vec<Read>,
    data: &frame::Data<Bytes>,
    streams: &mut HashMap<u32, Option<Vec<u8>>>,
) {
    let (stream, ends) = (data.stream_id().into(), data.is_end_stream());
    let mut lengths = Vec::new();
    let unfinished = streams.entry(stream).or_insert_with(|| Some(Vec::new()));
    if let Some(bytes) = unfinished {
        bytes.extend(data.payload());
        if !take_messages(bytes, &mut lengths) {
            *unfinished = None;
        }
    }
    if ends {
        streams.remove(&stream);
    }
    let bytes = lengths.iter().map(|&length| u64::from(length)).sum();
    add_data(read, stream, ends, lengths.len() as u64, bytes);
}

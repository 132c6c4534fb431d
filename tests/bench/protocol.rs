//! The protocol core by itself: field blocks and frames.

use std::hint::black_box;
use std::pin::Pin;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use h2::Codec;
use http::Request;
use observer_common::frame::{FrameHeader, HEADER_LENGTH, kind};
use observer_common::scanner::{Scanner, Take, event};
use observer_core::{
    names::Interner,
    protocol::hpack::{Decoder, Digester, Field},
};
use support::raw::frames::{Frames, PREFACE, Shape};
use support::raw::hpack::Encoder;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Builder;

use crate::figures::{Bound, Results};
use crate::nghttp2::Inflater;

const REPEATS: usize = 9;

/// The blocks of one repeat; fewer if each has its own decoder, which is slow to create in some libraries.
const TURNS: u32 = 20_000;
const FRESH_TURNS: u32 = 500;

const fn turns(fresh: bool) -> u32 {
    if fresh { FRESH_TURNS } else { TURNS }
}

/// The fields of a request besides its pseudo-header fields.
const FIELDS: [(&str, &str); 4] = [
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "grpc-bench/1.0"),
    ("grpc-accept-encoding", "identity,gzip"),
];

/// Field blocks of a connection's requests, from an encoder that inserts all fields into the dynamic table, as
/// grpc-go's does.
struct Inserted {
    first: Vec<u8>,
    /// Only indexed fields.
    indexed: Vec<u8>,
}

impl Inserted {
    fn encode() -> Result<Self> {
        let pseudo = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "orders.shop:50051"),
            (":path", "/shop.v1.Orders/Place"),
        ];
        let fields = [&pseudo[..], &FIELDS].concat();
        let mut encoder = Encoder::default();
        let (first, indexed) = (encoder.block(&fields), encoder.block(&fields));
        let is_indexed = indexed.len() == fields.len() && indexed.iter().all(|&octet| octet > 0x80);
        ensure!(is_indexed, "{indexed:x?} is not {} references", fields.len());
        Ok(Self { first, indexed })
    }
}

/// Field blocks of a connection's requests, from h2's encoder: with Huffman codes, and with the path as a literal
/// each time, which it never inserts into the dynamic table.
struct Blocks {
    /// All fields but the path are inserted into the table.
    first: Vec<u8>,
    /// Indexed fields and the path.
    repeated: Vec<u8>,
    /// Indexed fields, the path, and a field that is not inserted either.
    literal: Vec<u8>,
}

impl Blocks {
    fn encode() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let bytes = runtime.block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            let (mut requests, connection) = h2::client::handshake(ours).await?;
            let connection = tokio::spawn(connection);
            let mut open = Vec::new();
            for id in [None, None, Some("4bf92f3577b34da6a3ce929d0e0e4736")] {
                let request = Request::post("http://orders.shop:50051/shop.v1.Orders/Place");
                let request = FIELDS
                    .iter()
                    .fold(request, |request, (name, value)| request.header(*name, *value));
                // Not inserted, so that the block has the same meaning each time.
                let value = id.map(http::HeaderValue::from_static).map(|mut id| {
                    id.set_sensitive(true);
                    id
                });
                let request = value.into_iter().fold(request, |r, id| r.header("x-request-id", id));
                open.push(requests.send_request(request.body(())?, true)?);
            }
            let mut bytes = vec![0; 1 << 16];
            let mut length = 0;
            while frames(bytes.get(..length).unwrap_or_default()).len() < 3 {
                let room = bytes.get_mut(length..).context("three requests are longer")?;
                length += theirs.read(room).await?;
            }
            bytes.truncate(length);
            drop((open, requests, theirs));
            // It ends with an error, because there was no answer.
            let _ = connection.await;
            anyhow::Ok(bytes)
        })?;
        let mut blocks = frames(&bytes).into_iter();
        let mut next = || blocks.next().context("three field blocks");
        Ok(Self { first: next()?, repeated: next()?, literal: next()? })
    }
}

/// The payloads of the complete HEADERS frames after a client preface.
fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes.get(PREFACE.len()..).unwrap_or_default();
    let mut blocks = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<{ HEADER_LENGTH as usize }>() {
        let header = FrameHeader::parse(*header);
        let Some((payload, after)) = after.split_at_checked(header.length as usize) else { break };
        if header.kind == kind::HEADERS {
            blocks.push(payload.to_vec());
        }
        rest = after;
    }
    blocks
}

/// The kind of blocks for which the decoder must not remember the block before.
const LOOKED_UP: &str = "nothing but references, not as before";

/// Measures the nanoseconds for each block, with several decoders.
pub(crate) fn hpack(results: &mut Results) -> Result<()> {
    let (inserted, blocks) = (Inserted::encode()?, Blocks::encode()?);
    let ahead = Some(Bound::AtLeast(3.0));
    let kinds = [
        ("first request of a connection", &blocks.first, &blocks.first, true, None),
        ("nothing but references", &inserted.first, &inserted.indexed, false, ahead),
        (LOOKED_UP, &inserted.first, &inserted.indexed, false, None),
        ("references and the path", &blocks.first, &blocks.repeated, false, ahead),
        ("references, the path and a literal", &blocks.first, &blocks.literal, false, None),
    ];
    for (name, first, block, fresh, ahead) in kinds {
        let mut samples = [const { Vec::new() }; 4];
        for _ in 0..REPEATS {
            let [ours, h2, loona, nghttp2] = &mut samples;
            ours.push(our_ns(first, block, fresh, name == LOOKED_UP)?);
            h2.push(h2_ns(first, block, fresh)?);
            loona.push(loona_ns(first, block, fresh)?);
            nghttp2.push(nghttp2_ns(first, block, fresh)?);
        }
        let mut medians = Vec::new();
        for (decoder, samples) in
            ["ours", "h2's codec", "loona-hpack", "nghttp2"].iter().zip(samples)
        {
            medians.push(results.add(format!("{name}: {decoder}"), "ns", None, samples));
        }
        if let [ours, others @ ..] = &*medians {
            let times = others.iter().copied().fold(f64::INFINITY, f64::min) / ours;
            results.add(format!("{name}: the best other ÷ ours"), "", ahead, vec![times]);
        }
    }
    Ok(())
}

fn per_turn(begin: Instant, fresh: bool) -> f64 {
    begin.elapsed().as_nanos() as f64 / f64::from(turns(fresh))
}

/// The nanoseconds for each block with our decoder, as connections use it; `forget`: without the block before.
fn our_ns(first: &[u8], block: &[u8], fresh: bool, forget: bool) -> Result<f64> {
    let mut interner = Interner::new(16);
    let start = || Digester::<u32>::new(Decoder::from_start());
    let mut headers = start();
    let decode = |headers: &mut Digester<u32>, interner: &mut Interner, block: &[u8]| {
        let (unknown, decoded) = headers.digest(block, interner, |unknown, field| {
            *unknown += u32::from(black_box(field) == Field::Unknown);
        });
        decoded.map_err(|error| anyhow!("{error:?}"))?;
        ensure!(unknown == 0, "{unknown} unknown fields");
        Ok(())
    };
    decode(&mut headers, &mut interner, first)?;
    let begin = Instant::now();
    for _ in 0..turns(fresh) {
        if fresh {
            headers = start();
        } else if forget {
            headers = Digester::new(headers.decoder);
        }
        decode(&mut headers, &mut interner, black_box(block))?;
    }
    Ok(per_turn(begin, fresh))
}

fn loona_ns(first: &[u8], block: &[u8], fresh: bool) -> Result<f64> {
    let mut decoder = loona_hpack::Decoder::new();
    let decode = |decoder: &mut loona_hpack::Decoder<'_>, block: &[u8]| {
        let decoded = decoder.decode_with_cb(block, |name, value| {
            black_box((name, value));
        });
        decoded.map_err(|error| anyhow!("{error:?}"))
    };
    decode(&mut decoder, first)?;
    let begin = Instant::now();
    for _ in 0..turns(fresh) {
        if fresh {
            decoder = loona_hpack::Decoder::new();
        }
        decode(&mut decoder, black_box(block))?;
    }
    Ok(per_turn(begin, fresh))
}

fn nghttp2_ns(first: &[u8], block: &[u8], fresh: bool) -> Result<f64> {
    let mut decoder = Inflater::new()?;
    decoder.decode(first)?;
    let begin = Instant::now();
    for _ in 0..turns(fresh) {
        if fresh {
            decoder = Inflater::new()?;
        }
        decoder.decode(black_box(block))?;
    }
    Ok(per_turn(begin, fresh))
}

/// The nanoseconds for each block in a frame: h2's decoder is private.
fn h2_ns(first: &[u8], block: &[u8], fresh: bool) -> Result<f64> {
    let headers = |block: &[u8], stream: u32| {
        let mut frames = Frames::of("", Shape::default());
        frames.frame(kind::HEADERS, 5, stream, block);
        frames.take().0
    };
    let runtime = Builder::new_current_thread().build().context("a runtime")?;
    let mut elapsed = 0.0;
    // Several blocks for each codec, if they need not be the first.
    let turns_each = if fresh { 1 } else { TURNS };
    let mut bytes = if fresh { Vec::new() } else { headers(first, 1) };
    for turn in 0..turns_each {
        bytes.extend(headers(block, 2 * turn + 3));
    }
    for _ in 0..turns(fresh) / turns_each {
        let io = tokio::io::join(&*bytes, tokio::io::sink());
        let begin = Instant::now();
        let mut codec: Codec<_, Bytes> = Codec::new(io);
        runtime.block_on(async {
            let mut codec = Pin::new(&mut codec);
            while let Some(frame) = codec.next().await {
                black_box(frame.map_err(|error| anyhow!("{error:?}"))?);
            }
            anyhow::Ok(())
        })?;
        elapsed += begin.elapsed().as_nanos() as f64;
    }
    Ok(elapsed / f64::from(turns(fresh)))
}

/// Measures the nanoseconds for each frame, and bytes of DATA per second, of the scanner over bytes in memory.
pub(crate) fn scanner(results: &mut Results) -> Result<()> {
    const FRAMES: usize = 100_000;
    let mut calls = Frames::of("shop.v1.Orders", Shape::default());
    for call in 0..FRAMES / 2 {
        let stream = 2 * call as u32 + 1;
        calls.request(stream, "Place").last_message(stream, 20);
    }
    let mut messages = Frames::of("shop.v1.Orders", Shape::default());
    for _ in 0..64 {
        messages.message(1, 1 << 20);
    }
    let (calls, messages) = (calls.take().0, messages.take().0);
    let (mut frame, mut rate) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let begin = Instant::now();
        let frames = scan(black_box(&calls))?;
        ensure!(frames == FRAMES, "{frames} of {FRAMES} frames");
        frame.push(begin.elapsed().as_nanos() as f64 / FRAMES as f64);
        let begin = Instant::now();
        scan(black_box(&messages))?;
        rate.push(messages.len() as f64 / begin.elapsed().as_nanos() as f64);
    }
    results.add("a frame (HEADERS, DATA with a message of 20 B)", "ns", None, frame);
    results.add("DATA passed over, messages of 1 MiB in frames of 16 KiB", "GB/s", None, rate);
    Ok(())
}

/// Walks over bytes as the BPF programs do; returns the number of frames that ended.
fn scan(mut bytes: &[u8]) -> Result<usize> {
    let mut scanner = Scanner::at_frame();
    let mut frames = 0;
    while !bytes.is_empty() {
        let want = scanner.want();
        let n = bytes.len().min(want.length as usize);
        let (taken, rest) = bytes.split_at_checked(n).context("bytes")?;
        if want.take == Take::Read {
            let at = want.at as usize;
            scanner.buffer.get_mut(at..at + n).context("a place")?.copy_from_slice(taken);
        }
        frames += usize::from(scanner.took(want, n as u32) & event::FRAME_END != 0);
        bytes = rest;
    }
    Ok(frames)
}

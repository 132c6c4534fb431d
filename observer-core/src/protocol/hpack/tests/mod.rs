//! Tests of the decoder as a whole.

mod appendix_c;
mod blocks;
mod h2_peers;
mod properties;
mod reference;

use super::{ContentType, Decoder, Error, Field, RequestMethod, Timeout, TraceParent, huffman};
use crate::{
    call::TraceId,
    names::{Interner, ParentId},
};

/// The Huffman encoding of a text of any length.
pub(crate) fn encode_huffman(text: &[u8]) -> Vec<u8> {
    let mut bits: Vec<bool> = text
        .iter()
        .map(|&octet| huffman::CODES[usize::from(octet)])
        .flat_map(|(code, width)| (0..width).rev().map(move |bit| code >> bit & 1 == 1))
        .collect();
    bits.resize(bits.len().next_multiple_of(8), true);
    bits.chunks(8).map(|octet| octet.iter().fold(0, |sum, &bit| sum << 1 | u8::from(bit))).collect()
}

/// The meaning of a field from its strings, to compare with.
fn meaning(name: &[u8], value: &[u8], interner: &mut Interner) -> Field {
    let text = String::from_utf8_lossy(value);
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    match name {
        b":method" => Field::Method(match &*text {
            "POST" => RequestMethod::Post,
            "GET" => RequestMethod::Get,
            _ => RequestMethod::Other,
        }),
        b":authority" => Field::Authority(interner.intern_authority(value)),
        b":path" => Field::Path(interner.intern(value)),
        b":status" if is_number => Field::Status(text.parse().unwrap_or(0)),
        b":status" => Field::Status(0),
        b"content-type" => {
            let lower = text.to_ascii_lowercase();
            Field::ContentType(if lower.starts_with("application/grpc-web") {
                ContentType::GrpcWeb
            } else if lower == "application/grpc"
                || lower.starts_with("application/grpc+")
                || lower.starts_with("application/grpc;")
            {
                ContentType::Grpc
            } else {
                ContentType::Other
            })
        }
        b"grpc-status" if is_number && value.len() <= 10 => Field::GrpcStatus(text.parse().ok()),
        b"grpc-status" => Field::GrpcStatus(None),
        b"grpc-timeout" => Field::GrpcTimeout(timeout(&text).map(Timeout::of_nanoseconds)),
        b"tracestate" if value.len() <= 512 => Field::TraceState(interner.states.keep(value)),
        b"traceparent" => Field::TraceParent(trace(&text)),
        b"connect-protocol-version" => Field::Connect,
        b"connect-timeout-ms" if is_number && value.len() <= 10 => Field::ConnectTimeout(
            text.parse().ok().map(|ms: u64| Timeout::of_nanoseconds(ms * 1_000_000)),
        ),
        b"connect-timeout-ms" => Field::ConnectTimeout(None),
        b"grpc-message" => Field::GrpcMessage(interner.texts.keep(value)),
        _ => Field::Other,
    }
}

/// The trace of a `traceparent` of version 0, which is all that other tests have.
fn trace(text: &str) -> Option<TraceParent> {
    let parts: Vec<&str> = text.split('-').collect();
    let ["00", trace, parent, flags] = parts[..] else { return None };
    let number = |text: &str, len| {
        let lower = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        (text.len() == len && text.chars().all(lower))
            .then(|| u128::from_str_radix(text, 16).ok())?
    };
    let (trace, parent, flags) = (number(trace, 32)?, number(parent, 16)?, number(flags, 2)?);
    // Parents are not kept here.
    let of = |trace: u128| TraceParent {
        trace: TraceId(trace.to_be_bytes()),
        parent: ParentId::default(),
        is_sampled: flags % 2 == 1,
    };
    (trace != 0 && parent != 0).then(|| of(trace))
}

fn timeout(text: &str) -> Option<u64> {
    let (unit, nanoseconds) = [
        ("n", 1),
        ("u", 1_000),
        ("m", 1_000_000),
        ("S", 1_000_000_000),
        ("M", 60_000_000_000),
        ("H", 3_600_000_000_000),
    ]
    .into_iter()
    .find(|(unit, _)| text.ends_with(unit))?;
    let digits = text.strip_suffix(unit)?;
    if digits.len() > 8 || digits.starts_with('+') {
        return None;
    }
    digits.parse::<u64>().ok().map(|count| count.saturating_mul(nanoseconds))
}

fn decode(
    decoder: &mut Decoder,
    block: &[u8],
    interner: &mut Interner,
) -> Result<Vec<Field>, Error> {
    let mut fields = Vec::new();
    decoder.decode(block, interner, |field| fields.push(field))?;
    Ok(fields)
}

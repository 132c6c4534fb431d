//! Bodies of gRPC-Web, in each encoding, cut in every way.

use proptest::prelude::*;

use super::{Data, Driver, Scanner, Seen, flag, frame, kind};
use crate::scanner::web::{MAX_TAIL, Tail, value_of};

const TRAILERS: &[u8] = b"grpc-status:5\r\ngrpc-message:no%20such\r\n";

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Binary,
    /// As text, in one piece.
    Text,
    /// As text, each message and the tail by itself.
    TextByMessage,
}

const ENCODINGS: [Encoding; 3] = [Encoding::Binary, Encoding::Text, Encoding::TextByMessage];

fn prefixed(flags: u8, content: &[u8]) -> Vec<u8> {
    [&[flags][..], &(content.len() as u32).to_be_bytes(), content].concat()
}

fn base64(octets: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    octets
        .chunks(3)
        .flat_map(|group| {
            let octet = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
            let all = octet(0) << 16 | octet(1) << 8 | octet(2);
            [18, 12, 6, 0].into_iter().enumerate().map(move |(at, shift)| {
                if at > group.len() { b'=' } else { ALPHABET[(all >> shift & 63) as usize] }
            })
        })
        .collect()
}

fn decoded(text: u8, characters: &[u8]) -> Vec<u8> {
    if text == 0 {
        return characters.to_vec();
    }
    let mut bits = vec![];
    let left = [0, 6, 4, 2][usize::from(text >> Tail::PLACE & 3)];
    bits.extend((0..left).rev().map(|bit| text >> bit & 1));
    for character in characters {
        let value = value_of(*character) as u8;
        bits.extend((0..6).rev().map(|bit| value >> bit & 1));
    }
    bits.chunks_exact(8).map(|octet| octet.iter().fold(0, |all, bit| all << 1 | bit)).collect()
}

fn body(encoding: Encoding, messages: &[Vec<u8>], trailers: &[u8]) -> Vec<u8> {
    let tail = prefixed(0x80, trailers);
    let all = messages.iter().map(|message| prefixed(0, message)).chain([tail]);
    match encoding {
        Encoding::Binary => all.flatten().collect(),
        Encoding::Text => base64(&all.flatten().collect::<Vec<u8>>()),
        Encoding::TextByMessage => all.flat_map(|part| base64(&part)).collect(),
    }
}

fn driver() -> Driver {
    let mut driver = Driver::new(Scanner::at_frame());
    driver.maps.web = true;
    driver
}

/// DATA frames of stream 1 with this body, cut at these lengths, between frames of stream 3 that are cut too.
fn frames(body: &[u8], cuts: &[usize], between: bool) -> Vec<u8> {
    let (mut rest, mut bytes) = (body, Vec::new());
    for cut in cuts.iter().cycle() {
        let (part, after) = rest.split_at((*cut).min(rest.len()));
        rest = after;
        let end = rest.is_empty();
        bytes.extend(frame(kind::DATA, if end { flag::END_STREAM } else { 0 }, 1, part));
        if end {
            break;
        }
        if between {
            bytes.extend(frame(kind::DATA, 0, 3, &[0, 0, 0, 0, 2, 7]));
            bytes.extend(frame(kind::DATA, 0, 3, &[7]));
        }
    }
    bytes
}

/// Messages, their bytes, whether the stream ended and is framed, and the trailers.
fn summary(driver: &Driver) -> (u64, u64, bool, bool, Vec<Vec<u8>>) {
    let (mut messages, mut bytes, mut ends, mut unaligned) = (0, 0, false, false);
    let mut tails = Vec::new();
    for seen in &driver.seen {
        match seen {
            Seen::Data(Data { stream: 1, messages: m, bytes: b, ends: e, unaligned: u }) => {
                assert!(!ends, "something after the end");
                (messages, bytes, ends, unaligned) = (messages + m, bytes + b, *e, unaligned | u);
            }
            Seen::Tail(1, tail, content) => {
                assert!(!ends, "a tail after the end");
                assert_eq!(content.len(), tail.length as usize);
                tails.push(decoded(tail.text, content));
            }
            _ => {}
        }
    }
    (messages, bytes, ends, unaligned, tails)
}

proptest! {
    #[test]
    fn messages_and_trailers_are_found_however_they_are_cut(
        encoding in prop::sample::select(&ENCODINGS[..]),
        lengths in prop::collection::vec(prop_oneof![0_usize..8, 0_usize..700], 0..4),
        cuts in prop::collection::vec(prop_oneof![6_usize..40, 100_usize..2000], 1..4),
        transfers in prop::collection::vec(1_usize..900, 1..4),
        between in any::<bool>(),
    ) {
        let messages: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0xff; *length]).collect();
        let body = body(encoding, &messages, TRAILERS);
        let bytes = frames(&body, &cuts, between);
        let mut driver = driver();
        let mut rest = &bytes[..];
        for transfer in transfers.iter().cycle() {
            let (now, after) = rest.split_at((*transfer).min(rest.len()));
            driver.feed(now);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let (count, total, ends, unaligned, tails) = summary(&driver);
        prop_assert!(ends);
        if unaligned {
            // A message began with the last five characters of a frame.
            prop_assert_eq!(encoding, Encoding::TextByMessage);
        } else {
            prop_assert_eq!(count, messages.len() as u64);
            prop_assert_eq!(total, lengths.iter().sum::<usize>() as u64);
            prop_assert_eq!(tails, vec![TRAILERS.to_vec()]);
        }
        prop_assert!(driver.maps.messages.keys().all(|(_, stream, _)| *stream != 1));
    }

    /// Only what is asked for: without the flag nothing of a body is copied.
    #[test]
    fn without_the_flag_no_byte_is_copied(
        encoding in prop::sample::select(&ENCODINGS[..]),
        cuts in prop::collection::vec(6_usize..100, 1..4),
    ) {
        let bytes = frames(&body(encoding, &[b"a message".to_vec()], TRAILERS), &cuts, false);
        let mut driver = Driver::new(Scanner::at_frame());
        driver.feed(&bytes);
        prop_assert!(driver.seen.iter().all(|seen| matches!(seen, Seen::Data(_))));
    }

    #[test]
    fn any_bytes_are_walked_over(
        body in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(&b"AgAAAA==gAAA\x80\x81\0\0\0\0\x05"[..])],
            0..300,
        ),
        cuts in prop::collection::vec(1_usize..40, 1..4),
        transfers in prop::collection::vec(1_usize..90, 1..4),
        missed in 0_usize..20,
    ) {
        let bytes = [frames(&body, &cuts, true), frame(kind::PING, 0, 0, &[0; 8])].concat();
        let mut driver = driver();
        let mut rest = &bytes[..];
        for (turn, transfer) in transfers.iter().cycle().enumerate() {
            let (now, after) = rest.split_at((*transfer).min(rest.len()));
            rest = after;
            if turn == missed {
                driver.miss(now.len());
            } else {
                driver.feed(now);
            }
            if rest.is_empty() {
                break;
            }
        }
        for seen in &driver.seen {
            if let Seen::Tail(_, tail, content) = seen {
                prop_assert!(content.len() <= MAX_TAIL as usize / 3 * 4 + 4);
                prop_assert!(tail.length as usize >= content.len());
            }
        }
    }
}

/// What is skipped of a message is not read: only its prefix and its last characters are.
#[test]
fn long_messages_as_text_are_skipped() {
    let messages = [vec![1; 200_000]];
    let bytes = frames(&body(Encoding::Text, &messages, TRAILERS), &[16_384], false);
    let mut driver = driver();
    for part in bytes.chunks(10_000) {
        driver.feed(part);
    }
    assert_eq!(summary(&driver), (1, 200_000, true, false, vec![TRAILERS.to_vec()]));
}

#[test]
fn trailers_that_are_too_long_are_not_copied() {
    let long = vec![b'x'; MAX_TAIL as usize + 1];
    for encoding in ENCODINGS {
        let mut driver = driver();
        driver.feed(&frames(&body(encoding, &[vec![1; 3]], &long), &[5000], false));
        assert_eq!(summary(&driver), (1, 3, true, true, vec![]), "{encoding:?}");
    }
}

/// Of an error of Connect only the number of its code is reported.
#[test]
fn codes_of_errors_are_found_wherever_transfers_are_cut() {
    let rows: [(&[u8], Option<u8>); 9] = [
        (br#"{"code":"not_found","message":"no such"}"#, Some(5)),
        (br#"{"code": "unavailable"}"#, Some(14)),
        (br#"{"code":"unauthenticated"}"#, Some(16)),
        (br#"{"code":"canceled"}"#, Some(1)),
        (br#"{"code":"something"}"#, None),
        (br#"{"code":"abort"#, None),
        (br#"{"code":5,"id":"not_found"}"#, None),
        (br#"{"codes":"not_found"}"#, None),
        (br#"{"message":"x","code":"aborted"}"#, None),
    ];
    for (body, code) in rows {
        let bytes = frames(body, &[1_000], false);
        for cut in 0..=bytes.len() {
            let mut driver = driver();
            driver.feed(&bytes[..cut]);
            driver.feed(&bytes[cut..]);
            let tails = driver.seen.iter().filter_map(|seen| match seen {
                Seen::Tail(1, Tail { flags: Tail::ERROR, text, length: 0 }, bytes) => {
                    assert_eq!(bytes, b"");
                    Some(*text)
                }
                Seen::Tail(..) => panic!("{seen:?}"),
                _ => None,
            });
            assert_eq!(tails.collect::<Vec<_>>(), code.into_iter().collect::<Vec<_>>());
            assert!(summary_of_end(&driver), "{body:?}");
        }
    }
}

/// Whether the stream has ended, and is not framed as messages.
fn summary_of_end(driver: &Driver) -> bool {
    let data = driver.seen.iter().find_map(|seen| match seen {
        Seen::Data(data) => Some(data.ends && data.unaligned),
        _ => None,
    });
    data == Some(true)
}

/// The last message of a Connect stream is copied, and is not counted.
#[test]
fn the_last_message_of_a_connect_stream_is_copied() {
    for flags in [2, 3] {
        let end = br#"{"error":{"code":"aborted"}}"#;
        let body = [prefixed(1, &[9; 40]), prefixed(flags, end)].concat();
        for cut in [7, 44, 50, 1_000] {
            let mut driver = driver();
            driver.feed(&frames(&body, &[cut], false));
            assert_eq!(summary(&driver), (1, 40, true, false, vec![end.to_vec()]), "{cut}");
        }
    }
}

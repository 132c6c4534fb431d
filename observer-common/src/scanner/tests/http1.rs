//! HTTP/1.1 messages, cut in every way, against a straightforward reading.

use proptest::prelude::*;

use super::{
    Data, Driver, Seen,
    drive::{Reading, reference_http1, whole},
    message,
};
use crate::record::direction;

/// What the driver finds in bytes that come in pieces of these lengths.
fn found(bytes: &[u8], are_responses: bool, cuts: &[usize]) -> (Vec<Seen>, bool) {
    let mut driver = Driver::of_http1(are_responses);
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        driver.feed(now);
        rest = later;
    }
    (whole(driver.seen), !driver.refused)
}

fn check(bytes: &[u8], are_responses: bool, cuts: &[usize]) {
    let Reading { seen, is_valid } = reference_http1(bytes, are_responses);
    let (found, followed) = found(bytes, are_responses, cuts);
    let text = bytes.escape_ascii();
    assert_eq!(found, whole(seen), "{text} in {cuts:?}");
    if let Some(is_valid) = is_valid {
        assert_eq!(followed, is_valid, "{text} in {cuts:?}");
    }
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(size) {
        bytes.extend(format!("{:x};of=test\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\ntrailer: 1\r\n\r\n");
    bytes
}

/// Requests of every framing, one after the other.
fn requests() -> Vec<u8> {
    let body = [message(3), message(300), message(0)].concat();
    let length = body.len();
    [
        b"GET /a?connect=v1 HTTP/1.1\r\nhost: x\r\ncookie: c\r\n\r\n".to_vec(),
        format!("POST /a/b HTTP/1.1\r\nContent-Length: {length} \r\nContent-Type: y\r\n\r\n")
            .into_bytes(),
        body.clone(),
        b"POST /a/b HTTP/1.1\nCONTENT-LENGTH:0\n\n".to_vec(),
        b"POST /a/b HTTP/1.1\r\ntransfer-encoding: Chunked\r\nte: x\r\n\r\n".to_vec(),
        chunked(&body, 7),
        b"HEAD /abcdef HTTP/1.1\r\n\r\n".to_vec(),
        b"POST /a/b HTTP/1.1\r\nTransfer-Encoding:chunked\r\n\r\n".to_vec(),
        chunked(&body, 1000),
    ]
    .concat()
}

fn responses() -> Vec<u8> {
    let body = [message(300), message(1)].concat();
    let length = body.len();
    [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nlink: y\r\n\r\n".to_vec(),
        format!("HTTP/1.1 200 OK\r\nupgrade: h2c\r\ncontent-length: {length}\r\n\r\n").into_bytes(),
        body.clone(),
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.0 304 \r\ncontent-length: 7\r\n\r\n".to_vec(),
        b"HTTP/1.1 200\r\ntransfer-encoding: chunked\r\ntransfer: 3\r\n\r\n".to_vec(),
        chunked(&body, 100),
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n".to_vec(),
    ]
    .concat()
}

#[test]
fn messages_are_found_however_they_are_cut() {
    for (bytes, are_responses, heads) in [(requests(), false, 6), (responses(), true, 7)] {
        let Reading { seen, is_valid } = reference_http1(&bytes, are_responses);
        assert_eq!(is_valid, Some(true));
        let count = |is: fn(&Seen) -> bool| seen.iter().filter(|seen| is(seen)).count();
        assert_eq!(count(|seen| matches!(seen, Seen::Head(..))), heads);
        for cut in (1..40).chain([bytes.len() / 2, bytes.len()]) {
            check(&bytes, are_responses, &[cut]);
        }
        // Every end.
        for end in 0..bytes.len() {
            check(&bytes[..end], are_responses, &[end.max(1)]);
        }
    }
}

#[test]
fn messages_of_bodies_are_counted() {
    let (found, followed) = found(&requests(), false, &[5]);
    assert!(followed);
    let data = |stream: u32| {
        found.iter().find_map(|seen| match seen {
            Seen::Data(data) if data.stream == stream => Some(data.clone()),
            _ => None,
        })
    };
    for (stream, messages, bytes) in [(1, 0, 0), (3, 3, 303), (5, 0, 0), (7, 3, 303), (11, 3, 303)]
    {
        let want = Data { stream, messages, bytes, ends: true, unaligned: false };
        assert_eq!(data(stream), Some(want));
    }
}

#[test]
fn what_is_not_clear_is_not_followed() {
    for (head, are_responses) in [
        ("POST / HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ncontent-length: 4294967296\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ncontent-length:\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ncontent-length : 1\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ncontent-length: 1\r\n 2\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chun ked\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\r\n", false),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n123456789\r\n", false),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxx", false),
        ("GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", false),
        ("CONNECT a:80 HTTP/1.1\r\n\r\n", false),
        ("GET /\r\n\r\n\r\n\r\n\r\n", false),
        ("\r\nGET / HTTP/1.1\r\n\r\n", false),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\n\r\n", true),
        ("HTTP/1.1 2x0 OK\r\n\r\n", true),
        ("HTTP/2.0 200 OK\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", true),
    ] {
        for cut in 1..head.len() {
            assert!(!found(head.as_bytes(), are_responses, &[cut]).1, "{head:?} in {cut}");
        }
        check(head.as_bytes(), are_responses, &[3]);
    }
    let head = |length: usize| {
        let start = "GET / HTTP/1.1\r\nx: ";
        format!("{start}{}\r\n\r\n", "y".repeat(length - start.len() - 4))
    };
    for (length, is_followed) in [(65_530, true), (65_537, true), (65_538, false), (80_000, false)]
    {
        let head = head(length);
        assert_eq!(found(head.as_bytes(), false, &[1_000]).1, is_followed, "{length}");
        check(head.as_bytes(), false, &[4_096]);
    }
}

#[test]
fn the_response_to_head_has_no_body() {
    let mut driver = Driver::of_http1(true);
    let head = b"HEAD /abcdef HTTP/1.1\r\n\r\n";
    driver.transfer(direction::SENT, &[&head[..], b"POST /abcde HTTP/1.1\r\n\r\n"].concat());
    driver.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 700\r\n\r\n");
    driver.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0");
    let ends: Vec<u32> = driver
        .seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Data(Data { stream, ends: true, .. }) => Some(*stream),
            _ => None,
        })
        .collect();
    assert!(!driver.refused);
    assert_eq!(ends, [1, 3]);
    // It is seen after its response.
    driver.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0");
    driver.transfer(direction::SENT, head);
    assert!(driver.refused);
}

#[test]
fn a_gap_in_a_body_is_passed_over_and_any_other_is_not() {
    let head = b"POST /a HTTP/1.1\r\ncontent-length: 100\r\n\r\n";
    for (before, gap, is_followed) in
        [(50, 30, true), (1, 99, true), (0, 100, true), (0, 101, false), (60, 41, false)]
    {
        let mut driver = Driver::of_http1(false);
        driver.feed(&[&head[..], &message(95)[..before]].concat());
        driver.miss(gap);
        driver.feed(&vec![0xaa; 100_usize.saturating_sub(before + gap)]);
        driver.feed(b"GET /b HTTP/1.1\r\n\r\n");
        let heads = driver.seen.iter().filter(|seen| matches!(seen, Seen::Head(..))).count();
        assert_eq!((!driver.refused, heads), (is_followed, 1 + usize::from(is_followed)), "{gap}");
    }
    let mut driver = Driver::of_http1(false);
    driver.feed(&head[..20]);
    driver.miss(1);
    driver.feed(&head[21..]);
    assert!(driver.refused);
}

proptest! {
    #[test]
    fn any_messages_are_found_however_they_are_cut(
        parts in prop::collection::vec(prop::sample::select(vec![
            &b"POST /a/b HTTP/1.1\r\n"[..], b"HEAD /abcdef HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 100 Continue\r\n", b"content-length: 7\r\n", b"transfer-encoding: chunked\r\n",
            b"\r\n", b"\n", b"\r\n\r\n", b"\0\0\0\0\x02xy", b"7\r\n", b"0\r\n", b"c: d\r\n", b"upgrade: x\r\n",
            b"content-", b"t", b" ", b":", b"content-length: 0\r\n", b"HTTP/1.1 204 No\r\n",
        ]), 0..30),
        are_responses: bool,
        cuts in prop::collection::vec(1..30_usize, 1..6),
    ) {
        check(&parts.concat(), are_responses, &cuts);
    }

    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1..40_usize) {
        for are_responses in [false, true] {
            for start in [&b"POST /a HTTP/1.1\r\n"[..], b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"] {
                check(&[start, &bytes].concat(), are_responses, &[cut]);
            }
        }
    }
}

//! The records of TLS connections between real peers, cut in every way, and of peers that send anything.

use proptest::prelude::*;
use rustls::{HandshakeKind, SupportedCipherSuite, crypto::ring::cipher_suite};

use super::{
    cipher::Cipher,
    records::{Records, event},
};

mod balance;
mod drive;
mod hello;
mod peers;

use drive::{Shown, feed, reference};
use peers::{Conversation, FROM_CLIENT, FROM_SERVER, Options, Peers};

const TLS_1_3: SupportedCipherSuite = cipher_suite::TLS13_AES_128_GCM_SHA256;
const TLS_1_2: SupportedCipherSuite = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;

/// What gRPC sends: small, of several records, and of lengths that records of other types have.
const LENGTHS: &[usize] = &[100, 9, 30_000, 5, 16_386, 2, 13, 100_000, 1, 16_384, 300, 300];

/// A connection with this suite that talks for a while.
fn conversation(suite: SupportedCipherSuite, lengths: &[usize]) -> Conversation {
    let mut peers = Peers::new(&Options::of(suite)).connect(&[]);
    peers.talk(lengths);
    peers
}

/// All bytes of a direction, fed at once.
fn read(bytes: &[u8]) -> Records {
    let mut records = Records::at_opening();
    feed(&mut records, bytes);
    records
}

/// A record.
fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
    let length = (fragment.len() as u16).to_be_bytes();
    [&[kind, 3, 3][..], &length, fragment].concat()
}

fn application(length: usize) -> Vec<u8> {
    record(23, &vec![0x17; length])
}

fn alert() -> Vec<u8> {
    record(21, &[1, 0])
}

#[test]
fn hellos_of_all_suites_are_read_and_records_counted() {
    for suite in peers::suites() {
        let peers = conversation(suite, LENGTHS);
        let [client, server] = [FROM_CLIENT, FROM_SERVER].map(|way| peers.bytes(way));
        let (client, server) = (read(&client), read(&server));
        assert_eq!(client.client_random().unwrap(), &peers.client_random()[..], "{suite:?}");
        assert!(client.hello().has_h2() && client.hello().is_client());
        assert!(client.hello().cipher().is_none() && server.client_random().is_none());
        let cipher = server.hello().cipher().unwrap();
        let is_1_3 = suite.tls13().is_some();
        assert_eq!(cipher.hides_types(), is_1_3);
        // With TLS 1.3 the server's answer is encrypted.
        assert_eq!(server.hello().has_h2(), !is_1_3);
        let name = format!("{suite:?}");
        let overhead = match () {
            () if is_1_3 => 17,
            () if name.contains("GCM") => 24,
            () => 16,
        };
        assert_eq!(cipher.overhead(), Some(overhead), "{suite:?}");
        for (way, records) in [(FROM_CLIENT, &client), (FROM_SERVER, &server)] {
            assert_eq!(Shown::of(records), reference(&peers.bytes(way)).0, "{suite:?}");
            assert!(records.is_at_boundary() && records.gap_bytes() == 0);
        }
    }
}

#[test]
fn a_client_that_must_try_again_has_the_same_random() {
    for suite in [TLS_1_3, cipher_suite::TLS13_AES_256_GCM_SHA384] {
        let mut peers = Peers::new(&Options { retry: true, ..Options::of(suite) }).connect(&[]);
        peers.talk(&[100]);
        assert_eq!(peers.kind(), HandshakeKind::FullWithHelloRetryRequest);
        let client = read(&peers.bytes(FROM_CLIENT));
        assert_eq!(client.client_random().unwrap(), &peers.client_random()[..]);
        assert_eq!(client.handshakes(), 2, "both hellos");
        let server = read(&peers.bytes(FROM_SERVER));
        assert_eq!(server.hello().cipher().unwrap().overhead(), Some(17));
    }
}

#[test]
fn a_session_that_is_resumed_has_hellos_too() {
    for suite in [TLS_1_3, TLS_1_2] {
        let peers = Peers::new(&Options::of(suite));
        peers.connect(&[]).talk(&[]);
        let mut again = peers.connect(&[]);
        again.talk(LENGTHS);
        assert_eq!(again.kind(), HandshakeKind::Resumed);
        let client = read(&again.bytes(FROM_CLIENT));
        assert_eq!(client.client_random().unwrap(), &again.client_random()[..]);
        let server = read(&again.bytes(FROM_SERVER));
        assert!(server.hello().cipher().unwrap().overhead().is_some());
    }
}

#[test]
fn h2_is_found_among_the_names_that_a_client_offers() {
    for (client_alpn, server_alpn, offered, selected) in [
        (vec![], vec![], false, false),
        (vec!["h2"], vec![], true, false),
        (vec!["http/1.1"], vec!["http/1.1"], false, false),
        (vec!["grpc-exp", "h2"], vec!["h2"], true, true),
        (vec!["h3", "h2", "http/1.1"], vec!["http/1.1"], true, false),
        (vec!["h3", "2h", "h", "h2c"], vec!["h3"], false, false),
    ] {
        for suite in [TLS_1_3, TLS_1_2] {
            let options = Options {
                client_alpn: client_alpn.clone(),
                server_alpn: server_alpn.clone(),
                ..Options::of(suite)
            };
            let mut peers = Peers::new(&options).connect(&[]);
            peers.run();
            let client = read(&peers.bytes(FROM_CLIENT));
            assert!(client.hello().is_client());
            assert_eq!(client.hello().has_h2(), offered, "{client_alpn:?}");
            let server = read(&peers.bytes(FROM_SERVER));
            let is_1_2 = suite.tls13().is_none();
            assert_eq!(server.hello().has_h2(), is_1_2 && selected, "{client_alpn:?}");
        }
    }
}

#[test]
fn cut_anywhere_the_records_are_the_same() {
    for suite in [TLS_1_3, TLS_1_2] {
        let peers = conversation(suite, &[100, 9, 300, 2, 5]);
        for way in [FROM_CLIENT, FROM_SERVER] {
            let bytes = peers.bytes(way);
            let whole = read(&bytes);
            for cut in 0..=bytes.len() {
                let mut records = read(&bytes[..cut]);
                assert_eq!(Shown::of(&records), reference(&bytes[..cut]).0, "up to {cut}");
                feed(&mut records, &bytes[cut..]);
                assert_eq!(Shown::of(&records), Shown::of(&whole), "cut at {cut}");
                assert_eq!(records.hello(), whole.hello(), "cut at {cut}");
                assert_eq!(records.client_random(), whole.client_random(), "cut at {cut}");
            }
            let mut records = Records::at_opening();
            for byte in bytes.chunks(1) {
                feed(&mut records, byte);
            }
            assert_eq!(Shown::of(&records), Shown::of(&whole), "byte by byte");
            assert_eq!(records.client_random(), whole.client_random(), "byte by byte");
        }
    }
}

#[test]
fn what_is_no_tls_is_found_with_the_first_header() {
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\n",
        &[0; 20],
        &[23, 3, 3, 0, 30],
        &[20, 3, 3, 0, 1, 1],
        &[22, 3, 4, 0, 30],
        &[22, 2, 0, 0, 30],
        &[22, 3, 1, 0, 0],
        &[22, 3, 1, 65, 1],
    ] {
        let mut records = Records::at_opening();
        for byte in bytes[..4].chunks(1) {
            assert_eq!(feed(&mut records, byte), 0);
        }
        assert_eq!(feed(&mut records, &bytes[4..5]), event::NOT_TLS, "{bytes:?}");
        assert!(!records.is_in_sync());
        // Nothing follows that would be.
        feed(&mut records, &[application(30), application(30), application(30)].concat());
        assert!(!records.is_in_sync() && records.application() == 0);
        assert_eq!(records.gap_bytes(), records.bytes());
    }
    let mut records = Records::at_opening();
    assert_eq!(feed(&mut records, &alert()), event::RECORD, "a server may refuse at once");
}

#[test]
fn the_longest_record_is_one() {
    for (length, is_one) in [(1, true), (16_640, true), (16_641, false)] {
        let mut records = read(&alert());
        let events = feed(&mut records, &application(length));
        assert_eq!(events, if is_one { event::RECORD } else { event::NOT_RECORD }, "{length}");
    }
}

#[test]
fn a_gap_within_a_fragment_costs_nothing() {
    let bytes = [alert(), application(100), application(200)].concat();
    let (from, to) = (7 + 5, 7 + 105);
    for start in from..to {
        for end in start + 1..=to {
            let mut records = read(&bytes[..start]);
            let events = records.pass_gap((end - start) as u64);
            assert_eq!(events, Some(u32::from(end == to) * event::RECORD));
            feed(&mut records, &bytes[end..]);
            assert_eq!(Shown::of(&records), reference(&bytes).0, "{start}..{end}");
        }
    }
}

#[test]
fn a_gap_in_the_hello_costs_the_hello_alone() {
    let bytes = conversation(TLS_1_3, &[100]).bytes(FROM_CLIENT);
    for start in [5, 40, 100] {
        let mut records = read(&bytes[..start]);
        assert!(records.pass_gap(1).is_some());
        feed(&mut records, &bytes[start + 1..]);
        assert_eq!(Shown::of(&records), reference(&bytes).0);
        assert!(records.hello().is_refused() && records.client_random().is_none());
    }
    // What looks like one later is not the first message.
    let mut records = read(&alert());
    assert!(records.pass_gap(10_000).is_none());
    feed(&mut records, &[application(30), application(30), bytes.clone()].concat());
    assert!(records.handshakes() > 0 && records.client_random().is_none());
    let hello = 5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    let mut records = read(&bytes[..hello]);
    assert!(records.pass_gap(3).is_none());
    assert!(records.client_random().is_some(), "all of it was read before the gap");
}

#[test]
fn after_a_gap_two_records_show_where_they_begin() {
    let before = [alert(), application(100)].concat();
    for (have, missed) in [(before.len(), 1), (before.len() - 1, 2), (9, 200), (before.len(), 700)]
    {
        let mut records = read(&before[..have]);
        assert_eq!(records.pass_gap(missed), None);
        assert!(!records.is_in_sync() && records.gaps() == 1);
        // A transfer that does not begin with a record.
        assert_eq!(feed(&mut records, &[0; 500]), 0);
        // One that does, and ends in the middle of the next.
        let record = application(300);
        assert_eq!(feed(&mut records, &record), 0);
        assert!(!records.is_in_sync() && records.application() == u64::from(have == before.len()));
        let lost = records.gap_bytes();
        assert_eq!(feed(&mut records, &record[..5]), event::RESYNC | event::RECORD);
        assert!(records.is_in_sync() && records.gaps() == 1);
        assert_eq!(records.gap_bytes(), lost - record.len() as u64, "that was one");
        assert_eq!(feed(&mut records, &record[5..]), event::RECORD);
        assert_eq!(feed(&mut records, &alert()), event::RECORD);
        assert!(records.is_at_boundary());
        assert_eq!(records.last_application(), 300);
    }
}

#[test]
fn a_boundary_that_only_looks_like_one_is_given_up() {
    let mut records = Records::joined_late();
    for bad in [
        [application(30), record(22, &[0; 30])].concat(),
        [application(30), record(23, &[0; 16])].concat(),
        [application(30), b"\x17\x03\x01\0\x20".to_vec()].concat(),
        b"\x17\x03\x03\0\x10".to_vec(),
        b"\x17\x03\x03\x41\x01".to_vec(),
        // Not all of a header, but enough.
        b"\x16".to_vec(),
        b"\x17\x02".to_vec(),
        b"\x17\x03\x02\0".to_vec(),
    ] {
        assert_eq!(feed(&mut records, &bad), 0, "{bad:?}");
        assert!(!records.is_in_sync() && records.gaps() == 0);
        assert_eq!(records.gap_bytes(), records.bytes());
    }
    assert_eq!(records.application(), 0);
    let good = [application(30), application(31)].concat();
    let events: u32 = good.chunks(3).fold(0, |events, part| events | feed(&mut records, part));
    assert_eq!(events, event::RESYNC | event::RECORD);
    assert_eq!((records.application(), records.content(17)), (2, 13 + 14));
    // Here it is one no longer.
    let events = feed(&mut records, &[application(30), vec![9; 90]].concat());
    assert_eq!(events, event::RECORD | event::NOT_RECORD);
    assert_eq!((records.gaps(), records.application()), (1, 3));
    assert_eq!(records.pass_gap(10), None);
    assert_eq!(records.gaps(), 1, "it was out of sync already");
}

#[test]
fn suites_add_as_many_bytes_as_their_ciphers_need() {
    for (overhead, version) in [(16, 0x0303), (17, 0x0304), (24, 0x0303)] {
        let cipher = Cipher::of_overhead(overhead).unwrap();
        assert!(cipher.is_known());
        assert_eq!(cipher.overhead(), Some(overhead));
        assert_eq!(cipher.hides_types(), version == 0x0304);
    }
    assert_eq!(Cipher::of_overhead(29), None);
    assert!(!Cipher::default().is_known());
}

/// Records as peers send them, and now and then something else.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop_oneof![20 => Just(23_u8), 3 => 20..24_u8, 1 => any::<u8>()];
    let lengths = prop_oneof![
        Just(19_usize),
        Just(22),
        1..100_usize,
        prop_oneof![Just(0_usize), Just(16_640), Just(16_641)],
    ];
    let records = (kinds, lengths).prop_map(|(kind, length)| record(kind, &vec![0x16; length]));
    let records = prop::collection::vec(records, 0..20).prop_map(|records| records.concat());
    (prop_oneof![9 => Just(alert()), 1 => Just(Vec::new())], records, 0..2_000_usize).prop_map(
        |(first, records, end)| {
            let mut bytes = [first, records].concat();
            bytes.truncate(end);
            bytes
        },
    )
}

proptest! {
    #[test]
    fn any_records_cut_at_random(
        bytes in any_stream(),
        cuts in prop::collection::vec(1..50_usize, 1..10),
    ) {
        let mut records = Records::at_opening();
        let mut events = 0;
        let mut rest = &bytes[..];
        // After a header that is none, the next transfer would be tried.
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            if !records.is_in_sync() {
                break;
            }
            events |= feed(&mut records, now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let fed = &bytes[..bytes.len() - rest.len()];
        let (shown, expected) = reference(fed);
        prop_assert_eq!(Shown::of(&records), shown);
        prop_assert_eq!(events, expected);
    }

    #[test]
    fn any_bytes_and_gaps_keep_it_going(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
        gaps in prop::collection::vec(prop_oneof![Just(0_u64), 0..300_u64, any::<u32>().prop_map(u64::from)], 20),
        late in any::<bool>(),
    ) {
        let mut records = if late { Records::joined_late() } else { read(&alert()) };
        for (piece, gap) in pieces.iter().zip(gaps) {
            records.pass_gap(gap);
            feed(&mut records, piece);
        }
    }

    #[test]
    fn records_after_any_gaps_are_found_again(
        lengths in prop::collection::vec(17..400_usize, 5..30),
        gaps in prop::collection::vec((0..30_usize, 1..300_usize), 1..4),
    ) {
        // Each transfer is a record; of some, bytes at the beginning are missed.
        let mut records = read(&alert());
        let mut missed = 0;
        let mut shortened = vec![0; 30];
        for (at, bytes) in gaps {
            shortened[at] = bytes;
        }
        for (length, gap) in lengths.iter().zip(shortened) {
            let bytes = application(*length);
            let gap = gap.min(bytes.len());
            records.pass_gap(gap as u64);
            feed(&mut records, &bytes[gap..]);
            missed += u64::from(gap > 0);
        }
        prop_assert!(u64::from(records.gaps()) <= missed);
        // The last byte of a fragment may have been taken for the first one of a header.
        feed(&mut records, &application(20));
        feed(&mut records, &[application(20), application(21)].concat());
        prop_assert!(records.is_at_boundary());
        prop_assert_eq!(records.last_application(), 21);
        let framed = records.content(0) + 5 * records.application() + 7;
        prop_assert_eq!(records.bytes() - records.gap_bytes(), framed);
    }
}

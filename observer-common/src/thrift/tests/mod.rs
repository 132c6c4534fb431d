//! The scanner against a straightforward reading of the same bytes, cut in every way.

use proptest::prelude::*;

use super::{MAX_DEPTH, MAX_NAME, first, kind, may_begin, may_begin_unversioned};

mod drive;

use drive::{Driver, Found, reference, unversioned_reference};

fn message(kind: u8, name: &[u8], sequence: u32, fields: &[u8]) -> Vec<u8> {
    let length = (name.len() as u32).to_be_bytes();
    let sequence = sequence.to_be_bytes();
    [&[0x80, 1, 0, kind][..], &length, name, &sequence, fields, &[0]].concat()
}

/// A message of the binary protocol without a version.
fn unversioned(kind: u8, name: &[u8], sequence: u32, fields: &[u8]) -> Vec<u8> {
    let length = (name.len() as u32).to_be_bytes();
    [&length[..], name, &[kind], &sequence.to_be_bytes(), fields, &[0]].concat()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], message].concat()
}

fn field(of: u8, id: u8, value: &[u8]) -> Vec<u8> {
    [&[of, 0, id][..], value].concat()
}

/// A message of the compact protocol.
fn compact(kind: u8, name: &[u8], sequence: u32, fields: &[u8]) -> Vec<u8> {
    let head = [0x82, kind << 5 | 1];
    let (sequence, length) = (digits(sequence), digits(name.len() as u32));
    [&head[..], &sequence, &length, name, fields, &[0]].concat()
}

fn digits(mut number: u32) -> Vec<u8> {
    let mut digits = Vec::new();
    while number > 0x7f {
        digits.push(number as u8 | 0x80);
        number >>= 7;
    }
    digits.push(number as u8);
    digits
}

/// A message in a frame with a header.
fn with_header(message: &[u8]) -> Vec<u8> {
    let protocol = if message[0] == 0x82 { 2 } else { 0 };
    let head = [0x0f, 0xff, 0, 0, 0, 0, 0, 7, 0, 2, protocol, 0, 1, 1, 1, b'k', 1, b'v'];
    framed(&[&head, message].concat())
}

/// Fields of the compact protocol with each type of value, and containers of containers.
fn compact_fields(id: u8) -> Vec<u8> {
    let text = [3, b'a', b'b', b'c'];
    let texts = [&[0x28][..], &text, &[0]].concat();
    let inner = [&[0x11, 0x18][..], &text, &[0]].concat();
    let numbers = [&[0xf5, 20][..], &[0xff, 0x01].repeat(12), &[1; 8]].concat();
    let first: &[u8] = if id == 0 { &[0x0c, 0] } else { &[0x1c] };
    [
        first,
        &inner,
        // Not a delta, but an id.
        &[0x05, 0xc8, 0x01, 0xff, 0x7f],
        &[0x11, 0x12, 0x13, 7, 0x14, 0x80, 0x80, 0x01, 0x16, 9],
        &[0x17, 7, 7, 7, 7, 7, 7, 7, 7, 0x1d],
        &[7; 16],
        &[0x18],
        &text,
        &[0x18, 0, 0x19],
        &texts,
        &[0x1a, 0x2c],
        &inner,
        &[0, 0x19],
        &numbers,
        // Maps: empty, of numbers, of texts and lists, of a number and a double.
        &[0x1b, 0, 0x1b, 2, 0x56, 1, 0x80, 1, 2, 0x80, 0x80, 1, 0x1b, 2, 0x89],
        &text,
        &texts,
        &[0, 0x05],
        &[0x1b, 1, 0x67, 0xff, 1, 7, 7, 7, 7, 7, 7, 7, 7],
        // Bools, bytes and doubles.
        &[0x19, 0x21, 1, 2, 0x1a, 0x23, 9, 9, 0x19, 0x17, 7, 7, 7, 7, 7, 7, 7, 7],
    ]
    .concat()
}

/// Fields with each type of value, and containers of containers.
fn fields(id: u8) -> Vec<u8> {
    let text = [0, 0, 0, 3, b'a', b'b', b'c'];
    let texts = [&[11, 0, 0, 0, 2][..], &text, &[0; 4]].concat();
    let inner = [field(2, 1, &[1]), field(11, 2, &text), vec![0]].concat();
    let structs = [&[12, 0, 0, 0, 2][..], &inner, &[0]].concat();
    let map = [&[11, 15, 0, 0, 0, 2][..], &text, &texts, &[0; 4], &[8, 0, 0, 0, 0]].concat();
    [
        field(12, id, &inner),
        field(2, 2, &[0]),
        field(3, 3, &[7]),
        field(4, 4, &[7; 8]),
        field(6, 5, &[7; 2]),
        field(8, 6, &[7; 4]),
        field(10, 7, &[7; 8]),
        field(16, 8, &[7; 16]),
        field(11, 9, &text),
        field(11, 10, &[0; 4]),
        field(15, 11, &texts),
        field(14, 12, &structs),
        field(13, 13, &map),
        field(13, 14, &[0; 6]),
        field(13, 15, &[&[8, 10, 0, 0, 0, 2][..], &[7; 24]].concat()),
        field(15, 16, &[6, 0, 0, 0, 3, 1, 1, 1, 1, 1, 1]),
    ]
    .concat()
}

fn sample() -> Vec<u8> {
    let messages = [
        message(kind::CALL, b"add", 1, &fields(1)),
        message(kind::REPLY, b"add", 1, &fields(0)),
        message(kind::REPLY, b"add", u32::MAX, &fields(1)),
        message(kind::REPLY, b"ping", 0, &[]),
        message(kind::EXCEPTION, b"x", 3, &fields(1)),
        message(kind::ONEWAY, &[b'n'; MAX_NAME as usize], 4, &[]),
    ];
    let messages = messages.iter().map(|one| [one.clone(), framed(one), with_header(one)].concat());
    messages.chain(compact_sample()).flatten().collect()
}

/// The same messages in the compact protocol.
fn compact_sample() -> impl Iterator<Item = Vec<u8>> {
    let messages = [
        compact(kind::CALL, b"add", 1, &compact_fields(1)),
        compact(kind::REPLY, b"add", 1, &compact_fields(0)),
        compact(kind::REPLY, b"add", u32::MAX, &compact_fields(1)),
        compact(kind::REPLY, b"ping", 0, &[]),
        compact(kind::EXCEPTION, b"x", 3, &compact_fields(1)),
        compact(kind::ONEWAY, &[b'n'; MAX_NAME as usize], 4, &[]),
    ];
    messages.into_iter().map(|one| [one.clone(), framed(&one), with_header(&one)].concat())
}

fn ends(found: &[Found]) -> Vec<(u8, Option<(u32, u8)>)> {
    found.iter().map(|found| (found.kind, found.end)).collect()
}

#[test]
fn each_message_is_found_wherever_it_is_cut() {
    let bytes = sample();
    let mut whole = Driver::new();
    whole.feed(&bytes);
    let want = [
        (kind::CALL, Some((1, first::NOT_SEEN))),
        (kind::REPLY, Some((1, first::RESULT))),
        (kind::REPLY, Some((u32::MAX, first::EXCEPTION))),
        (kind::REPLY, Some((0, first::NONE))),
        (kind::EXCEPTION, Some((3, first::NOT_SEEN))),
        (kind::ONEWAY, Some((4, first::NOT_SEEN))),
    ];
    let want: Vec<_> = want.into_iter().flat_map(|one| [one; 3]).collect();
    assert_eq!(ends(&whole.found), [&want[..], &want].concat());
    assert_eq!(reference(&bytes, &[]), (whole.found.clone(), true));
    for length in 1..40 {
        let mut cut = Driver::new();
        bytes.chunks(length).for_each(|piece| cut.feed(piece));
        assert_eq!(cut.found, whole.found, "pieces of {length} bytes");
    }
    for at in 0..bytes.len() {
        let mut cut = Driver::new();
        cut.feed(&bytes[..at]);
        cut.feed(&bytes[at..]);
        assert_eq!(cut.found, whole.found, "cut at {at}");
    }
}

#[test]
fn a_gap_in_a_value_costs_nothing() {
    let text = [&[0, 0, 1, 0][..], &[b't'; 256]].concat();
    let one = message(kind::CALL, b"echo", 1, &field(11, 1, &text));
    let (before, after) = (40, 20);
    for bytes in [one.clone(), framed(&one)] {
        let mut driver = Driver::new();
        driver.feed(&bytes[..before]);
        assert!(driver.scanner.pass_gap((bytes.len() - before - after) as u64));
        driver.feed(&bytes[bytes.len() - after..]);
        driver.feed(&bytes);
        assert_eq!(ends(&driver.found), [(kind::CALL, Some((1, first::NOT_SEEN))); 2]);
    }
    // Up to the end of the frame.
    let bytes = framed(&one);
    let mut driver = Driver::new();
    driver.feed(&bytes[..before]);
    assert!(driver.scanner.pass_gap((bytes.len() - before) as u64));
    driver.feed(&bytes);
    assert_eq!(driver.found.len(), 2);
    assert!(!driver.scanner.pass_gap(1), "between messages");
    driver.feed(&bytes[..10]);
    assert!(!driver.scanner.pass_gap(1), "in a header");
}

#[test]
fn without_a_boundary_the_start_of_each_transfer_is_tried() {
    for one in [
        message(kind::CALL, b"add", 1, &field(8, 1, &[0; 4])),
        compact(kind::CALL, b"add", 1, &[0x15, 9]),
    ] {
        let mut driver = Driver::new();
        driver.scanner.lose();
        for (bytes, found) in
            [(&one[5..], 0), (&framed(&one)[..4], 0), (&one[..], 1), (&one[..], 2)]
        {
            driver.scanner.begin_transfer();
            driver.feed(bytes);
            assert_eq!(driver.found.len(), found);
            assert_eq!(driver.scanner.is_lost(), found == 0);
        }
    }
}

#[test]
fn what_is_not_a_message_is_refused() {
    let name = |length: u32| [&[0x80, 1, 0, 1][..], &length.to_be_bytes()].concat();
    let deep = [12, 0, 1].repeat(MAX_DEPTH);
    let call = |fields: &[u8]| message(kind::CALL, b"a", 1, fields);
    let rows = [
        b"GET / HT".to_vec(),
        vec![0x80, 2, 0, 1],
        vec![0x80, 1, 0, 5],
        vec![0x80, 1, 1, 1],
        vec![0, 0, 0, 5],
        vec![0x10, 0, 0, 0],
        name(0),
        name(MAX_NAME + 1),
        framed(&[name(20), vec![0; 10]].concat()),
        call(&[1, 0, 1]),
        call(&[11, 0, 1, 0x80, 0, 0, 0]),
        call(&deep),
        vec![0x82, 0x22, 0, 0],
        vec![0x82, 0xa1, 0, 0],
        vec![0x82, 0x21, 0x80, 0x80, 0x80, 0x80, 0x80],
        vec![0x82, 0x21, 1, 0],
        vec![0x82, 0x21, 1, 0x81, 4],
        vec![0x82, 0x21, 1, 3, b'a', 0x1f],
        vec![0x82, 0x21, 1, 3, b'a', 0x7f],
        vec![0x82, 0x21, 1, 3, b'a', b'a' | 0x80],
        compact(kind::CALL, b"a", 1, &[0x1e]),
        compact(kind::CALL, b"a", 1, &[0x18, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        compact(kind::CALL, b"a", 1, &[0x1c; MAX_DEPTH]),
        framed(&[0x0f, 0xff, 0, 0, 0, 0, 0, 7, 0, 1, 2, 1, 1, 1]),
        framed(&[0x0f, 0xff, 0, 0, 0, 0, 0, 7, 0, 1, 1, 0, 0, 0]),
        framed(&[0x0f, 0xff, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0]),
        framed(&[0x0f, 0xff, 0, 0, 0, 0, 0, 7, 0, 2, 0, 0, 0, 0]),
    ];
    for bytes in rows {
        let mut driver = Driver::new();
        driver.feed(&bytes);
        assert!(driver.scanner.is_refused(), "{bytes:x?}");
    }
    let mut driver = Driver::new();
    driver.feed(&call(&[&deep[3..], &[0; MAX_DEPTH - 1]].concat()));
    assert_eq!(
        ends(&driver.found),
        [(kind::CALL, Some((1, first::NOT_SEEN)))],
        "as deep as may be"
    );
}

#[test]
fn messages_without_a_version_are_found_where_they_are_expected() {
    let long = [b'n'; MAX_NAME as usize];
    let messages = [
        unversioned(kind::CALL, b"add", 1, &fields(1)),
        unversioned(kind::REPLY, b"add", 1, &fields(0)),
        unversioned(kind::REPLY, b"a", 2, &fields(1)),
        unversioned(kind::REPLY, b"of_eight", 3, &[]),
        unversioned(kind::EXCEPTION, b"of_nine__", u32::MAX, &fields(1)),
        unversioned(kind::ONEWAY, &long, 5, &[]),
    ];
    // With messages of other kinds in between.
    let other = [message(kind::CALL, b"add", 6, &[]), compact(kind::CALL, b"add", 7, &[])];
    let bytes: Vec<u8> = messages
        .iter()
        .chain(&other)
        .flat_map(|one| [one.clone(), framed(one), with_header(one)].concat())
        .collect();
    let want = [
        (kind::CALL, Some((1, first::NOT_SEEN))),
        (kind::REPLY, Some((1, first::RESULT))),
        (kind::REPLY, Some((2, first::EXCEPTION))),
        (kind::REPLY, Some((3, first::NONE))),
        (kind::EXCEPTION, Some((u32::MAX, first::NOT_SEEN))),
        (kind::ONEWAY, Some((5, first::NOT_SEEN))),
        (kind::CALL, Some((6, first::NOT_SEEN))),
        (kind::CALL, Some((7, first::NOT_SEEN))),
    ];
    let want: Vec<_> = want.into_iter().flat_map(|one| [one; 3]).collect();
    let mut whole = Driver::unversioned();
    whole.feed(&bytes);
    assert_eq!(ends(&whole.found), want);
    assert_eq!(unversioned_reference(&bytes, &[]), (whole.found.clone(), true));
    for length in 1..40 {
        let mut cut = Driver::unversioned();
        bytes.chunks(length).for_each(|piece| cut.feed(piece));
        assert_eq!(cut.found, whole.found, "pieces of {length} bytes");
    }
    // Elsewhere they are not messages.
    for one in [&messages[0], &framed(&messages[0])] {
        let mut driver = Driver::new();
        driver.feed(one);
        assert!(driver.scanner.is_refused() && driver.found.is_empty());
    }
}

#[test]
fn what_is_no_message_without_a_version_is_refused() {
    let one = unversioned(kind::CALL, b"add", 1, &[]);
    let with_kind = |kind| unversioned(kind, b"add", 1, &[]);
    let rows = [
        vec![0, 0, 0, 0, 0],
        vec![0, 0, 0, 5, 0],
        unversioned(kind::CALL, b"a\x1f", 1, &[]),
        unversioned(kind::CALL, "ä".as_bytes(), 1, &[]),
        unversioned(kind::CALL, &[b'n'; MAX_NAME as usize + 1], 1, &[]),
        with_kind(0),
        with_kind(5),
        with_kind(0xff),
        framed(&with_kind(5)),
        // Longer than its frame.
        [&[0, 0, 0, 12][..], &one].concat(),
        framed(&framed(&one)),
        vec![0xff; 12],
    ];
    for bytes in rows {
        let mut driver = Driver::unversioned();
        driver.feed(&bytes);
        assert!(driver.scanner.is_refused(), "{bytes:x?}");
    }
}

#[test]
fn first_bytes_show_a_message_without_a_version() {
    let look = |bytes: &[u8], n: usize| {
        let mut first = [0; 16];
        first[..n].copy_from_slice(&bytes[..n]);
        may_begin_unversioned(&first, n as u32)
    };
    let one = unversioned(kind::CALL, b"of_twelve_it", 1, &[]);
    for (n, want) in [(3, None), (4, Some(false)), (5, Some(false)), (12, Some(true))] {
        assert_eq!(look(&one, n), want, "{n} bytes");
        assert_eq!(look(&framed(&one), n), want, "{n} bytes in a frame");
    }
    let short = unversioned(kind::CALL, b"a", 1, &[]);
    assert_eq!([look(&short, 5), look(&framed(&short), 9)], [Some(true); 2]);
    for other in [
        *b"GET / HTTP/1",
        *b"PRI * HTTP/2",
        [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0],
        [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0],
        [0, 0, 0, 3, b'a', 0, b'b', 1, 0, 0, 0, 1],
        [0, 0, 0, 9, 0, 0, 0, 4, b'n', b'a', b'm', b'e'],
    ] {
        assert_eq!(look(&other, 12), None, "{other:x?}");
    }
}

#[test]
fn first_bytes_show_the_protocol() {
    let one = message(kind::CALL, b"add", 1, &[]);
    let look = |bytes: &[u8], n: usize| {
        let mut first = [0; 16];
        first[..n].copy_from_slice(&bytes[..n]);
        may_begin(&first, n as u32)
    };
    for (n, want) in
        [(3, None), (4, Some(false)), (7, Some(false)), (8, Some(true)), (12, Some(true))]
    {
        assert_eq!(look(&one, n), want, "{n} bytes");
    }
    let in_frame = framed(&one);
    for (n, want) in [(3, None), (4, Some(false)), (5, None), (8, Some(false)), (12, Some(true))] {
        assert_eq!(look(&in_frame, n), want, "{n} bytes of a frame");
    }
    for (sequence, certain) in [(1, 5), (300, 6), (u32::MAX, 9)] {
        let one = compact(kind::CALL, b"add", sequence, &[]);
        for (frame, one) in [(0, one.clone()), (4, framed(&one))] {
            for n in frame + 2..=12.min(one.len()) {
                let want = Some(n >= frame + certain);
                assert_eq!(look(&one, n), want, "{n} bytes of {one:x?}");
            }
        }
    }
    let unlikely = compact(kind::CALL, b"\x01add", 1, &[]);
    assert_eq!([look(&unlikely, 8), look(&framed(&unlikely), 12)], [None; 2]);
    let header = with_header(&one);
    for (n, want) in [(4, Some(false)), (6, None), (8, Some(true)), (12, Some(true))] {
        assert_eq!(look(&header, n), want, "{n} bytes of a frame with a header");
    }
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0];
    assert_eq!(look(&settings, 12), None, "HTTP/2");
    assert_eq!(look(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00", 12), None, "TLS");
}

proptest! {
    #[test]
    fn any_bytes_are_read_as_by_the_reference(
        parts in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..20),
                prop::collection::vec(0_u8..17, 0..20),
                Just(message(kind::REPLY, b"add", 1, &fields(0))),
                Just(framed(&message(kind::REPLY, b"add", 1, &fields(0)))),
                Just(message(kind::CALL, b"add", 1, &[])[..15].to_vec()),
                Just(compact(kind::REPLY, b"add", 300, &compact_fields(0))),
                Just(framed(&compact(kind::REPLY, b"add", 1, &compact_fields(1)))),
                Just(with_header(&message(kind::REPLY, b"add", 1, &fields(0)))),
                Just(compact(kind::CALL, b"of_twelve", 1, &[])[..10].to_vec()),
                Just(unversioned(kind::REPLY, b"add", 1, &fields(0))),
                Just(framed(&unversioned(kind::REPLY, b"add", 1, &fields(0)))),
                Just(unversioned(kind::CALL, b"of_twelve", 1, &[])[..10].to_vec()),
                Just(vec![0, 0, 0, 9, 0, 0, 0, 2, b'a', b'b']),
                Just(vec![0, 0, 0, 9, 0x82, 0x41, 1, 2, b'a', b'b']),
                Just(vec![0, 0, 0, 20, 0x0f, 0xff, 0, 0, 0, 0, 0, 7, 0, 1, 2, 0]),
            ],
            0..6,
        ),
        cut in 1_usize..30,
        is_unversioned: bool,
    ) {
        let bytes = parts.concat();
        let mut driver = if is_unversioned { Driver::unversioned() } else { Driver::new() };
        bytes.chunks(cut).for_each(|piece| driver.feed(piece));
        let cuts: Vec<usize> = (1..=bytes.len().div_ceil(cut)).map(|n| n * cut).collect();
        let read = if is_unversioned { unversioned_reference } else { reference };
        let (found, valid) = read(&bytes, &cuts);
        prop_assert_eq!(&driver.found, &found);
        prop_assert_eq!(!driver.scanner.is_refused(), valid);
    }
}

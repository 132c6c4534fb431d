//! The examples of RFC 7541 appendix C. Those of C.1 are in the tests of integers.

use super::{super::Decoder, Interner, decode, meaning};

/// A block, the fields in it, and the dynamic table after it, newest first, with the sizes.
struct Example<'a> {
    block: &'a str,
    fields: &'a [(&'a str, &'a str)],
    table: &'a [(&'a str, &'a str, u32)],
}

fn octets(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    assert_eq!(digits.len() % 2, 0);
    (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hex digits"))
        .collect()
}

/// Decodes the blocks of one connection, and has the other decoder confirm the strings. `setup`
/// stands before the first.
fn check(setup: &[u8], examples: &[Example<'_>]) {
    let mut interner = Interner::new(100);
    let mut decoder = Decoder::from_start();
    let mut oracle = loona_hpack::Decoder::new();
    for (at, example) in examples.iter().enumerate() {
        let setup = if at == 0 { setup } else { &[] };
        let block = [setup, &octets(example.block)].concat();
        let strings: Vec<_> = example
            .fields
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        assert_eq!(oracle.decode(&block).expect("well formed"), strings, "{}", example.block);

        let expected: Vec<_> =
            strings.iter().map(|(name, value)| meaning(name, value, &mut interner)).collect();
        let fields = decode(&mut decoder, &block, &mut interner);
        assert_eq!(fields, Ok(expected), "{}", example.block);

        let entries: Vec<_> = example
            .table
            .iter()
            .map(|(name, value, size)| {
                (meaning(name.as_bytes(), value.as_bytes(), &mut interner), *size)
            })
            .collect();
        let size = example.table.iter().map(|(_, _, size)| size).sum();
        assert_eq!(decoder.table().view(), (entries, size), "{}", example.block);
        assert!(decoder.table().is_complete());
    }
}

#[test]
fn c2_1_literal_with_indexing() {
    check(
        &[],
        &[Example {
            block: "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            fields: &[("custom-key", "custom-header")],
            table: &[("custom-key", "custom-header", 55)],
        }],
    );
}

#[test]
fn c2_2_to_c2_4_nothing_inserted() {
    let rows = [
        ("040c 2f73 616d 706c 652f 7061 7468", (":path", "/sample/path")),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", ("password", "secret")),
        ("82", (":method", "GET")),
    ];
    for (block, field) in rows {
        check(&[], &[Example { block, fields: &[field], table: &[] }]);
    }
}

const REQUEST_1: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const REQUEST_2: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const REQUEST_3: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

fn check_requests(blocks: [&str; 3]) {
    let [first, second, third] = blocks;
    check(
        &[],
        &[
            Example {
                block: first,
                fields: REQUEST_1,
                table: &[(":authority", "www.example.com", 57)],
            },
            Example {
                block: second,
                fields: REQUEST_2,
                table: &[("cache-control", "no-cache", 53), (":authority", "www.example.com", 57)],
            },
            Example {
                block: third,
                fields: REQUEST_3,
                table: &[
                    ("custom-key", "custom-value", 54),
                    ("cache-control", "no-cache", 53),
                    (":authority", "www.example.com", 57),
                ],
            },
        ],
    );
}

#[test]
fn c3_requests() {
    check_requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn c4_requests_huffman() {
    check_requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

const DATE_21: &str = "Mon, 21 Oct 2013 20:13:21 GMT";
const DATE_22: &str = "Mon, 21 Oct 2013 20:13:22 GMT";
const LOCATION: &str = "https://www.example.com";
const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";

fn check_responses(blocks: [&str; 3]) {
    let [first, second, third] = blocks;
    // The examples set SETTINGS_HEADER_TABLE_SIZE to 256. Here the encoder says so.
    check(
        &[0x3f, 0xe1, 0x01],
        &[
            Example {
                block: first,
                fields: &[
                    (":status", "302"),
                    ("cache-control", "private"),
                    ("date", DATE_21),
                    ("location", LOCATION),
                ],
                table: &[
                    ("location", LOCATION, 63),
                    ("date", DATE_21, 65),
                    ("cache-control", "private", 52),
                    (":status", "302", 42),
                ],
            },
            Example {
                block: second,
                fields: &[
                    (":status", "307"),
                    ("cache-control", "private"),
                    ("date", DATE_21),
                    ("location", LOCATION),
                ],
                table: &[
                    (":status", "307", 42),
                    ("location", LOCATION, 63),
                    ("date", DATE_21, 65),
                    ("cache-control", "private", 52),
                ],
            },
            Example {
                block: third,
                fields: &[
                    (":status", "200"),
                    ("cache-control", "private"),
                    ("date", DATE_22),
                    ("location", LOCATION),
                    ("content-encoding", "gzip"),
                    ("set-cookie", COOKIE),
                ],
                table: &[
                    ("set-cookie", COOKIE, 98),
                    ("content-encoding", "gzip", 52),
                    ("date", DATE_22, 65),
                ],
            },
        ],
    );
}

#[test]
fn c5_responses() {
    check_responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
         2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
         6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
         54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
         5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
         3d31",
    ]);
}

#[test]
fn c6_responses_huffman() {
    check_responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
         2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
         77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
         9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ]);
}

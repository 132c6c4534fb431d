//! Hellos that no peer here sends: of any length, cut into records in every way, and wrong ones.

use proptest::prelude::*;

use super::{application, feed, read, record};
use crate::tls::records::{Records, event};

/// A list with its length in so many bytes.
fn list(width: usize, bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_be_bytes()[8 - width..], bytes].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &list(2, content)].concat()
}

fn alpn(names: &[&str]) -> Vec<u8> {
    let names: Vec<u8> = names.iter().flat_map(|name| list(1, name.as_bytes())).collect();
    extension(16, &list(2, &names))
}

fn random() -> [u8; 32] {
    core::array::from_fn(|at| at as u8 ^ 0x5a)
}

/// A ClientHello with a session id of this length, and these extensions.
fn client_hello(session: usize, suites: usize, extensions: &[u8]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &random(),
        &list(1, &vec![7; session]),
        &list(2, &vec![0x13; 2 * suites]),
        &list(1, &[0]),
        &list(2, extensions),
    ];
    [&[1][..], &list(3, &body.concat())].concat()
}

fn server_hello(version: u16, suite: u16, compression: u8, extensions: Option<&[u8]>) -> Vec<u8> {
    let extensions = extensions.map_or_else(Vec::new, |extensions| list(2, extensions));
    let body = [
        &version.to_be_bytes()[..],
        &random(),
        &list(1, &[7; 32]),
        &suite.to_be_bytes(),
        &[compression],
        &extensions,
    ];
    [&[2][..], &list(3, &body.concat())].concat()
}

fn selected(version: u16) -> Vec<u8> {
    extension(43, &version.to_be_bytes())
}

/// The message in records of this length, and one of another type behind it.
fn in_records(message: &[u8], length: usize) -> Vec<u8> {
    let records: Vec<_> = message.chunks(length).map(|part| record(22, part)).collect();
    [records.concat(), application(40)].concat()
}

#[test]
fn a_client_hello_of_any_length_is_read_however_it_is_cut() {
    // A post-quantum key share, and one of the longest that fit into a record.
    for key_share in [0, 1_216, 16_000] {
        let share = extension(51, &vec![0x16; key_share]);
        let extensions = [share, extension(0, &[0; 20]), alpn(&["grpc-exp", "h2"])].concat();
        let message = client_hello(32, 17, &extensions);
        for length in [1, 3, 7, 50, 1_000, 16_000, 16_384] {
            let bytes = in_records(&message, length);
            for transfer in [1, 16, 1_448, bytes.len()] {
                let mut records = Records::at_opening();
                let mut events = 0;
                for part in bytes.chunks(transfer) {
                    events |= feed(&mut records, part);
                }
                assert_eq!(events, event::HELLO | event::RECORD);
                assert_eq!(records.client_random(), Some(&random()), "{key_share}, {length}");
                assert!(records.hello().has_h2());
                assert_eq!(records.application(), 1);
            }
        }
    }
}

#[test]
fn the_shortest_hellos_are_read() {
    let no_extensions = client_hello(0, 1, &[]);
    let records = read(&in_records(&no_extensions, 16_384));
    assert_eq!(records.client_random(), Some(&random()));
    assert!(!records.hello().has_h2());
    // TLS 1.2 knows messages without extensions.
    let mut without_list = no_extensions[..no_extensions.len() - 2].to_vec();
    without_list[3] -= 2;
    let records = read(&in_records(&without_list, 16_384));
    assert_eq!(records.client_random(), Some(&random()));
    let cipher = read(&in_records(&server_hello(0x0303, 0xc02f, 0, None), 16_384)).hello().cipher();
    assert_eq!(cipher.unwrap().overhead(), Some(24));
}

#[test]
fn the_version_is_the_selected_one() {
    for (version, suite, compression, extensions, overhead) in [
        (0x0303, 0x1301, 0, Some(selected(0x0304)), Some(17)),
        (0x0303, 0x1302, 0, Some([extension(51, &[1; 36]), selected(0x0304)].concat()), Some(17)),
        (0x0303, 0x1304, 0, Some([selected(0x0304), extension(51, &[1; 36])].concat()), Some(17)),
        // CCM_8, a suite of TLS 1.2 in TLS 1.3 and the other way round, a draft.
        (0x0303, 0x1305, 0, Some(selected(0x0304)), None),
        (0x0303, 0xc02f, 0, Some(selected(0x0304)), None),
        (0x0303, 0x1301, 0, None, None),
        (0x0303, 0x1301, 0, Some(selected(0x7f1c)), None),
        (0x0303, 0x009c, 0, None, Some(24)),
        (0x0303, 0xc0ac, 0, Some(Vec::new()), Some(24)),
        (0x0303, 0xcca9, 0, Some(alpn(&["h2"])), Some(16)),
        (0x0303, 0xc0ae, 0, None, Some(16)),
        // CBC, older versions, compression.
        (0x0303, 0xc013, 0, None, None),
        (0x0302, 0xc02f, 0, None, None),
        (0x0303, 0xc02f, 1, None, None),
    ] {
        let message = server_hello(version, suite, compression, extensions.as_deref());
        for length in [1, 5, 16_384] {
            let records = read(&in_records(&message, length));
            let cipher = records.hello().cipher().unwrap();
            assert!(cipher.is_known());
            assert_eq!(cipher.overhead(), overhead, "{version:x} {suite:x}");
            assert!(!records.hello().is_client() && records.client_random().is_none());
        }
    }
}

#[test]
fn what_is_no_hello_is_refused_and_records_are_counted_all_the_same() {
    let good = client_hello(32, 3, &alpn(&["h2"]));
    let wrong = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        message
    };
    let suites = 4 + 2 + 32 + 1 + 32;
    let extensions = suites + 2 + 6 + 2;
    for (message, why) in [
        (wrong(0, 0), "a HelloRequest"),
        (wrong(0, 11), "a certificate"),
        (wrong(3, 30), "it ends in the random"),
        (client_hello(33, 3, &[]), "a session id that is too long"),
        (wrong(suites, 1), "suites that are longer than the message"),
        (wrong(suites + 8, 200), "compressions that are longer"),
        (wrong(extensions + 1, 1), "extensions that end before the message"),
        (wrong(extensions + 1, 200), "extensions that end behind it"),
        (wrong(extensions + 5, 200), "an extension that is longer"),
        (wrong(extensions + 7, 1), "names that do not fill it"),
        (wrong(extensions + 8, 0), "a name without bytes"),
        (wrong(extensions + 8, 9), "a name that is longer than the names"),
        (client_hello(0, 1, &alpn(&["", "h2"])), "a name without bytes before another"),
        (client_hello(0, 1, &extension(16, &[])), "no names"),
        (client_hello(0, 1, &[alpn(&[]), extension(0, &[0; 20])].concat()), "no names"),
        (client_hello(0, 1, &extension(16, &[0, 0])), "no names"),
        (client_hello(0, 1, &[0, 1, 0]), "an extension that is cut off"),
        (server_hello(0x0303, 0x1301, 0, Some(&extension(43, &[3, 4, 5]))), "two versions"),
        (vec![1, 0, 0, 0], "nothing"),
    ] {
        for length in [1, 16_384] {
            let records = read(&in_records(&message, length));
            assert!(records.hello().is_refused(), "{why}");
            assert!(records.client_random().is_none() && records.hello().cipher().is_none());
            assert_eq!(records.application(), 1, "{why}");
        }
    }
}

proptest! {
    #[test]
    fn any_hello_is_read_or_refused_wherever_it_is_cut(
        message in prop_oneof![
            prop::collection::vec(any::<u8>(), 1..300),
            (Just(client_hello(8, 2, &alpn(&["a", "h2"]))), any::<[(u8, u8); 2]>()).prop_map(mutate),
            (Just(server_hello(0x0303, 0x1301, 0, Some(&selected(0x0304)))), any::<[(u8, u8); 2]>())
                .prop_map(mutate),
        ],
        length in 1..100_usize,
        transfer in 1..100_usize,
    ) {
        let whole = read(&in_records(&message, 16_384));
        let bytes = in_records(&message, length);
        let mut cut = Records::at_opening();
        for part in bytes.chunks(transfer) {
            feed(&mut cut, part);
        }
        prop_assert_eq!(cut.hello().cipher(), whole.hello().cipher());
        prop_assert_eq!(cut.hello().has_h2(), whole.hello().has_h2());
        prop_assert_eq!(cut.client_random(), whole.client_random());
        prop_assert_eq!(cut.application(), 1);
    }
}

/// Changes two of its bytes.
fn mutate((mut message, changes): (Vec<u8>, [(u8, u8); 2])) -> Vec<u8> {
    for (at, byte) in changes {
        let at = usize::from(at) % message.len();
        message[at] = byte;
    }
    message
}

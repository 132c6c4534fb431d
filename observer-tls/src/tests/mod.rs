//! Whole files, and what hostile ones do.

pub(crate) mod fixture;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use fixture::{
    CODE, DATA, boringssl, boringssl_not_inlined, boringssl_stripped, golang, golang_arm64, offset,
    openssl, openssl_3_3, openssl_by_name, openssl_stripped, rustls, rustls_of_another_compiler,
    rustls_optimized,
};
use proptest::prelude::*;

use crate::*;

fn only(file: &[u8]) -> Library {
    let mut located = locate(file).unwrap();
    assert_eq!(located.refused, []);
    assert_eq!(build_id(file).unwrap().bytes, [0xab; 20]);
    assert_eq!(located.libraries.len(), 1);
    let library = located.libraries.remove(0);
    for Hook { offset, bytes, .. } in &library.hooks {
        assert!(file[*offset as usize..].starts_with(bytes));
    }
    library
}

/// The routines, with their places and what the kernel does there.
fn summary(library: &Library) -> Vec<(Routine, Place, Stepping)> {
    library.hooks.iter().map(|hook| (hook.routine, hook.place, hook.stepping)).collect()
}

const ENTRY: Place = Place::Entry { pushed: 0 };

#[test]
fn openssl_with_symbols() {
    let library = only(&openssl());
    assert_eq!((library.kind, library.version.as_deref()), (Kind::OpenSsl, Some("3.0.19")));
    let behind_sub = Place::Entry { pushed: 24 };
    assert_eq!(
        summary(&library),
        [
            // At the branch behind `sub` and `test`.
            (Routine::SslRead, behind_sub, Stepping::Emulated),
            (Routine::SslRead, Place::Return, Stepping::SingleStepped),
            (Routine::SslRead, Place::Return, Stepping::SingleStepped),
            (Routine::SslReadEx, ENTRY, Stepping::Emulated),
            (Routine::SslReadEx, Place::Return, Stepping::SingleStepped),
            (Routine::SslWrite, behind_sub, Stepping::Emulated),
            (Routine::SslWrite, Place::Return, Stepping::SingleStepped),
            (Routine::SslWrite, Place::Return, Stepping::SingleStepped),
            (Routine::SslWriteEx, ENTRY, Stepping::Emulated),
            (Routine::SslWriteEx, Place::Return, Stepping::SingleStepped),
        ]
    );
    let layout = Layout::OpenSsl {
        client_random: Some(Field { pointer: None, offset: 0x188 }),
        socket: Some(SocketBio { read_bio: 0x50, method: 8, number: 0x38 }),
    };
    assert_eq!(library.layout, layout);
}

#[test]
fn what_leads_to_another_function_is_seen_there() {
    let by_name = (0..3).map(|how| openssl_by_name(how, true));
    for file in by_name.chain([openssl_3_3()]) {
        let library = only(&file);
        let has = |routine| library.hooks.iter().any(|hook| hook.routine == routine);
        assert!(!has(Routine::SslWriteEx) && has(Routine::SslWriteEx2) && has(Routine::SslWrite));
    }
    // Another file has the other function.
    for how in 0..3 {
        assert_eq!(locate(&openssl_by_name(how, false)), Err(Refusal::Ambiguous));
    }
}

#[test]
fn openssl_by_its_errors() {
    let (named, stripped) = (only(&openssl()), only(&openssl_stripped()));
    let is_found = |hook: &&Hook| matches!(hook.routine, Routine::SslRead | Routine::SslWrite);
    let expected: Vec<&Hook> = named.hooks.iter().filter(is_found).collect();
    assert_eq!(stripped.hooks.iter().collect::<Vec<_>>(), expected);
    assert_eq!(stripped.layout, Layout::OpenSsl { client_random: None, socket: None });
}

#[test]
fn boringssl_with_symbols_and_without() {
    let library = only(&boringssl());
    assert_eq!(library.kind, Kind::BoringSsl);
    assert_eq!(
        summary(&library),
        [
            (Routine::SslRead, ENTRY, Stepping::Emulated),
            (Routine::SslRead, Place::Return, Stepping::SingleStepped),
            (Routine::SslRead, Place::Return, Stepping::SingleStepped),
            (Routine::SealRecord, ENTRY, Stepping::Emulated),
        ]
    );
    let field = |offset| Field { pointer: Some(0x30), offset };
    let layout = Layout::BoringSsl {
        client_random: field(0x30),
        read_sequence: field(0),
        write_sequence: field(8),
    };
    assert_eq!(library.layout, layout);
    assert_eq!(only(&boringssl_stripped()), library);
}

#[test]
fn boringssl_where_a_read_calls_another_function() {
    let library = only(&boringssl_not_inlined());
    let returned = (Routine::SslRead, Place::Return, Stepping::SingleStepped);
    let entry = |routine| (routine, ENTRY, Stepping::Emulated);
    assert_eq!(summary(&library), [entry(Routine::SslRead), returned, entry(Routine::SealRecord)]);
    // The last of those that call it: push, mov, call, mov, mov, pop, ret
    let [entry, returned, _] = &*library.hooks else { panic!("three") };
    assert_eq!(returned.offset - entry.offset, 1 + 3 + 5 + 4 + 7 + 1);
}

#[test]
fn go_behind_the_check_of_the_stack() {
    let library = only(&golang());
    assert_eq!((library.kind, library.version.as_deref()), (Kind::Go, Some("go1.26.8")));
    let expected = |routine| {
        [
            (routine, ENTRY, Stepping::Emulated),
            (routine, Place::Return, Stepping::SingleStepped),
            (routine, Place::Return, Stepping::SingleStepped),
        ]
    };
    let [read, write] = [Routine::GoRead, Routine::GoWrite].map(expected);
    assert_eq!(summary(&library), [read, write].concat());
    let offsets: Vec<u64> = library.hooks.iter().take(3).map(|hook| hook.offset).collect();
    assert_eq!(offsets, [6, 13, 15].map(|at| offset(CODE + at)));
}

#[test]
fn go_on_arm64() {
    let library = only(&golang_arm64());
    let expected = |routine| {
        [(routine, ENTRY, Stepping::SingleStepped), (routine, Place::Return, Stepping::Emulated)]
    };
    let [read, write] = [Routine::GoRead, Routine::GoWrite].map(expected);
    assert_eq!(summary(&library), [read, write].concat());
    let offsets: Vec<u64> = library.hooks.iter().take(2).map(|hook| hook.offset).collect();
    assert_eq!(offsets, [12, 24].map(|at| offset(CODE + at)));
}

#[test]
fn rustls_of_both_versions_of_tls() {
    for (release, library, start_of_gcm) in [
        ("0.23.0", "ring", 0),
        ("0.23.46", "ring", 0),
        ("0.23.17", "aws_lc_rs", 0),
        ("0.23.18", "aws_lc_rs", 8),
    ] {
        let found = only(&rustls(release, library));
        assert_eq!((found.kind, found.version.as_deref()), (Kind::Rustls, Some(release)));
        let routines = |version, overhead, start| {
            let decrypt = Routine::Decrypt { version, overhead, start };
            [
                (decrypt, ENTRY, Stepping::Emulated),
                (decrypt, Place::Return, Stepping::SingleStepped),
                (Routine::Encrypt { version, overhead }, ENTRY, Stepping::Emulated),
            ]
        };
        let expected = [
            routines(Tls::V1_3, 17, 0),
            routines(Tls::V1_2, 24, start_of_gcm),
            routines(Tls::V1_2, 16, 0),
        ];
        let makers = [(Routine::MakeCipher, Place::Return, Stepping::SingleStepped); 6];
        assert_eq!(summary(&found), [&makers[..], &expected.concat()].concat());
    }
}

#[test]
fn rustls_whose_tables_follow_each_other() {
    let found = only(&rustls_optimized());
    let count =
        |is: fn(&Routine) -> bool| found.hooks.iter().filter(|hook| is(&hook.routine)).count();
    assert_eq!(count(|it| matches!(it, Routine::MakeCipher)), 8);
    // The entry and a return of each.
    assert_eq!(count(|it| matches!(it, Routine::Decrypt { version: Tls::V1_3, .. })), 4);
    assert_eq!(count(|it| matches!(it, Routine::Encrypt { version: Tls::V1_3, .. })), 2);
    assert_eq!(count(|it| matches!(it, Routine::Decrypt { overhead: 24, start: 8, .. })), 2);
    assert_eq!(found.hooks.len(), 8 + 3 * 4);
}

#[test]
fn another_layout_of_messages_is_refused() {
    assert_eq!(locate(&rustls_of_another_compiler()), Err(Refusal::Layout));
}

#[test]
fn unknown_versions_of_rustls_are_refused() {
    for release in ["0.22.4", "0.23.47", "0.23.0-dev", "0.24.0", "1.0.0"] {
        assert_eq!(locate(&rustls(release, "ring")), Err(Refusal::Version));
    }
    // Other crates whose names start in the same way.
    assert_eq!(locate(&rustls("webpki-0.103.0", "ring")), Err(Refusal::NoLibrary));
}

#[test]
fn a_moduledata_that_contradicts_the_table_is_refused() {
    let file = golang();
    let text = CODE.to_le_bytes();
    let at = file.windows(8).rposition(|window| window == text).unwrap();
    let mut other = file.clone();
    other[at] += 1;
    assert_eq!(locate(&other), Err(Refusal::NotFound));
}

#[test]
fn a_function_that_is_left_by_a_jump_is_refused() {
    let file = openssl();
    let library = only(&file);
    let last = library.hooks.iter().rfind(|hook| hook.routine == Routine::SslRead).unwrap();
    // `pop`, `ret` and what follows become a jump through a register.
    let mut other = file.clone();
    let at = last.offset as usize;
    other[at - 1..=at].copy_from_slice(&[0xff, 0xe0]);
    assert_eq!(locate(&other), Err(Refusal::Undecodable));
    other[at - 4..=at].copy_from_slice(&[0x90, 0x90, 0x90, 0xff, 0xe0]);
    assert_eq!(locate(&other), Err(Refusal::IndirectJump));
    // Behind it are an `int3` of padding and other functions.
    other[at - 4..=at].copy_from_slice(&[0xe9, 0, 0, 0, 0]);
    assert_eq!(locate(&other), Err(Refusal::LeftByJump));
}

#[test]
fn a_length_that_the_table_of_functions_contradicts_is_refused() {
    let mut file = openssl();
    let library = only(&file);
    let entry = library.hooks.iter().find(|hook| hook.routine == Routine::SslReadEx).unwrap();
    // The symbol's length follows its address. `push` is four bytes behind the start.
    let address = (entry.offset - 4 - offset(CODE) + CODE).to_le_bytes();
    let at = file.windows(8).position(|window| window == address).unwrap();
    file[at + 8] -= 1;
    assert_eq!(locate(&file), Err(Refusal::Extent));
}

#[test]
fn files_of_other_kinds_are_refused() {
    assert_eq!(locate(b""), Err(Refusal::NotElf));
    assert_eq!(locate(b"#!/bin/sh\n"), Err(Refusal::NotElf));
    assert_eq!(locate(b"\x7fELF"), Err(Refusal::Architecture));
    let mut file = openssl();
    file[18] = 243;
    assert_eq!(locate(&file), Err(Refusal::Architecture));
    file[18] = 62;
    file[4] = 1;
    assert_eq!(locate(&file), Err(Refusal::Architecture));
}

#[test]
fn reasons_have_different_labels_and_texts() {
    let all = Refusal::ALL;
    let labels: BTreeSet<&str> = all.iter().map(|it| it.label()).collect();
    let texts: BTreeSet<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!((labels.len(), texts.len()), (all.len(), all.len()));
}

static FIXTURES: LazyLock<[Vec<u8>; 9]> = LazyLock::new(|| {
    [
        openssl(),
        openssl_stripped(),
        boringssl(),
        boringssl_stripped(),
        boringssl_not_inlined(),
        openssl_3_3(),
        golang(),
        golang_arm64(),
        rustls("0.23.46", "ring"),
    ]
});

/// What holds of each answer, whatever the file is.
fn check(file: &[u8]) {
    let Ok(located) = locate(file) else { return };
    assert_eq!(locate(file).as_ref(), Ok(&located));
    for hook in located.libraries.iter().flat_map(|library| &library.hooks) {
        assert!(!hook.bytes.is_empty() && hook.bytes.len() < 16);
        assert!(file[hook.offset as usize..].starts_with(&hook.bytes));
        if hook.place == Place::Return {
            assert!(hook.bytes.ends_with(&[0xc3]) || hook.bytes.len() == 4);
        }
    }
}

#[test]
fn files_that_are_cut_off() {
    for file in &*FIXTURES {
        for length in (0..file.len()).step_by(13) {
            check(&file[..length]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn files_with_changed_bytes(
        index in 0_usize..9,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut file = FIXTURES[index].clone();
        // Most of a file is padding.
        let used: Vec<usize> = (0..file.len()).filter(|at| file[*at] != 0).collect();
        for (at, byte) in changes {
            let at = *at.get(&used);
            file[at] = byte;
        }
        check(&file);
    }

    #[test]
    fn files_with_words_at_their_limits(
        index in 0_usize..9,
        at in any::<prop::sample::Index>(),
        word in prop::sample::select(vec![0, 1, u64::MAX, u64::MAX - 7, i64::MAX as u64, u64::from(u32::MAX), DATA]),
    ) {
        let mut file = FIXTURES[index].clone();
        let used: Vec<usize> = (0..file.len() - 8).filter(|at| file[*at] != 0).collect();
        let at = *at.get(&used) & !7;
        file[at..at + 8].copy_from_slice(&word.to_le_bytes());
        check(&file);
    }

    #[test]
    fn bytes_that_are_no_file(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        check(&bytes);
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0".to_vec();
        file.extend(bytes);
        check(&file);
    }
}

use std::collections::BTreeSet;

use observer_tls::{Layout, Machine, Place, Routine, Stepping};
use proptest::prelude::*;

use super::*;

const LENGTH: u64 = 4096;

fn hook(offset: u64, bytes: &[u8]) -> Hook {
    let bytes = bytes.to_vec();
    let place = Place::Entry { pushed: 0 };
    Hook { offset, bytes, routine: Routine::SslRead, place, stepping: Stepping::Emulated }
}

fn library(kind: Kind, hooks: Vec<Hook>) -> Library {
    Library { kind, version: Some("3.0.19".into()), layout: Layout::Go, hooks }
}

fn located(libraries: Vec<Library>, refused: Vec<(Kind, Refusal)>) -> Located {
    Located { machine: Machine::X86_64, libraries, refused }
}

/// What the opener reads of what a parser writes.
fn passed(located: &Result<Located, Refusal>) -> Option<Found> {
    let pieces = Piece::of(located, None, |_, hook| Some(hook.offset.wrapping_add(1)));
    Found::read(pieces.as_bytes(), LENGTH)
}

#[test]
fn what_was_found_arrives() {
    let libraries = vec![
        library(Kind::OpenSsl, vec![hook(64, &[0x55]), hook(100, &[0x41, 0x57])]),
        library(Kind::Go, vec![hook(65, &[0xc3])]),
    ];
    let found = passed(&Ok(located(libraries, vec![(Kind::Rustls, Refusal::Version)]))).unwrap();
    let names: Vec<_> =
        found.libraries.iter().map(|of| (of.kind, &*of.version, of.places, of.refusal)).collect();
    let refused = Some(Outcome::Refused(Refusal::Version));
    assert_eq!(
        names,
        [
            (Kind::OpenSsl, "3.0.19", 2, None),
            (Kind::Go, "3.0.19", 1, None),
            (Kind::Rustls, "", 0, refused)
        ]
    );
    let place = |offset, bytes: &[u8]| {
        let instruction = Bytes { offset, bytes: bytes.into() };
        PlaceToProbe { instruction, cookie: offset + 1 }
    };
    assert_eq!(found.places, [place(64, &[0x55]), place(100, &[0x41, 0x57]), place(65, &[0xc3])]);
    assert_eq!(found.refusal, None);
    let none = passed(&Err(Refusal::NoLibrary)).unwrap();
    assert_eq!(none.refusal, Some(Outcome::Refused(Refusal::NoLibrary)));
    assert!(none.places.is_empty() && none.libraries.is_empty());
}

#[test]
fn a_library_with_a_place_that_the_program_does_not_know_has_none() {
    let libraries = vec![library(Kind::Rustls, vec![hook(64, &[0x55]), hook(100, &[0x55])])];
    let known = |_: &Library, hook: &Hook| (hook.offset == 64).then_some(1);
    let pieces = Piece::of(&Ok(located(libraries, vec![])), None, known);
    let found = Found::read(pieces.as_bytes(), LENGTH).unwrap();
    assert!(found.places.is_empty());
    assert_eq!(found.libraries[0].refusal, Some(Outcome::Failed(Failure::Unsupported)));
}

#[test]
fn what_cannot_be_is_refused() {
    let of = |hooks| passed(&Ok(located(vec![library(Kind::Go, hooks)], vec![])));
    assert!(of(vec![hook(LENGTH - 1, &[0x55])]).is_some());
    assert!(of(vec![hook(LENGTH, &[0x55])]).is_none(), "behind the end of the file");
    assert!(of(vec![hook(LENGTH - 1, &[0x41, 0x57])]).is_none(), "beyond it");
    assert!(of(vec![hook(u64::MAX, &[0x55])]).is_none());
    assert!(of(vec![hook(64, &[])]).is_none(), "no instruction");
    assert!(of(vec![hook(64, &[0x90; 16])]).is_none(), "too long for one");
    assert!(of(vec![hook(64, &[0x55]), hook(64, &[0x55])]).is_none(), "twice");
    assert!(of(vec![hook(64, &[0x41, 0x57]), hook(65, &[0x57])]).is_none(), "overlapping");
    assert!(of(vec![]).is_none(), "a library without a place");
    let many = |count: u64| (0..count).map(|at| hook(at, &[0x55])).collect();
    assert!(of(many(MAX_HOOKS as u64)).is_some());
    assert!(of(many(MAX_HOOKS as u64 + 1)).is_none());
    assert!(passed(&Ok(located(vec![], vec![]))).is_none(), "neither a library nor a reason");
}

#[test]
fn a_build_id_arrives_unless_it_is_too_short_or_too_long() {
    let passed = |offset, bytes: &[u8]| {
        let id = Some(BuildId { offset, bytes });
        let pieces = Piece::of(&Err(Refusal::NoLibrary), id, |_, _| None);
        Found::read(pieces.as_bytes(), LENGTH).map(|found| found.build_id)
    };
    for length in [8, 16, 20, 24] {
        let id = Bytes { offset: LENGTH - length, bytes: vec![0xab; length as usize] };
        assert_eq!(passed(id.offset, &id.bytes), Some(Some(id.clone())));
        assert_eq!(passed(id.offset + 1, &id.bytes), None, "beyond the file");
    }
    for length in [0, 1, 7, 25, 64] {
        assert_eq!(passed(0, &vec![0xab; length]), Some(None));
    }
    let pieces = Piece::of(
        &Err(Refusal::NoLibrary),
        Some(BuildId { offset: 0, bytes: &[1; 20] }),
        |_, _| None,
    );
    let twice = [&pieces[..1], &pieces].concat();
    assert!(Found::read(twice.as_bytes(), LENGTH).is_none());
}

#[test]
fn cut_messages_are_refused() {
    let libraries = vec![library(Kind::OpenSsl, vec![hook(64, &[0x55]), hook(100, &[0x41])])];
    let pieces = Piece::of(&Ok(located(libraries, vec![])), None, |_, _| Some(1));
    let bytes = pieces.as_bytes();
    for length in 0..bytes.len() {
        assert!(Found::read(&bytes[..length], LENGTH).is_none(), "{length} bytes");
    }
    assert!(Found::read(bytes, LENGTH).is_some());
    assert!(Found::read(&[bytes, bytes].concat(), LENGTH).is_none(), "more behind the end");
}

#[test]
fn requests_are_pids() {
    assert_eq!(Request::pid_of(Request::new(12).as_bytes()), Some(12));
    for wrong in [&[][..], &[0; 4], &[1, 0, 0], &[1, 0, 0, 0, 0], &u32::MAX.to_ne_bytes()] {
        assert_eq!(Request::pid_of(wrong), None, "{wrong:?}");
    }
}

#[test]
fn reports_arrive() {
    let path = [b'x'; 300];
    let outcome = Outcome::Failed(Failure::Changed);
    let report = Report::file(7, Some(Kind::Rustls), outcome, "0.23.46", &path, 12);
    let Some(Told::File(read)) = Report::read(report.as_bytes()) else { panic!("no report") };
    assert_eq!(
        (read.pid, read.kind, read.outcome, read.hooks),
        (7, Some(Kind::Rustls), outcome, 12)
    );
    assert_eq!((&*read.version, read.path.len(), read.again), ("0.23.46", PATH, false));
    let Some(Told::File(again)) = Report::read(report.again(8).as_bytes()) else { panic!() };
    assert_eq!(again, FileReport { pid: 8, again: true, ..read });
    assert_eq!(Report::read(Report::done(8).as_bytes()), Some(Told::Done { pid: 8 }));
    let whole = report.as_bytes();
    assert_eq!(Report::read(&whole[1..]), None);
    assert_eq!(Report::read(&[whole, &[0]].concat()), None);
}

#[test]
fn files_without_a_library_do_not_matter() {
    let matters = |outcome| Report::file(7, None, outcome, "", b"/a", 0).matters();
    assert!(!matters(Outcome::Refused(Refusal::NoLibrary)));
    assert!(!matters(Outcome::Refused(Refusal::NotElf)));
    assert!(matters(Outcome::Refused(Refusal::Malformed)));
    assert!(matters(Outcome::Failed(Failure::Jvm)));
    assert!(matters(Outcome::Attached));
}

#[test]
fn outcomes_have_codes_and_labels_of_their_own() {
    let failures = Failure::ALL.map(Outcome::Failed);
    let refusals = Refusal::ALL.map(Outcome::Refused);
    let all = [&[Outcome::Attached][..], &failures, &refusals].concat();
    for outcome in &all {
        assert_eq!(Outcome::of_code(outcome.code()), Some(*outcome));
    }
    let labels: BTreeSet<_> = all.iter().map(|outcome| outcome.label()).collect();
    assert_eq!(labels.len(), all.len());
    assert_eq!(Outcome::of_code(0), None);
    assert_eq!(Outcome::of_code(u8::MAX), None);
    // Failures are numbered in the order of their list.
    for (place, failure) in Failure::ALL.iter().enumerate() {
        assert_eq!(*failure as usize, place);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read(
        bytes in prop::collection::vec(any::<u8>(), 0..512),
        tags in prop::collection::vec(0_u8..5, 8),
        lengths in prop::collection::vec(0_u8..20, 8),
    ) {
        let _ = Request::pid_of(&bytes);
        let _ = Report::read(&bytes);
        let mut bytes = bytes;
        bytes.truncate(bytes.len() / 64 * 64);
        for (piece, (tag, length)) in bytes.chunks_mut(64).zip(tags.iter().zip(&lengths)) {
            piece[8 * 7] = *tag;
            piece[8 * 7 + 3] = *length;
            piece[2..8].fill(0);
        }
        if let Some(found) = Found::read(&bytes, LENGTH) {
            for PlaceToProbe { instruction, .. } in &found.places {
                prop_assert!(instruction.range().1 <= LENGTH);
                prop_assert!((1..=15).contains(&instruction.bytes.len()));
            }
            prop_assert!(found.build_id.is_none_or(|id| id.range().1 <= LENGTH));
        }
    }
}

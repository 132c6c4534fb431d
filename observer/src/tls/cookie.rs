//! The number that a probe is attached with.

use observer_common::tls::cookie::{Bio, Cookie, Random, Sealed, routine};
use observer_tls::{Hook, Layout, Library, Place, Routine, Tls};

/// The cookie for a probe at one of the library's places, which the BPF program `tls_hook` understands. `None` if the
/// program cannot follow the plaintext of this library: then none of its places is to be probed.
pub fn cookie(library: &Library, hook: &Hook) -> Option<u64> {
    let routine = match hook.routine {
        Routine::SslRead => routine::READ,
        Routine::SslReadEx => routine::READ_EX,
        Routine::SslWrite => routine::WRITE,
        Routine::SslWriteEx => routine::WRITE_EX,
        Routine::SslWriteEx2 => routine::WRITE_EX2,
        Routine::SealRecord => routine::SEAL,
        Routine::GoRead => routine::GO_READ,
        Routine::GoWrite => routine::GO_WRITE,
        Routine::MakeCipher => routine::MAKE_CIPHER,
        Routine::Decrypt { .. } => routine::DECRYPT,
        Routine::Encrypt { .. } => routine::ENCRYPT,
    };
    let cookie = match hook.place {
        Place::Entry { pushed } => Cookie::entry(routine, pushed),
        Place::Return => Cookie::of_return(routine),
    }?;
    let cookie = match hook.routine {
        Routine::Decrypt { version, overhead, start } => cookie.with_sealed(Sealed {
            overhead: overhead.into(),
            start: start.into(),
            hides_type: version == Tls::V1_3,
        })?,
        _ => cookie,
    };
    Some(with_layout(cookie, library.layout)?.number())
}

/// With the places that tie an object to its connection. A place that does not fit is as good as one that is not known.
fn with_layout(cookie: Cookie, layout: Layout) -> Option<Cookie> {
    let random =
        |field: observer_tls::Field| Random { pointer: field.pointer, offset: field.offset };
    Some(match layout {
        Layout::OpenSsl { client_random, socket } => {
            let with = client_random.and_then(|field| cookie.with_random(random(field)));
            let cookie = with.unwrap_or(cookie);
            let bio = socket.and_then(|socket| {
                let observer_tls::SocketBio { read_bio, method, number } = socket;
                cookie.with_bio(Bio { read_bio, method, number })
            });
            bio.unwrap_or(cookie)
        }
        Layout::BoringSsl { client_random, .. } => cookie.with_random(random(client_random))?,
        Layout::Go | Layout::Rustls => cookie,
    })
}

#[cfg(test)]
mod tests {
    use observer_common::tls::cookie::{Bio, Cookie, Random, Sealed, routine};
    use observer_tls::{
        Field, Hook, Kind, Layout, Library, Place, Routine, SocketBio, Stepping, Tls,
    };

    use super::cookie;

    fn at(layout: Layout, routine: Routine, place: Place) -> Option<Cookie> {
        let hook =
            Hook { offset: 64, bytes: vec![0x55], routine, place, stepping: Stepping::Emulated };
        let library =
            Library { kind: Kind::OpenSsl, version: None, layout, hooks: vec![hook.clone()] };
        cookie(&library, &hook).map(Cookie::of_number)
    }

    #[test]
    fn each_routine_has_its_number() {
        let go = |routine| at(Layout::Go, routine, Place::Return).map(Cookie::routine);
        assert_eq!(go(Routine::SslRead), Some(routine::READ));
        assert_eq!(go(Routine::SslReadEx), Some(routine::READ_EX));
        assert_eq!(go(Routine::SslWrite), Some(routine::WRITE));
        assert_eq!(go(Routine::SslWriteEx), Some(routine::WRITE_EX));
        assert_eq!(go(Routine::SslWriteEx2), Some(routine::WRITE_EX2));
        assert_eq!(go(Routine::SealRecord), Some(routine::SEAL));
        assert_eq!(go(Routine::GoRead), Some(routine::GO_READ));
        assert_eq!(go(Routine::GoWrite), Some(routine::GO_WRITE));
        let rustls = |routine| at(Layout::Rustls, routine, Place::Return);
        assert_eq!(rustls(Routine::MakeCipher).map(Cookie::routine), Some(routine::MAKE_CIPHER));
        let encrypt = Routine::Encrypt { version: Tls::V1_3, overhead: 17 };
        assert_eq!(rustls(encrypt).map(Cookie::routine), Some(routine::ENCRYPT));
        let decrypt = rustls(Routine::Decrypt { version: Tls::V1_2, overhead: 24, start: 8 });
        let sealed = Sealed { overhead: 24, start: 8, hides_type: false };
        assert_eq!(decrypt.map(Cookie::sealed), Some(sealed));
    }

    #[test]
    fn the_layout_goes_along() {
        let field = Field { pointer: Some(0x30), offset: 0x30 };
        let random = Some(Random { pointer: Some(0x30), offset: 0x30 });
        let boring =
            Layout::BoringSsl { client_random: field, read_sequence: field, write_sequence: field };
        let cookie = at(boring, Routine::SealRecord, Place::Entry { pushed: 16 }).unwrap();
        assert_eq!((cookie.random(), cookie.bio(), cookie.pushed()), (random, None, 16));
        let bio = SocketBio { read_bio: 0x10, method: 8, number: 0x38 };
        let open = Layout::OpenSsl { client_random: Some(field), socket: Some(bio) };
        let cookie = at(open, Routine::SslRead, Place::Return).unwrap();
        let bio = Bio { read_bio: 0x10, method: 8, number: 0x38 };
        assert_eq!((cookie.random(), cookie.bio()), (random, Some(bio)));
        assert!(cookie.is_return());
    }

    #[test]
    fn what_does_not_fit_is_not_known() {
        let field = Field { pointer: None, offset: 1 << 20 };
        let open = Layout::OpenSsl { client_random: Some(field), socket: None };
        assert_eq!(at(open, Routine::SslRead, Place::Return).unwrap().random(), None);
        let boring =
            Layout::BoringSsl { client_random: field, read_sequence: field, write_sequence: field };
        assert_eq!(at(boring, Routine::SslRead, Place::Return), None);
    }
}

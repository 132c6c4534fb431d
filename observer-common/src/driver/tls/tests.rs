//! TLS connections over slices.

use crate::{
    counter::Counter,
    driver::tls::{Before, Counted, Fragments, RecordWalk, Secured, Settled, Shown, state},
    record::{direction, record_kind},
    tls::{balance::Order, records::Records},
};

/// The bytes of a transfer, of which so many can be read.
struct Bytes<'a> {
    bytes: &'a [u8],
    readable: usize,
}

impl Fragments for Bytes<'_> {
    fn left(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn next(&mut self) -> Option<()> {
        None
    }

    fn advance(&mut self, n: u32) {
        self.readable = self.readable.saturating_sub(n as usize);
        self.bytes = &self.bytes[n as usize..];
    }

    fn read(&mut self, n: u32, records: &mut Records, at: u32) -> Option<()> {
        let n = n as usize;
        if n > self.readable {
            return None;
        }
        records.buffer[at as usize..][..n].copy_from_slice(&self.bytes[..n]);
        Some(())
    }
}

/// A client's end of a connection, with what it counts.
struct End {
    secured: Secured,
    sequences: [u32; 2],
    /// Bytes that passed before each first transfer.
    before: u64,
    /// Whether a FIN was read.
    is_shut: bool,
    counts: std::cell::RefCell<Vec<(Counter, u64)>>,
}

const SENT: u8 = direction::SENT;
const RECEIVED: u8 = direction::RECEIVED;

/// Of the first records of TLS 1.3, what is no plaintext: as a Finished, and as a server's flight.
const FINISHED: usize = 36;
const FLIGHT: usize = 900;

/// What TLS 1.3 adds to content.
const OVERHEAD: usize = 17;

fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
    let [high, low] = (fragment.len() as u16).to_be_bytes();
    [&[kind, 3, 3, high, low], fragment].concat()
}

/// A record of application data with so much content.
fn application(content: usize) -> Vec<u8> {
    record(23, &vec![0xaa; content + OVERHEAD])
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(content.len() as u16).to_be_bytes(), content].concat()
}

/// A hello with what comes behind its session id, and extensions.
fn hello(kind: u8, middle: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = extensions.concat();
    let body = [
        &[3, 3][..],
        &(0..32).collect::<Vec<u8>>(),
        &[0],
        middle,
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let [_, a, b, c] = (body.len() as u32).to_be_bytes();
    record(22, &[&[kind, a, b, c], &*body].concat())
}

fn client_hello(alpn: &[u8]) -> Vec<u8> {
    let names = [&[0, alpn.len() as u8 + 1, alpn.len() as u8], alpn].concat();
    hello(1, &[0, 2, 0x13, 1, 1, 0], &[extension(16, &names)])
}

/// A ServerHello of TLS 1.3, or of TLS 1.2 with this suite.
fn server_hello(suite: u16) -> Vec<u8> {
    let versions = if suite >> 8 == 0x13 { vec![extension(43, &[3, 4])] } else { Vec::new() };
    hello(2, &[&suite.to_be_bytes()[..], &[0]].concat(), &versions)
}

impl End {
    fn new() -> Self {
        Self {
            secured: Secured::NEW,
            sequences: [1_000, u32::MAX - 100],
            before: 0,
            is_shut: false,
            counts: Vec::new().into(),
        }
    }

    fn moves(&mut self, sent: u8, bytes: &[u8]) -> Shown {
        self.moves_readable(sent, bytes, usize::MAX)
    }

    fn moves_readable(&mut self, sent: u8, bytes: &[u8], readable: usize) -> Shown {
        let total = bytes.len() as u64;
        let sequence = &mut self.sequences[usize::from(sent)];
        *sequence = sequence.wrapping_add(total as u32);
        let counted = Counted { sequence: *sequence, moved: self.before, is_shut: self.is_shut };
        let end = self.secured.begin(sent, total, counted);
        let mut fragments = Bytes { bytes, readable };
        let own = self.secured.direction(sent);
        let mut walk = RecordWalk { own, fragments: &mut fragments };
        while walk.step() {}
        self.secured.end(sent, end)
    }

    /// As the client of TLS 1.3 that has just shaken hands, with both first pieces of plaintext seen.
    fn open(order: Order) -> Self {
        let mut end = Self::new();
        assert_eq!(end.moves(SENT, &client_hello(b"h2")), Shown::Random);
        assert_eq!(end.secured.random[0], u64::from_ne_bytes([0, 1, 2, 3, 4, 5, 6, 7]));
        let flight = [server_hello(0x1301), application(FLIGHT)].concat();
        assert_eq!(end.moves(RECEIVED, &flight), Shown::Nothing);
        end.secured.state = state::FOLLOWED;
        end.secured.id = 7;
        end.secured.begin_plaintext(SENT, order, Before::Nothing);
        end.secured.begin_plaintext(RECEIVED, Order::RecordsFirst, Before::Nothing);
        end.moves(SENT, &application(FINISHED));
        end.writes(order, 51);
        end.reads(27);
        end.settles();
        end.settles();
        if let Some(record) = end.secured.proven(None) {
            end.secured.reported(&record);
        }
        assert_eq!(*end.counts.borrow(), [], "{order:?}");
        end
    }

    /// The process writes so much plaintext in one record.
    fn writes(&mut self, order: Order, n: usize) {
        if order == Order::PlaintextFirst {
            self.secured.saw(SENT, n as u64);
        }
        self.moves(SENT, &application(n));
        if order == Order::RecordsFirst {
            self.secured.saw(SENT, n as u64);
        }
    }

    /// The process reads so much plaintext in one record.
    fn reads(&mut self, n: usize) {
        self.moves(RECEIVED, &application(n));
        self.secured.saw(RECEIVED, n as u64);
    }

    fn settles(&mut self) -> Settled {
        let counts = &self.counts;
        self.secured.settle(|counter, bytes| counts.borrow_mut().push((counter, bytes)))
    }

    fn ends(&mut self) -> u8 {
        let counts = &self.counts;
        self.secured.over(|counter, bytes| counts.borrow_mut().push((counter, bytes)))
    }

    /// Received and sent positions up to which it is proven now, if that was not reported before.
    fn proven(&mut self) -> Option<(u64, u64)> {
        let [_, written] = self.sequences;
        let record = self.secured.proven(Some(written))?;
        assert_eq!((record.connection, record.kind), (7, record_kind::PROVEN));
        self.secured.reported(&record);
        Some((record.position, record.length))
    }
}

#[test]
fn each_piece_of_plaintext_is_proven_once_its_records_are_seen() {
    for order in [Order::RecordsFirst, Order::PlaintextFirst] {
        let mut end = End::open(order);
        assert_eq!(end.proven(), None);
        let (mut read, mut written) = (27, 51);
        for n in 100..120 {
            end.writes(order, n);
            end.reads(2 * n);
            read += 2 * n as u64;
            written += n as u64;
            assert_eq!(end.proven(), Some((read, written)));
        }
        end.settles();
        assert_eq!((end.ends(), end.proven()), (0, None));
        assert_eq!(*end.counts.borrow(), []);
    }
}

#[test]
fn an_answer_is_proven_after_the_write_that_it_answers() {
    let mut end = End::open(Order::RecordsFirst);
    // The write has not returned.
    end.moves(SENT, &application(100));
    end.reads(200);
    assert_eq!(end.proven(), None);
    end.secured.saw(SENT, 100);
    assert_eq!(end.proven(), Some((227, 151)));
    // Its transfer has not returned.
    end.sequences[usize::from(SENT)] += 50;
    end.reads(10);
    assert_eq!(end.proven(), None);
    assert!(end.secured.proven(None).is_some(), "the end");
    // Where plaintext is seen first, nothing waits.
    let mut end = End::open(Order::PlaintextFirst);
    end.secured.saw(SENT, 100);
    end.reads(200);
    assert_eq!(end.proven(), Some((227, 51)));
}

#[test]
fn plaintext_that_is_missing_is_counted_to_the_byte_and_put_in_doubt() {
    for order in [Order::RecordsFirst, Order::PlaintextFirst] {
        let mut end = End::open(order);
        end.writes(order, 100);
        end.moves(SENT, &application(333));
        end.settles();
        end.settles();
        end.settles();
        assert_eq!(*end.counts.borrow(), [(Counter::TlsUnseen, 333)], "{order:?}");
        end.proven();
        // More of it does not prove anything, until the doubt is reported.
        end.writes(order, 10);
        end.writes(order, 10);
        assert_eq!(end.proven(), None);
        let doubted = end.secured.direction(SENT).doubted(7, SENT).unwrap();
        assert_eq!((doubted.kind, doubted.direction), (record_kind::DOUBTED, SENT));
        assert_eq!(doubted.position + doubted.length, 51 + 100 + 20);
        assert!([51, 151].contains(&doubted.position), "{doubted:?}");
        end.secured.direction(SENT).reported_doubt();
        assert_eq!(end.secured.direction(SENT).doubted(7, SENT), None);
        end.writes(order, 10);
        end.settles();
        assert_eq!(end.proven(), Some((27, 181)));
        assert_eq!(end.ends(), 0);
    }
}

#[test]
fn the_end_is_no_gap_if_the_process_did_not_want_the_rest() {
    let mut end = End::open(Order::PlaintextFirst);
    end.reads(50);
    end.settles();
    end.moves(RECEIVED, &application(17));
    end.secured.saw(SENT, 17);
    assert_eq!(end.ends(), 1 << RECEIVED, "it may be an answer");
    assert_eq!(*end.counts.borrow(), []);
    assert_eq!(end.proven(), Some((77, 51)));
}

#[test]
fn what_was_taken_and_never_sent_is_not_proven() {
    let mut end = End::open(Order::PlaintextFirst);
    end.writes(Order::PlaintextFirst, 100);
    // As gRPC's core does that cannot write to the socket: it ends the calls, and encrypts their trailers.
    end.secured.saw(SENT, 30);
    end.secured.saw(SENT, 31);
    assert!(end.secured.may_end(end.sequences));
    assert_eq!((end.ends(), end.proven()), (0, Some((27, 151))));
    assert_eq!(*end.counts.borrow(), []);
}

#[test]
fn the_end_waits_for_calls_and_transfers_that_have_not_returned() {
    let mut end = End::open(Order::RecordsFirst);
    assert!(end.secured.may_end(end.sequences));
    end.moves(SENT, &application(70));
    assert!(!end.secured.may_end(end.sequences));
    end.secured.saw(SENT, 70);
    // An alert.
    end.moves(SENT, &application(2));
    assert!(end.secured.may_end(end.sequences));
    let [copied, written] = end.sequences;
    assert!(end.secured.may_end([copied + 1, written]), "a FIN");
    assert!(!end.secured.may_end([copied + 2, written]));
    assert!(!end.secured.may_end([copied, written + 9]));
    assert_eq!((end.ends(), end.proven()), (0, Some((27, 121))));
}

#[test]
fn at_the_end_what_is_missing_is_counted() {
    let mut end = End::open(Order::RecordsFirst);
    end.moves(RECEIVED, &application(500));
    end.reads(50);
    assert_eq!(end.ends(), 1 << RECEIVED);
    assert_eq!(*end.counts.borrow(), [(Counter::TlsUnseen, 500)]);
}

#[test]
fn a_gap_at_the_socket_is_a_doubt() {
    let mut end = End::open(Order::RecordsFirst);
    end.sequences[usize::from(RECEIVED)] += 40;
    end.reads(100);
    end.settles();
    let doubted = end.secured.direction(RECEIVED).doubted(7, RECEIVED);
    assert_eq!(doubted.map(|doubted| (doubted.position, doubted.length)), Some((27, 100)));
    let mut end = End::open(Order::RecordsFirst);
    end.moves_readable(SENT, &[application(10), application(20)].concat(), 5);
    end.settles();
    assert!(end.secured.direction(SENT).doubted(7, SENT).is_some());
}

#[test]
fn a_fin_that_is_read_with_the_last_bytes_is_no_gap() {
    let mut end = End::open(Order::RecordsFirst);
    end.is_shut = true;
    end.sequences[usize::from(RECEIVED)] += 1;
    end.reads(100);
    assert_eq!((end.ends(), end.proven()), (0, Some((127, 51))));
    assert_eq!(*end.counts.borrow(), []);
}

#[test]
fn what_is_not_followed_is_counted_once_it_is_certain() {
    let mut end = End::new();
    end.moves(SENT, &client_hello(b"h2"));
    end.moves(RECEIVED, &[server_hello(0x1301), application(FLIGHT)].concat());
    assert_eq!(end.settles(), Settled::GoesOn, "the client has not answered");
    end.moves(SENT, &[application(FINISHED), application(51)].concat());
    assert_eq!([end.settles(), end.settles()], [Settled::GoesOn; 2]);
    assert_eq!(*end.counts.borrow(), []);
    assert_eq!(end.settles(), Settled::NotFollowed);
    end.moves(SENT, &application(1_000));
    assert_eq!(end.settles(), Settled::GoesOn);
    assert_eq!(end.ends(), 0);
    let counts: u64 = end.counts.borrow().iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(counts as usize, FLIGHT + FINISHED + 51 + 1_000);
    assert!(end.counts.borrow().iter().all(|(counter, _)| *counter == Counter::TlsNotFollowed));
}

/// What a client of TLS 1.3 sends in a handshake.
fn handshake(suite: u16, finished: usize) -> End {
    let mut end = End::new();
    end.moves(SENT, &client_hello(b"h2"));
    end.moves(RECEIVED, &[server_hello(suite), application(FLIGHT)].concat());
    end.moves(SENT, &application(finished));
    end
}

#[test]
fn a_connection_that_ends_within_the_handshake_has_no_gap() {
    let alert = application(2);
    for (suite, finished) in [(0x1301, FINISHED), (0x1302, 52), (0x1303, FINISHED)] {
        for alerts in 0..3 {
            let mut end = handshake(suite, finished);
            for _ in 0..alerts {
                end.moves(SENT, &alert);
            }
            assert!((0..9).all(|_| end.settles() == Settled::GoesOn), "it is idle");
            end.moves(RECEIVED, &application(27));
            assert_eq!(end.ends(), 0);
            assert_eq!(*end.counts.borrow(), [], "{suite:x}, {alerts} alerts");
        }
    }
    // The client has refused the server's certificate, and has not even sent an alert.
    let mut end = End::new();
    end.moves(SENT, &client_hello(b"h2"));
    end.moves(RECEIVED, &[server_hello(0x1301), application(FLIGHT)].concat());
    end.ends();
    assert_eq!(*end.counts.borrow(), []);
    // TLS 1.2
    let mut end = End::new();
    end.moves(SENT, &client_hello(b"h2"));
    end.moves(RECEIVED, &server_hello(0xc02f));
    end.moves(RECEIVED, &application(27));
    end.ends();
    assert_eq!(*end.counts.borrow(), []);
}

#[test]
fn a_connection_on_which_more_may_have_been_sent_has_a_gap() {
    let counted = |end: &mut End| {
        end.ends();
        end.counts.borrow().iter().map(|(_, bytes)| *bytes as usize).sum::<usize>()
    };
    // A certificate of the client has any length.
    for finished in [FINISHED - 1, FINISHED + 1, 52, 700] {
        assert_eq!(counted(&mut handshake(0x1301, finished)), FLIGHT + finished);
    }
    assert_eq!(counted(&mut handshake(0x1302, FINISHED)), FLIGHT + FINISHED);
    let mut end = handshake(0x1301, FINISHED);
    end.moves(SENT, &application(33));
    assert_eq!(counted(&mut end), FLIGHT + FINISHED + 33);
    let mut end = handshake(0x1301, FINISHED);
    end.moves(SENT, &[application(2), application(33)].concat());
    assert_eq!(counted(&mut end), FLIGHT + FINISHED + 2 + 33);
    // Bytes of the client were not captured.
    let mut end = handshake(0x1301, FINISHED);
    end.sequences[usize::from(SENT)] += 300;
    end.moves(SENT, &application(2));
    assert_ne!(counted(&mut end), 0);
}

#[test]
fn other_protocols_and_suites_are_left_alone() {
    assert_eq!(End::new().moves(SENT, &client_hello(b"http/1.1")), Shown::NotHttp2);
    let without_alpn = hello(1, &[0, 2, 0x13, 1, 1, 0], &[extension(0, b"a")]);
    assert_eq!(End::new().moves(SENT, &without_alpn), Shown::NoProtocol);
    assert_eq!(End::new().moves(SENT, b"GET / HTTP/1.1\r\n"), Shown::NotHttp2);
    let mut end = End::new();
    end.moves(SENT, &client_hello(b"h2"));
    // TLS_RSA_WITH_AES_128_CBC_SHA
    assert_eq!(end.moves(RECEIVED, &server_hello(0x002f)), Shown::Cipher);
}

#[test]
fn one_direction_alone_is_given_up_after_a_while() {
    let mut end = End::open(Order::RecordsFirst);
    end.secured.directions[usize::from(RECEIVED)].forget_plaintext();
    let settled: Vec<_> = (0..40).map(|_| end.settles()).collect();
    let at = settled.iter().position(|settled| *settled == Settled::OneSided);
    assert_eq!(at, Some(29));
}

#[test]
fn plaintext_that_is_no_frames_is_tried_a_number_of_times() {
    let mut end = End::open(Order::RecordsFirst);
    assert!(end.secured.tries_again());
    assert_eq!((end.secured.id, end.secured.state), (0, state::OPENING));
    assert!(end.secured.directions.iter().all(|direction| !direction.is_begun()));
    let tries = (0..1_000).take_while(|_| end.secured.tries_again()).count();
    assert_eq!(tries, 99);
}

/// A connection that is older than the daemon, after some records.
fn late() -> End {
    let mut end = End::new();
    end.before = 5_000;
    for n in [30, 40] {
        assert_eq!(end.moves(RECEIVED, &application(n)), Shown::Nothing);
        assert_eq!(end.moves(SENT, &application(n)), Shown::Nothing);
    }
    assert!(end.secured.is_late());
    end
}

#[test]
fn an_object_is_a_late_connections_if_lengths_agree_several_times() {
    const OBJECT: u64 = 0x1000;
    let mut end = late();
    assert!(!end.secured.agrees(OBJECT, 40));
    assert!(!end.secured.agrees(OBJECT, 39), "no suite adds 18 bytes");
    assert!(!end.secured.agrees(OBJECT, 40));
    assert!(!end.secured.agrees(OBJECT + 8, 40), "another object");
    assert!(!end.secured.agrees(OBJECT, 40));
    assert!(!end.secured.agrees(OBJECT, 40));
    end.moves(RECEIVED, &application(55));
    assert!(end.secured.agrees(OBJECT, 55));
    let mut end = End::open(Order::RecordsFirst);
    end.reads(55);
    assert!((0..9).all(|_| !end.secured.agrees(OBJECT, 55)), "its random shows the object");
}

#[test]
fn a_late_connection_shows_its_cipher_by_what_is_received() {
    let mut end = late();
    assert!(!end.secured.knows_cipher(SENT, 40), "what is sent may be under way");
    assert!(!end.secured.knows_cipher(RECEIVED, 12));
    assert!(end.secured.knows_cipher(RECEIVED, 40));
    assert!(end.secured.knows_cipher(SENT, 40));
    end.secured.state = state::FOLLOWED;
    end.secured.id = 7;
    end.secured.begin_plaintext(RECEIVED, Order::RecordsFirst, Before::Unknown);
    end.secured.begin_plaintext(SENT, Order::RecordsFirst, Before::SinceOther);
    end.secured.saw(RECEIVED, 40);
    end.writes(Order::RecordsFirst, 70);
    end.reads(60);
    end.settles();
    end.reads(80);
    end.writes(Order::RecordsFirst, 90);
    end.settles();
    assert_eq!(end.proven(), Some((180, 160)));
    assert_eq!((end.ends(), end.counts.borrow().len()), (0, 0));
}

/// A late connection whose cipher is known.
fn followed_late() -> End {
    let mut end = late();
    assert!(end.secured.knows_cipher(RECEIVED, 40));
    end.secured.state = state::FOLLOWED;
    end.secured.id = 7;
    end
}

#[test]
fn an_answer_that_passes_before_the_first_write_is_seen_is_a_gap() {
    for order in [Order::RecordsFirst, Order::PlaintextFirst] {
        for unseen in [0, 70] {
            let mut end = followed_late();
            end.secured.begin_plaintext(RECEIVED, Order::RecordsFirst, Before::Unknown);
            end.secured.saw(RECEIVED, 40);
            // The answer, by a write that had begun before the probes were there.
            if unseen != 0 {
                end.moves(SENT, &application(unseen));
            }
            assert!(end.secured.shows_what_passed(SENT));
            if order == Order::RecordsFirst {
                end.moves(SENT, &application(90));
            }
            end.secured.begin_plaintext(SENT, order, Before::SinceOther);
            end.secured.saw(SENT, 90);
            if order == Order::PlaintextFirst {
                end.moves(SENT, &application(90));
            }
            end.reads(60);
            end.settles();
            end.settles();
            let bytes: u64 = end.counts.borrow().iter().map(|(_, bytes)| *bytes).sum();
            assert_eq!(bytes, unseen as u64, "{order:?}");
            let (received, sent) = end.proven().unwrap();
            assert_eq!((received, sent), (100, if unseen == 0 { 90 } else { 0 }), "{order:?}");
            let doubt = end.secured.direction(SENT).doubted(7, SENT);
            assert_eq!(doubt.map(|doubt| doubt.length), (unseen != 0).then_some(90), "{order:?}");
        }
    }
}

#[test]
fn an_answer_may_have_passed_before_a_write_returns() {
    let mut end = followed_late();
    end.moves(SENT, &application(70));
    end.secured.begin_plaintext(SENT, Order::RecordsFirst, Before::Unknown);
    assert!(!end.secured.shows_what_passed(RECEIVED));
    // What a library encrypts is not sent yet.
    let mut end = followed_late();
    end.secured.begin_plaintext(SENT, Order::PlaintextFirst, Before::Unknown);
    assert!(end.secured.shows_what_passed(RECEIVED));
}

#[test]
fn records_that_are_out_of_step_do_not_show_what_passed() {
    let mut end = followed_late();
    end.sequences[usize::from(SENT)] += 300;
    end.moves(SENT, &application(70)[..30]);
    end.secured.begin_plaintext(RECEIVED, Order::RecordsFirst, Before::Unknown);
    assert!(!end.secured.shows_what_passed(SENT));
}

//! TLS connections over slices.

use crate::{
    counter::Counter,
    driver::tls::{Fragments, RecordWalk, Secured, Shown, state},
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
        let end = self.secured.begin(sent, total, *sequence, 0);
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
        end.secured.direction(SENT).begin_plaintext(order);
        end.secured.direction(RECEIVED).begin_plaintext(Order::RecordsFirst);
        end.moves(SENT, &application(FINISHED));
        end.writes(order, 51);
        end.reads(27);
        end.settles();
        end.settles();
        if let Some(record) = end.secured.proven() {
            end.secured.reported(&record);
        }
        assert_eq!(*end.counts.borrow(), [], "{order:?}");
        end
    }

    /// The process writes so much plaintext in one record.
    fn writes(&mut self, order: Order, n: usize) {
        if order == Order::PlaintextFirst {
            self.secured.direction(SENT).saw(n as u64);
        }
        self.moves(SENT, &application(n));
        if order == Order::RecordsFirst {
            self.secured.direction(SENT).saw(n as u64);
        }
    }

    /// The process reads so much plaintext in one record.
    fn reads(&mut self, n: usize) {
        self.moves(RECEIVED, &application(n));
        self.secured.direction(RECEIVED).saw(n as u64);
    }

    fn settles(&mut self) -> bool {
        let counts = &self.counts;
        self.secured.settle(|counter, bytes| counts.borrow_mut().push((counter, bytes)))
    }

    fn ends(&mut self) -> u8 {
        let counts = &self.counts;
        self.secured.over(|counter, bytes| counts.borrow_mut().push((counter, bytes)))
    }

    /// Received and sent positions up to which it is proven now, if that was not reported before.
    fn proven(&mut self) -> Option<(u64, u64)> {
        let record = self.secured.proven()?;
        assert_eq!((record.connection, record.kind), (7, record_kind::PROVEN));
        self.secured.reported(&record);
        Some((record.position, record.length))
    }
}

#[test]
fn each_transfer_proves_what_was_before_it() {
    for order in [Order::RecordsFirst, Order::PlaintextFirst] {
        let mut end = End::open(order);
        assert_eq!(end.proven(), None);
        let (mut read, mut written) = (27, 51);
        for n in 100..120 {
            end.writes(order, n);
            end.reads(2 * n);
            let late = if order == Order::RecordsFirst { written } else { written + n as u64 };
            assert_eq!(
                end.proven(),
                if n == 100 && late == 51 { None } else { Some((read, late)) }
            );
            read += 2 * n as u64;
            written += n as u64;
        }
        end.settles();
        assert_eq!(end.proven(), Some((read, written)));
        assert_eq!((end.ends(), end.proven()), (0, None));
        assert_eq!(*end.counts.borrow(), []);
    }
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
    end.secured.direction(SENT).saw(17);
    assert_eq!(end.ends(), 1 << RECEIVED, "it may be an answer");
    assert_eq!(*end.counts.borrow(), []);
    assert_eq!(end.proven(), Some((77, 68)));
}

#[test]
fn the_end_waits_for_calls_that_have_not_returned() {
    let mut end = End::open(Order::RecordsFirst);
    assert!(end.secured.may_end());
    end.moves(SENT, &application(70));
    assert!(!end.secured.may_end());
    end.secured.direction(SENT).saw(70);
    // An alert.
    end.moves(SENT, &application(2));
    assert!(end.secured.may_end());
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
fn what_is_not_followed_is_counted_once_it_is_certain() {
    let mut end = End::new();
    end.moves(SENT, &client_hello(b"h2"));
    end.moves(RECEIVED, &[server_hello(0x1301), application(FLIGHT)].concat());
    assert!(!end.settles(), "the client has not answered");
    end.moves(SENT, &[application(FINISHED), application(51)].concat());
    assert_eq!([end.settles(), end.settles()], [false; 2]);
    assert_eq!(*end.counts.borrow(), []);
    assert!(end.settles());
    end.moves(SENT, &application(1_000));
    assert!(!end.settles());
    assert_eq!(end.ends(), 0);
    let counts: u64 = end.counts.borrow().iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(counts as usize, FLIGHT + FINISHED + 51 + 1_000);
    assert!(end.counts.borrow().iter().all(|(counter, _)| *counter == Counter::TlsNotFollowed));
}

#[test]
fn other_protocols_and_suites_are_left_alone() {
    assert_eq!(End::new().moves(SENT, &client_hello(b"http/1.1")), Shown::NotHttp2);
    assert_eq!(End::new().moves(SENT, b"GET / HTTP/1.1\r\n"), Shown::NotHttp2);
    let mut end = End::new();
    end.moves(SENT, &client_hello(b"h2"));
    // TLS_RSA_WITH_AES_128_CBC_SHA
    assert_eq!(end.moves(RECEIVED, &server_hello(0x002f)), Shown::Cipher);
}

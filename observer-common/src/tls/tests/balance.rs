//! Whether plaintext that was missed shows, to the byte, and nothing else does.

use proptest::prelude::*;
use rustls::crypto::ring::cipher_suite;

use super::{
    LENGTHS, TLS_1_2, TLS_1_3, alert, application, conversation,
    drive::feed,
    peers::{Conversation, FROM_CLIENT, FROM_SERVER, Options, Peers, Step, suites},
    read,
};
use crate::tls::{
    balance::{Balance, Order, Verdict},
    cipher::Cipher,
    records::Records,
};

/// An observer of both ends: of each direction, where it is sent and where it is received.
struct Observer {
    records: [Records; 2],
    sent: [Balance; 2],
    received: [Balance; 2],
    /// Plaintext that was written and counted after its records: its library returns only then.
    order: Order,
    written: [u64; 2],
    /// How often both sides were level where something was received.
    level: u64,
}

impl Observer {
    fn new(order: Order) -> Self {
        Self {
            records: [Records::at_opening(); 2],
            sent: [Balance::from_start(order); 2],
            received: [Balance::from_start(Order::RecordsFirst); 2],
            order,
            written: [0; 2],
            level: 0,
        }
    }

    fn cipher(&self) -> Cipher {
        self.records[FROM_SERVER].hello().cipher().unwrap_or_default()
    }

    /// Sees these steps; of plaintext, those pieces that `sees` is true for, by their number.
    fn see(&mut self, steps: &[Step], mut sees: impl FnMut(usize) -> bool) {
        let mut plaintext = 0..;
        let mut sees = || sees(plaintext.next().unwrap());
        for step in steps {
            match step {
                Step::Wrote(way, n) if sees() => match self.order {
                    Order::PlaintextFirst => self.sent[*way].saw(*n as u64),
                    Order::RecordsFirst => self.written[*way] += *n as u64,
                },
                Step::Returned(way, n) if sees() => self.received[*way].saw(*n as u64),
                Step::Wire(way, bytes) => self.transfer(*way, bytes),
                _ => {}
            }
        }
    }

    fn transfer(&mut self, way: usize, bytes: &[u8]) {
        let cipher = self.cipher();
        let Self { records, sent, received, .. } = self;
        let (records, sent) = (&mut records[way], &mut sent[way]);
        self.level += u64::from(received[way].level(records, cipher));
        if self.order == Order::RecordsFirst {
            sent.level(records, cipher);
        }
        feed(records, bytes);
        if self.order == Order::PlaintextFirst {
            sent.level(records, cipher);
        }
        let written = core::mem::take(&mut self.written[way]);
        if written > 0 {
            sent.saw(written);
        }
    }

    /// What all balances say: where the client's bytes are sent and received, then the server's.
    fn settle(&mut self) -> [Verdict; 4] {
        self.all(Balance::settle)
    }

    fn end(&mut self) -> [Verdict; 4] {
        self.all(Balance::end)
    }

    fn all(&mut self, ask: fn(&mut Balance, &Records, Cipher) -> Verdict) -> [Verdict; 4] {
        let cipher = self.cipher();
        let [c, s] = &self.records;
        let ([cs, ss], [cr, sr]) = (&mut self.sent, &mut self.received);
        [ask(cs, c, cipher), ask(cr, c, cipher), ask(ss, s, cipher), ask(sr, s, cipher)]
    }

    /// The gaps that are reported once nothing happens any more.
    fn gaps(&mut self) -> [u64; 4] {
        let mut gaps = [0; 4];
        for _ in 0..2 {
            for (gap, verdict) in gaps.iter_mut().zip(self.settle()) {
                if let Verdict::Gap(n) = verdict {
                    *gap += n;
                }
            }
        }
        gaps
    }

    /// What is said once nothing happens any more.
    fn settle_twice(&mut self) -> [Verdict; 4] {
        self.settle();
        self.settle()
    }
}

const EXACT: [Verdict; 4] = [Verdict::Exact; 4];
const ORDERS: [Order; 2] = [Order::RecordsFirst, Order::PlaintextFirst];

fn observe(peers: &Conversation, order: Order) -> Observer {
    let mut observer = Observer::new(order);
    observer.see(&peers.steps, |_| true);
    observer
}

#[test]
fn all_plaintext_of_all_suites_is_accounted_for() {
    for suite in suites() {
        let peers = conversation(suite, LENGTHS);
        for order in ORDERS {
            let mut observer = observe(&peers, order);
            assert_eq!(observer.settle_twice(), EXACT, "{suite:?}, {order:?}");
            assert!(observer.level > 8, "proven while it went on: {}", observer.level);
            assert_eq!(observer.end(), EXACT, "{suite:?}, {order:?}");
        }
    }
}

#[test]
fn handshakes_of_all_kinds_are_told_from_plaintext() {
    for options in [
        Options { retry: true, ..Options::of(TLS_1_3) },
        Options { client_certificate: true, ..Options::of(TLS_1_3) },
        Options { client_certificate: true, ..Options::of(TLS_1_2) },
        Options { client_alpn: vec![], ..Options::of(cipher_suite::TLS13_AES_256_GCM_SHA384) },
    ] {
        let peers = Peers::new(&options);
        // The second one is resumed, where that is possible.
        for _ in 0..2 {
            let mut peers = peers.connect(&[]);
            peers.talk(LENGTHS);
            for order in ORDERS {
                assert_eq!(observe(&peers, order).settle_twice(), EXACT);
            }
        }
    }
}

#[test]
fn a_busy_connection_needs_no_quiet_moment() {
    for suite in [TLS_1_3, TLS_1_2] {
        let mut peers = conversation(suite, &[]);
        let mut observer = Observer::new(Order::PlaintextFirst);
        let mut from = 0;
        for round in 0..20 {
            observer.see(&peers.steps[from..], |_| true);
            from = peers.steps.len();
            assert_eq!(observer.settle(), EXACT, "{suite:?}, round {round}");
            peers.write(FROM_CLIENT, 50 + round);
            peers.write(FROM_SERVER, 500 + round);
        }
    }
}

#[test]
fn each_piece_that_is_missed_is_a_gap_of_its_length() {
    for suite in [TLS_1_3, TLS_1_2] {
        let mut peers = conversation(suite, LENGTHS);
        peers.close(FROM_SERVER);
        peers.close(FROM_CLIENT);
        let pieces = peers.steps.iter().filter(|step| !matches!(step, Step::Wire(..)));
        let pieces: Vec<_> = pieces.cloned().collect();
        // The first of each direction shows where the plaintext begins.
        for (missed, piece) in pieces.iter().enumerate().skip(4) {
            for order in ORDERS {
                let mut observer = Observer::new(order);
                observer.see(&peers.steps, |piece| piece != missed);
                let gaps = observer.gaps();
                let (at, n) = match *piece {
                    Step::Wrote(way, n) => (2 * way, n),
                    Step::Returned(way, n) => (2 * way + 1, n),
                    Step::Wire(..) => unreachable!("no plaintext"),
                };
                let mut expected = [0; 4];
                // As long as a KeyUpdate, and the only record of that length.
                if suite == TLS_1_2 || n != 5 {
                    expected[at] = n as u64;
                }
                assert_eq!(gaps, expected, "{suite:?}, {order:?}, {missed}: {piece:?}");
                assert_eq!(observer.settle(), EXACT, "it is reported once");
            }
        }
    }
}

#[test]
fn a_gap_in_a_busy_connection_is_found_too() {
    for order in ORDERS {
        let mut peers = conversation(TLS_1_3, &[300; 24]);
        let mut observer = observe(&peers, order);
        assert_eq!(observer.settle(), EXACT);
        let mut from = peers.steps.len();
        peers.write(FROM_CLIENT, 77);
        observer.see(&peers.steps[from..], |_| false);
        let mut gaps = [0; 4];
        for _ in 0..4 {
            from = peers.steps.len();
            peers.write(FROM_CLIENT, 300);
            observer.see(&peers.steps[from..], |_| true);
            for (gap, verdict) in gaps.iter_mut().zip(observer.settle()) {
                if let Verdict::Gap(n) = verdict {
                    *gap += n;
                }
            }
        }
        assert_eq!(gaps, [77, 77, 0, 0], "{order:?}");
        assert_eq!(observer.settle(), EXACT, "{order:?}");
    }
}

#[test]
fn gaps_without_end_in_a_busy_connection_are_reported_as_it_goes_on() {
    for order in ORDERS {
        let mut hand = Hand::new(Balance::from_start(order));
        hand.saw(51).record(51).level();
        hand.settle();
        hand.settle();
        let mut found = 0;
        for second in 0..20 {
            hand.saw(100).record(100).level();
            hand.record(77).level();
            if let Verdict::Gap(n) = hand.settle() {
                found += n;
            }
            assert!(found + 3 * 77 >= 77 * second, "{order:?}: {found} after {second}");
        }
        assert!(found <= 77 * 20);
    }
}

#[test]
fn key_updates_and_alerts_are_no_gaps() {
    for order in ORDERS {
        let mut peers = conversation(TLS_1_3, LENGTHS);
        let mut observer = observe(&peers, order);
        assert_eq!(observer.settle_twice(), EXACT);
        for round in 0..4 {
            let from = peers.steps.len();
            peers.update_keys(round % 2);
            if round > 1 {
                peers.write(FROM_CLIENT, 100);
            }
            observer.see(&peers.steps[from..], |_| true);
            assert_eq!(observer.settle_twice(), EXACT, "{order:?}, round {round}");
        }
        let from = peers.steps.len();
        peers.close(FROM_CLIENT);
        peers.close(FROM_SERVER);
        observer.see(&peers.steps[from..], |_| true);
        assert_eq!(observer.end(), EXACT, "{order:?}");
    }
}

#[test]
fn early_data_is_not_taken_for_a_handshake_that_is_known() {
    let peers = Peers::new(&Options { early_data: true, ..Options::of(TLS_1_3) });
    peers.connect(&[]).talk(&[]);
    let mut again = peers.connect(&[b'x'; 51]);
    again.run();
    again.write(FROM_SERVER, 27);
    again.write(FROM_CLIENT, 300);
    let mut observer = observe(&again, Order::PlaintextFirst);
    observer.settle();
    let [sent, received, from_server @ ..] = observer.settle();
    assert_eq!([sent, received], [Verdict::Unknown; 2]);
    assert_eq!(from_server, [Verdict::Exact; 2]);
    // What follows is known again.
    let from = again.steps.len();
    again.write(FROM_CLIENT, 300);
    observer.see(&again.steps[from..], |_| true);
    observer.settle();
    assert_eq!(observer.settle(), EXACT);
}

/// Both directions of a balance that is tried by hand, TLS 1.3.
struct Hand(Records, Balance);

const OVERHEAD: u32 = 17;

impl Hand {
    /// After a handshake of 36 bytes.
    fn new(balance: Balance) -> Self {
        let mut records = read(&alert());
        feed(&mut records, &application(OVERHEAD as usize + 36));
        Self(records, balance)
    }

    fn record(&mut self, content: usize) -> &mut Self {
        feed(&mut self.0, &application(OVERHEAD as usize + content));
        self
    }

    fn saw(&mut self, n: u64) -> &mut Self {
        self.1.saw(n);
        self
    }

    fn level(&mut self) -> bool {
        self.1.level(&self.0, Cipher::of_overhead(OVERHEAD).unwrap())
    }

    fn settle(&mut self) -> Verdict {
        self.1.settle(&self.0, Cipher::of_overhead(OVERHEAD).unwrap())
    }

    /// The gaps that are reported once nothing happens any more.
    fn gaps(&mut self) -> u64 {
        let gap = |verdict| if let Verdict::Gap(n) = verdict { n } else { 0 };
        gap(self.settle()) + gap(self.settle())
    }

    fn end(&mut self) -> Verdict {
        self.1.end(&self.0, Cipher::of_overhead(OVERHEAD).unwrap())
    }
}

#[test]
fn nothing_is_claimed_while_something_may_be_under_way() {
    let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
    assert_eq!(hand.settle(), Verdict::Open, "no plaintext yet");
    assert!(hand.record(51).saw(51).level());
    assert_eq!(hand.settle(), Verdict::Exact);
    assert!(!hand.record(1_000).saw(400).level());
    assert_eq!((hand.1.seen(), hand.1.level_at()), (451, 51));
    assert_eq!(hand.settle(), Verdict::Open);
    assert!(hand.saw(600).level());
    assert_eq!((hand.1.seen(), hand.1.level_at()), (1_051, 1_051));
    assert_eq!(hand.settle(), Verdict::Exact);
    hand.record(1_000).saw(400);
    assert_eq!(hand.settle(), Verdict::Open);
    hand.saw(100);
    assert_eq!(hand.settle(), Verdict::Open, "it goes on");
    hand.saw(500);
    let mut hand = Hand::new(Balance::from_start(Order::PlaintextFirst));
    hand.saw(51);
    assert_eq!(hand.settle(), Verdict::Open);
    assert!(hand.record(51).level());
    hand.settle();
    assert!(!hand.saw(1_000).level());
    assert!(hand.record(1_000).level());
    assert_eq!(hand.settle(), Verdict::Exact);
    hand.saw(1_000);
    assert_eq!([hand.settle(), hand.settle(), hand.settle()][1..], [Verdict::Open; 2]);
    assert_eq!((hand.end(), hand.1.unsent()), (Verdict::Exact, 1_000));
    hand.record(1_000);
    assert_eq!((hand.end(), hand.1.unsent()), (Verdict::Exact, 0));
}

#[test]
fn what_comes_late_is_taken_back() {
    let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
    assert!(hand.record(51).saw(51).level());
    hand.record(1_000).saw(400);
    hand.settle();
    assert_eq!(hand.settle(), Verdict::Gap(600), "the process does not go on");
    hand.saw(600);
    assert_eq!(hand.settle(), Verdict::Exact, "but now it does");
    assert!(hand.level());
    hand.saw(10);
    assert_eq!(hand.settle(), Verdict::Excess(10));
    assert_eq!(hand.settle(), Verdict::Exact);
}

#[test]
fn only_what_has_the_length_of_a_key_update_or_an_alert_is_taken_for_one() {
    use Verdict::{Exact, Gap};
    let gap_after = |contents: &[usize], seen: u64| {
        let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
        assert!(hand.record(51).saw(51).level());
        for &content in contents {
            hand.record(content);
        }
        hand.saw(seen);
        hand.settle();
        hand.settle()
    };
    assert_eq!(gap_after(&[5], 0), Exact);
    assert_eq!(gap_after(&[5, 5], 0), Exact);
    assert_eq!(gap_after(&[5, 100, 2], 100), Exact);
    assert_eq!(gap_after(&[2], 0), Exact);
    assert_eq!(gap_after(&[2, 2], 0), Exact);
    assert_eq!(gap_after(&[5, 5, 5], 0), Gap(15), "too many");
    assert_eq!(gap_after(&[5, 5], 5), Gap(5), "the other one was plaintext");
    assert_eq!(gap_after(&[4], 0), Gap(4));
    assert_eq!(gap_after(&[2, 2, 2], 0), Gap(2));
    assert_eq!(gap_after(&[300, 2], 0), Gap(300));
    assert_eq!(gap_after(&[300, 5], 0), Gap(305));
    assert_eq!(gap_after(&[5, 2], 2), Exact, "the last one was plaintext");
    assert_eq!(gap_after(&[2, 100], 100), Gap(2), "something follows");
    assert_eq!(gap_after(&[5, 10], 5), Gap(10));
}

#[test]
fn an_alert_that_something_follows_was_none() {
    let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
    assert!(hand.record(51).saw(51).level());
    hand.record(2);
    assert_eq!([hand.settle(), hand.settle()][1], Verdict::Exact);
    hand.record(100).saw(100);
    assert_eq!([hand.settle(), hand.settle()], [Verdict::Gap(2), Verdict::Exact]);
}

#[test]
fn plaintext_that_does_not_fit_the_handshake_is_unknown() {
    let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
    hand.record(51).record(80).saw(51);
    hand.settle();
    assert_eq!(hand.settle(), Verdict::Unknown, "80 bytes are no record before 51");
    assert_eq!(hand.settle(), Verdict::Exact, "from here on");
    hand.record(9);
    assert_eq!(hand.gaps(), 9);
    // Nor can 51 bytes be in a record of 10, though all bytes are accounted for.
    let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
    hand.record(10).record(41).saw(51);
    assert_eq!([hand.settle(), hand.settle()][1], Verdict::Unknown);
    // A busy connection is not waited for until it is quiet.
    let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
    hand.record(51).record(80).saw(51);
    for _ in 0..10 {
        hand.record(100).saw(100);
    }
    assert_eq!([hand.settle(), hand.settle()], [Verdict::Unknown, Verdict::Exact]);
    // As many as the records behind it: taken for a handshake.
    let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
    hand.record(51).record(51).saw(51);
    assert_eq!([hand.settle(), hand.settle()][1], Verdict::Exact);
}

#[test]
fn handshakes_have_any_number_of_records() {
    for records in 1..=12 {
        let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
        for content in 1..records {
            hand.record(100 + content);
        }
        assert_eq!(hand.record(51).saw(51).level(), records < 12, "{records}");
        hand.record(70).saw(70);
        let verdict = hand.settle();
        assert_eq!(verdict, if records < 12 { Verdict::Exact } else { Verdict::Unknown });
    }
}

#[test]
fn a_base_that_only_looked_right_is_corrected() {
    // Two records are received at once, and of the same length. The second may be under way, or the first a handshake.
    let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
    assert!(hand.record(51).record(51).saw(51).level());
    assert!(hand.saw(51).level());
    assert_eq!([hand.settle(), hand.settle()], [Verdict::Exact; 2]);
    hand.record(51);
    assert_eq!(hand.gaps(), 51);
    // The first plaintext is as long as the last message of the handshake, and under way.
    let mut hand = Hand::new(Balance::from_start(Order::PlaintextFirst));
    assert!(hand.record(36).saw(36).level());
    assert!(hand.record(36).level());
    assert_eq!([hand.settle(), hand.settle()], [Verdict::Exact; 2]);
    hand.record(36);
    assert_eq!(hand.gaps(), 36);
}

#[test]
fn of_a_connection_joined_late_what_follows_is_known() {
    for order in ORDERS {
        let mut hand = Hand::new(Balance::joined_late(order));
        hand.record(700);
        assert_eq!(hand.settle(), Verdict::Open);
        hand.record(51).saw(51);
        assert_eq!(hand.settle(), Verdict::Exact);
        hand.record(90);
        hand.record(51).saw(51);
        assert_eq!(hand.gaps(), 90, "{order:?}");
    }
}

#[test]
fn a_gap_among_the_records_starts_the_balance_again() {
    let mut hand = Hand::new(Balance::from_start(Order::RecordsFirst));
    assert!(hand.record(51).saw(51).level());
    assert_eq!(hand.settle(), Verdict::Exact);
    hand.0.pass_gap(300);
    assert!(!hand.saw(200).level());
    assert_eq!(hand.settle(), Verdict::Unknown);
    hand.record(100).record(100).record(100).saw(300);
    assert_eq!(hand.settle(), Verdict::Unknown);
    assert_eq!(hand.settle(), Verdict::Exact);
    hand.record(100);
    assert_eq!(hand.gaps(), 100);
}

#[test]
fn what_a_suite_hides_is_not_claimed() {
    let mut records = read(&alert());
    let mut balance = Balance::from_start(Order::RecordsFirst);
    assert_eq!(balance.settle(&records, Cipher::default()), Verdict::Open, "not chosen yet");
    let cipher = Cipher::of_overhead(24).unwrap();
    feed(&mut records, &[super::record(20, &[1]), application(124)].concat());
    balance.saw(100);
    assert_eq!(balance.settle(&records, cipher), Verdict::Exact);
    let other = Cipher::UNKNOWN.with_version(0x0303).with_suite(0xc013, 0);
    assert_eq!(balance.settle(&records, other), Verdict::Inexact);
    // A renegotiation.
    feed(&mut records, &super::record(20, &[1; 25]));
    assert_eq!(balance.settle(&records, cipher), Verdict::Inexact);
}

#[test]
fn with_tls_1_2_even_the_first_plaintext_may_be_missed() {
    let mut records = read(&alert());
    let mut balance = Balance::from_start(Order::PlaintextFirst);
    let cipher = Cipher::of_overhead(16).unwrap();
    feed(&mut records, &application(16 + 51));
    assert_eq!(balance.settle(&records, cipher), Verdict::Gap(51));
}

proptest! {
    #[test]
    fn whatever_is_missed_shows_to_the_byte(
        pieces in prop::collection::vec((6..20_000_usize, any::<bool>(), 0..4_u8), 1..60),
        order in prop_oneof![Just(Order::RecordsFirst), Just(Order::PlaintextFirst)],
    ) {
        let mut hand = Hand::new(Balance::from_start(order));
        hand.saw(51).record(51).level();
        hand.settle();
        prop_assert_eq!(hand.settle(), Verdict::Exact);
        let (mut missed, mut found) = (0, 0);
        for (length, is_seen, settles) in pieces {
            let n = length as u64;
            if is_seen {
                hand.saw(n);
            } else {
                missed += n;
            }
            let mut rest = length;
            while rest > 0 {
                let content = rest.min(16_384);
                // A rest of the length of a KeyUpdate would be taken for one.
                let content = if content < 6 { break } else { content };
                hand.record(content);
                rest -= content;
            }
            prop_assume!(rest == 0);
            hand.level();
            // Twice is a quiet moment.
            for _ in 0..settles {
                if let Verdict::Gap(n) = hand.settle() {
                    found += n;
                }
            }
            prop_assert!(found <= missed);
            prop_assert!(settles < 2 || found == missed);
        }
        if let Verdict::Gap(n) = hand.end() {
            found += n;
        }
        prop_assert_eq!(found, missed);
    }

    #[test]
    fn any_plaintext_of_any_records_keeps_it_going(
        steps in prop::collection::vec((0..6_u8, any::<u32>()), 0..100),
        late in any::<bool>(),
    ) {
        let order = ORDERS[usize::from(late)];
        let new = if late { Balance::joined_late } else { Balance::from_start };
        let mut hand = Hand::new(new(order));
        for (step, n) in steps {
            if step == 0 {
                hand.saw(u64::from(n));
            } else if step == 1 {
                hand.record(n as usize % 16_000);
            } else if step == 2 {
                hand.level();
            } else if step == 3 {
                hand.settle();
            } else if step == 4 {
                hand.saw(u64::MAX - u64::from(n));
            } else {
                hand.0.pass_gap(u64::from(n));
            }
        }
        hand.end();
    }
}

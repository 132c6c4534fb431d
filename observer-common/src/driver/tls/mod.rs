//! The state of a TLS connection: its records at the socket, and how much of their plaintext was seen.
//!
//! Two programs work on it. At the socket, [`Secured::begin`] and [`Secured::end`] enclose a [`RecordWalk`] over each
//! transfer. At a probe of the TLS library, plaintext is walked over as the bytes of a connection that is not encrypted, and
//! [`SecuredDirection::saw`] counts it. The [balance](crate::tls::balance) of the two says up to where the plaintext of a
//! direction is complete: that is reported as proven. If it is not complete, there is a doubt: what was not proven so
//! far counts as a gap, and the direction is out of sync.
//!
//! Positions are those of the plaintext.

use crate::{
    counter::Counter,
    record::{RecordHeader, direction, record_kind, tie},
    tls::{
        balance::{Balance, Order},
        cipher::Cipher,
        records::{BUFFER_LENGTH, Records, event},
    },
};

mod per_direction;

pub use per_direction::{Fragments, RecordWalk, SecuredDirection};

/// States of a TLS connection.
pub mod state {
    /// Its plaintext was not seen yet.
    pub const OPENING: u8 = 0;
    /// Its plaintext is followed.
    pub const FOLLOWED: u8 = 1;
    /// Its plaintext was not seen for a while, and is not expected any more. If it is seen after all, it is followed.
    pub const NOT_FOLLOWED: u8 = 2;
    /// Its plaintext is not followed any more.
    pub const GIVEN_UP: u8 = 3;
}

/// Pieces of plaintext in which no frame is found, after which a connection is given up.
const MAX_TRIES: u8 = 100;

/// Sweeps after which a connection whose plaintext was not seen is given up.
const PATIENCE: u8 = 3;

/// The same, of a connection that is older than the daemon, which first has to find its library.
const LATE_PATIENCE: u8 = 30;

/// How many pieces of plaintext in a row must be as long as the record that the same thread has read before, until the
/// library's object is taken for that of the socket.
const AGREEMENTS: u8 = 3;

/// One end of a TLS connection: a socket of a process on this node.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Secured {
    /// The socket's inode number; 0 until it is set.
    pub inode: u64,
    /// The address of its `struct sock`.
    pub sock: u64,
    /// The connection's key in the tables.
    pub key: u64,
    /// The connection's identifier; 0 until its plaintext was seen.
    pub id: u64,
    /// The first half of the client's random; zeros until it was seen.
    pub random: [u64; 2],
    /// The address of the library's object that seems to be this connection's, while that is tried: see [`Self::agrees`].
    handle: u64,
    /// The process that has the socket.
    pub pid: u32,
    cipher: Cipher,
    /// One of [`state`].
    pub state: u8,
    /// Sweeps since application data passed of which no plaintext was seen.
    waited: u8,
    /// Pieces of plaintext that were not frames, before one was.
    tries: u8,
    /// How often the object has agreed.
    agreed: u8,
    /// Not 0 if bytes passed before the first transfer that was captured: its hellos were not seen.
    late: u8,
    /// The direction in which the first alert was sent that nothing has followed: that end closes first, whatever TCP shows.
    left_by: u8,
    /// One of `record::tie`.
    pub tie: u8,
    /// Padding.
    _reserved: u8,
    /// By `record::direction`.
    pub directions: [SecuredDirection; 2],
}

const _: () = assert!(size_of::<Secured>() == 888);

/// What a socket's counters say about a direction of it, after a transfer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Its counter of bytes.
    pub sequence: u32,
    /// Bytes that passed before the transfer; only needed for the first.
    pub moved: u64,
    /// Whether the direction was shut by a FIN, which counts as a byte.
    pub is_shut: bool,
}

/// What there was in a direction before the first plaintext that is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// No plaintext.
    Nothing,
    /// Plaintext that does not matter, because nothing of the connection was seen before.
    Unknown,
    /// Perhaps plaintext, since that of the other direction was first seen.
    SinceOther,
}

/// What a transfer showed about a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing new.
    Nothing,
    /// The client's random, with which its library's object is found: [`Secured::random`].
    Random,
    /// The client's random, and that the client offers no protocol: it cannot be gRPC.
    NoProtocol,
    /// It cannot be gRPC, or another protocol that is watched.
    NotHttp2,
    /// It may be watched, but the length of its plaintext does not show.
    Cipher,
}

/// What a look at a connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Nothing new.
    GoesOn,
    /// Nothing has followed it for a while.
    NotFollowed,
    /// Only one direction's plaintext is seen: calls would never end.
    OneSided,
}

impl Secured {
    /// A connection that begins.
    pub const NEW: Self = Self {
        inode: 0,
        sock: 0,
        key: 0,
        id: 0,
        random: [0; 2],
        handle: 0,
        pid: 0,
        cipher: Cipher::UNKNOWN,
        state: state::OPENING,
        waited: 0,
        tries: 0,
        agreed: 0,
        late: 0,
        left_by: direction::UNKNOWN,
        tie: tie::UNKNOWN,
        _reserved: 0,
        directions: [SecuredDirection::NEW; 2],
    };

    /// A direction, by `record::direction`.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "one of the two by the mask")]
    pub fn direction(&mut self, direction: u8) -> &mut SecuredDirection {
        &mut self.directions[usize::from(direction & 1)]
    }

    /// Whether the direction's first transfer is still to come.
    #[inline(always)]
    pub fn is_first(&mut self, sent: u8) -> bool {
        self.direction(sent).is_first()
    }

    /// The plaintext so far was not frames. Returns whether the next is to be tried: then nothing of it was seen.
    #[inline(always)]
    pub const fn tries_again(&mut self) -> bool {
        if self.tries >= MAX_TRIES {
            return false;
        }
        self.tries += 1;
        self.id = 0;
        let was_given_up = self.waited >= self.patience();
        self.state = if was_given_up { state::NOT_FOLLOWED } else { state::OPENING };
        let [received, sent] = &mut self.directions;
        received.forget_plaintext();
        sent.forget_plaintext();
        true
    }

    /// Whether its hellos were not seen.
    #[inline(always)]
    pub const fn is_late(&self) -> bool {
        self.late != 0
    }

    /// Plaintext of `n` bytes was read from the library's object `handle`, by the thread that has last read from this
    /// socket. Returns whether the object is known now to be the socket's, since their lengths have agreed several times.
    ///
    /// For a connection whose hellos were not seen: there the client's random does not show it.
    #[inline(always)]
    pub const fn agrees(&mut self, handle: u64, n: u64) -> bool {
        let [received, _] = &self.directions;
        if self.late == 0 || self.overhead_of(received, n).is_none() {
            return false;
        }
        if self.handle != handle {
            self.handle = handle;
            self.agreed = 0;
        }
        if self.agreed < AGREEMENTS {
            self.agreed += 1;
        }
        self.agreed == AGREEMENTS
    }

    /// What the cipher suite adds to a record, if the last record had `n` bytes of plaintext.
    #[inline(always)]
    const fn overhead_of(&self, received: &SecuredDirection, n: u64) -> Option<u32> {
        let overhead = (received.records.last_application() as u64).wrapping_sub(n);
        if overhead > u8::MAX as u64 || !received.records.is_in_sync() {
            return None;
        }
        let overhead = overhead as u32;
        match self.cipher.overhead() {
            Some(known) if known == overhead => Some(overhead),
            None if !self.cipher.is_known() && Cipher::of_overhead(overhead).is_some() => {
                Some(overhead)
            }
            _ => None,
        }
    }

    /// Whether the cipher suite is known. If not, because the hellos were not seen, plaintext of `n` bytes that was received
    /// shows it, if the last record had just that.
    #[inline(always)]
    pub const fn knows_cipher(&mut self, sent: u8, n: u64) -> bool {
        if self.late == 0 || self.cipher.is_known() {
            return true;
        }
        if sent == direction::SENT {
            return false;
        }
        let [received, _] = &self.directions;
        if let Some(overhead) = self.overhead_of(received, n)
            && let Some(cipher) = Cipher::of_overhead(overhead)
        {
            self.cipher = cipher;
            return true;
        }
        false
    }

    /// The plaintext is not followed any more. What passes from now on counts as that.
    #[inline(always)]
    pub const fn give_up(&mut self) {
        self.state = state::GIVEN_UP;
        let cipher = self.cipher;
        let [received, sent] = &mut self.directions;
        let _ = received.count_unfollowed(cipher);
        let _ = sent.count_unfollowed(cipher);
    }

    /// A transfer of `total` bytes begins. Returns the records' position at which it ends.
    #[inline(always)]
    pub fn begin(&mut self, sent: u8, total: u64, counted: Counted) -> u64 {
        let cipher = self.cipher;
        if counted.moved != 0 && self.is_first(sent) {
            self.late = 1;
        }
        self.direction(sent).begin_transfer(total, counted, cipher)
    }

    /// The transfer ends after a [`RecordWalk`], which may not have come to the end.
    #[inline(always)]
    pub fn end(&mut self, sent: u8, end: u64) -> Shown {
        let cipher = self.cipher;
        let own = self.direction(sent);
        own.end_transfer(end, cipher);
        let events = own.events;
        let has_alert = own.records.alerts_at_end() | own.records.alerts() != 0;
        let Records { buffer, .. } = own.records;
        let hello = *own.records.hello();
        if has_alert && self.left_by == direction::UNKNOWN {
            self.left_by = sent;
        } else if !has_alert && self.left_by == sent {
            self.left_by = direction::UNKNOWN;
        }
        let is_refused = hello.is_refused() && self.state == state::OPENING && self.late == 0;
        if events & event::NOT_TLS != 0 || is_refused {
            return Shown::NotHttp2;
        }
        if events & event::HELLO == 0 {
            return Shown::Nothing;
        }
        if hello.is_client() {
            self.random = half(&buffer);
            return match (hello.has_h2(), hello.has_alpn()) {
                (true, _) => Shown::Random,
                (_, false) => Shown::NoProtocol,
                _ => Shown::NotHttp2,
            };
        }
        if let Some(cipher) = hello.cipher() {
            self.cipher = cipher;
            return if cipher.overhead().is_none() { Shown::Cipher } else { Shown::Nothing };
        }
        Shown::NotHttp2
    }

    /// Plaintext of a direction is seen for the first time.
    #[inline(always)]
    pub fn begin_plaintext(&mut self, sent: u8, order: Order, before: Before) {
        let cipher = self.cipher;
        if matches!(before, Before::Unknown) {
            let other = self.direction(sent ^ 1);
            // What was sent is seen as the write returns: then the answer to it may have passed already.
            let may_be_answered = sent == direction::SENT && matches!(order, Order::RecordsFirst);
            if !other.is_begun() {
                other.balance = if may_be_answered {
                    Balance::joined_late(order)
                } else {
                    Balance::joined_now(&other.records, cipher)
                };
            }
        }
        let own = self.direction(sent);
        let balance = match before {
            Before::Nothing => Balance::from_start(order),
            Before::Unknown => Balance::joined_late(order),
            Before::SinceOther => own.balance,
        };
        own.begin_plaintext(order, balance);
    }

    /// Whether the comparison in this direction will show plaintext that has passed unseen since plaintext of the other
    /// direction was first seen.
    #[inline(always)]
    pub fn shows_what_passed(&mut self, sent: u8) -> bool {
        self.direction(sent).balance.knows_base()
    }

    /// `n` bytes of a direction's plaintext were seen.
    #[inline(always)]
    pub fn saw(&mut self, sent: u8, n: u64) {
        let cipher = self.cipher;
        self.direction(sent).saw(n, cipher);
    }

    /// The record of what is proven since the last one. `None` if that is nothing.
    ///
    /// What was received may be the answer to a write that is still to be seen: that is reported first. `written` is the
    /// socket's counter; `None` at the end.
    #[inline(always)]
    pub const fn proven(&self, written: Option<u32>) -> Option<RecordHeader> {
        let [received, sent] = &self.directions;
        let waits = match written {
            Some(written) => sent.is_under_way(written),
            None => false,
        };
        let position = if waits { received.reported } else { received.proven };
        if position == received.reported && sent.proven == sent.reported {
            return None;
        }
        Some(RecordHeader {
            connection: self.id,
            time_ns: 0,
            position,
            length: sent.proven,
            pid: self.pid,
            kind: record_kind::PROVEN,
            direction: direction::UNKNOWN,
            role: 0,
            flags: 0,
        })
    }

    /// The record was sent.
    #[inline(always)]
    pub const fn reported(&mut self, record: &RecordHeader) {
        let [received, sent] = &mut self.directions;
        received.reported = record.position;
        sent.reported = record.length;
    }

    /// Looks at the connection about once a second. `count` gets what was not seen.
    #[inline(always)]
    pub fn settle(&mut self, count: impl Fn(Counter, u64)) -> Settled {
        let cipher = self.cipher;
        if self.state == state::FOLLOWED {
            let mut is_whole = true;
            for direction in &mut self.directions {
                direction.settle(cipher);
                if direction.has_gap() {
                    count(Counter::TlsUnseen, direction.unseen);
                }
                is_whole &= direction.is_begun();
            }
            if is_whole {
                return Settled::GoesOn;
            }
            self.waited = self.waited.saturating_add(1);
            return if self.waited < LATE_PATIENCE { Settled::GoesOn } else { Settled::OneSided };
        }
        let was_opening = self.state == state::OPENING;
        self.wait(count);
        if was_opening && self.state == state::NOT_FOLLOWED {
            Settled::NotFollowed
        } else {
            Settled::GoesOn
        }
    }

    #[inline(always)]
    const fn patience(&self) -> u8 {
        if self.late == 0 { PATIENCE } else { LATE_PATIENCE }
    }

    /// Nothing follows the connection, or not yet.
    #[inline(always)]
    fn wait(&mut self, count: impl Fn(Counter, u64)) {
        let [received, sent] = &self.directions;
        if self.state == state::OPENING {
            let is_answered =
                received.records.application() != 0 && sent.records.application() != 0;
            if !is_answered || self.is_in_handshake() {
                return;
            }
            self.waited += 1;
            if self.waited < self.patience() {
                return;
            }
            self.state = state::NOT_FOLLOWED;
        }
        self.count_unfollowed(count);
    }

    /// Whether the client has sent nothing but its part of the handshake, without a certificate, and alerts. Then there is no
    /// call, whatever the server has sent.
    #[inline(always)]
    const fn is_in_handshake(&self) -> bool {
        let [received, sent] = &self.directions;
        let client = if received.records.hello().is_client() { received } else { sent };
        let records = &client.records;
        if self.late != 0 || !records.hello().is_client() || records.gaps() != 0 {
            return false;
        }
        records.application() == 0
            || self.cipher.hides_types() && records.has_only(self.cipher.finished())
    }

    /// Counts the bytes of content that nothing has followed since the last call.
    #[inline(always)]
    pub fn count_unfollowed(&mut self, count: impl Fn(Counter, u64)) {
        if self.is_in_handshake() {
            return;
        }
        let cipher = self.cipher;
        let [received, sent] = &mut self.directions;
        let bytes = received.count_unfollowed(cipher) + sent.count_unfollowed(cipher);
        if bytes != 0 {
            count(Counter::TlsNotFollowed, bytes);
        }
    }

    /// The direction in which the end that closes first sends, if an alert shows that (RFC 8446 §6.1): its peer may close the
    /// socket before it does so itself.
    #[inline(always)]
    pub fn left_by(&self) -> Option<u8> {
        (self.left_by != direction::UNKNOWN).then_some(self.left_by)
    }

    /// Whether bytes had arrived that were not read when the socket's counter of arrived bytes was `arrived`.
    #[inline(always)]
    pub fn has_unread(&self, arrived: u32) -> bool {
        let [received, _] = &self.directions;
        // One more byte is a FIN.
        received.moved_since(arrived) as i32 > 1
    }

    /// Whether another CPU walks over a transfer or plaintext of it.
    #[inline(always)]
    pub fn is_busy(&self) -> bool {
        self.directions.iter().any(SecuredDirection::is_busy)
    }

    /// Whether nothing is missing if the connection ends now. Otherwise a transfer, or a call of the library, may not have
    /// returned yet. `counters` are the socket's, of both directions.
    #[inline(always)]
    pub fn may_end(&mut self, counters: [u32; 2]) -> bool {
        let cipher = self.cipher;
        let [received, sent] = &mut self.directions;
        if self.state != state::FOLLOWED {
            return true;
        }
        received.try_end(cipher);
        sent.try_end(cipher);
        let [copied, written] = counters;
        let has_gap = received.has_gap() | sent.has_gap();
        // One more byte is a FIN.
        !has_gap && received.moved_since(copied) <= 1 && sent.moved_since(written) <= 1
    }

    /// Ends the connection. Returns the directions with a gap, as bits of `RecordHeader::flags`; `count` gets what was
    /// not seen.
    #[inline(always)]
    pub fn over(&mut self, count: impl Fn(Counter, u64)) -> u8 {
        let cipher = self.cipher;
        if self.state != state::FOLLOWED {
            self.count_unfollowed(count);
            return 0;
        }
        let mut flags = 0;
        for (direction, bit) in self.directions.iter_mut().zip([1, 2]) {
            direction.end(cipher);
            if direction.has_gap() {
                flags |= bit;
                if direction.unseen != 0 {
                    count(Counter::TlsUnseen, direction.unseen);
                }
            }
        }
        flags
    }
}

/// The first half of the random, with which the buffer of records begins, as two numbers.
#[inline(always)]
const fn half(buffer: &[u8; BUFFER_LENGTH]) -> [u64; 2] {
    match buffer.as_chunks() {
        ([first, second, ..], _) => [u64::from_ne_bytes(*first), u64::from_ne_bytes(*second)],
        _ => [0; 2],
    }
}

#[cfg(test)]
mod tests;

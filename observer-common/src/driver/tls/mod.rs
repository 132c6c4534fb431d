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
    record::{RecordHeader, direction, record_kind},
    tls::{
        balance::{Balance, Order, Verdict},
        cipher::Cipher,
        records::{BUFFER_LENGTH, Records, Take, event},
    },
};

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

/// One direction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SecuredDirection {
    /// The records at the socket.
    pub records: Records,
    balance: Balance,
    /// A copy of that, to find out what the end would be. Here, because the stack has no room for it.
    tried: Balance,
    /// Up to this position the plaintext is complete, or a doubt was reported.
    proven: u64,
    /// As far as that was reported.
    reported: u64,
    /// Records of application data when both sides were last level.
    level_records: u64,
    /// Bytes of content that were counted because nothing follows them.
    unfollowed: u64,
    /// Bytes of plaintext that were not seen, as the last comparison has found out.
    unseen: u64,
    /// Bits of `tls::records::event` in the transfer.
    events: u32,
    /// Not 0 if the last comparison found a gap.
    gap: u32,
    /// The socket's own counter after the last transfer.
    sequence: u32,
    /// Transfers so far.
    transfers: u32,
    /// Not 0 if plaintext may be missing behind [`Self::proven`], until that is reported.
    doubt: u8,
    /// Not 0 once plaintext was seen.
    begun: u8,
    /// Not 0 if plaintext is seen before its records are.
    plaintext_first: u8,
    /// Not 0 during a walk over a transfer.
    walking: u8,
    /// Not 0 during a walk over plaintext.
    reading: u8,
    /// Padding.
    _reserved: [u8; 3],
}

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
    /// Padding.
    _reserved: [u8; 2],
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

/// The bytes of a transfer at the socket.
pub trait Fragments {
    /// Bytes that are left in the current buffer.
    fn left(&self) -> u64;

    /// Whether all bytes have been passed over.
    fn is_empty(&self) -> bool;

    /// Moves to the next buffer. `None` if its description cannot be read.
    fn next(&mut self) -> Option<()>;

    /// Passes over `n` bytes of the current buffer.
    fn advance(&mut self, n: u32);

    /// Reads the next `n` bytes into the buffer of the records, at this offset. `None` if they cannot be read.
    fn read(&mut self, n: u32, records: &mut Records, at: u32) -> Option<()>;
}

/// A walk over one transfer, record by record: the context of the kernel's loop.
#[derive(Debug)]
#[repr(C)]
pub struct RecordWalk<'a, F> {
    /// The direction. Events are put there: on the stack, the verifier would follow the loop for each of their values.
    pub own: &'a mut SecuredDirection,
    /// The bytes.
    pub fragments: &'a mut F,
}

impl<F: Fragments> RecordWalk<'_, F> {
    /// Takes one step. Returns whether there is more.
    #[inline(always)]
    pub fn step(&mut self) -> bool {
        self.try_step().is_some() && !self.fragments.is_empty()
    }

    #[inline(always)]
    fn try_step(&mut self) -> Option<()> {
        if self.fragments.left() == 0 {
            if self.fragments.is_empty() {
                return None;
            }
            return self.fragments.next();
        }
        let Self { own, fragments } = self;
        let want = own.records.want();
        let left = fragments.left();
        let n = if left < u64::from(want.length) { left as u32 } else { want.length };
        if let Take::Read = want.take {
            fragments.read(n, &mut own.records, want.at)?;
        }
        fragments.advance(n);
        own.events |= own.records.took(want, n);
        Some(())
    }
}

impl SecuredDirection {
    const NEW: Self = Self {
        records: Records::at_opening(),
        balance: Balance::from_start(Order::RecordsFirst),
        tried: Balance::from_start(Order::RecordsFirst),
        proven: 0,
        reported: 0,
        level_records: 0,
        unfollowed: 0,
        unseen: 0,
        events: 0,
        gap: 0,
        sequence: 0,
        transfers: 0,
        doubt: 0,
        begun: 0,
        plaintext_first: 0,
        walking: 0,
        reading: 0,
        _reserved: [0; 3],
    };

    /// Whether plaintext was seen.
    #[inline(always)]
    pub const fn is_begun(&self) -> bool {
        self.begun != 0
    }

    /// A walk over plaintext begins or ends.
    #[inline(always)]
    pub const fn set_reading(&mut self, reading: bool) {
        self.reading = reading as u8;
    }

    #[inline(always)]
    const fn begin_plaintext(&mut self, order: Order, balance: Balance) {
        self.balance = balance;
        self.balance.expects(order);
        self.plaintext_first = matches!(order, Order::PlaintextFirst) as u8;
        self.begun = 1;
    }

    /// `n` bytes of plaintext were seen.
    #[inline(always)]
    fn saw(&mut self, n: u64, cipher: Cipher) {
        self.balance.saw(n);
        if self.plaintext_first == 0 {
            self.level(cipher);
        }
    }

    /// Whether bytes are at the socket whose plaintext is still to be seen, because the call has not returned. `counter` is
    /// the socket's.
    #[inline(always)]
    const fn is_under_way(&self, counter: u32) -> bool {
        let follows = self.begun != 0 && self.plaintext_first == 0;
        let has_moved = counter.wrapping_sub(self.sequence) > 1;
        follows && (has_moved || self.level_records != self.records.application())
    }

    /// The record of a doubt, if there is one: what was seen up to now and is not proven, may have a gap.
    #[inline(always)]
    pub fn doubted(&self, connection: u64, direction: u8) -> Option<RecordHeader> {
        (self.doubt != 0).then(|| RecordHeader {
            connection,
            position: self.proven,
            length: self.balance.seen() - self.proven,
            kind: record_kind::DOUBTED,
            direction,
            ..RecordHeader::default()
        })
    }

    /// The doubt was reported.
    #[inline(always)]
    pub const fn reported_doubt(&mut self) {
        self.proven = self.balance.seen();
        self.doubt = 0;
    }

    /// Passes over the gap before a transfer of `total` bytes, and whatever was before the first transfer.
    #[inline(always)]
    fn pass_gap(&mut self, total: u64, counted: Counted) {
        let Counted { sequence, moved, is_shut } = counted;
        let gap = sequence.wrapping_sub(total as u32).wrapping_sub(self.sequence);
        // A FIN counts as a byte: one that was read together with the last bytes, or that another thread has sent since.
        let gap = if gap == 1 && is_shut { 0 } else { gap };
        let is_first = self.transfers == 0;
        // The counter may be behind: two threads share a direction without a lock.
        let gap = if is_first || gap > i32::MAX as u32 { 0 } else { gap };
        self.sequence = sequence;
        if is_first && moved != 0 {
            self.records = Records::joined_late();
        } else if gap != 0 {
            let _ = self.records.pass_gap(u64::from(gap));
        }
    }

    /// Not inlined, as the other comparisons: the verifier would follow what comes next for each of their results, which
    /// are put into fields for the same reason.
    #[inline(never)]
    fn level(&mut self, cipher: Cipher) {
        if self.begun != 0 && self.balance.level(&self.records, cipher) {
            self.level_records = self.records.application();
            self.prove();
        }
    }

    #[inline(always)]
    const fn prove(&mut self) {
        let level_at = self.balance.level_at();
        if self.doubt == 0 && level_at > self.proven {
            self.proven = level_at;
        }
    }

    /// Compares records and plaintext; to be called about once a second.
    #[inline(never)]
    fn settle(&mut self, cipher: Cipher) {
        self.gap = 0;
        self.unseen = 0;
        if self.begun == 0 || self.walking != 0 || self.reading != 0 {
            return;
        }
        let transfers = self.transfers;
        let verdict = self.balance.settle(&self.records, cipher);
        if self.transfers != transfers {
            // Another CPU has changed the records meanwhile.
            self.doubt(Verdict::Unknown);
            return;
        }
        match verdict {
            Verdict::Open => return,
            Verdict::Exact => self.prove(),
            verdict => self.doubt(verdict),
        }
        self.level_records = self.records.application();
    }

    /// Finds out whether nothing is missing if the connection ends now: then [`Self::gap`] is 0.
    #[inline(never)]
    fn try_end(&mut self, cipher: Cipher) {
        self.tried = self.balance;
        let is_exact = self.tried.end(&self.records, cipher) == Verdict::Exact;
        self.gap = u32::from(self.begun == 0 || self.doubt != 0 || !is_exact);
    }

    /// Compares for the last time.
    #[inline(never)]
    fn end(&mut self, cipher: Cipher) {
        self.gap = 0;
        self.unseen = 0;
        if self.begun == 0 || self.doubt != 0 {
            self.gap = 1;
            return;
        }
        let is_complete = self.balance.level_at() == self.balance.seen();
        match self.balance.end(&self.records, cipher) {
            // Whatever the library has taken and not sent is not on the wire.
            Verdict::Exact => {
                let sent = self.balance.seen() - self.balance.unsent();
                self.proven = if sent > self.proven { sent } else { self.proven };
            }
            // A library that is closed has not returned all that it had received: what was seen is complete, and the
            // process did not want the rest.
            Verdict::Gap(_) if is_complete && self.plaintext_first == 0 => {
                self.prove();
                self.gap = 1;
            }
            verdict => self.doubt(verdict),
        }
    }

    /// Doubts what is not proven.
    #[inline(always)]
    const fn doubt(&mut self, verdict: Verdict) {
        self.doubt = 1;
        self.gap = 1;
        if let Verdict::Gap(bytes) = verdict {
            self.unseen = bytes;
        }
    }

    /// Bytes of content that were not counted yet, if nothing follows them.
    #[inline(always)]
    const fn count_unfollowed(&mut self, cipher: Cipher) -> u64 {
        let overhead = match cipher.overhead() {
            Some(overhead) => overhead,
            None => 0,
        };
        let content = self.records.content(overhead);
        let bytes = content.wrapping_sub(self.unfollowed);
        self.unfollowed = content;
        bytes
    }
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
        _reserved: [0; 2],
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
        self.direction(sent).transfers == 0
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
        received.begun = 0;
        sent.begun = 0;
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
        let own = self.direction(sent);
        own.walking = 1;
        own.pass_gap(total, counted);
        own.transfers = own.transfers.wrapping_add(1);
        if own.plaintext_first == 0 {
            own.level(cipher);
        }
        own.records.begin();
        own.events = 0;
        own.records.bytes() + total
    }

    /// The transfer ends after a [`RecordWalk`], which may not have come to the end.
    #[inline(always)]
    pub fn end(&mut self, sent: u8, end: u64) -> Shown {
        let cipher = self.cipher;
        let own = self.direction(sent);
        let unread = end.wrapping_sub(own.records.bytes());
        if unread != 0 {
            let _ = own.records.pass_gap(unread);
        }
        if own.plaintext_first != 0 {
            own.level(cipher);
        }
        own.walking = 0;
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
            if other.begun == 0 {
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
                if direction.gap != 0 {
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
        arrived.wrapping_sub(received.sequence) as i32 > 1
    }

    /// Whether another CPU walks over a transfer or plaintext of it.
    #[inline(always)]
    pub fn is_busy(&self) -> bool {
        self.directions.iter().any(|own| own.walking | own.reading != 0)
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
        // One more byte is a FIN.
        let is_level =
            |own: &SecuredDirection, counter: u32| counter.wrapping_sub(own.sequence) <= 1;
        received.gap | sent.gap == 0 && is_level(received, copied) && is_level(sent, written)
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
            if direction.gap != 0 {
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

//! Compares the plaintext that was seen with the records at the socket, in one direction.
//!
//! Records have as many bytes of content as their lengths say, without what the cipher suite adds. Each byte of content
//! is plaintext that was seen, plaintext that was not (a gap), or no plaintext: with TLS 1.3, handshake messages and
//! alerts are among the records of application data (RFC 8446 §5.2). And what a library has taken but not sent, or
//! received but not returned, is on one side only:
//!
//! ```text
//!   content of records  =  base  +  seen  +  gaps  ±  under way
//! ```
//!
//! | term | |
//! |---|---|
//! | base | handshake messages and tickets at the beginning. With TLS 1.2: 0. With TLS 1.3 it is learned |
//! | seen | the sum of what [`Balance::saw`] was given |
//! | gaps | never less than before; [`Verdict::Gap`] reports them |
//! | under way | 0 whenever the library has returned or sent all that it has |
//!
//! Order of calls: [`saw`](Balance::saw) for each piece of plaintext; [`level`](Balance::level) with each transfer at the
//! socket; [`settle`](Balance::settle) now and then, such as once a second; [`end`](Balance::end) at the end of the
//! connection. While `settle` and `end` are called, no call of a probed function may be in progress in the direction. `saw`
//! may be called on another CPU than the others; those come one after the other.
//!
//! # What is proven, and what is not
//!
//! **[`Order::RecordsFirst`]**: what is received, and what is sent where the plaintext is seen as a write returns.
//! There, what is under way only adds to the content.
//!
//! - If both sides are level at any moment, there was no gap up to that moment and nothing is under way. That needs no
//!   quiet moment: a busy connection is proven with each transfer.
//! - More plaintext than records is impossible. It shows that plaintext was counted twice, or is another connection's
//!   ([`Verdict::Excess`]).
//!
//! **[`Order::PlaintextFirst`]**: what is sent where the plaintext is seen as it enters the library. There, what is
//! under way takes away.
//!
//! - If there is more content than was seen, there is a gap of at least the difference.
//! - If both are level while something is under way, there is a gap of as many bytes. That does not last, but one moment
//!   proves nothing. Two calls of `settle` with nothing in between do.
//! - Plaintext that was counted twice looks as if it was under way: both sides are never level again.
//!
//! **A gap** is reported at once where the order is plaintext first. Where it is records first, the difference must last:
//! nothing has happened since the last call of `settle`, or there was no moment since the call before that one at which it
//! was smaller. This is not proven: a process that stopped reading in the middle of a record looks the same. If the bytes
//! are seen later after all, they are taken back, and the gap that was reported was too long.
//!
//! **Joined late**, the base is what was closest to level until the first call of `settle`. If something was under way all
//! that time, the first gap or [`Verdict::Excess`] is that.
//!
//! **TLS 1.3: content that is no plaintext.** In each case the other explanation is given.
//!
//! - The base is a whole number of records, and the record behind it has room for the first plaintext that was seen. A
//!   gap right behind that plaintext, as long as the next records are, is taken for handshake messages.
//! - A [KeyUpdate](Records::key_updates) is 5 bytes. A difference is taken for one or two of them only if all records of
//!   that length since both sides were last level make up the difference. A gap of records of 5 bytes each is taken for
//!   KeyUpdates if no other record is that long. A KeyUpdate together with a gap is reported as a part of that.
//! - An [alert](Records::alerts_at_end) is 2 bytes, and nothing follows it but another alert. Records of that length at
//!   the very end, two at most, are taken for alerts. If they were plaintext, a gap is too short by as many bytes; once
//!   something follows, these are reported too.
//! - A ticket that is sent after the base was learned, 0-RTT data (RFC 8446 §4.2.10) and padding (§5.4) are reported as
//!   gaps, or as [`Verdict::Unknown`]. Libraries send tickets before the server's first data, or with it.
//!
//! **Not known** is what CBC suites and compression leave of the content, and TLS 1.2 after a renegotiation, which
//! HTTP/2 forbids (RFC 9113 §9.2.1): [`Verdict::Inexact`]. If the records themselves had a gap, the balance starts again
//! behind it.
//!
//! **Where a gap is** is known only as behind [`Balance::level_at`]. A list of the records that are under way would say
//! more, but has no small bound.

use super::{
    cipher::Cipher,
    records::{FIRST, Records},
};

/// Which side of a direction is ahead while something is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Records are at the socket before their plaintext is seen.
    RecordsFirst,
    /// Plaintext is seen before its records are at the socket.
    PlaintextFirst,
}

/// What a comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both sides were level at some moment since the last comparison: up to that moment all plaintext was seen, but for
    /// the gaps that have been reported.
    Exact,
    /// Something may be under way, or no plaintext was seen yet.
    Open,
    /// So many bytes of plaintext were not seen, in addition to those that have been reported.
    Gap(u64),
    /// There was so much more plaintext than the records have: it is not this connection's, or was counted twice.
    Excess(u64),
    /// There may be a gap, and it is not known how long it is. The next comparisons are about what follows.
    Unknown,
    /// The cipher suite does not let it be known.
    Inexact,
}

/// KeyUpdates between two moments at which both sides are level.
const MAX_KEY_UPDATES: u32 = 2;

/// Content of a KeyUpdate, and of an alert.
const KEY_UPDATE: u64 = 5;
const ALERT: u64 = 2;

/// Alerts at the end: `user_canceled` and `close_notify` (RFC 8446 §6.1).
const MAX_ALERTS: u32 = 2;

/// Of the first plaintext that was seen, so much is in one record, unless a library's records are smaller.
const LEAST_FIRST: u32 = 1024;

/// In [`Balance::nearest`] and [`Balance::previous`]: there was no moment to compare at.
const NONE: i64 = i64::MIN;

/// How far the base is known.
mod state {
    /// The direction was seen from its beginning; the base is still to be learned.
    pub(super) const FROM_START: u8 = 0;
    /// It was not; the base is what was closest so far, if [`Balance::nearest`](super::Balance) is not `NONE`.
    pub(super) const LATE: u8 = 1;
    /// As `FROM_START`, and there was a moment at which it may have been that.
    pub(super) const LIKELY: u8 = 2;
    pub(super) const KNOWN: u8 = 3;
}

/// One direction's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Balance {
    /// Bytes of plaintext that were seen.
    seen: u64,
    /// Bytes of content that are not seen plaintext: no plaintext, or gaps that have been reported.
    base: u64,
    /// How many of them are gaps.
    gap_bytes: u64,
    /// Plaintext that was seen when both sides were last level.
    level_at: u64,
    /// The smallest difference since the last comparison, in bytes: how much more content there was.
    nearest: i64,
    /// The one before the last comparison.
    previous: i64,
    /// Content and plaintext at the last comparison.
    last_content: u64,
    last_seen: u64,
    /// Length of the first piece of plaintext.
    first: u32,
    /// [`Records::key_updates`] when both sides were last level.
    key_updates: u32,
    /// [`Records::gaps`] as far as they have been taken into account.
    gaps: u32,
    /// One of [`state`].
    state: u8,
    /// Not 0 where plaintext is seen before its records.
    plaintext_first: u8,
    /// Padding.
    _reserved: u16,
}

impl Balance {
    /// Of a direction whose first plaintext will be seen. What is seen must show that, as the client preface and the server's
    /// SETTINGS do: a gap before it is taken for a handshake.
    #[inline(always)]
    pub const fn from_start(order: Order) -> Self {
        Self::at(state::FROM_START, order)
    }

    /// Of a direction in which plaintext passed before: about what follows.
    #[inline(always)]
    pub const fn joined_late(order: Order) -> Self {
        Self::at(state::LATE, order)
    }

    /// Of a direction in which plaintext passed before: about what follows from now on, whether its first plaintext is seen or
    /// not. [`expects`](Self::expects) says the order. Answers [`Self::joined_late`] if the records do not show how much
    /// passed before.
    #[inline(always)]
    pub fn joined_now(records: &Records, cipher: Cipher) -> Self {
        let mut balance = Self::joined_late(Order::RecordsFirst);
        balance.gaps = records.gaps();
        if let Some(content) = balance.content(records, cipher) {
            balance.base = content;
            balance.key_updates = records.key_updates();
            balance.state = state::KNOWN;
        }
        balance
    }

    /// Sets the order.
    #[inline(always)]
    pub const fn expects(&mut self, order: Order) {
        self.plaintext_first = matches!(order, Order::PlaintextFirst) as u8;
    }

    /// Whether it is known how much content there was before the first plaintext that is compared.
    #[inline(always)]
    pub const fn knows_base(&self) -> bool {
        self.state == state::KNOWN
    }

    #[inline(always)]
    const fn at(state: u8, order: Order) -> Self {
        Self {
            seen: 0,
            base: 0,
            gap_bytes: 0,
            level_at: 0,
            nearest: NONE,
            previous: NONE,
            last_content: 0,
            last_seen: 0,
            first: 0,
            key_updates: 0,
            gaps: 0,
            state,
            plaintext_first: matches!(order, Order::PlaintextFirst) as u8,
            _reserved: 0,
        }
    }

    /// Bytes of plaintext that were seen.
    #[inline(always)]
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// `n` bytes of plaintext were seen.
    #[inline(always)]
    pub const fn saw(&mut self, n: u64) {
        if self.seen == 0 {
            self.first = if n < LEAST_FIRST as u64 { n as u32 } else { LEAST_FIRST };
        }
        self.seen = self.seen.wrapping_add(n);
    }

    /// Bytes of plaintext that were seen when both sides were last level. What was seen up to there has no gap but those
    /// that have been reported; of what was seen later that is not known yet.
    #[inline(always)]
    pub const fn level_at(&self) -> u64 {
        self.level_at
    }

    /// Bytes of the plaintext that were not in a record at the end of the connection, of which [`end`](Self::end) has said that
    /// it is exact: the last ones, which the library has taken and not sent.
    #[inline(always)]
    pub const fn unsent(&self) -> u64 {
        if self.plaintext_first != 0 && self.previous < 0 && self.previous != NONE {
            self.previous.unsigned_abs()
        } else {
            0
        }
    }

    /// To be called with each transfer at the socket: where the order is records first, before its bytes are counted, since
    /// a process goes on to the next transfer once the library has returned or taken what there was; otherwise after that.
    /// Answers whether both sides are level.
    #[inline(always)]
    pub fn level(&mut self, records: &Records, cipher: Cipher) -> bool {
        match self.content(records, cipher) {
            Some(content) => self.compare(records, cipher, content) == Some(0),
            None => false,
        }
    }

    /// Compares what there was since the last time.
    #[inline(always)]
    pub fn settle(&mut self, records: &Records, cipher: Cipher) -> Verdict {
        self.judge_by(records, cipher, false)
    }

    /// Compares for the last time, at the end of the connection.
    ///
    /// Where the order is plaintext first, a library may have taken what it has not sent: that is no gap, but
    /// [`unsent`](Self::unsent).
    #[inline(always)]
    pub fn end(&mut self, records: &Records, cipher: Cipher) -> Verdict {
        self.nearest = NONE;
        match self.judge_by(records, cipher, true) {
            Verdict::Open if self.plaintext_first != 0 && self.state == state::KNOWN => {
                Verdict::Exact
            }
            Verdict::Open => Verdict::Unknown,
            verdict => verdict,
        }
    }

    #[inline(always)]
    fn judge_by(&mut self, records: &Records, cipher: Cipher, is_end: bool) -> Verdict {
        if records.gaps() != self.gaps && records.is_in_sync() {
            self.start_again(records);
            return Verdict::Unknown;
        }
        let Some(content) = self.content(records, cipher) else {
            return if !records.is_in_sync() {
                Verdict::Unknown
            } else if cipher.is_known() {
                Verdict::Inexact
            } else {
                Verdict::Open
            };
        };
        let is_quiet = is_end || content == self.last_content && self.seen == self.last_seen;
        self.last_content = content;
        self.last_seen = self.seen;
        self.compare(records, cipher, content);
        let (nearest, previous) = (self.nearest, self.previous);
        self.nearest = NONE;
        self.previous = nearest;
        let is_over = is_quiet || records.application() > u64::from(FIRST);
        match self.state {
            state::FROM_START if self.seen != 0 && is_over => {
                self.state = state::LATE;
                Verdict::Unknown
            }
            _ if nearest == NONE => Verdict::Open,
            state::LATE => {
                // What was closest was taken for the base.
                self.state = state::KNOWN;
                Verdict::Exact
            }
            state::LIKELY if !is_quiet => {
                if nearest == 0 {
                    Verdict::Exact
                } else {
                    Verdict::Open
                }
            }
            _ => {
                self.state = state::KNOWN;
                // Of more than before, some may be under way; but not where that takes away.
                let is_all = is_quiet || self.plaintext_first != 0 || nearest < previous;
                self.judge(records, cipher, nearest, if is_all { nearest } else { previous })
            }
        }
    }

    /// The records have a gap, and how much plaintext was in it is not known.
    #[inline(always)]
    const fn start_again(&mut self, records: &Records) {
        self.gaps = records.gaps();
        self.state = state::LATE;
        self.nearest = NONE;
        self.previous = NONE;
        self.gap_bytes = 0;
    }

    /// Content of the records, if it is known.
    #[inline(always)]
    fn content(&self, records: &Records, cipher: Cipher) -> Option<u64> {
        // A second one in TLS 1.2 begins to use what was negotiated again, encrypted.
        let renegotiated = !cipher.hides_types() && records.change_cipher_specs() > 1;
        if renegotiated || !records.is_in_sync() || records.gaps() != self.gaps {
            return None;
        }
        cipher.overhead().map(|overhead| records.content(overhead))
    }

    /// Compares both sides now. Answers how much more content there is, if the base is known.
    #[inline(always)]
    fn compare(&mut self, records: &Records, cipher: Cipher, content: u64) -> Option<i64> {
        let rest = content.wrapping_sub(self.seen);
        match self.state {
            state::KNOWN => {}
            // Whatever is application data is plaintext.
            state::FROM_START if !cipher.hides_types() => self.state = state::KNOWN,
            _ if self.seen == 0 => return None,
            state::LATE => {}
            _ => self.learn(records, rest),
        }
        if self.state == state::FROM_START {
            return None;
        }
        if self.state == state::LATE && (self.nearest == NONE || self.is_closer(rest)) {
            self.base = rest;
            self.key_updates = records.key_updates();
            self.nearest = 0;
        }
        let open = rest.wrapping_sub(self.base) as i64;
        if self.nearest == NONE || self.is_closer_by(open, self.nearest) {
            self.nearest = open;
        }
        if open == 0 {
            self.key_updates = records.key_updates();
            self.level_at = self.seen;
        }
        (self.state != state::LATE).then_some(open)
    }

    /// The base is what comes before the first plaintext: a whole number of records, and of those that it may be, the one
    /// for which least is under way. A function of its own: inlined, the verifier would follow what comes next for each
    /// of its ways.
    #[inline(never)]
    fn learn(&mut self, records: &Records, rest: u64) {
        let is_likely = self.state == state::LIKELY;
        if (!is_likely || self.is_closer(rest)) && records.begins_after(rest, self.first) {
            self.base = rest;
            self.nearest = NONE;
            self.state = state::LIKELY;
        }
        if self.state == state::LIKELY && records.application() > u64::from(FIRST) {
            self.state = state::KNOWN;
        }
    }

    /// Whether less is under way if so much content is no seen plaintext, and not [`Balance::base`].
    #[inline(always)]
    const fn is_closer(&self, rest: u64) -> bool {
        self.is_closer_by(rest.wrapping_sub(self.base) as i64, 0)
    }

    #[inline(always)]
    const fn is_closer_by(&self, open: i64, than: i64) -> bool {
        if self.plaintext_first != 0 { open > than } else { open < than }
    }

    /// What the smallest difference says, and how much of it lasts.
    #[inline(always)]
    fn judge(&mut self, records: &Records, cipher: Cipher, nearest: i64, lasts: i64) -> Verdict {
        if nearest == 0 {
            return Verdict::Exact;
        }
        if nearest < 0 && self.plaintext_first == 0 {
            return self.take_back(nearest.unsigned_abs());
        }
        if lasts <= 0 {
            return Verdict::Open;
        }
        let open = lasts.unsigned_abs();
        let gap = if cipher.hides_types() { self.unexplained(records, open) } else { open };
        if gap == 0 {
            return Verdict::Exact;
        }
        self.base = self.base.wrapping_add(gap);
        self.gap_bytes = self.gap_bytes.wrapping_add(gap);
        self.key_updates = records.key_updates();
        self.previous = NONE;
        Verdict::Gap(gap)
    }

    /// There was more plaintext than there can be: it was under way when a gap was reported, or is not this direction's.
    #[inline(always)]
    const fn take_back(&mut self, n: u64) -> Verdict {
        self.base = self.base.wrapping_sub(n);
        self.previous = NONE;
        if n <= self.gap_bytes {
            self.gap_bytes -= n;
            return Verdict::Exact;
        }
        let excess = n - self.gap_bytes;
        self.gap_bytes = 0;
        Verdict::Excess(excess)
    }

    /// Bytes of the difference that are more than those of KeyUpdates and alerts that there may be.
    #[inline(always)]
    const fn unexplained(&mut self, records: &Records, open: u64) -> u64 {
        let alerts = records.alerts_at_end();
        let alerts = ALERT * if alerts < MAX_ALERTS { alerts as u64 } else { MAX_ALERTS as u64 };
        // They are not added to the base: if something follows, they were none.
        if open <= alerts && open.is_multiple_of(ALERT) {
            return 0;
        }
        let gap = if open > alerts { open - alerts } else { open };
        let updates = records.key_updates().wrapping_sub(self.key_updates);
        let of_updates = KEY_UPDATE * updates as u64;
        if updates > MAX_KEY_UPDATES || of_updates != open && of_updates != gap {
            return gap;
        }
        self.base = self.base.wrapping_add(of_updates);
        self.key_updates = records.key_updates();
        self.previous = NONE;
        0
    }
}

const _: () = assert!(size_of::<Balance>() == 80);

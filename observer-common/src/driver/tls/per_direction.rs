//! One direction of a TLS connection.

use super::Counted;
use crate::{
    record::{RecordHeader, record_kind},
    tls::{
        balance::{Balance, Order, Verdict},
        cipher::Cipher,
        records::{Records, Take},
    },
};

/// One direction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SecuredDirection {
    /// The records at the socket.
    pub records: Records,
    pub(super) balance: Balance,
    /// A copy of that, to find out what the end would be. Here, because the stack has no room for it.
    tried: Balance,
    /// Up to this position the plaintext is complete, or a doubt was reported.
    pub(super) proven: u64,
    /// As far as that was reported.
    pub(super) reported: u64,
    /// Records of application data when both sides were last level.
    level_records: u64,
    /// Bytes of content that were counted because nothing follows them.
    unfollowed: u64,
    /// Bytes of plaintext that were not seen, as the last comparison has found out.
    pub(super) unseen: u64,
    /// Bits of `tls::records::event` in the transfer.
    pub(super) events: u32,
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
    pub(super) const NEW: Self = Self {
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

    /// Whether the first transfer is still to come.
    #[inline(always)]
    pub(super) const fn is_first(&self) -> bool {
        self.transfers == 0
    }

    /// Whether another CPU walks over a transfer or plaintext of it.
    #[inline(always)]
    pub(super) const fn is_busy(&self) -> bool {
        self.walking | self.reading != 0
    }

    /// Whether the last comparison found a gap.
    #[inline(always)]
    pub(super) const fn has_gap(&self) -> bool {
        self.gap != 0
    }

    /// By how much the socket's counter has grown since the last transfer.
    #[inline(always)]
    pub(super) const fn moved_since(&self, counter: u32) -> u32 {
        counter.wrapping_sub(self.sequence)
    }

    /// A transfer of `total` bytes begins. Returns the records' position at which it ends.
    #[inline(always)]
    pub(super) fn begin_transfer(&mut self, total: u64, counted: Counted, cipher: Cipher) -> u64 {
        self.walking = 1;
        self.pass_gap(total, counted);
        self.transfers = self.transfers.wrapping_add(1);
        if self.plaintext_first == 0 {
            self.level(cipher);
        }
        self.records.begin();
        self.events = 0;
        self.records.bytes() + total
    }

    /// The transfer ends, at the position that [`Self::begin_transfer`] has returned.
    #[inline(always)]
    pub(super) fn end_transfer(&mut self, end: u64, cipher: Cipher) {
        let unread = end.wrapping_sub(self.records.bytes());
        if unread != 0 {
            let _ = self.records.pass_gap(unread);
        }
        if self.plaintext_first != 0 {
            self.level(cipher);
        }
        self.walking = 0;
    }

    /// A walk over plaintext begins or ends.
    #[inline(always)]
    pub const fn set_reading(&mut self, reading: bool) {
        self.reading = reading as u8;
    }

    #[inline(always)]
    pub(super) const fn begin_plaintext(&mut self, order: Order, balance: Balance) {
        self.balance = balance;
        self.balance.expects(order);
        self.plaintext_first = matches!(order, Order::PlaintextFirst) as u8;
        self.begun = 1;
    }

    /// The plaintext so far was no frames of this connection: the next is the first.
    #[inline(always)]
    pub(super) const fn forget_plaintext(&mut self) {
        self.begun = 0;
    }

    /// `n` bytes of plaintext were seen.
    #[inline(always)]
    pub(super) fn saw(&mut self, n: u64, cipher: Cipher) {
        self.balance.saw(n);
        if self.plaintext_first == 0 {
            self.level(cipher);
        }
    }

    /// Whether bytes are at the socket whose plaintext is still to be seen, because the call has not returned. `counter` is
    /// the socket's.
    #[inline(always)]
    pub(super) const fn is_under_way(&self, counter: u32) -> bool {
        let follows = self.begun != 0 && self.plaintext_first == 0;
        follows
            && (self.moved_since(counter) > 1 || self.level_records != self.records.application())
    }

    /// The record that says that what was seen and is not proven may have a gap. `None` without such a doubt.
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
    pub(super) fn settle(&mut self, cipher: Cipher) {
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
    pub(super) fn try_end(&mut self, cipher: Cipher) {
        self.tried = self.balance;
        let is_exact = self.tried.end(&self.records, cipher) == Verdict::Exact;
        self.gap = u32::from(self.begun == 0 || self.doubt != 0 || !is_exact);
    }

    /// Compares for the last time.
    #[inline(never)]
    pub(super) fn end(&mut self, cipher: Cipher) {
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
    pub(super) const fn count_unfollowed(&mut self, cipher: Cipher) -> u64 {
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

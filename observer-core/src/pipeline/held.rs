//! Records of TLS connections, kept back until their plaintext is known to be complete.
//!
//! The probes of TLS libraries may miss plaintext, and that shows only later, by the lengths of the records at the socket. If
//! the record of a transfer was applied at once, a gap before it would turn its bytes into wrong calls. So records wait, in
//! the order of their times, until a [`Proof`] covers them. A write may be reported after the answer to it was read,
//! because the probe comes last; the proof of the answer comes after both. Records that cannot be proven any more are
//! dropped: the next record of the direction shows a gap by its position, and the end of the connection reports one.
//! Records that still wait at the end were never sent, if the end reports no gap: a library may encrypt what its program
//! can no longer write to the socket.
//!
//! Records wait for at most [`MAX_AGE_NS`], and take at most [`MAX_BYTES`] for a connection and the bound of
//! [`Held::new`] for all.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::{
    call::{ByDirection, Direction, Directions},
    record::{Event, Item, Proof, Record},
};

/// The longest time that a record waits. Proofs come with each transfer, and from the sweep of the BPF programs, which is
/// about once a second.
const MAX_AGE_NS: u64 = 15_000_000_000;

/// Most bytes that the records of a connection may take while they wait.
const MAX_BYTES: usize = 2 << 20;

/// The records that wait.
#[derive(Debug)]
pub(super) struct Held {
    connections: FxHashMap<u64, Queue>,
    bytes: usize,
    max_bytes: usize,
}

/// The records of a connection that wait, and what is proven.
#[derive(Debug, Default)]
struct Queue {
    /// Those of each direction, in the order of their positions.
    records: ByDirection<VecDeque<Waiting>>,
    bytes: usize,
    proven: ByDirection<u64>,
    /// The directions of which records were dropped.
    dropped: Directions,
    /// It was empty, and not known, when it was last looked at.
    is_left: bool,
}

#[derive(Debug)]
struct Waiting {
    bytes: Box<[u8]>,
    /// Whether it has the connection's identity.
    opens: bool,
    position: u64,
    end: u64,
    time_ns: u64,
}

impl Held {
    /// Without records, and with room for so many bytes of them.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { connections: FxHashMap::default(), bytes: 0, max_bytes }
    }

    /// With room for a part of them.
    pub(super) fn divide(&mut self, count: usize) {
        self.max_bytes /= count.max(1);
    }

    /// Without records, and with the same room.
    pub(super) fn another(&self) -> Self {
        Self::new(self.max_bytes)
    }

    /// Keeps a record of a transfer back, whose bytes these are.
    pub(super) fn push(&mut self, record: &Record<'_>, bytes: &[u8]) {
        let Event::Bytes(ref transfer) = record.event else { return };
        let queue = self.connections.entry(record.connection).or_default();
        queue.records.get_mut(transfer.direction).push_back(Waiting {
            bytes: bytes.into(),
            opens: matches!(transfer.items.clone().next(), Some(Item::Open(_))),
            position: transfer.position,
            end: transfer.position.saturating_add(transfer.length),
            time_ns: record.time_ns,
        });
        queue.bytes += bytes.len();
        self.bytes += bytes.len();
        if queue.bytes > MAX_BYTES || self.bytes > self.max_bytes {
            self.bytes -= queue.clear();
        }
    }

    /// Takes what is proven or in doubt.
    pub(super) fn proof(&mut self, connection: u64, proof: Proof) {
        let Some(queue) = self.connections.get_mut(&connection) else {
            // Its first records may come after it, if two CPUs report them.
            if let Proof::Complete { received, sent } = proof {
                let proven = ByDirection { received, sent };
                self.connections.insert(connection, Queue { proven, ..Queue::default() });
            }
            return;
        };
        match proof {
            Proof::Complete { received, sent } => {
                queue.proven.received = queue.proven.received.max(received);
                queue.proven.sent = queue.proven.sent.max(sent);
            }
            Proof::Doubt { direction, from, to } => {
                let proven = queue.proven.get_mut(direction);
                *proven = (*proven).max(from);
                let proven = *proven;
                self.bytes -= queue.drop_doubtful(direction, proven, to);
                let proven = queue.proven.get_mut(direction);
                *proven = (*proven).max(to);
            }
        }
    }

    /// The connection's next record that is proven.
    pub(super) fn pop(&mut self, connection: u64) -> Option<Box<[u8]>> {
        let queue = self.connections.get_mut(&connection)?;
        let direction = queue.first()?;
        let records = queue.records.get_mut(direction);
        if records.front()?.end > *queue.proven.get(direction) {
            return None;
        }
        let bytes = records.pop_front()?.bytes;
        queue.bytes -= bytes.len();
        self.bytes -= bytes.len();
        Some(bytes)
    }

    /// The connection ends: drops what was never sent, so that all that is left is proven.
    pub(super) fn ends(&mut self, connection: u64) {
        if let Some(queue) = self.connections.get_mut(&connection) {
            self.bytes -= queue.drop_unsent();
        }
    }

    /// Forgets a connection, after its proven records were taken. Returns the directions in which a dropped record may
    /// have been sent.
    pub(super) fn end(&mut self, connection: u64) -> Directions {
        let Some(mut queue) = self.connections.remove(&connection) else {
            return Directions::default();
        };
        self.bytes -= queue.clear();
        queue.dropped
    }

    /// Drops the records of connections for which no proof comes, and forgets connections that are not known.
    pub(super) fn expire(&mut self, now_ns: u64, is_known: impl Fn(u64) -> bool) {
        self.connections.retain(|connection, queue| {
            let was_left = queue.is_left;
            queue.is_left = queue.first().is_none() && !is_known(*connection);
            !(was_left && queue.is_left)
        });
        for queue in self.connections.values_mut() {
            let since = queue.first().and_then(|direction| queue.time_of(direction));
            if since.is_some_and(|since| now_ns > since.saturating_add(MAX_AGE_NS)) {
                self.bytes -= queue.clear();
            }
        }
    }
}

impl Queue {
    /// The direction of the earliest record; of the one with the connection's identity, if that waits.
    fn first(&self) -> Option<Direction> {
        let waiting = [Direction::Received, Direction::Sent].into_iter().filter_map(|direction| {
            let first = self.records.get(direction).front()?;
            Some(((!first.opens, first.time_ns), direction))
        });
        waiting.min_by_key(|(order, _)| *order).map(|(_, direction)| direction)
    }

    fn time_of(&self, direction: Direction) -> Option<u64> {
        self.records.get(direction).front().map(|first| first.time_ns)
    }

    /// Drops the records of a direction that begin before `to` and are not proven. Returns their bytes.
    fn drop_doubtful(&mut self, direction: Direction, proven: u64, to: u64) -> usize {
        let before = self.bytes;
        let Self { records, bytes, dropped, .. } = self;
        records.get_mut(direction).retain(|record| {
            let is_doubtful = record.end > proven && record.position < to;
            if is_doubtful {
                *bytes -= record.bytes.len();
                dropped.set(direction, true);
            }
            !is_doubtful
        });
        before - self.bytes
    }

    /// Drops the records that are not proven. Returns their bytes.
    fn drop_unsent(&mut self) -> usize {
        let before = self.bytes;
        for direction in [Direction::Received, Direction::Sent] {
            let proven = *self.proven.get(direction);
            let records = self.records.get_mut(direction);
            while let Some(last) = records.pop_back_if(|last| last.end > proven) {
                self.bytes -= last.bytes.len();
                if last.position < proven {
                    // A part of it was sent.
                    self.dropped.set(direction, true);
                }
            }
        }
        before - self.bytes
    }

    /// Drops all records. Returns their bytes.
    fn clear(&mut self) -> usize {
        for direction in [Direction::Received, Direction::Sent] {
            let records = std::mem::take(self.records.get_mut(direction));
            if !records.is_empty() {
                self.dropped.set(direction, true);
            }
        }
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use observer_common::record::{HELD, RecordHeader, direction, record_kind};
    use zerocopy::IntoBytes as _;

    use super::{Held, MAX_AGE_NS, MAX_BYTES};
    use crate::{
        call::{Direction, Directions},
        record::{Proof, Record},
    };

    const ROOM: usize = 8 << 20;

    /// Pushes a record of a direction, of so many bytes at a position.
    fn push(held: &mut Held, direction: u8, position: u64, length: u64) {
        push_long(held, direction, position, length, 0);
    }

    fn push_long(held: &mut Held, direction: u8, position: u64, length: u64, more: usize) {
        push_at(held, direction, position, length, more, 1);
    }

    fn push_at(
        held: &mut Held,
        direction: u8,
        position: u64,
        length: u64,
        more: usize,
        time_ns: u64,
    ) {
        let kind = record_kind::BYTES;
        let header = RecordHeader {
            connection: 7,
            time_ns,
            position,
            length,
            kind,
            direction,
            flags: HELD,
            ..RecordHeader::default()
        };
        let bytes = [header.as_bytes(), &vec![0; more]].concat();
        let record = Record::parse(&bytes).unwrap();
        assert!(record.held);
        held.push(&record, &bytes);
    }

    /// The directions and positions of the records that are proven.
    fn popped(held: &mut Held) -> Vec<(Direction, u64)> {
        let mut popped = Vec::new();
        while let Some(bytes) = held.pop(7) {
            let record = Record::parse(&bytes).unwrap();
            let crate::record::Event::Bytes(bytes) = record.event else { panic!("not bytes") };
            popped.push((bytes.direction, bytes.position));
        }
        popped
    }

    fn complete(held: &mut Held, received: u64, sent: u64) {
        held.proof(7, Proof::Complete { received, sent });
    }

    #[test]
    fn records_wait_for_their_proof_in_their_order() {
        let mut held = Held::new(ROOM);
        push_at(&mut held, direction::RECEIVED, 0, 10, 0, 1);
        push_at(&mut held, direction::SENT, 0, 5, 0, 2);
        push_at(&mut held, direction::RECEIVED, 10, 10, 0, 3);
        assert_eq!(popped(&mut held), []);
        complete(&mut held, 0, 5);
        assert_eq!(popped(&mut held), [], "the response is not before its request");
        complete(&mut held, 19, 5);
        assert_eq!(popped(&mut held), [(Direction::Received, 0), (Direction::Sent, 0)]);
        complete(&mut held, 20, 5);
        assert_eq!(popped(&mut held), [(Direction::Received, 10)]);
        assert_eq!((held.end(7), held.bytes), (Directions::default(), 0));
    }

    #[test]
    fn a_write_is_before_its_answer_though_it_was_reported_later() {
        let mut held = Held::new(ROOM);
        push_at(&mut held, direction::RECEIVED, 0, 10, 0, 6);
        push_at(&mut held, direction::SENT, 0, 5, 0, 5);
        complete(&mut held, 10, 5);
        assert_eq!(popped(&mut held), [(Direction::Sent, 0), (Direction::Received, 0)]);
    }

    #[test]
    fn a_proof_may_come_before_its_records() {
        let mut held = Held::new(ROOM);
        complete(&mut held, 10, 0);
        push(&mut held, direction::RECEIVED, 0, 10);
        assert_eq!(popped(&mut held), [(Direction::Received, 0)]);
    }

    #[test]
    fn what_is_in_doubt_is_dropped_and_nothing_else() {
        let mut held = Held::new(ROOM);
        for at in [0, 10, 20] {
            push_at(&mut held, direction::RECEIVED, at, 10, 0, at);
            push_at(&mut held, direction::SENT, at, 10, 0, at + 1);
        }
        let doubt = Proof::Doubt { direction: Direction::Received, from: 10, to: 20 };
        held.proof(7, doubt);
        complete(&mut held, 20, 20);
        let at = [(Direction::Received, 0), (Direction::Sent, 0), (Direction::Sent, 10)];
        assert_eq!(popped(&mut held), at);
        complete(&mut held, 30, 30);
        assert_eq!(popped(&mut held), [(Direction::Received, 20), (Direction::Sent, 20)]);
        assert_eq!(held.end(7), Directions { received: true, sent: false });
    }

    #[test]
    fn what_is_not_proven_at_the_end_was_not_sent() {
        let mut held = Held::new(ROOM);
        push_at(&mut held, direction::SENT, 0, 10, 0, 1);
        push_at(&mut held, direction::SENT, 10, 10, 0, 2);
        push_at(&mut held, direction::RECEIVED, 0, 10, 0, 3);
        complete(&mut held, 10, 10);
        assert_eq!(popped(&mut held), [(Direction::Sent, 0)]);
        held.ends(7);
        assert_eq!(popped(&mut held), [(Direction::Received, 0)], "it was read after that");
        assert_eq!((held.end(7), held.bytes), (Directions::default(), 0));
        assert_eq!(held.end(7), Directions::default());
        push(&mut held, direction::SENT, 0, 10);
        complete(&mut held, 0, 5);
        held.ends(7);
        assert_eq!(held.end(7), Directions { received: false, sent: true }, "a part was");
    }

    #[test]
    fn time_and_room_are_bounded() {
        let mut held = Held::new(ROOM);
        push(&mut held, direction::SENT, 0, 10);
        held.expire(MAX_AGE_NS, |_| true);
        complete(&mut held, 0, 10);
        assert_eq!(popped(&mut held), [(Direction::Sent, 0)]);
        push(&mut held, direction::SENT, 10, 10);
        held.expire(MAX_AGE_NS + 2, |_| true);
        complete(&mut held, 0, 20);
        assert_eq!((popped(&mut held), held.bytes), (vec![], 0));
        for at in 0..3 {
            push_long(&mut held, direction::RECEIVED, at, 1, MAX_BYTES / 2);
        }
        assert!(held.bytes < MAX_BYTES, "{}", held.bytes);
        assert_eq!(held.end(7), Directions::BOTH);
    }

    #[test]
    fn connections_that_are_not_known_are_forgotten() {
        let mut held = Held::new(ROOM);
        complete(&mut held, 1, 1);
        held.expire(2, |_| true);
        held.expire(3, |_| false);
        assert_eq!(held.connections.len(), 1, "its first record may be on its way");
        held.expire(4, |_| false);
        assert!(held.connections.is_empty());
    }
}

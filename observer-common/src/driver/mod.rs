//! What is done with the bytes of a transfer: which frames and messages they hold, what is reported, and what
//! becomes of the connection.
//!
//! The decisions are here, once; a [`Host`] has what they are made about: the [memory](Memory) that the bytes are in,
//! the [messages](Messages) that are cut across DATA frames, and the [record](Emitter) that is put together. The kernel
//! programs are one over the buffers of processes and over maps, the simulator of the tests one over slices.
//!
//! [`walk::walk`] takes a [`Walk`] over one transfer. It has the host call [`walk::iterate`] until there is no more, since
//! in the kernel that is a helper's to do.
//!
//! All is inlined into one function, unless it says why not: the kernel's verifier follows that one, for each way through it.

pub mod arrival;
pub mod connection;
mod emit;
pub mod gap;
pub mod opening;
pub mod walk;

use arrival::Arrival;
use connection::{DirectionState, Shared};

use crate::{
    block::Tally,
    counter::{Counter, Protocol},
    record::{DataItem, ItemHeader, RecordHeader, Waited},
    scanner::{Message, Scanner},
};

pub use emit::{COPY_MAX, RECORD_CAPACITY, tally};

/// The memory that a transfer's bytes are in: one buffer after the other.
pub trait Memory {
    /// Bytes of the current buffer, from the next one on.
    fn left(&self) -> u64;

    /// Whether all bytes have been passed over.
    fn is_empty(&self) -> bool;

    /// Goes on to the next buffer. `None` if nothing says where that is.
    fn next(&mut self) -> Option<()>;

    /// Passes over `n` bytes of the current buffer.
    fn advance(&mut self, n: u32);

    /// Reads the next `n` bytes into the scanner's buffer, at this offset, and whatever comes behind them, up to
    /// [`OVERRUN`](crate::scanner::OVERRUN) bytes in all. `None` if they cannot be read.
    fn read(&mut self, n: u32, scanner: &mut Scanner, at: u32) -> Option<()>;

    /// Copies the next `n` bytes, [`COPY_MAX`] at most, to this offset of the record, and zeros behind them, as many
    /// as an item may be padded with. `None` if they cannot be read.
    fn copy(&mut self, n: u32, at: u32) -> Option<()>;

    /// Why bytes could not be read: what their gap is counted as.
    fn gap_cause(&self) -> Counter;
}

/// The messages that DATA frames left unfinished: by connection, stream and `record::direction`.
pub trait Messages {
    /// The stream's, if there is one.
    fn find(&self, shared: &Shared, stream: u32, direction: u8) -> Option<&Message>;

    /// Keeps it, in the place of an earlier one. Answers whether there was room: if not, nothing is known of the stream.
    fn keep(&mut self, shared: &Shared, stream: u32, direction: u8, message: &Message) -> bool;

    /// Forgets it, if there is one.
    fn remove(&mut self, shared: &Shared, stream: u32, direction: u8);
}

/// The record that is put together, [`RECORD_CAPACITY`] bytes long at most, and where it goes. Offsets are multiples of
/// `record::ITEM_ALIGNMENT` but for those of bytes.
pub trait Emitter {
    /// Writes the record's header, at its beginning.
    fn put_header(&mut self, header: RecordHeader);

    /// Writes an item's header.
    fn put_item(&mut self, at: u32, item: ItemHeader);

    /// Writes how many bytes the item whose header is there has.
    fn put_captured(&mut self, at: u32, captured: u32);

    /// Writes what ended in DATA frames.
    fn put_data(&mut self, at: u32, data: DataItem);

    /// Writes what is known of the connection (`record::OpenItem`).
    fn put_open(&mut self, at: u32, opened: Opened);

    /// The record's byte at an offset; 0 behind its end.
    fn byte(&self, at: u32) -> u8;

    /// Sends the record, of this length. Answers whether there was room.
    fn send(&mut self, connection: u64, pid: u32, length: u32) -> bool;
}

/// What the driver knows of a connection, for its `record::OpenItem`.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The process.
    pub pid: u32,
    /// Not 0 if the connection was joined late.
    pub joined: u16,
    /// [`Shared::pair`].
    pub pair: u64,
}

/// Where a [`Walk`] takes place.
pub trait Host: Memory + Messages + Emitter + Sized {
    /// Calls [`walk::iterate`] until it answers false, `iterations` times at most. Answers whether it came to those.
    fn repeat(walk: &mut Walk<'_, Self>, iterations: u32) -> bool;

    /// Calls [`tally`] until it answers false.
    fn tally(scratch: &mut Scratch<Self>);

    /// The address of the socket, which is what a connection is found by.
    fn sock(&self) -> u64;

    /// Whether the thread was busy before the transfer.
    fn was_busy(&self) -> bool;

    /// What the socket shows of when the bytes arrived that were received, and how long a tick is in nanoseconds; `None`
    /// if it does not. `copied` is the socket's counter after the transfer.
    fn arrival(&self, copied: u32) -> Option<(Arrival, u32)>;

    /// Whether the socket is still selected, now that it is known which end it is.
    fn selects_role(&self, shared: &Shared, role: u8) -> bool;

    /// Counts an event, and the bytes that it concerns.
    fn count(&mut self, counter: Counter, bytes: u64);

    /// Counts a socket by what it carries.
    fn count_protocol(&mut self, protocol: Protocol);
}

/// One transfer of one direction of a connection: what the kernel's loop takes along.
#[derive(Debug)]
#[repr(C)]
pub struct Walk<'a, H> {
    /// What it works with.
    pub scratch: &'a mut Scratch<H>,
    /// Of the connection, what its directions share.
    pub shared: &'a mut Shared,
    /// The direction that bytes were moved in.
    pub own: &'a mut DirectionState,
    /// The other one.
    pub other: &'a mut DirectionState,
}

/// What a walk works with, and the record that it puts together. What each transfer needs comes first, so that it is in
/// few cache lines: each costs more than ten instructions.
#[derive(Debug)]
#[repr(C)]
pub struct Scratch<H> {
    /// Length of the record so far.
    pub length: u32,
    /// Its length without items.
    pub empty: u32,
    /// Offset of the item that bytes are being copied into; 0 if none is open.
    pub item: u32,
    /// Bytes copied into it.
    pub captured: u32,
    /// When the transfer was looked at.
    pub time_ns: u64,
    /// What ended in DATA frames since the last item.
    pub data: Data,
    /// Position up to which what was found was dropped, because the record was full before the boundary
    /// was believed.
    pub dropped: u64,
    /// Bytes of earlier transfers that no record will report, if the boundary that is tried is believed.
    pub unreported: u64,
    /// What the gap before these bytes completed: bits of `event`.
    pub pending: u32,
    /// Last stream of which this walk found headers that do not end it; 0 if none.
    pub begun: u32,
    /// Who sent a header block in this walk: one of [`connection::sender`].
    pub sender: u32,
    /// Not 0 once something of a stream was found in this walk.
    pub streams: u32,
    /// Not 0 while the direction is out of sync: what is found is not reported.
    pub searching: u32,
    /// The process that made the transfer.
    pub pid: u32,
    /// One of `record::direction`.
    pub sent: u8,
    /// One of [`timed`].
    pub timed: u8,
    /// Padding.
    pub _reserved: [u8; 6],
    /// How long the bytes had been at the socket.
    pub waited: Waited,
    /// Where it takes place.
    pub host: H,
    /// What is counted of a record that could not be sent.
    pub tally: Tally,
}

/// What says when the bytes of a transfer came.
pub mod timed {
    /// The thread: they came when it moved them, unless it had been busy before.
    pub const BY_THREAD: u8 = 0;
    /// The socket: [`Scratch::waited`](super::Scratch::waited).
    pub const BY_SOCKET: u8 = 1;
    /// Nothing: a server may read late, and its socket does not show it.
    pub const NOT: u8 = 2;
}

/// What ended in DATA frames of one stream; becomes a `DataItem`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Data {
    /// Lengths of the messages that ended.
    pub message_bytes: u64,
    /// How many.
    pub messages: u64,
    /// Which stream.
    pub stream: u32,
    /// Bits of `data_flag`.
    pub flags: u32,
}

impl<H> Scratch<H> {
    /// For one walk after the other, each of which sets `time_ns`, `pid` and `sent`.
    pub fn new(host: H) -> Self {
        Self {
            length: 0,
            empty: 0,
            item: 0,
            captured: 0,
            time_ns: 0,
            data: Data::default(),
            dropped: 0,
            unreported: 0,
            pending: 0,
            begun: 0,
            sender: connection::sender::UNKNOWN,
            streams: 0,
            searching: 0,
            pid: 0,
            sent: 0,
            timed: 0,
            _reserved: [0; 6],
            waited: Waited::default(),
            host,
            tally: Tally::new(0, 0),
        }
    }
}

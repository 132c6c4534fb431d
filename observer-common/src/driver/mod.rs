//! Decides what happens to the bytes of a transfer: which frames and messages they hold, what is reported, and what
//! becomes of the connection.
//!
//! The driver is generic over a [`Host`], which has the [memory](Memory) with the bytes, the [messages](Messages) that
//! are cut across DATA frames, and the [record](Emitter) that is being built. The BPF programs are a host over the
//! buffers of processes and over maps; the simulator in the tests is one over slices.
//!
//! [`walk::walk`] does one [`Walk`] over one transfer. The host calls [`walk::iterate`] until there is no more, because
//! in the kernel a helper does that.
//!
//! Everything is inlined into one function, except where a comment says why not: the kernel's verifier follows each way
//! through that function.

pub mod arrival;
pub mod connection;
mod emit;
pub mod gap;
mod http1;
pub mod opening;
pub mod thrift;
pub mod tls;
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

/// The memory with a transfer's bytes: consecutive buffers.
pub trait Memory {
    /// Bytes that are left in the current buffer.
    fn left(&self) -> u64;

    /// Whether all bytes have been passed over.
    fn is_empty(&self) -> bool;

    /// Moves to the next buffer. `None` if its description cannot be read.
    fn next(&mut self) -> Option<()>;

    /// Passes over `n` bytes of the current buffer.
    fn advance(&mut self, n: u32);

    /// Reads the next `n` bytes into the scanner's buffer at this offset. It may also overwrite the bytes after them,
    /// up to [`OVERRUN`](crate::scanner::OVERRUN) bytes in all. `None` if they cannot be read.
    fn read(&mut self, n: u32, scanner: &mut Scanner, at: u32) -> Option<()>;

    /// Copies the next `n` bytes, [`COPY_MAX`] at most, to this offset in the record, followed by zeros for an item's
    /// padding. `None` if they cannot be read.
    fn copy(&mut self, n: u32, at: u32) -> Option<()>;

    /// The cause of the gap if bytes could not be read.
    fn gap_cause(&self) -> Counter;
}

/// The messages that DATA frames left unfinished, by connection, stream and `record::direction`.
pub trait Messages {
    /// Whether what was sent may be seen after the peer's answer to it, as where a TLS library returns from a write.
    const SENDS_LATE: bool;

    /// The stream's unfinished message, if there is one.
    fn find(&self, shared: &Shared, stream: u32, direction: u8) -> Option<&Message>;

    /// Stores the stream's unfinished message, in the place of an earlier one. Returns whether there was room.
    fn keep(&mut self, shared: &Shared, stream: u32, direction: u8, message: &Message) -> bool;

    /// Removes the stream's unfinished message, if there is one.
    fn remove(&mut self, shared: &Shared, stream: u32, direction: u8);
}

/// The record that is being built, at most [`RECORD_CAPACITY`] bytes, and the ring that takes it. Offsets are multiples
/// of `record::ITEM_ALIGNMENT`, except in [`byte`](Self::byte).
pub trait Emitter {
    /// Writes the record's header, at its start.
    fn put_header(&mut self, header: RecordHeader);

    /// Writes an item's header.
    fn put_item(&mut self, at: u32, item: ItemHeader);

    /// Writes `captured` into the item header that is at this offset.
    fn put_captured(&mut self, at: u32, captured: u32);

    /// Writes the body of a data item.
    fn put_data(&mut self, at: u32, data: DataItem);

    /// Writes the description of the connection (`record::OpenItem`). Returns false if the counters of its socket moved
    /// meanwhile, so that the next record should have one, too.
    fn put_open(&mut self, at: u32, opened: Opened) -> bool;

    /// The record's byte at an offset; 0 after its end.
    fn byte(&self, at: u32) -> u8;

    /// Sends the record, which has this length. Returns whether the ring had room.
    fn send(&mut self, connection: u64, pid: u32, length: u32) -> bool;
}

/// The driver's part of a connection's `record::OpenItem`.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The process.
    pub pid: u32,
    /// Of `record::open_flag`. With `SAMPLED`, the socket's counters replace the pair.
    pub flags: u16,
    /// [`Shared::pair`].
    pub pair: u64,
}

/// The environment of a [`Walk`]: the transfer's socket and thread, in addition to memory, messages and record.
pub trait Host: Memory + Messages + Emitter + Sized {
    /// Calls [`walk::iterate`] until it returns false, at most `iterations` times. Returns whether it was called that
    /// often.
    fn repeat(walk: &mut Walk<'_, Self>, iterations: u32) -> bool;

    /// Calls [`thrift::iterate`] until it returns false, at most `iterations` times. Returns whether it was called that
    /// often.
    fn repeat_thrift(walk: &mut thrift::Walk<'_, Self>, iterations: u32) -> bool;

    /// Whether bodies of gRPC-Web and Connect are followed.
    fn follows_web(&self) -> bool;

    /// Whether HTTP/1.1 is followed.
    fn follows_http1(&self) -> bool;

    /// Calls [`tally`] until it returns false.
    fn tally(scratch: &mut Scratch<Self>);

    /// The address of the `struct sock`: the key of the connection.
    fn sock(&self) -> u64;

    /// Whether the thread was busy before the transfer.
    fn was_busy(&self) -> bool;

    /// The socket's figures about the arrival of the received bytes, and the length of a tick in nanoseconds; `None`
    /// if it has none. `copied` is the socket's counter after the transfer.
    fn arrival(&self, copied: u32) -> Option<(Arrival, u32)>;

    /// Whether the socket is still selected, now that the process's side (`record::role`) is known.
    fn selects_role(&self, shared: &Shared, role: u8) -> bool;

    /// Counts an event, and the bytes that it concerns.
    fn count(&mut self, counter: Counter, bytes: u64);

    /// Counts a socket by its protocol.
    fn count_protocol(&mut self, protocol: Protocol);
}

/// One transfer in one direction of a connection: the context of the kernel's loop.
#[derive(Debug)]
#[repr(C)]
pub struct Walk<'a, H> {
    /// The state of this walk.
    pub scratch: &'a mut Scratch<H>,
    /// The state that both directions of the connection share.
    pub shared: &'a mut Shared,
    /// The direction of the transfer.
    pub own: &'a mut DirectionState,
    /// The other direction.
    pub other: &'a mut DirectionState,
}

/// The state of a walk, and the record that it builds. Fields that each transfer needs come first, so that they are in
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
    /// Bytes copied into that item.
    pub captured: u32,
    /// When the walk started, by the kernel's monotonic clock.
    pub time_ns: u64,
    /// Messages that ended in DATA frames since the last item.
    pub data: Data,
    /// Position up to which frames are not in the record, because it was full before the boundary was believed.
    pub dropped: u64,
    /// Bytes of earlier transfers that no record will report, if the boundary that is tried is believed.
    pub unreported: u64,
    /// Events that the gap before the transfer completed: bits of `scanner::event`.
    pub pending: u32,
    /// Highest stream for which this walk found HEADERS without END_STREAM; 0 if none.
    pub begun: u32,
    /// Side that sent a field block in this walk: one of [`connection::sender`].
    pub sender: u32,
    /// Not 0 once this walk found a frame of a stream.
    pub streams: u32,
    /// Not 0 while the direction is out of sync: frames that are found are not reported.
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
    /// The environment of the walk.
    pub host: H,
    /// The count of entries that a dropped record's field blocks inserted.
    pub tally: Tally,
}

/// Sources for the time at which the bytes of a transfer came.
pub mod timed {
    /// The thread: they came when it moved them, unless it had been busy before.
    pub const BY_THREAD: u8 = 0;
    /// The socket: [`Scratch::waited`](super::Scratch::waited).
    pub const BY_SOCKET: u8 = 1;
    /// None: a server may read late, and its socket does not show it.
    pub const NOT: u8 = 2;
}

/// The messages that ended in DATA frames of one stream; becomes a `DataItem`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Data {
    /// Sum of the messages' lengths in bytes.
    pub message_bytes: u64,
    /// Number of messages.
    pub messages: u64,
    /// The stream.
    pub stream: u32,
    /// Bits of `data_flag`.
    pub flags: u32,
}

impl<H> Scratch<H> {
    /// Makes the state for any number of walks. Set `time_ns`, `pid` and `sent` before each.
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
            tally: Tally::default(),
        }
    }
}

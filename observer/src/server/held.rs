//! The texts of responses that are under way, packed, and bounded all together: whoever asks again and again,
//! and reads nothing, would otherwise fill the daemon's memory with old scrapes.
//!
//! A text is packed as it is written, and never whole in memory otherwise: an exposition says the same again and
//! again, and takes a tenth of its length so. Who takes no gzip gets it unpacked as it is sent. So a slow reader
//! keeps nothing alive but that tenth: neither the snapshot that the text is of, nor a thread.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Formatter};
use std::io::{self, ErrorKind, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hyper::body::{Body, Frame, SizeHint};

/// Copied at a time, so that what a connection has not sent keeps no whole text alive.
const CHUNK: usize = 64 << 10;

/// A text, until it is dropped by its last reader, or taken from all of them.
#[derive(Debug)]
pub(super) struct Held {
    /// Of the text.
    length: usize,
    /// Of what is held.
    packed: usize,
    bytes: Mutex<Option<Bytes>>,
}

impl Held {
    /// As the body of a response, as it is held.
    pub(super) fn read_packed(self: &Arc<Self>) -> Reading {
        Reading { left: self.packed, from: From::Packed(self.cursor()) }
    }

    /// As the body of a response.
    pub(super) fn read(self: &Arc<Self>) -> Reading {
        let unpacked = GzDecoder::new(self.cursor());
        Reading { left: self.length, from: From::Unpacked(Box::new(unpacked)) }
    }

    fn cursor(self: &Arc<Self>) -> Cursor {
        Cursor { held: Arc::clone(self), at: 0 }
    }

    fn take_back(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn taken_back() -> io::Error {
    io::Error::new(ErrorKind::OutOfMemory, "too slow: the response was dropped for newer ones")
}

/// Knows all texts, the oldest first.
#[derive(Debug)]
pub(super) struct Ledger {
    at_most: usize,
    texts: Mutex<VecDeque<Weak<Held>>>,
}

impl Ledger {
    /// For so many bytes, packed, or one text, which may have as many.
    pub(super) fn new(at_most: usize) -> Self {
        Self { at_most, texts: Mutex::default() }
    }

    /// A text that is still to be written.
    pub(super) fn begin(&self) -> Writing {
        let room = Room { packed: Vec::new(), at_most: self.at_most };
        Writing { length: 0, packer: GzEncoder::new(room, Compression::fast()) }
    }

    /// Takes back the oldest texts if all are more than the bound, never this one.
    pub(super) fn hold(&self, text: Writing) -> io::Result<Arc<Held>> {
        let Writing { length, packer } = text;
        let mut bytes = packer.finish()?.packed;
        // It was doubled as it grew.
        bytes.shrink_to_fit();
        let packed = bytes.len();
        let held = Arc::new(Held { length, packed, bytes: Mutex::new(Some(bytes.into())) });
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.retain(|text| text.strong_count() > 0);
        let lengths = texts.iter().filter_map(Weak::upgrade).map(|text| text.packed);
        let mut total = held.packed + lengths.sum::<usize>();
        while total > self.at_most
            && let Some(oldest) = texts.pop_front()
        {
            if let Some(oldest) = oldest.upgrade() {
                oldest.take_back();
                total -= oldest.packed;
            }
        }
        texts.push_back(Arc::downgrade(&held));
        Ok(held)
    }
}

/// A text that is being written.
pub(super) struct Writing {
    length: usize,
    packer: GzEncoder<Room>,
}

impl Debug for Writing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.packer.write(bytes)?;
        self.length += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// For what is packed.
struct Room {
    packed: Vec<u8>,
    at_most: usize,
}

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.packed.len().saturating_add(bytes.len()) > self.at_most {
            let reason = format!("more than {} bytes, packed", self.at_most);
            return Err(io::Error::new(ErrorKind::FileTooLarge, reason));
        }
        self.packed.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what is held. Fails when it is taken back.
#[derive(Debug)]
struct Cursor {
    held: Arc<Held>,
    at: usize,
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.held.lock();
        let bytes = bytes.as_deref().ok_or_else(taken_back)?;
        let read = bytes.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

/// The rest of a text. Fails, and the connection with it, when the text is taken back.
#[derive(Debug)]
pub(super) struct Reading {
    left: usize,
    from: From,
}

#[derive(Debug)]
enum From {
    Packed(Cursor),
    Unpacked(Box<GzDecoder<Cursor>>),
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.from {
            From::Packed(cursor) => cursor.read(buffer),
            From::Unpacked(text) => text.read(buffer),
        }
    }
}

impl Body for Reading {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut chunk = vec![0; self.left.min(CHUNK)];
        let read = self.read_exact(&mut chunk);
        self.left -= chunk.len();
        Poll::Ready(Some(read.map(|()| Frame::data(chunk.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn next(reading: &mut Reading) -> Option<io::Result<Bytes>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(reading).poll_frame(&mut context) {
            Poll::Ready(frame) => {
                frame.map(|frame| frame.map(|frame| frame.into_data().expect("data")))
            }
            Poll::Pending => unreachable!("it waits for nothing"),
        }
    }

    fn hold(ledger: &Ledger, text: &[u8]) -> io::Result<Arc<Held>> {
        let mut writing = ledger.begin();
        text.chunks(1000).try_for_each(|chunk| writing.write_all(chunk))?;
        ledger.hold(writing)
    }

    /// Packs to about as many.
    pub(in crate::server) fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn a_text_is_read_in_pieces_as_it_is_and_packed() {
        let ledger = Ledger::new(usize::MAX);
        let lines = "grpc_server_handled_total{grpc_code=\"OK\"} 1\n".repeat(10_000);
        for text in [noise(CHUNK * 2 + 7), lines.into_bytes(), Vec::new()] {
            let held = hold(&ledger, &text).expect("there is room");
            let mut all = Vec::new();
            for mut reading in [held.read(), held.read_packed()] {
                let length = reading.size_hint().exact().expect("known") as usize;
                let mut read = Vec::new();
                while let Some(chunk) = next(&mut reading) {
                    read.extend_from_slice(&chunk.expect("held"));
                    let left = length - read.len();
                    assert_eq!(reading.size_hint().exact(), Some(left as u64));
                }
                assert_eq!(read.len(), length);
                all.push(read);
            }
            let mut unpacked = Vec::new();
            GzDecoder::new(&all[1][..]).read_to_end(&mut unpacked).expect("gzip");
            assert_eq!((&all[0], &unpacked), (&text, &text));
        }
    }

    #[test]
    fn the_oldest_texts_are_taken_back() {
        let one = hold(&Ledger::new(usize::MAX), &noise(100)).expect("there is room").packed;
        let ledger = Ledger::new(3 * one);
        let hold = || hold(&ledger, &noise(100)).expect("there is room");
        let texts: Vec<_> = (0..5).map(|_| hold()).collect();
        let is_there = |text: &Arc<Held>| text.lock().is_some();
        let there: Vec<_> = texts.iter().map(is_there).collect();
        assert_eq!(there, [false, false, true, true, true]);
        // Who has read to the end makes room.
        drop(texts);
        let texts: Vec<_> = (0..3).map(|_| hold()).collect();
        assert!(texts.iter().all(is_there));
    }

    #[test]
    fn a_text_of_more_than_all_may_have_is_refused_as_it_is_written() {
        let error = hold(&Ledger::new(CHUNK), &noise(3 * CHUNK)).expect_err("too long");
        assert!(error.to_string().contains("65536 bytes"), "{error}");
    }

    #[test]
    fn who_reads_too_slowly_is_told() {
        let ledger = Ledger::new(CHUNK * 3);
        let hold = || hold(&ledger, &noise(CHUNK * 2)).expect("there is room");
        for read in [Held::read, Held::read_packed] {
            let mut reading = read(&hold());
            assert!(next(&mut reading).is_some_and(|chunk| chunk.is_ok()));
            let _newer = hold();
            assert!(next(&mut reading).is_some_and(|chunk| chunk.is_err()));
        }
    }
}

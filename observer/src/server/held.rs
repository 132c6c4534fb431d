//! The texts of responses that are being sent, compressed, with a bound on all together. Otherwise a client that asks
//! again and again and reads nothing would fill the daemon's memory with old scrapes.
//!
//! A text is compressed as it is written, and never in memory uncompressed: an exposition is repetitive and shrinks to a
//! tenth. For a client without gzip it is uncompressed as it is sent. So a slow reader keeps only that tenth alive, and
//! neither the snapshot nor a thread.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hyper::body::{Body, Frame, SizeHint};

use crate::sync::lock;

/// The bytes that are copied at once: what a connection has not sent yet must not keep the whole text alive.
const CHUNK: usize = 64 << 10;

/// A compressed text, until its last reader drops it or it is taken back from all readers.
#[derive(Debug)]
pub(super) struct Held {
    /// The length of the text.
    length: usize,
    /// The length of the compressed text.
    packed: usize,
    bytes: Mutex<Option<Bytes>>,
}

impl Held {
    /// The body of a response with the compressed text.
    pub(super) fn read_packed(self: &Arc<Self>) -> Reading {
        Reading { left: self.packed, from: Box::new(self.cursor()) }
    }

    /// The body of a response with the text.
    pub(super) fn read(self: &Arc<Self>) -> Reading {
        Reading { left: self.length, from: Box::new(GzDecoder::new(self.cursor())) }
    }

    fn cursor(self: &Arc<Self>) -> Cursor {
        Cursor { held: Arc::clone(self), at: 0 }
    }
}

/// All texts, the oldest first.
#[derive(Debug)]
pub(super) struct Ledger {
    at_most: usize,
    texts: Mutex<VecDeque<Weak<Held>>>,
}

impl Ledger {
    /// Creates a ledger with a bound in bytes on all compressed texts together, and on each of them.
    pub(super) fn new(at_most: usize) -> Self {
        Self { at_most, texts: Mutex::default() }
    }

    /// A new text, to be written.
    pub(super) fn begin(&self) -> Writing {
        let packer = GzEncoder::new(Vec::new(), Compression::fast());
        Writing { length: 0, packer, at_most: self.at_most }
    }

    /// Holds a text. If all texts exceed the bound, takes back the oldest ones, but never this one.
    pub(super) fn hold(&self, text: Writing) -> io::Result<Arc<Held>> {
        let Writing { length, packer, at_most } = text;
        let mut bytes = packer.finish()?;
        check(&bytes, at_most)?;
        // Its capacity was doubled as it grew.
        bytes.shrink_to_fit();
        let packed = bytes.len();
        let held = Arc::new(Held { length, packed, bytes: Mutex::new(Some(bytes.into())) });
        let mut texts = lock(&self.texts);
        texts.retain(|text| text.strong_count() > 0);
        let lengths = texts.iter().filter_map(Weak::upgrade).map(|text| text.packed);
        let mut total = held.packed + lengths.sum::<usize>();
        while total > self.at_most
            && let Some(oldest) = texts.pop_front()
        {
            if let Some(oldest) = oldest.upgrade() {
                *lock(&oldest.bytes) = None;
                total -= oldest.packed;
            }
        }
        texts.push_back(Arc::downgrade(&held));
        Ok(held)
    }
}

/// A text that is being written.
#[derive(Debug)]
pub(super) struct Writing {
    length: usize,
    packer: GzEncoder<Vec<u8>>,
    at_most: usize,
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.packer.write(bytes)?;
        self.length += written;
        check(self.packer.get_ref(), self.at_most)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns an error if a compressed text is longer than `at_most`.
fn check(packed: &[u8], at_most: usize) -> io::Result<()> {
    if packed.len() > at_most {
        let reason = format!("more than {at_most} bytes, packed");
        return Err(io::Error::new(ErrorKind::FileTooLarge, reason));
    }
    Ok(())
}

/// Reads a compressed text. Fails once it is taken back.
#[derive(Debug)]
struct Cursor {
    held: Arc<Held>,
    at: usize,
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = lock(&self.held.bytes);
        let taken_back = || {
            let reason = "too slow: the response was dropped for newer ones";
            io::Error::new(ErrorKind::OutOfMemory, reason)
        };
        let bytes = bytes.as_deref().ok_or_else(taken_back)?;
        let read = bytes.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

/// The rest of a text, as the body of a response. Fails, and ends the connection, once the text is taken back.
pub(super) struct Reading {
    left: usize,
    from: Box<dyn Read + Send>,
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
        let read = self.from.read_exact(&mut chunk);
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

    /// Bytes that cannot be compressed.
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
        let is_there = |text: &Arc<Held>| lock(&text.bytes).is_some();
        let there: Vec<_> = texts.iter().map(is_there).collect();
        assert_eq!(there, [false, false, true, true, true]);
        // Readers that have ended make room.
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

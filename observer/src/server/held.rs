//! The texts of responses that are under way, bounded all together: whoever asks again and again,
//! and reads nothing, would otherwise fill the daemon's memory with old scrapes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Copied at a time, so that what a connection has not sent keeps no whole text alive.
const CHUNK: usize = 64 << 10;

/// A text, until it is dropped by its last reader, or taken from all of them.
#[derive(Debug)]
pub(super) struct Held {
    length: usize,
    bytes: Mutex<Option<Bytes>>,
}

impl Held {
    /// All of it; an error when it has been taken back.
    pub(super) fn whole(&self) -> io::Result<Bytes> {
        self.lock().clone().ok_or_else(taken_back)
    }

    /// As the body of a response.
    pub(super) fn read(self: &Arc<Self>) -> Reading {
        Reading { held: Arc::clone(self), at: 0 }
    }

    fn take_back(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn taken_back() -> io::Error {
    io::Error::new(ErrorKind::OutOfMemory, "too slow: the text was dropped for newer ones")
}

/// Knows all texts, the oldest first.
#[derive(Debug)]
pub(super) struct Ledger {
    at_most: usize,
    texts: Mutex<VecDeque<Weak<Held>>>,
}

impl Ledger {
    /// For so many bytes, or one text.
    pub(super) fn new(at_most: usize) -> Self {
        Self { at_most, texts: Mutex::default() }
    }

    /// Takes back the oldest texts if all are more than the bound, never this one.
    pub(super) fn hold(&self, bytes: Bytes) -> Arc<Held> {
        let held = Arc::new(Held { length: bytes.len(), bytes: Mutex::new(Some(bytes)) });
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.retain(|text| text.strong_count() > 0);
        let lengths = texts.iter().filter_map(Weak::upgrade).map(|text| text.length);
        let mut total = held.length + lengths.sum::<usize>();
        while total > self.at_most
            && let Some(oldest) = texts.pop_front()
        {
            if let Some(oldest) = oldest.upgrade() {
                oldest.take_back();
                total -= oldest.length;
            }
        }
        texts.push_back(Arc::downgrade(&held));
        held
    }
}

/// The rest of a text. Fails, and the connection with it, when the text is taken back.
#[derive(Debug)]
pub(super) struct Reading {
    held: Arc<Held>,
    at: usize,
}

impl Body for Reading {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let chunk = match self.held.lock().as_deref() {
            Some(bytes) => {
                let end = (self.at + CHUNK).min(bytes.len());
                Bytes::copy_from_slice(bytes.get(self.at..end).unwrap_or_default())
            }
            None => return Poll::Ready(Some(Err(taken_back()))),
        };
        self.at += chunk.len();
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.held.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.held.length - self.at) as u64)
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_text_is_read_in_pieces() {
        let text: Bytes = (0..CHUNK * 2 + 7).map(|i| i as u8).collect();
        let mut reading = Ledger::new(0).hold(text.clone()).read();
        assert_eq!(reading.size_hint().exact(), Some(text.len() as u64));
        let mut read = Vec::new();
        while let Some(chunk) = next(&mut reading) {
            read.extend_from_slice(&chunk.expect("held"));
            assert_eq!(reading.size_hint().exact(), Some((text.len() - read.len()) as u64));
        }
        assert_eq!(read, text);
    }

    #[test]
    fn the_oldest_texts_are_taken_back() {
        let ledger = Ledger::new(300);
        let hold = || ledger.hold(Bytes::from(vec![0; 100]));
        let texts: Vec<_> = (0..5).map(|_| hold()).collect();
        let there: Vec<_> = texts.iter().map(|text| text.whole().is_ok()).collect();
        assert_eq!(there, [false, false, true, true, true]);
        // Who has read to the end makes room.
        drop(texts);
        let texts: Vec<_> = (0..3).map(|_| hold()).collect();
        assert!(texts.iter().all(|text| text.whole().is_ok()));
        // A larger one than all may have is held alone.
        let large = ledger.hold(Bytes::from(vec![0; 400]));
        assert!(large.whole().is_ok() && texts.iter().all(|text| text.whole().is_err()));
    }

    #[test]
    fn who_reads_too_slowly_is_told() {
        let ledger = Ledger::new(CHUNK * 2);
        let mut reading = ledger.hold(Bytes::from(vec![0; CHUNK * 2])).read();
        assert!(next(&mut reading).is_some_and(|chunk| chunk.is_ok()));
        let _newer = ledger.hold(Bytes::from_static(b"newer"));
        assert!(next(&mut reading).is_some_and(|chunk| chunk.is_err()));
    }
}

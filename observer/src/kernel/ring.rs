//! Waits for records and takes them out of a ring buffer.

use std::{io, os::fd::AsRawFd as _, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use observer_core::source::Source;

const RING: Token = Token(0);
const WAKE: Token = Token(1);

/// The daemon's end of a ring buffer.
pub struct Ring {
    ring: RingBuf<MapData>,
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
}

impl Ring {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self> {
        let poll = Poll::new().context("cannot create an epoll instance")?;
        // mio's polling is edge-triggered: it wakes the worker only when the BPF programs signal, which they do
        // when the ring is half full, not for each record.
        poll.registry()
            .register(&mut SourceFd(&ring.as_raw_fd()), RING, Interest::READABLE)
            .context("cannot wait for the ring buffer")?;
        let waker = Waker::new(poll.registry(), WAKE).context("cannot create a waker")?;
        Ok(Self { ring, poll, events: Events::with_capacity(4), waker: Arc::new(waker) })
    }

    /// A waker that ends a [`wait`](Self::wait) from another thread.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }
}

impl Source for Ring {
    fn drain(&mut self, limit: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < limit
            && let Some(bytes) = self.ring.next()
        {
            take(&bytes);
            count += 1;
        }
        count
    }

    /// Waits until the ring is half full, the waker is used or the time is over.
    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}

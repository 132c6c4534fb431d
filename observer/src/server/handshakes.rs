//! TLS handshakes, on a thread of their own: each takes a signature, and whoever reaches the port may ask for
//! as many as it likes. They hold up each other, and nobody else.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::warn;

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Handshakes {
    runtime: Handle,
    _stop: oneshot::Sender<()>,
}

impl Handshakes {
    /// `None` where there can be no such thread: then handshakes are done where everything else is.
    pub(super) fn start() -> Option<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let started = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let handle = runtime.handle().clone();
            let run = move || drop(runtime.block_on(stopped));
            thread::Builder::new().name("handshakes".into()).spawn(run)?;
            Ok(handle)
        });
        match started {
            Ok(runtime) => Some(Self { runtime, _stop: stop }),
            Err(error) => {
                warn!(%error, "TLS handshakes have no thread of their own");
                None
            }
        }
    }

    /// Does one. Whoever does not wait for it any more ends it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        handshake: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        let mut handshake = Aborting(self.runtime.spawn(handshake));
        (&mut handshake.0).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// A task that ends when nobody waits for it.
struct Aborting<T>(JoinHandle<T>);

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

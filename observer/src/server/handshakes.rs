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
                warn!(%error, "cannot give TLS handshakes a thread of their own");
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The test's runtime has one thread: done there, it would never end.
    #[tokio::test]
    async fn a_handshake_that_takes_long_holds_up_nobody_else() {
        let handshakes = Handshakes::start().expect("a thread");
        let (go, gone) = mpsc::channel();
        let handshake = handshakes.run(async move { Ok(gone.recv().is_ok()) });
        let everything_else = async { go.send(()).expect("awaited") };
        let (done, ()) = tokio::join!(handshake, everything_else);
        assert!(done.expect("it did not panic"));
    }

    #[tokio::test]
    async fn a_handshake_that_nobody_waits_for_ends() {
        let handshakes = Handshakes::start().expect("a thread");
        let (alive, ended) = oneshot::channel::<()>();
        let handshake = handshakes.run(async move {
            let _alive = alive;
            std::future::pending::<io::Result<()>>().await
        });
        tokio::select! {
            biased;
            _ = handshake => unreachable!("it never ends by itself"),
            () = tokio::task::yield_now() => {}
        }
        assert!(ended.await.is_err());
    }
}

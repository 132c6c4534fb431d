//! TLS handshakes, on a thread of their own: each costs a signature, and a client may request any number of them. They
//! delay only each other.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::warn;

/// The thread for handshakes, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Handshakes {
    runtime: Handle,
    _stop: oneshot::Sender<()>,
}

impl Handshakes {
    /// Starts the thread. If that fails, returns `None`: handshakes then run on the server's thread.
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

    /// Runs a handshake. It ends when the returned future is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        handshake: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        // When the set is dropped, its task is aborted.
        let mut tasks = JoinSet::new();
        tasks.spawn_on(handshake, &self.runtime);
        let done = tasks.join_next().await.expect("it has a task");
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The test's runtime has one thread: on that, the handshake would never end.
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

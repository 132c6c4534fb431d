//! `/metrics`, `/healthz`, `/readyz`; and what people look at, `/`, `/events` and `/api/v1/view`;
//! over HTTP/1.1, by TLS and for those who have a password where that is asked for
//! ([`Protection`]).
//!
//! A scraper may be slow, dead or hostile, and neither the others nor the daemon may suffer:
//! connections are bounded (`Limits`), nobody is waited for without end, and one rendering at
//! a time serves all who wait for it (`render`). Who looks has places of their own, and one sample a
//! second is made for all of them together (`live`).

#![forbid(unsafe_code)]

mod auth;
mod encoding;
mod events;
mod held;
mod live;
mod page;
mod protection;
mod render;
mod routes;
mod stream;
mod tls;
mod web_config;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use crate::metrics::{Format, Snapshot};
pub use protection::Protection;
use routes::{EVENTS, Routes};
use stream::Impatient;

/// What is served. All are called on a thread where blocking is allowed; a panic in one is a
/// response with status 500, where panics unwind.
pub trait Pages: Send + Sync + 'static {
    /// `/metrics`, in this format. Never called twice at once. `Err` is a response with status 500,
    /// whose body says why.
    fn metrics(&self, format: Format) -> Result<Vec<u8>, String>;

    /// The figures of this moment. `Err` is a response with status 500, whose body says why.
    fn snapshot(&self) -> Result<Snapshot, String>;

    /// Whether the daemon does its work. `Err`, with the reason, is a response with status 503.
    fn health(&self) -> Result<(), String>;

    /// Whether the daemon has started to watch. `Err`, with the reason, is a response with
    /// status 503.
    fn ready(&self) -> Result<(), String>;
}

/// The bounds of [`serve`].
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Served at once. Further ones wait in the kernel's accept queue.
    connections: usize,
    /// For a TLS handshake, and for a request's headers, from the first moment it could be sent: so an idle connection
    /// ends after it as well. No multiple of usual scrape intervals, or connections would be
    /// closed just when the next scrape comes.
    headers: Duration,
    /// For one of [`Pages`] to be made.
    page: Duration,
    /// For the client to take a whole response.
    response: Duration,
    /// For what is under way at shutdown.
    grace: Duration,
    /// Bytes of all scrapes that are under way, or one scrape: beyond, the oldest are cut off.
    held: usize,
    /// Who watch at the same time, beside the connections.
    watchers: usize,
    /// Between samples for those who watch.
    period: Duration,
    /// So long after the last of them has gone samples are still taken: pages that load themselves
    /// again, without script, come back within.
    linger: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    headers: Duration::from_secs(17),
    page: Duration::from_secs(30),
    response: Duration::from_secs(30),
    grace: Duration::from_secs(5),
    held: 64 << 20,
    watchers: 128,
    period: Duration::from_secs(1),
    linger: Duration::from_secs(15),
};

/// Serves `pages` to whom `protection` admits, until `shutdown` completes; then accepts no more, lets responses that are
/// under way finish, for at most 5 s, and returns.
pub async fn serve(
    listener: TcpListener,
    pages: Arc<dyn Pages>,
    protection: Arc<Protection>,
    shutdown: impl Future<Output = ()>,
) {
    serve_within(LIMITS, listener, pages, protection, shutdown).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    pages: Arc<dyn Pages>,
    protection: Arc<Protection>,
    shutdown: impl Future<Output = ()>,
) {
    let routes = Arc::new(Routes::new(pages, Arc::clone(&protection), limits));
    let places = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut crowded = false;
    loop {
        // Once, not with each connection that takes the last place.
        if places.available_permits() == 0 && !crowded {
            warn!(connections = limits.connections, "all HTTP connections are taken: others wait");
            crowded = true;
        }
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => {
                log_end(ended);
                crowded &= !connections.is_empty();
            }
            (stream, place) = accept(&listener, &places) => {
                let (routes, place) = (Arc::clone(&routes), Place::new(place));
                let conversation =
                    Conversation { limits, routes, stopping: stopping.clone(), place };
                connections.spawn(conversation.begin(stream, Arc::clone(&protection)));
            }
        }
    }
    drop(listener);
    drop(stop);
    routes.end();
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            log_end(ended);
        }
    };
    if timeout(limits.grace, all_ended).await.is_err() {
        warn!(connections = connections.len(), "cut off scrapes that did not end in time");
    }
}

/// A connection's place among those that are served at once.
struct Place(Mutex<Option<OwnedSemaphorePermit>>);

impl Place {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Mutex::new(Some(permit)))
    }

    fn give_up(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The next connection, once there is a place for it. Safe to cancel: what was not returned is
/// still in the kernel's queue.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                debug!(%peer, "HTTP connection");
                return (stream, place);
            }
            // accept(2): of the connection (ECONNABORTED, …), or for want of file descriptors or
            // memory, which others may free.
            Err(error) => {
                warn!(%error, "cannot accept an HTTP connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection, served request by request.
struct Conversation {
    limits: Limits,
    routes: Arc<Routes>,
    stopping: watch::Receiver<()>,
    place: Place,
}

impl Conversation {
    /// By TLS, where that is asked for.
    async fn begin(mut self, stream: TcpStream, protection: Arc<Protection>) {
        let Some(config) = protection.terms().await.tls.clone() else {
            return self.hold(stream).await;
        };
        let handshake = timeout(self.limits.headers, TlsAcceptor::from(config).accept(stream));
        let outcome = tokio::select! {
            outcome = handshake => outcome,
            Err(_) = self.stopping.changed() => return,
        };
        match outcome {
            Ok(Ok(stream)) => self.hold(stream).await,
            Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
            Err(_) => debug!("TLS handshake not done in time"),
        }
    }

    async fn hold(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let Self { limits, routes, mut stopping, place } = self;
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            let (routes, place) = (Arc::clone(&routes), &place);
            let (request, _) = request.into_parts();
            async move {
                let answer = routes.answer(&request).await;
                // Who watches stays, and must not keep scrapers out.
                if request.uri.path() == EVENTS && answer.status().is_success() {
                    place.give_up();
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.headers)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(Impatient::new(stream, limits.response)), service);
        let mut connection = pin!(connection);
        let outcome = tokio::select! {
            outcome = &mut connection => outcome,
            // An error says that the sender is gone, which is the sign.
            Err(_) = stopping.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            // Of the client's making: it is told by a status where HTTP has one.
            debug!(%error, "HTTP connection ended");
        }
    }
}

fn log_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "an HTTP connection failed");
    }
}

#[cfg(test)]
mod tests;

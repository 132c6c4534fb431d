//! `/metrics`, `/healthz`, `/readyz` and a page that links them, over HTTP/1.1.
//!
//! A scraper may be slow, dead or hostile, and neither the others nor the daemon may suffer:
//! connections are bounded (`Limits`), nobody is waited for without end, and one rendering at
//! a time serves all who wait for it (`render`).

#![forbid(unsafe_code)]

mod render;
mod routes;
mod stream;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use routes::Routes;
use stream::Impatient;

/// What is served. All are called on a thread where blocking is allowed; a panic in one is a
/// response with status 500, where panics unwind.
pub trait Pages: Send + Sync + 'static {
    /// The text of `/metrics`, in the OpenMetrics format. Never called twice at once. `Err` is a
    /// response with status 500, whose body says why.
    fn metrics(&self) -> Result<String, String>;

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
    /// For a request's headers, from the first moment it could be sent: so an idle connection
    /// ends after it as well. No multiple of usual scrape intervals, or connections would be
    /// closed just when the next scrape comes.
    headers: Duration,
    /// For one of [`Pages`] to be made.
    page: Duration,
    /// For the client to take a whole response.
    response: Duration,
    /// For what is under way at shutdown.
    grace: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    headers: Duration::from_secs(17),
    page: Duration::from_secs(30),
    response: Duration::from_secs(30),
    grace: Duration::from_secs(5),
};

/// Serves `pages` until `shutdown` completes; then accepts no more, lets responses that are
/// under way finish, for at most 5 s, and returns.
pub async fn serve(
    listener: TcpListener,
    pages: Arc<dyn Pages>,
    shutdown: impl Future<Output = ()>,
) {
    serve_within(LIMITS, listener, pages, shutdown).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    pages: Arc<dyn Pages>,
    shutdown: impl Future<Output = ()>,
) {
    let routes = Arc::new(Routes::new(pages, limits.page));
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
                let routes = Arc::clone(&routes);
                connections.spawn(converse(limits, stream, routes, stopping.clone(), place));
            }
        }
    }
    drop(listener);
    drop(stop);
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            log_end(ended);
        }
    };
    if timeout(limits.grace, all_ended).await.is_err() {
        warn!(connections = connections.len(), "cut off scrapes that did not end in time");
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

/// Serves one connection, request by request.
async fn converse(
    limits: Limits,
    stream: TcpStream,
    routes: Arc<Routes>,
    mut stopping: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let routes = Arc::clone(&routes);
        async move { Ok::<_, Infallible>(routes.answer(request.method(), request.uri().path()).await) }
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

fn log_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "an HTTP connection failed");
    }
}

#[cfg(test)]
mod tests;

//! The HTTP server: `/metrics`, `/healthz` and `/readyz`, and for viewers `/`, `/events`, `/api/v1/view`,
//! `/connections` and `/api/v1/connections`. It speaks HTTP/1.1, with TLS and passwords if they are configured ([`Protection`]).
//!
//! A scraper may be slow, dead or hostile, without effect on others or the daemon. Connections are bounded, and idle ones
//! make room (`crowd`). Each wait has a time limit. One rendering at a time serves all that wait for it (`render`).
//! Passwords are checked one at a time (`auth`), handshakes have a thread (`handshakes`), and probes can have a listener
//! of their own ([`Health`]). Viewers have places of their own, and share one sample a second (`live`). Requests of a
//! browser for another site are refused (`site`).

#![forbid(unsafe_code)]

mod auth;
mod connections;
mod counts;
mod crowd;
mod encoding;
mod events;
mod handshakes;
mod health;
mod held;
mod live;
mod page;
mod protection;
mod render;
mod routes;
mod site;
mod socket;
mod stream;
mod tls;
mod web_config;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use crate::connections::Model as Connections;
use crate::metrics::{Format, Snapshot};
pub use counts::Counts;
use crowd::{Bounds, Crowd, Place};
use handshakes::Handshakes;
pub use health::{Health, Listener as HealthListener};
pub use protection::Protection;
use routes::{EVENTS, Routes};
pub use site::HostName;
use site::Hosts;
use socket::{Asker, Socket};
use stream::Impatient;

/// The content that is served. All methods are called on threads where blocking is allowed. If panics unwind, a panic is a
/// response with status 500.
pub trait Pages: Send + Sync + 'static {
    /// Writes `/metrics` in a format. Never called twice at once, nor while a snapshot is used. `Err`, with the reason, is a
    /// response with status 500.
    fn metrics(&self, format: Format, to: &mut dyn io::Write) -> Result<(), String>;

    /// The figures of this moment. `Err`, with the reason, is a response with status 500.
    fn snapshot(&self) -> Result<Snapshot, String>;

    /// The connections of this moment, by process. `Err`, with the reason, is a response with status 500.
    fn connections(&self) -> Result<Connections, String>;

    /// Whether the daemon is healthy. `Err`, with the reason, is a response with status 503.
    fn health(&self) -> Result<(), String>;

    /// Whether the daemon is ready. `Err`, with the reason, is a response with status 503.
    fn ready(&self) -> Result<(), String>;
}

/// The bounds of [`serve`].
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Bounds on connections that have not sent a byte, or wait for a place.
    lobby: Bounds,
    /// Bounds on connections that are served.
    crowd: Bounds,
    /// The time for the first byte of a connection.
    first_byte: Duration,
    /// The time for a TLS handshake, and for a request's headers from the end of the last response on. So it is also the
    /// time of an idle connection. Not a multiple of usual scrape intervals: connections would be closed just when the
    /// next scrape comes.
    headers: Duration,
    /// The time to make a page.
    page: Duration,
    /// The time for the client to take a whole response.
    response: Duration,
    /// The time for open responses at shutdown.
    grace: Duration,
    /// Maximum bytes of all scrapes that are being sent, compressed, and of each. Beyond it the oldest are cut off.
    held: usize,
    /// The CPU time that rendering may take before scrapes share a text.
    credit: Duration,
    /// The maximum age of a shared text.
    shared: Duration,
    /// Maximum number of viewers at the same time, in addition to the connections.
    watchers: usize,
    /// The time between samples for viewers.
    period: Duration,
    /// How long samples are taken after the last viewer has gone: a page without script that reloads itself comes back
    /// within this time.
    linger: Duration,
}

const LIMITS: Limits = Limits {
    lobby: Bounds { all: 256, each: 128, silence: Duration::ZERO, answer: Duration::MAX },
    crowd: Bounds {
        all: 96,
        each: 64,
        silence: Duration::from_millis(500),
        answer: Duration::from_secs(5),
    },
    first_byte: Duration::from_secs(5),
    headers: Duration::from_secs(17),
    page: Duration::from_secs(30),
    response: Duration::from_secs(30),
    grace: Duration::from_secs(5),
    held: 64 << 20,
    credit: Duration::from_secs(10),
    shared: Duration::from_secs(1),
    watchers: 128,
    period: Duration::from_secs(1),
    linger: Duration::from_secs(15),
};

/// How [`serve`] treats clients.
#[derive(Debug)]
pub struct Front {
    /// TLS and passwords.
    pub protection: Arc<Protection>,
    /// Further host names for requests, if only this machine can connect.
    pub hosts: Vec<HostName>,
    /// The counters of the server.
    pub counts: Arc<Counts>,
}

/// Serves `pages` to clients that `front` admits, until `shutdown` completes. Then it accepts no more connections, lets open
/// responses finish for at most 5 s, and returns.
pub async fn serve(
    listener: TcpListener,
    pages: Arc<dyn Pages>,
    front: Front,
    shutdown: impl Future<Output = ()>,
) {
    serve_within(LIMITS, listener, pages, front, shutdown).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    pages: Arc<dyn Pages>,
    front: Front,
    shutdown: impl Future<Output = ()>,
) {
    let Front { protection, hosts, counts } = front;
    let hosts = Hosts::of(&listener, hosts);
    let protects = protection.scheme() == "https";
    let handshakes = if protects { Handshakes::start().map(Arc::new) } else { None };
    let [lobby, crowd] =
        [limits.lobby, limits.crowd].map(|bounds| Crowd::new(bounds, Arc::clone(&counts)));
    let routes = Arc::new(Routes::new(pages, protection, hosts, counts, limits));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => log_end(ended),
            (stream, peer) = accept(&listener) => {
                let conversation = Conversation {
                    limits,
                    routes: Arc::clone(&routes),
                    handshakes: handshakes.clone(),
                    stopping: stopping.clone(),
                };
                let (lobby, crowd) = (Arc::clone(&lobby), Arc::clone(&crowd));
                connections.spawn(conversation.begin(stream, peer, lobby, crowd));
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
        warn!(connections = connections.len(), "closed HTTP connections that did not end in time");
    }
}

/// Waits for a connection. Safe to cancel: a connection that was not returned is still in the kernel's queue.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                debug!(%peer, "HTTP connection");
                return (stream, peer);
            }
            // accept(2): an error of the connection (ECONNABORTED, …), or a lack of file descriptors or memory, which
            // others may free.
            Err(error) => {
                warn!(%error, "cannot accept an HTTP connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A connection, served request by request.
struct Conversation {
    limits: Limits,
    routes: Arc<Routes>,
    /// The thread for handshakes, with TLS.
    handshakes: Option<Arc<Handshakes>>,
    stopping: watch::Receiver<()>,
}

impl Conversation {
    /// Waits for a first byte, and then for a place. Ends the connection when the place has to be given up.
    async fn begin(
        mut self,
        stream: TcpStream,
        peer: SocketAddr,
        lobby: Arc<Crowd>,
        crowd: Arc<Crowd>,
    ) {
        let socket = Socket::new(stream);
        let asker = socket.asker(peer);
        let Some(waiting) = lobby.place_now(asker.origin) else { return };
        let enter = async {
            timeout(self.limits.first_byte, socket.begins()).await.ok()?.ok()?;
            waiting.begin_answer();
            Some(crowd.place(asker.origin).await)
        };
        let place = tokio::select! {
            place = enter => place,
            () = waiting.evicted() => return,
            Err(_) = self.stopping.changed() => return,
        };
        drop(waiting);
        let Some(place) = place.map(Arc::new) else { return };
        tokio::select! {
            () = self.greet(socket, asker, Arc::clone(&place)) => {}
            () = place.evicted() => debug!(%peer, "closed an HTTP connection in favor of another"),
        }
    }

    /// Does the TLS handshake, if TLS is configured, and serves the connection.
    async fn greet(mut self, socket: Socket, asker: Asker, place: Arc<Place>) {
        let Some(config) = self.routes.terms().await.tls.clone() else {
            return self.hold(socket, asker, place).await;
        };
        if asker.is_gone() {
            return;
        }
        let accept = TlsAcceptor::from(config).accept(socket);
        let accept = async {
            match &self.handshakes {
                Some(handshakes) => handshakes.run(accept).await,
                None => accept.await,
            }
        };
        let outcome = tokio::select! {
            outcome = timeout(self.limits.headers, accept) => outcome,
            Err(_) = self.stopping.changed() => return,
        };
        match outcome {
            Ok(Ok(stream)) => self.hold(stream, asker, place).await,
            Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
            Err(_) => debug!("TLS handshake timed out"),
        }
    }

    async fn hold(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        asker: Asker,
        place: Arc<Place>,
    ) {
        let Self { limits, routes, mut stopping, .. } = self;
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let (routes, place, asker) = (Arc::clone(&routes), Arc::clone(&place), asker.clone());
            let (request, _) = request.into_parts();
            async move {
                place.begin_answer();
                let answer = routes.answer(&request, &asker).await;
                // A viewer stays, and must not keep scrapers out.
                if request.uri.path() == EVENTS && answer.status().is_success() {
                    place.give_up();
                }
                Ok::<_, Infallible>(answer.map(|body| Answer { body, place }))
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
            // An error means that the sender is gone: the server stops.
            Err(_) = stopping.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            // The client's fault: it gets a status if HTTP has one for it.
            debug!(%error, "HTTP connection ended");
        }
    }
}

/// The body of an answer. At its end, the connection is idle again.
struct Answer {
    body: routes::Body,
    place: Arc<Place>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = <routes::Body as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.place.end_answer();
    }
}

fn log_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "an HTTP connection failed");
    }
}

#[cfg(test)]
mod tests;

//! `/metrics`, `/healthz`, `/readyz`; and what people look at, `/`, `/events` and `/api/v1/view`;
//! over HTTP/1.1, by TLS and for those who have a password where that is asked for
//! ([`Protection`]).
//!
//! A scraper may be slow, dead or hostile, and neither the others nor the daemon may suffer:
//! connections are bounded, and who does nothing makes room (`crowd`), nobody is waited for without end, and
//! one rendering at a time serves all who wait for it (`render`). Passwords are checked one at a time (`auth`),
//! handshakes have a thread (`handshakes`), and probes can have a listener of their own ([`Health`]). Who looks
//! has places of their own, and one sample a second is made for all of them together (`live`). What a browser
//! asks on behalf of another site is refused (`site`).

#![forbid(unsafe_code)]

mod auth;
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

/// What is served. All are called on a thread where blocking is allowed; a panic in one is a
/// response with status 500, where panics unwind.
pub trait Pages: Send + Sync + 'static {
    /// Writes `/metrics`, in this format. Never called twice at once, nor while a snapshot is used. `Err` is
    /// a response with status 500, whose body says why.
    fn metrics(&self, format: Format, to: &mut dyn io::Write) -> Result<(), String>;

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
    /// Of connections that have not sent a byte, or wait for a place.
    lobby: Bounds,
    /// Of connections that are served.
    crowd: Bounds,
    /// For the first byte of a connection.
    first_byte: Duration,
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
    /// Bytes of all scrapes that are under way, packed, of which each may have as many: beyond, the oldest are
    /// cut off.
    held: usize,
    /// What rendering may have cost before scrapes share what is no older than `shared`.
    credit: Duration,
    /// See `credit`.
    shared: Duration,
    /// Who watch at the same time, beside the connections.
    watchers: usize,
    /// Between samples for those who watch.
    period: Duration,
    /// So long after the last of them has gone samples are still taken: pages that load themselves
    /// again, without script, come back within.
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

/// How [`serve`] meets those who come.
#[derive(Debug)]
pub struct Front {
    /// Who is admitted.
    pub protection: Arc<Protection>,
    /// Names that the daemon is called by, beside those of this machine, where only this machine reaches it.
    pub hosts: Vec<HostName>,
    /// What is counted.
    pub counts: Arc<Counts>,
}

/// Serves `pages` to whom `front` admits, until `shutdown` completes; then accepts no more, lets responses that are
/// under way finish, for at most 5 s, and returns.
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

/// The next connection. Safe to cancel: what was not returned is still in the kernel's queue.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                debug!(%peer, "HTTP connection");
                return (stream, peer);
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
    /// Where there is TLS.
    handshakes: Option<Arc<Handshakes>>,
    stopping: watch::Receiver<()>,
}

impl Conversation {
    /// Waits for a first byte, and then for a place, which may have to be given up.
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

    /// By TLS, where that is asked for.
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
                // Who watches stays, and must not keep scrapers out.
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

/// The body of an answer, with whose end the connection is idle again.
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

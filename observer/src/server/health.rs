//! `/healthz` and `/readyz` on a listener of their own, with a thread of its own: probes get an answer whatever happens to
//! the other listener.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Pages;
use super::routes::{Body, PLAIN, probed, response};

/// Maximum number of connections at the same time: one more ends the oldest.
const CONNECTIONS: usize = 16;

/// How long a connection may last. It carries one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// A listener for probes.
#[derive(Debug)]
pub enum Listener {
    /// A TCP listener.
    Tcp(std::net::TcpListener),
    /// A Unix socket with a path.
    Unix(std::os::unix::net::UnixListener),
}

/// The thread that answers probes until this is dropped.
#[derive(Debug)]
pub struct Health {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Health {
    /// Starts the thread. The listener must be non-blocking.
    pub fn start(listener: Listener, pages: Arc<dyn Pages>) -> Result<Self> {
        const FAILS: &str = "cannot start the thread that answers probes";
        let runtime = Builder::new_current_thread().enable_all().build().context(FAILS)?;
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    Err(error) = answer(listener, pages) => warn!(%error, "cannot answer probes"),
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("health".into()).spawn(run).context(FAILS)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it was logged.
            let _ = thread.join();
        }
    }
}

/// Answers probes. Returns only with an error.
async fn answer(listener: Listener, pages: Arc<dyn Pages>) -> io::Result<Infallible> {
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            Ok(serve(async || Ok(listener.accept().await?.0), pages).await)
        }
        Listener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            Ok(serve(async || Ok(listener.accept().await?.0), pages).await)
        }
    }
}

/// Serves each connection that `accept` returns.
async fn serve<S>(accept: impl AsyncFn() -> io::Result<S>, pages: Arc<dyn Pages>) -> Infallible
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut oldest_first: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        match accept().await {
            Ok(stream) => {
                oldest_first.retain(|conversation| !conversation.is_finished());
                if oldest_first.len() >= CONNECTIONS
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    oldest.abort();
                }
                oldest_first.push_back(tokio::spawn(converse(stream, Arc::clone(&pages))));
            }
            // Like at the other listener: others may free what is missing.
            Err(error) => {
                warn!(%error, "cannot accept a connection from a probe");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, pages: Arc<dyn Pages>) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = probe(&request, &*pages);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(8 << 10)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection from a probe ended with an error"),
        Err(_) => debug!("a connection from a probe timed out"),
    }
}

/// Answers a request. It may block: the thread does nothing else.
fn probe(request: &Request<Incoming>, pages: &dyn Pages) -> Response<Body> {
    let outcome = match request.uri().path() {
        "/healthz" => pages.health(),
        "/readyz" => pages.ready(),
        _ => {
            let text = "Not found. Available: /healthz, /readyz.\n".into();
            return response(StatusCode::NOT_FOUND, PLAIN, text);
        }
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        probed(outcome)
    } else {
        response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "Only GET and HEAD are allowed.\n".into())
    }
}

//! `/healthz` and `/readyz` on a listener of their own, by a thread of its own: whatever happens to the other
//! one, whoever restarts a daemon that does not answer gets an answer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
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
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Pages;
use super::routes::{Body, PLAIN, probed, response};

/// Connections at once: who comes when there are as many ends the oldest.
const CONNECTIONS: usize = 16;

/// For a connection, which carries one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where probes come.
#[derive(Debug)]
pub enum Listener {
    /// By TCP.
    Tcp(std::net::TcpListener),
    /// By a Unix socket with a name.
    Unix(std::os::unix::net::UnixListener),
}

/// Answers probes until it is dropped.
#[derive(Debug)]
pub struct Health {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Health {
    /// Begins to answer. The listener must not block.
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
            // A panic in it has been told of.
            let _ = thread.join();
        }
    }
}

/// Ends with an error, if at all.
async fn answer(listener: Listener, pages: Arc<dyn Pages>) -> io::Result<Infallible> {
    let mut conversations = Conversations::default();
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                conversations.begin(accepted, &pages).await;
            }
        }
        Listener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            loop {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                conversations.begin(accepted, &pages).await;
            }
        }
    }
}

#[derive(Default)]
struct Conversations {
    /// Those that have ended are among them until they are the oldest.
    oldest_first: VecDeque<AbortHandle>,
    running: JoinSet<()>,
}

impl Conversations {
    async fn begin<S>(&mut self, accepted: io::Result<S>, pages: &Arc<dyn Pages>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match accepted {
            Ok(stream) => {
                self.oldest_first.retain(|conversation| !conversation.is_finished());
                if self.oldest_first.len() >= CONNECTIONS
                    && let Some(oldest) = self.oldest_first.pop_front()
                {
                    oldest.abort();
                }
                while self.running.try_join_next().is_some() {}
                let conversation = self.running.spawn(converse(stream, Arc::clone(pages)));
                self.oldest_first.push_back(conversation);
            }
            // As of the other listener: others may free what is missing.
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

/// This thread is for nothing else, so that asking may block it.
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

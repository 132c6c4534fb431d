//! A blocking HTTP/1.1 client, for `observer top` and for requests to Kubernetes.
//!
//! Each request has a connection of its own, with or without TLS, which closes after the answer. Each wait has a time
//! limit, and each answer has a size limit.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::future::{Future, poll_fn};
use std::io::{self, BufRead, Read};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, join};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Maximum bytes of an answer's head, and of one read of its body.
const BUFFER_AT_MOST: usize = 16 << 10;

/// The first byte of a TLS alert (RFC 8446 section 5.1): how a TLS server answers a request without TLS.
const ALERT: u8 = 21;

/// The server to ask.
pub(crate) struct Server<'a> {
    /// A name, or an address without brackets; the certificate must be for it.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    /// The TLS configuration; `None` for a connection without TLS.
    pub(crate) tls: Option<&'a Arc<ClientConfig>>,
}

/// The error if a server with TLS got a request without TLS.
#[derive(Debug)]
pub(crate) struct SpeaksTls;

impl Display for SpeaksTls {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the server uses TLS: write https://")
    }
}

impl Error for SpeaksTls {}

/// An HTTP client that makes one request at a time.
pub(crate) struct Client {
    runtime: Runtime,
    limit: Duration,
}

impl Client {
    /// Creates a client that waits at most `limit` for each step.
    pub(crate) fn new(limit: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // For name lookups.
            .max_blocking_threads(1)
            .build()
            .context("cannot start the runtime of an HTTP client")?;
        Ok(Self { runtime, limit })
    }

    /// Sends a request and waits for the head of the answer. The body is read as it arrives; each read waits at most the
    /// limit.
    ///
    /// `may_ask` gets the address of the listener before anything is sent; its error is returned.
    pub(crate) fn open(
        &self,
        server: &Server<'_>,
        request: Request<Full<Bytes>>,
        may_ask: impl FnOnce(SocketAddr) -> Result<()>,
    ) -> Result<Response<Body<'_>>> {
        let (answer, connection) = self.runtime.block_on(self.ask(server, request, may_ask))?;
        let body = |incoming| Body { client: self, connection, incoming, piece: Bytes::new() };
        Ok(answer.map(body))
    }

    /// Sends a request and waits for the whole answer, at most the limit. A body of more than `at_most` bytes is an error.
    #[cfg(any(test, feature = "kubernetes"))]
    pub(crate) fn fetch(
        &self,
        server: &Server<'_>,
        request: Request<Full<Bytes>>,
        at_most: usize,
    ) -> Result<Response<Bytes>> {
        self.runtime.block_on(self.within(async {
            let (answer, mut connection) = self.ask(server, request, |_| Ok(())).await?;
            let (head, body) = answer.into_parts();
            let body =
                connection.drive(http_body_util::Limited::new(body, at_most).collect()).await;
            let body = body.map_err(|error| anyhow!("the answer is incomplete: {error}"))?;
            Ok::<_, anyhow::Error>(Response::from_parts(head, body.to_bytes()))
        }))
    }

    async fn ask(
        &self,
        server: &Server<'_>,
        request: Request<Full<Bytes>>,
        may_ask: impl FnOnce(SocketAddr) -> Result<()>,
    ) -> Result<(Response<Incoming>, Connection)> {
        let stream = self.connect(server).await?;
        may_ask(stream.peer_addr()?)?;
        let Some(tls) = server.tls else {
            let first = Arc::default();
            let (read, write) = stream.into_split();
            let read = FirstByte { stream: read, first: Arc::clone(&first) };
            let answer = self.send(join(read, write), request).await;
            let is_alert = first.get() == Some(&ALERT);
            return answer.map_err(|error| if is_alert { error.context(SpeaksTls) } else { error });
        };
        let name = ServerName::try_from(server.host.to_owned())
            .with_context(|| format!("{:?} cannot be the name in a certificate", server.host))?;
        let session = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        self.send(self.within(session).await.context("the TLS handshake failed")?, request).await
    }

    async fn connect(&self, server: &Server<'_>) -> Result<TcpStream> {
        let mut last = anyhow!("the host name has no address");
        for address in self.within(lookup_host((server.host, server.port))).await? {
            match self.within(TcpStream::connect(address)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn send<S>(
        &self,
        stream: S,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Connection)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_AT_MOST)
            .handshake(TokioIo::new(stream))
            .await?;
        let mut connection = Connection(Some(Box::pin(connection)));
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let answer = self.within(connection.drive(sender.send_request(request))).await?;
        for encoding in answer.headers().get_all(header::TRANSFER_ENCODING) {
            let is_known = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
            ensure!(is_known, "unknown transfer encoding {encoding:?}");
        }
        Ok((answer, connection))
    }

    async fn within<T, E: Into<anyhow::Error>>(
        &self,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T> {
        match timeout(self.limit, step).await {
            Ok(done) => done.map_err(Into::into),
            Err(_) => Err(anyhow!("no answer within {} s", self.limit.as_secs_f64())),
        }
    }
}

/// hyper's task for a connection; `None` once it has ended.
struct Connection(Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>);

impl Connection {
    /// Runs the connection until `step` is done.
    async fn drive<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        poll_fn(|context| {
            // If the connection ends with an error, the step gets it.
            self.0.take_if(|connection| connection.as_mut().poll(context).is_ready());
            step.as_mut().poll(context)
        })
        .await
    }
}

/// The body of an answer, read as it arrives.
pub(crate) struct Body<'a> {
    client: &'a Client,
    connection: Connection,
    incoming: Incoming,
    /// Bytes that have arrived and are not read yet.
    piece: Bytes,
}

impl BufRead for Body<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let Self { client, connection, incoming, piece } = self;
        while piece.is_empty() {
            let frame = async { connection.drive(incoming.frame()).await.transpose() };
            let frame = client.runtime.block_on(client.within(frame)).map_err(io::Error::other)?;
            let Some(frame) = frame else { break };
            *piece = frame.into_data().unwrap_or_default();
        }
        Ok(piece)
    }

    fn consume(&mut self, bytes: usize) {
        self.piece.advance(bytes.min(self.piece.len()));
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// A stream that keeps the first byte read from it.
struct FirstByte {
    stream: OwnedReadHalf,
    first: Arc<OnceLock<u8>>,
}

impl AsyncRead for FirstByte {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(byte) = buffer.filled().get(before) {
            // Only the first byte is kept.
            let _ = self.first.set(*byte);
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::thread;
    use std::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A server that reads one request, answers it with these bytes, and closes after `silence`.
    fn answering(answer: &'static [u8], silence: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepted");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request");
                request.extend(byte);
            }
            stream.write_all(answer).expect("written");
            thread::sleep(silence);
        });
        address
    }

    fn asked<T>(
        address: SocketAddr,
        limit: Duration,
        ask: impl FnOnce(&Client, &Server<'_>, Request<Full<Bytes>>) -> Result<T>,
    ) -> Result<T> {
        let host = address.ip().to_string();
        let server = Server { host: &host, port: address.port(), tls: None };
        let request = Request::get("/").header(header::HOST, "x").body(Full::default())?;
        ask(&Client::new(limit)?, &server, request)
    }

    /// The body, read in pieces and as a whole, which must be the same.
    fn body(answer: &'static [u8]) -> Result<String> {
        let opened = asked(answering(answer, Duration::ZERO), LIMIT, |client, server, request| {
            let answer = client.open(server, request, |_| Ok(()))?;
            assert_eq!(answer.status(), 200);
            let mut text = String::new();
            answer.into_body().read_to_string(&mut text)?;
            Ok(text)
        });
        let fetched = fetched(answer, Duration::ZERO, LIMIT, 100);
        assert_eq!(opened.is_ok(), fetched.is_ok(), "{opened:?} {fetched:?}");
        assert!(fetched.is_err() || opened.as_ref().ok() == fetched.as_ref().ok());
        opened
    }

    fn fetched(
        answer: &'static [u8],
        silence: Duration,
        limit: Duration,
        at_most: usize,
    ) -> Result<String> {
        asked(answering(answer, silence), limit, |client, server, request| {
            let answer = client.fetch(server, request, at_most)?;
            Ok(String::from_utf8(answer.into_body().into())?)
        })
    }

    #[test]
    fn bodies_of_all_kinds() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
        assert_eq!(body(chunked).unwrap(), "abcd");
        assert_eq!(body(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabcd").unwrap(), "ab");
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nabcd").unwrap(), "abcd");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bad in [
            &b""[..],
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nx\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
        ] {
            assert!(body(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn an_alert_says_that_it_speaks_tls() {
        let alert = b"\x15\x03\x03\x00\x02\x02\x32";
        let error = fetched(alert, Duration::ZERO, LIMIT, 100).unwrap_err();
        assert!(error.is::<SpeaksTls>(), "{error:#}");
        let error = fetched(b"\x16", Duration::ZERO, LIMIT, 100).unwrap_err();
        assert!(!error.is::<SpeaksTls>(), "{error:#}");
    }

    #[test]
    fn an_answer_has_a_bound_and_a_time_limit() {
        let answer = b"HTTP/1.1 200 OK\r\n\r\nabcd";
        assert_eq!(fetched(answer, Duration::ZERO, LIMIT, 4).unwrap(), "abcd");
        assert!(fetched(answer, Duration::ZERO, LIMIT, 3).is_err());
        let begin = Instant::now();
        let limit = Duration::from_millis(100);
        let error = fetched(answer, LIMIT, limit, 4).unwrap_err();
        assert!(error.to_string().contains("no answer within 0.1 s"), "{error:#}");
        // Bytes that arrived before stay readable.
        let error = asked(answering(answer, LIMIT), limit, |client, server, request| {
            let mut body = client.open(server, request, |_| Ok(()))?.into_body();
            assert_eq!(body.fill_buf()?, b"abcd");
            body.consume(4);
            Ok(body.fill_buf().map(drop)?)
        });
        assert!(error.unwrap_err().to_string().contains("no answer within 0.1 s"));
        assert!(begin.elapsed() < LIMIT);
    }

    #[test]
    fn nothing_is_sent_to_who_may_not_be_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let refused = asked(address, LIMIT, |client, server, request| {
            let answer = client.open(server, request, |listener| {
                assert_eq!(listener, address);
                anyhow::bail!("not them")
            });
            answer.map(drop)
        });
        assert_eq!(refused.unwrap_err().to_string(), "not them");
        assert_eq!(listener.accept().unwrap().0.read(&mut [0; 1]).unwrap(), 0);
    }
}

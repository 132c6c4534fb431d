//! Sends requests to a receiver: over HTTP/1.1, or as gRPC over HTTP/2. The connection stays open in between.

use std::{
    borrow::Cow,
    io::{Read as _, Write as _},
    pin::Pin,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    client::conn::{http1, http2},
    header::{self, HeaderValue},
    http::uri::Authority,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::percent_decode;
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    config::{Protocol, Receiver},
    message::{ExportResponse, RetryInfo, RpcStatus},
    tls,
};
use crate::clock::{Clock, monotonic_ns};

/// Maximum size of an answer in bytes, as the specification recommends.
const ANSWER_AT_MOST: usize = 4 << 20;

/// Maximum bytes of a text from a receiver that are logged.
const TEXT_AT_MOST: usize = 300;

/// The longest time that a receiver may ask us to wait.
const WAIT_AT_MOST: Duration = Duration::from_mins(5);

/// What a receiver, or the lack of one, says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It took the request, but for this number of spans.
    Accepted { rejected: u64, message: String },
    /// It may take the request later; after this time, if it says so.
    Later { after: Option<Duration>, reason: String },
    /// It will never take the request.
    Refused { reason: String },
}

/// A connection to a receiver, opened when it is needed.
pub(super) struct Transport {
    receiver: Receiver,
    sender: Option<Sender>,
}

/// An open connection. hyper's task for it runs in the runtime, and ends with it.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Transport {
    pub(super) fn new(receiver: Receiver) -> Self {
        Self { receiver, sender: None }
    }

    /// The URL, for the log.
    pub(super) fn url(&self) -> String {
        self.receiver.url.to_string()
    }

    /// A request's body, as it is sent.
    pub(super) fn body(&self, message: &impl Message) -> Bytes {
        let encoded = message.encode_to_vec();
        let body = if self.receiver.gzip { compressed(&encoded) } else { encoded };
        if self.receiver.protocol == Protocol::HttpProtobuf {
            return body.into();
        }
        // "Length-Prefixed-Message" in gRPC over HTTP2.
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&[u8::from(self.receiver.gzip)], &length[..], &body].concat().into()
    }

    /// Sends a request, and waits for the answer at most the receiver's timeout.
    pub(super) async fn send(&mut self, body: Bytes) -> Answer {
        let limit = self.receiver.timeout;
        let answer = match timeout(limit, self.try_to_send(body)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Later { after: None, reason: format!("{error:#}") },
            Err(_) => {
                let reason = format!("no answer within {} s", limit.as_secs_f64());
                Answer::Later { after: None, reason }
            }
        };
        if !matches!(answer, Answer::Accepted { .. }) {
            // A new connection may lead to another receiver.
            self.sender = None;
        }
        answer
    }

    async fn try_to_send(&mut self, body: Bytes) -> Result<Answer> {
        let request = self.request(body)?;
        let answer = match self.connected().await? {
            Sender::Http1(sender) => sender.send_request(request).await?,
            Sender::Http2(sender) => sender.send_request(request).await?,
        };
        let is_grpc = self.receiver.protocol == Protocol::Grpc;
        if is_grpc { of_grpc(answer).await } else { of_http(answer).await }
    }

    /// A connection that is open, as far as is known.
    async fn connected(&mut self) -> Result<&mut Sender> {
        let is_open = match &mut self.sender {
            Some(Sender::Http1(sender)) => sender.ready().await.is_ok(),
            Some(Sender::Http2(sender)) => sender.ready().await.is_ok(),
            None => false,
        };
        if !is_open {
            self.sender = Some(self.connect().await?);
        }
        self.sender.as_mut().context("not connected")
    }

    async fn connect(&self) -> Result<Sender> {
        let url = &self.receiver.url;
        let is_secure = self.receiver.is_secure();
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let stream = tcp(host, port).await.context("cannot connect")?;
        let stream: Pin<Box<dyn Stream>> = if is_secure {
            let name = ServerName::try_from(host.to_owned())
                .with_context(|| format!("{host:?} cannot be the name in a certificate"))?;
            let session = TlsConnector::from(tls::client_config(&self.receiver)?);
            Box::pin(session.connect(name, stream).await.context("the TLS handshake failed")?)
        } else {
            Box::pin(stream)
        };
        let stream = TokioIo::new(stream);
        Ok(match self.receiver.protocol {
            Protocol::HttpProtobuf => {
                let (sender, connection) = http1::handshake(stream).await?;
                // Its error is that of the request.
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Grpc => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        })
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>> {
        const AGENT: &str = concat!(
            "observer/",
            env!("CARGO_PKG_VERSION"),
            " OTel-OTLP-Exporter-Rust/",
            env!("CARGO_PKG_VERSION")
        );
        let Receiver { url, protocol, headers, gzip, .. } = &self.receiver;
        let request = match protocol {
            Protocol::HttpProtobuf => {
                let host = url.authority().map(Authority::as_str).unwrap_or_default();
                let path = url.path_and_query().map_or("/", |path| path.as_str());
                let request = Request::post(path)
                    .header(header::HOST, host)
                    .header(header::CONTENT_TYPE, "application/x-protobuf");
                if *gzip { request.header(header::CONTENT_ENCODING, "gzip") } else { request }
            }
            Protocol::Grpc => {
                let request = Request::post(url)
                    .header(header::TE, "trailers")
                    .header(header::CONTENT_TYPE, "application/grpc")
                    .header("grpc-accept-encoding", "gzip");
                if *gzip { request.header("grpc-encoding", "gzip") } else { request }
            }
        };
        let mut request = request.header(header::USER_AGENT, AGENT).body(Full::new(body))?;
        for (name, value) in headers {
            request.headers_mut().insert(name, value.clone());
        }
        Ok(request)
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream> {
    let mut last = anyhow!("the host name has no address");
    for address in lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Requests are written whole.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

async fn whole(body: Incoming) -> Result<(Bytes, HeaderMap)> {
    let body = Limited::new(body, ANSWER_AT_MOST).collect().await;
    let body = body.map_err(|error| anyhow!("the answer is incomplete: {error}"))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok((body.to_bytes(), trailers))
}

/// Reads an answer of OTLP/HTTP ("OTLP/HTTP Response").
async fn of_http(answer: Response<Incoming>) -> Result<Answer> {
    let (head, body) = answer.into_parts();
    let status = head.status;
    let after = head.headers.get(header::RETRY_AFTER).and_then(retry_after);
    if status.is_success() {
        return accepted(&whole(body).await?.0);
    }
    let text = match whole(body).await {
        Ok((body, _)) => RpcStatus::decode(body).map(|status| status.message).unwrap_or_default(),
        Err(_) => String::new(),
    };
    let reason = format!("the answer is {status}{}", said(&text));
    Ok(later_or_never(status, after, reason))
}

/// The answer with an HTTP status that is an error. OTLP/HTTP and gRPC name the same ones that may be sent again.
fn later_or_never(status: StatusCode, after: Option<Duration>, reason: String) -> Answer {
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Answer::Later { after, reason },
        _ => Answer::Refused { reason },
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110 section 10.2.3).
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let seconds = text.parse().map(Duration::from_secs).ok();
    let after = seconds.or_else(|| {
        let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        let now = Duration::from_nanos(Clock::read().unix_ns(monotonic_ns()));
        Some(date.saturating_sub(now))
    })?;
    Some(after.min(WAIT_AT_MOST))
}

/// Reads an answer of OTLP/gRPC ("OTLP/gRPC Response").
async fn of_grpc(answer: Response<Incoming>) -> Result<Answer> {
    let (head, body) = answer.into_parts();
    if head.status != StatusCode::OK {
        // A proxy; "HTTP to gRPC Status Code Mapping".
        let reason = format!("the answer is {}", head.status);
        return Ok(later_or_never(head.status, None, reason));
    }
    let (body, trailers) = whole(body).await?;
    let field = |name| trailers.get(name).or_else(|| head.headers.get(name));
    let code: u16 = field("grpc-status")
        .and_then(|code| code.to_str().ok()?.parse().ok())
        .context("the answer has no grpc-status")?;
    if code != 0 {
        let message = field("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
        let message = percent_decode(message).decode_utf8_lossy();
        let details = field("grpc-status-details-bin").map(HeaderValue::as_bytes);
        let after = details.and_then(retry_info);
        let reason = format!("the answer has code {code}{}", said(&message));
        return Ok(if is_retryable(code, after) {
            Answer::Later { after, reason }
        } else {
            Answer::Refused { reason }
        });
    }
    accepted(&grpc_message(&body)?)
}

/// The message in an answer. A server in Go compresses its answer if the request is compressed.
fn grpc_message(body: &[u8]) -> Result<Cow<'_, [u8]>> {
    match body.split_first_chunk::<5>() {
        Some(([0, ..], message)) => Ok(message.into()),
        Some((_, message)) => {
            let mut plain = Vec::new();
            let read = GzDecoder::new(message).take(ANSWER_AT_MOST as u64).read_to_end(&mut plain);
            read.context("the answer cannot be decompressed")?;
            Ok(plain.into())
        }
        None => bail!("the answer has no message"),
    }
}

/// Whether a request with this code may be sent again. RESOURCE_EXHAUSTED needs the receiver's word that it recovers.
fn is_retryable(code: u16, retry_info: Option<Duration>) -> bool {
    const CANCELLED: u16 = 1;
    const DEADLINE_EXCEEDED: u16 = 4;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const ABORTED: u16 = 10;
    const OUT_OF_RANGE: u16 = 11;
    const UNAVAILABLE: u16 = 14;
    const DATA_LOSS: u16 = 15;
    match code {
        CANCELLED | DEADLINE_EXCEEDED | ABORTED | OUT_OF_RANGE | UNAVAILABLE | DATA_LOSS => true,
        RESOURCE_EXHAUSTED => retry_info.is_some(),
        _ => false,
    }
}

/// The delay of the `RetryInfo` in `grpc-status-details-bin`.
fn retry_info(details: &[u8]) -> Option<Duration> {
    let decoded = STANDARD_NO_PAD.decode(details).or_else(|_| STANDARD.decode(details)).ok()?;
    let status = RpcStatus::decode(&*decoded).ok()?;
    let is_info = |any: &&prost_types::Any| any.type_url.ends_with("/google.rpc.RetryInfo");
    let any = status.details.iter().find(is_info)?;
    let delay = RetryInfo::decode(&*any.value).ok()?.delay.unwrap_or_default();
    let delay = Duration::try_from(delay).unwrap_or_default();
    Some(delay.min(WAIT_AT_MOST))
}

fn accepted(message: &[u8]) -> Result<Answer> {
    let answer = ExportResponse::decode(message).context("the answer cannot be read")?;
    let partial = answer.partial_success.unwrap_or_default();
    let rejected = u64::try_from(partial.rejected).unwrap_or_default();
    Ok(Answer::Accepted { rejected, message: cut(&partial.message) })
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {}", cut(text)) }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_AT_MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_be_sent_again() {
        let again: Vec<u16> = (0..=17).filter(|code| is_retryable(*code, None)).collect();
        assert_eq!(again, [1, 4, 10, 11, 14, 15]);
        assert!(is_retryable(8, Some(Duration::ZERO)) && !is_retryable(3, Some(Duration::ZERO)));
    }

    #[test]
    fn how_long_a_receiver_wants_us_to_wait() {
        let after = |text: &'static str| retry_after(&HeaderValue::from_static(text));
        assert_eq!(after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(after("99999"), Some(WAIT_AT_MOST));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(after("Tue, 31 Dec 2199 23:59:59 GMT"), Some(WAIT_AT_MOST));
        assert_eq!((after("soon"), after("-1")), (None, None));
    }

    #[test]
    fn the_delay_in_the_details_of_a_status() {
        let delay = Some(prost_types::Duration { seconds: 2, nanos: 500_000_000 });
        let any = |type_url: &str| prost_types::Any {
            type_url: type_url.into(),
            value: RetryInfo { delay }.encode_to_vec(),
        };
        let details = |urls: &[&str]| {
            let details = urls.iter().map(|url| any(url)).collect();
            let status = RpcStatus { message: "full".into(), details };
            STANDARD_NO_PAD.encode(status.encode_to_vec())
        };
        let both = details(&["type.googleapis.com/x", "type.googleapis.com/google.rpc.RetryInfo"]);
        assert_eq!(retry_info(both.as_bytes()), Some(Duration::from_millis(2500)));
        assert_eq!(retry_info(details(&["type.googleapis.com/x"]).as_bytes()), None);
        assert_eq!(retry_info(b"no base64!"), None);
    }

    #[test]
    fn a_message_of_grpc_may_be_compressed() {
        let message = |flag: u8, message: &[u8]| [&[flag, 0, 0, 0, 0], message].concat();
        assert_eq!(*grpc_message(&message(0, b"plain")).unwrap(), *b"plain");
        assert_eq!(*grpc_message(&message(1, &compressed(b"packed"))).unwrap(), *b"packed");
        let large = message(1, &compressed(&vec![0; ANSWER_AT_MOST + 9]));
        assert_eq!(grpc_message(&large).unwrap().len(), ANSWER_AT_MOST);
        assert!(grpc_message(&message(1, b"no gzip")).is_err() && grpc_message(b"abc").is_err());
    }

    #[test]
    fn an_answer_may_leave_some_out() {
        assert_eq!(
            accepted(b"").unwrap(),
            Answer::Accepted { rejected: 0, message: String::new() }
        );
        let partial_success =
            Some(super::super::message::PartialSuccess { rejected: 3, message: "x".repeat(1000) });
        let answer = accepted(&ExportResponse { partial_success }.encode_to_vec()).unwrap();
        assert_eq!(answer, Answer::Accepted { rejected: 3, message: "x".repeat(TEXT_AT_MOST) });
        assert!(accepted(b"<html>").is_err());
    }
}

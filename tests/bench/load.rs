//! The load: unary calls over HTTP/2, as many as a service answers. One thread with no more work per call than
//! necessary, so that the service is busy and not the client.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{Request, Uri};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// A flow-control window that never makes a peer wait.
const WINDOW: u32 = 1 << 30;

/// Time for all calls, beyond the time that they should take.
const PATIENCE: Duration = Duration::from_mins(2);

const SERVICE: &str = "observer.test.v1.Echo";

/// The fields of the request of `tests/peers/proto/echo.proto` that are used here.
#[derive(Clone, PartialEq, prost::Message)]
struct EchoRequest {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
    #[prost(uint32, tag = "3")]
    response_size: u32,
}

/// The shape of a load of unary calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// The calls at the same time on each connection.
    pub(crate) streams: usize,
    /// The bytes of each request's and each response's payload.
    pub(crate) payload: usize,
    /// The number of missing methods that are called in turn; 0: the existing method.
    pub(crate) methods: usize,
}

impl Load {
    /// One call at a time, with small messages.
    pub(crate) const ONE: Self = Self { connections: 1, streams: 1, payload: 20, methods: 0 };

    /// This many calls at the same time, over as few connections as clients would use.
    pub(crate) fn at_once(concurrency: usize) -> Self {
        let connections = concurrency.div_ceil(16);
        Self { connections, streams: concurrency / connections, ..Self::ONE }
    }
}

/// The end of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Elapsed(Duration),
    /// This many calls have ended.
    Calls(u64),
}

/// The client's own record of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) calls: u64,
    pub(crate) elapsed: Duration,
}

impl Made {
    pub(crate) fn per_second(self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }
}

/// Connections to a service.
pub(crate) struct Client {
    runtime: Runtime,
    local: LocalSet,
    connections: Vec<SendRequest<Bytes>>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr, connections: usize) -> Result<Self> {
        Self::connect_with(address, connections, None)
    }

    /// Connects over TLS.
    pub(crate) fn over_tls(
        address: SocketAddr,
        connections: usize,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self> {
        Self::connect_with(address, connections, Some(tls))
    }

    fn connect_with(
        address: SocketAddr,
        connections: usize,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let local = LocalSet::new();
        let mut client = Self { runtime, local, connections: Vec::new() };
        for _ in 0..connections {
            let connection = client.local.block_on(&client.runtime, connect(address, tls))?;
            client.connections.push(connection);
        }
        Ok(client)
    }

    /// Makes calls. Each must end with OK, or with `Unimplemented` if its method is missing.
    pub(crate) fn call(&mut self, load: Load, until: Until) -> Result<Made> {
        let paths = paths(load.methods)?;
        let code = if load.methods == 0 { "0" } else { "12" };
        let message = message(load.payload);
        let begun = AtomicU64::new(0);
        let most = match until {
            Until::Calls(calls) => calls,
            Until::Elapsed(_) => u64::MAX,
        };
        let begin = Instant::now();
        let goes_on = || match until {
            Until::Elapsed(time) => begin.elapsed() < time,
            Until::Calls(_) => true,
        };
        let workers = self.connections.iter().flat_map(|connection| {
            (0..load.streams).map(|_| {
                let mut connection = connection.clone();
                let (begun, paths, message, goes_on) = (&begun, &paths, &message, &goes_on);
                async move {
                    let mut calls = 0_u64;
                    while goes_on() {
                        let number = begun.fetch_add(1, Ordering::Relaxed);
                        if number >= most {
                            break;
                        }
                        let path = paths.get(number as usize % paths.len()).context("a path")?;
                        unary(&mut connection, path, message, code).await?;
                        calls += 1;
                    }
                    anyhow::Ok(calls)
                }
            })
        });
        let all = futures_util::future::try_join_all(workers);
        let ended = self.local.block_on(&self.runtime, async {
            tokio::time::timeout(PATIENCE, all).await.map_err(|_| anyhow!("calls do not end"))?
        })?;
        Ok(Made { calls: ended.iter().sum(), elapsed: begin.elapsed() })
    }
}

async fn connect(
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<SendRequest<Bytes>> {
    let socket = TcpStream::connect(address).await.context("connect")?;
    socket.set_nodelay(true)?;
    let Some(tls) = tls else { return begin(socket).await };
    let name = ServerName::IpAddress(address.ip().into());
    begin(TlsConnector::from(Arc::clone(tls)).connect(name, socket).await.context("TLS")?).await
}

async fn begin(
    socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> Result<SendRequest<Bytes>> {
    let handshake = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .initial_max_send_streams(10_000)
        .handshake(socket);
    let (requests, connection) = handshake.await.context("HTTP/2")?;
    // It ends when all requests' senders are dropped.
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(requests)
}

async fn unary(
    connection: &mut SendRequest<Bytes>,
    path: &Uri,
    message: &Bytes,
    code: &str,
) -> Result<()> {
    poll_fn(|context| connection.poll_ready(context)).await.context("a stream")?;
    let (response, mut body) = connection.send_request(request(path)?, false)?;
    body.send_data(message.clone(), true)?;
    answered(response, code).await
}

async fn answered(response: h2::client::ResponseFuture, code: &str) -> Result<()> {
    let (head, mut body) = response.await.context("a response")?.into_parts();
    let mut fields = head.headers;
    if !fields.contains_key("grpc-status") {
        while let Some(data) = body.data().await {
            let length = data?.len();
            body.flow_control().release_capacity(length)?;
        }
        fields = body.trailers().await?.context("no trailers")?;
    }
    let status = fields.get("grpc-status").context("no grpc-status")?;
    ensure!(status == code, "a call ended with {status:?}, not {code}");
    Ok(())
}

fn request(path: &Uri) -> Result<Request<()>> {
    let request = Request::post(path.clone())
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("user-agent", "bench");
    request.body(()).context("a request")
}

fn path(method: &str) -> Result<Uri> {
    format!("http://127.0.0.1/{SERVICE}/{method}").parse().context("a path")
}

fn paths(methods: usize) -> Result<Vec<Uri>> {
    if methods == 0 {
        return Ok(vec![path("Unary")?]);
    }
    (0..methods).map(|method| path(&format!("Missing{method}"))).collect()
}

/// A message with its prefix.
fn message(payload: usize) -> Bytes {
    let bytes = Bytes::from(vec![7; payload]);
    let request = EchoRequest { payload: bytes, response_size: payload as u32 };
    let mut message = BytesMut::with_capacity(request.encoded_len() + 5);
    message.put_u8(0);
    message.put_u32(request.encoded_len() as u32);
    message.put_slice(&request.encode_to_vec());
    message.freeze()
}

//! The server, which does what each request asks for.

use std::future::pending;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::{Service, StdError, http};
use tonic::service::Routes;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Code, Status, Streaming};
use tonic_web::GrpcWebLayer;
use tower_layer::Layer;

use crate::pb::echo_server::{Echo, EchoServer};
use crate::pb::{Request, Response};
use crate::truth::{Call, Truth};

/// The most concurrent streams: no test's calls queue in the client.
const MAX_CONCURRENT_STREAMS: u32 = 4096;

/// Time for clients to close their connections once the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// How it serves.
pub(crate) struct Options {
    /// The time after which it closes connections.
    pub(crate) max_connection_age: Option<Duration>,
    /// Whether it compresses responses.
    pub(crate) gzip: bool,
    /// Whether it answers gRPC-Web, too.
    pub(crate) web: bool,
    pub(crate) tls: Option<ServerTlsConfig>,
}

/// Serves until SIGTERM, then writes the record.
pub(crate) async fn serve(
    listen: &str,
    truth_file: &Path,
    options: Options,
    blocks: Blocks,
) -> anyhow::Result<()> {
    let truth = Arc::new(Truth::default());
    let mut service = EchoServer::new(Orders { truth: Arc::clone(&truth), blocks })
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    if options.gzip {
        let gzip = CompressionEncoding::Gzip;
        service = service.accept_compressed(gzip).send_compressed(gzip);
    }
    let mut builder = Server::builder().max_concurrent_streams(MAX_CONCURRENT_STREAMS);
    if let Some(age) = options.max_connection_age {
        builder = builder.max_connection_age(age);
    }
    if let Some(tls) = options.tls {
        builder = builder.tls_config(tls)?;
    }
    if options.web {
        let router = builder.accept_http1(true).layer(GrpcWebLayer::new()).add_service(service);
        return until_terminated(router, listen, &truth, truth_file).await;
    }
    until_terminated(builder.add_service(service), listen, &truth, truth_file).await
}

/// Serves until SIGTERM.
async fn until_terminated<L>(
    router: Router<L>,
    listen: &str,
    truth: &Truth,
    truth_file: &Path,
) -> anyhow::Result<()>
where
    L: Layer<Routes> + Send + 'static,
    L::Service:
        Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    <L::Service as Service<http::Request<Body>>>::Future: Send,
    <L::Service as Service<http::Request<Body>>>::Error: Into<StdError> + Send,
{
    let mut terminated = signal(SignalKind::terminate()).context("catch SIGTERM")?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let server = if let Some(path) = listen.strip_prefix("unix:") {
        let listener = UnixListener::bind(path).with_context(|| format!("listen on {path}"))?;
        announce(listen)?;
        let incoming = UnixListenerStream::new(listener);
        tokio::spawn(router.serve_with_incoming_shutdown(incoming, shutdown))
    } else {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
        announce(&listener.local_addr()?.to_string())?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(router.serve_with_incoming_shutdown(incoming, shutdown))
    };
    terminated.recv().await;
    let _ = stop.send(());
    if let Ok(served) = timeout(GRACE, server).await {
        served.context("the server panicked")??;
    }
    truth.write(truth_file)
}

#[expect(clippy::print_stdout, reason = "the line that whoever started it waits for")]
fn announce(address: &str) -> anyhow::Result<()> {
    let line = serde_json::json!({ "pid": std::process::id(), "address": address });
    println!("{}", serde_json::to_string(&line)?);
    Ok(())
}

/// The time for which each handler blocks its thread first.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Blocks {
    /// The time that it computes.
    #[arg(long, default_value_t = 0)]
    computes_ms: u64,
    /// The time that it sleeps.
    #[arg(long, default_value_t = 0)]
    sleeps_ms: u64,
}

struct Orders {
    truth: Arc<Truth>,
    blocks: Blocks,
}

type Responses = Pin<Box<dyn Stream<Item = Result<Response, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Orders {
    type ServerStreamStream = Responses;
    type BidiStream = Responses;

    async fn unary(
        &self,
        request: tonic::Request<Request>,
    ) -> Result<tonic::Response<Response>, Status> {
        let mut call = self.begin("Unary");
        let request = request.into_inner();
        call.receive(&request);
        sleep_ms(request.sleep_ms).await;
        end(&mut call, &request)?;
        Ok(tonic::Response::new(response(&mut call, &request)))
    }

    async fn server_stream(
        &self,
        request: tonic::Request<Request>,
    ) -> Result<tonic::Response<Responses>, Status> {
        let mut call = self.begin("ServerStream");
        let request = request.into_inner();
        call.receive(&request);
        Ok(tonic::Response::new(Box::pin(async_stream::try_stream! {
            for turn in 0..request.responses {
                sleep_before(turn, &request).await;
                yield response(&mut call, &request);
            }
            end(&mut call, &request)?;
        })))
    }

    async fn client_stream(
        &self,
        requests: tonic::Request<Streaming<Request>>,
    ) -> Result<tonic::Response<Response>, Status> {
        let mut call = self.begin("ClientStream");
        let mut requests = requests.into_inner();
        let mut last = Request::default();
        while let Ok(Some(request)) = requests.message().await {
            call.receive(&request);
            last = request;
        }
        wait_if_cut(&call, &last).await;
        sleep_ms(last.sleep_ms).await;
        end(&mut call, &last)?;
        Ok(tonic::Response::new(response(&mut call, &last)))
    }

    async fn bidi(
        &self,
        requests: tonic::Request<Streaming<Request>>,
    ) -> Result<tonic::Response<Responses>, Status> {
        let mut call = self.begin("Bidi");
        let mut requests = requests.into_inner();
        Ok(tonic::Response::new(Box::pin(async_stream::try_stream! {
            let mut last = Request::default();
            let mut turn = 0;
            while let Ok(Some(request)) = requests.message().await {
                call.receive(&request);
                for _ in 0..request.responses {
                    sleep_before(turn, &request).await;
                    yield response(&mut call, &request);
                    turn += 1;
                }
                last = request;
            }
            wait_if_cut(&call, &last).await;
            end(&mut call, &last)?;
        })))
    }
}

impl Orders {
    fn begin(&self, method: &str) -> Call {
        let until = Instant::now() + Duration::from_millis(self.blocks.computes_ms);
        while Instant::now() < until {}
        std::thread::sleep(Duration::from_millis(self.blocks.sleeps_ms));
        Call::begin(&self.truth, &format!("/observer.test.v1.Echo/{method}"))
    }
}

fn response(call: &mut Call, request: &Request) -> Response {
    call.send(Response { payload: vec![0xcd; request.response_size as usize] })
}

/// The status the request asks for. A panic in a handler would take the connection with it in
/// some builds and the process in others; an unknown error is what other stacks make of one.
fn end(call: &mut Call, request: &Request) -> Result<(), Status> {
    let code = if request.raises { Code::Unknown } else { Code::from_i32(request.code as i32) };
    call.end(code);
    if code == Code::Ok { Ok(()) } else { Err(Status::new(code, request.detail.clone())) }
}

/// Waits for the reset of a call whose requests are incomplete.
async fn wait_if_cut(call: &Call, request: &Request) {
    if call.received() == 0 || call.received() < u64::from(request.requests) {
        pending::<()>().await;
    }
}

async fn sleep_before(turn: u32, request: &Request) {
    sleep_ms(if turn == 0 { request.sleep_ms } else { request.sleep_between_ms }).await;
}

async fn sleep_ms(millis: u32) {
    if millis > 0 {
        sleep(Duration::from_millis(millis.into())).await;
    }
}

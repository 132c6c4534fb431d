//! The client, which carries out a plan.

use std::error::Error as _;
use std::fmt::Display;
use std::future::pending;
use std::iter::successors;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use hyper::rt::Executor;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::CompressionEncoding;
use tonic::codegen::{Bytes, StdError};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status, Streaming, TimeoutExpired};
use tonic_prost::ProstCodec;

use crate::pb::{Request, Response};
use crate::plan::{Rpc, Step};
use crate::truth::{Call, Truth};
use crate::web::over_web;

/// Time for connections to close once their calls have ended.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// The server.
#[derive(Clone)]
pub(crate) struct Target {
    /// ADDRESS:PORT or unix:PATH.
    pub(crate) address: String,
    /// Whether calls are gRPC-Web.
    pub(crate) web: bool,
    pub(crate) tls: Option<ClientTlsConfig>,
}

/// Carries out the stages one after the other, then writes the record.
pub(crate) async fn run(
    target: Target,
    stages: Vec<Vec<Step>>,
    truth_file: &Path,
) -> anyhow::Result<()> {
    let truth = Arc::new(Truth::default());
    for stage in stages {
        let mut steps = JoinSet::new();
        for step in stage {
            let (target, truth) = (target.clone(), Arc::clone(&truth));
            steps.spawn(async move { carry_out(&target, Arc::new(step), &truth).await });
        }
        while let Some(step) = steps.join_next().await {
            step.context("a step panicked")??;
        }
    }
    truth.write(truth_file)
}

/// Carries out a step: each of `concurrency` tasks makes one call after the other.
async fn carry_out(target: &Target, step: Arc<Step>, truth: &Arc<Truth>) -> anyhow::Result<()> {
    let (connections, mut closed) = Connections::new();
    let mut channels = Vec::new();
    for _ in 0..step.connections {
        channels.push(connect(target, connections.clone()).await?);
    }
    drop(connections);
    let channels: Arc<[Channel]> = channels.into();
    let (turns, web) = (Arc::new(AtomicUsize::new(0)), target.web);
    let mut workers = JoinSet::new();
    for _ in 0..step.concurrency {
        let (step, truth) = (Arc::clone(&step), Arc::clone(truth));
        let (channels, turns) = (Arc::clone(&channels), Arc::clone(&turns));
        workers.spawn(async move {
            loop {
                let turn = turns.fetch_add(1, Ordering::Relaxed);
                if turn >= step.count {
                    return;
                }
                if let Some(channel) = channels.get(turn % channels.len()) {
                    let channel = channel.clone();
                    if web {
                        call(over_web(channel), Arc::clone(&step), turn, &truth).await;
                    } else {
                        call(channel, Arc::clone(&step), turn, &truth).await;
                    }
                }
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.context("a worker panicked")?;
    }
    drop(channels);
    // What a call that was cut last has to tell the server is still to be written.
    timeout(CLOSE_LIMIT, closed.recv()).await.context("the connections do not close")?;
    Ok(())
}

/// Runs connections, and waits until all have closed.
#[derive(Clone)]
struct Connections {
    open: mpsc::Sender<()>,
}

impl Connections {
    /// The receiver ends when all connections have, and all clones are dropped.
    fn new() -> (Self, mpsc::Receiver<()>) {
        let (open, closed) = mpsc::channel(1);
        (Self { open }, closed)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Connections {
    fn execute(&self, connection: F) {
        let open = self.open.clone();
        tokio::spawn(async move {
            connection.await;
            drop(open);
        });
    }
}

async fn connect(target: &Target, connections: Connections) -> anyhow::Result<Channel> {
    let Target { address, tls, .. } = target;
    let uri = match tls {
        _ if address.starts_with("unix:") => address.clone(),
        None => format!("http://{address}"),
        Some(_) => format!("https://{address}"),
    };
    let mut endpoint = Endpoint::from_shared(uri)?.executor(connections);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls.clone())?;
    }
    endpoint.connect().await.with_context(|| format!("connect to {address}"))
}

/// The state that a call and its stream of requests share.
struct Shared {
    call: Mutex<Call>,
    /// In lockstep: one for each response that is in; closed when no more requests may go out.
    answered: Semaphore,
}

impl Shared {
    fn call(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn call<T>(channel: T, step: Arc<Step>, turn: usize, truth: &Arc<Truth>)
where
    T: GrpcService<Body>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError>,
    T::Error: Display,
{
    let call = Mutex::new(Call::begin(truth, step.path().as_str()));
    let shared = Arc::new(Shared { call, answered: Semaphore::new(0) });
    let ended = tokio::select! {
        ended = exchange(channel, &step, &shared) => ended,
        () = canceled(step.cancel_after(turn)) => Err(Status::cancelled("the plan")),
        // tonic's own timer stops at the response's headers.
        () = after(step.deadline()) => Err(Status::deadline_exceeded("the plan")),
    };
    // hyper resets the stream only once the requests have ended.
    shared.answered.close();
    let mut call = shared.call();
    call.end(match ended {
        Ok(()) => Code::Ok,
        Err(status) if kept_deadline(&status) => Code::DeadlineExceeded,
        Err(status) => status.code(),
    });
    // Not left to the drop: hyper lets go of the requests when it likes.
    call.record();
}

/// The code of an error: tonic has `Cancelled` for a deadline that it kept itself, gRPC's table `DeadlineExceeded`.
fn kept_deadline(status: &Status) -> bool {
    successors(status.source(), |&error| error.source())
        .any(<dyn std::error::Error>::is::<TimeoutExpired>)
}

/// Sleeps to the microsecond, as programs that cancel do not use the library's timers. tokio's have whole
/// milliseconds, so a cancel that should come before a deadline would often come after it.
async fn canceled(after: Option<Duration>) {
    match after {
        // It does not panic.
        Some(after) => drop(spawn_blocking(move || thread::sleep(after)).await),
        None => pending().await,
    }
}

async fn after(wait: Option<Duration>) {
    match wait {
        Some(wait) => sleep(wait).await,
        None => pending().await,
    }
}

async fn exchange<T>(channel: T, step: &Arc<Step>, shared: &Arc<Shared>) -> Result<(), Status>
where
    T: GrpcService<Body>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError>,
    T::Error: Display,
{
    let mut grpc = Grpc::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    if step.gzip {
        let gzip = CompressionEncoding::Gzip;
        grpc = grpc.send_compressed(gzip).accept_compressed(gzip);
    }
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Request, Response>::default();
    match step.rpc {
        Rpc::Unary => {
            let request = shared.call().send(step.request());
            let response = grpc.unary(with_deadline(request, step), step.path(), codec).await?;
            shared.call().receive(response.get_ref());
            Ok(())
        }
        Rpc::ServerStream => {
            let request = shared.call().send(step.request());
            let request = with_deadline(request, step);
            let responses = grpc.server_streaming(request, step.path(), codec).await?;
            read(responses.into_inner(), step, shared).await
        }
        Rpc::ClientStream => {
            let requests = with_deadline(requests(step, shared), step);
            let response = grpc.client_streaming(requests, step.path(), codec).await?;
            shared.call().receive(response.get_ref());
            Ok(())
        }
        Rpc::Bidi => {
            let requests = with_deadline(requests(step, shared), step);
            let responses = grpc.streaming(requests, step.path(), codec).await?;
            read(responses.into_inner(), step, shared).await
        }
    }
}

fn with_deadline<M>(message: M, step: &Step) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    if let Some(deadline) = step.deadline() {
        request.set_timeout(deadline);
    }
    request
}

/// The stream of requests; in lockstep each waits for the responses to the one before it.
fn requests(
    step: &Arc<Step>,
    shared: &Arc<Shared>,
) -> impl Stream<Item = Request> + Send + 'static + use<> {
    let (step, shared) = (Arc::clone(step), Arc::clone(shared));
    async_stream::stream! {
        for turn in 0..step.requests - u32::from(step.holds) {
            if step.lockstep && turn > 0 {
                match shared.answered.acquire_many(step.responses).await {
                    Ok(permits) => permits.forget(),
                    Err(_closed) => return,
                }
            }
            let request = shared.call().send(step.request());
            yield request;
        }
        if step.holds {
            // Closed, which is an error, when the call has ended.
            let _ = shared.answered.acquire_many(u32::MAX >> 3).await;
        }
    }
}

async fn read(
    mut responses: Streaming<Response>,
    step: &Step,
    shared: &Shared,
) -> Result<(), Status> {
    while let Some(response) = responses.message().await? {
        let received = {
            let mut call = shared.call();
            call.receive(&response);
            call.received()
        };
        if step.cancel_after_messages == Some(received) {
            return Err(Status::cancelled("the plan"));
        }
        shared.answered.add_permits(1);
    }
    Ok(())
}

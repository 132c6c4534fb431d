//! The blocks that h2's encoder writes in a gRPC-like connection, in both directions.

use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderValue, Request, Response};
use observer_common::frame::{FrameHeader, PREFACE, kind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, duplex, split};

use super::{
    super::{Decoder, Field, RequestMethod, Timeout},
    Interner, decode, meaning,
};
use crate::protocol::http2::frames::{BlockAssembly, BlockError};

const CALLS: usize = 60;

type Captured = Arc<Mutex<Vec<u8>>>;

/// Passes on all octets and keeps a copy.
async fn tap(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, copy: Captured) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        copy.lock().expect("not poisoned").extend(&buffer[..len]);
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
    // The other end may have gone first.
    let _ = to.shutdown().await;
}

fn path_of(call: usize) -> String {
    format!("/routeguide.RouteGuide/Method{}", call % 7)
}

fn status_of(call: usize) -> u32 {
    (call % 17) as u32
}

fn timeout_of(call: usize) -> Option<u64> {
    call.is_multiple_of(3).then_some(call as u64 * 1_000_000)
}

fn request(call: usize) -> Request<()> {
    let mut request = Request::post(format!("http://127.0.0.1:50051{}", path_of(call)))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("user-agent", "grpc-rust/0.14")
        .header("x-request-id", format!("{call:032x}"))
        .header("x-large", "abcdefgh".repeat(if call.is_multiple_of(20) { 4000 } else { 20 }));
    if timeout_of(call).is_some() {
        request = request.header("grpc-timeout", format!("{call}m"));
    }
    let mut secret = HeaderValue::from_static("Bearer token");
    secret.set_sensitive(true);
    request.header("authorization", secret).body(()).expect("a valid request")
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut builder = h2::server::Builder::new();
    let handshake = builder.max_header_list_size(1 << 20).handshake::<_, bytes::Bytes>(io);
    let mut connection = handshake.await.expect("a client");
    let mut call = 0;
    while let Some(accepted) = connection.accept().await {
        let (_, mut respond) = accepted.expect("a request");
        let response = Response::builder().header("content-type", "application/grpc+proto");
        let response = response.body(()).expect("a valid response");
        let mut stream = respond.send_response(response, false).expect("an open stream");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(status_of(call)));
        let message = format!("call {}", call % 11);
        trailers.insert("grpc-message", message.parse().expect("a valid value"));
        stream.send_trailers(trailers).expect("an open stream");
        call += 1;
    }
}

async fn call_all(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let (mut requests, connection) = h2::client::handshake(io).await.expect("a server");
    let connection = tokio::spawn(connection);
    for call in 0..CALLS {
        requests = requests.ready().await.expect("an open connection");
        let (response, _) = requests.send_request(request(call), true).expect("a stream");
        let mut body = response.await.expect("a response").into_body();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.expect("trailers").expect("trailers");
        assert_eq!(trailers["grpc-status"], status_of(call).to_string());
    }
    drop(requests);
    connection.await.expect("no panic").expect("a clean end");
}

/// The octets from client to server, and those from server to client.
fn record() -> (Vec<u8>, Vec<u8>) {
    let (to_server, to_client) = (Captured::default(), Captured::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (client, client_far) = duplex(1 << 16);
        let (server, server_far) = duplex(1 << 16);
        let (from_client, into_client) = split(client_far);
        let (from_server, into_server) = split(server_far);
        tokio::join!(
            call_all(client),
            serve(server),
            tap(from_client, into_server, Arc::clone(&to_server)),
            tap(from_server, into_client, Arc::clone(&to_client)),
        );
    });
    let take = |captured: Captured| std::mem::take(&mut *captured.lock().expect("not poisoned"));
    (take(to_server), take(to_client))
}

/// The field blocks of a direction.
fn field_blocks(mut octets: &[u8]) -> Vec<Vec<u8>> {
    let (mut blocks, mut assembly) = (Vec::new(), BlockAssembly::default());
    while let Some((header, rest)) = octets.split_first_chunk() {
        let header = FrameHeader::parse(*header);
        let (payload, rest) = rest.split_at(header.length as usize);
        octets = rest;
        if matches!(header.kind, kind::HEADERS | kind::CONTINUATION) {
            match assembly.frame(header, payload) {
                Ok((_, block)) => blocks.push(block.to_vec()),
                Err(error) => assert_eq!(error, BlockError::NeedMore),
            }
        }
    }
    blocks
}

/// The fields of every block, compared with another decoder's, and with those after late joins.
fn fields_of(blocks: &[Vec<u8>], interner: &mut Interner) -> Vec<Vec<Field>> {
    let mut oracle = loona_hpack::Decoder::new();
    let mut decoder = Decoder::from_start();
    let mut all = Vec::new();
    for block in blocks {
        let strings = oracle.decode(block).expect("a valid block");
        let truth: Vec<_> =
            strings.iter().map(|(name, value)| meaning(name, value, interner)).collect();
        assert_eq!(decode(&mut decoder, block, interner).as_ref(), Ok(&truth));
        all.push(truth);
    }
    assert!(decoder.table().is_complete());
    for join in 0..blocks.len() {
        let mut late = Decoder::joined_late();
        for (block, truth) in blocks.iter().zip(&all).skip(join) {
            let fields = decode(&mut late, block, interner).expect("a valid block");
            assert_eq!(fields.len(), truth.len());
            for (field, truth) in fields.iter().zip(truth) {
                assert!(field == truth || *field == Field::Unknown, "{field:?}, not {truth:?}");
            }
        }
    }
    all
}

#[test]
fn blocks_of_h2_are_decoded() {
    let (to_server, to_client) = record();
    let mut interner = Interner::new(100);

    let requests = to_server.strip_prefix(PREFACE.as_slice()).expect("the client preface");
    let requests = fields_of(&field_blocks(requests), &mut interner);
    assert_eq!(requests.len(), CALLS);
    for (call, fields) in requests.iter().enumerate() {
        let path = Field::Path(interner.intern(path_of(call).as_bytes()));
        assert!(fields.contains(&path), "call {call}: {fields:?}");
        assert!(fields.contains(&Field::Method(RequestMethod::Post)), "call {call}: {fields:?}");
        let timeout = fields.iter().find_map(|field| match field {
            Field::GrpcTimeout(timeout) => timeout.map(Timeout::nanoseconds),
            _ => None,
        });
        assert_eq!(timeout, timeout_of(call), "call {call}");
    }

    let responses = fields_of(&field_blocks(&to_client), &mut interner);
    assert_eq!(responses.len(), 2 * CALLS);
    for (call, blocks) in responses.chunks(2).enumerate() {
        assert!(blocks[0].contains(&Field::Status(200)), "call {call}: {blocks:?}");
        let status = Field::GrpcStatus(Some(status_of(call)));
        assert!(
            matches!(blocks[1][..], [first, Field::GrpcMessage(_)] if first == status),
            "call {call}: {blocks:?}"
        );
    }
}

//! etcd counts its calls itself, by interceptors of go-grpc-prometheus. The case compares its counters with the
//! daemon's, by method and code, and both with the client's own record.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use support::daemon::Daemon;
use support::etcd::{self, Etcd, key};
use support::expected::Expected;
use support::openmetrics::Metrics;
use support::report::{self, Also};
use support::truth::{Row, Sums, Truth};

use super::{CANCELED, INVALID_ARGUMENT, NOT_FOUND, OK, UNIMPLEMENTED};
use crate::case::Case;

const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;

/// The families that are compared with etcd's own.
const FAMILIES: [&str; 4] = [
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
];

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const MISSING: &str = "/etcdserverpb.KV/Missing";

/// The case, ignored without etcd.
pub(crate) fn case() -> Result<Case> {
    let case = Case::new("etcd, beside its own counters", tells_the_same);
    Ok(Case { also: Also::Confirmed(OWN_COUNTERS), ..case.only_if(etcd::is_there()?) })
}

const OWN_COUNTERS: &str = "etcd's own counters";

fn tells_the_same() -> Result<()> {
    let etcd = Etcd::start()?;
    let daemon = Daemon::start(&["--port", &etcd.clients.port().to_string()])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let truth = runtime.block_on(calls(&etcd)).context("the client")?;
    let identity = etcd.identity()?;
    daemon.settle(&[Expected::of_server(&identity, &truth)])?;

    // Its handlers may notice later than its socket that a watch was cancelled.
    daemon.wait_until(|metrics| {
        let ours = ours(metrics, identity.pid);
        let theirs = theirs(&etcd)?;
        ensure!(ours == theirs, "by the daemon: {ours:#?}\nby etcd: {theirs:#?}");
        Ok(())
    })?;
    report::confirmed(OWN_COUNTERS);
    etcd.stop()?;
    daemon.stop()
}

/// The daemon's counters of etcd's calls.
fn ours(metrics: &Metrics, pid: u32) -> BTreeMap<String, f64> {
    let pid = pid.to_string();
    let mut ours = BTreeMap::new();
    for family in FAMILIES {
        for (labels, value) in metrics.series_with(family, &[("pid", &pid)]) {
            // Interceptors do not see calls of a missing method.
            let key = key(family, labels);
            if !key.contains(MISSING) && value > 0.0 {
                *ours.entry(key).or_insert(0.0) += value;
            }
        }
    }
    ours
}

/// etcd's own counters.
fn theirs(etcd: &Etcd) -> Result<BTreeMap<String, f64>> {
    let mut theirs = etcd.counts()?;
    theirs.retain(|key, _| FAMILIES.iter().any(|family| key.starts_with(&format!("{family} "))));
    Ok(theirs)
}

/// Makes calls of each kind over one connection, and returns the client's record.
async fn calls(etcd: &Etcd) -> Result<Truth> {
    let stream = tokio::net::TcpStream::connect(etcd.clients).await?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let mut client = Client { sender, rows: Vec::new() };
    let (key, value) = (bytes(1, b"key"), bytes(2, &[b'x'; 3000]));
    let put = [&key[..], &value].concat();
    for _ in 0..3 {
        client.call("/etcdserverpb.KV/Put", &[&put], OK).await?;
    }
    for _ in 0..5 {
        client.call("/etcdserverpb.KV/Range", &[&key], OK).await?;
    }
    let later = [&key[..], &number(4, 1000)].concat();
    let [lease, unknown] = [number(1, 7), number(1, 8)];
    let grant = [number(1, 600), number(2, 7)].concat();
    let user = [bytes(1, b"user"), bytes(2, b"password")].concat();
    for (path, requests, code) in [
        ("/etcdserverpb.KV/Range", &[&later[..]][..], OUT_OF_RANGE),
        ("/etcdserverpb.KV/Put", &[&value], INVALID_ARGUMENT),
        ("/etcdserverpb.KV/Compact", &[&number(1, 1000)], OUT_OF_RANGE),
        ("/etcdserverpb.KV/DeleteRange", &[&bytes(1, b"none")], OK),
        ("/etcdserverpb.Lease/LeaseGrant", &[&grant], OK),
        ("/etcdserverpb.Lease/LeaseGrant", &[&grant], FAILED_PRECONDITION),
        ("/etcdserverpb.Lease/LeaseKeepAlive", &[&lease, &lease, &lease], OK),
        ("/etcdserverpb.Lease/LeaseRevoke", &[&unknown], NOT_FOUND),
        ("/etcdserverpb.Auth/Authenticate", &[&user], FAILED_PRECONDITION),
        ("/etcdserverpb.Cluster/MemberList", &[&[]], OK),
        ("/etcdserverpb.Maintenance/Snapshot", &[&[]], OK),
        (MISSING, &[&[]], UNIMPLEMENTED),
    ] {
        client.call(path, requests, code).await?;
    }
    // Each watch reports that it has started, and a change; then it is cancelled.
    for _ in 0..2 {
        let mut watch = client.open(WATCH).await?;
        watch.send(&bytes(1, &key), false)?;
        ensure!(watch.receive().await?.is_some(), "the watch has not started");
        client.call("/etcdserverpb.KV/Put", &[&put], OK).await?;
        ensure!(watch.receive().await?.is_some(), "no change was reported");
        client.rows.push(watch.cancel());
    }
    let Client { sender, rows } = client;
    drop(sender);
    connection.await??;
    Ok(Truth { pid: std::process::id(), calls: rows })
}

struct Client {
    sender: SendRequest<Bytes>,
    rows: Vec<Row>,
}

impl Client {
    /// Makes a call, which must end with this code.
    async fn call(&mut self, path: &str, requests: &[&[u8]], code: i32) -> Result<()> {
        let mut call = self.open(path).await?;
        for (index, request) in requests.iter().enumerate() {
            call.send(request, index + 1 == requests.len())?;
        }
        while call.receive().await?.is_some() {}
        ensure!(call.row.code == code, "{path} ends with {}, not {code}", call.row.code);
        self.rows.push(call.row);
        Ok(())
    }

    async fn open(&mut self, path: &str) -> Result<Call> {
        let request = Request::post(format!("http://etcd{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        self.sender = self.sender.clone().ready().await?;
        let (response, requests) = self.sender.send_request(request, false)?;
        let row = Row::new(path, CANCELED, Sums { calls: 1, ..Sums::default() });
        Ok(Call { row, requests, responses: Responses::Awaited(response), unread: BytesMut::new() })
    }
}

/// An open call, and its record so far.
struct Call {
    row: Row,
    requests: SendStream<Bytes>,
    responses: Responses,
    unread: BytesMut,
}

enum Responses {
    Awaited(ResponseFuture),
    Begun(RecvStream),
    Ended,
}

impl Call {
    fn send(&mut self, message: &[u8], last: bool) -> Result<()> {
        let length = u32::try_from(message.len())?.to_be_bytes();
        let bytes = [&[0], &length[..], message].concat();
        self.requests.send_data(bytes.into(), last)?;
        let sums = &mut self.row.sums;
        (sums.any_sent, sums.sent, sums.most_sent) = (1, sums.sent + 1, sums.most_sent + 1);
        sums.sent_bytes += message.len() as u64;
        Ok(())
    }

    /// Receives a response and returns its length; `None` at the call's end.
    async fn receive(&mut self) -> Result<Option<usize>> {
        loop {
            if let Some(message) = self.unread.split_first_chunk::<5>() {
                let ([_, length @ ..], rest) = message;
                let length = u32::from_be_bytes(*length) as usize;
                if rest.len() >= length {
                    self.unread.advance(5 + length);
                    let sums = &mut self.row.sums;
                    sums.any_received = 1;
                    (sums.received, sums.most_received) =
                        (sums.received + 1, sums.most_received + 1);
                    sums.received_bytes += length as u64;
                    return Ok(Some(length));
                }
            }
            match &mut self.responses {
                Responses::Ended => return Ok(None),
                Responses::Awaited(response) => {
                    let (head, body) = response.await?.into_parts();
                    self.responses = if body.is_end_stream() {
                        self.row.code = status(&head.headers)?;
                        Responses::Ended
                    } else {
                        Responses::Begun(body)
                    };
                }
                Responses::Begun(body) => {
                    if let Some(data) = body.data().await {
                        let data = data?;
                        body.flow_control().release_capacity(data.len())?;
                        self.unread.extend_from_slice(&data);
                        continue;
                    }
                    let trailers = body.trailers().await?.context("no trailers")?;
                    self.row.code = status(&trailers)?;
                    self.responses = Responses::Ended;
                }
            }
        }
    }

    /// Resets the call, and returns its record.
    fn cancel(mut self) -> Row {
        self.requests.send_reset(Reason::CANCEL);
        self.row
    }
}

fn status(fields: &HeaderMap) -> Result<i32> {
    let Some(status) = fields.get("grpc-status") else { bail!("no grpc-status") };
    Ok(status.to_str()?.parse()?)
}

// The encoding of a field of a protobuf message: <https://protobuf.dev/programming-guides/encoding/>.

fn bytes(field: u8, bytes: &[u8]) -> Vec<u8> {
    [&[field << 3 | 2], &varint(bytes.len() as u64)[..], bytes].concat()
}

fn number(field: u8, number: u64) -> Vec<u8> {
    [&[field << 3], &varint(number)[..]].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

//! No byte of a message leaves the kernel: the case reads all records of the BPF programs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use observer::config::{Config, Tls};
use observer::kernel::{FileLinks, Probes, TlsProbes};
use observer_core::call::Relatives;
use observer_core::record::{Event, Item, Record};
use observer_core::source::Source as _;
use observer_tls::Hook;
use serde_json::{Value, json};
use support::bytes::contains;
use support::peer::{Client, Listen, Server};
use support::stack::Stack;
use support::tls::{Certificates, Shown};

/// The bytes that fill the peers' messages: requests and responses.
const FILLINGS: [u8; 2] = [0xab, 0xcd];

/// The number of filling bytes in a row that are payload: lengths and other values are shorter.
const RUN: usize = 6;

/// Time for the BPF programs to send all records.
const PATIENCE: Duration = Duration::from_secs(3);

/// The same bytes in base64, as bodies of gRPC-Web and JSON have them.
const AS_TEXT: [&[u8]; 2] = [b"q6urq6ur", b"zc3Nzc3N"];

/// Has peers exchange messages of every size, and searches for their bytes in all records.
pub(crate) fn no_payload_leaves_the_kernel(server: &Stack, client: &Stack) -> Result<()> {
    search(&Config::default(), server, &[], client, &plan())
}

/// Does the same over TLS: the BPF programs have the plaintext in their hands.
pub(crate) fn no_payload_leaves_the_kernel_over_tls(stack: &Stack) -> Result<()> {
    let certificates = Certificates::new()?;
    let stack = certificates.stack(stack, Shown::ByServer);
    let config = Config { tls: Tls::Auto, ..Config::default() };
    search(&config, &stack, &[], &stack, &plan())
}

/// Does the same for calls of gRPC-Web and Connect, whose bodies are looked into. The arguments are the server's.
pub(crate) fn no_payload_of_relatives_leaves_the_kernel(
    server: &Stack,
    args: &[&str],
    client: &Stack,
) -> Result<()> {
    let relatives = Relatives { grpc_web: true, connect: true };
    let config = Config { relatives, ..Config::default() };
    let sizes = [6, 100, 16_000, 16_384, 70_000, 3 << 20];
    let of = |rpc: &str| {
        let step = |size| json!({"rpc": rpc, "count": 5, "payload": size, "response_size": size, "responses": 2});
        let failed = json!({"rpc": rpc, "code": 5, "detail": "x", "payload": 100, "count": 5});
        sizes.map(step).into_iter().chain([failed]).collect()
    };
    search(&config, server, args, client, &[of("Unary"), of("ServerStream")])
}

fn search(
    config: &Config,
    server: &Stack,
    args: &[&str],
    client: &Stack,
    plan: &[Vec<Value>],
) -> Result<()> {
    let (mut probes, mut rings) = Probes::attach(config)?;
    let server = Server::start_with(server, Listen::V4, args)?;
    let tls = probes.take_tls()?;
    let links = tls.as_ref().map(|tls| probe(tls, &server.pid())).transpose()?;
    ensure!(links.as_ref().is_none_or(|links| !links.is_empty()), "no TLS library is probed");
    let (_, did) = Client::start(client, &server, plan)?.finish()?;
    server.stop()?;
    drop(links);
    ensure!(!did.calls.is_empty(), "the client made no calls");

    let mut records = Vec::new();
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        for ring in &mut rings {
            ring.drain(usize::MAX, |record| records.push(record.to_vec()));
            ring.wait(Duration::from_millis(100))?;
        }
    }
    ensure!(records.len() > 50, "only {} records, so this shows nothing", records.len());
    let kept = records.iter().map(|record| kept_bytes(record)).sum::<usize>();
    ensure!(kept > 0, "no record has header bytes in it, so this shows nothing");
    let fillings = FILLINGS.map(|filling| vec![filling; RUN]);
    for payload in fillings.iter().map(Vec::as_slice).chain(AS_TEXT) {
        let leak = records.iter().find(|record| contains(record, payload));
        let leak = leak.map(|record| record.escape_ascii().to_string());
        ensure!(leak.is_none(), "payload in a record: {}", leak.unwrap_or_default());
    }
    Ok(())
}

/// Probes the TLS libraries in the files that a process has mapped as code.
fn probe(tls: &TlsProbes, pid: &str) -> Result<Vec<FileLinks>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let code = maps.lines().filter(|line| line.contains(" r-xp "));
    let paths: BTreeSet<&str> = code.filter_map(|line| line.get(line.find('/')?..)).collect();
    let mut links = Vec::new();
    for path in paths {
        let Ok(located) = observer_tls::locate(&fs::read(path)?) else { continue };
        let places = located.libraries.iter().flat_map(|library| {
            let cookie = |hook: &Hook| Some((hook.offset, observer::tls::cookie(library, hook)?));
            library.hooks.iter().filter_map(cookie)
        });
        let places: Vec<(u64, u64)> = places.collect();
        links.push(tls.uprobes.attach(File::open(path)?.as_fd(), &places)?);
    }
    Ok(links)
}

/// The number of bytes of frame payload in a record, as of field blocks, and of heads.
fn kept_bytes(record: &[u8]) -> usize {
    let Some(Record { event: Event::Bytes(bytes), .. }) = Record::parse(record) else { return 0 };
    let kept = bytes.items.map(|item| match item {
        Item::Frame { payload, .. } => payload.len(),
        Item::Head { bytes, .. } => bytes.len(),
        _ => 0,
    });
    kept.sum()
}

/// Messages that fit in a frame, that do not, and that are cut everywhere.
fn plan() -> Vec<Vec<Value>> {
    let sizes = [6, 100, 16_000, 16_384, 70_000, 3 << 20];
    let steps = sizes.map(|size| {
        json!({"rpc": "Unary", "count": 5, "concurrency": 5, "payload": size, "response_size": size})
    });
    // One message in each direction at a time: a peer that writes much before it reads may wait for ever.
    let streams = sizes.map(|size| {
        json!({"rpc": "Bidi", "requests": 3, "lockstep": true, "payload": size, "response_size": size})
    });
    vec![steps.to_vec(), streams.to_vec()]
}

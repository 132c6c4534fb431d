//! The comparison with an independent dissection: tcpdump records the traffic on loopback, and tshark, which has its
//! own HTTP/2 and HPACK, dissects it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::bytes;
use crate::pace;
use crate::process::{Process, runs};
use crate::report;
use crate::truth::{CUT, Row, Truth, cut_code};

/// Time for tcpdump to start, to write what it recorded, or to end.
const LIMIT: Duration = Duration::from_secs(20);

/// The UDP port (discard) for markers, which show how far the recording is.
const MARKER_PORT: u16 = 9;

/// The separator of a packet's values of one field.
const AGGREGATOR: char = '\u{1f}';

/// The fields that tshark prints for each packet.
const FIELDS: [&str; 8] = [
    "tcp.stream",
    "http2.type",
    "http2.flags",
    "http2.streamid",
    "http2.header.count",
    "http2.header.name",
    "http2.header.value",
    "http2.rst_stream.error",
];

/// The fields that tshark prints for each packet with gRPC messages.
const MESSAGE_FIELDS: [&str; 3] = ["tcp.dstport", "grpc.compressed_flag", "grpc.message_length"];

/// Whether tcpdump and tshark are installed. With `CI` in the environment they must be.
pub fn is_there() -> Result<bool> {
    // An emulated machine is too slow for tcpdump, and tshark does not depend on the kernel. It takes half a second.
    static THERE: LazyLock<bool> = LazyLock::new(|| {
        !pace::is_emulated() && runs("tcpdump", "--version") && runs("tshark", "--version")
    });
    if !*THERE {
        ensure!(std::env::var_os("CI").is_none(), "no tshark: apt-get install tcpdump tshark");
        report::no_tshark();
    }
    Ok(*THERE)
}

/// The calls of raw peers since the recording began.
static MADE: Mutex<Made> = Mutex::new(Made { ports: BTreeSet::new(), calls: Vec::new() });

thread_local! {
    /// Whether the case that this thread runs is compared.
    static IS_COMPARED: Cell<bool> = const { Cell::new(false) };
}

/// The ports of raw servers, and all calls that were made to them.
#[derive(Debug, Default)]
struct Made {
    ports: BTreeSet<u16>,
    calls: Vec<Row>,
}

fn made() -> MutexGuard<'static, Made> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that raw peers made these calls, and no others, to servers at these ports. The codes are the `grpc-status`
/// that was sent, or [`CUT`] without one.
pub(crate) fn record(ports: &[u16], calls: impl IntoIterator<Item = Row>) {
    if IS_COMPARED.get() {
        let mut made = made();
        made.ports.extend(ports);
        made.calls.extend(calls);
    }
}

/// Runs a case whose raw peers' calls are compared with the recording.
pub fn compared<T>(case: impl FnOnce() -> T) -> T {
    IS_COMPARED.set(true);
    let done = case();
    IS_COMPARED.set(false);
    done
}

/// A running recording of the traffic on loopback.
#[derive(Debug)]
pub struct Recording {
    folder: TempDir,
    tcpdump: Process,
    /// The ports whose traffic is HTTP/2.
    ports: Vec<String>,
    /// The file with the keys, if the traffic is encrypted.
    keys: Option<PathBuf>,
}

impl Recording {
    /// Starts to record the traffic of a port.
    pub fn of_port(port: &str) -> Result<Self> {
        Self::start(&format!("tcp port {port}"), vec![port.to_owned()])
    }

    /// Says that the traffic is HTTP/2 over TLS, with the keys in this file (SSLKEYLOGFILE).
    #[must_use]
    pub fn with_keys(self, keys: &Path) -> Self {
        Self { keys: Some(keys.to_owned()), ..self }
    }

    /// Starts to record the traffic of all ports but one, for [`Self::agrees_with_raw_peers`].
    pub fn of_all_but(port: &str) -> Result<Self> {
        // Earlier calls are not in it.
        *made() = Made::default();
        Self::start(&format!("(tcp and not port {port})"), Vec::new())
    }

    fn start(filter: &str, ports: Vec<String>) -> Result<Self> {
        let folder = TempDir::with_prefix("capture-").context("create a folder")?;
        let log = File::create(folder.path().join("log")).context("create tcpdump's log")?;
        // It writes each packet as it comes, so that a case need not wait: dumpcap, which comes with
        // tshark, takes up to a second.
        // Its buffer has room for some hundred packets: it must run before the processes that send them.
        let mut tcpdump = Command::new("nice");
        tcpdump
            .args("-n -15 tcpdump --immediate-mode -U -Z root -i lo -B 65536 -w".split(' '))
            .arg(folder.path().join("packets"))
            .arg(format!("{filter} or udp port {MARKER_PORT}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let tcpdump = Process::spawn(&mut tcpdump)?;
        let recording = Self { folder, tcpdump, ports, keys: None };
        recording.wait_for_marker("begin")?;
        Ok(recording)
    }

    /// Waits until a marker, and with it every packet before it, is in the file.
    fn wait_for_marker(&self, name: &str) -> Result<()> {
        let marker = format!("observer test {name} {}", self.folder.path().display());
        let socket = UdpSocket::bind("127.0.0.1:0").context("open a socket")?;
        pace::wait_for(LIMIT, || {
            // No process listens, so a second datagram may fail.
            let _ = socket.send_to(marker.as_bytes(), ("127.0.0.1", MARKER_PORT));
            let packets = fs::read(self.packets()).unwrap_or_default();
            // It is one of the last packets.
            let end = packets.get(packets.len().saturating_sub(1 << 16)..).unwrap_or_default();
            let is_there = bytes::contains(end, marker.as_bytes());
            let log = || format!("tcpdump records nothing: {}", self.log());
            Ok(is_there.then_some(()).with_context(log))
        })
    }

    /// tcpdump's stderr.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn packets(&self) -> PathBuf {
        self.folder.path().join("packets")
    }

    /// Ends the recording, and returns the calls that tshark sees in it.
    pub fn finish(self) -> Result<Calls> {
        Calls::parse(&self.dissect("http2", &FIELDS)?)
    }

    /// Ends the recording, and returns the messages that tshark sees in it, to this port and from it.
    pub fn finish_messages(self, port: &str) -> Result<[Messages; 2]> {
        Messages::parse(&self.dissect("grpc", &MESSAGE_FIELDS)?, port)
    }

    /// Ends the recording; an error if raw peers made other calls than tshark sees.
    pub fn agrees_with_raw_peers(mut self) -> Result<()> {
        let Made { ports, calls, .. } = std::mem::take(&mut *made());
        self.ports = ports.iter().map(u16::to_string).collect();
        self.finish()?.are(calls)
    }

    /// Ends the recording, and returns tshark's line for each packet of a protocol.
    fn dissect(mut self, protocol: &str, fields: &[&str]) -> Result<String> {
        self.wait_for_marker("end")?;
        self.tcpdump.signal(Signal::INT)?;
        self.tcpdump.wait(LIMIT)?;
        let log = self.log();
        let dropped = log.lines().find_map(|line| line.strip_suffix(" packets dropped by kernel"));
        ensure!(dropped == Some("0"), "tcpdump has not recorded all packets: {log}");
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(self.packets()).args(["-n", "-Y", protocol, "-T", "fields"]);
        tshark.args(["-E", &format!("aggregator={AGGREGATOR}")]);
        // On a busy machine, packets of a process that moves to another CPU are recorded before those that it
        // sent from the CPU that it left.
        tshark.args(["-o", "tcp.reassemble_out_of_order:TRUE"]);
        // It must not guess the protocol of other traffic.
        tshark.args(["--disable-heuristic", "http2_tcp"]);
        let protocol = if self.keys.is_some() { "tls" } else { "http2" };
        for port in &self.ports {
            tshark.args(["-d", &format!("tcp.port=={port},{protocol}")]);
        }
        if let Some(keys) = &self.keys {
            tshark.args(["-o", &format!("tls.keylog_file:{}", keys.display())]);
        }
        for field in fields {
            tshark.args(["-e", field]);
        }
        let output = tshark.stdin(Stdio::null()).output().context("run tshark")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tshark ended with {}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The messages of one direction, as on the wire.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// The number of messages.
    pub count: u64,
    /// The number of compressed messages.
    pub compressed: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
}

impl Messages {
    fn parse(lines: &str, port: &str) -> Result<[Self; 2]> {
        let (mut to, mut from) = (Self::default(), Self::default());
        for line in lines.lines() {
            let context = || format!("tshark says {line:?}");
            let [destination, flags, lengths] = *line.split('\t').collect::<Vec<_>>() else {
                bail!(context())
            };
            let messages = if destination == port { &mut to } else { &mut from };
            messages.compressed +=
                flags.split(AGGREGATOR).filter(|flag| *flag == "1").count() as u64;
            for length in lengths.split(AGGREGATOR) {
                messages.count += 1;
                messages.bytes += length.parse::<u64>().with_context(context)?;
            }
        }
        Ok([to, from])
    }
}

/// The number of calls that tshark sees, by path and code; [`CUT`] without a `grpc-status`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Calls(BTreeMap<(String, i32), u64>);

/// A stream, as far as it has been read.
#[derive(Default)]
struct Stream {
    path: Option<String>,
    code: Option<i32>,
    reset: bool,
}

impl Calls {
    fn parse(lines: &str) -> Result<Self> {
        let mut streams = BTreeMap::<(&str, &str), Stream>::new();
        for line in lines.lines() {
            packet(line, &mut streams).with_context(|| format!("tshark says {line:?}"))?;
        }
        let mut calls = BTreeMap::new();
        for stream in streams.into_values() {
            if let Some(path) = stream.path {
                *calls.entry((path, stream.code.unwrap_or(CUT))).or_insert(0) += 1;
            }
        }
        Ok(Self(calls))
    }

    /// An error that shows the differences if clients report other calls than tshark sees. Calls that a client may
    /// have cut are compared as one code: the wire does not show who cut a call.
    pub fn agree(&self, clients: &Truth) -> Result<()> {
        let mut seen = BTreeMap::new();
        for ((path, code), calls) in &self.0 {
            *seen.entry((path.clone(), cut_code(*code))).or_insert(0) += calls;
        }
        Self(seen).is(&Self(clients.calls_with_cuts()), "clients")
    }

    /// The number of calls without `grpc-status`, by path.
    pub fn without_status(&self) -> impl Iterator<Item = (&str, u64)> {
        let cut = self.0.iter().filter(|((_, code), _)| *code == CUT);
        cut.map(|((path, _), calls)| (path.as_str(), *calls))
    }

    /// An error if raw peers made other calls, or sent other `grpc-status`.
    fn are(&self, calls: Vec<Row>) -> Result<()> {
        let mut made = BTreeMap::new();
        for Row { method, code, sums, .. } in calls {
            *made.entry((method, code)).or_insert(0) += sums.calls;
        }
        self.is(&Self(made), "raw peers")
    }

    fn is(&self, made: &Self, by: &str) -> Result<()> {
        ensure!(!self.0.is_empty(), "tshark sees no call");
        let without = |of: &Self, others: &Self| {
            let differs =
                |(key, calls): &(&(String, i32), &u64)| others.0.get(*key) != Some(*calls);
            let lines = of.0.iter().filter(differs);
            lines.map(|(key, calls)| format!("\n    {key:?}: {calls}")).collect::<Vec<_>>().concat()
        };
        ensure!(
            self == made,
            "tshark sees other calls; those that differ\n  by tshark: {}\n  by {by}: {}",
            without(self, made),
            without(made, self)
        );
        Ok(())
    }
}

/// Adds a packet's frames to the streams: tshark prints them field by field, each in the order of the frames.
fn packet<'a>(line: &'a str, streams: &mut BTreeMap<(&'a str, &'a str), Stream>) -> Result<()> {
    const HEADERS: &str = "1";
    const RST_STREAM: &str = "3";
    const PUSH_PROMISE: &str = "5";
    const CONTINUATION: &str = "9";
    const END_HEADERS: u8 = 4;

    let fields: Vec<&str> = line.split('\t').collect();
    let values = |index: usize| {
        let text = fields.get(index).copied().unwrap_or_default();
        text.split(AGGREGATOR).filter(move |_| !text.is_empty())
    };
    let connection = fields.first().copied().context("no fields")?;
    let (types, flags, ids) = (values(1), values(2), values(3));
    let (mut counts, mut names, mut texts, mut errors) =
        (values(4), values(5), values(6), values(7));
    for ((kind, flags), id) in types.zip(flags).zip(ids) {
        let stream = streams.entry((connection, id)).or_default();
        if kind == RST_STREAM {
            errors.next().context("a reset without error")?;
            stream.reset = true;
        }
        let flags = u8::from_str_radix(flags.trim_start_matches("0x"), 16).context("flags")?;
        if ![HEADERS, PUSH_PROMISE, CONTINUATION].contains(&kind) || flags & END_HEADERS == 0 {
            continue;
        }
        let count: usize = counts.next().context("a field block without a count")?.parse()?;
        for _ in 0..count {
            let name = names.next().context("a header without a name")?;
            let text = texts.next().context("a header without a value")?;
            match name {
                // A status after the client's reset does not count.
                "grpc-status" if !stream.reset => stream.code = Some(code(text)),
                ":path" => stream.path = Some(text.to_owned()),
                _ => {}
            }
        }
    }
    ensure!(names.next().is_none() && errors.next().is_none(), "more fields than frames");
    Ok(())
}

/// The code of a `grpc-status`; `Unknown` if it is invalid.
fn code(text: &str) -> i32 {
    const UNKNOWN: i32 = 2;
    text.parse().ok().filter(|code| (0..=16).contains(code)).unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::{Calls, Messages};
    use crate::truth::{CUT, Row, Sums, Truth};

    const PACKETS: &str = "0\t4\x1f1\x1f0\t0x00\x1f0x04\x1f0x01\t0\x1f1\x1f1\t2\t:method\x1f:path\tPOST\x1f/s/M\t\n\
        0\t1\x1f3\t0x05\x1f0x00\t1\x1f3\t1\tgrpc-status\t5\t8\n\
        1\t1\x1f9\x1f3\t0x01\x1f0x04\x1f0x00\t1\x1f1\x1f1\t1\t:path\t/s/M\t8\n";

    fn client(calls: &[(i32, u64)]) -> Truth {
        let row =
            |&(code, calls): &(i32, u64)| Row::new("/s/M", code, Sums { calls, ..Sums::default() });
        Truth { pid: 1, calls: calls.iter().map(row).collect() }
    }

    #[test]
    fn reads_frames_field_by_field() {
        let calls = Calls::parse(PACKETS).unwrap();
        let expected = [(("/s/M".to_owned(), 5), 1), (("/s/M".to_owned(), CUT), 1)];
        assert_eq!(calls, Calls(expected.into()));
        assert_eq!(calls.without_status().collect::<Vec<_>>(), [("/s/M", 1)]);
        calls.agree(&client(&[(5, 1), (1, 1)])).unwrap();
    }

    #[test]
    fn shows_what_differs() {
        let calls = Calls::parse(PACKETS).unwrap();
        for other in [&[(5, 1)][..], &[(5, 2), (1, 1)], &[(5, 1), (6, 1)], &[]] {
            assert!(calls.agree(&client(other)).is_err(), "{other:?}");
        }
        assert!(Calls::parse("").unwrap().agree(&client(&[])).is_err(), "nothing was recorded");
    }

    #[test]
    fn calls_of_raw_peers_are_compared_both_ways() {
        let calls = Calls::parse(PACKETS).unwrap();
        let sent = |calls: &[(i32, u64)]| client(calls).calls;
        calls.are(sent(&[(5, 1), (CUT, 1)])).unwrap();
        for other in [&[(5, 1)][..], &[(5, 2)], &[(5, 1), (1, 1)], &[(5, 1), (CUT, 1), (3, 1)]] {
            assert!(calls.are(sent(other)).is_err(), "{other:?}");
        }
        let cancelled = Calls::parse(&PACKETS.replace("\t5\t8\n", "\t1\t8\n")).unwrap();
        cancelled.are(sent(&[(1, 1), (CUT, 1)])).unwrap();
        assert!(cancelled.are(sent(&[(CUT, 2)])).is_err(), "a status is not nothing");
    }

    #[test]
    fn adds_up_messages_each_way() {
        let [to, from] = Messages::parse("80\t1\x1f0\t9\x1f7\n99\t0\t5\n80\t1\t1\n", "80").unwrap();
        assert_eq!(to, Messages { count: 3, compressed: 2, bytes: 17 });
        assert_eq!(from, Messages { count: 1, compressed: 0, bytes: 5 });
        assert!(Messages::parse("80\t1\n", "80").is_err());
    }

    #[test]
    fn lines_that_are_not_complete_are_errors() {
        assert!(Calls::parse(&PACKETS.replace("\t2\t", "\t3\t")).is_err());
        assert!(Calls::parse(&PACKETS.replace("\t2\t", "\t1\t")).is_err());
    }
}

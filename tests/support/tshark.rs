//! An independent opinion: the same traffic, recorded on loopback by tcpdump and dissected by tshark,
//! which has an HTTP/2 and HPACK of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::PathBuf;
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

/// For tcpdump to begin, to have written what happened, and to end.
const LIMIT: Duration = Duration::from_secs(20);

/// Traffic to this UDP port (discard) is recorded too: it shows how far the recording is.
const MARKER_PORT: u16 = 9;

/// Between a packet's values of one field.
const AGGREGATOR: char = '\u{1f}';

/// What is asked of each packet.
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

/// What is asked of each packet that has gRPC's messages in it.
const MESSAGE_FIELDS: [&str; 3] = ["tcp.dstport", "grpc.compressed_flag", "grpc.message_length"];

/// Whether both programs are installed. With `CI` in the environment they must be.
pub fn is_there() -> Result<bool> {
    // To start tshark takes it half a second.
    static THERE: LazyLock<bool> = LazyLock::new(are_installed);
    if !*THERE {
        ensure!(std::env::var_os("CI").is_none(), "no tshark: apt-get install tcpdump tshark");
        report::no_tshark();
    }
    Ok(*THERE)
}

fn are_installed() -> bool {
    // What it sees is no matter of the kernel, and where one is emulated it comes too late.
    !pace::is_emulated() && runs("tcpdump", "--version") && runs("tshark", "--version")
}

/// What raw peers did, since all was last recorded: the cases run one after the other.
static TOLD: Mutex<Told> =
    Mutex::new(Told { is_asked: false, ports: BTreeSet::new(), calls: Vec::new() });

/// Where raw servers listened, and all the calls that were made to them.
#[derive(Debug, Default)]
struct Told {
    /// It is to be compared.
    is_asked: bool,
    ports: BTreeSet<u16>,
    calls: Vec<Row>,
}

fn told() -> MutexGuard<'static, Told> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raw peers made these calls, and no others, to servers that listened at these ports. Their codes
/// are those of the `grpc-status` that was sent; [`CUT`] where none was.
pub(crate) fn tell(ports: &[u16], calls: impl IntoIterator<Item = Row>) {
    let mut told = told();
    if told.is_asked {
        told.ports.extend(ports);
        told.calls.extend(calls);
    }
}

/// Runs a case in which what raw peers do is to be compared.
pub fn asked<T>(case: impl FnOnce() -> T) -> T {
    told().is_asked = true;
    let done = case();
    told().is_asked = false;
    done
}

/// A recording under way on loopback.
#[derive(Debug)]
pub struct Recording {
    folder: TempDir,
    tcpdump: Process,
    /// Which of what is recorded is HTTP/2.
    ports: Vec<String>,
}

impl Recording {
    /// Of what goes over a port.
    pub fn of_port(port: &str) -> Result<Self> {
        Self::start(&format!("tcp port {port}"), vec![port.to_owned()])
    }

    /// Of all ports but one, for [`Self::agrees_with_raw_peers`].
    pub fn of_all_but(port: &str) -> Result<Self> {
        // What was told before is not in it.
        *told() = Told::default();
        Self::start(&format!("(tcp and not port {port})"), Vec::new())
    }

    fn start(filter: &str, ports: Vec<String>) -> Result<Self> {
        let folder = TempDir::with_prefix("capture-").context("create a folder")?;
        let log = File::create(folder.path().join("log")).context("create tcpdump's log")?;
        // Each packet is written as it comes, so that nobody waits for it: dumpcap, which comes with
        // tshark, takes up to a second.
        // Its buffer has room for some hundred packets: it is to run before those who send them.
        let child = Command::new("nice")
            .args("-n -15 tcpdump --immediate-mode -U -Z root -i lo -B 65536 -w".split(' '))
            .arg(folder.path().join("packets"))
            .arg(format!("{filter} or udp port {MARKER_PORT}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start tcpdump")?;
        let recording = Self { folder, tcpdump: Process::new(child), ports };
        recording.wait_for_marker("begin")?;
        Ok(recording)
    }

    /// Packets are written some time after they passed: a marker that is in the file has those
    /// before it there too.
    fn wait_for_marker(&self, name: &str) -> Result<()> {
        let marker = format!("observer test {name} {}", self.folder.path().display());
        let socket = UdpSocket::bind("127.0.0.1:0").context("open a socket")?;
        pace::wait_for(LIMIT, || {
            // Nobody listens, which a second datagram may be told.
            let _ = socket.send_to(marker.as_bytes(), ("127.0.0.1", MARKER_PORT));
            let packets = fs::read(self.packets()).unwrap_or_default();
            // It is among the last.
            let end = packets.get(packets.len().saturating_sub(1 << 16)..).unwrap_or_default();
            let is_there = bytes::contains(end, marker.as_bytes());
            Ok(is_there
                .then_some(())
                .ok_or_else(|| format!("tcpdump records nothing: {}", self.log())))
        })
    }

    /// What tcpdump says.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn packets(&self) -> PathBuf {
        self.folder.path().join("packets")
    }

    /// Ends it; the calls that tshark sees in it.
    pub fn finish(self) -> Result<Calls> {
        Calls::parse(&self.dissect("http2", &FIELDS)?)
    }

    /// Ends it; the messages that tshark sees in it, to this port and from it.
    pub fn finish_messages(self, port: &str) -> Result<[Messages; 2]> {
        Messages::parse(&self.dissect("grpc", &MESSAGE_FIELDS)?, port)
    }

    /// Ends it. An error if raw peers told of other calls than tshark sees.
    pub fn agrees_with_raw_peers(mut self) -> Result<()> {
        let Told { ports, calls, .. } = std::mem::take(&mut *told());
        self.ports = ports.iter().map(u16::to_string).collect();
        self.finish()?.are(calls)
    }

    /// Ends it. What tshark tells of each packet of a protocol, line by line.
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
        // On a busy machine a process that moves to another processor has its packets recorded before
        // those it sent from the one it left.
        tshark.args(["-o", "tcp.reassemble_out_of_order:TRUE"]);
        // Of what else was recorded it is not to find out by itself what it is.
        tshark.args(["--disable-heuristic", "http2_tcp"]);
        for port in &self.ports {
            tshark.args(["-d", &format!("tcp.port=={port},http2")]);
        }
        for field in fields {
            tshark.args(["-e", field]);
        }
        let output = tshark.stdin(Stdio::null()).output().context("run tshark")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "tshark ended with {}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The messages of one direction, as they are on the wire.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// How many.
    pub count: u64,
    /// How many of them are compressed.
    pub compressed: u64,
    /// Their bytes, compressed or not.
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

/// The calls that tshark sees, by path and code; [`CUT`] where no `grpc-status` was sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Calls(BTreeMap<(String, i32), u64>);

/// One stream, as far as it has been read.
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

    /// An error that shows the difference if clients tell of other calls than tshark. It cannot
    /// tell who cut a call, or why: clients call some so whose server has sent just that.
    pub fn agree(&self, clients: &Truth) -> Result<()> {
        let mut seen = BTreeMap::new();
        for ((path, code), calls) in &self.0 {
            *seen.entry((path.clone(), cut_code(*code))).or_insert(0) += calls;
        }
        Self(seen).is(&Self(clients.calls_with_cuts()), "clients")
    }

    /// Those without `grpc-status`, by path.
    pub fn without_status(&self) -> impl Iterator<Item = (&str, u64)> {
        let cut = self.0.iter().filter(|((_, code), _)| *code == CUT);
        cut.map(|((path, _), calls)| (path.as_str(), *calls))
    }

    /// Likewise, if raw peers made other calls, or sent another `grpc-status`, or none.
    fn are(&self, calls: Vec<Row>) -> Result<()> {
        let mut told = BTreeMap::new();
        for Row { method, code, sums, .. } in calls {
            *told.entry((method, code)).or_insert(0) += sums.calls;
        }
        self.is(&Self(told), "raw peers")
    }

    fn is(&self, told: &Self, by: &str) -> Result<()> {
        ensure!(!self.0.is_empty(), "tshark sees no call");
        let without = |of: &Self, others: &Self| {
            let differs =
                |(key, calls): &(&(String, i32), &u64)| others.0.get(*key) != Some(*calls);
            let lines = of.0.iter().filter(differs);
            lines.map(|(key, calls)| format!("\n    {key:?}: {calls}")).collect::<Vec<_>>().concat()
        };
        ensure!(
            self == told,
            "tshark sees other calls; those that differ\n  to tshark: {}\n  to {by}: {}",
            without(self, told),
            without(told, self)
        );
        Ok(())
    }
}

/// A packet's frames, and what is in them: tshark tells it field by field, each in the frames' order.
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
        let count: usize = counts.next().context("a header block without a count")?.parse()?;
        for _ in 0..count {
            let name = names.next().context("a header without a name")?;
            let text = texts.next().context("a header without a value")?;
            match name {
                // What a server sends once its client has reset the stream is no answer.
                "grpc-status" if !stream.reset => stream.code = Some(code(text)),
                ":path" => stream.path = Some(text.to_owned()),
                _ => {}
            }
        }
    }
    ensure!(names.next().is_none() && errors.next().is_none(), "more fields than frames");
    Ok(())
}

/// What is no code of gRPC's is `Unknown`.
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
    fn what_raw_peers_sent_is_demanded_both_ways() {
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
    fn what_it_does_not_understand_is_an_error() {
        assert!(Calls::parse(&PACKETS.replace("\t2\t", "\t3\t")).is_err());
        assert!(Calls::parse(&PACKETS.replace("\t2\t", "\t1\t")).is_err());
    }
}

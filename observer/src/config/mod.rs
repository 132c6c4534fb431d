//! The configuration of the daemon, as parsed types: a [`Config`] needs no further checks.
//!
//! [`crate::cli`] takes the texts from the command line, the environment or the file; they are parsed here (`FromStr`).
//! Every error is the end of the sentence "invalid value … for --flag: …", and says what to write instead.

#![forbid(unsafe_code)]

use std::fmt::{self, Display, Formatter};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use observer_common::selected::CGROUP_NAME;

use crate::failures;
use crate::metrics::{Buckets, ExpositionConfig, Recording};
use crate::otlp::OtlpConfig;
use crate::server::HostName;
use observer_core::{
    call::{CallProtocol, Relatives},
    edges::Peers,
    names::Pattern,
    process::{Grouping, ServiceNames},
};

/// The kernel's own type information (`CONFIG_DEBUG_INFO_BTF`).
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// All settings of the daemon, with their defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The connections that are watched.
    pub filter: Filter,
    /// The address of the page, `/metrics` and probes.
    pub listen: SocketAddr,
    /// A second address for probes.
    pub health_listen: Option<HealthListen>,
    /// Further host names for requests, if only this machine can connect to `listen`.
    pub allow_hosts: Vec<HostName>,
    /// The file with TLS and users of the HTTP server.
    pub web_config_file: Option<PathBuf>,
    /// Where in the kernel the BPF programs are attached.
    pub backend: Backend,
    /// The protocols that are watched.
    pub protocols: Protocols,
    /// The ports on which messages of Thrift may have no version.
    pub thrift_ports: Ports,
    /// The relatives of gRPC that are followed, too.
    pub relatives: Relatives,
    /// Whether connections with TLS are followed.
    pub tls: Tls,
    /// Upper bounds of the latency buckets.
    pub buckets: Buckets,
    /// Whether histograms also have exponential buckets.
    pub native_histograms: bool,
    /// The names and labels of the metrics.
    pub exposition: ExpositionConfig,
    /// The file with the declared types of methods.
    pub descriptor_set: Option<PathBuf>,
    /// Patterns for `service/method` whose calls are left out, sorted and unique.
    pub excluded: Vec<Pattern>,
    /// The names that processes' services are given.
    pub service_names: ServiceNames,
    /// The names of services that are not watched, for the service graph; `None` without `--service-graph`.
    pub service_graph: Option<Peers>,
    /// Whether the environment of other users' processes is read, for the names of services.
    pub service_environment: bool,
    /// Maximum number of methods per process that have series; further ones are counted as `other`.
    pub max_methods: usize,
    /// Maximum number of methods of all processes that have series; further ones are counted as `other`.
    pub max_series: usize,
    /// Maximum number of connections that are watched at the same time.
    pub max_connections: u32,
    /// Number of worker threads, each with a ring buffer of its own.
    pub workers: u32,
    /// The size of each ring buffer.
    pub ring_size: RingSize,
    /// How long series are kept after their process has exited.
    pub series_ttl: Duration,
    /// The file with the kernel's type information.
    pub btf: PathBuf,
    /// The lines for failed calls; `None` without `--log-errors`.
    pub log_errors: Option<failures::FailureLogConfig>,
    /// The export by OTLP; `None` without an endpoint.
    pub otlp: Option<OtlpConfig>,
    /// The server with the names of pods; `None` without `--kubernetes`.
    #[cfg(feature = "kubernetes")]
    pub kubernetes: Option<crate::kubernetes::Choice>,
    /// The addresses of the cluster that `service_graph` uses, by kind; empty without `--kubernetes-peers`.
    #[cfg(feature = "kubernetes")]
    pub cluster: Vec<observer_core::edges::Addresses>,
    /// The user to run as after startup, if started by root.
    pub run_as: Option<String>,
    /// The log filter.
    pub log: crate::log::Filter,
}

/// The protocols of connections that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// gRPC.
    pub grpc: bool,
    /// Thrift.
    pub thrift: bool,
}

impl Default for Protocols {
    fn default() -> Self {
        Self { grpc: true, thrift: false }
    }
}

impl Config {
    /// What each series records.
    pub fn recording(&self) -> Recording {
        let schemas = &self.exposition.schemas;
        let recording = schemas.recording(self.buckets.clone(), self.native_histograms);
        let is_exported = self.otlp.as_ref().is_some_and(|otlp| otlp.metrics.is_some());
        Recording { by_code: recording.by_code || is_exported, ..recording }
    }

    /// Whether Kubernetes names the pods of processes.
    pub fn names_pods(&self) -> bool {
        #[cfg(feature = "kubernetes")]
        return self.kubernetes.is_some();
        #[cfg(not(feature = "kubernetes"))]
        false
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)),
            health_listen: None,
            allow_hosts: Vec::new(),
            web_config_file: None,
            backend: Backend::default(),
            protocols: Protocols::default(),
            thrift_ports: Ports::default(),
            relatives: Relatives::default(),
            tls: Tls::default(),
            buckets: Buckets::default(),
            native_histograms: false,
            exposition: ExpositionConfig::default(),
            descriptor_set: None,
            excluded: Vec::new(),
            service_names: ServiceNames::default(),
            service_graph: None,
            service_environment: false,
            max_methods: 1000,
            max_series: 10_000,
            max_connections: 32_768,
            workers: default_workers(),
            ring_size: RingSize::default(),
            series_ttl: Duration::from_mins(5),
            btf: PathBuf::from(KERNEL_BTF),
            log_errors: None,
            otlp: None,
            #[cfg(feature = "kubernetes")]
            kubernetes: None,
            #[cfg(feature = "kubernetes")]
            cluster: Vec::new(),
            run_as: None,
            log: crate::log::Filter::default(),
        }
    }
}

/// An address that serves only probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthListen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

impl Display for HealthListen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for HealthListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => {
                Err(format!("'{text}' has no absolute path: write e.g. unix:/run/observer.sock"))
            }
            None => listen(text).map(Self::Tcp).map_err(|error| {
                format!("{error}; or a Unix socket, such as unix:/run/observer.sock")
            }),
        }
    }
}

/// The connections that are watched: port AND (pid OR comm OR uid OR cgroup). A side without entries selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// TCP ports that servers listen on.
    pub ports: Ports,
    /// Process IDs, sorted and unique.
    pub pids: Vec<u32>,
    /// Names of processes, sorted and unique.
    pub comms: Vec<Comm>,
    /// Real user IDs, sorted and unique.
    pub uids: Vec<u32>,
    /// Names of cgroups of version 2, sorted and unique.
    pub cgroups: Vec<CgroupName>,
    /// Whether descendants of the selected processes are selected too.
    pub children: bool,
}

impl Filter {
    /// Whether every cleartext gRPC connection of the node is watched.
    pub fn selects_all(&self) -> bool {
        self.ports.is_empty() && self.selects_all_processes()
    }

    /// Whether connections of every process are watched.
    pub fn selects_all_processes(&self) -> bool {
        let Self { ports: _, pids, comms, uids, cgroups, children: _ } = self;
        pids.is_empty() && comms.is_empty() && uids.is_empty() && cgroups.is_empty()
    }
}

/// A description for the log: `ports 50051,8000-8100 of pid 12 or comm python3, and their children`.
impl Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.selects_all() {
            return f.write_str("all cleartext gRPC of this node");
        }
        if self.ports.is_empty() {
            f.write_str("all ports")?;
        } else {
            write!(f, "ports {}", self.ports)?;
        }
        if self.selects_all_processes() {
            return f.write_str(" of all processes");
        }
        let (pids, comms) = (join(&self.pids), join(&self.comms));
        let (uids, cgroups) = (join(&self.uids), join(&self.cgroups));
        let processes = [("pid", pids), ("comm", comms), ("uid", uids), ("cgroup", cgroups)];
        let named = processes.into_iter().filter(|(_, those)| !those.is_empty());
        let named: Vec<String> = named.map(|(what, those)| format!("{what} {those}")).collect();
        write!(f, " of {}", named.join(" or "))?;
        if self.children { f.write_str(", and their children") } else { Ok(()) }
    }
}

fn join<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A port or a range of ports: `50051`, `8000-8100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    low: u16,
    high: u16,
}

impl PortRange {
    fn port(text: &str) -> Result<u16, String> {
        match digits::<u16>(text) {
            Some(port) if port > 0 => Ok(port),
            _ => Err(format!(
                "'{text}' is not a port: write a number from 1 to 65535, or a range such as \
                 8000-8100"
            )),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high) = (Self::port(low.trim())?, Self::port(high.trim())?);
        if low > high {
            return Err(format!("the port range ends before it starts: write {high}-{low}"));
        }
        Ok(Self { low, high })
    }
}

impl Display for PortRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}-{}", self.low, self.high)
        }
    }
}

/// An ordered set of ports, as ranges that neither overlap nor touch. An empty set stands for no filter: it selects every
/// port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports(Vec<PortRange>);

impl Ports {
    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All ports in ascending order; at most 65,535.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|range| range.low..=range.high)
    }
}

impl FromIterator<PortRange> for Ports {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut sorted: Vec<PortRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if range.low <= last.high.saturating_add(1) => {
                    last.high = last.high.max(range.high);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl Display for Ports {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&join(&self.0))
    }
}

/// The name of a cgroup: the last part of its path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CgroupName(String);

impl CgroupName {
    /// The longest name of a folder (`NAME_MAX`).
    const AT_MOST: usize = 255;

    /// The part of the name that the BPF programs compare, padded with zero bytes.
    pub fn bytes(&self) -> [u8; CGROUP_NAME] {
        padded(&self.0)
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CgroupName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name.is_empty() || name.len() > Self::AT_MOST || name.contains(['/', '\0']) {
            return Err(format!(
                "'{name}' is not the name of a cgroup: write the last part of its path, such as \
                 orders.service"
            ));
        }
        Ok(Self(name.to_owned()))
    }
}

impl Display for CgroupName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a process in the kernel: 1 to 15 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Comm(String);

impl Comm {
    /// `TASK_COMM_LEN` (`include/linux/sched.h`): the name and at least one zero byte.
    const LEN: usize = 16;

    /// The name as in the kernel's `task_struct`, padded with zero bytes.
    pub fn bytes(&self) -> [u8; Self::LEN] {
        padded(&self.0)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Comm {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name.is_empty() || name.contains('\0') {
            return Err("a process name has 1 to 15 bytes: write it as in /proc/PID/comm".into());
        }
        if name.len() >= Self::LEN {
            let (kept, _) = name.split_at(name.floor_char_boundary(Self::LEN - 1));
            return Err(format!(
                "the name has {} bytes, but the kernel cuts names at 15: write '{kept}', as in \
                 /proc/PID/comm",
                name.len()
            ));
        }
        Ok(Self(name.to_owned()))
    }
}

impl Display for Comm {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first bytes of a name, and at least one zero byte.
fn padded<const LEN: usize>(name: &str) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(LEN - 1)) {
        *to = from;
    }
    bytes
}

/// Where in the kernel the BPF programs are attached. The comments are the help of `--backend`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum Backend {
    /// The most complete one that this kernel allows.
    #[default]
    Auto,
    /// The kernel's tracepoints for socket transfers; Linux 6.3 or later.
    Socket,
    /// The TCP and Unix socket functions; for kernels that do not preempt.
    Fentry,
    /// The same functions, for kernels without fentry.
    Kprobe,
    /// The exits of system calls; slows down every process a little.
    Tracepoint,
}

impl Display for Backend {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("every backend can be chosen");
        f.write_str(value.get_name())
    }
}

/// Whether connections with TLS are followed. The comments are the help of `--tls`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum Tls {
    /// Follows the TLS libraries that it knows, if this kernel and the daemon's capabilities allow it.
    Auto,
    /// Follows none, and runs no process with capabilities.
    #[default]
    Off,
}

impl Display for Tls {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("every value can be chosen");
        f.write_str(value.get_name())
    }
}

/// The size of a ring buffer in bytes: a power of two and a multiple of the page size, as `BPF_MAP_TYPE_RINGBUF`
/// requires. The largest page size of any kernel is 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSize(u32);

impl RingSize {
    const AT_LEAST: u64 = 64 << 10;
    const AT_MOST: u64 = 1 << 30;

    /// The size in bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }
}

impl Default for RingSize {
    fn default() -> Self {
        Self(8 << 20)
    }
}

impl FromStr for RingSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = scaled(text, |unit| match unit {
            "" | "B" => Some(1),
            "K" | "KiB" => Some(1 << 10),
            "M" | "MiB" => Some(1 << 20),
            "G" | "GiB" => Some(1 << 30),
            _ => None,
        });
        let bytes = bytes.ok_or_else(|| {
            format!("'{text}' is not a size: write bytes, or for example 512KiB or 8MiB")
        })?;
        if !(Self::AT_LEAST..=Self::AT_MOST).contains(&bytes) {
            return Err(format!("{} is out of range: write 64KiB to 1GiB", size(bytes)));
        }
        if !bytes.is_power_of_two() {
            let above = bytes.next_power_of_two();
            return Err(format!(
                "{} is not a power of two, which the kernel requires: write {} or {}",
                size(bytes),
                size(above / 2),
                size(above)
            ));
        }
        Ok(Self(bytes as u32))
    }
}

impl Display for RingSize {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&size(u64::from(self.0)))
    }
}

fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

/// One worker for each 16 CPUs that the daemon may use, at least 1 and at most 4.
fn default_workers() -> u32 {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    (cpus / 16).clamp(1, 4) as u32
}

/// Parses the name of a protocol.
pub(crate) fn protocol(text: &str) -> Result<CallProtocol, String> {
    let named = |protocol: &CallProtocol| protocol.as_str() == text.trim();
    CallProtocol::ALL.into_iter().find(named).ok_or_else(|| {
        let names = CallProtocol::ALL.map(CallProtocol::as_str).join(", ");
        format!("there is no protocol '{text}': write one or more of {names}")
    })
}

/// Parses a process ID, at most `PID_MAX_LIMIT` of a 64-bit kernel (`include/linux/threads.h`).
pub(crate) fn pid(text: &str) -> Result<u32, String> {
    let pid = digits::<u32>(text.trim()).filter(|pid| (1..=1 << 22).contains(pid));
    pid.ok_or_else(|| {
        format!(
            "'{text}' is not a process ID: write a number, such as 4711; --comm selects by name"
        )
    })
}

/// Parses a user ID. The highest number is not a user (`INVALID_UID`).
pub(crate) fn uid(text: &str) -> Result<u32, String> {
    let uid = digits::<u32>(text.trim()).filter(|uid| *uid != u32::MAX);
    uid.ok_or_else(|| format!("'{text}' is not a user ID: write a number, as printed by id -u"))
}

/// Parses how long series are kept: `300`, `300s`, `5m`, `2h`, `1d`.
pub(crate) fn series_ttl(text: &str) -> Result<Duration, String> {
    let seconds = scaled(text, |unit| match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    });
    let seconds = seconds.ok_or_else(|| {
        format!("'{text}' is not a time: write seconds, or for example 90s, 5m, 2h or 1d")
    })?;
    if (1..=365 * 86_400).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    Err("the time is out of range: write 1s to 365d, and at least two scrape intervals, so that \
         the last numbers of a process are scraped"
        .into())
}

/// Parses what has series of its own.
pub(crate) fn grouping(text: &str) -> Result<Grouping, String> {
    match text.trim() {
        "process" => Ok(Grouping::Process),
        "service" => Ok(Grouping::Service),
        _ => Err(format!("'{text}' cannot have series: write process or service")),
    }
}

/// Parses a pattern for `service/method`; a slash in front, as in the request, does not count.
pub(crate) fn method_pattern(text: &str) -> Result<Pattern, String> {
    let text = text.trim();
    let pattern: Pattern = text.strip_prefix('/').unwrap_or(text).parse()?;
    if pattern.is_any() {
        return Err("it would leave out every call: write for example grpc.health.v1.*".into());
    }
    Ok(pattern)
}

/// Parses an IP address and a port.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| {
        format!(
            "'{text}' is not an IP address and port: write for example 127.0.0.1:9464 (this \
             machine only), 0.0.0.0:9464 (all IPv4 addresses) or [::]:9464 (all addresses)"
        )
    })
}

/// Parses a number with a unit; `unit` returns the factor of a unit.
fn scaled(text: &str, unit: fn(&str) -> Option<u64>) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, name) = text.split_at(end);
    digits::<u64>(number)?.checked_mul(unit(name.trim())?)
}

/// Parses an integer like `str::parse`, but without a sign.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests;

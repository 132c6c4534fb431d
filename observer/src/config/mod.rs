//! What the daemon was told to do, as parsed types: whoever holds a [`Config`] need check nothing.
//!
//! The texts are read here (`FromStr`), whatever they come from; [`crate::cli`] says where from.
//! Every error is the end of a sentence "invalid value … for --flag: …", and says what to write
//! instead.

#![forbid(unsafe_code)]

use std::fmt::{self, Display, Formatter};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use observer_common::selected::CGROUP_NAME;

use crate::failures;
use crate::metrics::{Buckets, ExpositionConfig};
use crate::server::HostName;

/// Where the kernel publishes its own type information (`CONFIG_DEBUG_INFO_BTF`).
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Everything that can be chosen, with its default.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Whose calls are watched.
    pub filter: Filter,
    /// Where `/metrics` is served.
    pub listen: SocketAddr,
    /// Where else probes are answered.
    pub health_listen: Option<HealthListen>,
    /// Names that it may be asked by where only this machine reaches it.
    pub allow_hosts: Vec<HostName>,
    /// TLS and users of what is served there.
    pub web_config_file: Option<PathBuf>,
    /// How the kernel programs are attached.
    pub backend: Backend,
    /// Upper bounds of the latency histograms.
    pub buckets: Buckets,
    /// Whether the histograms also have exponential buckets.
    pub native_histograms: bool,
    /// By which names the calls are told.
    pub exposition: ExpositionConfig,
    /// The types that methods were declared with.
    pub descriptor_set: Option<PathBuf>,
    /// Methods that each process may have series for; further ones are counted as `other`.
    pub max_methods: usize,
    /// Series of calls that there may be; calls of further methods and processes are counted as
    /// `other`.
    pub max_series: usize,
    /// Connections that the kernel programs keep state of at once.
    pub max_connections: u32,
    /// Threads that follow calls, each with a ring buffer of its own.
    pub workers: u32,
    /// Size of each ring buffer between kernel and daemon.
    pub ring_size: RingSize,
    /// How long the series of a process are kept after it exited.
    pub series_ttl: Duration,
    /// The kernel's type information.
    pub btf: PathBuf,
    /// What is told of failed calls, if anything is.
    pub log_errors: Option<failures::FailureLogConfig>,
    /// Who is asked for the names of pods, if anybody is.
    #[cfg(feature = "kubernetes")]
    pub kubernetes: Option<crate::kubernetes::Choice>,
    /// Whom a daemon that root has started goes on as.
    pub run_as: Option<String>,
    /// What is logged.
    pub log: crate::log::Filter,
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
            buckets: Buckets::default(),
            native_histograms: false,
            exposition: ExpositionConfig::default(),
            descriptor_set: None,
            max_methods: 1000,
            max_series: 10_000,
            max_connections: 32_768,
            workers: default_workers(),
            ring_size: RingSize::default(),
            series_ttl: Duration::from_mins(5),
            btf: PathBuf::from(KERNEL_BTF),
            log_errors: None,
            #[cfg(feature = "kubernetes")]
            kubernetes: None,
            run_as: None,
            log: crate::log::Filter::default(),
        }
    }
}

/// Where probes are answered, beside where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthListen {
    /// By TCP.
    Tcp(SocketAddr),
    /// By a Unix socket with this name.
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

/// Which connections are watched: port AND (pid OR comm OR uid OR cgroup). Without a port, and without any of the
/// others, that side selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// TCP ports that are listened on.
    pub ports: Ports,
    /// Processes, sorted, each once.
    pub pids: Vec<u32>,
    /// Names of processes, sorted, each once.
    pub comms: Vec<Comm>,
    /// Real user ids of processes, sorted, each once.
    pub uids: Vec<u32>,
    /// Names of control groups of version 2, sorted, each once.
    pub cgroups: Vec<CgroupName>,
    /// Whether what `pids`, `comms`, `uids` and `cgroups` select includes the descendants of these processes.
    pub children: bool,
}

impl Filter {
    /// Whether every cleartext gRPC connection of the node is watched.
    pub fn selects_all(&self) -> bool {
        self.ports.is_empty() && self.selects_all_processes()
    }

    /// Whether connections are watched whosever they are.
    pub fn selects_all_processes(&self) -> bool {
        let Self { ports: _, pids, comms, uids, cgroups, children: _ } = self;
        pids.is_empty() && comms.is_empty() && uids.is_empty() && cgroups.is_empty()
    }
}

/// For the log: `ports 50051,8000-8100 of pid 12 or comm python3, and their children`.
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

/// One port, or all from a low to a high one: `50051`, `8000-8100`.
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

/// An ordered set of ports, kept as ranges that neither overlap nor touch. Without any range it
/// is the filter that is not there, not one that selects nothing: see [`Filter`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports(Vec<PortRange>);

impl Ports {
    /// Whether no port was named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `port` is one of them. O(log ranges).
    pub fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|range| range.low <= port);
        after.checked_sub(1).and_then(|i| self.0.get(i)).is_some_and(|range| port <= range.high)
    }

    /// Each port once, ascending; at most 65 535.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges().flatten()
    }

    /// The ranges, ascending, with a gap between each two.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> + '_ {
        self.0.iter().map(|range| range.low..=range.high)
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

/// The name of a control group: the last part of its path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CgroupName(String);

impl CgroupName {
    /// The longest name of a folder (`NAME_MAX`).
    const AT_MOST: usize = 255;

    /// As far as the kernel programs compare it, with zeros behind it.
    pub fn bytes(&self) -> [u8; CGROUP_NAME] {
        let mut bytes = [0; CGROUP_NAME];
        for (to, from) in bytes.iter_mut().zip(self.0.bytes().take(CGROUP_NAME - 1)) {
            *to = from;
        }
        bytes
    }

    /// The name.
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
        f.write_str(self.as_str())
    }
}

/// The name that the kernel keeps of a process: 1 to 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comm([u8; Self::LEN]);

impl Comm {
    /// `TASK_COMM_LEN` (`include/linux/sched.h`): the name and at least one zero byte.
    pub const LEN: usize = 16;

    /// As in the kernel's `task_struct`: padded with zero bytes.
    pub fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The name alone.
    pub fn as_str(&self) -> &str {
        let name = self.0.split(|&byte| byte == 0).next().unwrap_or_default();
        str::from_utf8(name).expect("made of a str that was not cut")
    }
}

impl FromStr for Comm {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name.is_empty() || name.contains('\0') {
            return Err("a process name has 1 to 15 bytes: write it as in /proc/PID/comm".into());
        }
        let mut bytes = [0; Self::LEN];
        match bytes.get_mut(..name.len()) {
            Some(place) if name.len() < Self::LEN => place.copy_from_slice(name.as_bytes()),
            _ => {
                let kept = name.floor_char_boundary(Self::LEN - 1);
                let kept = name.get(..kept).unwrap_or_default();
                return Err(format!(
                    "the name has {} bytes, but the kernel cuts names at 15: write '{kept}', as in \
                     /proc/PID/comm",
                    name.len()
                ));
            }
        }
        Ok(Self(bytes))
    }
}

impl Display for Comm {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Comm({:?})", self.as_str())
    }
}

/// How the kernel programs are attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The best that this kernel allows.
    #[default]
    Auto,
    /// At the kernel's tracepoints of socket transfers.
    Socket,
    /// At the kernel's TCP and Unix socket functions, by trampoline.
    Fentry,
    /// At the same functions, by breakpoint.
    Kprobe,
    /// At the exits of the system calls that read and write.
    Tracepoint,
}

impl Backend {
    /// All of them, in the order in which help lists them.
    pub const ALL: [Self; 5] =
        [Self::Auto, Self::Socket, Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// As it is written on the command line and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Socket => "socket",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

impl Display for Backend {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|backend| backend.name() == text)
            .ok_or_else(|| format!("'{text}' is not one of {}", join(&Self::ALL)))
    }
}

/// Bytes of a ring buffer: a power of two, and whole pages whatever the page size (64 KiB at
/// most on the kernels there are), as `BPF_MAP_TYPE_RINGBUF` demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSize(u32);

impl RingSize {
    const AT_LEAST: u64 = 64 << 10;
    const AT_MOST: u64 = 1 << 30;

    /// The bytes.
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

/// One for each 16 processors that the daemon may use, up to 4.
fn default_workers() -> u32 {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    (processors / 16).clamp(1, 4) as u32
}

/// Reads a process id, which has a bound: `PID_MAX_LIMIT` of a 64-bit kernel (`include/linux/threads.h`).
pub(crate) fn pid(text: &str) -> Result<u32, String> {
    let pid = digits::<u32>(text.trim()).filter(|pid| (1..=1 << 22).contains(pid));
    pid.ok_or_else(|| {
        format!(
            "'{text}' is not a process ID: write a number, such as 4711; --comm selects by name"
        )
    })
}

/// Reads a user id. The highest number is no user (`INVALID_UID`).
pub(crate) fn uid(text: &str) -> Result<u32, String> {
    let uid = digits::<u32>(text.trim()).filter(|uid| *uid != u32::MAX);
    uid.ok_or_else(|| format!("'{text}' is not a user ID: write a number, as printed by id -u"))
}

/// Reads how long series are kept: `300`, `300s`, `5m`, `2h`, `1d`.
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

/// Reads where to listen.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| {
        format!(
            "'{text}' is not an IP address and port: write for example 127.0.0.1:9464 (this \
             machine only), 0.0.0.0:9464 (all IPv4 addresses) or [::]:9464 (all addresses)"
        )
    })
}

/// Reads a number and its unit, which is so many.
fn scaled(text: &str, unit: fn(&str) -> Option<u64>) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, name) = text.split_at(end);
    digits::<u64>(number)?.checked_mul(unit(name.trim())?)
}

/// `str::parse` of an integer, without the sign that it lets through.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests;

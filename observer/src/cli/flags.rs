//! The subcommands and the flags: their names, values and help.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use observer_common::record::MAX_RINGS;

use crate::config::{
    Backend, CgroupName, Comm, Config, HealthListen, KERNEL_BTF, PortRange, RingSize, Tls,
    grouping, listen, method_pattern, pid, protocol, series_ttl, uid,
};
#[cfg(feature = "kubernetes")]
use crate::kubernetes;
use crate::metrics::Schema;
use crate::metrics::view::Order;
use crate::otlp::Protocol;
use crate::server::HostName;
use crate::top::Address;
use crate::{failures, log};
use observer_core::call::CallProtocol;
use observer_core::edges::PeerName;
use observer_core::names::{Network, Pattern};
use observer_core::process::{Detail, Grouping, ServiceName};

/// Watches gRPC from outside the services and publishes metrics for Prometheus
///
/// BPF programs in the kernel read what the sockets of this node's services send and receive. The
/// daemon decodes it and publishes calls, status codes, messages and latency per process and method
/// at /metrics. No service is changed or restarted. Without any flag it watches all cleartext gRPC
/// of the node: servers and clients, over TCP and Unix sockets.
#[derive(Debug, Parser)]
#[command(name = "observer", version, disable_help_subcommand = true, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) options: Options,
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Checks what this kernel allows, prints which backend would be used, and exits
    ///
    /// Takes the same flags as the daemon. Starts nothing. The exit code is 0 if the daemon could
    /// start.
    Check,
    /// Prints a completion script for a shell
    ///
    /// Example: observer completions bash > /etc/bash_completion.d/observer
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Prints this help as a manual page
    ///
    /// Example: observer man | man --local-file -
    Man,

    /// Lists the connections of each process by protocol, with the reason why some are not measured
    ///
    /// It answers the question: why is my service not shown? It asks the daemon at --address.
    /// Without --address it asks the daemon at --listen, if one answers there and no filter is
    /// given. Otherwise it watches by itself for 3 seconds, and needs the same privileges as the
    /// daemon.
    Connections(Connections),

    /// Shows in a terminal what a daemon sees, live or once
    ///
    /// It asks the daemon at --address. Without --address it asks the daemon at --listen, if one
    /// answers there and no filter is given. Otherwise it watches by itself until you quit, and
    /// needs the same privileges as the daemon. If the daemon uses --web-config-file, give
    /// --ca-file, --user and a password. Press ? for the keys.
    Top(Top),
}

/// The daemon that a command asks, and the credentials for it.
#[derive(Debug, Args)]
pub(super) struct Asked {
    /// URL of the daemon to ask, such as http://127.0.0.1:9464 or https://node-7:9464
    #[arg(long, value_name = "URL")]
    pub(super) address: Option<Address>,

    /// File with the CA certificate (PEM) that signed the certificate of a daemon with TLS
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,

    /// User name for a daemon that asks for a password
    #[arg(long, value_name = "NAME")]
    pub(super) user: Option<String>,

    /// File whose first line is the password of --user; or set OBSERVER_PASSWORD
    #[arg(long, value_name = "FILE", requires = "user")]
    pub(super) password_file: Option<PathBuf>,

    /// Sends the password even without TLS, where others could read it
    ///
    /// Not needed for a daemon on this machine if root, the daemon's own user or the user that runs
    /// this command listens on the address.
    #[arg(long, requires = "user")]
    pub(super) allow_plaintext_password: bool,
}

#[derive(Debug, Args)]
pub(super) struct Connections {
    #[command(flatten)]
    pub(super) asked: Asked,

    /// Prints JSON for scripts, the same as /api/v1/connections
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Top {
    #[command(flatten)]
    pub(super) asked: Asked,

    /// Prints one snapshot of at least one second, and exits
    #[arg(long, requires = "format")]
    pub(super) once: bool,

    /// With --once: prints a table, as wide as the terminal, or COLUMNS, or 80 columns
    #[arg(long, requires = "once", group = "format")]
    pub(super) table: bool,

    /// With --once: prints JSON for scripts, the same as /api/v1/view
    #[arg(long, requires = "once", group = "format")]
    pub(super) json: bool,

    /// Sorts rows by this column, the largest number first
    #[arg(long, value_name = "COLUMN", default_value = "errors")]
    pub(super) sort: Order,

    /// Shows only rows that contain all these words, such as "server orders"
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub(super) filter: String,
}

/// The flags of the daemon, by their heading in the help.
///
/// For each flag, the first paragraph is the text of `-h`; the others have syntax and an example. [`super::help`] adds
/// the default and the environment variable.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) watched: Watched,
    #[command(flatten)]
    pub(super) published: Published,
    #[command(flatten)]
    pub(super) kernel: InKernel,
    #[command(flatten)]
    pub(super) general: General,
    #[command(flatten)]
    pub(super) failed_calls: FailedCalls,
    #[command(flatten)]
    pub(super) otlp: Otlp,
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    pub(super) kubernetes: Kubernetes,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What is watched")]
pub(super) struct Watched {
    /// Watches only connections to these TCP ports
    ///
    /// Numbers from 1 to 65535 and ranges, comma separated or repeated. A port is the one that the
    /// server listens on, whether the server or the client runs on this node. The client's own port
    /// does not count. Unix sockets have no port: with --port they are not watched.
    ///
    /// Example: --port 50051,8000-8100
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    pub(super) port: Vec<PortRange>,

    /// Protocols that are watched
    ///
    /// One or more, comma separated or repeated: grpc, grpc-web, connect and thrift. Calls of
    /// gRPC-Web and Connect are counted in the metrics of gRPC, with the additional label
    /// grpc_protocol; they need grpc. They are followed over HTTP/2 and, without TLS, over HTTP/1.1.
    /// Thrift connections are recognized by the first bytes of a message in the strict binary
    /// protocol or the compact protocol, with or without frames or headers (THeader). Their calls
    /// have metrics of their own (thrift_server_started_total and similar). With thrift alone, gRPC
    /// is not watched, and has no metrics.
    ///
    /// Example: --protocol grpc,thrift
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',', value_parser = protocol)]
    #[arg(default_values_t = [CallProtocol::Grpc])]
    pub(super) protocol: Vec<CallProtocol>,

    /// Ports of Thrift services whose messages have no version
    ///
    /// Servers and clients with the non-strict binary protocol (TBinaryProtocol with strictWrite or
    /// strict_write off) send messages that begin with a name. That looks like many other protocols,
    /// so these messages are recognized on these ports only. Other messages of Thrift are recognized
    /// there, too. Needs thrift in --protocol. Syntax as for --port. It does not limit which ports
    /// are watched.
    ///
    /// Example: --thrift-port 9090,9100-9110
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    pub(super) thrift_port: Vec<PortRange>,

    /// Watches only these processes, by process ID
    ///
    /// Numbers as ps shows them, comma separated or repeated. Each process must be running when
    /// observer starts. Together with --comm, --uid or --cgroup, a process that matches one of them
    /// is watched.
    ///
    /// Example: --pid 4711,4712
    #[arg(long, value_name = "PID", value_delimiter = ',', value_parser = pid)]
    pub(super) pid: Vec<u32>,

    /// Watches only processes with these names
    ///
    /// Names as in /proc/PID/comm, whole and case sensitive, comma separated or repeated. The
    /// kernel cuts names at 15 bytes. A process that starts later, or takes the name later, is
    /// watched too. It stays watched under other names until it executes another program. Names of
    /// threads do not count. Together with --pid, --uid or --cgroup, a process that matches one of
    /// them is watched.
    ///
    /// Example: --comm python3,greeter
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) comm: Vec<Comm>,

    /// Watches only processes of these users
    ///
    /// Numeric real user IDs, comma separated or repeated. A process chooses its own name, but not
    /// its user. Together with --pid, --comm or --cgroup, a process that matches one of them is
    /// watched.
    ///
    /// Example: --uid 1000,65534
    #[arg(long, value_name = "UID", value_delimiter = ',', value_parser = uid)]
    pub(super) uid: Vec<u32>,

    /// Watches only processes in these cgroups, or in cgroups below them
    ///
    /// Names, not paths, comma separated or repeated: of a systemd unit, such as orders.service or
    /// kubepods.slice, or of a container. The first 63 bytes count. Units that start later are
    /// watched too. Only cgroups of version 2 count. Together with --pid, --comm or --uid, a
    /// process that matches one of them is watched.
    ///
    /// Example: --cgroup orders.service,kubepods.slice
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) cgroup: Vec<CgroupName>,

    /// Also watches the descendants of the selected processes
    ///
    /// Use it for servers that fork their workers. Workers that already run are included, unless
    /// their parent has exited. It needs at least one of --pid, --comm, --uid and --cgroup.
    /// --children=false overrides the environment and the config file.
    ///
    /// Example: --pid 4711 --children
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    #[arg(action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub(super) children: bool,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
#[command(next_help_heading = "What is published")]
pub(super) struct Published {
    /// Serves the page, /metrics, /healthz and /readyz at this address
    ///
    /// An IP address and a port. Everyone who can reach it can read the names of services and
    /// processes. 127.0.0.1 can be reached from this machine only.
    ///
    /// Example: --listen 0.0.0.0:9464, or --listen [::]:9464 for IPv6 as well
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen)]
    #[arg(default_value_t = Config::default().listen)]
    pub(super) listen: std::net::SocketAddr,

    /// Also serves /healthz and /readyz at this address
    ///
    /// An IP address and a port, or unix: and the path of a Unix socket that every user may connect
    /// to. It serves nothing else, without TLS and without a password. Connections to --listen
    /// cannot block probes here.
    ///
    /// Example: --health-listen 0.0.0.0:9465, or --health-listen unix:/run/observer/health.sock
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) health_listen: Option<HealthListen>,

    /// Host names that requests may use if --listen is 127.0.0.1 or ::1
    ///
    /// Comma separated or repeated. On these addresses a request must name an IP address or
    /// localhost as its host. This keeps web pages from reading the metrics through a browser with
    /// a host name of their own. If a proxy on this machine forwards another host name, list it
    /// here.
    ///
    /// Example: --allow-host node-7.example.org
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) allow_host: Vec<HostName>,

    /// Schema of the metrics about calls: their names and labels
    ///
    /// One or more, comma separated or repeated: go (go-grpc-prometheus, go-grpc-middleware),
    /// python (py-async-grpc-prometheus), legacy (the same with legacy=True), requests
    /// (grpc_requests_total) and otel (OpenTelemetry). go cannot be combined with python or legacy,
    /// because they use the same names with other label values. Metrics that no library has (calls
    /// in flight, bytes, first message, connections) are published with every schema.
    ///
    /// Example: --schema go,otel
    #[arg(long, value_name = "SCHEMA", value_delimiter = ',', default_values_t = [Schema::Go])]
    pub(super) schema: Vec<Schema>,

    /// Leaves out the calls of these methods
    ///
    /// Patterns for service/method, comma separated or repeated; for Thrift methods without a
    /// service, /method. * stands for any text, also with dots and slashes; all other characters
    /// stand for themselves. Such calls are in no metric of calls, on no page and in no line of
    /// --log-errors. observer_excluded_calls_total counts them. A call whose method was not seen is
    /// not left out.
    ///
    /// Example: --exclude 'grpc.health.v1.*,grpc.reflection.*'
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = method_pattern)]
    pub(super) exclude: Vec<Pattern>,

    /// Config file for TLS and passwords of the HTTP server
    ///
    /// YAML in the format of Prometheus' own exporters: tls_server_config (cert_file, key_file,
    /// client_auth_type, client_ca_file, min_version and others), http_server_config (headers) and
    /// basic_auth_users (a bcrypt hash per user name). The file, and the files that it names, are
    /// read again when they change.
    ///
    /// Example: --web-config-file /etc/observer/web.yml
    #[arg(long, visible_alias = "web.config.file", value_name = "FILE")]
    pub(super) web_config_file: Option<PathBuf>,

    /// Upper bounds of the latency buckets, in seconds
    ///
    /// 1 to 64 numbers in ascending order, comma separated or repeated. +Inf is always added. Each
    /// bound is one more series per method and process. The default has the buckets of the
    /// libraries whose schemas are used, and finer ones below 5 ms.
    ///
    /// Example: --buckets 0.001,0.01,0.1,1
    #[arg(long, value_name = "SECONDS", value_delimiter = ',')]
    pub(super) buckets: Vec<String>,

    /// Adds native histograms to the classic buckets
    ///
    /// For scrapers that ask for Prometheus' protobuf format, as Prometheus does with
    /// scrape_native_histograms. Bounds are 9 % apart, or more if there would be over 100 buckets.
    /// Each histogram takes up to 1.7 kB more memory.
    ///
    /// Example: --native-histograms
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    #[arg(action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub(super) native_histograms: bool,

    /// Adds _created timestamps to the OpenMetrics text
    ///
    /// They say since when a counter counts. A Prometheus that does not know them stores each as a
    /// series of its own; --created=false leaves them out. The protobuf format always has them, and
    /// they cost no series there.
    ///
    /// Example: --created=false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "true", default_missing_value = "true", hide_possible_values = true)]
    #[arg(action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub(super) created: bool,

    /// File with the declared types of methods (`grpc_type`)
    ///
    /// A FileDescriptorSet, as written by protoc --descriptor_set_out. The type of a method is not
    /// on the wire. Without this file, it is derived from the messages seen. Read again at SIGHUP.
    ///
    /// Example: --descriptor-set shop.pb
    #[arg(long, value_name = "FILE")]
    pub(super) descriptor_set: Option<PathBuf>,

    /// Maximum number of methods per process that have series
    ///
    /// From 1 to 100000. Peers choose method names and may invent them. Further methods are counted
    /// together as "other".
    ///
    /// Example: --max-methods 200
    #[arg(long, value_name = "N", default_value_t = Config::default().max_methods as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) max_methods: u32,

    /// Maximum number of methods of all processes that have series
    ///
    /// From 1 to 1000000. Each takes less than 10 KiB of memory. Further methods are counted
    /// together as "other", per process as long as there is room. One process gets at most a
    /// quarter of what is still free. Near the memory limit of its cgroup, the daemon takes no new
    /// methods, whatever this flag says.
    ///
    /// Example: --max-series 5000
    #[arg(long, value_name = "N", default_value_t = Config::default().max_series as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) max_series: u32,

    /// Puts these labels of the process on every series
    ///
    /// Comma separated or repeated: exe, cmdline_hash (a hash of the arguments), container_id,
    /// container_runtime, pod_uid, namespace and pod (with --kubernetes), systemd_unit, cgroup (its
    /// path), uid (the real user ID), service, service_namespace and service_instance_id. A label is
    /// empty if its value is not known. A process chooses its own name, but neither its uid nor its
    /// systemd_unit. Without this flag the labels are only on observer_process_info, to join by pid
    /// and process. exe of other users' processes
    /// needs CAP_SYS_PTRACE, which the daemon keeps only with --labels exe.
    ///
    /// Example: --labels uid,systemd_unit
    #[arg(long, value_name = "LABEL", value_delimiter = ',')]
    pub(super) labels: Vec<Detail>,

    /// Publishes series for each process, or for each service
    ///
    /// process or service. Series of a service have the labels service and service_namespace
    /// instead of pid and process, and are the sums of its processes. They go on when a process
    /// exits and another one starts, and end --series-ttl after the last one has exited. A process
    /// has no series until its service is known, one or two seconds after its first call.
    ///
    /// Example: --by service
    #[arg(long, value_name = "WHAT", value_parser = grouping, default_value = "process")]
    pub(super) by: Grouping,

    /// Names the service of processes, whatever they say themselves
    ///
    /// PATTERN=NAME, comma separated or repeated: the first one that matches counts. PATTERN is
    /// compared with the name of the process, the label process; * stands for any text. Without a
    /// match, the name of the service is from the process's environment (OTEL_SERVICE_NAME), from
    /// Kubernetes, the systemd unit, or what the process runs, in this order.
    ///
    /// Example: --service-name 'shop-*=shop'
    #[arg(long, value_name = "PATTERN=NAME", value_delimiter = ',')]
    pub(super) service_name: Vec<ServiceName>,

    /// Publishes which service calls which: the service graph
    ///
    /// Counts and durations of calls by client and server, under the names that Grafana reads
    /// (traces_service_graph_request_total and others), and by method and status code
    /// (grpc_edge_handled_total). The page and observer top show a map. Each client and server that
    /// call each other are one more series for each method. --max-series is also the bound on these.
    ///
    /// Example: --service-graph
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    #[arg(action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub(super) service_graph: bool,

    /// Names services that are not watched, by their address, for --service-graph
    ///
    /// NETWORK=NAME, comma separated or repeated: the first one that has the address counts. NETWORK
    /// is an IP address, or one with a prefix. The address is the one that the watched process sees.
    /// A server without a name is called what its client asked for (:authority), if that is not an
    /// address, and other services are called unknown. Processes on this node need no name.
    ///
    /// Example: --peer-name 10.0.7.0/24=billing
    #[arg(long, value_name = "NETWORK=NAME", value_delimiter = ',')]
    pub(super) peer_name: Vec<PeerName>,

    /// Reads the names of services from the environment of other users' processes
    ///
    /// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, the package.json of Node.js programs, and the
    /// names of containers in the files of their runtime. It needs CAP_SYS_PTRACE and
    /// CAP_DAC_READ_SEARCH, which the daemon then keeps. Without this flag, the daemon can read only
    /// processes of its own user.
    ///
    /// Example: --service-environment
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    #[arg(action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub(super) service_environment: bool,

    /// How long series are kept after their process has exited
    ///
    /// Seconds, or a number with s, m, h or d. Use at least two scrape intervals. Otherwise
    /// Prometheus misses the last numbers of a process.
    ///
    /// Example: --series-ttl 1h
    #[arg(long, value_name = "TIME", value_parser = series_ttl, default_value = "5m")]
    pub(super) series_ttl: Duration,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "In the kernel")]
pub(super) struct InKernel {
    /// Where in the kernel the BPF programs are attached
    ///
    /// The backends differ in what they need, what they cost, and what they miss. `observer check`
    /// shows which one `auto` picks on this machine, and why.
    ///
    /// Example: --backend socket
    #[arg(long, value_name = "BACKEND", default_value_t = Backend::Auto)]
    pub(super) backend: Backend,

    /// Whether connections with TLS are followed
    ///
    /// With auto, the daemon looks for TLS libraries in the files that processes have mapped, and
    /// attaches a BPF program to their functions that read and write. It needs CAP_SYS_PTRACE,
    /// CAP_DAC_READ_SEARCH and CAP_CHECKPOINT_RESTORE, which a process of its own keeps, and before
    /// Linux 6.6 also CAP_SYS_ADMIN. Without them it follows cleartext only, and says so.
    ///
    /// Example: --tls auto
    #[arg(long, value_name = "MODE", default_value_t = Tls::default())]
    pub(super) tls: Tls,

    /// Maximum number of connections watched at the same time
    ///
    /// From 1 to 4194304. More take more kernel memory. Connections beyond the limit are counted,
    /// but not watched.
    ///
    /// Example: --max-connections 4096
    #[arg(long, value_name = "N", default_value_t = Config::default().max_connections)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub(super) max_connections: u32,

    /// Number of worker threads, each with a ring buffer of its own
    ///
    /// From 1 to 8. All records of a connection go to one worker. One worker follows about 500,000
    /// calls per second. Use more if the node makes more calls, or if many CPUs contend for one
    /// ring.
    ///
    /// Example: --workers 4
    #[arg(long, value_name = "N", value_parser = workers())]
    pub(super) workers: Option<u32>,

    /// Size of each ring buffer between the kernel and the daemon
    ///
    /// Bytes, or a number with KiB, MiB or GiB: a power of two from 64KiB to 1GiB. Each of the
    /// --workers has one ring. A larger ring absorbs longer bursts. Records that find the ring full
    /// are dropped and counted.
    ///
    /// Example: --ring-size 32MiB
    #[arg(long, value_name = "BYTES", default_value_t = RingSize::default())]
    pub(super) ring_size: RingSize,

    /// File with the kernel's type information (BTF)
    ///
    /// For kernels that are built without CONFIG_DEBUG_INFO_BTF. The file must be made for exactly
    /// the kernel that runs.
    ///
    /// Example: --btf /usr/lib/btf/5.10.0-21-amd64.btf
    #[arg(long, value_name = "PATH", default_value = KERNEL_BTF)]
    pub(super) btf: PathBuf,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "General")]
pub(super) struct General {
    /// Level of the log, which goes to stderr
    ///
    /// A level (off, error, warn, info, debug, trace), or levels per module, comma separated.
    ///
    /// Example: --log warn,observer::kernel=debug
    #[arg(long, value_name = "FILTER", default_value_t = log::Filter::default())]
    pub(super) log: log::Filter,

    /// User to run as after startup, if started by root
    ///
    /// A name in /etc/passwd, a UID, or UID:GID. The user must be able to read the files that are
    /// read again while the daemon runs. With root, the daemon stays root, without capabilities.
    ///
    /// Example: --run-as prometheus
    #[arg(long, value_name = "USER")]
    pub(super) run_as: Option<String>,

    /// Config file (TOML) with further settings
    ///
    /// Its keys are the long flags without the dashes. Lists are arrays or strings. A key that is
    /// not a flag is an error.
    ///
    /// Example: --config /etc/observer.toml
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Failed calls")]
pub(super) struct FailedCalls {
    /// Writes one line of JSON to stdout for each failed call
    ///
    /// With time, process, service, method, code, message, peer, duration and trace ID. A call
    /// between two watched processes has a line for each end. Messages may contain confidential
    /// data: see --log-errors-omit.
    ///
    /// Example: --log-errors
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    #[arg(action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub(super) log_errors: bool,

    /// Maximum lines of --log-errors per second, on average
    ///
    /// From 1 to 10000, which is also the largest burst. After lines were left out, the next line
    /// has their number, as "suppressed".
    ///
    /// Example: --log-errors-rate 100
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) log_errors_rate: u32,

    /// Fields to leave out of the lines of --log-errors
    ///
    /// Comma separated or repeated: code, duration_seconds, message, method, peer, pid, process,
    /// request_messages, response_messages, role, service, service_name, trace_id.
    ///
    /// Example: --log-errors-omit message,peer
    #[arg(long, value_name = "FIELD", value_delimiter = ',', hide_possible_values = true)]
    pub(super) log_errors_omit: Vec<failures::Field>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Export by OTLP")]
pub(super) struct Otlp {
    /// URL of an OpenTelemetry collector that gets metrics, and a span for each end of each call
    ///
    /// With http/protobuf, /v1/traces and /v1/metrics are added to its path. Nothing is exported
    /// without this flag and OTEL_EXPORTER_OTLP_ENDPOINT. OTEL_TRACES_EXPORTER=none and
    /// OTEL_METRICS_EXPORTER=none turn one of the two off. Headers, TLS,
    /// compression, sampling, batches and time limits are set with OpenTelemetry's own variables,
    /// such as OTEL_EXPORTER_OTLP_HEADERS and OTEL_TRACES_SAMPLER.
    ///
    /// Example: --otlp-endpoint http://127.0.0.1:4318
    #[arg(long, value_name = "URL")]
    pub(super) otlp_endpoint: Option<String>,

    /// Protocol of the collector
    ///
    /// http/protobuf is usual on port 4318, grpc on port 4317. Without this flag,
    /// OTEL_EXPORTER_OTLP_PROTOCOL counts, and then http/protobuf.
    ///
    /// Example: --otlp-protocol grpc
    #[arg(long, value_name = "PROTOCOL")]
    pub(super) otlp_protocol: Option<Protocol>,

    /// Networks whose clients are watched by other daemons
    ///
    /// IP addresses with a prefix, comma separated or repeated. The span of a server becomes the
    /// child of its client's span if a daemon watches the client. A daemon knows that of its own
    /// node only; of other nodes it must be given their networks, as its servers see them. With
    /// --service-graph, the calls of these clients are counted by the other daemons only.
    ///
    /// Example: --otlp-watched 10.0.0.0/8,fd00::/8
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub(super) otlp_watched: Vec<Network>,
}

#[cfg(feature = "kubernetes")]
#[derive(Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub(super) struct Kubernetes {
    /// URL of the kubelet or API server to ask for the names of this node's pods
    ///
    /// For the labels namespace and pod. It is a kubelet without --kubernetes-node, and the API
    /// server with it. observer asks when a process of an unknown pod appears, at most every 10
    /// seconds. Scrapes do not wait for the answer.
    ///
    /// Example: --kubernetes https://10.0.0.7:10250
    #[arg(long, value_name = "URL", value_parser = kubernetes::server)]
    pub(super) kubernetes: Option<hyper::Uri>,

    /// Name of the node whose pods the API server is asked for
    ///
    /// The node's name in Kubernetes. Without this flag, --kubernetes is a kubelet, which knows
    /// only its own pods.
    ///
    /// Example: --kubernetes-node worker-7
    #[arg(long, value_name = "NAME")]
    pub(super) kubernetes_node: Option<String>,

    /// Names the other ends of edges by the cluster's pods and Services
    ///
    /// With --service-graph: if a process on another node is at the other end of a call, its
    /// service is that of the pod, or the Service, with its address. observer watches all pods
    /// and Services of the cluster, at the API server of --kubernetes. Pods with the network of
    /// their node stay unknown. --peer-name comes first.
    ///
    /// Example: --kubernetes-peers
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true", hide_possible_values = true)]
    #[arg(action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub(super) kubernetes_peers: bool,

    /// File with the bearer token for Kubernetes
    ///
    /// The token's account must be allowed to list pods (API server) or to get nodes/proxy
    /// (kubelet), and with --kubernetes-peers to list and watch pods and services. The file is read before each request.
    ///
    /// Example: --kubernetes-token-file /var/run/secrets/kubernetes.io/serviceaccount/token
    #[arg(long, value_name = "FILE")]
    pub(super) kubernetes_token_file: Option<PathBuf>,

    /// File with the CA certificate for the Kubernetes server
    ///
    /// PEM. Needed with https, and read before each request. The certificate of a kubelet that
    /// signs its own is /var/lib/kubelet/pki/kubelet.crt.
    ///
    /// Example: --kubernetes-ca-file /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    #[arg(long, value_name = "FILE")]
    pub(super) kubernetes_ca_file: Option<PathBuf>,
}

fn workers() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MAX_RINGS))
}

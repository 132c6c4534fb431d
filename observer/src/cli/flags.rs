//! The subcommands and the flags: what they are called, what they take, what `--help` says of each.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use observer_common::record::MAX_RINGS;

use crate::config::{
    Backend, CgroupName, Comm, Config, HealthListen, PortRange, RingSize, listen, pid, series_ttl,
    uid,
};
#[cfg(feature = "kubernetes")]
use crate::kubernetes;
use crate::metrics::Schema;
use crate::metrics::view::Order;
use crate::server::HostName;
use crate::top::Address;
use crate::{failures, log};
use observer_core::process::Detail;

/// Watches gRPC from outside the services and publishes metrics to Prometheus
///
/// It watches what the services of this node send and receive, in the kernel, and publishes
/// calls, their codes, messages and latencies at /metrics. The services are neither changed nor
/// restarted. Without any flag, all cleartext gRPC of the node is watched, over TCP and Unix
/// sockets, servers and clients.
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
    /// Says what this kernel allows and which backend would be used, then ends
    ///
    /// Takes the same flags, and starts nothing. Exit code 0 when the daemon could start.
    Check,
    /// Prints what completes this command line in a shell
    ///
    /// For instance: observer completions bash > /etc/bash_completion.d/observer
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Prints this help as a manual page
    ///
    /// For instance: observer man | man --local-file -
    Man,

    /// Shows in a terminal what a daemon sees, live or once
    ///
    /// Asks the daemon at --address; without that, the one at --listen if one answers there and no
    /// filter is given; else it watches by itself until it ends, for which it needs what the daemon
    /// needs. A daemon with --web-config-file is asked with --ca-file, --user and a password. Keys: ?
    /// shows them.
    Top(Top),
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct Top {
    /// The daemon to ask, such as http://127.0.0.1:9464 or https://node-7:9464
    #[arg(long, value_name = "URL")]
    pub(super) address: Option<Address>,

    /// The authority, in PEM, of the certificate of a daemon that speaks TLS
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,

    /// Who asks a daemon that wants a password
    #[arg(long, value_name = "NAME")]
    pub(super) user: Option<String>,

    /// A file whose first line is the user's password; or set OBSERVER_PASSWORD
    #[arg(long, value_name = "FILE", requires = "user")]
    pub(super) password_file: Option<PathBuf>,

    /// Sends the password even where others could read it: without TLS
    ///
    /// Not needed for a daemon of this machine that root, the daemon's own user or who runs this listens for.
    #[arg(long, requires = "user")]
    pub(super) allow_plaintext_password: bool,

    /// Prints one snapshot and ends: the figures of a second or more
    #[arg(long, requires = "format")]
    pub(super) once: bool,

    /// With --once: a table for people, as wide as the terminal, as COLUMNS says, or 80 columns
    #[arg(long, requires = "once", group = "format")]
    pub(super) table: bool,

    /// With --once: JSON for programs, as at /api/v1/view
    #[arg(long, requires = "once", group = "format")]
    pub(super) json: bool,

    /// Sorts rows by this, the largest number first
    #[arg(long, value_name = "COLUMN", value_parser = order(), default_value = "errors")]
    pub(super) sort: Order,

    /// Shows only rows that have all these words, such as "server orders"
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub(super) filter: String,
}

fn order() -> impl TypedValueParser<Value = Order> {
    PossibleValuesParser::new(Order::ALL.map(Order::name)).try_map(|name| {
        let named = Order::ALL.into_iter().find(|order| order.name() == name);
        named.ok_or("not a column")
    })
}

/// Each first paragraph is the help of `-h`; the others say syntax and example. Default and
/// variable are added by [`super::help`].
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the texts of --help")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct Options {
    /// Watches only connections to these TCP ports
    ///
    /// Numbers from 1 to 65535 and ranges, comma separated or repeated. It is the port that is
    /// listened on, whichever side runs on this node; a client's own port does not count. Unix
    /// sockets have no port: with --port they are not watched.
    ///
    /// Example: --port 50051,8000-8100
    #[arg(long, value_name = "PORT", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is watched")]
    pub(super) port: Vec<PortRange>,

    /// Watches only these processes, by process id
    ///
    /// Numbers as ps shows them, comma separated or repeated. Each must be running when the
    /// observer starts. With --comm, --uid or --cgroup, either suffices.
    ///
    /// Example: --pid 4711,4712
    #[arg(long, value_name = "PID", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is watched", value_parser = pid)]
    pub(super) pid: Vec<u32>,

    /// Watches only processes of these names
    ///
    /// The name in /proc/PID/comm, whole and case sensitive, comma separated or repeated. The
    /// kernel cuts it at 15 bytes. A process that starts later, or takes the name later, is found
    /// as well, and stays watched under other names until it executes another program. Names of
    /// other threads do not count. With --pid, --uid or --cgroup, either suffices.
    ///
    /// Example: --comm python3,greeter
    #[arg(long, value_name = "NAME", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is watched")]
    pub(super) comm: Vec<Comm>,

    /// Watches only processes of these users
    ///
    /// Numbers of real user ids, comma separated or repeated. A process chooses its name, but not its
    /// user. With --pid, --comm or --cgroup, either suffices.
    ///
    /// Example: --uid 1000,65534
    #[arg(long, value_name = "UID", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is watched", value_parser = uid)]
    pub(super) uid: Vec<u32>,

    /// Watches only processes in these control groups, or in groups below them
    ///
    /// Names, not paths: a systemd unit's, such as orders.service or kubepods.slice, or a container's,
    /// comma separated or repeated; the first 63 bytes count. Also for units that start later. Only control groups of version 2
    /// count. With --pid, --comm or --uid, either suffices.
    ///
    /// Example: --cgroup orders.service,kubepods.slice
    #[arg(long, value_name = "NAME", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is watched")]
    pub(super) cgroup: Vec<CgroupName>,

    /// Watches also the descendants of the selected processes
    ///
    /// Servers that fork their workers need it. It includes the workers that already run, unless
    /// their parent has exited. It widens --pid, --comm, --uid and --cgroup, and
    /// needs one of them.
    /// --children=false undoes what the environment or the file says.
    ///
    /// Example: --pid 4711 --children
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, global = true)]
    #[arg(default_value = "false", default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    #[arg(hide_possible_values = true, help_heading = "What is watched")]
    pub(super) children: bool,

    /// Serves the page, /metrics, /healthz and /readyz here
    ///
    /// An IP address and a port. Whoever reaches it can read the names of services and
    /// processes: 127.0.0.1 is for this machine only.
    ///
    /// Example: --listen 0.0.0.0:9464, or --listen [::]:9464 for IPv6 as well
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen, global = true)]
    #[arg(default_value_t = Config::default().listen, help_heading = "What is published")]
    pub(super) listen: std::net::SocketAddr,

    /// Serves /healthz and /readyz here as well
    ///
    /// An IP address and a port, or unix: and the path of a Unix socket, which everybody may connect to. Nothing
    /// else is served there, without TLS or a password, and connections to --listen cannot keep probes from it.
    ///
    /// Example: --health-listen 0.0.0.0:9465, or --health-listen unix:/run/observer/health.sock
    #[arg(long, value_name = "ADDRESS:PORT", global = true, help_heading = "What is published")]
    pub(super) health_listen: Option<HealthListen>,

    /// Names that a daemon of this machine may be asked by
    ///
    /// Where --listen is 127.0.0.1 or ::1, requests must name an IP address or localhost as their host, so that
    /// no web page can have a browser read the figures by a name of its own. A proxy on this machine
    /// that passes on another name needs it here. Comma separated or repeated.
    ///
    /// Example: --allow-host node-7.example.org
    #[arg(long, value_name = "NAME", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is published")]
    pub(super) allow_host: Vec<HostName>,

    /// Names and labels of what is told about calls
    ///
    /// One or more of go (go-grpc-prometheus, go-grpc-middleware), python
    /// (py-async-grpc-prometheus), legacy (that with legacy=True), requests
    /// (grpc_requests_total) and otel (OpenTelemetry's), comma separated or repeated. go
    /// cannot be told together with python or legacy, which have the same names with other
    /// spellings. What no library has (calls in flight, bytes, first message, connections) is
    /// told with each.
    ///
    /// Example: --schema go,otel
    #[arg(long, value_name = "SCHEMA", value_delimiter = ',', global = true)]
    #[arg(default_values_t = [Schema::Go], help_heading = "What is published")]
    pub(super) schema: Vec<Schema>,

    /// Asks scrapers for TLS or a password, as this file says
    ///
    /// YAML in the format of Prometheus' own exporters: tls_server_config (cert_file, key_file,
    /// client_auth_type, client_ca_file, min_version and others), http_server_config (headers) and
    /// basic_auth_users (a bcrypt hash by name). It and the files that it names are read again when they change.
    ///
    /// Example: --web-config-file /etc/observer/web.yml
    #[arg(long, visible_alias = "web.config.file", value_name = "FILE", global = true)]
    #[arg(help_heading = "What is published")]
    pub(super) web_config_file: Option<PathBuf>,

    /// Upper bounds of the latency buckets, in seconds
    ///
    /// Ascending, comma separated or repeated, 1 to 64 of them; +Inf is always there. Each
    /// bound is one more series per method and process. Without it: those of the libraries
    /// whose schemas are told, and finer ones below 5 ms.
    ///
    /// Example: --buckets 0.001,0.01,0.1,1
    #[arg(long, value_name = "SECONDS", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is published")]
    pub(super) buckets: Vec<String>,

    /// Keeps native histograms beside the buckets
    ///
    /// For scrapers that ask for Prometheus' protobuf format, as Prometheus does with
    /// scrape_native_histograms. Bounds 9 % apart, or further where there would be more than
    /// 100 buckets; up to 1.7 kB more per histogram.
    ///
    /// Example: --native-histograms
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, global = true)]
    #[arg(default_value = "false", default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    #[arg(hide_possible_values = true, help_heading = "What is published")]
    pub(super) native_histograms: bool,

    /// Tells since when counters count, in OpenMetrics text
    ///
    /// A Prometheus that does not take these _created lines for what they are keeps each as
    /// a series. --created=false leaves them out; the protobuf format always has them, where
    /// they cost no series.
    ///
    /// Example: --created=false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, global = true)]
    #[arg(default_value = "true", default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    #[arg(hide_possible_values = true, help_heading = "What is published")]
    pub(super) created: bool,

    /// The methods' types (`grpc_type`), as declared
    ///
    /// A FileDescriptorSet, as protoc writes it with --descriptor_set_out. The type of a call is not
    /// on the wire: without the file it is derived from the messages counted. Read again at SIGHUP.
    ///
    /// Example: --descriptor-set shop.pb
    #[arg(long, value_name = "FILE", global = true, help_heading = "What is published")]
    pub(super) descriptor_set: Option<PathBuf>,

    /// Methods that each process may have series for
    ///
    /// From 1 to 100000. The names come from the peers, and a peer may invent them: further
    /// methods are counted together as "other".
    ///
    /// Example: --max-methods 200
    #[arg(long, value_name = "N", default_value_t = Config::default().max_methods as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000), global = true)]
    #[arg(help_heading = "What is published")]
    pub(super) max_methods: u32,

    /// Methods of all processes that there may be series for
    ///
    /// From 1 to 1000000; each takes less than 10 KiB of the observer's memory. Further methods
    /// are counted together as "other", of their process as long as there is room. One process gets no
    /// more than a quarter of what is still free. Near the memory limit of its control group the observer
    /// takes no further ones, whatever this says.
    ///
    /// Example: --max-series 5000
    #[arg(long, value_name = "N", default_value_t = Config::default().max_series as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000), global = true)]
    #[arg(help_heading = "What is published")]
    pub(super) max_series: u32,

    /// More labels for each series, of its process
    ///
    /// Comma separated or repeated: exe, cmdline_hash (of the arguments), container_id,
    /// container_runtime, pod_uid, namespace and pod (with --kubernetes), systemd_unit, cgroup (its
    /// path), uid (the real user id). Empty where it is not known. A process chooses its own name: uid and
    /// systemd_unit tell it from others of that name. Without the flag they are only on observer_process_info, to be joined by
    /// pid and process. exe of other users' processes takes CAP_SYS_PTRACE, which is kept with
    /// --labels exe and not without.
    ///
    /// Example: --labels uid,systemd_unit
    #[arg(long, value_name = "LABEL", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is published")]
    pub(super) labels: Vec<Detail>,

    /// How long series stay after their process exited
    ///
    /// Seconds, or a number with s, m, h or d. At least two scrape intervals, or the last
    /// numbers of a process are never scraped.
    ///
    /// Example: --series-ttl 1h
    #[arg(long, value_name = "TIME", value_parser = series_ttl, default_value = "5m")]
    #[arg(global = true, help_heading = "What is published")]
    pub(super) series_ttl: Duration,

    /// Where in the kernel the BPF programs are attached
    ///
    /// The backends differ in what they need, what they cost, and what they miss. `observer check`
    /// shows which one `auto` picks on this machine, and why.
    ///
    /// Example: --backend socket
    #[arg(long, value_name = "BACKEND", value_parser = backend(), global = true)]
    #[arg(default_value_t = Backend::Auto, help_heading = "In the kernel")]
    pub(super) backend: Backend,

    /// Connections that are followed at once
    ///
    /// From 1 to 4194304. Kernel memory grows with it. Connections beyond it are counted, not
    /// watched.
    ///
    /// Example: --max-connections 4096
    #[arg(long, value_name = "N", default_value_t = Config::default().max_connections)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_194_304), global = true)]
    #[arg(help_heading = "In the kernel")]
    pub(super) max_connections: u32,

    /// Threads that follow calls, each with a ring buffer of its own
    ///
    /// From 1 to 8. All that a connection tells goes to one of them. One follows some 500,000 calls a
    /// second; more are for machines on which more are made, or whose many processors wait for each other
    /// at one ring.
    ///
    /// Example: --workers 4
    #[arg(long, value_name = "N", value_parser = workers(), global = true)]
    #[arg(help_heading = "In the kernel")]
    pub(super) workers: Option<u32>,

    /// Size of each ring buffer between kernel and observer
    ///
    /// There is one for each of the --workers. Bytes, or a number with KiB, MiB or GiB: a power of two
    /// from 64KiB to 1GiB. Larger ones ride out longer bursts; records that do not fit are lost, and counted.
    ///
    /// Example: --ring-size 32MiB
    #[arg(long, value_name = "BYTES", default_value_t = RingSize::default(), global = true)]
    #[arg(help_heading = "In the kernel")]
    pub(super) ring_size: RingSize,

    /// The kernel's type information (BTF)
    ///
    /// A file, for kernels built without CONFIG_DEBUG_INFO_BTF. It must be of the very kernel
    /// that runs.
    ///
    /// Example: --btf /usr/lib/btf/5.10.0-21-amd64.btf
    #[arg(long, value_name = "PATH", default_value = crate::config::KERNEL_BTF, global = true)]
    #[arg(help_heading = "In the kernel")]
    pub(super) btf: PathBuf,

    /// What is logged, to stderr
    ///
    /// A level (off, error, warn, info, debug, trace), or levels by module, comma separated.
    ///
    /// Example: --log warn,observer::kernel=debug
    #[arg(long, value_name = "FILTER", default_value_t = log::Filter::default(), global = true)]
    #[arg(help_heading = "General")]
    pub(super) log: log::Filter,

    /// Writes a line of JSON to stdout for each call that failed
    ///
    /// With time, process, service, method, code, message, peer, duration and trace; one line for
    /// each end that is watched. Messages may hold what is not for everybody: see
    /// --log-errors-omit.
    ///
    /// Example: --log-errors
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, global = true)]
    #[arg(default_value = "false", default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    #[arg(hide_possible_values = true, help_heading = "Failed calls")]
    pub(super) log_errors: bool,

    /// Lines of --log-errors in a second, on average
    ///
    /// From 1 to 10000; as many may come at once. The line after those that were left out has
    /// their number, as "suppressed".
    ///
    /// Example: --log-errors-rate 100
    #[arg(long, value_name = "N", default_value_t = 10, global = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    #[arg(help_heading = "Failed calls")]
    pub(super) log_errors_rate: u32,

    /// What the lines of --log-errors leave out
    ///
    /// Comma separated or repeated: code, duration_seconds, message, method, peer, pid, process,
    /// request_messages, response_messages, role, service, trace_id.
    ///
    /// Example: --log-errors-omit message,peer
    #[arg(long, value_name = "FIELD", value_delimiter = ',', global = true)]
    #[arg(help_heading = "Failed calls")]
    pub(super) log_errors_omit: Vec<failures::Field>,

    /// Asks this kubelet, or API server, what the node's pods are called
    ///
    /// For the labels namespace and pod. A kubelet without --kubernetes-node, the API server with it.
    /// The list is asked for when a process of an unknown pod appears, at most every 10 seconds;
    /// nothing waits for it.
    ///
    /// Example: --kubernetes https://10.0.0.7:10250
    #[cfg(feature = "kubernetes")]
    #[arg(long, value_name = "URL", value_parser = kubernetes::server, global = true)]
    #[arg(help_heading = "Kubernetes")]
    pub(super) kubernetes: Option<hyper::Uri>,

    /// The node whose pods the API server is asked for
    ///
    /// Its name in Kubernetes. Without it --kubernetes is a kubelet, which has only its own.
    ///
    /// Example: --kubernetes-node worker-7
    #[cfg(feature = "kubernetes")]
    #[arg(long, value_name = "NAME", global = true)]
    #[arg(help_heading = "Kubernetes")]
    pub(super) kubernetes_node: Option<String>,

    /// Has the token that Kubernetes is asked with
    ///
    /// Of an account that may list pods (API server) or get nodes/proxy (kubelet). It is read
    /// before each request.
    ///
    /// Example: --kubernetes-token-file /var/run/secrets/kubernetes.io/serviceaccount/token
    #[cfg(feature = "kubernetes")]
    #[arg(long, value_name = "FILE", global = true)]
    #[arg(help_heading = "Kubernetes")]
    pub(super) kubernetes_token_file: Option<PathBuf>,

    /// Has the certificate that the one of Kubernetes is verified by
    ///
    /// PEM; needed with https, and read before each request. A kubelet that signs its own has it
    /// in /var/lib/kubelet/pki/kubelet.crt.
    ///
    /// Example: --kubernetes-ca-file /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    #[cfg(feature = "kubernetes")]
    #[arg(long, value_name = "FILE", global = true)]
    #[arg(help_heading = "Kubernetes")]
    pub(super) kubernetes_ca_file: Option<PathBuf>,

    /// Runs as this user once it watches, if it was started by root
    ///
    /// A name in /etc/passwd, a UID, or UID:GID. The user must be able to read files that are read
    /// again while the daemon runs. With root it stays root, without capabilities.
    ///
    /// Example: --run-as prometheus
    #[arg(long, value_name = "USER", global = true, help_heading = "General")]
    pub(super) run_as: Option<String>,

    /// Reads further settings from a TOML file
    ///
    /// Its keys are the long flags without the dashes; lists are arrays or strings. A key that
    /// is not a flag is an error.
    ///
    /// Example: --config /etc/observer.toml
    #[arg(long, value_name = "FILE", global = true, help_heading = "General")]
    pub(super) config: Option<PathBuf>,
}

fn backend() -> impl TypedValueParser<Value = Backend> {
    let values = Backend::ALL.map(|backend| {
        PossibleValue::new(backend.name()).help(match backend {
            Backend::Auto => "the most complete one that this kernel allows",
            Backend::Socket => "the kernel's tracepoints for socket transfers; Linux 6.3 or later",
            Backend::Fentry => "the TCP and Unix socket functions; for kernels that do not preempt",
            Backend::Kprobe => "the same functions, for kernels without fentry",
            Backend::Tracepoint => "the exits of system calls; slows every process a little",
        })
    });
    PossibleValuesParser::new(values).try_map(|name| name.parse::<Backend>())
}

fn workers() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MAX_RINGS))
}

//! The command line, the environment and the configuration file: one parser, one set of error
//! messages.
//!
//! [`parse`] is what `main` calls. What the environment and the file say becomes the default of
//! the flag with that name (`layers`), so that a flag beats the environment, the environment
//! beats the file, and the file beats what is built in. The texts are read by [`crate::config`].

#![forbid(unsafe_code)]

mod layers;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::{Error, ErrorKind};
use clap::{Arg, Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;
use observer_common::record::MAX_RINGS;

use crate::config::{
    Backend, CgroupName, Comm, Config, Filter, HealthListen, Pid, PortRange, RingSize, Uid, listen,
    series_ttl,
};
use crate::escape::visible;
#[cfg(feature = "kubernetes")]
use crate::kubernetes;
use crate::metrics::view::Order;
use crate::metrics::{Buckets, Schema, Schemas, Telling};
use crate::process::Detail;
use crate::server::HostName;
use crate::top::{self, Access, Address, PASSWORD_VARIABLE, Password};
use crate::{failures, log};
use layers::Layers;

/// What the daemon is asked to do, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    /// The subcommand, or its absence.
    pub action: Action,
    /// All that was chosen, wherever it was.
    pub config: Config,
}

/// See [`Invocation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Watch, until told to stop.
    Run,
    /// Show the figures in a terminal.
    Top(top::Options),
    /// Say what this kernel allows, and end.
    Check,
    /// Print a script for a shell, and end.
    Completions(Shell),
    /// Print the manual page, and end.
    Man,
}

/// Reads this process's arguments and environment. After `--help` and `--version` it ends the
/// process with code 0; after a mistake, with a line on stderr and code 2.
pub fn parse() -> Invocation {
    parse_from(&std::env::args_os().collect::<Vec<_>>(), &Own).unwrap_or_else(|error| error.exit())
}

/// The environment's variables.
pub trait Environment {
    /// The value of one.
    fn get(&self, name: &str) -> Option<OsString>;

    /// The names of all that have one in UTF-8, sorted.
    fn names(&self) -> Vec<String>;
}

/// That of this process.
struct Own;

impl Environment for Own {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }
}

/// Likewise, of any arguments (the first is the program) and any environment.
pub fn parse_from(args: &[OsString], environment: &dyn Environment) -> Result<Invocation, Error> {
    // Help shows what is built in, and is there even when the file is broken.
    let matches = command().try_get_matches_from(args).map_err(in_one_line)?;
    if matches.get_flag("version") {
        // It ends here, as clap itself says a version.
        let command = Command::new("observer").version(version(matches.get_flag("verbose")));
        command.try_get_matches_from(["observer", "--version"])?;
    }
    let named = Cli::from_arg_matches(&matches).map_err(in_one_line)?.options.config;
    let path = named.or_else(|| layers::variable("config", environment).map(PathBuf::from));

    let layers = Layers::read(&command(), path.as_deref(), environment).map_err(mistake)?;
    let cli = layers
        .apply(command())
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| layers.name_origin(in_one_line(error)))?;
    let action = match cli.verb {
        Some(Verb::Check) => Action::Check,
        Some(Verb::Completions { shell }) => Action::Completions(shell),
        Some(Verb::Man) => Action::Man,
        Some(Verb::Top(top)) => Action::Top(top.into_options(environment)),
        None => Action::Run,
    };
    Ok(Invocation { action, config: cli.options.into_config().map_err(mistake)? })
}

/// A script that completes this command line, for whoever sources it.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "observer", &mut script);
    script
}

/// The manual page, in roff: one, with a section for each subcommand.
pub fn manual() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let man = Man::new(command()).section("8");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for subcommand in command().get_subcommands() {
        page.extend(manual_of(subcommand)?.into_bytes());
    }
    man.render_extra_section(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// What would be a page of its own, as a part of another.
fn manual_of(subcommand: &Command) -> io::Result<String> {
    let mut text = Vec::new();
    let man = Man::new(subcommand.clone().disable_help_flag(true).disable_version_flag(true));
    man.render_description_section(&mut text)?;
    if subcommand.get_arguments().next().is_some() {
        man.render_options_section(&mut text)?;
    }
    let text = String::from_utf8(text).map_err(io::Error::other)?;
    let title = format!(".SS \"observer {}\"", subcommand.get_name());
    Ok(text.replacen(".SH DESCRIPTION", &title, 1).replacen(".SH OPTIONS\n", "", 1))
}

fn mistake(mut text: String) -> Error {
    // What was given may hold anything, and what is said of it is one line.
    text = visible(&text).into_owned() + "\n";
    Error::raw(ErrorKind::ValueValidation, text)
}

/// clap explains over several lines, with the usage; a daemon's mistake is often read in a log.
fn in_one_line(error: Error) -> Error {
    if !error.use_stderr() {
        return error;
    }
    let text = error.to_string();
    let mut parts: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with("Usage:") {
            break;
        }
        parts.push(line.trim_start_matches("error: ").trim_start_matches("tip: "));
    }
    parts.retain(|line| !line.starts_with("For more information"));
    let mut told = parts.join("; ");
    // A bad value's text says what to write instead.
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        told += " (see observer --help)";
    }
    Error::raw(error.kind(), visible(&told).into_owned() + "\n")
}

/// Watches gRPC from outside the services and publishes metrics to Prometheus
///
/// It watches what the services of this node send and receive, in the kernel, and publishes
/// calls, their codes, messages and latencies at /metrics. The services are neither changed nor
/// restarted. Without any flag, all cleartext gRPC of the node is watched, over TCP and Unix
/// sockets, servers and clients.
#[derive(Debug, Parser)]
#[command(
    name = "observer",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP,
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
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
struct Top {
    /// The daemon to ask, such as http://127.0.0.1:9464 or https://node-7:9464
    #[arg(long, value_name = "URL")]
    address: Option<Address>,

    /// The authority, in PEM, of the certificate of a daemon that speaks TLS
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Who asks a daemon that wants a password
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// A file whose first line is the user's password; or set OBSERVER_PASSWORD
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,

    /// Sends the password even where others could read it: without TLS
    ///
    /// Not needed for a daemon of this machine that root, the daemon's own user or who runs this listens for.
    #[arg(long, requires = "user")]
    allow_plaintext_password: bool,

    /// Prints one snapshot and ends: the figures of a second or more
    #[arg(long, requires = "format")]
    once: bool,

    /// With --once: a table for people, as wide as the terminal, as COLUMNS says, or 80 columns
    #[arg(long, requires = "once", group = "format")]
    table: bool,

    /// With --once: JSON for programs, as at /api/v1/view
    #[arg(long, requires = "once", group = "format")]
    json: bool,

    /// Sorts rows by this, the largest number first
    #[arg(long, value_name = "COLUMN", value_parser = order(), default_value = "errors")]
    sort: Order,

    /// Shows only rows that have all these words, such as "server orders"
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    filter: String,
}

fn order() -> impl TypedValueParser<Value = Order> {
    PossibleValuesParser::new(Order::ALL.map(Order::name)).try_map(|name| {
        let named = Order::ALL.into_iter().find(|order| order.name() == name);
        named.ok_or("not a column")
    })
}

impl Top {
    /// A password is not for the command line, which every user of the machine can read.
    fn into_options(self, environment: &dyn Environment) -> top::Options {
        let Self { address, ca_file, user, password_file, allow_plaintext_password, .. } = self;
        let Self { once, table: _, json, sort: order, filter, .. } = self;
        let given = || environment.get(PASSWORD_VARIABLE)?.into_string().ok();
        let password = password_file.map(Password::File).or_else(|| given().map(Password::Is));
        let password = password.filter(|_| user.is_some());
        let access = Access { ca_file, user, password, plaintext: allow_plaintext_password };
        let format = if json { top::Format::Json } else { top::Format::Table };
        top::Options { address, access, once: once.then_some(format), order, filter }
    }
}

const AFTER_HELP: &str = "\
Filters combine as port AND (pid OR comm OR uid OR cgroup). See --help for syntax, examples and the config file.";

const AFTER_LONG_HELP: &str = "\
How filters combine:
  A connection is watched when its port is selected AND its process is, by pid, comm, uid OR
  cgroup. A filter that is not given selects everything; with none given, all cleartext gRPC of the node
  is watched. Unix sockets have no port: --port excludes them.

Examples:
  observer
      All cleartext gRPC of this node, metrics at http://127.0.0.1:9464/metrics

  observer check
      What this kernel allows, and which backend would be used

  observer top
      What the daemon of this machine sees, live in the terminal

  observer --port 50051,8000-8100 --listen 0.0.0.0:9464
      Only these ports; Prometheus may scrape from another machine

  observer --port 50051 --comm python3 --children
      Port 50051, and there only processes named python3 and their descendants

  observer --pid 4711 --buckets 0.001,0.01,0.1,1 --log warn
      One process, a small histogram, a quiet log

  OBSERVER_PORT=50051 OBSERVER_SERIES_TTL=1h observer --config /etc/observer.toml
      Part in the environment, part in a file

Environment and config file:
  Every flag is also a variable (--max-methods is OBSERVER_MAX_METHODS) and a key of the TOML
  file given by --config. A flag beats the variable, the variable beats the file, and each
  replaces a list as a whole. An empty variable counts as not set; one that begins with OBSERVER_
  and is of no flag is an error, unless Kubernetes has set it for a Service. The fourth example
  as a file:

      port = [50051, \"8000-8100\"]     # or \"50051,8000-8100\"
      listen = \"0.0.0.0:9464\"

At SIGHUP:
  The files that stdout and stderr go to are opened again by their names (logrotate), and
  --descriptor-set is read again. A --web-config-file and what it names are read again whenever
  they change. Everything else needs a restart. A daemon whose terminal is gone ends.

Exit codes: 0 after SIGTERM, SIGINT or a good check; 1 when it cannot run here; 2 for a mistake
in a flag, a variable or the file.";

/// Each first paragraph is the help of `-h`; the others say syntax and example. Default and
/// variable are added by [`command`].
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the texts of --help")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
struct Options {
    /// Watches only connections to these TCP ports
    ///
    /// Numbers from 1 to 65535 and ranges, comma separated or repeated. It is the port that is
    /// listened on, whichever side runs on this node; a client's own port does not count. Unix
    /// sockets have no port: with --port they are not watched.
    ///
    /// Example: --port 50051,8000-8100
    #[arg(long, value_name = "PORT", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is watched")]
    port: Vec<PortRange>,

    /// Watches only these processes, by process id
    ///
    /// Numbers as ps shows them, comma separated or repeated. Each must be running when the
    /// observer starts. With --comm, --uid or --cgroup, either suffices.
    ///
    /// Example: --pid 4711,4712
    #[arg(long, value_name = "PID", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is watched")]
    pid: Vec<Pid>,

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
    comm: Vec<Comm>,

    /// Watches only processes of these users
    ///
    /// Numbers of real user ids, comma separated or repeated. A process chooses its name, but not its
    /// user. With --pid, --comm or --cgroup, either suffices.
    ///
    /// Example: --uid 1000,65534
    #[arg(long, value_name = "UID", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is watched")]
    uid: Vec<Uid>,

    /// Watches only processes in these control groups, or in groups below them
    ///
    /// Names, not paths: a systemd unit's, such as orders.service or kubepods.slice, or a container's,
    /// comma separated or repeated; the first 63 bytes count. Also for units that start later. Only control groups of version 2
    /// count. With --pid, --comm or --uid, either suffices.
    ///
    /// Example: --cgroup orders.service,kubepods.slice
    #[arg(long, value_name = "NAME", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is watched")]
    cgroup: Vec<CgroupName>,

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
    children: bool,

    /// Serves the page, /metrics, /healthz and /readyz here
    ///
    /// An IP address and a port. Whoever reaches it can read the names of services and
    /// processes: 127.0.0.1 is for this machine only.
    ///
    /// Example: --listen 0.0.0.0:9464, or --listen [::]:9464 for IPv6 as well
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen, global = true)]
    #[arg(default_value_t = Config::default().listen, help_heading = "What is published")]
    listen: std::net::SocketAddr,

    /// Serves /healthz and /readyz here as well
    ///
    /// An IP address and a port, or unix: and the path of a Unix socket, which everybody may connect to. Nothing
    /// else is served there, without TLS or a password, and connections to --listen cannot keep probes from it.
    ///
    /// Example: --health-listen 0.0.0.0:9465, or --health-listen unix:/run/observer/health.sock
    #[arg(long, value_name = "ADDRESS:PORT", global = true, help_heading = "What is published")]
    health_listen: Option<HealthListen>,

    /// Names that a daemon of this machine may be asked by
    ///
    /// Where --listen is 127.0.0.1 or ::1, requests must name an IP address or localhost as their host, so that
    /// no web page can have a browser read the figures by a name of its own. A proxy on this machine
    /// that passes on another name needs it here. Comma separated or repeated.
    ///
    /// Example: --allow-host node-7.example.org
    #[arg(long, value_name = "NAME", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is published")]
    allow_host: Vec<HostName>,

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
    schema: Vec<Schema>,

    /// Asks scrapers for TLS or a password, as this file says
    ///
    /// YAML in the format of Prometheus' own exporters: tls_server_config (cert_file, key_file,
    /// client_auth_type, client_ca_file, min_version and others), http_server_config (headers) and
    /// basic_auth_users (a bcrypt hash by name). It and the files that it names are read again when they change.
    ///
    /// Example: --web-config-file /etc/observer/web.yml
    #[arg(long, visible_alias = "web.config.file", value_name = "FILE", global = true)]
    #[arg(help_heading = "What is published")]
    web_config_file: Option<PathBuf>,

    /// Upper bounds of the latency buckets, in seconds
    ///
    /// Ascending, comma separated or repeated, 1 to 64 of them; +Inf is always there. Each
    /// bound is one more series per method and process. Without it: those of the libraries
    /// whose schemas are told, and finer ones below 5 ms.
    ///
    /// Example: --buckets 0.001,0.01,0.1,1
    #[arg(long, value_name = "SECONDS", value_delimiter = ',', global = true)]
    #[arg(help_heading = "What is published")]
    buckets: Vec<String>,

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
    native_histograms: bool,

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
    created: bool,

    /// The methods' types (`grpc_type`), as declared
    ///
    /// A FileDescriptorSet, as protoc writes it with --descriptor_set_out. The type of a call is not
    /// on the wire: without the file it is derived from the messages counted. Read again at SIGHUP.
    ///
    /// Example: --descriptor-set shop.pb
    #[arg(long, value_name = "FILE", global = true, help_heading = "What is published")]
    descriptor_set: Option<PathBuf>,

    /// Methods that each process may have series for
    ///
    /// From 1 to 100000. The names come from the peers, and a peer may invent them: further
    /// methods are counted together as "other".
    ///
    /// Example: --max-methods 200
    #[arg(long, value_name = "N", default_value_t = Config::default().max_methods as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000), global = true)]
    #[arg(help_heading = "What is published")]
    max_methods: u32,

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
    max_series: u32,

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
    labels: Vec<Detail>,

    /// How long series stay after their process exited
    ///
    /// Seconds, or a number with s, m, h or d. At least two scrape intervals, or the last
    /// numbers of a process are never scraped.
    ///
    /// Example: --series-ttl 1h
    #[arg(long, value_name = "TIME", value_parser = series_ttl, default_value = "5m")]
    #[arg(global = true, help_heading = "What is published")]
    series_ttl: Duration,

    /// Where in the kernel the BPF programs are attached
    ///
    /// The backends differ in what they need, what they cost, and what they miss. `observer check`
    /// shows which one `auto` picks on this machine, and why.
    ///
    /// Example: --backend socket
    #[arg(long, value_name = "BACKEND", value_parser = backend(), global = true)]
    #[arg(default_value_t = Backend::Auto, help_heading = "In the kernel")]
    backend: Backend,

    /// Connections that are followed at once
    ///
    /// From 1 to 4194304. Kernel memory grows with it. Connections beyond it are counted, not
    /// watched.
    ///
    /// Example: --max-connections 4096
    #[arg(long, value_name = "N", default_value_t = Config::default().max_connections)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_194_304), global = true)]
    #[arg(help_heading = "In the kernel")]
    max_connections: u32,

    /// Threads that follow calls, each with a ring buffer of its own
    ///
    /// From 1 to 8. All that a connection tells goes to one of them. One follows some 500,000 calls a
    /// second; more are for machines on which more are made, or whose many processors wait for each other
    /// at one ring.
    ///
    /// Example: --workers 4
    #[arg(long, value_name = "N", value_parser = workers(), global = true)]
    #[arg(help_heading = "In the kernel")]
    workers: Option<u32>,

    /// Size of each ring buffer between kernel and observer
    ///
    /// There is one for each of the --workers. Bytes, or a number with KiB, MiB or GiB: a power of two
    /// from 64KiB to 1GiB. Larger ones ride out longer bursts; records that do not fit are lost, and counted.
    ///
    /// Example: --ring-size 32MiB
    #[arg(long, value_name = "BYTES", default_value_t = RingSize::default(), global = true)]
    #[arg(help_heading = "In the kernel")]
    ring_size: RingSize,

    /// The kernel's type information (BTF)
    ///
    /// A file, for kernels built without CONFIG_DEBUG_INFO_BTF. It must be of the very kernel
    /// that runs.
    ///
    /// Example: --btf /usr/lib/btf/5.10.0-21-amd64.btf
    #[arg(long, value_name = "PATH", default_value = crate::config::KERNEL_BTF, global = true)]
    #[arg(help_heading = "In the kernel")]
    btf: PathBuf,

    /// What is logged, to stderr
    ///
    /// A level (off, error, warn, info, debug, trace), or levels by module, comma separated.
    ///
    /// Example: --log warn,observer::kernel=debug
    #[arg(long, value_name = "FILTER", default_value_t = log::Filter::default(), global = true)]
    #[arg(help_heading = "General")]
    log: log::Filter,

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
    log_errors: bool,

    /// Lines of --log-errors in a second, on average
    ///
    /// From 1 to 10000; as many may come at once. The line after those that were left out has
    /// their number, as "suppressed".
    ///
    /// Example: --log-errors-rate 100
    #[arg(long, value_name = "N", default_value_t = 10, global = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    #[arg(help_heading = "Failed calls")]
    log_errors_rate: u32,

    /// What the lines of --log-errors leave out
    ///
    /// Comma separated or repeated: code, duration_seconds, message, method, peer, pid, process,
    /// request_messages, response_messages, role, service, trace_id.
    ///
    /// Example: --log-errors-omit message,peer
    #[arg(long, value_name = "FIELD", value_delimiter = ',', global = true)]
    #[arg(help_heading = "Failed calls")]
    log_errors_omit: Vec<failures::Field>,

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
    kubernetes: Option<hyper::Uri>,

    /// The node whose pods the API server is asked for
    ///
    /// Its name in Kubernetes. Without it --kubernetes is a kubelet, which has only its own.
    ///
    /// Example: --kubernetes-node worker-7
    #[cfg(feature = "kubernetes")]
    #[arg(long, value_name = "NAME", global = true)]
    #[arg(help_heading = "Kubernetes")]
    kubernetes_node: Option<String>,

    /// Has the token that Kubernetes is asked with
    ///
    /// Of an account that may list pods (API server) or get nodes/proxy (kubelet). It is read
    /// before each request.
    ///
    /// Example: --kubernetes-token-file /var/run/secrets/kubernetes.io/serviceaccount/token
    #[cfg(feature = "kubernetes")]
    #[arg(long, value_name = "FILE", global = true)]
    #[arg(help_heading = "Kubernetes")]
    kubernetes_token_file: Option<PathBuf>,

    /// Has the certificate that the one of Kubernetes is verified by
    ///
    /// PEM; needed with https, and read before each request. A kubelet that signs its own has it
    /// in /var/lib/kubelet/pki/kubelet.crt.
    ///
    /// Example: --kubernetes-ca-file /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    #[cfg(feature = "kubernetes")]
    #[arg(long, value_name = "FILE", global = true)]
    #[arg(help_heading = "Kubernetes")]
    kubernetes_ca_file: Option<PathBuf>,

    /// Runs as this user once it watches, if it was started by root
    ///
    /// A name in /etc/passwd, a UID, or UID:GID. The user must be able to read files that are read
    /// again while the daemon runs. With root it stays root, without capabilities.
    ///
    /// Example: --run-as prometheus
    #[arg(long, value_name = "USER", global = true, help_heading = "General")]
    run_as: Option<String>,

    /// Reads further settings from a TOML file
    ///
    /// Its keys are the long flags without the dashes; lists are arrays or strings. A key that
    /// is not a flag is an error.
    ///
    /// Example: --config /etc/observer.toml
    #[arg(long, value_name = "FILE", global = true, help_heading = "General")]
    config: Option<PathBuf>,
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

impl Options {
    /// What no single flag's text can show to be wrong is checked here.
    fn into_config(self) -> Result<Config, String> {
        let mut pids: Vec<u32> = self.pid.into_iter().map(Pid::number).collect();
        pids.sort_unstable();
        pids.dedup();
        let mut comms = self.comm;
        comms.sort_unstable();
        comms.dedup();
        let mut uids: Vec<u32> = self.uid.into_iter().map(Uid::number).collect();
        uids.sort_unstable();
        uids.dedup();
        let mut cgroups = self.cgroup;
        cgroups.sort_unstable();
        cgroups.dedup();
        let children = self.children;
        let filter =
            Filter { ports: self.port.into_iter().collect(), pids, comms, uids, cgroups, children };
        if children && filter.selects_all_processes() {
            return Err("--children without --pid, --comm, --uid or --cgroup: all processes are watched already; \
                        drop it, or say whose children"
                .into());
        }
        // One list, however often the flag was given: only together can the bounds be wrong.
        let schemas = Schemas::new(self.schema)
            .map_err(|clash| format!("invalid list for '--schema <SCHEMA>': {clash}"))?;
        let buckets = if self.buckets.is_empty() {
            schemas.default_buckets()
        } else {
            let parsed = self.buckets.join(",").parse();
            parsed.map_err(|reason| format!("invalid list for '--buckets <SECONDS>': {reason}"))?
        };
        #[cfg(feature = "kubernetes")]
        let kubernetes = kubernetes::Choice::new(
            self.kubernetes,
            self.kubernetes_node,
            self.kubernetes_token_file,
            self.kubernetes_ca_file,
        )?;
        let mut omitted = self.log_errors_omit;
        omitted.sort_unstable();
        omitted.dedup();
        let mut labels = self.labels;
        labels.sort_unstable();
        labels.dedup();
        Ok(Config {
            filter,
            listen: self.listen,
            health_listen: self.health_listen,
            allow_hosts: self.allow_host,
            web_config_file: self.web_config_file,
            backend: self.backend,
            buckets,
            native_histograms: self.native_histograms,
            telling: Telling { schemas, created: self.created, labels },
            descriptor_set: self.descriptor_set,
            max_methods: self.max_methods as usize,
            max_series: self.max_series as usize,
            max_connections: self.max_connections,
            workers: self.workers.unwrap_or(Config::default().workers),
            ring_size: self.ring_size,
            series_ttl: self.series_ttl,
            btf: self.btf,
            log_errors: self
                .log_errors
                .then_some(failures::Choice { per_second: self.log_errors_rate, omitted }),
            #[cfg(feature = "kubernetes")]
            kubernetes,
            run_as: self.run_as,
            log: self.log,
        })
    }
}

fn workers() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MAX_RINGS))
}

fn default_buckets() -> String {
    let bounds: Vec<_> = Buckets::default().seconds().map(|bound| bound.to_string()).collect();
    format!("{}; and 0.075,0.75,7.5 where the libraries have them", bounds.join(","))
}

/// The parser, before environment and file, with the notes that every flag's help has.
fn command() -> Command {
    Cli::command().disable_help_flag(true).disable_version_flag(true).mut_args(annotated).args([
        Arg::new("help")
            .short('h')
            .long("help")
            .action(clap::ArgAction::Help)
            .global(true)
            .help_heading("General")
            .help("Prints a summary of the flags (-h), or all about them (--help)"),
        Arg::new("version")
            .short('V')
            .long("version")
            .action(clap::ArgAction::SetTrue)
            .help_heading("General")
            .help("Prints name and version; with --verbose also what it was built of"),
        Arg::new("verbose")
            .long("verbose")
            .action(clap::ArgAction::SetTrue)
            .requires("version")
            .hide(true),
    ])
}

fn version(is_verbose: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    if !is_verbose {
        return version.to_owned();
    }
    let features = if cfg!(feature = "kubernetes") { "kubernetes" } else { "none" };
    let architecture = std::env::consts::ARCH;
    let sha256 = env!("OBSERVER_BPF_SHA256");
    format!(
        "{version}\narchitecture: {architecture}\nfeatures: {features}\nBPF object: sha256:{sha256}"
    )
}

/// clap's own notes are hidden, as it would read the environment itself to make them.
fn annotated(arg: Arg) -> Arg {
    let defaults: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
    let default = match (defaults.as_slice(), arg.get_id().as_str()) {
        ([], "port") => "every port, and Unix sockets".to_owned(),
        ([], "buckets") => default_buckets(),
        ([], "run_as") => "observer if there is such a user, else nobody".to_owned(),
        ([], "workers") => "one for each 16 processors, at least 1 and at most 4".to_owned(),
        ([], "pid" | "comm" | "uid" | "cgroup") => "every process".to_owned(),
        ([], _) => "none".to_owned(),
        (values, _) => values.join(","),
    };
    let variable = layers::variable_name(arg.get_long().unwrap_or_default());
    let short = format!("{} [default: {default}]", arg.get_help().cloned().unwrap_or_default());
    let long = format!(
        "{}\n\n[env: {variable}] [default: {default}]",
        arg.get_long_help().cloned().unwrap_or_default()
    );
    arg.help(short).long_help(long).hide_default_value(true)
}

#[cfg(test)]
mod tests;

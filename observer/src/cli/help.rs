//! The help of all flags, the manual page, completions, the version.

use std::io::{self, Write as _};

use clap::{Arg, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::flags::Cli;
use super::layers;
use crate::metrics::Buckets;

const AFTER_HELP: &str = "\
Filters combine as port AND (pid OR comm OR uid OR cgroup). See --help for syntax, examples and the config file.";

const AFTER_LONG_HELP: &str = "\
How filters combine:
  observer watches a connection if its port is selected AND its process is selected by pid,
  comm, uid OR cgroup. A filter that is not given selects everything. Without any filter, all
  cleartext gRPC of the node is watched. Unix sockets have no port: --port excludes them.

Examples:
  observer
      Watch all cleartext gRPC of this node; metrics at http://127.0.0.1:9464/metrics

  observer check
      Check what this kernel allows, and which backend would be used

  observer top
      Show live in the terminal what the daemon of this machine sees

  observer --port 50051,8000-8100 --listen 0.0.0.0:9464
      Watch only these ports; Prometheus can scrape from another machine

  observer --port 50051 --comm python3 --children
      Watch port 50051, and there only processes named python3 and their descendants

  observer --pid 4711 --buckets 0.001,0.01,0.1,1 --log warn
      Watch one process, with few buckets, and log only warnings and errors

  OBSERVER_PORT=50051 OBSERVER_SERIES_TTL=1h observer --config /etc/observer.toml
      Take some settings from the environment, others from a file

Environment and config file:
  Every flag is also an environment variable (--max-methods is OBSERVER_MAX_METHODS) and a key
  of the TOML file given with --config. A flag overrides the variable, and the variable overrides
  the file; lists are never merged. An empty variable counts as not set. A variable that
  starts with OBSERVER_ and belongs to no flag is an error, unless Kubernetes set it for a
  Service. The fourth example as a file:

      port = [50051, \"8000-8100\"]     # or \"50051,8000-8100\"
      listen = \"0.0.0.0:9464\"

At SIGHUP:
  The daemon reopens the files that stdout and stderr go to (logrotate), and reads
  --descriptor-set again. It reads --web-config-file, and the files that it names, whenever they
  change. All other settings need a restart. If its terminal was closed, the daemon exits.

Exit codes: 0 after SIGTERM, SIGINT or a successful check; 1 if observer cannot run here; 2 for a
mistake in a flag, a variable or the config file.";

fn default_buckets() -> String {
    let bounds: Vec<_> = Buckets::default().seconds().map(|bound| bound.to_string()).collect();
    format!("{}; also 0.075,0.75,7.5 if a schema's library has them", bounds.join(","))
}

/// The parser, before environment and file, with the notes that every flag's help has.
pub(super) fn command() -> Command {
    let command = Cli::command().after_help(AFTER_HELP).after_long_help(AFTER_LONG_HELP);
    command.disable_help_flag(true).disable_version_flag(true).mut_args(annotated).args([
        Arg::new("help")
            .short('h')
            .long("help")
            .action(clap::ArgAction::Help)
            .global(true)
            .help_heading("General")
            .help("Prints a summary of the flags (-h), or their full help (--help)"),
        Arg::new("version")
            .short('V')
            .long("version")
            .action(clap::ArgAction::SetTrue)
            .help_heading("General")
            .help("Prints name and version; with --verbose also how it was built"),
        Arg::new("verbose")
            .long("verbose")
            .action(clap::ArgAction::SetTrue)
            .requires("version")
            .hide(true),
    ])
}

/// What `--version` says, or with `--verbose`.
pub(super) fn version(is_verbose: bool) -> String {
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
        ([], "run_as") => "observer if this user exists, else nobody".to_owned(),
        ([], "workers") => "one for each 16 CPUs, at least 1 and at most 4".to_owned(),
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

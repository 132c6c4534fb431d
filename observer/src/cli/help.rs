//! The help of all flags, the manual page, completions and the version.

use std::io::{self, Write as _};

use clap::{Arg, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::flags::Cli;
use super::layers;
use crate::metrics::Buckets;

const AFTER_HELP: &str = "\
Filters combine as port AND (pid OR comm OR uid OR cgroup). See --help for syntax, examples and the config file.";

const AFTER_LONG_HELP: &str = include_str!("after_help.txt").trim_ascii_end();

fn default_buckets() -> String {
    let bounds: Vec<_> = Buckets::default().seconds().map(|bound| bound.to_string()).collect();
    format!("{}; also 0.075,0.75,7.5 if a schema's library has them", bounds.join(","))
}

/// The parser, before the environment and the file are read. The help of every flag has its default and its variable.
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

/// The text of `--version`, or of `--version --verbose`.
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

/// Makes a flag of the daemon one of every subcommand, and adds its default and its variable to its help. clap's own
/// notes are hidden: for them, clap would read the environment itself.
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
    arg.help(short).long_help(long).hide_default_value(true).global(true)
}

/// The completion script for a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "observer", &mut script);
    script
}

/// The manual page in roff, with a section for each subcommand.
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

/// The manual of a subcommand, as a part of the page.
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

//! The command line, the environment and the config file, with one parser and one set of error messages.
//!
//! `main` calls [`parse`]. A value in the environment or the file becomes the default of the flag with that name
//! (`layers`). So a flag overrides the environment, the environment overrides the file, and the file overrides the
//! built-in default. The flags and their texts are in `flags`, the other help in `help`; `validate` makes a [`Config`] of
//! the flags. [`crate::config`] parses values.

#![forbid(unsafe_code)]

mod flags;
mod help;
mod layers;
mod validate;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{Error, ErrorKind};
use clap::{Command, FromArgMatches as _};
use clap_complete::Shell;

use crate::config::Config;
use crate::top;
use flags::{Cli, Verb};
use help::{command, version};
pub use help::{completions, manual};
use layers::Layers;
use observer_core::names::escape::visible;

/// The parsed command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    /// The action of the subcommand, or [`Action::Run`].
    pub action: Action,
    /// All settings, wherever they were given.
    pub config: Config,
}

/// The action of an [`Invocation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Watch until a signal ends the daemon.
    Run,
    /// Show the figures in a terminal.
    Top(top::Options),
    /// Print the connections by process, and end.
    Connections(top::ConnectionsOptions),
    /// Print what this kernel allows, and end.
    Check,
    /// Print the completion script for a shell, and end.
    Completions(Shell),
    /// Print the manual page, and end.
    Man,
}

/// Parses this process's arguments and environment. Ends the process with code 0 after `--help` and `--version`, and with
/// a line on stderr and code 2 after a mistake.
pub fn parse() -> Invocation {
    parse_from(&std::env::args_os().collect::<Vec<_>>(), &Own).unwrap_or_else(|error| error.exit())
}

/// Environment variables.
pub trait Environment {
    /// The value of a variable.
    fn get(&self, name: &str) -> Option<OsString>;

    /// The names of all variables whose name is UTF-8, sorted.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
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

/// Parses arguments and an environment. The first argument is the name of the program.
pub fn parse_from(args: &[OsString], environment: &dyn Environment) -> Result<Invocation, Error> {
    // Help shows the built-in defaults, and works even if the file is invalid.
    let matches = command().try_get_matches_from(args).map_err(in_one_line)?;
    if matches.get_flag("version") {
        // clap prints the version, which ends here like help.
        let command = Command::new("observer").version(version(matches.get_flag("verbose")));
        command.try_get_matches_from(["observer", "--version"])?;
    }
    let named = Cli::from_arg_matches(&matches).map_err(in_one_line)?.options.general.config;
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
        Some(Verb::Connections(of)) => Action::Connections(of.into_options(environment)),
        Some(Verb::Top(top)) => Action::Top(top.into_options(environment)),
        None => Action::Run,
    };
    Ok(Invocation { action, config: cli.options.into_config(environment).map_err(mistake)? })
}

fn mistake(mut text: String) -> Error {
    // The given value may have any characters, and the error must be one line.
    text = visible(&text).into_owned() + "\n";
    Error::raw(ErrorKind::ValueValidation, text)
}

/// Shortens clap's explanation of several lines, with the usage, to one line: it is often read in a log.
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
    let mut line = parts.join("; ");
    // An error about a value says what to write instead.
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        line += " (see observer --help)";
    }
    Error::raw(error.kind(), visible(&line).into_owned() + "\n")
}

#[cfg(test)]
mod tests;

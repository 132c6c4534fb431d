//! The command line, the environment and the configuration file: one parser, one set of error
//! messages.
//!
//! [`parse`] is what `main` calls. What the environment and the file say becomes the default of
//! the flag with that name (`layers`), so that a flag beats the environment, the environment
//! beats the file, and the file beats what is built in. The flags and their texts are in `flags`, what all help has in
//! `help`; `validate` makes a [`Config`] of them. Values are read by [`crate::config`].

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

#[cfg(test)]
mod tests;

//! The environment and the config file as layers: values for flags that are not on the command line.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::{ContextKind, ContextValue, Error};
use clap::{Arg, Command};
use toml::{Table, Value};

use super::Environment;
use crate::files::text_of;
use crate::top::PASSWORD_VARIABLE;

/// Maximum size of a config file in bytes; a larger file is another one by mistake.
const FILE_AT_MOST: usize = 1 << 20;

/// The prefix of the daemon's variables.
const PREFIX: &str = "OBSERVER_";

/// The values of the environment and the file, by flag.
pub(super) struct Layers(Vec<Layer>);

struct Layer {
    flag: String,
    values: Vec<OsString>,
    /// The place of the value, for errors: "from …".
    origin: String,
}

impl Layers {
    /// Reads the value of each flag from the environment, else from the file. A variable or a key without a flag is an
    /// error: the user meant something by it.
    pub(super) fn read(
        command: &Command,
        file: Option<&Path>,
        environment: &dyn Environment,
    ) -> Result<Self, String> {
        let mut layers = match file {
            Some(path) => from_file(command, path)?,
            None => Vec::new(),
        };
        for name in environment.names() {
            refuse_unknown(command, &name, environment)?;
        }
        for flag in flags(command) {
            if let Some(value) = variable(flag, environment) {
                layers.retain(|layer| layer.flag != flag);
                layers.push(Layer {
                    flag: flag.to_owned(),
                    values: vec![value],
                    origin: format!("the environment variable {}", variable_name(flag)),
                });
            }
        }
        Ok(Self(layers))
    }

    /// Makes the values the defaults of their flags.
    pub(super) fn apply(&self, command: Command) -> Command {
        self.0.iter().fold(command, |command, layer| {
            // The derived id of a flag is its field's name.
            let id = layer.flag.replace('-', "_");
            command.mut_arg(id, |arg| arg.default_values(layer.values.clone()))
        })
    }

    /// Adds the place of a value to an error about it: the user has not written the flag that the error names.
    pub(super) fn name_origin(&self, error: Error) -> Error {
        let text = error.to_string();
        let text = text.trim_end().trim_start_matches("error: ");
        let named = self.0.iter().find(|layer| {
            let flag = format!("'--{}", layer.flag);
            let followed_by = |end: char| text.contains(&format!("{flag}{end}"));
            [' ', '[', '=', '\''].into_iter().any(followed_by)
                && layer.texts().any(|value| text.contains(&format!("'{value}'")))
        });
        match named {
            Some(layer) => Error::raw(error.kind(), format!("{text}, from {}\n", layer.origin)),
            None => error,
        }
    }
}

impl Layer {
    fn texts(&self) -> impl Iterator<Item = &str> {
        self.values.iter().filter_map(|value| value.to_str()).flat_map(|text| text.split(','))
    }
}

/// The long flags that have a variable and a key.
fn flags(command: &Command) -> impl Iterator<Item = &str> {
    command.get_arguments().filter_map(Arg::get_long).filter(|long| is_setting(long))
}

fn is_setting(long: &str) -> bool {
    !["config", "help", "version"].contains(&long)
}

/// The variable of a flag: `OBSERVER_MAX_METHODS` for `max-methods`.
pub(super) fn variable_name(long: &str) -> String {
    format!("{PREFIX}{}", long.to_ascii_uppercase().replace('-', "_"))
}

/// The value of a flag's variable; `None` if it is not set or empty.
pub(super) fn variable(long: &str, environment: &dyn Environment) -> Option<OsString> {
    let value = environment.get(&variable_name(long))?;
    let is_unset = value.is_empty() || (long == "port" && is_service_link(&value));
    (!is_unset).then_some(value)
}

/// Whether a value is from Kubernetes: in a namespace with a Service named "observer", it sets OBSERVER_PORT to the
/// Service's URL in every container (service links).
fn is_service_link(value: &OsStr) -> bool {
    let schemes = ["tcp://", "udp://", "sctp://"];
    value.to_str().is_some_and(|text| schemes.into_iter().any(|scheme| text.starts_with(scheme)))
}

/// Whether Kubernetes sets this variable for a Service whose name starts with "observer" (`kubelet/envvars`):
/// `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_<NAME>`, `…_PORT`, `…_PORT_<NUMBER>_<PROTOCOL>`, and the last one
/// with `_PROTO`, `_PORT` or `_ADDR`.
fn is_of_a_service(name: &str, value: &OsStr) -> bool {
    let number_and_protocol = |rest: &str| {
        let mut words = rest.split('_');
        let number = words.next().is_some_and(|word| word.parse::<u16>().is_ok());
        let protocol = words.next().is_some_and(|word| ["TCP", "UDP", "SCTP"].contains(&word));
        let part = words.next().is_none_or(|word| ["PROTO", "PORT", "ADDR"].contains(&word));
        number && protocol && part && words.next().is_none()
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_service_link(value))
        || name
            .match_indices("_PORT_")
            .any(|(at, word)| name.get(at + word.len()..).is_some_and(number_and_protocol))
}

/// Returns an error for a variable that starts with `OBSERVER_` and belongs to no flag.
fn refuse_unknown(
    command: &Command,
    name: &str,
    environment: &dyn Environment,
) -> Result<(), String> {
    let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(()) };
    let known = flags(command).chain(["config"]).any(|flag| variable_name(flag) == name);
    let value = environment.get(name).unwrap_or_default();
    if known || name == PASSWORD_VARIABLE || value.is_empty() || is_of_a_service(name, &value) {
        return Ok(());
    }
    let unknown = format!("the environment variable {name} is not a setting");
    let nearest = nearest(command, &rest.to_ascii_lowercase().replace('_', "-"));
    Err(match nearest {
        Some(flag) => format!("{unknown}: did you mean {}? If not, unset it", variable_name(&flag)),
        None => format!("{unknown}: unset it, or see observer --help for the valid ones"),
    })
}

fn from_file(command: &Command, path: &Path) -> Result<Vec<Layer>, String> {
    let shown = path.display();
    let table = read_table(path)?;
    let mut layers = Vec::with_capacity(table.len());
    for (key, value) in table {
        let Some(arg) = command
            .get_arguments()
            .find(|arg| arg.get_long().is_some_and(|long| long == key && is_setting(long)))
        else {
            return Err(unknown_key(command, &key, path));
        };
        let values = texts(value, arg.get_value_delimiter().is_some())
            .map_err(|reason| format!("{shown}: the key '{key}' is {reason}"))?;
        if !values.is_empty() {
            let origin = format!("the key '{key}' in {shown}");
            layers.push(Layer { flag: key, values, origin });
        }
    }
    Ok(layers)
}

fn read_table(path: &Path) -> Result<Table, String> {
    let shown = path.display();
    let text = text_of(path, FILE_AT_MOST).map_err(|error| {
        format!("cannot read the config file {shown}: {error}; correct --config")
    })?;
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!("{shown} line {line}: {}", error.message().replace('\n', ", "))
    })
}

/// The flag with the most similar spelling, as clap suggests it.
fn nearest(command: &Command, long: &str) -> Option<String> {
    let error =
        command.clone().try_get_matches_from(["observer".to_owned(), format!("--{long}")]).err()?;
    match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(flag)) => Some(flag.trim_start_matches("--").to_owned()),
        _ => None,
    }
    .filter(|flag| is_setting(flag))
}

fn unknown_key(command: &Command, key: &str, path: &Path) -> String {
    let unknown = format!("{}: '{key}' is not a setting", path.display());
    if key == "config" {
        return format!("{unknown}: a config file cannot name another; remove it");
    }
    match nearest(command, key) {
        Some(flag) => format!("{unknown}; did you mean '{flag}'?"),
        None => format!("{unknown}; there are: {}", flags(command).collect::<Vec<_>>().join(", ")),
    }
}

fn texts(value: Value, list: bool) -> Result<Vec<OsString>, String> {
    match value {
        Value::Array(values) if list => values.into_iter().map(text).collect(),
        Value::Array(_) => Err("a list, but takes one value".into()),
        Value::String(text) if list && text.is_empty() => Ok(Vec::new()),
        value => Ok(vec![text(value)?]),
    }
}

fn text(value: Value) -> Result<OsString, String> {
    match value {
        Value::String(text) => Ok(text.into()),
        Value::Integer(number) => Ok(number.to_string().into()),
        Value::Float(number) => Ok(number.to_string().into()),
        Value::Boolean(choice) => Ok(choice.to_string().into()),
        Value::Datetime(_) => Err("a date: write it in quotes".into()),
        Value::Array(_) => Err("a list of lists: write one list".into()),
        Value::Table(_) => Err("a table, but takes a value: write it above all [headers]".into()),
    }
}

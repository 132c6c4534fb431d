//! The daemon's log: lines on stderr, chosen by `--log`.

#![forbid(unsafe_code)]

use std::fmt::{self, Display, Formatter};
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::{panic, process, thread};

use anyhow::Context as _;
use tracing::{error, level_filters::LevelFilter};
use tracing_subscriber::EnvFilter;

/// What is logged, as `tracing-subscriber` reads it: `info`, `warn,observer::kernel=debug`.
///
/// Some things are stricter: a word alone must be a level, a module must have one, and something must be
/// said of the daemon's own modules. `tracing-subscriber` would take a mistyped level for the name of a
/// module, and then log next to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".into())
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WRITE: &str = "write a level (off, error, warn, info, debug, trace), or levels by \
                             module such as warn,observer::kernel=debug";
        let mut says_of_observer = false;
        for part in text.split(',').map(str::trim) {
            let alone = !part.contains(['=', '[']);
            if alone && (part.is_empty() || part.parse::<LevelFilter>().is_err()) {
                return Err(format!("'{part}' is not a level: {WRITE}"));
            }
            if part.starts_with('=') || part.ends_with('=') {
                return Err(format!("'{part}' is not a module and a level: {WRITE}"));
            }
            let module = part.split(['=', '[']).next().unwrap_or_default();
            let of_observer = module == "observer" || module.starts_with("observer::");
            says_of_observer |= alone || module.is_empty() || of_observer;
        }
        EnvFilter::builder().parse(text).map_err(|error| format!("{error}: {WRITE}"))?;
        if !says_of_observer {
            return Err(format!(
                "'{text}' silences all of observer: add a level for it, such as warn,{text}"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Has a panic end the process, whatever thread it is in, with a line in the log: what the others would tell without
/// it would be wrong.
pub fn end_at_panic() {
    panic::set_hook(Box::new(|panic| {
        let text = panic.to_string().replace('\n', " ");
        error!("the daemon ends: thread {} {text}", thread::current().name().unwrap_or("?"));
        process::abort();
    }));
}

/// Starts logging. To be called once, before anything logs; fails the second time.
pub fn init(filter: &Filter) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&filter.0).context("reading the log filter")?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(!no_color && io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow::anyhow!("the log was started twice: {error}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Run by the next one, in a process of its own.
    #[test]
    #[ignore = "it ends the process"]
    fn panics() {
        init(&Filter::default()).unwrap();
        end_at_panic();
        let _ = thread::Builder::new()
            .name("worker-7".into())
            .spawn(|| panic!("two\nlines"))
            .map(thread::JoinHandle::join);
        io::Write::write_all(&mut io::stdout(), b"it goes on").unwrap();
    }

    #[test]
    fn a_panic_in_any_thread_ends_the_process_with_a_line_in_the_log() {
        use std::os::unix::process::ExitStatusExt as _;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "--nocapture", "log::tests::panics"]);
        let output = command.env("NO_COLOR", "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("ERROR observer::log: the daemon ends: thread worker-7 panicked at"));
        assert!(told.contains("two lines") && told.lines().count() == 1, "{told}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("it goes on"));
    }

    #[test]
    fn levels_and_modules_are_read() {
        for good in [
            "info",
            "off",
            "WARN",
            "warn,observer::kernel=debug",
            "observer=debug,hyper=info",
            "observer::kernel=debug",
            "observer[span]=trace",
            "[span]=trace",
        ] {
            assert_eq!(good.parse::<Filter>().map(|filter| filter.to_string()), Ok(good.into()));
        }
        assert_eq!("info".parse(), Ok(Filter::default()));
    }

    #[test]
    fn a_mistyped_level_is_an_error() {
        for bad in [
            "inof",
            "",
            "info,",
            "observer=loud",
            "observer::kernel",
            "a=b=c",
            "nonsense=",
            "info,nonsense=",
            "observer=",
            "=info",
        ] {
            let error = bad.parse::<Filter>().expect_err(bad);
            assert!(error.contains("write a level"), "{bad}: {error}");
            assert!(!error.contains('\n'), "{bad}: {error}");
        }
    }

    #[test]
    fn what_silences_the_daemon_says_so() {
        for bad in ["nonsense=info", "hyper=debug,h2=trace", "observers=info", "kernel=debug"] {
            let error = bad.parse::<Filter>().expect_err(bad);
            assert!(error.contains(&format!("add a level for it, such as warn,{bad}")), "{error}");
        }
    }
}

//! The daemon's log: lines on stderr, filtered by `--log`.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::{panic, process, thread};

use anyhow::Context as _;
use tracing::{error, level_filters::LevelFilter};
use tracing_subscriber::EnvFilter;

use observer_core::names::escape::visible;

/// A log filter in the syntax of `tracing-subscriber`: `info`, `warn,observer::kernel=debug`.
///
/// Three rules are stricter: a single word must be a level, a module must have a level, and the filter must set a level
/// for the daemon's own modules. `tracing-subscriber` would take a mistyped level for the name of a module, and log
/// almost nothing.
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
        const WRITE: &str = "write a level (off, error, warn, info, debug, trace), or levels per \
                             module, such as warn,observer::kernel=debug";
        let mut says_of_observer = false;
        for part in text.split(',').map(str::trim) {
            let alone = !part.contains(['=', '[']);
            if alone && (part.is_empty() || part.parse::<LevelFilter>().is_err()) {
                return Err(format!("'{part}' is not a level: {WRITE}"));
            }
            if part.starts_with('=') || part.ends_with('=') {
                return Err(format!("'{part}' is not a module with a level: {WRITE}"));
            }
            let module = part.split(['=', '[']).next().unwrap_or_default();
            let of_observer = module == "observer" || module.starts_with("observer::");
            says_of_observer |= alone || module.is_empty() || of_observer;
        }
        EnvFilter::builder().parse(text).map_err(|error| format!("{error}: {WRITE}"))?;
        if !says_of_observer {
            return Err(format!(
                "'{text}' turns off all logs of observer: add a level for it, such as warn,{text}"
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

/// Makes a panic in any thread end the process, with a line in the log: without that thread, the figures of the others
/// would be wrong.
pub fn end_at_panic() {
    panic::set_hook(Box::new(|panic| {
        let text = panic.to_string().replace('\n', " ");
        error!("the daemon ends: thread {} {text}", thread::current().name().unwrap_or("?"));
        process::abort();
    }));
}

/// Starts logging. To be called once, before anything is logged; a second call returns an error.
pub fn init(filter: &Filter) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&filter.0).context("cannot read the log filter")?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let has_colors = !no_color && io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(filter)
        .with_writer(move || Lines { to: io::stderr(), has_colors })
        .with_ansi(has_colors)
        .try_init()
        .map_err(|error| anyhow::anyhow!("the log was started twice: {error}"))
}

/// Writes log lines with invisible characters escaped: peers may have chosen the text.
struct Lines<W> {
    to: W,
    has_colors: bool,
}

impl<W: Write> Write for Lines<W> {
    /// Writes an event, which `tracing-subscriber` passes as a whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        let line = if self.has_colors { in_colors(line) } else { visible(line) };
        self.to.write_all(format!("{line}{end}").as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Escapes a line except for colors. `tracing-subscriber` lets only its own colors through.
fn in_colors(line: &str) -> Cow<'_, str> {
    let mut pieces = line.split("\x1b[");
    let mut text = visible(pieces.next().unwrap_or_default());
    for piece in pieces {
        let end = piece.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(piece.len());
        let (numbers, rest) = piece.split_at(end);
        match rest.strip_prefix('m') {
            Some(rest) => text.to_mut().extend(["\x1b[", numbers, "m", &visible(rest)]),
            None => text.to_mut().push_str(&visible(&format!("\x1b[{piece}"))),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Run by the next test, in a process of its own.
    #[test]
    #[ignore = "it ends the process"]
    fn panics() {
        init(&Filter::default()).unwrap();
        end_at_panic();
        let _ = thread::Builder::new()
            .name("worker-7".into())
            .spawn(|| panic!("two\nlines"))
            .map(thread::JoinHandle::join);
        io::stdout().write_all(b"it goes on").unwrap();
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
    fn a_line_shows_what_is_in_it() {
        let line = "WARN no names: \u{202e}\u{1b}[2Jgone\nINFO all is well\u{2028}\n";
        let colored = "\u{1b}[33m WARN\u{1b}[0m no names: \u{1b}[2Jgone\u{1b}\n";
        for (has_colors, line, want) in [
            (false, line, "WARN no names: \\u{202e}\\u{1b}[2Jgone\\nINFO all is well\\u{2028}\n"),
            (true, colored, "\u{1b}[33m WARN\u{1b}[0m no names: \\u{1b}[2Jgone\\u{1b}\n"),
        ] {
            let mut text = Vec::new();
            Lines { to: &mut text, has_colors }.write_all(line.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), want);
        }
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

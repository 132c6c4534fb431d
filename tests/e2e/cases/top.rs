//! `observer top` in terminals of two sizes, and its snapshots, compared with the peers' records.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use support::daemon::{Daemon, command};
use support::look::figures::{self, ERRORS, IN_FLIGHT, P50, P90, P99, RATE};
use support::look::names;
use support::look::terminal::Terminal;
use support::look::top::{BACKSPACE, ENTER, Shown, is_row, of_bucket, of_json, of_table, top};
use support::look::{Lines, lines_of_ends, load, number, same, wait_for};
use support::peer::{Client, Listen, Server};
use support::raw::Talk;
use support::stack::Stack;

const DOWN: &str = "\x1b[B";
const ESCAPE: &str = "\x1b";
const HOME: &str = "\x1b[H";
const END: &str = "\x1b[F";

/// Time for a sample to be displayed, if it is.
const SAMPLE: Duration = Duration::from_millis(2500);

/// A daemon, a server whose calls have ended, and the expected lines of these calls.
struct Done {
    daemon: Daemon,
    /// It still runs, so its figures stay.
    server: Server,
    lines: Lines,
}

fn done(stack: &Stack, while_at_it: impl FnOnce(&Daemon) -> Result<()>) -> Result<Done> {
    let server = Server::start(stack, Listen::V4)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let client = Client::start(stack, &server, &load())?;
    while_at_it(&daemon)?;
    let (client, truth) = client.finish()?;
    let lines = lines_of_ends(&client, server.identity(), &truth);
    Ok(Done { daemon, server, lines })
}

/// With 200 columns all figures are in the table.
pub(crate) fn top_in_a_large_terminal(stack: &Stack) -> Result<()> {
    let mut terminal = None;
    let done = done(stack, |daemon| {
        let started = Terminal::start(&mut top(daemon, &["--sort", "calls"])?, 200, 50)?;
        started.shows(" live")?;
        // During calls there are rates, and a spark line.
        started.wait_until(|lines| {
            let busy = |line: &&String| line.contains("/Unary") && line.contains('█');
            lines.iter().find(busy).map(drop).context("no spark line")
        })?;
        terminal = Some(started);
        Ok(())
    })?;
    let mut terminal = terminal.context("a terminal")?;
    terminal.wait_until(|lines| {
        let shown = lines.iter().filter_map(|line| of_table(line)).collect();
        same("the terminal", &done.lines, &shown)
    })?;
    // Sorted by calls: the most are first.
    let most = terminal.lines().into_iter().find(|line| is_row(line)).context("no row")?;
    ensure!(most.contains("/Unary"), "the most calls are not first: {most}");
    terminal.press("/bidi client")?;
    terminal.press(ENTER)?;
    terminal.wait_until(|lines| {
        let left: Vec<_> = lines.iter().filter(|line| is_row(line)).collect();
        match left.as_slice() {
            [line] if line.contains("/Bidi") && line.contains(" client ") => Ok(()),
            _ => bail!("{} rows match the filter", left.len()),
        }
    })?;
    terminal.end(Some("q"))?;
    done.daemon.stop()?;
    done.server.stop()?;
    Ok(())
}

/// With 80 columns a row's figures are in its detail.
pub(crate) fn top_in_a_small_terminal(stack: &Stack) -> Result<()> {
    let done = done(stack, |_| Ok(()))?;
    let mut terminal = Terminal::start(&mut top(&done.daemon, &[])?, 80, 24)?;
    terminal.shows("/Unary")?;
    ensure!(terminal.lines().iter().all(|line| line.chars().count() <= 80), "a line is too long");
    terminal.press("/unary client")?;
    terminal.press(ENTER)?;
    terminal.wait_until(|lines| {
        let left = lines.iter().filter(|line| is_row(line)).count();
        ensure!(left == 1, "{left} rows match the filter");
        Ok(())
    })?;
    terminal.press(ENTER)?;
    terminal.shows("TIME")?;
    let of = done.lines.iter().find(|line| line.contains(" client ") && line.contains("/Unary"));
    let codes = of.and_then(|line| line.split_once("calls, ")).context("no unary calls")?.1;
    for code in codes.split(", ") {
        let (code, calls) = code.split_once(' ').context("a code without calls")?;
        terminal.wait_until(|lines| {
            let words: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
            let shown = words.windows(2).any(|pair| match pair {
                [name, shown] => *name == code && number(shown) == number(calls),
                _ => false,
            });
            ensure!(shown, "{code} {calls} is not shown");
            Ok(())
        })?;
    }
    // The histogram has all calls.
    let calls = of.and_then(|line| line.split_once(": ")?.1.split_once(' ')?.0.parse::<u64>().ok());
    terminal.wait_until(|lines| {
        let sum: u64 = lines.iter().filter_map(|line| of_bucket(line)).sum();
        ensure!(Some(sum) == calls, "{sum} of {calls:?} calls have a bucket");
        Ok(())
    })?;
    terminal.press(ESCAPE)?;
    terminal.shows("PROCESS")?;
    terminal.press(DOWN)?;
    terminal.press("p")?;
    terminal.shows("paused")?;
    terminal.end(None)?;
    done.daemon.stop()?;
    done.server.stop()?;
    Ok(())
}

/// The live view of a process that watches by itself.
pub(crate) fn top_shows_what_it_watches_itself(stack: &Stack) -> Result<()> {
    let server = Server::start(stack, Listen::V4)?;
    let mut top = command(&["top", "--port", &server.port()?, "--sort", "calls"])?;
    let terminal = Terminal::start(&mut top, 200, 50)?;
    terminal.shows("observer this process live")?;
    let (client, truth) = Client::start(stack, &server, &load())?.finish()?;
    let expected = lines_of_ends(&client, server.identity(), &truth);
    terminal.wait_until(|lines| {
        let shown = lines.iter().filter_map(|line| of_table(line)).collect();
        same("the terminal", &expected, &shown)
    })?;
    terminal.end(Some("q"))?;
    server.stop()?;
    Ok(())
}

/// The figures besides counts are those of the peers' records, with all columns.
pub(crate) fn top_shows_true_figures(stack: &Stack) -> Result<()> {
    const COLUMNS: &[&str] = &[RATE, ERRORS, IN_FLIGHT, P50, P90, P99];
    figures::are_true(stack, |daemon| {
        let terminal = Terminal::start(&mut top(daemon, &[])?, 200, 50)?;
        Ok(Shown { terminal, columns: COLUMNS })
    })
}

/// Like [`top_shows_true_figures`], with the columns that 80 columns have room for.
pub(crate) fn top_shows_true_figures_in_a_small_terminal(stack: &Stack) -> Result<()> {
    const COLUMNS: &[&str] = &[RATE, ERRORS, IN_FLIGHT, P99];
    figures::are_true(stack, |daemon| {
        let terminal = Terminal::start(&mut top(daemon, &[])?, 80, 24)?;
        Ok(Shown { terminal, columns: COLUMNS })
    })
}

/// 500 methods, long and hostile names, only errors, only zeros: the whole table in both sizes, and each key.
pub(crate) fn top_shows_names_of_any_kind() -> Result<()> {
    let daemon = names::daemon()?;
    // As many rows as there is room for.
    let (names, mut talk) = names::called(&daemon, 500)?;
    let pids = talk.pids()?;
    let rows = rows_of(&talk, &names, &pids);
    for (columns, height) in [(80, 24), (200, 50)] {
        let mut terminal =
            Terminal::start(&mut top(&daemon, &["--sort", "method"])?, columns, height)?;
        let all: Vec<String> = rows.iter().map(|row| row.line(columns)).collect();
        is_table(&terminal, columns, "METHOD▼", &all)?;
        terminal.press("r")?;
        let reversed: Vec<String> = all.iter().rev().cloned().collect();
        is_table(&terminal, columns, "METHOD▲", &reversed)?;
        // The first method is in the last row.
        terminal.press(END)?;
        terminal.wait_until(|lines| {
            let last = lines.iter().rfind(|line| is_row(line)).map(String::as_str);
            same_line(all.first().map(String::as_str), last)
        })?;
        terminal.press("m/SERVER method49")?;
        terminal.press(ENTER)?;
        let left: Vec<String> = rows
            .iter()
            .filter(|row| row.role == "server" && row.path.contains("Method49"))
            .map(|row| row.line(columns))
            .collect();
        ensure!(left.len() == 5, "the truth has {left:?}");
        is_table(&terminal, columns, "METHOD▼", &left)?;
        // The detail has the whole name and the figures.
        terminal.press(&format!("/{}{}{ENTER}", BACKSPACE.repeat(15), "client xxx"))?;
        terminal.press(ENTER)?;
        terminal.wait_until(|lines| {
            let letters = lines.iter().flat_map(|line| line.chars()).filter(|&c| c == 'x').count();
            let has = |text: &str| lines.iter().any(|line| line.contains(text));
            ensure!(letters >= names::LONG, "{letters} letters of {}", names::LONG);
            let has_all = ["Internal 1", "TIME", "messages read"].into_iter().all(has);
            ensure!(has_all, "there are no figures");
            Ok(())
        })?;
        terminal.press(ENTER)?;
        // The row stays selected without the filter.
        terminal.press(&format!("/{}{ENTER}{HOME}", BACKSPACE.repeat(10)))?;
        is_table(&terminal, columns, "METHOD▼", &all)?;
        is_resized(&terminal, columns, height, &rows)?;
        terminal.end(Some("q"))?;
    }
    is_paused(&daemon, &mut talk)?;
    talk.end_peers()?;
    daemon.stop()
}

/// A row of a method with one call, some time ago, which failed.
struct Idle {
    process: String,
    role: &'static str,
    path: String,
}

impl Idle {
    /// The row as it is displayed with 80 or 200 columns, without spaces at its end.
    fn line(&self, columns: u16) -> String {
        let Self { process, role, path } = self;
        let room = if columns == 80 { 20 } else { 38 };
        let cut = path.len().saturating_sub(room - 1);
        let name = match path.get(cut..) {
            Some(end) if path.len() > room => format!("…{end}"),
            _ => path.clone(),
        };
        let beginning = format!("{process:<17} {role:<6} {name:<room$} {:>8}", "0");
        if columns == 80 {
            format!("{beginning} {:>7} {:>7} {:>8}", "–", "0", "–")
        } else {
            format!(
                "{beginning} {:30} {:>7} {:>7} {:>7} {:>7} {:>8} {:>11} Internal 1",
                "", "–", "0", "–", "–", "–", "1"
            )
        }
    }
}

/// The rows of both ends, sorted by method, then by side.
fn rows_of(talk: &Talk<'_>, names: &[String], pids: &[(&'static str, String); 2]) -> Vec<Idle> {
    let mut paths: Vec<String> =
        names.iter().map(|name| format!("{}/{name}", talk.service())).collect();
    // The service ends at the last slash.
    paths.sort_by(|a, b| a.rsplit_once('/').cmp(&b.rsplit_once('/')));
    let of_both = |path: String| {
        pids.iter().map(move |(role, pid)| Idle {
            process: format!("raw-peer[{pid}]"),
            role,
            path: path.clone(),
        })
    };
    paths.into_iter().flat_map(of_both).collect()
}

/// Waits until the table has this heading, and as many of these lines as it has room for, and no others.
fn is_table(terminal: &Terminal, columns: u16, heading: &str, rows: &[String]) -> Result<()> {
    terminal.wait_until(|lines| {
        let at = lines.iter().position(|line| line.starts_with("PROCESS"));
        let at = at.context("there is no table")?;
        let (head, table) = lines.split_at(at + 1);
        let has_heading = head.last().is_some_and(|line| line.contains(heading));
        ensure!(has_heading, "the heading has no {heading}");
        // The last line lists the keys.
        let room = table.len().saturating_sub(1);
        for (at, line) in table.iter().take(room).enumerate() {
            let row = rows.get(at).map_or("", String::as_str);
            same_line(Some(row), Some(line))?;
            ensure!(line.chars().count() <= usize::from(columns), "too long: {line}");
        }
        Ok(())
    })
}

fn same_line(expected: Option<&str>, shown: Option<&str>) -> Result<()> {
    let same = expected.map(str::trim_end) == shown.map(str::trim_end);
    ensure!(same, "not {expected:?} but {shown:?}");
    Ok(())
}

/// Changes to the other size, and back.
fn is_resized(terminal: &Terminal, columns: u16, height: u16, rows: &[Idle]) -> Result<()> {
    let other = if columns == 80 { (200, 50) } else { (80, 24) };
    for (columns, height) in [other, (columns, height)] {
        terminal.resize(columns, height)?;
        let rows: Vec<String> = rows.iter().map(|row| row.line(columns)).collect();
        is_table(terminal, columns, "METHOD▼", &rows)?;
    }
    Ok(())
}

/// A paused display does not change until it continues; then the calls that failed meanwhile are at the top.
fn is_paused(daemon: &Daemon, talk: &mut Talk<'_>) -> Result<()> {
    const CALLS: u64 = 3;
    let mut terminal = Terminal::start(&mut top(daemon, &[])?, 200, 50)?;
    terminal.shows("ERRORS▼")?;
    terminal.shows(" live")?;
    terminal.press("p")?;
    terminal.shows(" paused")?;
    let before = terminal.lines();
    for stream in (2_001..).step_by(2).take(usize::try_from(CALLS)?) {
        talk.client(|f| f.request(stream, "Method250").last_message(stream, 1))?;
        talk.server(|f| f.trailers_only(stream, 13))?;
    }
    sleep(SAMPLE);
    ensure!(terminal.lines() == before, "it is not paused: {}", terminal.lines().join("\n"));
    terminal.press("p")?;
    terminal.wait_until(|lines| {
        let shown: BTreeSet<String> = lines
            .iter()
            .filter(|line| is_row(line))
            .take(2)
            .filter(|line| line.contains("/Method250 ") && line.contains(" 100 % "))
            .filter(|line| line.trim_end().ends_with("Internal 4"))
            .filter_map(|line| Some(line.split_whitespace().nth(1)?.to_owned()))
            .collect();
        let both = BTreeSet::from(["client".to_owned(), "server".to_owned()]);
        ensure!(shown == both, "the failed calls are at the top of {shown:?}");
        Ok(())
    })?;
    // Each key that sorts by a column, and those that go through the columns.
    for (key, heading) in [
        ("t", "CALLS▼"),
        ("c", "CALLS/S▼"),
        ("i", "FLIGHT▼"),
        ("5", "P50▼"),
        ("0", "P90▼"),
        ("9", "P99▼"),
        ("n", "PROCESS▼"),
        ("m", "METHOD▼"),
        ("s", "CALLS/S▼"),
        ("s", "ERRORS▼"),
        ("<", "CALLS/S▼"),
    ] {
        terminal.press(key)?;
        terminal.shows(heading)?;
    }
    terminal.press("t")?;
    terminal.wait_until(|lines| {
        let first = lines.iter().find(|line| is_row(line));
        let most = first.is_some_and(|line| line.contains("/Method250 "));
        ensure!(most, "the most calls are not first: {first:?}");
        Ok(())
    })?;
    terminal.end(Some("q"))
}

/// `--once`, as a table and as JSON, with a daemon and without one.
pub(crate) fn top_prints_snapshots(stack: &Stack) -> Result<()> {
    let done = done(stack, |_| Ok(()))?;
    wait_for(|| {
        let mut once = top(&done.daemon, &["--once", "--table"])?;
        let table = output(once.env("COLUMNS", "300"))?;
        let shown = table.lines().filter_map(of_table).collect();
        Ok(same("the table", &done.lines, &shown))
    })?;
    let json = output(&mut top(&done.daemon, &["--once", "--json", "--filter", "Echo"])?)?;
    let model: Value = serde_json::from_str(&json)?;
    let rows = model.get("rows").and_then(Value::as_array).context("no rows")?;
    let shown = rows.iter().map(of_json).collect::<Option<Lines>>().context("a row's fields")?;
    same("JSON", &done.lines, &shown)?;
    let mut own = command(&["top", "--once", "--table", "--port", &done.server.port()?])?;
    let of_its_own = output(own.env_remove("COLUMNS"))?;
    ensure!(of_its_own.contains("No gRPC call has been seen."), "it has calls: {of_its_own}");
    let narrow = output(top(&done.daemon, &["--once", "--table"])?.env_remove("COLUMNS"))?;
    let too_long = narrow.lines().find(|line| line.chars().count() > 80);
    ensure!(too_long.is_none(), "longer than 80 columns: {too_long:?}");
    for text in ["CALLS and codes: since 20", "P50 to P99: of the last ", "\n  METHOD  CODES\n"] {
        ensure!(narrow.contains(text), "{text:?} is not in: {narrow}");
    }
    let mut lost = top(&done.daemon, &["--once", "--table"])?;
    done.daemon.stop()?;
    let refused = lost.output().context("run observer top")?;
    let error = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1), "it ends with success without a daemon: {error}");
    ensure!(error.lines().count() == 1 && error.contains("no answer"), "its error: {error}");
    done.server.stop()?;
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().context("run observer top")?;
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{}: {error}", done.status);
    String::from_utf8(done.stdout).context("its output")
}

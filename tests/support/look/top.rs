//! `observer top` in terminals of two sizes, and its snapshots, beside what the peers know.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::figures::{
    self, Connections, ERRORS, Figures, IN_FLIGHT, Look, P50, P90, P99, RATE, Who,
};
use super::names::{self, Names};
use super::terminal::Terminal;
use super::{Lines, line, lines_of, load, number, same, wait_for};
use crate::daemon::{Daemon, binary, without_ours};
use crate::peer::{Client, Listen, Server};
use crate::raw::Talk;
use crate::raw::talk::Role;
use crate::stack::Stack;

const DOWN: &str = "\x1b[B";
const ENTER: &str = "\r";
const ESCAPE: &str = "\x1b";
const HOME: &str = "\x1b[H";
const END: &str = "\x1b[F";
const BACKSPACE: &str = "\x7f";

/// Of which its spark lines are.
pub(super) const SPARK: Duration = Duration::from_secs(30);

/// For a sample to be there, or not.
const SAMPLE: Duration = Duration::from_millis(2500);

/// Peers that have done something, and what is to be shown of it.
struct Done {
    daemon: Daemon,
    /// Still there, with its figures.
    server: Server,
    lines: Lines,
}

fn done(stack: &Stack, while_at_it: impl FnOnce(&Daemon) -> Result<()>) -> Result<Done> {
    let server = Server::start(stack, Listen::V4)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let client = Client::start(stack, &server, &load())?;
    while_at_it(&daemon)?;
    let (client, truth) = client.finish()?;
    let mut lines = lines_of(&client, "client", &truth);
    lines.extend(lines_of(server.identity(), "server", &truth));
    Ok(Done { daemon, server, lines })
}

pub(super) fn top(daemon: &Daemon, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    without_ours(&mut command);
    command.arg("top").args(["--address", &format!("http://{}", daemon.address())]);
    command.args(arguments);
    Ok(command)
}

/// 200 columns: all figures are in the table.
pub fn top_in_a_large_terminal(stack: &Stack) -> Result<()> {
    let mut terminal = None;
    let done = done(stack, |daemon| {
        let started = Terminal::start(&mut top(daemon, &["--sort", "calls"])?, 200, 50)?;
        started.shows(" live")?;
        // While calls are made, there are rates, and a spark line.
        started.wait_until(|lines| {
            let busy = |line: &&String| line.contains("/Unary") && line.contains('█');
            lines.iter().find(busy).map(drop).ok_or("nothing moves".into())
        })?;
        terminal = Some(started);
        Ok(())
    })?;
    let mut terminal = terminal.context("a terminal")?;
    terminal.wait_until(|lines| {
        let shown = lines.iter().filter_map(|line| of_table(line)).collect();
        same("the terminal", &done.lines, &shown)
    })?;
    // By calls: most are first, whoever made them.
    let most = terminal.lines().into_iter().find(|line| is_row(line)).context("no row")?;
    ensure!(most.contains("/Unary"), "the most calls are not first: {most}");
    terminal.press("/bidi client")?;
    terminal.press(ENTER)?;
    terminal.wait_until(|lines| {
        let left: Vec<_> = lines.iter().filter(|line| is_row(line)).collect();
        match left.as_slice() {
            [line] if line.contains("/Bidi") && line.contains(" client ") => Ok(()),
            _ => Err(format!("{} rows fit the filter", left.len())),
        }
    })?;
    terminal.end(Some("q"))?;
    done.daemon.stop()?;
    done.server.stop()?;
    Ok(())
}

/// 80 columns: a row's figures are in its detail.
pub fn top_in_a_small_terminal(stack: &Stack) -> Result<()> {
    let done = done(stack, |_| Ok(()))?;
    let mut terminal = Terminal::start(&mut top(&done.daemon, &[])?, 80, 24)?;
    terminal.shows("/Unary")?;
    ensure!(terminal.lines().iter().all(|line| line.chars().count() <= 80), "a line is too long");
    terminal.press("/unary client")?;
    terminal.press(ENTER)?;
    terminal.wait_until(|lines| {
        let left = lines.iter().filter(|line| is_row(line)).count();
        if left == 1 { Ok(()) } else { Err(format!("{left} rows fit the filter")) }
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
            if shown { Ok(()) } else { Err(format!("{code} {calls} is not shown")) }
        })?;
    }
    // The histogram has all of them.
    let calls = of.and_then(|line| line.split_once(": ")?.1.split_once(' ')?.0.parse::<u64>().ok());
    terminal.wait_until(|lines| {
        let sum: u64 = lines.iter().filter_map(|line| of_bucket(line)).sum();
        if Some(sum) == calls {
            Ok(())
        } else {
            Err(format!("{sum} of {calls:?} calls have a bucket"))
        }
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

/// A live view of what this process watches itself.
pub fn top_shows_what_it_watches_itself(stack: &Stack) -> Result<()> {
    let server = Server::start(stack, Listen::V4)?;
    let mut command = Command::new(binary()?);
    without_ours(&mut command);
    command.args(["top", "--port", &server.port()?, "--sort", "calls"]);
    let terminal = Terminal::start(&mut command, 200, 50)?;
    terminal.shows("observer this process live")?;
    let (client, truth) = Client::start(stack, &server, &load())?.finish()?;
    let mut expected = lines_of(&client, "client", &truth);
    expected.extend(lines_of(server.identity(), "server", &truth));
    terminal.wait_until(|lines| {
        let shown = lines.iter().filter_map(|line| of_table(line)).collect();
        same("the terminal", &expected, &shown)
    })?;
    terminal.end(Some("q"))?;
    server.stop()?;
    Ok(())
}

/// `observer top` as people look at it.
struct Shown {
    terminal: Terminal,
    columns: &'static [&'static str],
}

impl Look for Shown {
    fn columns(&self) -> &'static [&'static str] {
        self.columns
    }

    fn figures(&self) -> Result<Figures> {
        let lines = self.terminal.lines();
        let mut figures = Figures { connections: connections(&lines), ..Figures::default() };
        let Some(heading) = lines.iter().find(|line| line.starts_with("PROCESS")) else {
            return Ok(figures);
        };
        for line in lines.iter().filter(|line| is_row(line)) {
            let mut words = line.split_whitespace();
            let pid = words.next().and_then(|process| process.strip_suffix(']')?.rsplit_once('['));
            let pid = pid.context("a row of nobody")?.1.parse()?;
            let role = words.next().context("a row without role")?.to_owned();
            let path = words.next().context("a row without method")?;
            let method = path.rsplit('/').next().unwrap_or_default().to_owned();
            let texts = self
                .columns
                .iter()
                .filter_map(|&column| Some((column, cell(heading, heading_of(column), line)?)));
            figures.rows.insert((pid, role, method), texts.collect());
        }
        Ok(figures)
    }

    fn connections_of(&mut self, (pid, role, method): &Who) -> Result<u64> {
        let filter = format!("{role} [{pid}] {method}");
        self.terminal.press(&format!("/{filter}{ENTER}"))?;
        self.terminal.wait_until(|lines| {
            let left = lines.iter().filter(|line| is_row(line)).count();
            if left == 1 { Ok(()) } else { Err(format!("{left} rows fit {filter}")) }
        })?;
        self.terminal.press(ENTER)?;
        self.terminal.shows("messages read")?;
        let lines = self.terminal.lines();
        let line = lines.iter().find(|line| line.starts_with("messages read"));
        let told = line.and_then(|line| line.trim_end().strip_suffix(" connections"));
        let open = told.and_then(|line| number(line.rsplit(' ').next()?));
        self.terminal.press(ENTER)?;
        self.terminal.press(&format!("/{}{ENTER}", BACKSPACE.repeat(filter.len())))?;
        self.terminal.shows("PROCESS")?;
        open.with_context(|| format!("no connections: {}", lines.join("\n")))
    }
}

fn heading_of(column: &str) -> &'static str {
    match column {
        RATE => "CALLS/S",
        ERRORS => "ERRORS",
        IN_FLIGHT => "FLIGHT",
        P50 => "P50",
        P90 => "P90",
        _ => "P99",
    }
}

/// A number of a line, which ends where its heading does.
fn cell(heading: &str, name: &str, line: &str) -> Option<String> {
    const WIDTH: usize = 7;
    let before = heading.get(..heading.find(name)?)?.chars().count();
    let is_mark = |c: char| ['▼', '▲'].contains(&c);
    let marked = heading.chars().nth(before + name.len()).is_some_and(is_mark);
    let end = before + name.len() + usize::from(marked);
    let cell: String = line.chars().take(end).skip(end - WIDTH).collect();
    Some(cell.trim().to_owned())
}

/// `7 connections, 2 joined late, 1 with gaps, 1 undecodable`, at the end of a line.
fn connections(lines: &[String]) -> Connections {
    let told = lines.iter().take(HEAD).find(|line| line.contains(" connections"));
    let told = told.and_then(|line| line.rsplit(" · ").next()).unwrap_or_default();
    let of = |what: &str| {
        let parts = told.trim().split(", ").filter_map(|part| part.split_once(' '));
        parts.filter(|(_, name)| *name == what).find_map(|(count, _)| number(count)).unwrap_or(0)
    };
    let (joined_late, gaps) = (of("joined late"), of("with gaps"));
    let undecodable = of("undecodable");
    let complete = of("connections").saturating_sub(joined_late + gaps + undecodable);
    Connections { complete, joined_late, gaps, undecodable }
}

/// Lines above the table, at most.
const HEAD: usize = 6;

/// What is shown beside counts is what the peers know, too: with all columns,
pub fn top_shows_true_figures(stack: &Stack) -> Result<()> {
    const COLUMNS: &[&str] = &[RATE, ERRORS, IN_FLIGHT, P50, P90, P99];
    figures::are_true(stack, |daemon| {
        let terminal = Terminal::start(&mut top(daemon, &[])?, 200, 50)?;
        Ok(Shown { terminal, columns: COLUMNS })
    })
}

/// and with those that there is room for.
pub fn top_shows_true_figures_in_a_small_terminal(stack: &Stack) -> Result<()> {
    const COLUMNS: &[&str] = &[RATE, ERRORS, IN_FLIGHT, P99];
    figures::are_true(stack, |daemon| {
        let terminal = Terminal::start(&mut top(daemon, &[])?, 80, 24)?;
        Ok(Shown { terminal, columns: COLUMNS })
    })
}

/// 500 methods, long and hostile names, errors only, nothing but zeros: the whole table, at both
/// sizes, and what each key does to it.
pub fn top_shows_names_of_any_kind() -> Result<()> {
    let daemon = names::daemon()?;
    // As many rows as there is room for.
    let Names { mut talk, names } = names::called(&daemon, 500)?;
    let pids = [("client", talk.pid(Role::Client)?), ("server", talk.pid(Role::Server)?)];
    let rows = rows_of(&talk, &names, &pids);
    for (columns, height) in [(80, 24), (200, 50)] {
        let mut terminal =
            Terminal::start(&mut top(&daemon, &["--sort", "method"])?, columns, height)?;
        let all: Vec<String> = rows.iter().map(|row| row.line(columns)).collect();
        is_table(&terminal, columns, "METHOD▼", &all)?;
        terminal.press("r")?;
        let reversed: Vec<String> = all.iter().rev().cloned().collect();
        is_table(&terminal, columns, "METHOD▲", &reversed)?;
        // The last row of them is the first one.
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
        // All of a long name is in the detail, and the figures are there as well.
        terminal.press(&format!("/{}{}{ENTER}", BACKSPACE.repeat(15), "client xxx"))?;
        terminal.press(ENTER)?;
        terminal.wait_until(|lines| {
            let letters = lines.iter().flat_map(|line| line.chars()).filter(|&c| c == 'x').count();
            let has = |text: &str| lines.iter().any(|line| line.contains(text));
            if letters < names::LONG {
                Err(format!("{letters} letters of {}", names::LONG))
            } else if !["Internal 1", "TIME", "messages read"].into_iter().all(has) {
                Err("there are no figures".into())
            } else {
                Ok(())
            }
        })?;
        terminal.press(ENTER)?;
        // The row stays chosen, wherever it is among all of them.
        terminal.press(&format!("/{}{ENTER}{HOME}", BACKSPACE.repeat(10)))?;
        is_table(&terminal, columns, "METHOD▼", &all)?;
        is_resized(&terminal, columns, height, &rows)?;
        terminal.end(Some("q"))?;
    }
    is_paused(&daemon, &mut talk)?;
    talk.end_peers()?;
    daemon.stop()
}

/// A row of a method that had one call, a while ago, which failed.
struct Idle {
    process: String,
    role: &'static str,
    path: String,
}

impl Idle {
    /// As it is shown at this width, without what is blank at its end.
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

/// By method, then role.
fn rows_of(talk: &Talk<'_>, names: &[String], pids: &[(&'static str, String); 2]) -> Vec<Idle> {
    let mut paths: Vec<String> =
        names.iter().map(|name| format!("{}/{name}", talk.service())).collect();
    // The service is what is before the last slash.
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

/// The table has this heading, and as many of these lines as there is room for, and no other.
fn is_table(terminal: &Terminal, columns: u16, heading: &str, rows: &[String]) -> Result<()> {
    terminal.wait_until(|lines| {
        let at = lines.iter().position(|line| line.starts_with("PROCESS"));
        let at = at.ok_or("there is no table")?;
        let (head, table) = lines.split_at(at + 1);
        if head.last().is_none_or(|line| !line.contains(heading)) {
            return Err(format!("the heading has no {heading}"));
        }
        // The last line is that of the keys.
        let room = table.len().saturating_sub(1);
        for (at, line) in table.iter().take(room).enumerate() {
            let row = rows.get(at).map_or("", String::as_str);
            same_line(Some(row), Some(line))?;
            if line.chars().count() > usize::from(columns) {
                return Err(format!("too long: {line}"));
            }
        }
        Ok(())
    })
}

fn same_line(expected: Option<&str>, shown: Option<&str>) -> Result<(), String> {
    if expected.map(str::trim_end) == shown.map(str::trim_end) {
        return Ok(());
    }
    Err(format!("not {expected:?} but {shown:?}"))
}

/// In the other size, and back.
fn is_resized(terminal: &Terminal, columns: u16, height: u16, rows: &[Idle]) -> Result<()> {
    let other = if columns == 80 { (200, 50) } else { (80, 24) };
    for (columns, height) in [other, (columns, height)] {
        terminal.resize(columns, height)?;
        let rows: Vec<String> = rows.iter().map(|row| row.line(columns)).collect();
        is_table(terminal, columns, "METHOD▼", &rows)?;
    }
    Ok(())
}

/// What is paused stays as it is until it goes on; then what failed meanwhile is at the top.
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
    ensure!(terminal.lines() == before, "it goes on: {}", terminal.lines().join("\n"));
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
        if shown == both { Ok(()) } else { Err(format!("what failed is at the top at {shown:?}")) }
    })?;
    // By each key that sorts, and in turn.
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
        if most { Ok(()) } else { Err(format!("the most calls are not first: {first:?}")) }
    })?;
    terminal.end(Some("q"))
}

/// `--once`, as a table and as JSON; and a daemon of its own.
pub fn top_prints_snapshots(stack: &Stack) -> Result<()> {
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
    same("JSON", &done.lines, &shown).map_err(anyhow::Error::msg)?;
    let mut own = Command::new(binary()?);
    without_ours(&mut own);
    own.args(["top", "--once", "--table", "--port", &done.server.port()?]);
    let of_its_own = output(own.env_remove("COLUMNS"))?;
    ensure!(of_its_own.contains("No gRPC call has been seen."), "it has calls: {of_its_own}");
    let narrow = output(top(&done.daemon, &["--once", "--table"])?.env_remove("COLUMNS"))?;
    let too_long = narrow.lines().find(|line| line.chars().count() > 80);
    ensure!(too_long.is_none(), "longer than 80 columns: {too_long:?}");
    for told in ["CALLS and codes: since 20", "P50 to P99: of the last ", "\n  METHOD  CODES\n"] {
        ensure!(narrow.contains(told), "{told:?} is not in: {narrow}");
    }
    let mut lost = top(&done.daemon, &["--once", "--table"])?;
    done.daemon.stop()?;
    let refused = lost.output().context("run observer top")?;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1), "a daemon that has ended is asked: {told}");
    ensure!(told.lines().count() == 1 && told.contains("no answer"), "it says: {told}");
    done.server.stop()?;
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().context("run observer top")?;
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "{}: {told}", done.status);
    String::from_utf8(done.stdout).context("what it prints")
}

/// Whether it is of a table: `process[pid] role …`.
fn is_row(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next().is_some_and(|process| process.ends_with(']'))
        && words.next().is_some_and(|role| ["client", "server"].contains(&role))
}

/// The line of a table that has all columns: the codes are the last, the calls before them.
fn of_table(text: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    let (process, pid) = words.next()?.strip_suffix(']')?.split_once('[')?;
    let (role, method) = (words.next()?, words.next()?);
    let rest: Vec<&str> = words.collect();
    let is_name =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_uppercase()) && word.len() > 1;
    let first_code = rest
        .iter()
        .rposition(|word| !is_name(word) && number(word.trim_end_matches(',')).is_none());
    // After the unit of the last quantile, or the dash for it: the calls, then codes with theirs.
    let tail = rest.get(first_code? + 1..)?;
    let (calls, codes) = tail.split_first()?;
    let codes = codes.chunks(2).map(|pair| match pair {
        [code, calls] => Some((*code, number(calls.trim_end_matches(','))?)),
        _ => None,
    });
    let codes: BTreeMap<&str, u64> = codes.collect::<Option<_>>()?;
    Some(line(process, pid.parse().ok()?, role, method, number(calls)?, &codes))
}

fn of_json(row: &Value) -> Option<String> {
    let text = |name: &str| row.get(name)?.as_str();
    let total = row.get("total")?;
    let codes = total
        .get("codes")?
        .as_array()?
        .iter()
        .map(|of| Some((of.get("code")?.as_str()?, of.get("calls")?.as_u64()?)));
    let codes: BTreeMap<&str, u64> = codes.collect::<Option<_>>()?;
    let method = format!("{}/{}", text("service")?, text("method")?);
    let pid = u32::try_from(row.get("pid")?.as_u64()?).ok()?;
    let calls = total.get("ended")?.as_u64()?;
    Some(line(text("process")?, pid, text("role")?, &method, calls, &codes))
}

/// How many calls a line of the histogram tells of: `≤ 1 ms ███ 1,234 5`.
fn of_bucket(text: &str) -> Option<u64> {
    let text = text.trim_start().strip_prefix(['≤', '>'])?;
    text.split_whitespace().skip(2).find_map(number)
}

#[cfg(test)]
mod tests {
    use super::{Connections, cell, connections, of_bucket, of_table};

    #[test]
    fn lines_of_tables_are_read() {
        let text = "peer-rust[7]  client  a.B/C  12.3 ▁█ 2.5 %  0  1 ms  ≥10 s  1,234  OK 1,230, NotFound 4";
        let line = "peer-rust[7] client a.B/C: 1234 calls, NotFound 4, OK 1230";
        assert_eq!(of_table(text).as_deref(), Some(line));
        let idle = "node[7] client a.B/C 0 0 % 0 – – – 3 OK 3";
        assert_eq!(of_table(idle).as_deref(), Some("node[7] client a.B/C: 3 calls, OK 3"));
        assert_eq!(of_table("PROCESS  ROLE  METHOD"), None);
    }

    #[test]
    fn lines_of_histograms_are_read() {
        assert_eq!(of_bucket("   ≤ 1 ms ███▌    1,234    5  ░▒▓"), Some(1234));
        assert_eq!(of_bucket("   > 10 s            0    0"), Some(0));
        assert_eq!(of_bucket("observer http://x live"), None);
    }

    #[test]
    fn cells_end_where_their_headings_do() {
        let heading = "PROCESS  CALLS/S  ERRORS▼  FLIGHT";
        let line = "größe[7]     4.0   25.0 %       3";
        let cells = ["CALLS/S", "ERRORS", "FLIGHT"].map(|name| cell(heading, name, line));
        assert_eq!(cells.map(Option::unwrap), ["4.0", "25.0 %", "3"]);
    }

    #[test]
    fn connections_are_read_from_the_head() {
        let told = |text: &str| connections(&[text.to_owned()]);
        let some = Connections { complete: 3, joined_late: 2, gaps: 1, undecodable: 1_000 };
        assert_eq!(
            told("made 1/s (3) · 1,006 connections, 2 joined late, 1 with gaps, 1,000 undecodable"),
            some
        );
        let complete = Connections { complete: 4, ..Connections::default() };
        assert_eq!(told("served 1/s · 4 connections"), complete);
    }
}

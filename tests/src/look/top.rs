//! `observer top` in terminals of two sizes, and its snapshots, beside what the peers know.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::terminal::Terminal;
use super::{Lines, line, lines_of, load, number, same, wait_for};
use crate::daemon::{Daemon, binary};
use crate::peer::{Client, Listen, Server};
use crate::stack::Stack;

const DOWN: &str = "\x1b[B";
const ENTER: &str = "\r";
const ESCAPE: &str = "\x1b";

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

fn top(daemon: &Daemon, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.arg("top").args(["--address", &format!("http://{}", daemon.address())]);
    command.args(arguments);
    Ok(command)
}

/// 200 columns: all figures are in the table.
pub fn in_a_large_terminal(stack: &Stack) -> Result<()> {
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
pub fn in_a_small_terminal(stack: &Stack) -> Result<()> {
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

/// `--once`, as a table and as JSON; and a daemon of its own.
pub fn as_snapshots(stack: &Stack) -> Result<()> {
    let done = done(stack, |_| Ok(()))?;
    wait_for(|| {
        let table = output(&mut top(&done.daemon, &["--once", "--table"])?)?;
        let shown = table.lines().filter_map(of_table).collect();
        Ok(same("the table", &done.lines, &shown))
    })?;
    let json = output(&mut top(&done.daemon, &["--once", "--json", "--filter", "Echo"])?)?;
    let model: Value = serde_json::from_str(&json)?;
    let rows = model.get("rows").and_then(Value::as_array).context("no rows")?;
    let shown = rows.iter().map(of_json).collect::<Option<Lines>>().context("a row's fields")?;
    same("JSON", &done.lines, &shown).map_err(anyhow::Error::msg)?;
    let mut own = Command::new(binary()?);
    own.args(["top", "--once", "--table", "--port", &done.server.port()?]);
    ensure!(output(&mut own)?.starts_with("PROCESS"), "no table of its own");
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
    use super::{of_bucket, of_table};

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
}

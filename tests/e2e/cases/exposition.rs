//! The daemon's output: its size, the types of methods, texts of names.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::daemon::Daemon;
use support::raw::{Address, Call, Talk};

use super::{NOT_FOUND, OK, Table};

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark("tshark cannot tell: how the daemon tells of calls is not on the wire.");
    table.alone("10,000 series in less than 50 ms", many_series);
    table.talk("one odd call does not change a method's type", odd_call);
    table.alone("paths that read alike, in metrics, in the view and in lines", alike);
}

/// Series as Prometheus counts them: a histogram is one for each bucket, and more.
fn many_series(name: &str) -> Result<()> {
    const METHODS: u32 = 120;
    const SCRAPES: usize = 20;
    const LIMIT: Duration = Duration::from_millis(50);
    let daemon = Daemon::start(&[])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    let method = |number: u32| format!("Method{number}");
    talk.client(|f| {
        (0..METHODS).fold(f, |f, number| {
            f.request(2 * number + 1, &method(number)).last_message(2 * number + 1, 5)
        })
    })?;
    talk.server(|f| {
        (0..METHODS)
            .map(|number| 2 * number + 1)
            .fold(f, |f, stream| f.response(stream).message(stream, 6).trailers(stream, OK))
    })?;
    for number in 0..METHODS {
        talk.expect(Call::new(method(number), OK).unary(5, 6))?;
    }
    talk.compare()?;
    let metrics = daemon.scrape()?;
    let series = metrics.series_count("");
    ensure!(series >= 10_000, "only {series} series");
    // The formula of docs/scale.md, with one code and each method at both ends.
    let (per_row, connections) = (51 + 2, 2);
    let expected = 2 * METHODS as usize * per_row + connections;
    let of_calls = metrics.series_count("grpc_");
    ensure!(of_calls == expected, "{of_calls} series of calls, not {expected}");
    // Other processes run on the machine: the shortest time is the daemon's.
    let times = (0..SCRAPES).map(|_| daemon.scrape_time()).collect::<Result<Vec<_>>>()?;
    let took = times.into_iter().min().context("a scrape")?;
    ensure!(took < LIMIT, "{series} series take {took:?}");
    Ok(())
}

/// A peer chooses what it sends; its type would be that of all callers.
fn odd_call(talk: &mut Talk<'_>) -> Result<()> {
    const CALLS: u32 = 100;
    for number in 0..CALLS {
        talk.call(2 * number + 1, "Get", OK)?;
    }
    talk.expect(Call::new("Get", OK).unary(5, 6).times(CALLS.into()))?;
    talk.compare()?;
    let stream = 2 * CALLS + 1;
    talk.client(|f| f.request(stream, "Get").message(stream, 5).last_message(stream, 5))?;
    talk.server(|f| f.response(stream).message(stream, 6).trailers(stream, OK))?;
    talk.expect(Call::new("Get", OK).requests(&[5, 5]).responses(&[6]))?;
    // If most calls do it, it is the method.
    for number in 0..3 {
        let stream = stream + 2 + 2 * number;
        talk.client(|f| f.request(stream, "Send").message(stream, 5).last_message(stream, 5))?;
        talk.server(|f| f.response(stream).message(stream, 6).trailers(stream, OK))?;
    }
    talk.expect(Call::new("Send", OK).requests(&[5, 5]).responses(&[6]).times(3))
}

/// Each path has its own series and the same text everywhere.
fn alike(name: &str) -> Result<()> {
    const METHODS: [(&str, &str); 5] = [
        ("caf\u{e9}", "caf\u{e9}"),
        ("caf%C3%A9", "caf%C3%A9"),
        ("a\\b", "a\\b"),
        ("a\nb", "a\\x0ab"),
        ("a\\x0ab", "a\\x5cx0ab"),
    ];
    let daemon = Daemon::start(&["--log-errors"])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    for (stream, (method, text)) in (1..).step_by(2).zip(METHODS) {
        talk.client(|f| f.request(stream, method).last_message(stream, 5))?;
        talk.server(|f| f.response(stream).trailers(stream, NOT_FOUND))?;
        // The expected labels have the text.
        talk.expect(Call::new(text, NOT_FOUND).requests(&[5]))?;
    }
    talk.compare()?;
    let mut want: Vec<&str> = METHODS.iter().flat_map(|(_, text)| [*text; 2]).collect();
    want.sort_unstable();
    let methods = |rows: &[Value]| {
        let method = |row: &Value| row.get("method").and_then(Value::as_str).map(str::to_owned);
        let mut methods: Vec<String> = rows.iter().filter_map(method).collect();
        methods.sort_unstable();
        methods
    };
    let view: Value = serde_json::from_str(&daemon.get("/api/v1/view")?)?;
    let rows = methods(view.get("rows").and_then(Value::as_array).context("rows")?);
    ensure!(rows == want, "the view has {rows:?}, not {want:?}");
    daemon.wait_until(|_| {
        let lines = daemon.output().lines().count();
        ensure!(lines >= want.len(), "{lines} lines");
        Ok(())
    })?;
    let output = daemon.output();
    let lines: Vec<Value> = output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let lines = methods(&lines);
    ensure!(lines == want, "lines have {lines:?}, not {want:?}");
    talk.finish()
}

//! How the daemon tells what it knows.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::daemon::Daemon;
use tests::raw::{Address, Call, Talk};

use super::{OK, Table};

pub(super) fn add(table: &mut Table) {
    table.alone("10,000 series in less than 50 ms", many_series);
}

/// As Prometheus counts them: a histogram is one series for each bucket, and more.
fn many_series(name: &str) -> Result<()> {
    const METHODS: u32 = 120;
    const SCRAPES: usize = 20;
    const LIMIT: Duration = Duration::from_millis(50);
    let daemon = Daemon::start::<&str>(&[])?;
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
    // What docs/scale.md says of a node: here one code, and a method at both ends.
    let (per_row, connections) = (51 + 2, 2);
    let expected = 2 * METHODS as usize * per_row + connections;
    let of_calls = metrics.series_count("grpc_");
    ensure!(of_calls == expected, "{of_calls} series of calls, not {expected}");
    // The machine has other things to do: the quickest is what the daemon takes.
    let times = (0..SCRAPES).map(|_| daemon.scrape_time()).collect::<Result<Vec<_>>>()?;
    let took = times.into_iter().min().context("a scrape")?;
    ensure!(took < LIMIT, "{series} series take {took:?}");
    Ok(())
}

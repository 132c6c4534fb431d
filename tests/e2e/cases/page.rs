//! The page in a real browser, during and after calls.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use support::daemon::Daemon;
use support::footprint::Footprint;
use support::look::browser::{self, Browser};
use support::look::dashboards::{self, Span};
use support::look::figures::{
    self, Connections, ERRORS, Figures, IN_FLIGHT, Look, P50, P90, P99, RATE, Who,
};
use support::look::names;
use support::look::{Lines, line, lines_of_ends, load, number, pictures, same, wait_for};
use support::peer::{Client, Listen, Server};
use support::prometheus::{Dashboard, Prometheus, scrape_of};
use support::report;
use support::stack::Stack;

/// The environment variable that has the screenshots in `docs` taken again.
const SCREENSHOTS: &str = "OBSERVER_TEST_SCREENSHOTS";

/// Time for spark lines and the heat map to fill.
const SCENE: Duration = Duration::from_secs(100);

/// The number of pages that are open at the same time.
const PAGES: usize = 100;

/// The number of those in a browser, each in its own window, so that all are visible. A browser has no more
/// than six connections to a server.
const WINDOWS: usize = 5;

/// The number of samples that each of the others receives.
const SAMPLES: usize = 10;

/// The texts of a row, with and without script.
#[derive(Debug, Deserialize)]
struct Shown {
    process: String,
    /// `4711 server`
    who: String,
    service: String,
    method: String,
    rate: String,
    errors: String,
    in_flight: String,
    quantiles: [String; 3],
    calls: String,
    codes: Vec<String>,
}

/// The script that returns the rows.
const ROWS: &str = "return [...document.querySelectorAll('#calls tbody tr')].map((row) => {
    const text = (part) => row.querySelector(part).textContent.trim();
    return {
        process: text('.process b'), who: text('.process small'), method: text('.method b'),
        service: text('.method small'), rate: row.children[2].textContent,
        errors: row.children[4].textContent, in_flight: row.children[5].textContent,
        quantiles: [6, 7, 8].map((at) => row.children[at].textContent),
        calls: row.children[9].textContent,
        codes: [...row.querySelectorAll('.codes span')].map((code) => code.textContent),
    };
})";

fn rows(browser: &Browser) -> Result<Vec<Shown>> {
    Ok(serde_json::from_value(browser.run(ROWS)?)?)
}

impl Shown {
    fn line(&self) -> Option<String> {
        let (pid, role) = self.who.split_once(' ')?;
        let code = |text: &String| {
            let (code, calls) = text.split_once(' ')?;
            Some((code.to_owned(), number(calls)?))
        };
        let codes: BTreeMap<String, u64> = self.codes.iter().map(code).collect::<Option<_>>()?;
        let method = format!("{}/{}", self.service, self.method);
        Some(line(&self.process, pid.parse().ok()?, role, &method, number(&self.calls)?, &codes))
    }
}

/// The page of a daemon in a browser.
struct Page(Browser);

impl Look for Page {
    fn columns(&self) -> &'static [&'static str] {
        &[RATE, ERRORS, IN_FLIGHT, P50, P90, P99]
    }

    fn figures(&self) -> Result<Figures> {
        let mut figures = Figures::default();
        for row in rows(&self.0)? {
            let (pid, role) = row.who.split_once(' ').context("a row without process")?;
            let [p50, p90, p99] = row.quantiles;
            let texts = [
                (RATE, row.rate),
                (ERRORS, row.errors),
                (IN_FLIGHT, row.in_flight),
                (P50, p50),
                (P90, p90),
                (P99, p99),
            ];
            let who = (pid.parse()?, role.to_owned(), row.method);
            figures.rows.insert(who, texts.into());
        }
        figures.connections = connections(&self.0)?;
        Ok(figures)
    }

    fn connections_of(&mut self, (pid, role, method): &Who) -> Result<u64> {
        let told = self.0.run(&format!(
            "const row = [...document.querySelectorAll('#calls tbody tr')].find((row) =>
                row.querySelector('.process small').textContent === '{pid} {role}'
                && row.querySelector('.method b').textContent === '{method}');
            row.click();
            const fact = [...document.querySelectorAll('.facts tbody tr')]
                .find((fact) => fact.children[0].textContent === 'Connections');
            const told = fact.children[1].textContent;
            document.querySelector('#detail button').click();
            return told",
        ))?;
        told.as_str().and_then(number).context("no number of connections")
    }
}

/// Reads `2 complete, 0 joined late, 0 with gaps, 0 undecodable`, and their sum in the tile.
fn connections(browser: &Browser) -> Result<Connections> {
    let told = browser.run(
        "return [...document.querySelectorAll('#health dd')[3].textContent.matchAll(/[0-9][0-9,]*/g),
            document.querySelector('#tile-connections strong').textContent.split(' ')[0]]
            .map(String)",
    )?;
    let told: Vec<String> = serde_json::from_value(told)?;
    let numbers: Option<Vec<u64>> = told.iter().map(|text| number(text)).collect();
    match numbers.as_deref() {
        Some(&[complete, joined_late, gaps, undecodable, all]) => {
            let connections = Connections { complete, joined_late, gaps, undecodable };
            let sum = complete + joined_late + gaps + undecodable;
            ensure!(all == sum, "the tile says {all}, the list {connections:?}");
            Ok(connections)
        }
        _ => bail!("connections: {told:?}"),
    }
}

/// The figures besides counts are those of the peers' records.
pub(crate) fn page_shows_true_figures(stack: &Stack) -> Result<()> {
    if !browser::is_there()? {
        return Ok(());
    }
    figures::are_true(stack, |daemon| {
        let browser = Browser::start()?;
        browser.open(&url(daemon))?;
        Ok(Page(browser))
    })
}

fn lines(browser: &Browser) -> Result<Lines> {
    let rows = rows(browser)?;
    rows.iter().map(|row| row.line().with_context(|| format!("{row:?}"))).collect()
}

fn shows(browser: &Browser, expected: &Lines) -> Result<()> {
    wait_for(|| Ok(same("the page", expected, &lines(browser)?)))
}

fn becomes(browser: &Browser, condition: &str) -> Result<()> {
    wait_for(|| {
        let holds = browser.holds(condition)?;
        Ok(holds.then_some(()).with_context(|| format!("never: {condition}")))
    })
}

fn url(daemon: &Daemon) -> String {
    format!("http://{}/", daemon.address())
}

/// The numbers are those of the peers' records, with and without script. Rows are sorted, filtered and shown in
/// detail.
pub(crate) fn page_shows_the_peers_numbers(stack: &Stack) -> Result<()> {
    if !browser::is_there()? {
        return Ok(());
    }
    let server = Server::start(stack, Listen::V4)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let browser = Browser::start()?;
    browser.open(&url(&daemon))?;
    let client = Client::start(stack, &server, &load())?;
    becomes(&browser, "document.querySelector('#state').className === 'live'")?;
    // During calls there are rates, and a spark line.
    wait_for(|| {
        let moves = rows(&browser)?.iter().any(|row| !["–", "0"].contains(&row.rate.as_str()));
        Ok(moves.then_some(()).context("no row has a rate"))
    })?;
    becomes(&browser, "document.querySelector('.spark .line').getAttribute('d').includes('L')")?;
    let (client, truth) = client.finish()?;
    let expected = lines_of_ends(&client, server.identity(), &truth);
    shows(&browser, &expected)?;
    report::exact(2 * expected.len());
    // Before a reload, which deletes the page's history.
    is_used_by_keys(&browser)?;
    sorts(&browser)?;
    filters(&browser, &expected)?;
    browser.scripts(false)?;
    browser.open(&url(&daemon))?;
    same("without script", &expected, &lines(&browser)?)?;
    browser.scripts(true)?;
    browser.reload()?;
    shows(&browser, &expected)?;
    fits(&browser, false)?;
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "the browser complains: {}", complaints.join("\n"));
    server.stop()?;
    daemon.stop()
}

fn sort_by(browser: &Browser, order: &str) -> Result<()> {
    let click = format!("document.querySelector('th[data-order=\"{order}\"] button').click()");
    browser.run(&click).map(drop)
}

fn sorts(browser: &Browser) -> Result<()> {
    let calls =
        |rows: &[Shown]| rows.iter().filter_map(|row| number(&row.calls)).collect::<Vec<_>>();
    sort_by(browser, "calls")?;
    let descending = calls(&rows(browser)?);
    ensure!(descending.len() > 3 && descending.is_sorted_by(|a, b| a >= b), "{descending:?}");
    sort_by(browser, "calls")?;
    let ascending = calls(&rows(browser)?);
    ensure!(ascending.is_sorted(), "clicked again: {ascending:?}");
    sort_by(browser, "method")?;
    let methods: Vec<String> = rows(browser)?.into_iter().map(|row| row.method).collect();
    ensure!(methods.is_sorted(), "{methods:?}");
    let told = browser.run("return document.querySelector('[aria-sort]').textContent")?;
    ensure!(told == "Method", "sorted by {told}");
    // The order stays after a reload; then the first one again.
    browser.reload()?;
    becomes(browser, "document.querySelectorAll('tbody tr[data-key]').length > 3")?;
    becomes(browser, "document.querySelector('[aria-sort]').textContent === 'Method'")?;
    sort_by(browser, "errors")
}

/// Filters rows with the keyboard.
fn filters(browser: &Browser, expected: &Lines) -> Result<()> {
    const ESCAPE: &str = "\u{e00c}";
    browser.press("/")?;
    browser.press("CLIENT bidi")?;
    let left: Lines = expected
        .iter()
        .filter(|line| line.contains(" client ") && line.contains("Bidi"))
        .cloned()
        .collect();
    ensure!(left.len() == 1, "the truth has {left:?}");
    shows(browser, &left)?;
    becomes(browser, "document.querySelector('#count').textContent.startsWith('1 of ')")?;
    browser.run(
        "const input = document.querySelector('#filter'); input.value = 'nowhere';
        input.dispatchEvent(new Event('input'))",
    )?;
    let matches_none =
        "document.querySelector('#calls p').textContent.includes('No method matches')";
    becomes(browser, matches_none)?;
    browser.run(
        "const input = document.querySelector('#filter'); input.value = '';
        input.dispatchEvent(new Event('input'))",
    )?;
    browser.press(ESCAPE)?;
    shows(browser, expected)
}

fn is_used_by_keys(browser: &Browser) -> Result<()> {
    const ENTER: &str = "\u{e007}";
    const ESCAPE: &str = "\u{e00c}";
    browser.run("document.activeElement.blur()")?;
    browser.press("jj")?;
    becomes(browser, "document.activeElement.matches('tbody tr')")?;
    browser.press(ENTER)?;
    becomes(browser, "!document.querySelector('#detail').hidden")?;
    // The codes of the detail are those of the row; its histogram has all calls.
    let told = browser.run(
        "const number = (text) => Number(text.replaceAll(',', ''));
        const row = document.querySelector('tbody tr.chosen');
        const codes = [...document.querySelectorAll('.of-codes tbody tr')]
            .map((code) => `${code.children[0].textContent} ${code.children[1].textContent}`);
        const sum = [...document.querySelectorAll('.histogram tbody tr')]
            .reduce((sum, bucket) => sum + number(bucket.children[2].textContent), 0);
        return [codes.sort().join(), [...row.querySelectorAll('.codes span')]
            .map((code) => code.textContent).sort().join(), sum, number(row.children[9].textContent)]",
    )?;
    match told.as_array().map(Vec::as_slice) {
        Some([codes, of_row, sum, calls]) => {
            ensure!(codes == of_row && sum == calls, "the detail has other numbers: {told}");
        }
        _ => bail!("no detail: {told}"),
    }
    let painted = "(() => { const canvas = document.querySelector('canvas');
        const pixels = canvas.getContext('2d').getImageData(70, 1, canvas.width - 71, 150).data;
        return pixels.some((value, at) => at % 4 === 2 && value > 100); })()";
    becomes(browser, painted)?;
    browser.press(ESCAPE)?;
    becomes(browser, "document.querySelector('#detail').hidden")?;
    browser.press("p")?;
    becomes(browser, "document.querySelector('#pause').getAttribute('aria-pressed') === 'true'")?;
    browser.press("p")
}

/// The script that returns elements whose content is cut, with their text.
const CUT: &str = "return [...document.querySelectorAll('body *')]
    .filter((part) => part.checkVisibility() && !part.closest('svg') && part.clientWidth > 0
        && (part.scrollWidth > part.clientWidth + 1
            || part.matches('.tile *') && part.scrollHeight > part.clientHeight + 3))
    .map((part) => `${part.id || part.className || part.tagName}: ${part.textContent.slice(0, 80)}`)";

/// An error if an element is wider than the window or than its place, with the table alone or with a row in detail.
/// Long names may be cut: the whole name is elsewhere.
fn fits(browser: &Browser, long_names: bool) -> Result<()> {
    const MAY_BE_CUT: [&str; 4] = ["B: ", "SMALL: ", "method: ", "SPAN: "];
    for (width, dark) in [(400, true), (400, false), (1280, true), (1280, false)] {
        browser.look(width, 800, dark)?;
        for detail in [false, true] {
            let place = || {
                format!(
                    "at {width} pixels, {}",
                    if detail { "with a row in detail" } else { "the table" }
                )
            };
            becomes(browser, "document.documentElement.scrollWidth <= window.innerWidth")
                .with_context(place)?;
            let mut cut: Vec<String> = serde_json::from_value(browser.run(CUT)?)?;
            if long_names {
                cut.retain(|part| !MAY_BE_CUT.iter().any(|of| part.starts_with(of)));
            }
            ensure!(cut.is_empty(), "cut {}: {}", place(), cut.join("\n"));
            // Rows may have moved.
            let (click, then) = if detail {
                ("#detail button", "hidden")
            } else {
                ("tbody tr[data-key]", "checkVisibility()")
            };
            browser.run(&format!("document.querySelector('{click}').click()"))?;
            becomes(browser, &format!("document.querySelector('#detail').{then}"))?;
        }
    }
    Ok(())
}

/// Names that contain markup, 500 names, and long names are only text.
pub(crate) fn page_shows_names_of_any_kind() -> Result<()> {
    if !browser::is_there()? {
        return Ok(());
    }
    let daemon = names::daemon()?;
    let (names, talk) = names::called(&daemon, 505)?;
    let browser = Browser::start()?;
    browser.open(&url(&daemon))?;
    // Both ends have a row per name, some more than the page has room for.
    becomes(&browser, "document.querySelector('#count').textContent === '1000 rows'")?;
    let more =
        "document.querySelector('#calls p').textContent.includes(' more rows with fewer calls')";
    becomes(&browser, more)?;
    browser.run("document.querySelector('.more').click()")?;
    let shown: Vec<String> = rows(&browser)?.into_iter().map(|row| row.method).collect();
    for name in &names {
        // A name may be cut at a slash: the service is before it.
        let method = name.rsplit('/').next().unwrap_or_default();
        let lines = shown.iter().filter(|shown| *shown == method).count();
        ensure!((1..=2).contains(&lines), "{lines} rows of {name}");
    }
    fits(&browser, true)?;
    harmless(&browser)?;
    browser.scripts(false)?;
    browser.reload()?;
    ensure!(rows(&browser)?.len() > 900, "there are few rows without script");
    harmless(&browser)?;
    talk.finish()?;
    daemon.stop()
}

fn harmless(browser: &Browser) -> Result<()> {
    ensure!(browser.holds("window.harmed === undefined")?, "a name ran as a script");
    let markup = browser.run(
        "return document.querySelectorAll('body script, body img, body style, body iframe').length",
    )?;
    ensure!(markup == json!(0), "a name became markup: {markup}");
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "the browser complains: {}", complaints.join("\n"));
    Ok(())
}

/// A hundred pages, some of them in a real browser, cost the daemon little, and do not delay scrapes.
pub(crate) fn page_is_open_a_hundred_times(stack: &Stack) -> Result<()> {
    let server = Server::start(stack, Listen::V4)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    daemon.scrape()?;
    let before = Footprint::of(daemon.pid())?.memory;
    let browser = if browser::is_there()? { Some(Browser::start()?) } else { None };
    let mut windows = Vec::new();
    if let Some(browser) = &browser {
        for _ in 0..WINDOWS {
            windows.push(browser.another_window()?);
            browser.open(&url(&daemon))?;
        }
    }
    let pages = (windows.len()..PAGES).map(|_| events(&daemon));
    let mut pages = pages.collect::<Result<Vec<_>>>()?;
    let client = Client::start(stack, &server, &load())?;
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    for _ in 0..SAMPLES {
        let asked = Instant::now();
        daemon.scrape()?;
        slowest = slowest.max(asked.elapsed());
        for page in &mut pages {
            next_event(page)?;
        }
    }
    let took = begun.elapsed();
    let after = Footprint::of(daemon.pid())?.memory;
    report::say(&format!(
        "{PAGES} open pages: {SAMPLES} samples each in {:.1} s, the slowest scrape took {} ms, \
         the daemon's memory grew by {} KiB",
        took.as_secs_f64(),
        slowest.as_millis(),
        after.saturating_sub(before) >> 10,
    ));
    ensure!(slowest < Duration::from_secs(2), "a scrape takes {slowest:?}");
    ensure!(after < before + (24 << 20), "the daemon grows from {before} to {after} bytes");
    // One sample per second, not one for each page.
    ensure!(took > Duration::from_secs(7), "{SAMPLES} samples in {took:?}");
    let (client, truth) = client.finish()?;
    let expected = lines_of_ends(&client, server.identity(), &truth);
    if let Some(browser) = &browser {
        for window in &windows {
            browser.switch_to(window)?;
            shows(browser, &expected)?;
            becomes(browser, "document.querySelector('#state').className === 'live'")?;
        }
    }
    server.stop()?;
    daemon.stop()
}

/// Requests events, as a page does.
fn events(daemon: &Daemon) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(daemon.address())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.address())?;
    Ok(BufReader::new(stream))
}

/// Reads the next event, which must be JSON.
fn next_event(stream: &mut BufReader<TcpStream>) -> Result<()> {
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line)? > 0, "the daemon drops a page that reads");
        if let Some(data) = line.strip_prefix("data: ") {
            return Ok(serde_json::from_str::<Value>(data).map(drop)?);
        }
    }
}

/// An open page shows that its daemon has ended, and continues with the next one.
pub(crate) fn page_survives_a_restart_of_the_daemon(stack: &Stack) -> Result<()> {
    if !browser::is_there()? {
        return Ok(());
    }
    let server = Server::start(stack, Listen::V4)?;
    let watched = ["--port", &server.port()?];
    let daemon = Daemon::start(&watched)?;
    let browser = Browser::start()?;
    browser.open(&url(&daemon))?;
    let few = [vec![json!({"rpc": "Unary", "count": 5})]];
    let call = || -> Result<Lines> {
        let (client, truth) = Client::start(stack, &server, &few)?.finish()?;
        Ok(lines_of_ends(&client, server.identity(), &truth))
    };
    let first = call()?;
    shows(&browser, &first)?;
    let address = daemon.address();
    daemon.stop()?;
    becomes(&browser, "document.querySelector('#state').className === 'lost'")?;
    ensure!(lines(&browser)? == first, "the rows are gone");
    let daemon = Daemon::start_at(&watched, address.parse()?)?;
    becomes(&browser, "document.querySelector('#state').textContent.includes('restarted')")?;
    let second = call()?;
    shows(&browser, &second)?;
    server.stop()?;
    daemon.stop()
}

/// Takes the pictures of the page, the terminal and the dashboards in `docs`, with calls of all stacks.
pub(crate) fn take_screenshots(stacks: &'static [Stack]) -> Result<()> {
    let Some(folder) = screenshots_wanted() else { return Ok(()) };
    fs::create_dir_all(&folder)?;
    let start = |stack| Server::start(stack, Listen::V4);
    let servers = stacks.iter().map(start).collect::<Result<Vec<_>>>()?;
    let ports = servers.iter().map(Server::port).collect::<Result<Vec<_>>>()?;
    let daemon = Daemon::start(&["--port", &ports.join(",")])?;
    let prometheus = Prometheus::start(&scrape_of(&daemon), &[], ("", ""), &[])?;
    let mut clients = Vec::new();
    for ((stack, server), plan) in stacks.iter().zip(&servers).zip(scene().iter().cycle()) {
        clients.push(Client::start(stack, server, plan)?);
    }
    let browser = Browser::start()?;
    browser.open(&url(&daemon))?;
    sleep(SCENE);
    let take = |name: &str, width, height, dark| -> Result<()> {
        browser.look(width, height, dark)?;
        sleep(Duration::from_millis(1500));
        browser.screenshot(&folder.join(name))
    };
    take("page-light.png", 1280, 800, false)?;
    browser.run("document.querySelector('#tile-failing').click()")?;
    take("page-detail-dark.png", 1280, 800, true)?;
    browser.run("document.querySelector('#detail button').click()")?;
    take("page-narrow.png", 400, 860, false)?;
    pictures::of_terminals(&browser, &daemon, &folder)?;
    let span = Span { seconds: SCENE.as_secs_f64() - 10.0, step: 2.0, range: "[10s]" };
    let boards = support::stack::workspace()?.join("deploy/grafana");
    for board in Dashboard::all(&boards)? {
        let name = board.title.trim_start_matches("gRPC: ").replace(' ', "-");
        if ["overview", "errors", "latency"].contains(&name.as_str()) {
            let file = folder.join(format!("dashboard-{name}.png"));
            dashboards::draw(&browser, &prometheus, &board, span, &file)?;
        }
    }
    prometheus.stop()?;
    drop((clients, servers));
    daemon.stop()
}

/// The folder for screenshots, if they are to be taken.
pub(crate) fn screenshots_wanted() -> Option<PathBuf> {
    env::var_os(SCREENSHOTS)?;
    Some(support::stack::workspace().ok()?.join("docs/images"))
}

/// The plans of the stacks' clients, in turn; they take longer than the pictures.
fn scene() -> [Vec<Vec<Value>>; 3] {
    let repeated = |stage: Vec<Value>| vec![stage; 2000];
    [
        repeated(vec![
            json!({"rpc": "Unary", "count": 40, "concurrency": 2, "sleep_ms": 5}),
            json!({"rpc": "Unary", "count": 2, "code": 5}),
            json!({"rpc": "ServerStream", "count": 5, "responses": 5, "sleep_between_ms": 10}),
        ]),
        repeated(vec![
            json!({"rpc": "Unary", "count": 20, "concurrency": 2, "sleep_ms": 25}),
            json!({"rpc": "ClientStream", "count": 10, "requests": 5, "payload": 300}),
            json!({"rpc": "Unary", "count": 1, "sleep_ms": 10_000, "deadline_ms": 200}),
            json!({
                "rpc": "ServerStream", "count": 1, "responses": 2, "sleep_between_ms": 10_000,
                "cancel_after_messages": 1,
            }),
        ]),
        repeated(vec![
            json!({"rpc": "Unary", "count": 20, "concurrency": 2, "sleep_ms": 10}),
            json!({"rpc": "Bidi", "count": 4, "requests": 3, "code": 14, "sleep_ms": 20}),
        ]),
    ]
}

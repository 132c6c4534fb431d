//! What happens to a daemon, or around it, in the course of its life.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use tests::daemon::Daemon;
use tests::footprint::{Footprint, programs};
use tests::raw::talk::Role::Server;
use tests::raw::{Address, Call, Talk};

use super::{OK, Table};

/// For the kernel to free what nobody uses any more.
const FREE_LIMIT: Duration = Duration::from_secs(10);

/// Whether the second processor is online; not there where it must be, or where there is none.
const PROCESSOR: &str = "/sys/devices/system/cpu/cpu1/online";

pub(super) fn add(table: &mut Table) {
    table.alone("killed, it leaves no program behind, and the service goes on", killed);
    table.alone("100 scrapers at once, half of which never read", scrapers);
    table.alone("processes that come and go", short_lived_processes);
    let possible = Path::new(PROCESSOR).exists();
    table.alone_if(possible, "a processor taken offline and back", processor_offline);
}

fn call(talk: &mut Talk<'_>, stream: u32) -> Result<()> {
    talk.client(|f| f.request(stream, "Get").last_message(stream, 5))?;
    talk.server(|f| f.response(stream).message(stream, 6).trailers(stream, OK))?;
    talk.expect(Call::new("Get", OK).unary(5, 6))
}

fn killed(name: &str) -> Result<()> {
    let daemon = Daemon::start::<&str>(&[])?;
    let attached = programs(daemon.pid())?;
    ensure!(loaded().is_superset(&attached) && attached.len() > 4, "{attached:?} are not loaded");
    // Watched by another one, which says what the service did.
    let other = Daemon::start::<&str>(&[])?;
    let mut talk = Talk::begin(&other, name, Address::V4(0))?;
    call(&mut talk, 1)?;
    daemon.kill()?;
    let begin = Instant::now();
    while !loaded().is_disjoint(&attached) {
        ensure!(begin.elapsed() < FREE_LIMIT, "some of {attached:?} are still loaded");
        sleep(Duration::from_millis(50));
    }
    call(&mut talk, 3)?;
    talk.finish()
}

/// The numbers of all programs in the kernel.
fn loaded() -> BTreeSet<u32> {
    // Those of others come and go.
    loaded_programs().flatten().map(|program| program.id()).collect()
}

fn scrapers(name: &str) -> Result<()> {
    const SCRAPERS: usize = 100;
    let daemon = Daemon::start::<&str>(&[])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    call(&mut talk, 1)?;
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..SCRAPERS {
        let mut scraper = TcpStream::connect(daemon.address()).context("connect")?;
        scraper.write_all(request)?;
        open.push(scraper);
    }
    call(&mut talk, 3)?;
    for scraper in open.iter_mut().step_by(2) {
        scraper.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut text = String::new();
        scraper.read_to_string(&mut text).context("a scraper gets no answer")?;
        ensure!(text.starts_with("HTTP/1.1 200") && text.ends_with("# EOF\n"), "{text}");
    }
    call(&mut talk, 5)?;
    talk.compare()?;
    drop(open);
    talk.finish()
}

/// Their series go when their time is over, and the memory with them.
fn short_lived_processes(name: &str) -> Result<()> {
    const TURNS: usize = 60;
    let own = std::process::id().to_string();
    let daemon = Daemon::start(&["--pid", &own, "--children", "--series-ttl", "1s"])?;
    let mut before = None;
    for turn in 0..TURNS {
        let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
        call(&mut talk, 1)?;
        let pid = talk.pid(Server)?;
        let handled = daemon.scrape()?.sum("grpc_server_handled_total", &[("pid", &pid)]);
        ensure!(handled.total_cmp(&1.0).is_eq(), "process {pid} handled {handled} calls");
        talk.end_peers()?;
        if turn == TURNS / 3 {
            before = Some(Footprint::of(daemon.pid())?);
        }
    }
    daemon.wait_until(|metrics| match metrics.count("grpc_server_started_total", &[]) {
        0 => Ok(()),
        left => Err(format!("{left} series are left")),
    })?;
    let (before, after) = (before.context("no turns")?, Footprint::of(daemon.pid())?);
    ensure!(after.memory <= before.memory + (1 << 20), "memory: {before:?}, then {after:?}");
    ensure!(after.maps <= before.maps + (1 << 16), "maps: {before:?}, then {after:?}");
    Ok(())
}

fn processor_offline(name: &str) -> Result<()> {
    let daemon = Daemon::start::<&str>(&[])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    let mut stream = 1;
    let mut calls = |talk: &mut Talk<'_>| -> Result<()> {
        for _ in 0..20 {
            call(talk, stream)?;
            stream += 2;
        }
        Ok(())
    };
    calls(&mut talk)?;
    {
        let _offline = Offline::take()?;
        calls(&mut talk)?;
        talk.compare()?;
    }
    calls(&mut talk)?;
    talk.finish()
}

/// The second processor is offline until this is dropped.
struct Offline;

impl Offline {
    fn take() -> Result<Self> {
        fs::write(PROCESSOR, "0").context("take a processor offline")?;
        Ok(Self)
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        // There is nothing else to be done about it.
        let _ = fs::write(PROCESSOR, "1");
    }
}

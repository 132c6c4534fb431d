//! What TLS allows in the middle of a connection, and plaintext that the probes miss: the reported numbers are true, and
//! everything else is counted as a gap.

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use support::daemon::{Daemon, Shared};
use support::openmetrics::Metrics;
use support::raw::frames::PREFACE;
use support::raw::process::{Peer, Start};
use support::raw::talk::Role::{self, Client, Server};
use support::raw::talk::TLS_ROOM;
use support::raw::{Action, Call, Protocol, Read, Secure, Talk, Through, Write};
use support::report;
use support::tls::Certificates;
use support::truth::code_name;
use tempfile::TempDir;

use super::backends::is_since;
use super::reports::{NOT_SEEN, ended_calls, flush_tables, reports_calls};
use super::tls_files::{LIBSSL, libssl};
use super::{NOT_FOUND, OK, Table};

/// Each daemon follows raw peers alone: other processes may use other libraries.
const FLAGS: &[&str] = &["--tls", "auto", "--comm", "raw-peer"];

/// Cipher suites of which each record is longer than its content by a number of bytes that is known.
const SUITES: [&str; 9] = [
    GCM,
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_CCM_SHA256",
    OLD_GCM,
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES128-CCM8",
];

/// A suite of TLS 1.3, one of TLS 1.2, and one with CBC.
const GCM: &str = "TLS_AES_128_GCM_SHA256";
const OLD_GCM: &str = "ECDHE-ECDSA-AES128-GCM-SHA256";
const CBC: &str = "ECDHE-ECDSA-AES128-SHA256";

/// Content of records that are no plaintext, of TLS 1.3.
const KEY_UPDATE: u32 = 5;

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark("tshark has no keys of these connections.");
    let front = Arc::new(Front { daemon: Shared::with(FLAGS), library: Mutex::default() });
    let mut tls = Tls { table, front };
    suites(&mut tls);
    handshakes(&mut tls);
    updates(&mut tls);
    tickets(&mut tls);
    renegotiation(&mut tls);
    early_data(&mut tls);
    inexact(&mut tls);
    unseen(&mut tls);
    late(&mut tls);
}

/// A copy of OpenSSL's library, which no other process uses, and a process that keeps it in use.
struct Library {
    path: PathBuf,
    certificates: Certificates,
    _folder: TempDir,
    _keeper: Peer,
}

impl Library {
    fn copy() -> Result<Self> {
        let folder = TempDir::with_prefix("tls-raw-").context("create a folder")?;
        let path = folder.path().join(LIBSSL);
        fs::copy(libssl()?, &path).context("copy the library")?;
        let keeper = Peer::start("the library's keeper", &Start::loading(&path))?;
        Ok(Self { path, certificates: Certificates::new()?, _folder: folder, _keeper: keeper })
    }

    /// A connection whose daemon has probed the library.
    fn connect<'a>(&self, daemon: &'a Daemon, name: &str, how: &Secure) -> Result<Talk<'a>> {
        self.wait_for(daemon)?;
        Talk::connect_over_tls(daemon, name, &self.path, self.with(how))
    }

    fn with(&self, how: &Secure) -> Secure {
        Secure { certificate: self.certificates.of_server().into(), ..how.clone() }
    }

    fn wait_for(&self, daemon: &Daemon) -> Result<()> {
        daemon.wait_for_log(&format!("in {}: ", self.path.display()), 1..)
    }
}

/// What the cases have in common.
struct Front {
    daemon: Shared,
    /// From the first case on.
    library: Mutex<Option<Arc<Library>>>,
}

impl Front {
    fn library(&self) -> Result<Arc<Library>> {
        let mut library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = &*library {
            return Ok(Arc::clone(library));
        }
        Ok(Arc::clone(library.insert(Arc::new(Library::copy()?))))
    }
}

struct Tls<'a> {
    table: &'a mut Table,
    front: Arc<Front>,
}

impl Tls<'_> {
    /// Adds a case with a connection, after whose end all numbers are compared and no gap was counted.
    fn exact(
        &mut self,
        name: impl AsRef<str>,
        how: Secure,
        run: impl FnOnce(&mut Talk<'_>, &Library) -> Result<()> + Send + 'static,
    ) {
        self.case(name, how, |mut talk, library| {
            run(&mut talk, library)?;
            talk.finish()
        });
    }

    /// Adds a case with a connection, whose numbers it checks itself.
    fn case(
        &mut self,
        name: impl AsRef<str>,
        how: Secure,
        run: impl FnOnce(Talk<'_>, &Library) -> Result<()> + Send + 'static,
    ) {
        let front = Arc::clone(&self.front);
        // Before Linux 6.0, no program can read plaintext: it may not sleep.
        self.table.alone_if(libssl().is_ok() && is_since(6, 0), name, move |name| {
            let library = front.library()?;
            let run = |daemon: &Daemon| run(library.connect(daemon, name, &how)?, &library);
            front.daemon.watch(run)
        });
    }
}

/// TLS with this suite, as most libraries use it.
fn of(suite: &str) -> Secure {
    Secure { suite: suite.to_owned(), tickets: 2, ..Secure::default() }
}

/// The forms of the library's functions that are probed.
const FORMS: [Through; 2] = [Through::Plain, Through::Extended];

/// Where the library reads and writes: socket or memory.
const PLACES: [(&str, bool); 2] = [("by the socket", false), ("by memory", true)];

/// Opens the next connection. The first one is there already.
fn open(talk: &mut Talk<'_>, nth: usize) -> Result<()> {
    if nth > 0 {
        talk.close()?;
        talk.reconnect()?;
    }
    talk.open_http2()
}

fn suites(tls: &mut Tls<'_>) {
    for (place, in_memory) in PLACES {
        let name = format!("each cipher suite, {place}");
        tls.exact(name, Secure { in_memory, ..of(SUITES[0]) }, move |talk, library| {
            let each = SUITES.iter().flat_map(|suite| FORMS.map(|form| (suite, form)));
            for (nth, (suite, form)) in each.enumerate() {
                talk.use_tls(library.with(&Secure { in_memory, ..of(suite) }));
                open(talk, nth)?;
                talk.way.write = Write::Tls(form, usize::MAX);
                talk.way.read = Read::Tls(form, TLS_ROOM);
                talk.expected_call(1, "Get", NOT_FOUND)?;
                talk.way.read = Read::Tls(form, 7);
                talk.expected_call(3, "Get", NOT_FOUND)?;
                talk.way.write = Write::Tls(form, 3);
                talk.expected_call(5, "Get", NOT_FOUND)?;
            }
            Ok(())
        });
    }
}

/// Connections on which nothing is sent after the handshake, as health checks make them.
fn handshakes(tls: &mut Tls<'_>) {
    for (place, in_memory) in PLACES {
        let name = format!("connections that end after the handshake, {place}");
        tls.exact(name, Secure { in_memory, ..of(SUITES[0]) }, move |talk, library| {
            for suite in SUITES {
                talk.close()?;
                talk.use_tls(library.with(&Secure { in_memory, ..of(suite) }));
                talk.reconnect()?;
            }
            talk.open_http2()?;
            talk.expected_call(1, "Get", NOT_FOUND)
        });
    }
}

fn updates(tls: &mut Tls<'_>) {
    for (place, in_memory) in PLACES {
        let name = format!("keys are updated, {place}");
        tls.exact(name, Secure { in_memory, ..of(GCM) }, move |talk, _| {
            let update = |answered| Protocol::KeyUpdate { answered };
            for (nth, updates) in [
                &[(Client, false)][..],
                &[(Server, false)],
                &[(Client, false), (Server, false)],
                &[(Client, true)],
                &[(Server, true)],
                &[(Client, true), (Server, true)],
            ]
            .into_iter()
            .enumerate()
            {
                open(talk, nth)?;
                talk.expected_call(1, "Get", OK)?;
                // In the middle of a message.
                talk.client(|f| f.request(3, "Put").data(3, false, &[0, 0, 0, 0, 5, 1]))?;
                for ((from, answered), stream) in updates.iter().zip([5, 7]) {
                    talk.protocol(*from, update(*answered), |f| f)?;
                    talk.expected_call(stream, "Get", OK)?;
                }
                talk.client(|f| f.data(3, true, &[2, 3, 4, 5]))?;
                talk.server(|f| f.response(3).message(3, 6).trailers(3, OK))?;
                talk.expect(Call::new("Put", OK).unary(5, 6))?;
            }
            Ok(())
        });
    }
    tls.case("more updates of keys than are expected", of(GCM), |mut talk, _| {
        let before = talk.daemon.scrape()?;
        talk.open_http2()?;
        talk.call(1, "Get", OK)?;
        let updates = 7;
        for _ in 0..updates {
            talk.protocol(Client, Protocol::KeyUpdate { answered: false }, |f| f)?;
        }
        talk.call(3, "Get", OK)?;
        settles(talk.daemon, &before, u64::from(2 * updates * KEY_UPDATE))?;
        truthful(vec![talk], &[("Get", OK, 2)])
    });
}

fn tickets(tls: &mut Tls<'_>) {
    for (place, in_memory) in PLACES {
        let name = format!("tickets before the first data, {place}");
        tls.exact(name, Secure { in_memory, ..of(GCM) }, move |talk, library| {
            for (nth, tickets) in [0, 1, 4].into_iter().enumerate() {
                let how = Secure { in_memory, tickets, ..of(GCM) };
                talk.use_tls(library.with(&how));
                // The first connection has two.
                open(talk, nth)?;
                talk.expected_call(1, "Get", OK)?;
            }
            Ok(())
        });
        let name = format!("a ticket after the first data, {place}");
        tls.case(name, Secure { in_memory, ..of(GCM) }, |mut talk, _| {
            let before = talk.daemon.scrape()?;
            talk.open_http2()?;
            talk.call(1, "Get", OK)?;
            talk.protocol(Server, Protocol::Ticket, |f| f)?;
            talk.call(3, "Get", OK)?;
            counts(&talk, &before, "tls_unseen", 2)?;
            truthful(vec![talk], &[("Get", OK, 2)])
        });
    }
}

fn renegotiation(tls: &mut Tls<'_>) {
    let refused = |talk: &mut Talk<'_>, _: &Library| {
        talk.open_http2()?;
        for stream in [1, 3] {
            talk.expected_call(stream, "Get", NOT_FOUND)?;
        }
        talk.tell(Server, Action::ReadEnd, &[])?;
        talk.act(Client, Action::Protocol(Protocol::RenegotiateInVain))?;
        talk.peer(Server)?.answer()?;
        Ok(())
    };
    tls.exact("a renegotiation that is refused", of(OLD_GCM), refused);
    let how = Secure { renegotiates: true, ..of(OLD_GCM) };
    tls.case("a renegotiation that is not refused", how, |mut talk, _| {
        talk.open_http2()?;
        talk.call(1, "Get", OK)?;
        reports_calls(&mut talk, &[("Get", "OK", 1)], 1, 0)?;
        let before = talk.daemon.scrape()?;
        talk.protocol(Client, Protocol::Renegotiate, |f| f.request(3, "Get").last_message(3, 5))?;
        talk.server(|f| f.response(3).message(3, 6).trailers(3, OK))?;
        talk.call(5, "Get", OK)?;
        counts(&talk, &before, "tls_unseen", 1)?;
        is_truthful(&mut [talk], &[("Get", OK, 3)])
    });
}

/// A session that is resumed, and data that the client sends before the handshake (RFC 8446 §2.3).
fn early_data(tls: &mut Tls<'_>) {
    for (place, in_memory) in PLACES {
        let name = format!("a session is resumed, {place}");
        tls.exact(name, Secure { in_memory, ..of(GCM) }, |talk, _| {
            for nth in 0..3 {
                if nth == 0 {
                    talk.open_http2()?;
                } else {
                    talk.close()?;
                    talk.reconnect_early(|f| f)?;
                    talk.open_http2()?;
                }
                talk.expected_call(1, "Get", NOT_FOUND)?;
            }
            Ok(())
        });
        let name = format!("early data, {place}");
        tls.case(name, Secure { in_memory, ..of(GCM) }, |mut talk, _| {
            let before = talk.daemon.scrape()?;
            talk.open_http2()?;
            talk.call(1, "Get", OK)?;
            talk.close()?;
            talk.reconnect_early(|f| {
                f.bytes(PREFACE).settings(&[(2, 0)]).request(1, "Get").last_message(1, 5)
            })?;
            talk.server(|f| f.settings(&[]).response(1).message(1, 6).trailers(1, OK))?;
            counts(&talk, &before, "tls_unseen", 1)?;
            truthful(vec![talk], &[("Get", OK, 2)])
        });
    }
}

/// Cipher suites whose records do not show how long their content is.
fn inexact(tls: &mut Tls<'_>) {
    for (name, encrypts_mac) in
        [("encrypted, then authenticated", false), ("authenticated first", true)]
    {
        let name = format!("CBC, {name}: nothing is guessed");
        tls.case(name, Secure { encrypts_mac, ..of(CBC) }, |mut talk, _| {
            let before = talk.daemon.scrape()?;
            open(&mut talk, 1)?;
            for (stream, form) in [(1, 1), (3, 7), (5, usize::MAX)] {
                talk.way.write = Write::Tls(Through::Plain, form);
                talk.call(stream, "Get", OK)?;
            }
            counts(&talk, &before, "tls_cipher", 2)?;
            reports_calls(&mut talk, &[], 0, 0)?;
            talk.close()?;
            reports_calls(&mut talk, &[], 0, 0)?;
            talk.end_peers()
        });
    }
    tls.case("records that are padded", Secure { padding: 64, ..of(GCM) }, |mut talk, _| {
        let before = talk.daemon.scrape()?;
        talk.open_http2()?;
        for stream in [1, 3, 5] {
            talk.call(stream, "Get", OK)?;
        }
        counts(&talk, &before, "tls_unseen", 1)?;
        is_truthful(&mut [talk], &[("Get", OK, 3)])
    });
}

/// Plaintext that passes functions that are not probed: at one end, or at both.
fn unseen(tls: &mut Tls<'_>) {
    for (place, in_memory) in PLACES {
        let how = Secure { in_memory, ..of(GCM) };
        let name = format!("plaintext past the probes is counted, {place}");
        tls.case(name, how.clone(), move |talk, library| {
            let before = talk.daemon.scrape()?;
            let (daemon, service) = (talk.daemon, talk.service().to_owned());
            let mut talks = vec![talk];
            let mut missing = 0;
            for (nth, (from, writes, reads)) in [
                (Client, true, false),
                (Client, false, true),
                (Client, true, true),
                (Server, true, false),
                (Server, false, true),
                (Server, true, true),
            ]
            .into_iter()
            .enumerate()
            {
                if nth > 0 {
                    talks.push(library.connect(daemon, &format!("{service}-{nth}"), &how)?);
                }
                let talk = talks.last_mut().context("no connection")?;
                talk.open_http2()?;
                talk.call(1, "Get", OK)?;
                let past = |talk: &mut Talk<'_>, is_past: bool| {
                    let through =
                        |wants| if is_past && wants { Through::Bio } else { Through::Plain };
                    talk.way.write = Write::Tls(through(writes), usize::MAX);
                    talk.way.read = Read::Tls(through(reads), TLS_ROOM);
                };
                let written = talk.written(from);
                past(talk, from == Client);
                talk.client(|f| f.request(3, "Get").last_message(3, 5))?;
                past(talk, from == Server);
                talk.server(|f| f.response(3).message(3, 6).trailers(3, OK))?;
                past(talk, false);
                missing += (talk.written(from) - written) * (u64::from(writes) + u64::from(reads));
            }
            settles(daemon, &before, missing)?;
            truthful(talks, &[("Get", OK, 2)])
        });
    }
}

/// A daemon that starts in the middle of a connection.
fn late(tls: &mut Tls<'_>) {
    for (place, in_memory) in PLACES {
        let name = format!("a daemon joins in the middle of a connection, {place}");
        tls.case(name, Secure { in_memory, ..of(GCM) }, |talk, library| {
            let joining = OnceCell::new();
            let mut talk = talk;
            talk.open_http2()?;
            for stream in [1, 3] {
                talk.call(stream, "Get", OK)?;
            }
            let daemon = Daemon::start(&[FLAGS, &["--buckets", "1"]].concat())?;
            library.wait_for(&daemon)?;
            talk.daemon = joining.get_or_init(|| daemon);
            // Before the daemon knows which connection is whose.
            for stream in (5..25).step_by(2) {
                talk.call(stream, "Get", OK)?;
            }
            truthful(vec![talk], &[("Get", OK, 12)])
        });
    }
}

/// Waits until so many gaps, or more, have been counted with this cause since `before`.
fn counts(talk: &Talk<'_>, before: &Metrics, cause: &str, gaps: u32) -> Result<()> {
    let of = |metrics: &Metrics| metrics.sum("observer_gaps_total", &[("cause", cause)]);
    talk.daemon.wait_until(|metrics| {
        let counted = of(metrics) - of(before);
        ensure!(counted >= f64::from(gaps), "{counted} of {gaps} gaps are counted as {cause}");
        Ok(())
    })
}

/// A method, a code, and how many calls have them.
type Calls<'a> = (&'a str, i32, u32);

/// Waits until so many bytes of plaintext have been counted as missing since `before`.
fn settles(daemon: &Daemon, before: &Metrics, bytes: u64) -> Result<()> {
    let of =
        |metrics: &Metrics| metrics.sum("observer_gap_bytes_total", &[("cause", "tls_unseen")]);
    daemon.wait_until(|metrics| {
        let missing = of(metrics) - of(before);
        ensure!(missing == bytes as f64, "{missing} of {bytes} bytes are counted as tls_unseen");
        Ok(())
    })
}

/// Makes a call on each connection, whose fields do not depend on earlier ones, and waits until both ends have it.
/// Otherwise as [`is_truthful`].
fn truthful(mut talks: Vec<Talk<'_>>, made: &[Calls<'_>]) -> Result<()> {
    for talk in &mut talks {
        talk.client(|f| flush_tables(f).request(99, "Put").last_message(99, 5))?;
        talk.server(|f| flush_tables(f).response(99).message(99, 6).trailers(99, NOT_FOUND))?;
    }
    let key = ("Put".to_owned(), code_name(NOT_FOUND).to_owned());
    for talk in &mut talks {
        for role in [Client, Server] {
            let pid = talk.pid(role)?;
            talk.daemon.wait_until(|metrics| {
                let ended = ended_calls(metrics, role, &pid);
                let is_there = ended.get(&key) == Some(&1.0);
                ensure!(is_there, "the {} has not ended the last call: {ended:?}", role.side());
                Ok(())
            })?;
        }
    }
    is_truthful(&mut talks, &[made, &[("Put", NOT_FOUND, 1)]].concat())
}

/// Closes the connections, and ends the peers. An error if the daemon reports anything that was not `made` on each, before
/// that or after it. All calls have a request of 5 bytes and a response of 6.
fn is_truthful(talks: &mut [Talk<'_>], made: &[Calls<'_>]) -> Result<()> {
    let check = |talk: &mut Talk<'_>| {
        let metrics = talk.daemon.scrape()?;
        let mut check = |role| is_true(&metrics, role, &talk.pid(role)?, made);
        check(Client)?;
        check(Server)
    };
    talks.iter_mut().try_for_each(check)?;
    talks.iter_mut().try_for_each(Talk::close)?;
    for talk in &mut *talks {
        for (side, pid) in talk.pids()? {
            let name = format!("grpc_{side}_connections");
            talk.daemon.wait_for_sum(&name, &[("pid", &pid)], ..=0.0)?;
        }
    }
    talks.iter_mut().try_for_each(check)?;
    talks.iter_mut().try_for_each(Talk::end_peers)
}

/// An error if the daemon reports more of a process than it did: what was not seen may be missing.
fn is_true(metrics: &Metrics, role: Role, pid: &str, made: &[Calls<'_>]) -> Result<()> {
    let of = |is: &dyn Fn(&str, &str) -> bool| -> f64 {
        let made = made.iter().filter(|(method, code, _)| is(method, code_name(*code)));
        made.map(|(_, _, calls)| f64::from(*calls)).sum()
    };
    let ended = ended_calls(metrics, role, pid);
    for ((method, code), seen) in &ended {
        let is = |want: &str, of: &str| want == NOT_SEEN || want == of;
        let most = of(&|made, with| is(method, made) && is(code, with));
        ensure!(*seen <= most, "{role:?}: {seen} of {most} calls are {method} {code}: {ended:?}");
    }
    let all = of(&|_, _| true);
    ensure!(ended.values().sum::<f64>() <= all, "{role:?}: more than {all} calls: {ended:?}");
    let side = role.side();
    let [requests, responses] = match role {
        Client => ["sent", "received"],
        Server => ["received", "sent"],
    };
    for (of, length) in [(requests, 5.0), (responses, 6.0)] {
        for (what, most) in [("", all), ("_bytes", length * all)] {
            let name = format!("grpc_{side}_msg_{of}{what}_total");
            let seen = metrics.sum(&name, &[("pid", pid)]);
            ensure!(seen <= most, "{name} is {seen} of {most}");
        }
    }
    report::exact(5);
    Ok(())
}

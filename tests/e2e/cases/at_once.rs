//! Gaps on sockets of every kind: where the kernel reports each transfer they are counted at once, to the byte, and a
//! call that may end in one is `not_seen`.

use std::path::Path;

use anyhow::Result;
use support::daemon::Daemon;
use support::raw::command::{Read, Write};
use support::raw::talk::Role::{self, Client, Server};
use support::raw::talk::Way;
use support::raw::{Action, Address, Talk};

use super::backends::is_since;
use super::reports::{NOT_SEEN, flush_tables, not_found_label, reports_calls_of};
use super::{NOT_FOUND, OK, Table};

/// The label of the gaps' cause.
const UNSEEN: &[(&str, &str)] = &[("cause", "unseen")];

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark(
        "tshark cannot tell: what the daemon does not see passes the network all the same.",
    );
    let multipath = Path::new("/proc/sys/net/mptcp").exists();
    for (transport, possible) in [("TCP", true), ("a Unix socket", true), ("MPTCP", multipath)] {
        let address = move |name: &str| match transport {
            "TCP" => Address::V4(0),
            "MPTCP" => Address::Multipath(0),
            _ => Address::Abstract(name.to_owned()),
        };
        for (how, write) in [
            ("splice", Write::Splice),
            ("sendfile", Write::SendFile),
            ("io_uring", Write::Ring),
            ("Linux AIO", Write::Aio),
        ] {
            let name =
                format!("the end of a call written by {how} to {transport}, and then closed");
            table.alone_if(possible, name, move |name| {
                let way = Way { write, ..Way::default() };
                end_elsewhere(name, address(name), way, Server)
            });
        }
        for (how, read) in
            [("splice", Read::Splice), ("io_uring", Read::Ring), ("Linux AIO", Read::Aio)]
        {
            let name = format!("the end of a call read by {how} from {transport}, and then closed");
            table.alone_if(possible, name, move |name| {
                let way = Way { read, ..Way::default() };
                end_elsewhere(name, address(name), way, Client)
            });
        }
        let name = format!("a response read by splice from {transport}, and calls after it");
        table.alone_if(possible, name, move |name| spliced(name, address(name)));
    }
}

/// Whether the kernel reports each transfer, and the daemon watches such sockets. The cases of other backends are in
/// `gaps`.
fn applies(daemon: &Daemon) -> Result<bool> {
    Ok(daemon.backend()? == "socket" && daemon.watches_uncounted())
}

/// Whether the gap is counted at once. If `splice` takes bytes from a socket without `sock_recvmsg`, only the
/// socket's counter shows that. MPTCP has its own way since Linux 7.0.
fn is_told_at_once(address: &Address, way: Way) -> bool {
    let by_receiving = matches!(address, Address::Multipath(_)) && !is_since(7, 0);
    way.read != Read::Splice || by_receiving
}

/// An error unless gaps of this many bytes are counted now.
fn gap_is(daemon: &Daemon, bytes: u64) -> Result<()> {
    daemon.scrape()?.expect_sum("observer_gap_bytes_total", UNSEEN, bytes as f64)
}

/// The end of the second call is in a gap at the `blind` end, which then closes.
fn end_elsewhere(name: &str, address: Address, way: Way, blind: Role) -> Result<()> {
    let daemon = Daemon::start(&[])?;
    if !applies(&daemon)? {
        return Ok(());
    }
    let at_once = is_told_at_once(&address, way);
    let mut talk = Talk::begin(&daemon, name, address)?;
    talk.call(1, "Get", OK)?;
    talk.client(|f| f.request(3, "Get").last_message(3, 5))?;
    talk.server(|f| f.response(3).message(3, 6))?;
    let before = talk.written(Server);
    talk.way = way;
    talk.server(|f| f.trailers(3, OK))?;
    gap_is(&daemon, if at_once { talk.written(Server) - before } else { 0 })?;
    for role in [Server, Client] {
        talk.act(role, Action::Close)?;
    }
    for role in [Server, Client] {
        let second = if role == blind { NOT_SEEN } else { "OK" };
        reports_calls_of(&mut talk, role, &[("Get", "OK", 1), ("Get", second, 1)], 2, 0)?;
    }
    talk.end_peers()
}

/// The second response is in a gap at the client's end, which the third one shows.
fn spliced(name: &str, address: Address) -> Result<()> {
    let daemon = Daemon::start(&[])?;
    if !applies(&daemon)? {
        return Ok(());
    }
    let mut talk = Talk::begin(&daemon, name, address)?;
    talk.call(1, "Get", OK)?;
    talk.client(|f| f.request(3, "Get").last_message(3, 5))?;
    let before = talk.written(Server);
    talk.way.read = Read::Splice;
    talk.server(|f| f.response(3).message(3, 6).trailers(3, OK))?;
    let unseen = talk.written(Server) - before;
    talk.way.read = Read::Read;
    talk.client(|f| f.request(5, "Put").last_message(5, 5))?;
    talk.server(|f| flush_tables(f).response(5).message(5, 6).trailers(5, NOT_FOUND))?;
    gap_is(&daemon, unseen)?;
    for role in [Server, Client] {
        talk.act(role, Action::Close)?;
    }
    let put = ("Put", not_found_label(), 1);
    reports_calls_of(&mut talk, Server, &[("Get", "OK", 2), put], 3, 0)?;
    reports_calls_of(&mut talk, Client, &[("Get", "OK", 1), ("Get", NOT_SEEN, 1), put], 3, 0)?;
    talk.end_peers()
}

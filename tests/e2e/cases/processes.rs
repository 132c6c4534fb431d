//! Processes: calls belong to the process that reads or writes their field blocks.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::{FdFlags, fcntl_setfd};
use support::daemon::Daemon;
use support::openmetrics::Metrics;
use support::raw::command::{Compat, Read, Write};
use support::raw::process::{Start, named, program};
use support::raw::talk::Role::{Client, Server};
use support::raw::{Action, Address, Call, Talk};
use tempfile::TempDir;

use super::reports::reports_calls_of;
use super::{NOT_FOUND, OK, Table};

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark(
        "tshark cannot tell: which process is at an end of a connection is not on the wire.",
    );
    listeners(table);
    hand_overs(table);
    children(table);
    namespaces(table);
    unseen_ways(table);
    in_32_bits(table);
    super::names::add(table);
    super::ports::add(table);
    super::services::add(table);
    table.case("both ends in one process", |daemon, name| {
        let mut talk = Talk::connect_to_itself(daemon, name, &Start::default())?;
        talk.open_http2()?;
        talk.expected_call(1, "Get", OK)?;
        talk.expected_call(3, "Get", OK)?;
        talk.finish()
    });
    table.case("a process number used again", pid_reuse);
    let cgroups = cgroups();
    table.alone_if(cgroups.is_some(), "what a process runs, and in which container", move |name| {
        identity(name, &cgroups.context("no control groups to be in")?)
    });
}

/// The folder in which control groups of version 2 can be created.
pub(super) fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })?;
    mount.join("cgroup.procs").is_file().then_some(mount)
}

/// The server is in a control group named like that of a Docker container.
fn identity(name: &str, cgroups: &Path) -> Result<()> {
    let labels = "exe,container_id,container_runtime";
    let daemon = Daemon::start(&["--labels", labels])?;
    let container = format!("{:064x}", std::process::id());
    let group = cgroups.join(format!("docker-{container}.scope"));
    fs::create_dir(&group).with_context(|| format!("create {}", group.display()))?;
    let ends = [&Start::default(), &Start::in_group(&group)];
    let mut talk = Talk::begin_from(&daemon, name, Address::V4(0), ends)?;
    talk.expected_call(1, "Get", OK)?;
    talk.compare()?;
    let program = program()?.to_string_lossy().into_owned();
    let pid = talk.pid(Server)?;
    let known = [
        ("pid", &*pid),
        ("exe", &program),
        ("container_id", &container),
        ("container_runtime", "docker"),
    ];
    let metrics = daemon.scrape()?;
    for family in ["grpc_server_handled_total", "grpc_server_connections", "observer_process_info"]
    {
        ensure!(metrics.count(family, &known) == 1, "{family} of {pid} is not one with {known:?}");
    }
    let client = talk.pid(Client)?;
    let outside = [("pid", &*client), ("exe", &program), ("container_id", "")];
    ensure!(metrics.count("grpc_client_handled_total", &outside) == 1, "not one with {outside:?}");
    talk.end_peers()?;
    fs::remove_dir(&group).with_context(|| format!("remove {}", group.display()))?;
    talk.finish_closed()
}

/// Selection of processes by their parents.
fn children(table: &mut Table) {
    let own = || std::process::id().to_string();
    table.alone("children of a selected process, and theirs, with --children", move |name| {
        let daemon = Daemon::start(&["--pid", &own(), "--children"])?;
        let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
        talk.expected_call(1, "Get", OK)?;
        talk.peer(Server)?.fork()?;
        talk.peer(Client)?.fork()?;
        talk.expected_call(3, "Get", OK)?;
        talk.compare()?;
        talk.finish_ended()
    });
    table.case("children that run already, and theirs, with --children", |early, name| {
        let mut talk = Talk::connect(early, name, Address::V4(0))?;
        let parent = talk.pid(Server)?;
        talk.peer(Server)?.fork()?;
        talk.peer(Server)?.fork()?;
        let daemon = Daemon::start(&["--pid", &parent, "--children"])?;
        talk.daemon = &daemon;
        for before in 1..=2 {
            talk.reopen()?;
            talk.expected_call(1, "Get", OK)?;
            reports_calls_of(&mut talk, Server, &[("Get", "OK", 1)], 1, 0)?;
            reports_calls_of(&mut talk, Client, &[], 0, 0)?;
            // A child that is started later.
            if before == 1 {
                talk.peer(Server)?.fork()?;
            }
        }
        talk.end_peers()
    });
    table.alone("children of a selected process, without --children", move |name| {
        let daemon = Daemon::start(&["--pid", &own()])?;
        let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
        talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
        talk.server(|f| f.trailers_only(1, NOT_FOUND))?;
        talk.finish()
    });
}

fn listeners(table: &mut Table) {
    table.case("servers that share a listener", |daemon, name| {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        fcntl_setfd(&listener, FdFlags::empty())?;
        let server = Start { listener: Some(listener.as_raw_fd()), ..Start::default() };
        let port = listener.local_addr()?.port();
        let address = Address::Inherited(Box::new(Address::V4(port)));
        let mut talk = Talk::begin_from(daemon, name, address, [&Start::default(), &server])?;
        talk.expected_call(1, "First", OK)?;
        for method in ["Second", "Third"] {
            talk.another_server(&server, None)?;
            talk.reopen()?;
            talk.expected_call(1, method, OK)?;
            talk.expected_call(3, "Get", OK)?;
        }
        // The first server again.
        talk.use_server(0);
        talk.reopen()?;
        talk.expected_call(1, "Get", OK)?;
        talk.finish_ended()
    });
    table.case("servers with SO_REUSEPORT", |daemon, name| {
        let mut talk = Talk::begin(daemon, name, Address::Shared(0))?;
        talk.expected_call(1, "First", OK)?;
        let address = talk.address();
        talk.another_server(&Start::default(), Some(address))?;
        // The client is the second peer.
        let servers = [(0, "First"), (2, "Second")];
        let mut accepted = Vec::new();
        // The kernel chooses by a hash of the addresses: one server gets none with a probability of 2^-29.
        for _ in 0..30 {
            talk.begin_connection()?;
            for (server, method) in servers {
                talk.use_server(server);
                if talk.accept()? {
                    talk.open_http2()?;
                    talk.expected_call(1, method, OK)?;
                    accepted.push(server);
                }
            }
        }
        ensure!(accepted.len() == 30, "{} of 30 connections", accepted.len());
        ensure!(accepted.contains(&0) && accepted.contains(&2), "one server has had all");
        talk.finish_ended()
    });
}

fn hand_overs(table: &mut Table) {
    table.talk("a socket handed to another thread", |talk| {
        talk.expected_call(1, "Get", OK)?;
        talk.client(|f| f.request(3, "Get").message(3, 5))?;
        talk.act(Server, Action::Thread)?;
        talk.act(Client, Action::Thread)?;
        talk.client(|f| f.end(3))?;
        talk.server(|f| f.response(3).message(3, 6).trailers(3, OK))?;
        talk.expect(Call::new("Get", OK).unary(5, 6))?;
        talk.expected_call(5, "Get", OK)
    });
    for (name, role) in [("server", Server), ("client", Client)] {
        table.talk_to(
            format!("a {name}'s socket inherited over fork"),
            |talk| talk.finish_ended(),
            move |talk| {
                talk.expected_call(1, "Get", OK)?;
                // A call that starts in the parent and ends in the child is the parent's.
                talk.client(|f| f.request(3, "Begun").message(3, 5))?;
                talk.expect(Call::new("Begun", NOT_FOUND).unary(5, 6))?;
                talk.peer(role)?.fork()?;
                talk.server(|f| f.response(3).message(3, 6).trailers(3, NOT_FOUND))?;
                talk.expected_call(5, "Get", OK)?;
                talk.compare()
            },
        );
        table.talk_to(
            format!("a {name}'s socket inherited by a short-lived child"),
            |talk| talk.finish_ended(),
            move |talk| {
                talk.expected_call(1, "Get", OK)?;
                talk.peer(role)?.fork()?;
                talk.expected_call(3, "Get", OK)?;
                // The daemon is not scraped before the child has ended.
                Ok(())
            },
        );
        table.talk(format!("a {name}'s socket inherited over exec"), move |talk| {
            let program = named("raw-peer-again")?;
            talk.expected_call(1, "Get", OK)?;
            talk.client(|f| f.request(3, "Begun").message(3, 5))?;
            talk.expect(Call::new("Begun", NOT_FOUND).unary(5, 6))?;
            talk.peer(role)?.exec(program.path())?;
            talk.server(|f| f.response(3).message(3, 6).trailers(3, NOT_FOUND))?;
            talk.expected_call(5, "Get", OK)
        });
    }
    table.case("a server that accepts in one process and serves in another", |daemon, name| {
        let mut talk = Talk::connect(daemon, name, Address::V4(0))?;
        talk.peer(Server)?.fork()?;
        talk.open_http2()?;
        talk.expected_call(1, "Get", OK)?;
        talk.compare()?;
        talk.finish_ended()
    });
}

fn namespaces(table: &mut Table) {
    let unshare = |more: &[&str]| {
        let words = ["unshare", "--pid", "--net", "--fork", "--kill-child"];
        let shell = ["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];
        Start::through(&[&words, more, &shell].concat())
    };
    let start = unshare(&[]);
    table.case("a process in another network and PID namespace", move |daemon, name| {
        let mut talk = Talk::connect_to_itself(daemon, name, &start)?;
        let inner = talk.peer(Server)?.ask(0, Action::Accept)?.pid;
        talk.peer(Server)?.find_child()?;
        let outer = talk.peer(Server)?.identity().pid;
        ensure!(inner != outer, "process {inner} is not in another PID namespace");
        talk.open_http2()?;
        talk.expected_call(1, "Get", OK)?;
        talk.expected_call(3, "Get", OK)?;
        talk.finish()
    });
    let start = unshare(&["--mount-proc"]);
    let name = "a server in a PID and network namespace, over a Unix socket";
    table.case(name, move |daemon, name| {
        let folder = TempDir::with_prefix("raw-").context("create a folder")?;
        let path = folder.path().join("socket").to_string_lossy().into_owned();
        let ends = [&Start::default(), &start];
        let mut talk = Talk::connect_from(daemon, name, Address::Unix(path), ends)?;
        talk.peer(Server)?.find_child()?;
        talk.open_http2()?;
        talk.expected_call(1, "Get", OK)?;
        talk.expected_call(3, "Get", OK)?;
        talk.finish()
    });
}

/// A process on x86-64 may make the system calls of a 32-bit one.
fn in_32_bits(table: &mut Table) {
    for call in Compat::ALL {
        table.talk(format!("as a 32-bit process: {call:?}"), move |talk| {
            // Its system calls have no tracepoints of their own.
            if talk.daemon.backend()? == "tracepoint" {
                return Ok(());
            }
            talk.way.write = Write::Compat(call);
            talk.way.read = Read::Compat(call);
            for stream in [1, 3] {
                talk.client(|f| f.request(stream, "Get").last_message(stream, 5_000))?;
                talk.server(|f| f.response(stream).message(stream, 70_000))?;
                talk.server(|f| f.trailers(stream, NOT_FOUND))?;
            }
            talk.expect(Call::new("Get", NOT_FOUND).unary(5_000, 70_000).times(2))
        });
    }
}

/// Transfers whose bytes most backends cannot find.
fn unseen_ways(table: &mut Table) {
    for (name, way) in
        [("splice", Write::Splice), ("sendfile", Write::SendFile), ("io_uring", Write::Ring)]
    {
        table.case(format!("{name} on a watched connection"), move |daemon, name| {
            let mut talk = Talk::begin(daemon, name, Address::V4(0))?;
            talk.expected_call(1, "Before", OK)?;
            talk.way.write = way;
            talk.client(|f| f.request(3, "Around").last_message(3, 5))?;
            talk.way.write = Write::Write;
            talk.server(|f| f.response(3).message(3, 6).trailers(3, NOT_FOUND))?;
            // The next bytes show the gap.
            talk.expected_call(5, "After", OK)?;
            if sees(daemon, way)? {
                talk.expect(Call::new("Around", NOT_FOUND).unary(5, 6))?;
                return talk.finish();
            }
            let pids = [talk.pid(Server)?, talk.pid(Client)?];
            talk.finish_with_gaps()?;
            daemon.wait_until(|metrics| nothing_wrong(metrics, &pids))
        });
        table.case(format!("{name} in a message's body costs no number"), move |daemon, name| {
            let mut talk = Talk::begin(daemon, name, Address::V4(0))?;
            talk.client(|f| f.request(1, "Put"))?;
            // A DATA frame of a message of 100 bytes, and the first 10 of these.
            talk.client(|f| {
                f.bytes(&[0, 0, 105, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 100, 1, 1, 1, 1, 1])
            })?;
            talk.way.write = way;
            talk.client(|f| f.bytes(&[1; 50]))?;
            talk.way.write = Write::Write;
            talk.client(|f| f.bytes(&[1; 45]))?;
            talk.server(|f| f.response(1).message(1, 6).trailers(1, NOT_FOUND))?;
            talk.expect(Call::new("Put", NOT_FOUND).unary(100, 6))?;
            talk.expected_call(3, "Get", OK)?;
            if sees(daemon, way)? {
                return talk.finish();
            }
            talk.compare()?;
            talk.finish_with_gaps()
        });
    }
}

/// Whether the daemon decodes bytes that are written in this way.
fn sees(daemon: &Daemon, way: Write) -> Result<bool> {
    Ok(matches!(way, Write::Ring) && daemon.decodes_io_uring()?)
}

/// An error unless the server's three calls are reported, and nothing wrong of the client's.
fn nothing_wrong(metrics: &Metrics, [server, client]: &[String; 2]) -> Result<()> {
    for (role, pid, all) in [("server", server, true), ("client", client, false)] {
        for (method, code) in [("Before", "OK"), ("Around", "NotFound"), ("After", "OK")] {
            let name = format!("grpc_{role}_handled_total");
            let of = |labels: &[(&str, &str)]| {
                metrics.sum(&name, &[&[("pid", &**pid), ("grpc_method", method)], labels].concat())
            };
            let (right, not_seen) = (of(&[("grpc_code", code)]), of(&[("grpc_code", "not_seen")]));
            let wrong = of(&[]) - right - not_seen;
            let enough = right + not_seen >= if all || method == "Before" { 1.0 } else { 0.0 };
            ensure!(
                wrong == 0.0 && right + not_seen <= 1.0 && enough,
                "{role}, {method}: {right} with its code, {not_seen} not seen, {wrong} wrong"
            );
        }
    }
    Ok(())
}

/// A process with a number that is used again is not taken for the earlier one.
fn pid_reuse(daemon: &Daemon, name: &str) -> Result<()> {
    let other = Start::named("raw-peer-other")?;
    let mut talk = Talk::begin(daemon, name, Address::V4(0))?;
    talk.expected_call(1, "First", OK)?;
    let pid = talk.peer(Server)?.identity().pid;
    talk.peer(Server)?.end()?;
    for _ in 0..50 {
        // The next process gets the number, if it is free: ours, unless another one starts before it.
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())
            .context("write ns_last_pid")?;
        talk.another_server(&other, Some(Address::V4(0)))?;
        if talk.peer(Server)?.identity().pid == pid {
            return served_by_both(talk, pid);
        }
    }
    bail!("no process got the number {pid} again")
}

fn served_by_both(mut talk: Talk<'_>, pid: u32) -> Result<()> {
    talk.reopen()?;
    talk.expected_call(1, "Second", OK)?;
    talk.expected_call(3, "Second", OK)?;
    let pid = pid.to_string();
    talk.daemon.wait_until(|metrics| {
        for (process, method, calls) in [
            ("raw-peer", "First", 1.0),
            ("raw-peer", "Second", 0.0),
            ("raw-peer-other", "First", 0.0),
            ("raw-peer-other", "Second", 2.0),
        ] {
            let labels = [("pid", &*pid), ("process", process), ("grpc_method", method)];
            metrics.expect_sum("grpc_server_handled_total", &labels, calls)?;
        }
        Ok(())
    })?;
    talk.end_peers()
}

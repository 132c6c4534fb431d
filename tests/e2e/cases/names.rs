//! What processes are called: calls stay with the name that made them, and `--comm` selects whoever takes
//! the name.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use support::daemon::Daemon;
use support::nobody::NOBODY;
use support::openmetrics::Metrics;
use support::raw::process::Start;
use support::raw::talk::Role::{self, Client, Server};
use support::raw::{Action, Address, Call, Talk};

use super::processes::Renamed;
use super::reports::{reports_calls_of, side_of};
use super::{NOT_FOUND, OK, Table};

pub(super) fn add(table: &mut Table) {
    kept(table);
    bounded(table);
    selected(table);
    users(table);
}

/// Names are chosen by who is watched, users are not.
fn users(table: &mut Table) {
    table.alone("--uid, and a process of the same name of another user", |name| {
        let daemon = Daemon::start(&["--uid", &NOBODY.to_string(), "--labels", "uid"])?;
        let ends = [&Start::default(), &Start::by_nobody()?];
        only_the_server(&daemon, name, ends)
    });
    let cgroups = super::processes::cgroups();
    let possible = cgroups.is_some();
    table.alone_if(possible, "--cgroup, and a unit that starts later, twice", move |name| {
        let cgroups = cgroups.context("no control groups to be in")?;
        let unit = format!("observer-test-{}.service", std::process::id());
        let daemon = Daemon::start(&["--cgroup", &unit])?;
        for _ in 0..2 {
            let group = cgroups.join(&unit);
            // In a group below that of the unit.
            let inner = group.join("inner");
            fs::create_dir_all(&inner).with_context(|| format!("create {}", inner.display()))?;
            let entered = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", inner.display());
            let through = ["sh", "-c", &entered, "sh"].map(str::to_owned).to_vec();
            let server = Start { through, ..Start::default() };
            let ends = [&Start::default(), &server];
            only_the_server(&daemon, name, ends)?;
            for folder in [inner, group] {
                fs::remove_dir(&folder).with_context(|| format!("remove {}", folder.display()))?;
            }
        }
        Ok(())
    });
    table.alone("--labels uid,cgroup, and a process that names itself like another", |name| {
        let daemon = Daemon::start(&["--labels", "uid,cgroup,systemd_unit"])?;
        let ends = [&Start::default(), &Start::by_nobody()?];
        let mut talk = Talk::begin_from(&daemon, name, Address::V4(0), ends)?;
        talk.expected_call(1, "Get", OK)?;
        talk.compare()?;
        let metrics = daemon.scrape()?;
        let own = rustix::process::getuid().as_raw();
        for (role, uid) in [(Client, own), (Server, NOBODY)] {
            let (pid, uid) = (talk.pid(role)?, uid.to_string());
            let cgroup = cgroup_of(&pid)?;
            let labels =
                [("pid", &*pid), ("process", "raw-peer"), ("uid", &*uid), ("cgroup", &*cgroup)];
            let family = format!("grpc_{}_handled_total", side_of(role));
            ensure!(metrics.count(&family, &labels) == 1, "{family}: not one with {labels:?}");
        }
        talk.finish()
    });
}

/// A call of which the server's end alone is reported.
fn only_the_server(daemon: &Daemon, name: &str, ends: [&Start; 2]) -> Result<()> {
    let mut talk = Talk::begin_from(daemon, name, Address::V4(0), ends)?;
    talk.call(1, "Get", NOT_FOUND)?;
    reports_calls_of(&mut talk, Server, &[("Get", "NotFound", 1)], 1, 0)?;
    reports_calls_of(&mut talk, Client, &[], 0, 0)?;
    talk.end_peers()
}

/// Of version 2, or where that is not in use of what systemd names.
fn cgroup_of(pid: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).context("read the groups")?;
    let of = |start: &str| text.lines().find_map(|line| line.split_once(start));
    let v2 = of("0::").map(|(_, path)| path).filter(|path| *path != "/");
    let path = v2.or_else(|| of(":name=systemd:").map(|(_, path)| path)).unwrap_or("/");
    Ok(path.to_owned())
}

/// Under which names a process has this many connections.
fn connections(talk: &mut Talk<'_>, role: Role, want: &[(&str, u32)]) -> Result<()> {
    let (side, pid) = (side_of(role), talk.pid(role)?);
    talk.daemon.wait_until(|metrics| {
        let seen: Vec<_> = metrics
            .series(&format!("grpc_{side}_connections"))
            .filter(|(labels, _)| labels.get("pid") == Some(&pid))
            .map(|(labels, value)| (labels.get("process").cloned().unwrap_or_default(), value))
            .collect();
        let want: Vec<_> =
            want.iter().map(|(name, count)| ((*name).to_owned(), f64::from(*count))).collect();
        if seen == want { Ok(()) } else { Err(format!("connections {seen:?}, not {want:?}")) }
    })
}

fn kept(table: &mut Table) {
    for role in [Server, Client] {
        let side = side_of(role);
        table.case(format!("a {side} that renames itself"), move |daemon, name| {
            let mut talk = Talk::begin(daemon, name, Address::V4(0))?;
            talk.expected_call(1, "Before", OK)?;
            // Begun under the old name, ended under the new one: the old one's.
            talk.client(|f| f.request(3, "Begun").message(3, 5))?;
            talk.expect(Call::new("Begun", NOT_FOUND).unary(5, 6))?;
            connections(&mut talk, role, &[("raw-peer", 1)])?;
            talk.peer(role)?.rename("renamed")?;
            talk.server(|f| f.response(3).message(3, 6).trailers(3, NOT_FOUND))?;
            talk.expected_call(5, "After", OK)?;
            connections(&mut talk, role, &[("renamed", 1)])?;
            talk.peer(role)?.rename("raw-peer")?;
            talk.expected_call(7, "Before", OK)?;
            connections(&mut talk, role, &[("raw-peer", 1)])?;
            talk.finish()
        });
        table.case(format!("a {side}'s calls before execve, and after"), move |daemon, name| {
            let program = Renamed::new("raw-peer-again")?;
            let mut talk = Talk::begin(daemon, name, Address::V4(0))?;
            talk.expected_call(1, "Before", OK)?;
            talk.client(|f| f.request(3, "Begun").message(3, 5))?;
            talk.expect(Call::new("Begun", NOT_FOUND).unary(5, 6))?;
            talk.peer(role)?.exec(&program.program)?;
            talk.server(|f| f.response(3).message(3, 6).trailers(3, NOT_FOUND))?;
            talk.expected_call(5, "After", OK)?;
            connections(&mut talk, role, &[("raw-peer-again", 1)])?;
            talk.finish()
        });
    }
    table.talk("a thread's own name is not its process's", |talk| {
        talk.expected_call(1, "Before", OK)?;
        talk.act(Server, Action::Thread)?;
        talk.act(Server, Action::Rename("thread".into()))?;
        talk.expected_call(3, "Thread", OK)?;
        talk.peer(Server)?.rename_main("main")?;
        talk.expected_call(5, "Main", OK)
    });
    table.alone("a process that renames itself, with --workers", |name| {
        let daemon = Daemon::start(&["--workers", "4"])?;
        let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
        for connection in 0..12 {
            let method = if connection < 6 { "Before" } else { "After" };
            talk.expected_call(1, method, OK)?;
            talk.expected_call(3, method, OK)?;
            if connection == 5 {
                talk.peer(Server)?.rename("renamed")?;
                // Of one that is older than the name, too.
                talk.expected_call(5, "After", OK)?;
            }
            talk.reopen()?;
        }
        talk.compare()?;
        talk.finish_ended()
    });
}

/// Names are chosen by who is watched.
fn bounded(table: &mut Table) {
    // The one that it had first counts as well.
    const OWN: u32 = 15;
    table.watched(
        "more names than a process may have",
        &[],
        |talk| talk.finish_uncompared(),
        |talk| {
            for n in 0..OWN + 10 {
                talk.peer(Server)?.rename(&format!("name-{n}"))?;
                end_one(talk, n)?;
                // Not so many in a second that they are not told.
                sleep(Duration::from_millis(50));
            }
            talk.peer(Server)?.rename("name-3")?;
            end_one(talk, OWN + 10)?;
            let mut want: BTreeMap<_, _> = (0..OWN).map(|n| (format!("name-{n}"), 1.0)).collect();
            want.insert("name-3".into(), 2.0);
            want.insert("other".into(), 10.0);
            let pid = talk.pid(Server)?;
            talk.daemon.wait_until(|metrics| {
                let seen = by_name(metrics, &pid);
                let overflow = metrics.sum("observer_processes_overflow_total", &[]);
                let right = seen == want && overflow >= 10.0;
                right.then_some(()).ok_or_else(|| format!("{seen:?}, not {want:?}; {overflow}"))
            })
        },
    );
    table.alone("names that change too fast to be told", |name| {
        const CALLS: u32 = 100;
        let daemon = Daemon::start::<&str>(&[])?;
        let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
        for n in 0..CALLS {
            for more in 0..20 {
                talk.peer(Server)?.rename(&format!("name-{n}-{more}"))?;
            }
            end_one(&mut talk, n)?;
        }
        sleep(Duration::from_secs(1));
        talk.peer(Server)?.rename("last")?;
        end_one(&mut talk, CALLS)?;
        let pid = talk.pid(Server)?;
        daemon.wait_until(|metrics| {
            let seen = by_name(metrics, &pid);
            let of = |name: &str| seen.get(name).copied().unwrap_or_default();
            let right = seen.values().sum::<f64>().total_cmp(&f64::from(CALLS + 1)).is_eq()
                && seen.len() <= 17
                && of("other") > f64::from(CALLS / 2)
                && of("last").total_cmp(&1.0).is_eq();
            right.then_some(()).ok_or_else(|| format!("{seen:?}"))
        })?;
        talk.end_peers()
    });
}

/// A call that fails.
fn end_one(talk: &mut Talk<'_>, number: u32) -> Result<()> {
    let stream = 2 * number + 1;
    talk.client(|f| f.request(stream, "Get").last_message(stream, 5))?;
    talk.server(|f| f.trailers_only(stream, NOT_FOUND))
}

/// Calls that a server has ended, by its name.
fn by_name(metrics: &Metrics, pid: &str) -> BTreeMap<String, f64> {
    let mut calls = BTreeMap::new();
    for (labels, value) in metrics.series("grpc_server_handled_total") {
        if labels.get("pid").is_some_and(|of| of == pid) && value > 0.0 {
            let name = labels.get("process").cloned().unwrap_or_default();
            *calls.entry(name).or_insert(0.0) += value;
        }
    }
    calls
}

/// `--comm` and who takes the name later.
fn selected(table: &mut Table) {
    table.alone("--comm, and a name that is taken later", |name| {
        let daemon = Daemon::start(&["--comm", "taken-later"])?;
        let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
        talk.call(1, "Before", NOT_FOUND)?;
        reports_calls_of(&mut talk, Server, &[], 0, 0)?;
        talk.peer(Server)?.rename("taken-later")?;
        talk.reopen()?;
        talk.expected_call(1, "After", OK)?;
        reports_calls_of(&mut talk, Server, &[("After", "OK", 1)], 1, 0)?;
        // It stays selected.
        talk.peer(Server)?.rename("left-again")?;
        talk.expected_call(3, "Left", OK)?;
        let pid = talk.pid(Server)?;
        let want = ["taken-later", "left-again"].map(|name| (name.to_owned(), 1.0)).into();
        daemon.wait_until(|metrics| {
            let seen = by_name(metrics, &pid);
            if seen == want { Ok(()) } else { Err(format!("{seen:?}, not {want:?}")) }
        })?;
        reports_calls_of(&mut talk, Client, &[], 0, 0)?;
        talk.end_peers()
    });
    table.watched(
        "--comm, and a connection that is older than the name",
        &["--comm", "taken-later"],
        |talk| talk.finish_uncompared(),
        |talk| {
            for stream in [1, 3] {
                talk.call(stream, "Get", NOT_FOUND)?;
            }
            talk.peer(Server)?.rename("taken-later")?;
            talk.expected_call(5, "New", OK)?;
            talk.expected_call(7, "New", OK)?;
            let pid = talk.pid(Server)?;
            talk.daemon.wait_until(|metrics| {
                let calls = |labels: &[(&str, &str)]| {
                    let labels = [&[("pid", &*pid)], labels].concat();
                    metrics.sum("grpc_server_handled_total", &labels)
                };
                let (all, new) = (calls(&[]), calls(&[("grpc_method", "New")]));
                let right = all.total_cmp(&2.0).is_eq() && new.total_cmp(&2.0).is_eq();
                right.then_some(()).ok_or_else(|| format!("{all} calls, {new} of them New, not 2"))
            })?;
            reports_calls_of(talk, Client, &[], 0, 0)
        },
    );
    table.watched(
        "--comm, and a name that another thread gives the process",
        &["--comm", "taken-later"],
        |talk| talk.finish_uncompared(),
        |talk| {
            talk.act(Server, Action::Thread)?;
            talk.act(Server, Action::Rename("taken-later".into()))?;
            talk.call(1, "Before", NOT_FOUND)?;
            reports_calls_of(talk, Server, &[], 0, 0)?;
            talk.peer(Server)?.rename_main("taken-later")?;
            talk.reopen()?;
            talk.expected_call(1, "After", OK)?;
            reports_calls_of(talk, Server, &[("After", "OK", 1)], 1, 0)
        },
    );
}

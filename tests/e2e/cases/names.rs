//! Names of processes: calls keep the name under which they were made, and `--comm` selects each process that takes
//! the name.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use support::daemon::Daemon;
use support::nobody::NOBODY;
use support::openmetrics::{Metrics, label};
use support::raw::process::{Start, named};
use support::raw::talk::Role::{self, Client, Server};
use support::raw::{Action, Address, Call, Talk};

use super::reports::reports_calls_of;
use super::{NOT_FOUND, OK, Table};

pub(super) fn add(table: &mut Table) {
    kept(table);
    bounded(table);
    selected(table);
    users(table);
}

/// Selection by user and control group, which a process does not choose, unlike its name.
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
            // A group below that of the unit.
            let inner = group.join("inner");
            fs::create_dir_all(&inner).with_context(|| format!("create {}", inner.display()))?;
            let ends = [&Start::default(), &Start::in_group(&inner)];
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
            let family = format!("grpc_{}_handled_total", role.side());
            ensure!(metrics.count(&family, &labels) == 1, "{family}: not one with {labels:?}");
        }
        talk.finish()
    });
}

/// Makes a call, and expects that only the server's end is reported.
fn only_the_server(daemon: &Daemon, name: &str, ends: [&Start; 2]) -> Result<()> {
    let mut talk = Talk::begin_from(daemon, name, Address::V4(0), ends)?;
    talk.call(1, "Get", NOT_FOUND)?;
    reports_calls_of(&mut talk, Server, &[("Get", "NotFound", 1)], 1, 0)?;
    reports_calls_of(&mut talk, Client, &[], 0, 0)?;
    talk.end_peers()
}

/// The control group of a process: of version 2, or, without that, systemd's.
fn cgroup_of(pid: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).context("read the groups")?;
    let of = |start: &str| text.lines().find_map(|line| line.split_once(start));
    let v2 = of("0::").map(|(_, path)| path).filter(|path| *path != "/");
    let path = v2.or_else(|| of(":name=systemd:").map(|(_, path)| path)).unwrap_or("/");
    Ok(path.to_owned())
}

/// Waits until a process has these numbers of connections, by its name.
fn connections(talk: &mut Talk<'_>, role: Role, want: &[(&str, u32)]) -> Result<()> {
    let (name, pid) = (format!("grpc_{}_connections", role.side()), talk.pid(role)?);
    talk.daemon.wait_until(|metrics| {
        let labels = [("pid", &*pid)];
        let series = metrics.series_with(&name, &labels);
        let seen: Vec<_> = series.map(|(labels, n)| (label(labels, "process"), n)).collect();
        let want: Vec<_> = want.iter().map(|(name, n)| (*name, f64::from(*n))).collect();
        ensure!(seen == want, "connections {seen:?}, not {want:?}");
        Ok(())
    })
}

fn kept(table: &mut Table) {
    for role in [Server, Client] {
        let side = role.side();
        table.talk(format!("a {side} that renames itself"), move |talk| {
            talk.expected_call(1, "Before", OK)?;
            // A call that starts under the old name and ends under the new one is the old one's.
            talk.client(|f| f.request(3, "Begun").message(3, 5))?;
            talk.expect(Call::new("Begun", NOT_FOUND).unary(5, 6))?;
            connections(talk, role, &[("raw-peer", 1)])?;
            talk.peer(role)?.rename("renamed")?;
            talk.server(|f| f.response(3).message(3, 6).trailers(3, NOT_FOUND))?;
            talk.expected_call(5, "After", OK)?;
            connections(talk, role, &[("renamed", 1)])?;
            talk.peer(role)?.rename("raw-peer")?;
            talk.expected_call(7, "Before", OK)?;
            connections(talk, role, &[("raw-peer", 1)])
        });
        table.talk(format!("a {side}'s calls before execve, and after"), move |talk| {
            let program = named("raw-peer-again")?;
            talk.expected_call(1, "Before", OK)?;
            talk.client(|f| f.request(3, "Begun").message(3, 5))?;
            talk.expect(Call::new("Begun", NOT_FOUND).unary(5, 6))?;
            talk.peer(role)?.exec(program.path())?;
            talk.server(|f| f.response(3).message(3, 6).trailers(3, NOT_FOUND))?;
            talk.expected_call(5, "After", OK)?;
            connections(talk, role, &[("raw-peer-again", 1)])
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
                // A connection that is older than the name, too.
                talk.expected_call(5, "After", OK)?;
            }
            talk.reopen()?;
        }
        talk.compare()?;
        talk.finish_ended()
    });
}

/// Bounds on names, which a process chooses.
fn bounded(table: &mut Table) {
    // Without the first one, which counts too.
    const OWN: u32 = 15;
    table.watched("more names than a process may have", &[], |talk| {
        for n in 0..OWN + 10 {
            talk.peer(Server)?.rename(&format!("name-{n}"))?;
            end_one(talk, n)?;
            // Not so many per second that they are not reported.
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
            ensure!(seen == want && overflow >= 10.0, "{seen:?}, not {want:?}; {overflow}");
            Ok(())
        })
    });
    table.watched("names that change too fast to be told", &[], |talk| {
        const CALLS: u32 = 100;
        for n in 0..CALLS {
            for more in 0..20 {
                talk.peer(Server)?.rename(&format!("name-{n}-{more}"))?;
            }
            end_one(talk, n)?;
        }
        sleep(Duration::from_secs(1));
        talk.peer(Server)?.rename("last")?;
        end_one(talk, CALLS)?;
        let pid = talk.pid(Server)?;
        talk.daemon.wait_until(|metrics| {
            let seen = by_name(metrics, &pid);
            let of = |name: &str| seen.get(name).copied().unwrap_or_default();
            let right = seen.values().sum::<f64>() == f64::from(CALLS + 1)
                && seen.len() <= 17
                && of("other") > f64::from(CALLS / 2)
                && of("last") == 1.0;
            ensure!(right, "{seen:?}");
            Ok(())
        })
    });
}

/// Makes a call that fails.
fn end_one(talk: &mut Talk<'_>, number: u32) -> Result<()> {
    let stream = 2 * number + 1;
    talk.client(|f| f.request(stream, "Get").last_message(stream, 5))?;
    talk.server(|f| f.trailers_only(stream, NOT_FOUND))
}

/// The number of calls that a server has ended, by its name.
fn by_name(metrics: &Metrics, pid: &str) -> BTreeMap<String, f64> {
    let mut calls = BTreeMap::new();
    let labels = [("pid", pid)];
    let series = metrics.series_with("grpc_server_handled_total", &labels);
    for (labels, value) in series.filter(|(_, value)| *value > 0.0) {
        *calls.entry(label(labels, "process").to_owned()).or_insert(0.0) += value;
    }
    calls
}

/// `--comm`, and processes that take the name later.
fn selected(table: &mut Table) {
    let comm: &[&str] = &["--comm", "taken-later"];
    table.watched("--comm, and a name that is taken later", comm, |talk| {
        talk.call(1, "Before", NOT_FOUND)?;
        reports_calls_of(talk, Server, &[], 0, 0)?;
        talk.peer(Server)?.rename("taken-later")?;
        talk.reopen()?;
        talk.expected_call(1, "After", OK)?;
        reports_calls_of(talk, Server, &[("After", "OK", 1)], 1, 0)?;
        // It stays selected.
        talk.peer(Server)?.rename("left-again")?;
        talk.expected_call(3, "Left", OK)?;
        let pid = talk.pid(Server)?;
        let want = ["taken-later", "left-again"].map(|name| (name.to_owned(), 1.0)).into();
        talk.daemon.wait_until(|metrics| {
            let seen = by_name(metrics, &pid);
            ensure!(seen == want, "{seen:?}, not {want:?}");
            Ok(())
        })?;
        reports_calls_of(talk, Client, &[], 0, 0)
    });
    table.watched("--comm, and a connection that is older than the name", comm, |talk| {
        for stream in [1, 3] {
            talk.call(stream, "Get", NOT_FOUND)?;
        }
        talk.peer(Server)?.rename("taken-later")?;
        talk.expected_call(5, "New", OK)?;
        talk.expected_call(7, "New", OK)?;
        let pid = talk.pid(Server)?;
        talk.daemon.wait_until(|metrics| {
            for labels in [&[("pid", &*pid)][..], &[("pid", &pid), ("grpc_method", "New")]] {
                metrics.expect_sum("grpc_server_handled_total", labels, 2)?;
            }
            Ok(())
        })?;
        reports_calls_of(talk, Client, &[], 0, 0)
    });
    table.watched("--comm, and a name that another thread gives the process", comm, |talk| {
        talk.act(Server, Action::Thread)?;
        talk.act(Server, Action::Rename("taken-later".into()))?;
        talk.call(1, "Before", NOT_FOUND)?;
        reports_calls_of(talk, Server, &[], 0, 0)?;
        talk.peer(Server)?.rename_main("taken-later")?;
        talk.reopen()?;
        talk.expected_call(1, "After", OK)?;
        reports_calls_of(talk, Server, &[("After", "OK", 1)], 1, 0)
    });
}

//! Ids, names and programs, with a source that answers at once.

use std::{cell::Cell, sync::Arc};

use super::{
    Comm, Detail, Identity, Key, LookupCounts, Pod, PodAnswer, ProcessId, ProcessSource, Processes,
    Resource, Texts,
};

/// A source that names every process after its pid, and knows only those below 1000.
struct Numbered;

impl ProcessSource for Numbered {
    fn comm(&self, pid: u32) -> Option<Comm> {
        (pid < 1000).then(|| Comm::truncated(format!("proc-{pid}").as_bytes()))
    }

    fn began(&self, pid: u32) -> Option<u64> {
        let begun = BEGUN.get();
        begun.iter().rev().find(|(of, _)| *of == pid).map_or(Some(1), |(_, began)| *began)
    }

    fn identity(&self, pid: u32) -> Identity {
        running(format!("/bin/{pid}"))
    }

    fn now_ns(&self) -> u64 {
        NOW_NS.get()
    }
}

/// The identity of a process that runs this program.
fn running(exe: impl AsRef<[u8]>) -> Identity {
    Identity::new(&Key::default(), Texts { exe: Some(exe.as_ref()), ..Texts::default() })
}

thread_local! {
    /// Start times of processes other than 1; the later of two entries counts.
    static BEGUN: Cell<&'static [(u32, Option<u64>)]> = const { Cell::new(&[]) };

    /// The time when the source answers.
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
}

fn comm(name: &str) -> Comm {
    Comm::truncated(name.as_bytes())
}

fn name(processes: &Processes, id: ProcessId) -> String {
    let process = processes.process(id).unwrap();
    String::from_utf8(process.comm.as_bytes().to_vec()).unwrap()
}

/// Looks up all that is queued, and searches if that is requested.
fn look_up(processes: &mut Processes) {
    let lookup = processes.lookup(Numbered);
    lookup.answer();
    if lookup.is_search_requested() {
        lookup.search();
    }
    lookup.answer();
}

/// Makes the answer about the program that runs in the process.
fn set_program(processes: &mut Processes, id: ProcessId, identity: Identity) {
    let program = super::lookup::Program::answered(identity);
    processes.shared().ids.processes.get_mut(&id).unwrap().program = program;
}

#[test]
fn comm_ends_at_the_first_nul() {
    assert_eq!(Comm::new(*b"sh\0garbage\0\0\0\0\0\0"), comm("sh"));
    assert_eq!(Comm::new([b'x'; 16]).as_bytes(), [b'x'; 16]);
    assert_eq!(comm("").as_bytes(), b"");
    assert_eq!(comm("longer than the kernel keeps").as_bytes(), b"longer than the ");
    assert_eq!(format!("{:?}", Comm::truncated(b"\"\xff")), r#""\"\xff""#);
}

#[test]
fn one_process_is_one_id() {
    let mut processes = Processes::new(8);
    let id = processes.seen(7, 10, None).id;
    assert_eq!(processes.seen(7, 20, Some(comm("a-thread"))).id, id);
    assert_ne!(processes.seen(8, 20, None).id, id);
    assert_eq!(processes.len(), 2);
    look_up(&mut processes);
    assert_eq!(name(&processes, id), "proc-7");
}

#[test]
fn the_name_is_the_records_then_the_sources_then_empty() {
    let mut processes = Processes::new(8);
    let cases = [
        (1, Some(comm("given")), "given"),
        (2, None, "proc-2"),
        (3, Some(comm("")), "proc-3"),
        (1000, None, ""),
    ];
    for (pid, given, want) in cases {
        let id = processes.seen(pid, 1, given).id;
        look_up(&mut processes);
        assert_eq!(name(&processes, id), want, "pid {pid}");
    }
}

#[test]
fn a_pid_used_again_is_another_process() {
    let mut processes = Processes::new(8);
    let first = processes.seen(7, 10, None).id;
    look_up(&mut processes);
    processes.exited(7, 100);
    assert_eq!(processes.seen(7, 100, None).id, first, "read late, but from before the exit");
    let second = processes.seen(7, 101, Some(comm("again"))).id;
    assert_ne!(second, first);
    assert_eq!(name(&processes, first), "proc-7");
    assert_eq!(name(&processes, second), "again");

    // A second exit is the second process's, not the first's again.
    processes.exited(7, 200);
    assert_eq!(processes.process(first).unwrap().exited_ns, Some(100));
    assert_eq!(processes.process(second).unwrap().exited_ns, Some(200));
}

#[test]
fn a_late_report_of_an_exit_does_not_move_it() {
    let mut processes = Processes::new(8);
    let id = processes.seen(7, 10, Some(comm("given"))).id;
    processes.exited(7, 100);
    processes.exited(7, 900);
    processes.executed(7, 900, comm("new"));
    let process = processes.process(id).unwrap();
    assert_eq!((process.pid, process.comm), (7, comm("given")));
    assert_eq!(process.exited_ns, Some(100));
}

#[test]
fn rings_that_report_in_another_order_have_the_same_processes() {
    let mut one = Processes::new(8);
    let mut other = one.sharing();
    // The one ring has the exit of a process that only the other has seen, and the pid again.
    one.exited(7, 100);
    let second = one.seen(7, 110, Some(comm("second"))).id;
    one.exited(7, 200);
    let third = one.seen(7, 210, Some(comm("third"))).id;
    // The other ring is read later.
    let first = other.seen(7, 90, Some(comm("first"))).id;
    assert_eq!(other.seen(7, 95, None).id, first);
    other.exited(7, 100);
    assert_eq!(other.seen(7, 150, Some(comm("a-thread"))).id, second);
    other.exited(7, 200);
    assert_eq!((other.seen(7, 220, None).id, one.seen(7, 230, None).id), (third, third));
    assert_eq!([first, second, third].map(|id| name(&one, id)), ["first", "second", "third"]);
    let exits = [first, second, third].map(|id| other.process(id).unwrap().exited_ns);
    assert_eq!((exits, other.len()), ([Some(100), Some(200), None], 3));
}

#[test]
fn an_exit_that_only_another_ring_reported_is_known_when_it_is_asked_again() {
    let mut one = Processes::new(8);
    let mut other = one.sharing();
    let first = one.seen(7, 10, Some(comm("given"))).id;
    assert_eq!(other.seen(7, 20, Some(comm("a-thread"))).id, first);
    one.exited(7, 100);
    assert_eq!(other.seen(7, 99, None).id, first);
    other.ask_again();
    assert_eq!(other.seen(7, 100, None).id, first);
    assert_ne!(other.seen(7, 101, None).id, first);
}

#[test]
fn an_exit_that_was_not_reported_is_found() {
    let mut processes = Processes::new(8);
    let [stays, goes, is_replaced] = [1, 2, 3].map(|pid| processes.seen(pid, 10, None).id);
    NOW_NS.set(50);
    processes.find_unreported();
    look_up(&mut processes);
    processes.ask_again();
    assert_eq!(processes.expired(u64::MAX, 0), []);
    BEGUN.set(&[(2, None), (3, Some(40))]);
    NOW_NS.set(60);
    processes.find_unreported();
    look_up(&mut processes);
    processes.ask_again();
    assert_eq!(processes.expired(60, 0), [goes, is_replaced]);
    assert_eq!(processes.seen(1, 70, None).id, stays);
    assert_ne!(processes.seen(3, 70, None).id, is_replaced, "another process has the number");
    NOW_NS.set(80);
    processes.find_unreported();
    look_up(&mut processes);
    processes.ask_again();
    assert_eq!(processes.expired(80, 20), [goes, is_replaced], "the first finding stands");
}

#[test]
fn exec_makes_it_another_program_and_what_was_before_stays() {
    let mut processes = Processes::new(8);
    let shell = processes.seen(7, 10, Some(comm("sh"))).id;
    set_program(&mut processes, shell, running("/bin/sh"));
    processes.executed(7, 20, comm("orders"));
    processes.executed(8, 20, comm("orders"));
    let orders = processes.seen(7, 21, None).id;
    look_up(&mut processes);
    assert_ne!(orders, shell);
    assert_eq!((name(&processes, shell), name(&processes, orders)), ("sh".into(), "orders".into()));
    let exe = |id| processes.process(id).unwrap().identity.exe.to_vec();
    assert_eq!((exe(shell), exe(orders)), (b"/bin/sh".to_vec(), b"/bin/7".to_vec()));
    assert_eq!(processes.names().process(orders).comm, comm("orders"));
    // The connections of both belong to the process under its latest name.
    assert_eq!(processes.seen(7, 22, None).first, shell);
    assert_eq!(processes.names().now(shell).comm, comm("orders"));
    assert_eq!(processes.len(), 2);
    processes.exited(7, 30);
    assert_eq!(processes.expired(90, 60), [shell, orders], "with the process");
    processes.forget(shell);
    processes.forget(orders);
    assert_eq!(processes.len(), 0);
}

#[test]
fn a_new_name_counts_from_its_time_on_in_any_order_of_reports() {
    let mut one = Processes::new(8);
    let mut other = one.sharing();
    let a = one.seen(7, 10, Some(comm("a"))).id;
    assert_eq!(other.seen(7, 11, None).id, a);
    for _ in 0..2 {
        one.renamed(7, 20, Some(comm("b")));
    }
    let b = one.seen(7, 20, None).id;
    assert_ne!(b, a);
    assert_eq!(one.seen(7, 19, None).id, b, "known here: its ring is in order");
    one.ask_again();
    assert_eq!(one.seen(7, 19, None).id, a);
    assert_eq!(one.seen(7, 25, None).id, b);
    // The other ring has not come that far.
    assert_eq!(other.seen(7, 15, None).id, a);
    one.renamed(7, 30, Some(comm("a")));
    other.ask_again();
    assert_eq!(other.seen(7, 19, None).id, a);
    other.renamed(7, 20, Some(comm("b")));
    assert_eq!(other.seen(7, 29, None).id, b);
    other.renamed(7, 30, Some(comm("a")));
    assert_eq!([one.seen(7, 31, None).id, other.seen(7, 31, None).id], [a, a], "the name again");
    assert_eq!(one.len(), 2);
    // Another process has names of its own.
    one.exited(7, 40);
    assert_ne!(one.seen(7, 41, Some(comm("a"))).id, a);
}

#[test]
fn a_new_name_may_be_reported_before_the_process_is_seen() {
    let mut processes = Processes::new(8);
    processes.renamed(7, 20, Some(comm("new")));
    let new = processes.seen(7, 21, Some(comm("old"))).id;
    assert_eq!(name(&processes, new), "new");
    let old = processes.seen(7, 10, Some(comm("old"))).id;
    processes.ask_again();
    let old_again = processes.seen(7, 10, Some(comm("old"))).id;
    assert_eq!((old, name(&processes, old_again)), (new, "old".into()));
}

#[test]
fn names_are_bounded() {
    let mut processes = Processes::new(1000);
    let first = processes.seen(7, 0, Some(comm("first"))).id;
    for at in 1..=10_000 {
        processes.renamed(7, at, Some(comm(&at.to_string())));
    }
    assert_eq!(processes.len(), 1, "it did nothing under these names");
    let mut ids = Vec::new();
    for at in 10_001..11_000 {
        processes.renamed(7, at, Some(comm(&at.to_string())));
        ids.push(processes.seen(7, at, None).id);
    }
    ids.dedup();
    assert_eq!((ids.len(), processes.len()), (16, 17));
    assert_eq!(name(&processes, ids[15]), "other");
    let last = processes.seen(7, 11_000, None);
    assert_eq!((last.id, last.first, processes.process(last.id).unwrap().pid), (ids[15], first, 7));
    assert_eq!(processes.overflow(), 999 - 15);
    processes.renamed(7, 20_000, None);
    processes.renamed(7, 20_000, None);
    assert_eq!(processes.seen(7, 20_001, None).id, ids[15], "they change too often to be known");
    assert_eq!(processes.overflow(), 999 - 15 + 1);
    processes.renamed(7, 30_000, Some(comm("first")));
    assert_eq!(processes.seen(7, 30_001, None).id, first);
    processes.exited(7, 40_000);
    assert_eq!(processes.expired(40_000, 0).len(), 17);
}

#[test]
fn a_name_that_was_not_reported_is_found() {
    let mut processes = Processes::new(8);
    let id = processes.seen(7, 10, Some(comm("given"))).id;
    NOW_NS.set(20);
    processes.find_unreported();
    look_up(&mut processes);
    processes.ask_again();
    let now = processes.seen(7, 21, None).id;
    assert_eq!((name(&processes, id), name(&processes, now)), ("given".into(), "proc-7".into()));
}

#[test]
fn expires_after_the_time_to_live_and_keeps_its_name_until_forgotten() {
    let mut processes = Processes::new(8);
    let gone = processes.seen(7, 10, None).id;
    let alive = processes.seen(8, 10, None).id;
    processes.exited(7, 100);
    assert_eq!(processes.expired(159, 60), []);
    assert_eq!(processes.expired(50, 60), [], "a clock that is behind");
    assert_eq!(processes.expired(160, 60), [gone]);
    assert_eq!(processes.names().process(gone).pid, 7);

    let again = processes.seen(7, 170, None).id;
    processes.forget(gone);
    assert_eq!(processes.process(gone), None);
    assert_eq!(processes.names().process(gone).comm, comm("other"));
    assert_eq!(processes.seen(7, 180, None).id, again, "the pid's new process is still known");
    assert_eq!(processes.seen(8, 180, None).id, alive);
    assert_eq!(processes.expired(u64::MAX, 60), []);
}

#[test]
fn the_last_that_has_the_same_labels_is_the_heir() {
    let mut processes = Processes::new(8);
    let mut at = 0;
    let mut begin = |name| {
        at += 10;
        processes.exited(7, at - 5);
        processes.seen(7, at, Some(comm(name))).id
    };
    let [a, b, other, last] = ["a", "a", "b", "a"].map(&mut begin);
    let neighbour = processes.seen(8, 100, Some(comm("a"))).id;
    let all = vec![a, b, other, last, neighbour];
    let want = [(a, Some(last)), (b, Some(last)), (other, None), (last, None)];
    assert_eq!(processes.successors(all.clone(), &[])[..4], want);
    assert_eq!(processes.successors(vec![neighbour], &[]), [(neighbour, None)]);
    assert_eq!(processes.successors(all.clone(), &[Detail::Exe])[..4], want, "the same file");

    // With a label that differs they are two.
    set_program(&mut processes, last, running("/bin/new"));
    assert_eq!(processes.successors(vec![a], &[Detail::Exe]), [(a, Some(b))]);
    assert_eq!(processes.successors(vec![a], &[Detail::CmdlineHash]), [(a, Some(last))]);
    processes.forget(last);
    assert_eq!(processes.successors(vec![a, b], &[]), [(a, Some(b)), (b, None)]);
}

#[test]
fn beyond_the_bound_all_are_other() {
    let mut processes = Processes::new(2);
    let first = processes.seen(1, 1, None).id;
    processes.seen(2, 1, None);
    assert_eq!(processes.seen(3, 1, None).id, ProcessId::OTHER);
    assert_eq!(processes.seen(4, 1, None).id, ProcessId::OTHER);
    assert_eq!(processes.seen(1, 2, None).id, first);
    assert_eq!((processes.len(), processes.overflow()), (2, 2));
    assert_eq!(name(&processes, ProcessId::OTHER), "other");

    processes.exited(1, 3);
    processes.forget(first);
    assert_ne!(processes.seen(3, 4, None).id, ProcessId::OTHER);
}

/// The program that the process ran under this id.
fn exe(processes: &Processes, id: ProcessId) -> String {
    String::from_utf8(processes.process(id).unwrap().identity.exe.to_vec()).unwrap()
}

#[test]
fn answers_after_the_end_of_a_program_do_not_count() {
    let mut processes = Processes::new(8);
    let [goes, executes, stays] = [1, 2, 3].map(|pid| processes.seen(pid, 10, Some(comm("x"))).id);
    NOW_NS.set(50);
    look_up(&mut processes);
    // Read before the source was asked, but for the last.
    processes.exited(1, 40);
    processes.executed(2, 40, comm("y"));
    processes.exited(3, 60);
    assert_eq!([goes, executes, stays].map(|id| exe(&processes, id)), ["", "", "/bin/3"]);
    let executed = processes.seen(2, 55, None).id;
    look_up(&mut processes);
    assert_eq!(exe(&processes, executed), "/bin/2");
    // Those that are over are not asked about.
    let id = processes.seen(4, 10, Some(comm("x"))).id;
    processes.exited(4, 20);
    look_up(&mut processes);
    assert_eq!(exe(&processes, id), "");
    assert_eq!(processes.lookups(), LookupCounts { answered: 4, gone: 1, late: 0 });
}

#[test]
fn a_process_is_asked_about_once_however_often_it_executes() {
    let mut processes = Processes::new(8);
    processes.seen(7, 10, Some(comm("x")));
    for at in 11..1000 {
        processes.executed(7, at, comm("x"));
    }
    NOW_NS.set(1000);
    look_up(&mut processes);
    let last = processes.seen(7, 1000, None).id;
    assert_eq!(exe(&processes, last), "/bin/7");
    assert_eq!(processes.lookups(), LookupCounts { answered: 1, gone: 989, late: 0 });
}

#[test]
fn a_name_is_not_that_of_earlier_calls() {
    let mut processes = Processes::new(8);
    processes.renamed(7, 20, Some(comm("proc-7")));
    NOW_NS.set(30);
    look_up(&mut processes);
    let early = processes.seen(7, 10, None).id;
    assert_eq!((name(&processes, early), &*exe(&processes, early)), (String::new(), "/bin/7"));
}

#[test]
fn stopped_nothing_new_is_known() {
    let mut processes = Processes::new(8);
    let known = processes.seen(1, 1, None).id;
    processes.stop(true);
    assert_eq!(processes.seen(2, 1, None).id, ProcessId::OTHER);
    assert_eq!((processes.seen(1, 2, None).id, processes.overflow()), (known, 1));
    processes.stop(false);
    assert_ne!(processes.seen(2, 1, None).id, ProcessId::OTHER);
}

/// The ids of processes with these pids, of the service `/bin/7` if the pid is below 10. They begin when they are
/// looked up, at `NOW_NS`.
fn of_services<const N: usize>(processes: &mut Processes, pids: [u32; N]) -> [ProcessId; N] {
    struct Shop;

    impl ProcessSource for Shop {
        fn comm(&self, pid: u32) -> Option<Comm> {
            Numbered.comm(pid)
        }

        fn began(&self, _: u32) -> Option<u64> {
            Some(1)
        }

        fn identity(&self, pid: u32) -> Identity {
            running(if pid < 10 { "/bin/7".to_owned() } else { format!("/bin/{pid}") })
        }

        fn now_ns(&self) -> u64 {
            NOW_NS.get()
        }
    }

    let now = NOW_NS.get();
    let ids = pids.map(|pid| processes.seen(pid, now, Some(comm("x"))).id);
    processes.lookup(Shop).answer();
    ids
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_service_is_settled_once_no_report_can_change_it() {
    let mut processes = Processes::new(8);
    NOW_NS.set(50);
    let [runs, executes, gone] = of_services(&mut processes, [1, 2, 3]);
    let has_service = |processes: &Processes| {
        [runs, executes, gone].map(|id| processes.process(id).unwrap().has_service)
    };
    processes.settle_services(49, false);
    assert_eq!(has_service(&processes), [false; 3]);
    // Reported late: the answer was about another program, or another process.
    processes.executed(2, 40, comm("y"));
    processes.exited(3, 40);
    processes.settle_services(50, false);
    assert_eq!(has_service(&processes), [true; 3]);
    let name = |processes: &Processes, id| processes.process(id).unwrap().service.name;
    assert_eq!(
        [runs, executes, gone].map(|id| name(&processes, id)),
        ["7".into(), "".into(), "".into()]
    );
    // A later report changes nothing.
    processes.exited(1, 45);
    assert_eq!(
        (&*name(&processes, runs), &*processes.names().process(runs).service.name),
        ("7", "7")
    );
}

#[test]
fn a_service_waits_for_its_pod() {
    let mut processes = Processes::new(8);
    let [a, b] = [1, 2].map(|pid| processes.seen(pid, 10, Some(comm("x"))).id);
    let uid = "8c1f2a3b-4d5e-6f70-8192-a3b4c5d6e7f8";
    let text = format!("0::/kubepods/pod{uid}/x\n");
    let in_pod =
        Identity::new(&Key::default(), Texts { cgroup: Some(text.as_bytes()), ..Texts::default() });
    for id in [a, b] {
        set_program(&mut processes, id, in_pod.clone());
    }
    let service = |processes: &Processes, id| {
        let process = processes.process(id).unwrap();
        (process.has_service, String::from(process.service.name))
    };
    processes.settle_services(100, true);
    processes.names().set_pods(|_| PodAnswer::Pending);
    processes.settle_services(299 * SECOND, true);
    assert_eq!(service(&processes, a), (false, String::new()));
    let resource = Resource { name: "shop".into(), ..Resource::default() };
    let pod = Arc::new(Pod { service: resource, ..Pod::default() });
    processes.names().set_pods(|asked| {
        assert_eq!(asked, uid);
        PodAnswer::Known(Arc::clone(&pod))
    });
    processes.settle_services(299 * SECOND, true);
    assert_eq!(service(&processes, a), (true, "shop".into()));

    // Without an answer it does not wait for ever; nor for a pod that Kubernetes does not have.
    for unknown in [false, true] {
        let c = processes.seen(3 + u32::from(unknown), 10, Some(comm("x"))).id;
        set_program(&mut processes, c, in_pod.clone());
        if unknown {
            processes.names().set_pods(|_| PodAnswer::Unknown);
        }
        let read_ns = if unknown { 100 } else { 300 * SECOND };
        processes.settle_services(read_ns, true);
        assert_eq!(service(&processes, c), (true, String::new()));
    }
}

#[test]
fn a_process_leaves_its_figures_to_the_last_of_its_service() {
    let mut processes = Processes::new(16);
    NOW_NS.set(10);
    let [a, b, c, other] = of_services(&mut processes, [1, 2, 3, 20]);
    processes.settle_services(10, false);
    NOW_NS.set(11);
    let [late] = of_services(&mut processes, [4]);
    let expired = |processes: &Processes, at: u64| {
        processes.expired_of_services(at * SECOND, 60 * SECOND, &[])
    };
    assert_eq!(expired(&processes, 1000), [], "all run");
    processes.exited(1, SECOND);
    processes.exited(20, SECOND);
    assert_eq!(expired(&processes, 10), [], "records may come late");
    // The greatest id of those that run.
    assert_eq!(expired(&processes, 11), [(a, Some(c))]);
    processes.exited(3, 2 * SECOND);
    assert_eq!(expired(&processes, 12), [(a, Some(b)), (c, Some(b))]);
    processes.exited(2, 3 * SECOND);
    assert_eq!(expired(&processes, 62), [(a, Some(b)), (c, Some(b)), (other, None)]);
    let all = [(a, None), (b, None), (c, None), (other, None)];
    assert_eq!(expired(&processes, 63), all, "the service has ended");
    // Another process of it goes on.
    processes.settle_services(11, false);
    let on = [(a, Some(late)), (b, Some(late)), (c, Some(late)), (other, None)];
    assert_eq!(expired(&processes, 63), on);
    let unsettled = processes.seen(1000, 11, Some(comm("x"))).id;
    processes.exited(1000, SECOND);
    assert!(!expired(&processes, 300).iter().any(|(id, _)| *id == unsettled));
    assert!(expired(&processes, 301).contains(&(unsettled, None)), "it was never published");
}

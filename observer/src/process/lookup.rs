//! The thread that looks processes up.

use std::{
    sync::mpsc::RecvTimeoutError,
    thread,
    time::{Duration, Instant},
};

use observer_core::process::{Lookup, ProcessNames, ProcessSource};

/// Searches take at most 1/`SEARCH_PART` of one CPU's time.
const SEARCH_PART: u32 = 20;

/// Looks processes up until their tables are dropped.
pub fn run<S: ProcessSource>(lookup: &Lookup<S>) {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut search_at = Instant::now();
    loop {
        lookup.answer();
        let is_requested = lookup.is_search_requested();
        if is_requested && Instant::now() >= search_at {
            search_at = search(lookup);
            continue;
        }
        let Some(wakeups) = &lookup.wakeups else { return };
        let woken = if is_requested {
            wakeups.recv_timeout(PAUSE)
        } else {
            wakeups.recv().map_err(Into::into)
        };
        if woken == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// Searches for processes with unreported exits or names. Returns when the next search may start.
fn search<S: ProcessSource>(lookup: &Lookup<S>) -> Instant {
    let begin = Instant::now();
    lookup.search();
    Instant::now() + begin.elapsed() * SEARCH_PART
}

/// Waits until all processes are looked up, at most `patience`. Returns the number of those that are still pending.
pub fn settle(processes: &ProcessNames, patience: Duration) -> usize {
    const PAUSE: Duration = Duration::from_millis(2);
    let deadline = Instant::now() + patience;
    loop {
        let left = processes.pending();
        if left == 0 || Instant::now() >= deadline {
            return left;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use observer_core::process::{Comm, Identity, Processes};

    /// A source that takes a while to return when a process began.
    struct Slow;

    impl Slow {
        const PAUSE: Duration = Duration::from_millis(2);
    }

    impl ProcessSource for Slow {
        fn comm(&self, _: u32) -> Option<Comm> {
            Some(Comm::truncated(b"slow"))
        }

        fn began(&self, _: u32) -> Option<u64> {
            thread::sleep(Self::PAUSE);
            Some(1)
        }

        fn identity(&self, pid: u32) -> Identity {
            Identity { uid: pid.to_string().into(), ..Identity::default() }
        }

        fn now_ns(&self) -> u64 {
            0
        }
    }

    #[test]
    fn searches_take_a_twentieth_of_the_time() {
        const PROCESSES: u32 = 5;
        let mut processes = Processes::new(8);
        for pid in 1..=PROCESSES {
            processes.seen(pid, 10, None);
        }
        processes.find_unreported();
        let lookup = processes.lookup(Slow);
        lookup.answer();
        let begin = Instant::now();
        assert!(search(&lookup) >= begin + 20 * PROCESSES * Slow::PAUSE);
    }

    #[test]
    fn names_wait_for_lookups() {
        let mut processes = Processes::new(8);
        let id = processes.seen(7, 10, Some(Comm::truncated(b"x"))).id;
        let names = processes.names();
        assert_eq!(settle(&names, Duration::from_millis(1)), 1);
        let lookup = processes.lookup(Slow);
        let thread = thread::spawn(move || run(&lookup));
        assert_eq!(settle(&names, Duration::from_secs(10)), 0);
        assert_eq!(&*names.process(id).identity.uid, "7");
        // It ends with the table.
        drop(processes);
        thread.join().unwrap();
    }
}

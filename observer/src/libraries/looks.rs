//! When processes that use TLS are looked at: at once, and then less and less often, because most have nothing new.

#![forbid(unsafe_code)]

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

/// The time between the first two looks at a process. It doubles with each look that finds nothing.
const SHORTEST: Duration = Duration::from_millis(500);

/// The longest time between two looks.
const LONGEST: Duration = Duration::from_secs(30);

/// The looks at processes.
#[derive(Default)]
pub(super) struct Looks {
    known: HashMap<u32, Look>,
}

struct Look {
    /// When the process may be looked at again.
    next: Instant,
    pause: Duration,
    /// Whether it is to be looked at then.
    is_due: bool,
}

impl Look {
    fn happens(&mut self, now: Instant) {
        self.next = now + self.pause;
        self.pause = (2 * self.pause).min(LONGEST);
        self.is_due = false;
    }
}

impl Looks {
    /// Handles that a process uses TLS. Returns whether to look at it now; if not, it is [due](Self::due) later.
    pub(super) fn wanted(&mut self, pid: u32, now: Instant) -> bool {
        let new = || Look { next: now, pause: SHORTEST, is_due: false };
        let look = self.known.entry(pid).or_insert_with(new);
        let is_now = look.next <= now;
        if is_now {
            look.happens(now);
        } else {
            look.is_due = true;
        }
        is_now
    }

    /// The processes to look at now. O(processes).
    pub(super) fn due(&mut self, now: Instant) -> Vec<u32> {
        let due = self.known.iter_mut().filter(|(_, look)| look.is_due && look.next <= now);
        due.map(|(pid, look)| {
            look.happens(now);
            *pid
        })
        .collect()
    }

    /// Handles that a file of the process was new: there may soon be more.
    pub(super) fn found(&mut self, pid: u32) {
        if let Some(look) = self.known.get_mut(&pid) {
            look.pause = SHORTEST;
        }
    }

    /// Forgets processes that have exited.
    pub(super) fn keep(&mut self, present: &HashSet<u32>) {
        self.known.retain(|pid, _| present.contains(pid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rare_while_there_is_nothing_new() {
        let start = Instant::now();
        let mut looks = Looks::default();
        let mut count = 0;
        // It makes a connection each 100 ms for ten minutes.
        for tenth in 0..6000 {
            let now = start + Duration::from_millis(100 * tenth);
            count += looks.due(now).len() + usize::from(looks.wanted(7, now));
        }
        assert!((20..30).contains(&count), "{count}");
    }

    #[test]
    fn a_look_that_was_too_early_is_made_up_for() {
        let start = Instant::now();
        let mut looks = Looks::default();
        assert!(looks.wanted(7, start));
        assert!(!looks.wanted(7, start + SHORTEST / 2));
        assert!(looks.due(start + SHORTEST / 2).is_empty());
        assert_eq!(looks.due(start + SHORTEST), [7]);
        assert!(looks.due(start + LONGEST).is_empty(), "once");
    }

    #[test]
    fn what_was_new_makes_the_next_look_early() {
        let start = Instant::now();
        let mut looks = Looks::default();
        let mut now = start;
        for _ in 0..10 {
            assert!(looks.wanted(7, now));
            now += LONGEST;
        }
        looks.found(7);
        assert!(looks.wanted(7, now));
        assert!(looks.wanted(7, now + SHORTEST));
    }

    #[test]
    fn processes_that_have_exited_are_forgotten() {
        let mut looks = Looks::default();
        looks.wanted(7, Instant::now());
        looks.wanted(8, Instant::now());
        looks.keep(&[8].into());
        assert_eq!(looks.known.keys().collect::<Vec<_>>(), [&8]);
    }
}

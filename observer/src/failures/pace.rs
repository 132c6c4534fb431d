//! A rate limit.

const SECOND_NS: u64 = 1_000_000_000;

/// A limit on a number per second, on average. The largest burst has the same number.
#[derive(Debug)]
pub(super) struct Pace {
    /// The time that one takes.
    each_ns: u64,
    /// The time that is saved up, at most a second.
    left_ns: u64,
    now_ns: u64,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Self {
        Self { each_ns: SECOND_NS / u64::from(per_second.max(1)), left_ns: SECOND_NS, now_ns: 0 }
    }

    /// Whether one more is allowed at this time. Times need not ascend.
    pub(super) fn admits(&mut self, time_ns: u64) -> bool {
        let passed = time_ns.saturating_sub(self.now_ns);
        self.now_ns = self.now_ns.max(time_ns);
        self.left_ns = self.left_ns.saturating_add(passed).min(SECOND_NS);
        let Some(left) = self.left_ns.checked_sub(self.each_ns) else { return false };
        self.left_ns = left;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_so_many_a_second() {
        let mut pace = Pace::new(10);
        let admitted = |pace: &mut Pace, at_ns| (0..100).filter(|_| pace.admits(at_ns)).count();
        assert_eq!(admitted(&mut pace, 5 * SECOND_NS), 10);
        assert_eq!(admitted(&mut pace, 5 * SECOND_NS + SECOND_NS / 2), 5);
        assert_eq!(admitted(&mut pace, 4 * SECOND_NS), 0, "a record that was read late");
        assert_eq!(admitted(&mut pace, 100 * SECOND_NS), 10);
    }
}

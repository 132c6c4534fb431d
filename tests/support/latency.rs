//! The comparison of handling times by the handlers' own clocks and by the daemon.

/// Calls whose handlers sleep.
#[derive(Clone, Copy, Debug)]
pub struct Sleep {
    /// The time that each handler sleeps.
    pub millis: u32,
    /// The number of calls.
    pub calls: usize,
}

/// The handling times of the calls of one [`Sleep`], in milliseconds, by both clocks.
#[derive(Debug)]
pub struct Measured {
    /// The calls.
    pub sleep: Sleep,
    /// The times by the handlers' clocks, ascending.
    pub peer: Vec<f64>,
    /// The daemon's histogram: upper bounds, and the number of calls up to each.
    pub daemon: Vec<(f64, f64)>,
}

impl Measured {
    /// Whether the medians are within 1 ms or 5 %.
    pub fn agrees(&self) -> bool {
        let (peer, daemon) = (self.peer_quantile(0.5), self.daemon_quantile(0.5));
        (peer - daemon).abs() <= f64::max(1.0, peer * 0.05)
    }

    /// Whether the medians differ by no more than a busy machine adds: at most 4 ms more, or 1 ms less.
    ///
    /// A handler does not see that it waited for a CPU before it started or after it ended. Half or double the time
    /// is far from this.
    pub fn roughly_agrees(&self) -> bool {
        let more = self.daemon_quantile(0.5) - self.peer_quantile(0.5);
        (-1.0..=4.0).contains(&more)
    }

    fn peer_quantile(&self, part: f64) -> f64 {
        let index = (part * (self.peer.len() - 1) as f64).round() as usize;
        self.peer.get(index).copied().unwrap_or(f64::NAN)
    }

    /// A quantile as Prometheus estimates it: as if a bucket's calls were spread evenly over it.
    fn daemon_quantile(&self, part: f64) -> f64 {
        let total = self.daemon.last().map_or(0.0, |(_, count)| *count);
        let rank = part * total;
        let (mut low, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.daemon {
            if count >= rank && count > below {
                return low + (bound - low) * (rank - below) / (count - below);
            }
            (low, below) = (bound, count);
        }
        f64::NAN
    }

    /// Quantiles by both clocks, as one line.
    pub fn said(&self) -> String {
        let of = |quantile: &dyn Fn(f64) -> f64| {
            [0.1, 0.5, 0.9].map(|part| format!("{:8.2}", quantile(part))).concat()
        };
        format!(
            "\n  sleep {:3}: p10, p50, p90 by the handlers' clocks{}, by the daemon's{}",
            self.sleep.millis,
            of(&|part| self.peer_quantile(part)),
            of(&|part| self.daemon_quantile(part))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Measured, Sleep};

    fn measured(peer: f64, bound: f64) -> Measured {
        let daemon = vec![(bound - 0.5, 0.0), (bound + 0.5, 10.0), (f64::INFINITY, 10.0)];
        Measured { sleep: Sleep { millis: 1, calls: 10 }, peer: vec![peer; 10], daemon }
    }

    #[test]
    fn medians_are_compared() {
        for (peer, daemon, agree) in [
            (1.0, 1.9, true),
            (1.0, 2.1, false),
            (10.0, 11.1, false),
            (100.0, 104.9, true),
            (100.0, 94.0, false),
        ] {
            assert_eq!(measured(peer, daemon).agrees(), agree, "{peer} {daemon}");
        }
    }

    #[test]
    fn a_busy_machine_does_not_double_times() {
        for (peer, daemon, agree) in
            [(1.0, 4.5, true), (10.0, 13.0, true), (10.0, 20.0, false), (100.0, 50.0, false)]
        {
            assert_eq!(measured(peer, daemon).roughly_agrees(), agree, "{peer} {daemon}");
        }
    }

    #[test]
    fn a_daemon_that_saw_nothing_does_not_agree() {
        let nothing = Measured { daemon: Vec::new(), ..measured(1.0, 1.0) };
        assert!(!nothing.agrees());
    }
}

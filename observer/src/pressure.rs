//! Whether runnable threads had to wait for a CPU, as the kernel reports it.

use std::{fs::File, os::unix::fs::FileExt as _};

/// The kernel's file, since Linux 4.20; absent if it is switched off (`psi=0` on the kernel's command line).
const PATH: &str = "/proc/pressure/cpu";

/// CPUs count as short if a thread had to wait for more than 1/`SHORT` of the time.
const SHORT: u64 = 10;

/// The shortest interval between two samples: the kernel adds up in steps of its own.
const INTERVAL_NS: u64 = 20_000_000;

/// The time that threads have waited for a CPU.
#[derive(Debug)]
pub struct Pressure {
    /// Kept open: the daemon may not open the path later.
    file: Option<File>,
    last: Option<Sample>,
    stall_free_since_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    at_ns: u64,
    /// The time in which at least one thread has waited for a CPU, since boot.
    waited_us: u64,
}

impl Pressure {
    /// Opens the kernel's file. Nothing is known before the second sample.
    pub fn open() -> Self {
        Self { file: File::open(PATH).ok(), last: None, stall_free_since_ns: u64::MAX }
    }

    /// The time since when runnable threads have not had to wait, in nanoseconds of the monotonic clock; `u64::MAX` if it
    /// is not known.
    pub fn stall_free_since(&mut self, now_ns: u64) -> u64 {
        if self.last.is_none_or(|last| now_ns.saturating_sub(last.at_ns) >= INTERVAL_NS) {
            let waited_us = self.file.as_ref().and_then(waited_us);
            self.add(waited_us.map(|waited_us| Sample { at_ns: now_ns, waited_us }));
        }
        self.stall_free_since_ns
    }

    fn add(&mut self, sample: Option<Sample>) {
        let was_short = match (self.last, sample) {
            (Some(last), Some(sample)) => {
                let waited_us = sample.waited_us.saturating_sub(last.waited_us);
                waited_us * 1_000 > sample.at_ns.saturating_sub(last.at_ns) / SHORT
            }
            _ => true,
        };
        if was_short {
            self.stall_free_since_ns = sample.map_or(u64::MAX, |sample| sample.at_ns);
        }
        self.last = sample;
    }
}

fn waited_us(file: &File) -> Option<u64> {
    let mut text = [0; 256];
    let length = file.read_at(&mut text, 0).ok()?;
    parse(text.get(..length)?)
}

/// Parses the total of `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345` (Documentation/accounting/psi.rst).
fn parse(text: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(text).ok()?.lines().find(|line| line.starts_with("some "))?;
    line.split(' ').find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Pressure, Sample, parse};

    const MS: u64 = 1_000_000;

    fn since(samples: &[Option<(u64, u64)>]) -> u64 {
        let mut pressure = Pressure { file: None, last: None, stall_free_since_ns: u64::MAX };
        for sample in samples {
            let sample = sample.map(|(ms, waited_us)| Sample { at_ns: ms * MS, waited_us });
            pressure.add(sample);
        }
        pressure.stall_free_since_ns
    }

    #[test]
    fn a_tenth_of_the_time_is_short() {
        assert_eq!(since(&[]), u64::MAX);
        assert_eq!(since(&[Some((100, 5))]), 100 * MS, "the time before is not known");
        assert_eq!(since(&[Some((100, 5)), Some((200, 10_005))]), 100 * MS);
        assert_eq!(since(&[Some((100, 5)), Some((200, 10_006))]), 200 * MS);
        assert_eq!(since(&[Some((100, 5)), Some((200, 90_005)), Some((300, 90_005))]), 200 * MS);
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        assert_eq!(since(&[Some((100, 5)), None]), u64::MAX);
        assert_eq!(since(&[None, Some((100, 5))]), 100 * MS);
        let text =
            b"some avg10=0.00 avg60=0.00 avg300=0.12 total=4974842787\nfull avg10=0.00 total=7\n";
        assert_eq!(parse(text), Some(4_974_842_787));
        for text in [&b""[..], b"full avg10=0 total=1", b"some avg10=0", b"some total=x", b"\xff"] {
            assert_eq!(parse(text), None);
        }
    }
}

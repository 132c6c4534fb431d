//! The figures of the daemon's own process, from `/proc`.

use procfs::{
    ProcResult,
    process::{LimitValue, Process},
};

/// The standard figures of a process; `None` for those that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnProcess {
    /// User and system CPU time.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_memory_bytes: Option<u64>,
    /// Virtual memory.
    pub virtual_memory_bytes: Option<u64>,
    /// Number of open file descriptors.
    pub open_fds: Option<u64>,
    /// Maximum number of open file descriptors; `None` if there is no limit.
    pub max_fds: Option<u64>,
    /// Start time since the Unix epoch.
    pub start_time_seconds: Option<f64>,
    /// Number of threads.
    pub threads: Option<u64>,
}

impl OwnProcess {
    /// Reads the figures of this process from `/proc`.
    pub fn read() -> Self {
        let mut own = Self::default();
        // Without /proc there are no figures, and a scrape is not the place to report that.
        if let Ok(process) = Process::myself() {
            let _ = own.read_stat(&process);
            own.open_fds = process.fd_count().ok().map(|count| count as u64);
            own.max_fds = match process.limits().map(|limits| limits.max_open_files.soft_limit) {
                Ok(LimitValue::Value(value)) => Some(value),
                Ok(LimitValue::Unlimited) | Err(_) => None,
            };
        }
        own
    }

    fn read_stat(&mut self, process: &Process) -> ProcResult<()> {
        let stat = process.stat()?;
        let ticks = procfs::ticks_per_second() as f64;
        self.cpu_seconds = Some((stat.utime + stat.stime) as f64 / ticks);
        self.resident_memory_bytes = Some(stat.rss * procfs::page_size());
        self.virtual_memory_bytes = Some(stat.vsize);
        self.threads = u64::try_from(stat.num_threads).ok();
        let boot_time = procfs::boot_time_secs()? as f64;
        self.start_time_seconds = Some(boot_time + stat.starttime as f64 / ticks);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::OwnProcess;

    #[test]
    fn reads_its_own_figures() {
        let own = OwnProcess::read();
        assert!(own.cpu_seconds.is_some());
        // Bytes, not pages: a test binary with its runtime takes more than 256 kB.
        let resident = own.resident_memory_bytes.unwrap();
        assert!(resident > 256 << 10, "{resident}");
        assert!(own.virtual_memory_bytes.unwrap() >= resident);
        assert!(own.open_fds.unwrap() >= 3);
        assert!(own.threads.unwrap() >= 1);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let start = own.start_time_seconds.unwrap();
        // Since the epoch, not since boot. The kernel's boot time is in whole seconds.
        assert!((1e9..now + 2.0).contains(&start), "{start}");
    }
}

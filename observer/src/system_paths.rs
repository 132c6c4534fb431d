//! Where the kernel says how it is set up: tests look elsewhere.

use std::path::PathBuf;

/// Where the kernel says how it is set up.
#[derive(Debug, Clone)]
pub struct SystemPaths {
    /// The `proc` file system.
    pub proc: PathBuf,
    /// Where the `tracefs` file system may be mounted, in the order in which aya looks for it.
    pub tracefs: Vec<PathBuf>,
    /// The state of kernel lockdown; absent from kernels without it.
    pub lockdown: PathBuf,
    /// The modes of preemption and the present one; only root finds it, where debugfs is mounted.
    pub sched_preempt: PathBuf,
}

impl Default for SystemPaths {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            tracefs: vec!["/sys/kernel/tracing".into(), "/sys/kernel/debug/tracing".into()],
            lockdown: "/sys/kernel/security/lockdown".into(),
            sched_preempt: "/sys/kernel/debug/sched/preempt".into(),
        }
    }
}

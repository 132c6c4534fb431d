//! Paths where the kernel describes its configuration. Tests use others.

use std::path::PathBuf;

/// Paths where the kernel describes its configuration.
#[derive(Debug, Clone)]
pub struct SystemPaths {
    /// The `proc` file system.
    pub proc: PathBuf,
    /// Mount points of the `tracefs` file system, in the order in which aya tries them.
    pub tracefs: Vec<PathBuf>,
    /// The state of kernel lockdown; absent on kernels without it.
    pub lockdown: PathBuf,
    /// The modes of preemption and the present one; only root can read it, if debugfs is mounted.
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

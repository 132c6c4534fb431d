//! The kernels and backends that there are.

/// A kernel, by the Debian suite that has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    /// As `--kernel` names it.
    pub(super) name: &'static str,
    pub(super) suite: &'static str,
    /// Its packages are called `linux-image-<this>…`.
    pub(super) version: &'static str,
    /// `-rt`, as their names end before the architecture, or nothing.
    pub(super) flavour: &'static str,
    /// What can be had on it.
    pub(super) backends: &'static [&'static str],
    /// Of these it skips programs now and then, as it preempts them: that nothing is told that is not true
    /// is all that can be asked.
    pub(super) lossy: &'static [&'static str],
    /// The only case that is meant for it.
    pub(super) only: Option<&'static str>,
}

pub(crate) const BACKENDS: &[&str] = &["socket", "fentry", "kprobe", "tracepoint"];

/// Those of kernels without the tracepoints of sockets.
const BEFORE_6_3: &[&str] = &["fentry", "kprobe", "tracepoint"];

pub(super) const KERNELS: &[Kernel] = &[
    // Below the floor: which backend makes no difference.
    Kernel {
        name: "5.10",
        suite: "bullseye",
        version: "5.10.",
        flavour: "",
        backends: &["kprobe"],
        lossy: &[],
        only: Some("refuses a kernel before 5.17, with the reason"),
    },
    Kernel {
        name: "6.1",
        suite: "bookworm",
        version: "6.1.",
        flavour: "",
        backends: BEFORE_6_3,
        lossy: &[],
        only: None,
    },
    Kernel {
        name: "6.12",
        suite: "trixie",
        version: "6.12.",
        flavour: "",
        backends: BACKENDS,
        lossy: &[],
        only: None,
    },
    // Every lock and interrupt of it can be preempted.
    Kernel {
        name: "6.12-rt",
        suite: "trixie",
        version: "6.12.",
        flavour: "-rt",
        backends: &["socket"],
        lossy: &[],
        only: None,
    },
    Kernel {
        name: "7.2",
        suite: "sid",
        // Whatever that suite has by now.
        version: "7.",
        flavour: "",
        backends: BACKENDS,
        lossy: &["socket", "fentry", "tracepoint"],
        only: None,
    },
];

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

/// One without anything special.
const PLAIN: Kernel = Kernel {
    name: "6.12",
    suite: "trixie",
    version: "6.12.",
    flavour: "",
    backends: BACKENDS,
    lossy: &[],
    only: None,
};

pub(super) const KERNELS: &[Kernel] = &[
    // Below the floor: which backend makes no difference.
    Kernel {
        name: "5.10",
        suite: "bullseye",
        version: "5.10.",
        backends: &["kprobe"],
        only: Some("refuses a kernel before 5.17, with the reason"),
        ..PLAIN
    },
    Kernel { name: "6.1", suite: "bookworm", version: "6.1.", backends: BEFORE_6_3, ..PLAIN },
    PLAIN,
    // Every lock and interrupt of it can be preempted.
    Kernel { name: "6.12-rt", flavour: "-rt", backends: &["socket"], ..PLAIN },
    Kernel {
        name: "7.2",
        suite: "sid",
        // Whatever that suite has by now.
        version: "7.",
        lossy: &["socket", "fentry", "tracepoint"],
        ..PLAIN
    },
];

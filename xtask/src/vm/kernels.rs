//! The kernels and backends of the matrix.

/// A kernel of a Debian suite.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    /// The name for `--kernel`.
    pub(super) name: &'static str,
    pub(super) suite: &'static str,
    /// Its packages have the names `linux-image-<this>…`.
    pub(super) version: &'static str,
    /// The end of these names before the architecture: `-rt`, or nothing.
    pub(super) flavour: &'static str,
    /// The backends that it allows.
    pub(super) backends: &'static [&'static str],
    /// Backends whose programs it may skip, because it preempts them. With these the numbers must be right, but not
    /// complete.
    pub(super) lossy: &'static [&'static str],
    /// The only case for this kernel, if there is one.
    pub(super) only: Option<&'static str>,
}

pub(crate) const BACKENDS: &[&str] = &["socket", "fentry", "kprobe", "tracepoint"];

/// The backends of kernels without the tracepoints of sockets.
const BEFORE_6_3: &[&str] = &["fentry", "kprobe", "tracepoint"];

/// A kernel without special properties.
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
    // observer refuses this kernel, with any backend.
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
    // PREEMPT_RT, where almost everything can be preempted.
    Kernel { name: "6.12-rt", flavour: "-rt", backends: &["socket"], ..PLAIN },
    Kernel {
        name: "7.2",
        suite: "sid",
        // The suite has newer kernels over time.
        version: "7.",
        lossy: &["socket", "fentry", "tracepoint"],
        ..PLAIN
    },
];

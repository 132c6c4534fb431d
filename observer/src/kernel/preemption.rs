//! Whether this kernel preempts BPF programs.
//!
//! Where it does, a thread can interrupt a program of the fentry backend and run into the same program, which the
//! kernel then skips (`recur` of `__bpf_prog_enter_recur`): the transfer is missed. Programs of the kprobe backend run
//! with preemption disabled. So do those of the tracepoint backend (`perf_syscall_exit`), except on kernels that have
//! `trace_call_bpf_faultable`, as 7.2 does.

use std::{
    fmt::{self, Display, Formatter},
    fs,
    path::Path,
};

use crate::system_paths::SystemPaths;

/// Whether a kernel preempts threads that run in it, and the model of preemption that decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// Built without preemption, or in mode `none` or `voluntary`: a thread in the kernel runs until it yields.
    Never(&'static str),
    /// Built with preemption, or in a mode that preempts.
    Always(&'static str),
    /// One of several modes (`PREEMPT_DYNAMIC`), but it is not known which.
    Unknown,
}

impl Preemption {
    /// Reads how the running kernel preempts.
    pub fn of(places: &SystemPaths) -> Self {
        let read = |path: &Path| fs::read_to_string(path).ok();
        Self::parse(
            read(&places.proc.join("sys/kernel/version")).as_deref(),
            read(&places.sched_preempt).as_deref(),
            read(&places.proc.join("cmdline")).as_deref(),
        )
    }

    /// Parses the texts of `uname -v`, debugfs' `sched/preempt` and the kernel's command line, as far as they can be
    /// read.
    ///
    /// `init/Makefile` puts the model into `uname -v`: nothing, `PREEMPT` or `PREEMPT_RT`, and, from 5.18 on,
    /// `PREEMPT_DYNAMIC`. For that, `sched/preempt` has the present mode in parentheses (`sched_dynamic_show`), and
    /// `preempt=` on the command line is the mode that was requested at boot.
    fn parse(version: Option<&str>, sched_preempt: Option<&str>, cmdline: Option<&str>) -> Self {
        let Some(version) = version.filter(|version| !version.trim().is_empty()) else {
            return Self::Unknown;
        };
        match version.split_whitespace().find(|word| word.starts_with("PREEMPT")) {
            None => Self::Never("built without PREEMPT"),
            Some("PREEMPT_RT") => Self::Always("PREEMPT_RT"),
            Some("PREEMPT_LAZY") => Self::Always("PREEMPT_LAZY"),
            Some("PREEMPT") => Self::Always("PREEMPT"),
            Some("PREEMPT_DYNAMIC") => {
                let mode = sched_preempt.and_then(present).or_else(|| cmdline.and_then(at_boot));
                mode.unwrap_or(Self::Unknown)
            }
            // From some other tree, or cut off.
            Some(_) => Self::Unknown,
        }
    }

    /// Whether the kernel preempts, or may do so because it is not known.
    pub fn is_possible(self) -> bool {
        !matches!(self, Self::Never(_))
    }
}

/// Whether the programs of raw tracepoints can be preempted, on a kernel that preempts at all: until 6.19 it disables
/// preemption around them, since 7.0 it holds only `tracepoint_srcu` (linux/tracepoint.h). BTF does not show that, so
/// the version must.
pub(super) fn is_in_raw_tracepoints(places: &SystemPaths) -> bool {
    let release = fs::read_to_string(places.proc.join("sys/kernel/osrelease"));
    // A kernel whose version is not known may be one of them.
    let major = release.ok().and_then(|release| release.split('.').next()?.parse::<u32>().ok());
    major.is_none_or(|major| major >= 7)
}

impl Display for Preemption {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never(model) => write!(f, "no ({model})"),
            Self::Always(model) => write!(f, "yes ({model})"),
            Self::Unknown => f.write_str("not known"),
        }
    }
}

/// The mode of `PREEMPT_DYNAMIC` with this name (`preempt_modes` in `kernel/sched/core.c`).
fn mode(name: &str) -> Option<Preemption> {
    Some(match name {
        "none" => Preemption::Never("PREEMPT_DYNAMIC, none"),
        "voluntary" => Preemption::Never("PREEMPT_DYNAMIC, voluntary"),
        "full" => Preemption::Always("PREEMPT_DYNAMIC, full"),
        "lazy" => Preemption::Always("PREEMPT_DYNAMIC, lazy"),
        _ => return None,
    })
}

/// The mode in parentheses: `none (voluntary) full`.
fn present(sched_preempt: &str) -> Option<Preemption> {
    let mut words = sched_preempt.split_whitespace();
    words.find_map(|word| mode(word.strip_prefix('(')?.strip_suffix(')')?))
}

/// The last mode that the kernel knows; words after `--` are for init.
fn at_boot(cmdline: &str) -> Option<Preemption> {
    let words = cmdline.split_whitespace().take_while(|word| *word != "--");
    words.filter_map(|word| mode(word.strip_prefix("preempt=")?)).last()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::Preemption::{self, Always, Never, Unknown};
    use crate::system_paths::SystemPaths;

    const DEBIAN_12: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.159-1 (2025-12-30)\n";
    const DEBIAN_12_CMDLINE: &str =
        "BOOT_IMAGE=/boot/vmlinuz-6.1.0-42-amd64 root=UUID=2f7c4c3e-1f5e ro quiet\n";
    const NONE: Preemption = Never("PREEMPT_DYNAMIC, none");
    const VOLUNTARY: Preemption = Never("PREEMPT_DYNAMIC, voluntary");
    const FULL: Preemption = Always("PREEMPT_DYNAMIC, full");
    const LAZY: Preemption = Always("PREEMPT_DYNAMIC, lazy");

    fn of(version: &str, sched_preempt: Option<&str>, cmdline: &str) -> Preemption {
        Preemption::parse(Some(version), sched_preempt, Some(cmdline))
    }

    #[test]
    fn built_in_models_need_nothing_else() {
        for (version, preemption) in [
            // RHEL 8, Debian 10, Amazon Linux 2.
            ("#1 SMP Wed Oct 5 02:12:32 EDT 2022\n", Never("built without PREEMPT")),
            ("#1 SMP Debian 4.19.304-1 (2024-01-09)\n", Never("built without PREEMPT")),
            // Ubuntu 22.04 generic, and its low latency one.
            ("#101-Ubuntu SMP Tue Nov 14 13:30:08 UTC 2023\n", Never("built without PREEMPT")),
            ("#100-Ubuntu SMP PREEMPT Tue Nov 14 13:30:08 UTC 2023\n", Always("PREEMPT")),
            // Debian's linux-image-rt-amd64.
            ("#1 SMP PREEMPT_RT Debian 6.1.159-1 (2025-12-30)\n", Always("PREEMPT_RT")),
            ("#1 PREEMPT_LAZY Sat Aug 23 10:00:00 UTC 2025\n", Always("PREEMPT_LAZY")),
        ] {
            // The mode on the command line is not available.
            assert_eq!(of(version, None, "preempt=none ro"), preemption, "{version}");
        }
    }

    #[test]
    fn of_several_modes_the_present_one_counts() {
        for (sched_preempt, preemption) in [
            ("none (voluntary) full \n", VOLUNTARY),
            ("(none) voluntary full \n", NONE),
            ("none voluntary (full) \n", FULL),
            // From 6.13 on; from 7.0 on without the first two.
            ("none voluntary full (lazy) \n", LAZY),
            ("(full) lazy \n", FULL),
        ] {
            // Whatever was requested at boot: it can be changed.
            for cmdline in [DEBIAN_12_CMDLINE, "quiet preempt=none", "quiet preempt=full"] {
                let found = of(DEBIAN_12, Some(sched_preempt), cmdline);
                assert_eq!(found, preemption, "{sched_preempt}");
            }
        }
        assert_eq!(VOLUNTARY.to_string(), "no (PREEMPT_DYNAMIC, voluntary)");
        assert_eq!(LAZY.to_string(), "yes (PREEMPT_DYNAMIC, lazy)");
    }

    #[test]
    fn what_was_asked_for_at_boot_counts_where_the_mode_cannot_be_read() {
        for (cmdline, preemption) in [
            ("ro preempt=voluntary quiet\n", VOLUNTARY),
            ("preempt=none", NONE),
            ("preempt=full", FULL),
            ("preempt=none preempt=lazy", LAZY),
            // The kernel warns about it and keeps the one before.
            ("preempt=none preempt=most", NONE),
            ("preempt=none -- preempt=full", NONE),
            ("nopreempt=none xpreempt=full", Unknown),
            ("preempt=", Unknown),
            (DEBIAN_12_CMDLINE, Unknown),
        ] {
            assert_eq!(of(DEBIAN_12, None, cmdline), preemption, "{cmdline}");
            assert_eq!(of(DEBIAN_12, Some("nothing of it"), cmdline), preemption, "{cmdline}");
        }
    }

    #[test]
    fn what_is_not_understood_may_preempt() {
        for version in ["", "\n", "#1 SMP PREEMPT_AUTO Sat", "#1 SMP PREEMPT_DYN"] {
            assert_eq!(of(version, None, ""), Unknown, "{version}");
        }
        assert_eq!(Preemption::parse(None, Some("(none)"), None), Unknown);
        assert!(Unknown.is_possible());
        assert!(of(DEBIAN_12, Some("(lazy)"), "").is_possible());
        assert!(!of(DEBIAN_12, Some("(none)"), "").is_possible());
    }

    #[test]
    fn it_is_read_where_the_kernel_tells_it() {
        let dir = TempDir::new().unwrap();
        let places = SystemPaths {
            proc: dir.path().into(),
            sched_preempt: dir.path().join("preempt"),
            ..SystemPaths::default()
        };
        assert_eq!(Preemption::of(&places), Unknown);
        fs::create_dir_all(dir.path().join("sys/kernel")).unwrap();
        fs::write(dir.path().join("sys/kernel/version"), DEBIAN_12).unwrap();
        fs::write(dir.path().join("cmdline"), "preempt=full").unwrap();
        assert_eq!(Preemption::of(&places), FULL);
        for (release, since_7_0) in
            [("6.18.44-fc", false), ("7.2.13+deb14-amd64", true), ("?", true)]
        {
            fs::write(dir.path().join("sys/kernel/osrelease"), release).unwrap();
            assert_eq!(super::is_in_raw_tracepoints(&places), since_7_0, "{release}");
        }
        fs::write(&places.sched_preempt, "none (voluntary) full").unwrap();
        assert_eq!(Preemption::of(&places), VOLUNTARY);
    }
}

//! Whether this kernel takes the CPU from what runs in it.
//!
//! Where it does, a program of the fentry backend can be interrupted by a thread that runs into the
//! same program, which the kernel then skips (`recur` of `__bpf_prog_enter_recur`): that call goes by
//! unseen. Those of the kprobe backend run with preemption disabled; so do those of the tracepoint backend
//! (`perf_syscall_exit`) before the kernels that have `trace_call_bpf_faultable`, as 7.2 does.

use std::{
    fmt::{self, Display, Formatter},
    fs,
    path::Path,
};

use crate::system_paths::SystemPaths;

/// A kernel's model of preemption, and whether it is built in or one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// Built without, `none` or `voluntary`: a thread in the kernel runs until it gives way.
    Never(Model),
    /// Built with, or it is the one that was chosen.
    Always(Model),
    /// One of several (`PREEMPT_DYNAMIC`), and nothing says which.
    Unknown,
}

/// As it is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Chosen at build time.
    BuiltIn(&'static str),
    /// Chosen at boot, or later.
    Chosen(&'static str),
}

impl Preemption {
    /// Of the running kernel.
    pub fn of(places: &SystemPaths) -> Self {
        let read = |path: &Path| fs::read_to_string(path).ok();
        Self::parse(
            read(&places.proc.join("sys/kernel/version")).as_deref(),
            read(&places.sched_preempt).as_deref(),
            read(&places.proc.join("cmdline")).as_deref(),
        )
    }

    /// Of what `uname -v`, debugfs' `sched/preempt` and the kernel's command line say, as far as they
    /// can be read.
    ///
    /// `init/Makefile` puts the model into `uname -v`: nothing, `PREEMPT` or `PREEMPT_RT`, and, from
    /// 5.18 on, `PREEMPT_DYNAMIC`, of which `sched/preempt` has the present mode in parentheses
    /// (`sched_dynamic_show`) and `preempt=` the one that was asked for at boot.
    fn parse(version: Option<&str>, sched_preempt: Option<&str>, cmdline: Option<&str>) -> Self {
        let Some(version) = version.filter(|version| !version.trim().is_empty()) else {
            return Self::Unknown;
        };
        match version.split_whitespace().find(|word| word.starts_with("PREEMPT")) {
            None => Self::Never(Model::BuiltIn("built without PREEMPT")),
            Some("PREEMPT_RT") => Self::Always(Model::BuiltIn("PREEMPT_RT")),
            Some("PREEMPT_LAZY") => Self::Always(Model::BuiltIn("PREEMPT_LAZY")),
            Some("PREEMPT") => Self::Always(Model::BuiltIn("PREEMPT")),
            Some("PREEMPT_DYNAMIC") => {
                let mode = sched_preempt.and_then(present).or_else(|| cmdline.and_then(at_boot));
                mode.map_or(Self::Unknown, Mode::preemption)
            }
            // Of some other tree, or cut off.
            Some(_) => Self::Unknown,
        }
    }

    /// Whether it may: it does, or that is not known.
    pub fn is_possible(self) -> bool {
        !matches!(self, Self::Never(_))
    }
}

/// Whether the programs of raw tracepoints run as the rest of the call does, where the kernel preempts at all: until
/// 6.19 it disables preemption around them, since 7.0 it holds only `tracepoint_srcu` (linux/tracepoint.h). Its
/// types do not show it, so its version must.
pub(super) fn is_in_raw_tracepoints(places: &SystemPaths) -> bool {
    let release = fs::read_to_string(places.proc.join("sys/kernel/osrelease"));
    // A kernel that does not say its version may be one of them.
    let major = release.ok().and_then(|release| release.split('.').next()?.parse::<u32>().ok());
    major.is_none_or(|major| major >= 7)
}

impl Display for Preemption {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (does, model) = match self {
            Self::Never(model) => ("no", model),
            Self::Always(model) => ("yes", model),
            Self::Unknown => return f.write_str("not known"),
        };
        match model {
            Model::BuiltIn(model) => write!(f, "{does} ({model})"),
            Model::Chosen(mode) => write!(f, "{does} (PREEMPT_DYNAMIC, {mode})"),
        }
    }
}

/// A mode of `PREEMPT_DYNAMIC` (`preempt_modes` in `kernel/sched/core.c`).
#[derive(Clone, Copy)]
enum Mode {
    None,
    Voluntary,
    Full,
    Lazy,
}

impl Mode {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "none" => Self::None,
            "voluntary" => Self::Voluntary,
            "full" => Self::Full,
            "lazy" => Self::Lazy,
            _ => return None,
        })
    }

    fn preemption(self) -> Preemption {
        match self {
            Self::None => Preemption::Never(Model::Chosen("none")),
            Self::Voluntary => Preemption::Never(Model::Chosen("voluntary")),
            Self::Full => Preemption::Always(Model::Chosen("full")),
            Self::Lazy => Preemption::Always(Model::Chosen("lazy")),
        }
    }
}

/// `none (voluntary) full`: the one in parentheses.
fn present(sched_preempt: &str) -> Option<Mode> {
    let mut words = sched_preempt.split_whitespace();
    words.find_map(|word| Mode::parse(word.strip_prefix('(')?.strip_suffix(')')?))
}

/// The last that the kernel knows; those after `--` are for init.
fn at_boot(cmdline: &str) -> Option<Mode> {
    let words = cmdline.split_whitespace().take_while(|word| *word != "--");
    words.filter_map(|word| Mode::parse(word.strip_prefix("preempt=")?)).last()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::{Model, Preemption};
    use crate::system_paths::SystemPaths;

    const DEBIAN_12: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.159-1 (2025-12-30)\n";
    const DEBIAN_12_CMDLINE: &str =
        "BOOT_IMAGE=/boot/vmlinuz-6.1.0-42-amd64 root=UUID=2f7c4c3e-1f5e ro quiet\n";

    fn of(version: &str, sched_preempt: Option<&str>, cmdline: &str) -> Preemption {
        Preemption::parse(Some(version), sched_preempt, Some(cmdline))
    }

    #[test]
    fn built_in_models_need_nothing_else() {
        for (version, preemption) in [
            // RHEL 8, Debian 10, Amazon Linux 2.
            (
                "#1 SMP Wed Oct 5 02:12:32 EDT 2022\n",
                Preemption::Never(Model::BuiltIn("built without PREEMPT")),
            ),
            (
                "#1 SMP Debian 4.19.304-1 (2024-01-09)\n",
                Preemption::Never(Model::BuiltIn("built without PREEMPT")),
            ),
            // Ubuntu 22.04 generic, and its low latency one.
            (
                "#101-Ubuntu SMP Tue Nov 14 13:30:08 UTC 2023\n",
                Preemption::Never(Model::BuiltIn("built without PREEMPT")),
            ),
            (
                "#100-Ubuntu SMP PREEMPT Tue Nov 14 13:30:08 UTC 2023\n",
                Preemption::Always(Model::BuiltIn("PREEMPT")),
            ),
            // Debian's linux-image-rt-amd64.
            (
                "#1 SMP PREEMPT_RT Debian 6.1.159-1 (2025-12-30)\n",
                Preemption::Always(Model::BuiltIn("PREEMPT_RT")),
            ),
            (
                "#1 PREEMPT_LAZY Sat Aug 23 10:00:00 UTC 2025\n",
                Preemption::Always(Model::BuiltIn("PREEMPT_LAZY")),
            ),
        ] {
            // What the command line asks for is not to be had.
            assert_eq!(of(version, None, "preempt=none ro"), preemption, "{version}");
        }
    }

    #[test]
    fn of_several_modes_the_present_one_counts() {
        for (sched_preempt, preemption, told) in [
            (
                "none (voluntary) full \n",
                Preemption::Never(Model::Chosen("voluntary")),
                "no (PREEMPT_DYNAMIC, voluntary)",
            ),
            (
                "(none) voluntary full \n",
                Preemption::Never(Model::Chosen("none")),
                "no (PREEMPT_DYNAMIC, none)",
            ),
            (
                "none voluntary (full) \n",
                Preemption::Always(Model::Chosen("full")),
                "yes (PREEMPT_DYNAMIC, full)",
            ),
            // From 6.13 on; from 7.0 on without the first two.
            (
                "none voluntary full (lazy) \n",
                Preemption::Always(Model::Chosen("lazy")),
                "yes (PREEMPT_DYNAMIC, lazy)",
            ),
            (
                "(full) lazy \n",
                Preemption::Always(Model::Chosen("full")),
                "yes (PREEMPT_DYNAMIC, full)",
            ),
        ] {
            // Whatever was asked for at boot: it can be changed.
            for cmdline in [DEBIAN_12_CMDLINE, "quiet preempt=none", "quiet preempt=full"] {
                let found = of(DEBIAN_12, Some(sched_preempt), cmdline);
                assert_eq!((found, &*found.to_string()), (preemption, told), "{sched_preempt}");
            }
        }
    }

    #[test]
    fn what_was_asked_for_at_boot_counts_where_the_mode_cannot_be_read() {
        for (cmdline, preemption) in [
            ("ro preempt=voluntary quiet\n", Preemption::Never(Model::Chosen("voluntary"))),
            ("preempt=none", Preemption::Never(Model::Chosen("none"))),
            ("preempt=full", Preemption::Always(Model::Chosen("full"))),
            ("preempt=none preempt=lazy", Preemption::Always(Model::Chosen("lazy"))),
            // The kernel warns of it and keeps what it has.
            ("preempt=none preempt=most", Preemption::Never(Model::Chosen("none"))),
            ("preempt=none -- preempt=full", Preemption::Never(Model::Chosen("none"))),
            ("nopreempt=none xpreempt=full", Preemption::Unknown),
            ("preempt=", Preemption::Unknown),
            (DEBIAN_12_CMDLINE, Preemption::Unknown),
        ] {
            assert_eq!(of(DEBIAN_12, None, cmdline), preemption, "{cmdline}");
            assert_eq!(of(DEBIAN_12, Some("nothing of it"), cmdline), preemption, "{cmdline}");
        }
    }

    #[test]
    fn what_is_not_understood_may_preempt() {
        for version in ["", "\n", "#1 SMP PREEMPT_AUTO Sat", "#1 SMP PREEMPT_DYN"] {
            assert_eq!(of(version, None, ""), Preemption::Unknown, "{version}");
        }
        assert_eq!(Preemption::parse(None, Some("(none)"), None), Preemption::Unknown);
        assert!(Preemption::Unknown.is_possible());
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
        assert_eq!(Preemption::of(&places), Preemption::Unknown);
        fs::create_dir_all(dir.path().join("sys/kernel")).unwrap();
        fs::write(dir.path().join("sys/kernel/version"), DEBIAN_12).unwrap();
        fs::write(dir.path().join("cmdline"), "preempt=full").unwrap();
        assert_eq!(Preemption::of(&places), Preemption::Always(Model::Chosen("full")));
        for (release, since_7_0) in
            [("6.18.44-fc", false), ("7.2.13+deb14-amd64", true), ("?", true)]
        {
            fs::write(dir.path().join("sys/kernel/osrelease"), release).unwrap();
            assert_eq!(super::is_in_raw_tracepoints(&places), since_7_0, "{release}");
        }
        fs::write(&places.sched_preempt, "none (voluntary) full").unwrap();
        assert_eq!(Preemption::of(&places), Preemption::Never(Model::Chosen("voluntary")));
    }
}

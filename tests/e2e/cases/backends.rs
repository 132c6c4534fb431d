//! The backend: chosen by the daemon, or by `--backend`. The cases find out which ones a kernel allows, so they run
//! on any kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::loaded_programs;
use support::daemon::{Daemon, User, command, free_address};
use support::footprint::programs;
use support::pace;

use super::refusals::refuses;
use crate::case::Case;

/// Time for the kernel to free programs that are not used any more.
const FREE_LIMIT: Duration = Duration::from_secs(10);

/// The backends in order of preference, with prefixes of their programs' names and the start of the reason for which
/// they are refused.
const TRIED: [(&str, &[&str], &str); 3] = [
    ("fentry", &["fexit_"], "the kernel refused fexit programs ("),
    ("socket", &["socket_"], "this kernel has no tracepoint sock_send_length"),
    ("kprobe", &["kprobe_", "kretprobe_"], "the kernel refused kprobes ("),
];

pub(crate) fn cases() -> Vec<Case> {
    let modes_of_preemption =
        "--backend auto: likewise, in each mode of preemption that the kernel has";
    let mut cases = vec![
        Case::new("--backend auto: the best, and why", || auto(preempts()?).map(drop)),
        Case::new(modes_of_preemption, in_each_mode).only_if(modes().is_ok()),
    ];
    cases.extend(TRIED.map(|(backend, prefixes, refused)| {
        let name =
            format!("--backend {backend}: used, or refused with the reason and nothing left");
        Case::new(name, move || asked_for(backend, prefixes, refused))
    }));
    let floor = Case::new("refuses a kernel before 5.17, with the reason", floor);
    cases.push(floor.only_if(!is_since(5, 17)));
    cases
}

/// Whether the kernel is this version or a later one.
pub(super) fn is_since(major: u32, minor: u32) -> bool {
    version().is_some_and(|version| version >= (major, minor))
}

fn version() -> Option<(u32, u32)> {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn floor() -> Result<()> {
    const REASON: &str = "Linux 5.17 or later is needed";
    refuses(&[], User::Own, REASON)?;
    let (possible, said) = check(&[])?;
    ensure!(!possible && said.contains(REASON), "observer check prints: {said}");
    Ok(())
}

/// The result of `observer check` for one of [`TRIED`].
struct Checked {
    backend: &'static str,
    /// Whether it can be loaded and attached.
    allowed: bool,
    text: String,
}

/// The result for each backend alone, once: on an emulated machine the verifier takes minutes.
fn checked() -> Result<&'static [Checked]> {
    static CHECKED: OnceLock<Vec<Checked>> = OnceLock::new();
    if let Some(checked) = CHECKED.get() {
        return Ok(checked);
    }
    let of = |(backend, ..): (&'static str, _, _)| {
        let (allowed, text) = check(&["--backend", backend])?;
        Ok(Checked { backend, allowed, text })
    };
    let checked: Vec<_> = TRIED.into_iter().map(of).collect::<Result<_>>()?;
    Ok(CHECKED.get_or_init(|| checked))
}

/// Whether `observer check` reports that this one of [`TRIED`] can be used.
fn is_allowed(backend: &str) -> Result<bool> {
    Ok(checked()?.iter().any(|one| one.backend == backend && one.allowed))
}

/// Whether a backend may miss transfers on this kernel.
fn is_lossy(backend: &str, preempts: bool) -> bool {
    // Since 7.0 programs of raw tracepoints can be preempted.
    preempts && (backend == "fentry" || backend == "socket" && is_since(7, 0))
}

/// The backend that the daemon must choose: the first that is allowed and misses nothing.
fn best(preempts: bool) -> Result<&'static str> {
    for (backend, ..) in TRIED {
        if !is_lossy(backend, preempts) && is_allowed(backend)? {
            return Ok(backend);
        }
    }
    Ok("tracepoint")
}

/// The start of the reason against a backend on a kernel that preempts, or may.
const LOSS: &str = "it may miss transfers, ";

/// The start of the reason for the chosen backend.
const COMPLETE: &str = "it misses no transfer on this kernel";

/// Starts a daemon that chooses a backend: an error unless it uses the best one and logs why. Returns the reason.
fn auto(preempts: bool) -> Result<String> {
    let best = best(preempts)?;
    let daemon = Daemon::start(&["--backend", "auto", "--log", "debug"])?;
    let log = daemon.log();
    let (backend, reason) = log.lines().find_map(reason).context("no backend and reason")?;
    let refusals: BTreeMap<&str, &str> = log.lines().filter_map(refusal_in).collect();
    ensure!(backend == best, "{backend} is used and not {best}: {reason}");
    let published = daemon.backend()?;
    ensure!(published == backend, "{backend} is used, and {published} is published");
    ensure!(reason.starts_with(COMPLETE), "{reason}");
    let loaded = names(&programs(daemon.pid())?);
    for (other, prefixes, few_words) in TRIED {
        let has_its =
            loaded.iter().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        ensure!(has_its == (other == backend), "{backend} is used, and {loaded:?} are loaded");
        if other == backend {
            break;
        }
        let why = reason.split("; ").find_map(|why| why.strip_prefix(&format!("not {other}: ")));
        let why = why.with_context(|| format!("no reason against {other}: {reason}"))?;
        if is_lossy(other, preempts) {
            ensure!(why.starts_with(LOSS), "{why}");
            continue;
        }
        ensure!(why.starts_with(few_words), "not the reason: {why}");
        let words = refusals.get(other).with_context(|| format!("no line about {other}"))?;
        let kernels = words.strip_prefix(why).and_then(|rest| rest.strip_prefix(": "));
        ensure!(kernels.is_some_and(|kernels| !kernels.is_empty()), "only these words: {words}");
    }
    let reason = reason.to_owned();
    daemon.stop()?;
    Ok(reason)
}

/// The file with the kernel's mode of preemption, if that can be changed.
const MODE: &str = "/sys/kernel/debug/sched/preempt";

/// The modes of preemption, and the current one.
fn modes() -> Result<(Vec<String>, String)> {
    let text = fs::read_to_string(MODE).with_context(|| format!("read {MODE}"))?;
    let present = text.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let present = present.context("no mode is the current one")?.0.to_owned();
    let modes = text.split_whitespace().map(|word| word.trim_matches(['(', ')']).to_owned());
    Ok((modes.collect(), present))
}

fn in_each_mode() -> Result<()> {
    let (modes, present) = modes()?;
    let _back = Restored(MODE, present);
    for mode in modes {
        fs::write(MODE, &mode).with_context(|| format!("preempt as {mode}"))?;
        let does = matches!(&*mode, "full" | "lazy");
        let reason = auto(does).with_context(|| format!("where the mode is {mode}"))?;
        let loss = format!("{LOSS}yes (PREEMPT_DYNAMIC, {mode})");
        ensure!(reason.contains(&loss) == does, "the mode is {mode}, and the reason: {reason}");
    }
    Ok(())
}

/// A setting of the kernel; drop restores its former value.
pub(super) struct Restored(&'static str, String);

impl Restored {
    /// Changes a setting.
    pub(super) fn set(path: &'static str, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        fs::write(path, value).with_context(|| format!("write {path}"))?;
        Ok(Self(path, before.trim().to_owned()))
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // Nothing can be done about a failure.
        let _ = fs::write(self.0, &self.1);
    }
}

/// Parses `backend tracepoint: not fentry: …`.
fn reason(line: &str) -> Option<(&str, &str)> {
    let (backend, reason) = line.split_once(" backend ")?.1.split_once(": ")?;
    (!backend.contains(' ')).then_some((backend, reason))
}

/// Parses `backend kprobe is refused: the kernel allows no kprobes (…): …`.
fn refusal_in(line: &str) -> Option<(&str, &str)> {
    line.split_once(" backend ")?.1.split_once(" is refused: ")
}

/// Whether `observer check` reports that this kernel preempts, or may.
fn preempts() -> Result<bool> {
    let text = &checked()?.first().context("no backend was checked")?.text;
    let found = text.lines().find_map(|line| line.split_once(" preemption "));
    match found.map(|(mark, found)| (mark.trim(), found.trim())) {
        Some(("ok", found)) if found.starts_with("no (") => Ok(false),
        Some(("ok", found)) if found.starts_with("yes (") => Ok(true),
        Some(("??", found)) if found.starts_with("not known: ") => Ok(true),
        _ => bail!("observer check does not report whether the kernel preempts: {text}"),
    }
}

/// Runs `observer check`: whether it succeeds, and its output.
fn check(args: &[&str]) -> Result<(bool, String)> {
    let listen = free_address()?.to_string();
    let mut check = command(&[&["check", "--listen", &listen], args].concat())?;
    let output = check.output().context("run observer check")?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn asked_for(backend: &str, prefixes: &[&str], refused: &str) -> Result<()> {
    let of_backend = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if is_allowed(backend)? {
        let daemon = Daemon::start(&["--backend", backend])?;
        ensure!(
            daemon.log().contains(&format!("backend {backend}: it is configured")),
            "no reason"
        );
        let own = programs(daemon.pid())?;
        ensure!(names(&own).iter().any(of_backend), "{own:?} are not of {backend}");
        daemon.stop()?;
    } else {
        let reason = format!("--backend {backend}: {refused}");
        refuses(&["--backend", backend], User::Own, &reason)?;
    }
    are_freed(|| named().map(|(_, name)| name).filter(of_backend).collect())?;
    // On some kernels an attached kprobe is a line there.
    let probes = fs::read_to_string("/sys/kernel/tracing/kprobe_events").unwrap_or_default();
    ensure!(!probes.contains("tcp_"), "still attached: {probes}");
    Ok(())
}

/// Waits until the kernel has freed the programs that `left` finds.
pub(super) fn are_freed<T: Debug>(left: impl Fn() -> Vec<T>) -> Result<()> {
    pace::wait_for(FREE_LIMIT, || {
        let left = left();
        Ok(left.is_empty().then_some(()).with_context(|| format!("still loaded: {left:?}")))
    })
}

fn names(numbers: &BTreeSet<u32>) -> BTreeSet<String> {
    named().filter(|(number, _)| numbers.contains(number)).map(|(_, name)| name).collect()
}

/// All programs in the kernel that have a name. Other processes load and unload programs at the same time.
fn named() -> impl Iterator<Item = (u32, String)> {
    let programs = loaded_programs().flatten();
    programs.filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())))
}

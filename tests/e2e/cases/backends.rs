//! Which backend is used, and why: chosen by the daemon, or asked for. Which of them a kernel allows
//! is found here, so that these run on any.

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

/// For the kernel to free what nobody uses any more.
const FREE_LIMIT: Duration = Duration::from_secs(10);

/// In the order in which they are preferred, with the beginnings of the names of their programs, and what the
/// kernel does not allow where they are refused.
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

/// Whether the kernel says that it is this version or a later one.
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
    ensure!(!possible && said.contains(REASON), "check says: {said}");
    Ok(())
}

/// What `observer check` says of one of [`TRIED`].
struct Told {
    backend: &'static str,
    /// It can be loaded and attached.
    allowed: bool,
    text: String,
}

/// Of each alone, asked once: the verifier takes its time in an emulator.
fn told() -> Result<&'static [Told]> {
    static TOLD: OnceLock<Vec<Told>> = OnceLock::new();
    if let Some(told) = TOLD.get() {
        return Ok(told);
    }
    let of = |(backend, ..): &(&'static str, _, _)| {
        let (allowed, text) = check(&["--backend", backend])?;
        Ok(Told { backend, allowed, text })
    };
    let told: Vec<_> = TRIED.iter().map(of).collect::<Result<_>>()?;
    Ok(TOLD.get_or_init(|| told))
}

/// Whether `observer check` says that this one of [`TRIED`] can be had.
fn is_allowed(backend: &str) -> Result<bool> {
    Ok(told()?.iter().any(|told| told.backend == backend && told.allowed))
}

/// Whether a backend may miss transfers here.
fn is_lossy(backend: &str, preempts: bool) -> bool {
    // Since 7.0 programs of raw tracepoints can be preempted.
    preempts && (backend == "fentry" || backend == "socket" && is_since(7, 0))
}

/// The one that is to be used: the first that is allowed and misses nothing.
fn best(preempts: bool) -> Result<&'static str> {
    for (backend, ..) in TRIED {
        if !is_lossy(backend, preempts) && is_allowed(backend)? {
            return Ok(backend);
        }
    }
    Ok("tracepoint")
}

/// The words of a kernel that preempts, or may.
const LOSS: &str = "it may miss transfers, ";

/// What is said of a backend that does not.
const COMPLETE: &str = "it misses no transfer on this kernel";

/// The best as the kernel preempts now, or does not: a daemon uses it and says why. Answers with the reason.
fn auto(preempts: bool) -> Result<String> {
    let best = best(preempts)?;
    let daemon = Daemon::start(&["--backend", "auto", "--log", "debug"])?;
    let log = daemon.log();
    let (backend, reason) = log.lines().find_map(reason).context("no backend and reason")?;
    let refusals: BTreeMap<&str, &str> = log.lines().filter_map(refusal_in).collect();
    ensure!(backend == best, "{backend} is used and not {best}: {reason}");
    let told = daemon.backend()?;
    ensure!(told == backend, "{backend} is used, and {told} is told");
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
        let why = why.with_context(|| format!("nothing is said of {other}: {reason}"))?;
        if is_lossy(other, preempts) {
            ensure!(why.starts_with(LOSS), "{why}");
            continue;
        }
        ensure!(why.starts_with(few_words), "not the reason: {why}");
        let words = refusals.get(other).with_context(|| format!("no words of {other}"))?;
        let kernels = words.strip_prefix(why).and_then(|rest| rest.strip_prefix(": "));
        ensure!(kernels.is_some_and(|kernels| !kernels.is_empty()), "only these words: {words}");
    }
    let reason = reason.to_owned();
    daemon.stop()?;
    Ok(reason)
}

/// Where a kernel that is built for it says how it preempts, and is told to do otherwise.
const MODE: &str = "/sys/kernel/debug/sched/preempt";

/// The modes of preemption, and the present one.
fn modes() -> Result<(Vec<String>, String)> {
    let text = fs::read_to_string(MODE).with_context(|| format!("read {MODE}"))?;
    let present = text.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let present = present.context("no mode is the present one")?.0.to_owned();
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
        let told = format!("{LOSS}yes (PREEMPT_DYNAMIC, {mode})");
        ensure!(reason.contains(&told) == does, "the mode is {mode}, and the reason: {reason}");
    }
    Ok(())
}

/// A setting of the kernel's, which is as it was once this is dropped.
pub(super) struct Restored(&'static str, String);

impl Restored {
    pub(super) fn set(path: &'static str, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        fs::write(path, value).with_context(|| format!("write {path}"))?;
        Ok(Self(path, before.trim().to_owned()))
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // There is nothing else to be done about it.
        let _ = fs::write(self.0, &self.1);
    }
}

/// `backend tracepoint: not fentry: …`
fn reason(line: &str) -> Option<(&str, &str)> {
    let (backend, reason) = line.split_once(" backend ")?.1.split_once(": ")?;
    (!backend.contains(' ')).then_some((backend, reason))
}

/// `backend kprobe is refused: the kernel allows no kprobes (…): …`
fn refusal_in(line: &str) -> Option<(&str, &str)> {
    line.split_once(" backend ")?.1.split_once(" is refused: ")
}

/// Whether the daemon finds that this kernel preempts, or may.
fn preempts() -> Result<bool> {
    let text = &told()?.first().context("nothing is told")?.text;
    let told = text.lines().find_map(|line| line.split_once(" preemption "));
    match told.map(|(mark, told)| (mark.trim(), told.trim())) {
        Some(("ok", told)) if told.starts_with("no (") => Ok(false),
        Some(("ok", told)) if told.starts_with("yes (") => Ok(true),
        Some(("??", told)) if told.starts_with("not known: ") => Ok(true),
        _ => bail!("observer check does not say whether the kernel preempts: {text}"),
    }
}

/// What `observer check` says, and whether all is as it needs it.
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
        ensure!(daemon.log().contains(&format!("backend {backend}: it is configured")), "no word");
        let own = programs(daemon.pid())?;
        ensure!(names(&own).iter().any(of_backend), "{own:?} are not of {backend}");
        daemon.stop()?;
    } else {
        let reason = format!("--backend {backend}: {refused}");
        refuses(&["--backend", backend], User::Own, &reason)?;
    }
    are_freed(|| named().map(|(_, name)| name).filter(of_backend).collect())?;
    // Where a kernel has no other way to attach a kprobe, it is a line there.
    let probes = fs::read_to_string("/sys/kernel/tracing/kprobe_events").unwrap_or_default();
    ensure!(!probes.contains("tcp_"), "still attached: {probes}");
    Ok(())
}

/// Waits until the kernel has freed the programs that `left` finds.
pub(super) fn are_freed<T: Debug>(left: impl Fn() -> Vec<T>) -> Result<()> {
    pace::wait_for(FREE_LIMIT, || {
        let left = left();
        Ok(left.is_empty().then_some(()).ok_or_else(|| format!("still loaded: {left:?}")))
    })
}

fn names(numbers: &BTreeSet<u32>) -> BTreeSet<String> {
    named().filter(|(number, _)| numbers.contains(number)).map(|(_, name)| name).collect()
}

/// All programs in the kernel that have a name. Those of others come and go.
fn named() -> impl Iterator<Item = (u32, String)> {
    let programs = loaded_programs().flatten();
    programs.filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())))
}

//! Chooses the backend: the one that is configured, or the best one that loads and attaches.

use anyhow::{Context as _, Result, bail};
use tracing::debug;

use super::Preemption;
use crate::config::Backend;

/// The most complete first, and the cheaper of two that are equally complete:
///
/// - fentry also decodes what io_uring moves, which is a gap with socket;
/// - kprobe misses returns when many threads block in a read;
/// - tracepoint slows every system call of the node.
const PREFERENCE: [Backend; 4] =
    [Backend::Fentry, Backend::Socket, Backend::Kprobe, Backend::Tracepoint];

/// The backends that may miss transfers on this kernel: it skips a BPF program that is already running on that CPU.
#[derive(Clone, Copy)]
pub(super) struct Losses {
    /// Whether a thread can interrupt a program and run into it as well.
    pub preemption: Preemption,
    /// Whether that can also happen in the tracepoints of system calls.
    pub in_syscalls: bool,
    /// Whether that can also happen in raw tracepoints.
    pub in_raw_tracepoints: bool,
}

impl Losses {
    /// Whether the backend may miss a transfer here.
    pub(super) fn are_of(self, backend: Backend) -> bool {
        let can_be_preempted = match backend {
            Backend::Fentry => true,
            Backend::Socket => self.in_raw_tracepoints,
            Backend::Tracepoint => self.in_syscalls,
            Backend::Kprobe | Backend::Auto => false,
        };
        can_be_preempted && self.preemption.is_possible()
    }

    /// All backends, with those first that miss no transfer.
    fn order(self) -> [Backend; 4] {
        let mut order = PREFERENCE;
        order.sort_by_key(|&backend| self.are_of(backend));
        order
    }

    /// Describes what a backend that may miss transfers is not used for.
    fn warning(self) -> String {
        format!(
            "it may miss transfers: {}; Unix and MPTCP sockets are not watched, because a miss would \
             not show there",
            self.cause()
        )
    }

    fn cause(self) -> String {
        match self.preemption {
            Preemption::Unknown => {
                "it is not known whether the kernel preempts BPF programs".to_owned()
            }
            known => format!("the kernel preempts BPF programs ({known})"),
        }
    }
}

/// Tries one backend after the other until an attempt succeeds. Returns it, and why it was chosen. A failed attempt
/// must leave nothing behind.
pub(super) fn choose<T>(
    wanted: Backend,
    losses: Losses,
    mut attempt: impl FnMut(Backend) -> Result<T>,
) -> Result<(Backend, String, T)> {
    if wanted != Backend::Auto {
        let done = attempt(wanted).with_context(|| format!("--backend {wanted}"))?;
        let mut reason = "it is configured".to_owned();
        if losses.are_of(wanted) {
            reason = format!("{reason}; {}", losses.warning());
        }
        return Ok((wanted, reason, done));
    }
    let mut refused = Vec::new();
    for backend in losses.order() {
        match attempt(backend) {
            Ok(done) => return Ok((backend, reason(backend, losses, &refused), done)),
            Err(error) => {
                debug!("backend {backend} is refused: {error:#}");
                refused.push((backend, error.to_string()));
            }
        }
    }
    let refused: Vec<_> =
        refused.iter().map(|(backend, why)| format!("{backend}: {why}")).collect();
    bail!("no backend works on this kernel: {}", refused.join("; "))
}

/// Explains a choice: whether the backend is complete, and why those that are preferred to it are not used.
fn reason(backend: Backend, losses: Losses, refused: &[(Backend, String)]) -> String {
    let verdict = if losses.are_of(backend) {
        losses.warning()
    } else {
        "it misses no transfer on this kernel".to_owned()
    };
    let place = |of: Backend| PREFERENCE.iter().position(|&one| one == of);
    let lossy = PREFERENCE
        .into_iter()
        .filter(|&other| place(other) < place(backend) && losses.are_of(other))
        .filter(|other| !refused.iter().any(|(one, _)| one == other))
        .map(|other| (other, format!("it may miss transfers, {}", losses.cause())));
    let others =
        lossy.chain(refused.iter().cloned()).map(|(other, why)| format!("not {other}: {why}"));
    [verdict].into_iter().chain(others).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::super::Preemption;
    use super::{Losses, PREFERENCE, choose};
    use crate::config::Backend::{self, Auto, Fentry, Kprobe, Socket, Tracepoint};

    const COMPLETE: &str = "it misses no transfer on this kernel";
    const NEVER: Preemption = Preemption::Never("PREEMPT_DYNAMIC, voluntary");
    const ALWAYS: Preemption = Preemption::Always("PREEMPT_DYNAMIC, lazy");
    const MAY_MISS: &str =
        "it may miss transfers, the kernel preempts BPF programs (yes (PREEMPT_DYNAMIC, lazy))";

    /// A kernel that preempts only programs of fentry, as those before 7.0.
    fn older(preemption: Preemption) -> Losses {
        Losses { preemption, in_syscalls: false, in_raw_tracepoints: false }
    }

    /// A kernel that preempts all programs but those of kprobes.
    fn newer(preemption: Preemption) -> Losses {
        Losses { preemption, in_syscalls: true, in_raw_tracepoints: true }
    }

    /// The choice and its reason, if these backends are refused.
    fn chosen(losses: Losses, refused: &[Backend]) -> (Backend, String) {
        let words = || anyhow!("the verifier's words, many of them").context("no such thing");
        let attempt = |backend| if refused.contains(&backend) { Err(words()) } else { Ok(()) };
        let (backend, why, ()) = choose(Auto, losses, attempt).unwrap();
        (backend, why)
    }

    #[test]
    fn where_all_are_complete_they_are_tried_in_the_order_of_preference() {
        let mut refused = Vec::new();
        let mut why = COMPLETE.to_owned();
        for backend in PREFERENCE {
            assert_eq!(chosen(older(NEVER), &refused), (backend, why.clone()));
            assert_eq!(chosen(newer(NEVER), &refused), (backend, why.clone()));
            refused.push(backend);
            why = format!("{why}; not {backend}: no such thing");
        }
    }

    #[test]
    fn one_that_may_miss_transfers_comes_after_all_that_do_not() {
        let fentry = format!("not fentry: {MAY_MISS}");
        let expected = format!("{COMPLETE}; {fentry}");
        assert_eq!(chosen(older(ALWAYS), &[]), (Socket, expected.clone()));
        let expected = format!("{expected}; not socket: no such thing");
        assert_eq!(chosen(older(ALWAYS), &[Socket]), (Kprobe, expected));
        let expected = format!("{COMPLETE}; {fentry}; not socket: {MAY_MISS}");
        assert_eq!(chosen(newer(ALWAYS), &[]), (Kprobe, expected));
        let (_, why) = chosen(older(Preemption::Unknown), &[]);
        assert!(why.contains("not fentry: it may miss transfers") && why.contains("not known"));
    }

    #[test]
    fn one_that_may_miss_transfers_is_used_with_a_warning() {
        let (backend, why) = chosen(newer(ALWAYS), &[Kprobe]);
        assert_eq!(backend, Fentry);
        let warning = "it may miss transfers: the kernel preempts BPF programs (yes \
                       (PREEMPT_DYNAMIC, lazy)); Unix and MPTCP sockets are not watched, because a \
                       miss would not show there";
        assert_eq!(why, format!("{warning}; not kprobe: no such thing"));
        let (backend, why) = chosen(older(ALWAYS), &[Kprobe, Socket, Tracepoint]);
        assert_eq!(backend, Fentry);
        assert!(why.starts_with(warning), "{why}");
        assert_eq!(why.matches("no such thing").count(), 3, "{why}");
    }

    #[test]
    fn what_is_asked_for_is_used_or_refused_with_the_reason() {
        let mut tried = Vec::new();
        let error = choose(Kprobe, newer(ALWAYS), |backend| {
            tried.push(backend);
            Err::<(), _>(anyhow!("EPERM")).context("no kprobes")
        })
        .unwrap_err();
        assert_eq!(format!("{error:#}"), "--backend kprobe: no kprobes: EPERM");
        assert_eq!(tried, [Kprobe]);
        for (backend, losses, warned) in [
            (Fentry, newer(NEVER), false),
            (Fentry, older(ALWAYS), true),
            (Socket, older(ALWAYS), false),
            (Socket, newer(ALWAYS), true),
            (Kprobe, newer(ALWAYS), false),
            (Tracepoint, older(ALWAYS), false),
            (Tracepoint, newer(ALWAYS), true),
        ] {
            let (used, why, ()) = choose(backend, losses, |_| Ok(())).unwrap();
            assert_eq!((used, why.contains("may miss")), (backend, warned), "{why}");
            assert!(why.starts_with("it is configured"), "{why}");
        }
    }

    #[test]
    fn if_none_is_allowed_all_reasons_are_named() {
        for preemption in [NEVER, ALWAYS] {
            let refuse = |backend| Err::<(), _>(anyhow!("{backend} is not there"));
            let error = choose(Auto, older(preemption), refuse).unwrap_err().to_string();
            for backend in PREFERENCE {
                assert!(error.contains(&format!("{backend} is not there")), "{error}");
            }
        }
    }
}

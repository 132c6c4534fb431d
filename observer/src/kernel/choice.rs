//! Which backend is used: the one that was asked for, or the best that loads and attaches.

use anyhow::{Context as _, Result, bail};
use tracing::debug;

use super::Preemption;
use crate::config::Backend;

/// The cheapest first.
const CHEAPEST: [Backend; 3] = [Backend::Fentry, Backend::Kprobe, Backend::Tracepoint];

/// What the backends miss on this kernel, which skips a program that is already running on that processor.
#[derive(Clone, Copy)]
pub(super) struct Losses {
    /// How a program comes to be interrupted by a thread that runs into it as well.
    pub preemption: Preemption,
    /// That can happen in the programs of system calls' tracepoints too.
    pub in_syscalls: bool,
}

impl Losses {
    /// Whether the backend may miss a call here.
    pub(super) fn are_of(self, backend: Backend) -> bool {
        let can_be_preempted = match backend {
            Backend::Fentry => true,
            Backend::Tracepoint => self.in_syscalls,
            Backend::Kprobe | Backend::Auto => false,
        };
        can_be_preempted && self.preemption.is_possible()
    }

    /// Those first that lose no call, and the cheaper ones of these.
    fn order(self) -> [Backend; 3] {
        let mut order = CHEAPEST;
        order.sort_by_key(|&backend| self.are_of(backend));
        order
    }
}

/// Makes the attempt with one backend after the other until one succeeds, and says why it is that
/// one. A failed attempt must leave nothing behind.
pub(super) fn choose<T>(
    wanted: Backend,
    losses: Losses,
    mut attempt: impl FnMut(Backend) -> Result<T>,
) -> Result<(Backend, String, T)> {
    if wanted != Backend::Auto {
        let done = attempt(wanted).with_context(|| format!("--backend {wanted}"))?;
        let loses = losses.are_of(wanted);
        let though = if loses { format!(", {}", though(losses)) } else { String::new() };
        return Ok((wanted, format!("it was asked for{though}"), done));
    }
    let mut refused = Vec::new();
    for (tried, backend) in losses.order().into_iter().enumerate() {
        match attempt(backend) {
            Ok(done) => return Ok((backend, reason(backend, losses, tried, refused), done)),
            Err(error) => {
                debug!("backend {backend} is refused: {error:#}");
                refused.push(format!("not {backend}: {error}"));
            }
        }
    }
    bail!("this kernel allows no backend: {}", refused.join("; "))
}

/// Why it is this one, after so many that were refused.
fn reason(backend: Backend, losses: Losses, tried: usize, refused: Vec<String>) -> String {
    let later = losses.order().into_iter().skip(tried + 1);
    let cheaper = |other: &Backend| {
        let place = |of: Backend| CHEAPEST.iter().position(|&one| one == of);
        place(*other) < place(backend)
    };
    let lossy = later.filter(cheaper).map(|other| format!("not {other}: {}", told(losses)));
    let mut reasons: Vec<String> = lossy.chain(refused).collect();
    if losses.are_of(backend) {
        reasons.push(though(losses));
    }
    if reasons.is_empty() { "the cheapest is possible".into() } else { reasons.join("; ") }
}

/// What is to be known of such a one that is used.
fn though(losses: Losses) -> String {
    format!(
        "though {}; neither Unix sockets nor MPTCP are watched, where that would not show",
        told(losses)
    )
}

/// What such a one does on this kernel.
fn told(losses: Losses) -> String {
    format!("it misses calls where the kernel preempts, and here: {}", losses.preemption)
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::super::{Preemption, preemption::Model};
    use super::{Losses, choose};
    use crate::config::Backend;

    const NOT: &str = "; neither Unix sockets nor MPTCP are watched, where that would not show";
    const NEVER: Preemption = Preemption::Never(Model::Chosen("voluntary"));
    const ALWAYS: Preemption = Preemption::Always(Model::Chosen("lazy"));

    fn of(preemption: Preemption, in_syscalls: bool) -> Losses {
        Losses { preemption, in_syscalls }
    }

    /// What is chosen, and why, where these are refused.
    fn chosen(preemption: Preemption, refused: &[Backend]) -> (Backend, String) {
        chosen_with(of(preemption, false), refused)
    }

    fn chosen_with(losses: Losses, refused: &[Backend]) -> (Backend, String) {
        let words = || anyhow!("the verifier's words, many of them").context("no such thing");
        let attempt = |backend| if refused.contains(&backend) { Err(words()) } else { Ok(()) };
        let (backend, why, ()) = choose(Backend::Auto, losses, attempt).unwrap();
        (backend, why)
    }

    #[test]
    fn the_cheapest_that_is_allowed_is_chosen_and_the_better_ones_are_told() {
        let (backend, why) = chosen(NEVER, &[]);
        assert_eq!((backend, &*why), (Backend::Fentry, "the cheapest is possible"));
        let (backend, why) = chosen(NEVER, &[Backend::Fentry]);
        assert_eq!((backend, &*why), (Backend::Kprobe, "not fentry: no such thing"));
        let (backend, why) = chosen(NEVER, &[Backend::Fentry, Backend::Kprobe]);
        let both = "not fentry: no such thing; not kprobe: no such thing";
        assert_eq!((backend, &*why), (Backend::Tracepoint, both));
    }

    #[test]
    fn where_the_kernel_preempts_fentry_is_the_last() {
        let lazy =
            "it misses calls where the kernel preempts, and here: yes (PREEMPT_DYNAMIC, lazy)";
        let unknown = "it misses calls where the kernel preempts, and here: not known";
        for (preemption, loss) in [(ALWAYS, lazy), (Preemption::Unknown, unknown)] {
            let (backend, why) = chosen(preemption, &[]);
            assert_eq!((backend, why), (Backend::Kprobe, format!("not fentry: {loss}")));
            let (backend, why) = chosen(preemption, &[Backend::Kprobe]);
            let both = format!("not fentry: {loss}; not kprobe: no such thing");
            assert_eq!((backend, why), (Backend::Tracepoint, both));
            let (backend, why) = chosen(preemption, &[Backend::Kprobe, Backend::Tracepoint]);
            let all = format!(
                "not kprobe: no such thing; not tracepoint: no such thing; though {loss}{NOT}"
            );
            assert_eq!((backend, why), (Backend::Fentry, all));
        }
    }

    #[test]
    fn where_it_preempts_in_system_calls_too_the_cheaper_of_the_two_comes_first() {
        let lazy =
            "it misses calls where the kernel preempts, and here: yes (PREEMPT_DYNAMIC, lazy)";
        let (backend, why) = chosen_with(of(ALWAYS, true), &[]);
        assert_eq!((backend, why), (Backend::Kprobe, format!("not fentry: {lazy}")));
        let (backend, why) = chosen_with(of(ALWAYS, true), &[Backend::Kprobe]);
        let though = format!("not kprobe: no such thing; though {lazy}{NOT}");
        assert_eq!((backend, why), (Backend::Fentry, though));
        let both = [Backend::Kprobe, Backend::Fentry];
        let (backend, why) = chosen_with(of(ALWAYS, true), &both);
        let though =
            format!("not kprobe: no such thing; not fentry: no such thing; though {lazy}{NOT}");
        assert_eq!((backend, why), (Backend::Tracepoint, though));
        let (backend, why) = chosen_with(of(NEVER, true), &[]);
        assert_eq!((backend, &*why), (Backend::Fentry, "the cheapest is possible"));
    }

    #[test]
    fn what_is_asked_for_is_used_or_refused_with_the_reason() {
        let mut tried = Vec::new();
        let error = choose(Backend::Kprobe, of(ALWAYS, true), |backend| {
            tried.push(backend);
            Err::<(), _>(anyhow!("EPERM")).context("no kprobes")
        })
        .unwrap_err();
        assert_eq!(format!("{error:#}"), "--backend kprobe: no kprobes: EPERM");
        assert_eq!(tried, [Backend::Kprobe]);
        for (backend, losses, warned) in [
            (Backend::Fentry, of(NEVER, true), false),
            (Backend::Fentry, of(ALWAYS, false), true),
            (Backend::Kprobe, of(ALWAYS, true), false),
            (Backend::Tracepoint, of(NEVER, true), false),
            (Backend::Tracepoint, of(ALWAYS, false), false),
            (Backend::Tracepoint, of(ALWAYS, true), true),
        ] {
            let (used, why, ()) = choose(backend, losses, |_| Ok(())).unwrap();
            assert_eq!((used, why.contains("misses calls")), (backend, warned), "{why}");
            assert!(why.starts_with("it was asked for"), "{why}");
        }
    }

    #[test]
    fn if_none_is_allowed_all_reasons_are_told() {
        for preemption in [NEVER, ALWAYS] {
            let refuse = |backend| Err::<(), _>(anyhow!("{backend} is not there"));
            let error =
                choose(Backend::Auto, of(preemption, false), refuse).unwrap_err().to_string();
            for backend in ["fentry", "kprobe", "tracepoint"] {
                assert!(error.contains(&format!("{backend} is not there")), "{error}");
            }
        }
    }
}

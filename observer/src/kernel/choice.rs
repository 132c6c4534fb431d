//! Which backend is used: the one that was asked for, or the best that loads and attaches.

use anyhow::{Context as _, Result, bail};
use tracing::debug;

use super::Preemption;
use crate::config::Backend;

/// The cheapest first.
const CHEAPEST: [Backend; 3] = [Backend::Fentry, Backend::Kprobe, Backend::Tracepoint];

/// Where the kernel preempts: those first that lose no call by it.
const PREEMPTED: [Backend; 3] = [Backend::Kprobe, Backend::Tracepoint, Backend::Fentry];

/// Makes the attempt with one backend after the other until one succeeds, and says why it is that
/// one. A failed attempt must leave nothing behind.
pub(super) fn choose<T>(
    wanted: Backend,
    preemption: Preemption,
    mut attempt: impl FnMut(Backend) -> Result<T>,
) -> Result<(Backend, String, T)> {
    if wanted != Backend::Auto {
        let done = attempt(wanted).with_context(|| format!("--backend {wanted}"))?;
        let loses = wanted == Backend::Fentry && preemption.is_possible();
        let though = if loses { format!(", though {}", loss(preemption)) } else { String::new() };
        return Ok((wanted, format!("it was asked for{though}"), done));
    }
    let mut refused = Vec::new();
    for backend in if preemption.is_possible() { PREEMPTED } else { CHEAPEST } {
        match attempt(backend) {
            Ok(done) => return Ok((backend, reason(backend, preemption, refused), done)),
            Err(error) => {
                debug!("backend {backend} is refused: {error:#}");
                refused.push(format!("not {backend}: {error}"));
            }
        }
    }
    bail!("this kernel allows no backend: {}", refused.join("; "))
}

/// Why it is this one, of those that were not refused.
fn reason(backend: Backend, preemption: Preemption, refused: Vec<String>) -> String {
    let mut reasons = refused;
    match backend {
        Backend::Fentry if preemption.is_possible() => {
            reasons.push(format!("though {}", loss(preemption)));
        }
        _ if preemption.is_possible() => {
            reasons.insert(0, format!("not fentry: {}", loss(preemption)));
        }
        _ if reasons.is_empty() => return "the cheapest is possible".into(),
        _ => {}
    }
    reasons.join("; ")
}

/// What fentry does on this kernel.
fn loss(preemption: Preemption) -> String {
    format!("it misses calls where the kernel preempts, and here: {preemption}")
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::super::{Preemption, preemption::Model};
    use super::choose;
    use crate::config::Backend;

    const NEVER: Preemption = Preemption::Never(Model::Chosen("voluntary"));
    const ALWAYS: Preemption = Preemption::Always(Model::Chosen("lazy"));

    /// What is chosen, and why, where these are refused.
    fn chosen(preemption: Preemption, refused: &[Backend]) -> (Backend, String) {
        let words = || anyhow!("the verifier's words, many of them").context("no such thing");
        let attempt = |backend| if refused.contains(&backend) { Err(words()) } else { Ok(()) };
        let (backend, why, ()) = choose(Backend::Auto, preemption, attempt).unwrap();
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
            let all =
                format!("not kprobe: no such thing; not tracepoint: no such thing; though {loss}");
            assert_eq!((backend, why), (Backend::Fentry, all));
        }
    }

    #[test]
    fn what_is_asked_for_is_used_or_refused_with_the_reason() {
        let mut tried = Vec::new();
        let error = choose(Backend::Kprobe, ALWAYS, |backend| {
            tried.push(backend);
            Err::<(), _>(anyhow!("EPERM")).context("no kprobes")
        })
        .unwrap_err();
        assert_eq!(format!("{error:#}"), "--backend kprobe: no kprobes: EPERM");
        assert_eq!(tried, [Backend::Kprobe]);
        for (backend, preemption, warned) in [
            (Backend::Fentry, NEVER, false),
            (Backend::Fentry, ALWAYS, true),
            (Backend::Kprobe, ALWAYS, false),
        ] {
            let (used, why, ()) = choose(backend, preemption, |_| Ok(())).unwrap();
            assert_eq!((used, why.contains("misses calls")), (backend, warned), "{why}");
            assert!(why.starts_with("it was asked for"), "{why}");
        }
    }

    #[test]
    fn if_none_is_allowed_all_reasons_are_told() {
        for preemption in [NEVER, ALWAYS] {
            let refuse = |backend| Err::<(), _>(anyhow!("{backend} is not there"));
            let error = choose(Backend::Auto, preemption, refuse).unwrap_err().to_string();
            for backend in ["fentry", "kprobe", "tracepoint"] {
                assert!(error.contains(&format!("{backend} is not there")), "{error}");
            }
        }
    }
}

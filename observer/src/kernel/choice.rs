//! Which backend is used: the one that was asked for, or the cheapest that loads and attaches.

use anyhow::{Context as _, Result, bail};
use tracing::debug;

use crate::config::Backend;

/// The cheapest first.
const BACKENDS: [Backend; 3] = [Backend::Fentry, Backend::Kprobe, Backend::Tracepoint];

/// Makes the attempt with one backend after the other until one succeeds, and says why it is that
/// one. A failed attempt must leave nothing behind.
pub(super) fn choose<T>(
    wanted: Backend,
    mut attempt: impl FnMut(Backend) -> Result<T>,
) -> Result<(Backend, String, T)> {
    if wanted != Backend::Auto {
        let done = attempt(wanted).with_context(|| format!("--backend {wanted}"))?;
        return Ok((wanted, "it was asked for".into(), done));
    }
    let mut refused = Vec::new();
    for backend in BACKENDS {
        match attempt(backend) {
            Ok(done) if refused.is_empty() => {
                return Ok((backend, "the cheapest is possible".into(), done));
            }
            Ok(done) => return Ok((backend, refused.join("; "), done)),
            Err(error) => {
                debug!("backend {backend} is refused: {error:#}");
                refused.push(format!("not {backend}: {error}"));
            }
        }
    }
    bail!("this kernel allows no backend: {}", refused.join("; "))
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::choose;
    use crate::config::Backend;

    #[test]
    fn the_cheapest_that_is_allowed_is_chosen_and_the_better_ones_are_told() {
        let words = || anyhow!("the verifier's words, many of them").context("no trampolines");
        let (backend, why, ()) = choose(Backend::Auto, |backend| match backend {
            Backend::Fentry => Err(words()),
            _ => Ok(()),
        })
        .unwrap();
        assert_eq!((backend, &*why), (Backend::Kprobe, "not fentry: no trampolines"));
        let (backend, why, ()) = choose(Backend::Auto, |_| Ok(())).unwrap();
        assert_eq!((backend, &*why), (Backend::Fentry, "the cheapest is possible"));
    }

    #[test]
    fn what_is_asked_for_is_used_or_refused_with_the_reason() {
        let mut tried = Vec::new();
        let error = choose(Backend::Kprobe, |backend| {
            tried.push(backend);
            Err::<(), _>(anyhow!("EPERM")).context("no kprobes")
        })
        .unwrap_err();
        assert_eq!(format!("{error:#}"), "--backend kprobe: no kprobes: EPERM");
        assert_eq!(tried, [Backend::Kprobe]);
    }

    #[test]
    fn if_none_is_allowed_all_reasons_are_told() {
        let refuse = |backend| Err::<(), _>(anyhow!("{backend} is not there"));
        let error = choose(Backend::Auto, refuse).unwrap_err().to_string();
        for backend in ["fentry", "kprobe", "tracepoint"] {
            assert!(error.contains(&format!("{backend} is not there")), "{error}");
        }
    }
}

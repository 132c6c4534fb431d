//! Which calls get a span: the samplers of `OTEL_TRACES_SAMPLER`.
//!
//! All spans of a trace get the same answer, on every node: it depends on the trace id and on the flag that the caller
//! set, and on nothing else.

use observer_core::call::TraceId;

/// A sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether the flag of `traceparent` decides, if there is one.
    pub is_parent_based: bool,
    /// The decision otherwise.
    pub root: Root,
}

/// The decision about a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Root {
    /// Every trace.
    All,
    /// No trace.
    None,
    /// Traces whose random part is at least this: see [`Root::ratio`].
    AtLeast(u64),
}

/// The random bits of a trace id: its last 56 (W3C Trace Context Level 2).
const RANDOM_BITS: u32 = 56;

const RANDOM: u64 = (1 << RANDOM_BITS) - 1;

impl Root {
    /// A share of all traces, from 0 to 1: those with R ≥ T as in "TraceState: Probability Sampling" of the
    /// specification. Other numbers are `None`.
    pub fn ratio(ratio: f64) -> Option<Self> {
        if !(0.0..=1.0).contains(&ratio) {
            return None;
        }
        let all = (1_u64 << RANDOM_BITS) as f64;
        Some(Self::AtLeast(((1.0 - ratio) * all) as u64))
    }

    fn takes(self, trace: impl FnOnce() -> TraceId) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::AtLeast(threshold) => {
                let random = u128::from_be_bytes(trace().0) as u64 & RANDOM;
                random >= threshold
            }
        }
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self { is_parent_based: true, root: Root::All }
    }
}

impl Sampler {
    /// Parses `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`. Names ignore case.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let name = name.to_ascii_lowercase();
        let (is_parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, &*name),
        };
        let root = match root {
            "always_on" => Root::All,
            "always_off" => Root::None,
            "traceidratio" => {
                let text = argument.unwrap_or("1").trim();
                let ratio = text.parse().ok().and_then(Root::ratio);
                ratio.ok_or_else(|| format!("'{text}' is not a number from 0 to 1"))?
            }
            _ => return Err(format!("'{name}' is not a sampler that observer has")),
        };
        Ok(Self { is_parent_based, root })
    }

    /// Whether a call gets a span. `flag` is that of its `traceparent`; `trace` returns the id of its trace.
    pub fn takes(self, flag: Option<bool>, trace: impl FnOnce() -> TraceId) -> bool {
        match flag.filter(|_| self.is_parent_based) {
            Some(is_sampled) => is_sampled,
            None => self.root.takes(trace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(name: &str, argument: Option<&str>) -> [bool; 3] {
        let sampler = Sampler::parse(name, argument).expect("a sampler");
        [None, Some(false), Some(true)].map(|flag| sampler.takes(flag, || TraceId([0x7f; 16])))
    }

    #[test]
    fn the_six_samplers_and_the_flag_of_the_caller() {
        let rows = [
            ("always_on", None, [true; 3]),
            ("always_off", None, [false; 3]),
            ("traceidratio", None, [true; 3]),
            ("traceidratio", Some("0"), [false; 3]),
            ("parentbased_always_on", None, [true, false, true]),
            ("parentbased_always_off", None, [false, false, true]),
            ("ParentBased_TraceIdRatio", Some("0"), [false, false, true]),
            ("parentbased_traceidratio", Some("1"), [true, false, true]),
            // The trace's random part is 0.498 of all, so it is taken from 0.502 on.
            ("traceidratio", Some("0.501"), [false; 3]),
            ("traceidratio", Some("0.503"), [true; 3]),
        ];
        for (name, argument, expected) in rows {
            assert_eq!(takes(name, argument), expected, "{name} {argument:?}");
        }
    }

    #[test]
    fn a_ratio_is_the_share_of_random_traces() {
        for (ratio, share) in [(0.0, 0), (0.25, 64), (0.5, 128), (1.0, 256)] {
            let root = Root::ratio(ratio).unwrap();
            let of = |first: u8| {
                let mut id = [0xaa; 16];
                id[9..].fill(0);
                id[9] = first;
                TraceId(id)
            };
            let taken = (0..=255_u8).filter(|first| root.takes(|| of(*first))).count();
            assert_eq!(taken, share, "{ratio}");
        }
    }

    #[test]
    fn what_is_no_sampler_is_an_error() {
        for (name, argument) in [
            ("jaeger_remote", None),
            ("", None),
            ("parentbased_", None),
            ("traceidratio", Some("1.1")),
            ("traceidratio", Some("-0.1")),
            ("traceidratio", Some("NaN")),
            ("traceidratio", Some("a")),
        ] {
            assert!(Sampler::parse(name, argument).is_err(), "{name} {argument:?}");
        }
    }
}

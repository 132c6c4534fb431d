//! What the server refused, and how many passwords it checked: the daemon publishes both.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::HttpFigures;

/// Counters of one server.
#[derive(Debug, Default)]
pub struct Counts {
    password_checks: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
}

/// Why somebody was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There were too many connections, and this one had to make room, or found none.
    Connection,
    /// Too many passwords wait to be checked.
    PasswordQueue,
    /// The name in `Host` is not one of the daemon's.
    Host,
    /// A page of another site asked.
    CrossSite,
}

impl Refused {
    const ALL: [Self; 4] = [Self::Connection, Self::PasswordQueue, Self::Host, Self::CrossSite];

    /// As the label `reason` has it.
    const fn label(self) -> &'static str {
        match self {
            Self::Connection => "connections",
            Self::PasswordQueue => "password_queue",
            Self::Host => "host",
            Self::CrossSite => "cross_site",
        }
    }
}

impl Counts {
    pub(super) fn refuse(&self, reason: Refused) {
        if let Some(count) = self.refused.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn check_password(&self) {
        self.password_checks.fetch_add(1, Ordering::Relaxed);
    }

    /// As of now.
    pub fn figures(&self) -> HttpFigures {
        let counts = Refused::ALL.iter().zip(&self.refused);
        HttpFigures {
            password_checks: self.password_checks.load(Ordering::Relaxed),
            refused: counts
                .map(|(of, count)| (of.label(), count.load(Ordering::Relaxed)))
                .collect(),
        }
    }
}

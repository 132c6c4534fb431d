//! The counters of the HTTP server, which the daemon publishes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::HttpFigures;

/// The counters of an HTTP server.
#[derive(Debug, Default)]
pub struct Counts {
    password_checks: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
}

/// The reason why a connection or request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too many connections: this one had to make room, or found none.
    Connection,
    /// Too many passwords were waiting to be checked.
    PasswordQueue,
    /// The name in `Host` is not allowed.
    Host,
    /// The request came from a page of another site.
    CrossSite,
}

impl Refused {
    const ALL: [Self; 4] = [Self::Connection, Self::PasswordQueue, Self::Host, Self::CrossSite];

    /// The value of the label `reason`.
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

    /// The present counts.
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

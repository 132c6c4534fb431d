//! Which rows are shown, and in which order.

use std::cmp::Ordering;

use super::{Model, Row};

/// What rows are sorted by. Numbers descend, so that what needs a look is at the top; what is alike
/// is in the order of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Calls that failed in the last seconds; then the rate.
    #[default]
    Errors,
    /// Calls per second.
    Rate,
    /// Calls in flight.
    InFlight,
    /// The median of handling times.
    P50,
    /// Nine of ten are shorter.
    P90,
    /// 99 of 100 are shorter.
    P99,
    /// All calls.
    Calls,
    /// Process, then method.
    Process,
    /// Service and method.
    Method,
}

impl Order {
    /// All orders, in the order of the columns.
    pub const ALL: [Self; 9] = [
        Self::Process,
        Self::Method,
        Self::Rate,
        Self::Errors,
        Self::InFlight,
        Self::P50,
        Self::P90,
        Self::P99,
        Self::Calls,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::Rate => "rate",
            Self::InFlight => "in-flight",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P99 => "p99",
            Self::Calls => "calls",
            Self::Process => "process",
            Self::Method => "method",
        }
    }

    /// How two rows stand; never equal but for the same row.
    pub fn compare(self, a: &Row, b: &Row) -> Ordering {
        let descending = |figure: fn(&Row) -> f64| figure(b).total_cmp(&figure(a));
        // Of rows that are both idle, those that have failed at all come first.
        let then = || descending(|row| row.recent.counts.ended as f64);
        let by_figure = match self {
            Self::Errors => descending(|row| row.recent.counts.failed as f64)
                .then_with(then)
                .then_with(|| descending(|row| row.total.counts.failed as f64)),
            Self::Rate => then(),
            Self::InFlight => descending(|row| row.in_flight as f64),
            Self::P50 => descending(|row| row.recent.quantiles.p50.unwrap_or(-1.0)),
            Self::P90 => descending(|row| row.recent.quantiles.p90.unwrap_or(-1.0)),
            Self::P99 => descending(|row| row.recent.quantiles.p99.unwrap_or(-1.0)),
            Self::Calls => descending(|row| row.total.counts.ended as f64),
            Self::Process => (&a.process, a.pid).cmp(&(&b.process, b.pid)),
            Self::Method => (&a.service, &a.method).cmp(&(&b.service, &b.method)),
        };
        by_figure.then_with(|| a.key().cmp(&b.key()))
    }
}

/// Words that must all be in a row: in its process's name or number, service, method, type or role.
/// Case does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<String>);

impl Filter {
    /// Words between spaces.
    pub fn new(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_lowercase).collect())
    }

    /// Whether a row has all the words.
    pub fn admits(&self, row: &Row) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Row { process, pid, role, service, method, grpc_type, .. } = row;
        let role = role.as_str();
        let text = format!("{process}[{pid}] {role} {grpc_type} {service}/{method}").to_lowercase();
        self.0.iter().all(|word| text.contains(word))
    }
}

impl Model {
    /// The rows that the filter admits, in this order.
    pub fn ordered(&self, order: Order, filter: &Filter) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| filter.admits(row)).collect();
        rows.sort_by(|a, b| order.compare(a, b));
        rows
    }
}

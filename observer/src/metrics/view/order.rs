//! The order of rows, and the filter that selects them.

use std::cmp::Ordering;

use clap::ValueEnum;

use super::{Model, Row};

/// An order of rows, in the order of the columns. Numbers descend, so that rows that need attention are at the top. Equal
/// rows are in the order of the model. The comments are the help of `--sort`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Name and pid of the process.
    Process,
    /// Service and method.
    Method,
    /// Calls per second.
    Rate,
    /// Calls that failed in the last seconds; then the rate.
    #[default]
    Errors,
    /// Calls in flight.
    InFlight,
    /// The median of handling times.
    P50,
    /// The 90th percentile of handling times.
    P90,
    /// The 99th percentile of handling times.
    P99,
    /// All calls.
    Calls,
}

impl Order {
    /// The name on the command line and the page.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("every order can be chosen");
        value.get_name().to_owned()
    }

    /// Compares two rows. Only a row with itself is equal.
    pub fn compare(self, a: &Row, b: &Row) -> Ordering {
        let descending = |figure: fn(&Row) -> f64| figure(b).total_cmp(&figure(a));
        // Among idle rows, those with failed calls come first.
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

/// Words that a row must all contain, in the name, pid or service of its process, its role, type, service or method. Case does not
/// matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<String>);

impl Filter {
    /// A filter with the words of a text.
    pub fn new(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_lowercase).collect())
    }

    /// Whether a row contains all words.
    pub fn admits(&self, row: &Row) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Row { process, pid, service_name, role, service, method, grpc_type, .. } = row;
        let role = role.as_str();
        let text = format!("{process}[{pid}] {role} {grpc_type} {service}/{method} {service_name}");
        let text = text.to_lowercase();
        self.0.iter().all(|word| text.contains(word))
    }
}

impl Model {
    /// The rows that the filter admits, in an order.
    pub fn ordered(&self, order: Order, filter: &Filter) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| filter.admits(row)).collect();
        rows.sort_by(|a, b| order.compare(a, b));
        rows
    }
}

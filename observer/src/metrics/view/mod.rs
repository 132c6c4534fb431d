//! The view: the figures of a moment as one model, for the page, `observer top` and scripts (`/api/v1/view`).
//!
//! [`Sampler::sample`] turns snapshots, about a second apart, into [`Model`]s. They have totals since the daemon's start,
//! as in a scrape, and figures of the last ten seconds, which Prometheus would compute itself. No I/O and no clock.

mod model;
mod order;
mod quantile;
mod sampler;
pub mod text;

pub use self::{
    model::{
        CallsOfCode, ConnectionsOf, Counts, DaemonFigures, Edge, Loss, Model, Quantiles, Recent,
        Row, Summary, Totals, Traffic,
    },
    order::{Filter, Order},
    quantile::quantile,
    sampler::{MAX_EDGES, MAX_ROWS, Sampler, WINDOW},
};

#[cfg(test)]
mod tests;

//! A metric family's description.

use std::fmt::Error;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType,
    registry::Unit,
};

/// A family's name, without the unit and `_total` that prometheus-client appends, and its help.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
}

impl Family {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, unit: None }
    }

    pub(super) const fn with_unit(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, help, unit: Some(unit) }
    }

    /// Writes the description; the family's series are to follow.
    pub(super) fn describe<'a>(
        &'a self,
        encoder: &'a mut DescriptorEncoder<'_>,
        metric_type: MetricType,
    ) -> Result<MetricEncoder<'a>, Error> {
        encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), metric_type)
    }
}

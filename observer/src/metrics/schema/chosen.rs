//! The chosen schemas, combined.

use std::{fmt, str::FromStr};

use observer_core::call::CallProtocol;

use super::{CallFamily, LabelSource, Spelling, Value, go, otel, own, python, requests, thrift};
use crate::metrics::{Buckets, Recording, exposition::Kind};

/// A schema of metric names and labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Schema {
    /// go-grpc-prometheus, and the Prometheus provider of go-grpc-middleware.
    Go,
    /// py-async-grpc-prometheus.
    Python,
    /// `grpc_requests_total` and similar names, which are common in Python services.
    Requests,
    /// py-async-grpc-prometheus with `legacy=True`.
    Legacy,
    /// The semantic conventions of OpenTelemetry.
    Otel,
}

impl Schema {
    /// All schemas.
    pub const ALL: [Self; 5] = [Self::Go, Self::Python, Self::Requests, Self::Legacy, Self::Otel];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Python => "python",
            Self::Requests => "requests",
            Self::Legacy => "legacy",
            Self::Otel => "otel",
        }
    }

    fn families(self) -> Vec<CallFamily> {
        match self {
            Self::Go => go::FAMILIES.to_vec(),
            Self::Python => python::RULES.families(),
            Self::Requests => requests::FAMILIES.to_vec(),
            Self::Legacy => python::LEGACY_RULES.families(),
            Self::Otel => otel::FAMILIES.to_vec(),
        }
    }

    /// The default bounds of its histograms, in microseconds, in addition to those of [`Buckets::default`].
    fn bounds_us(self) -> &'static [u64] {
        match self {
            Self::Go => &[],
            // The bounds of prometheus_client, which the conventions also recommend.
            Self::Python | Self::Requests | Self::Legacy | Self::Otel => {
                &[75_000, 750_000, 7_500_000]
            }
        }
    }
}

impl FromStr for Schema {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|schema| schema.name() == text.trim()).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no schema '{text}': write one or more of {names}")
        })
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The families of schemas that can be combined, and the families that no library has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schemas {
    chosen: Vec<Schema>,
    families: Vec<CallFamily>,
}

impl Default for Schemas {
    fn default() -> Self {
        let families = go::FAMILIES.iter().chain(own::FAMILIES).cloned().collect();
        Self { chosen: vec![Schema::Go], families }
    }
}

impl Schemas {
    /// Combines the families of several schemas. A family that two of them have under one name gets the labels of both. If
    /// its value or a label differs, it is an error.
    pub fn new(schemas: impl IntoIterator<Item = Schema>) -> Result<Self, Clash> {
        let mut this = Self { chosen: Vec::new(), families: Vec::new() };
        for schema in schemas {
            if this.chosen.contains(&schema) {
                continue;
            }
            for family in schema.families() {
                this.add(schema, &family)?;
            }
            this.chosen.push(schema);
        }
        this.families.extend_from_slice(own::FAMILIES);
        Ok(this)
    }

    /// Adds the families of Thrift calls. They are the same with each schema; `requests` has more.
    #[must_use]
    pub fn and_thrift(mut self) -> Self {
        self.families.extend_from_slice(thrift::FAMILIES);
        if self.contains(Schema::Requests) {
            self.families.extend_from_slice(thrift::REQUESTS);
        }
        self
    }

    /// Leaves out the families of gRPC calls.
    #[must_use]
    pub fn without_grpc(mut self) -> Self {
        self.families.retain(|family| family.protocol != CallProtocol::Grpc);
        self
    }

    /// Whether this schema is one of them.
    pub fn contains(&self, schema: Schema) -> bool {
        self.chosen.contains(&schema)
    }

    fn add(&mut self, schema: Schema, new: &CallFamily) -> Result<(), Clash> {
        let name = new.family.name;
        let Some(old) = self.families.iter_mut().find(|old| old.family.name == name) else {
            self.families.push(new.clone());
            return Ok(());
        };
        let chosen = &self.chosen;
        let clash = |label| {
            let has = |chosen: &Schema| chosen.families().iter().any(|f| f.family.name == name);
            let first = chosen.iter().copied().find(has).unwrap_or(schema);
            let kind = new.family.kind;
            Clash { schemas: [first, schema], family: name, kind, label }
        };
        if (old.value, old.role) != (new.value, new.role) {
            return Err(clash(None));
        }
        for &(label, says) in new.labels.iter() {
            match old.labels.iter().find(|(old, _)| *old == label) {
                Some(&(_, said)) if said != says => return Err(clash(Some((label, [said, says])))),
                Some(_) => {}
                None => old.labels.to_mut().push((label, says)),
            }
        }
        Ok(())
    }

    pub(super) fn families(&self) -> &[CallFamily] {
        &self.families
    }

    /// The default bounds of histograms: all that the libraries of the schemas have.
    pub fn default_buckets(&self) -> Buckets {
        let more = self.chosen.iter().flat_map(|schema| schema.bounds_us());
        Buckets::default().and_microseconds(more.copied())
    }

    /// The statistics that must be recorded for these schemas.
    pub fn recording(&self, buckets: Buckets, exponential: bool) -> Recording {
        let has = |values: &[Value]| self.families.iter().any(|f| values.contains(&f.value));
        Recording {
            buckets,
            exponential,
            by_code: has(&[Value::HandlingByCode]),
            between_messages: has(&[Value::Receiving, Value::Sending]),
        }
    }
}

/// The error if two schemas have a family with the same name and different values or labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clash {
    schemas: [Schema; 2],
    family: &'static str,
    kind: Kind,
    /// The label that differs; `None` if the value does.
    label: Option<(&'static str, [LabelSource; 2])>,
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schemas: [first, second], family, kind, label } = self;
        let suffix = if *kind == Kind::Counter { "_total" } else { "" };
        write!(f, "{first} and {second} cannot be combined: both have {family}{suffix}, ")?;
        match label {
            Some((label, [one, other])) => {
                write!(f, "with {label}=\"{}\" and \"{}\"", one.example(), other.example())?;
            }
            None => f.write_str("with different meanings")?,
        }
        write!(f, "; choose one of them")
    }
}

impl std::error::Error for Clash {}

impl LabelSource {
    /// Its value for a unary call that was not found.
    fn example(self) -> &'static str {
        match self {
            Self::Type(Spelling::Go | Spelling::Thrift) => "unary",
            Self::Type(Spelling::Python) => "UNARY",
            Self::Code(Spelling::Go) => "NotFound",
            Self::Code(Spelling::Thrift) => "declared_exception",
            Self::Code(Spelling::Python) | Self::ErrorType => "NOT_FOUND",
            Self::Service => "shop.Orders",
            Self::Method => "Place",
            Self::Path => "/shop.Orders/Place",
            Self::FullMethod => "shop.Orders/Place",
            Self::Constant(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Schema, Schemas};

    fn labels(schemas: &Schemas, name: &str) -> Vec<&'static str> {
        let family = schemas.families().iter().find(|family| family.family.name == name);
        family.unwrap().labels.iter().map(|(label, _)| *label).collect()
    }

    #[test]
    fn what_goes_together() {
        let go = Schemas::new([Schema::Go, Schema::Go]).unwrap();
        assert_eq!(go, Schemas::default());
        let all_but_go = Schema::ALL.into_iter().skip(1);
        let schemas = Schemas::new(all_but_go).unwrap();
        for (name, want) in [
            (
                "grpc_server_handled",
                ["grpc_type", "grpc_service", "grpc_method", "grpc_code", "code"].as_slice(),
            ),
            ("grpc_server_started", &["grpc_type", "grpc_service", "grpc_method"]),
        ] {
            assert_eq!(labels(&schemas, name), want);
        }
        let mut names: Vec<_> = schemas.families().iter().map(|f| f.family.name).collect();
        let families = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), families, "a family twice");
        assert!(Schemas::new([Schema::Requests, Schema::Go, Schema::Otel]).is_ok());
    }

    #[test]
    fn what_does_not() {
        let error = |schemas: [Schema; 2]| Schemas::new(schemas).unwrap_err().to_string();
        assert_eq!(
            error([Schema::Go, Schema::Python]),
            "go and python cannot be combined: both have grpc_server_started_total, with \
             grpc_type=\"unary\" and \"UNARY\"; choose one of them"
        );
        assert!(error([Schema::Legacy, Schema::Go]).starts_with("legacy and go cannot"));
    }

    #[test]
    fn only_what_is_told_is_recorded() {
        let recording = |schema| {
            let schemas = Schemas::new([schema]).unwrap();
            let recording = schemas.recording(schemas.default_buckets(), false);
            (recording.by_code, recording.between_messages, recording.buckets.count())
        };
        assert_eq!(recording(Schema::Go), (false, false, 17));
        assert_eq!(recording(Schema::Python), (false, true, 20));
        assert_eq!(recording(Schema::Legacy), (false, false, 20));
        assert_eq!(recording(Schema::Requests), (false, false, 20));
        assert_eq!(recording(Schema::Otel), (true, false, 20));
    }

    #[test]
    fn thrift_alone_has_only_its_own_families() {
        for schema in Schema::ALL {
            let schemas = Schemas::new([schema]).unwrap().and_thrift().without_grpc();
            let families = schemas.families();
            assert!(!families.is_empty());
            for family in families {
                assert!(family.family.name.starts_with("thrift_"), "{family:?}");
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for schema in Schema::ALL {
            assert_eq!(schema.name().parse(), Ok(schema));
        }
        let error = "prometheus".parse::<Schema>().unwrap_err();
        assert!(error.contains("go, python, requests, legacy, otel"), "{error}");
    }
}

//! The default schema: that of go-grpc-prometheus and py-async-grpc-prometheus, so that dashboards
//! and alerts made for them work, with `pid` and `process` added to every series.
//!
//! What they do not have (bytes, calls in flight, first message, connections) is named alike.
//! `grpc_type` is only on the families that have it there: it may change once when a method turns
//! out to be a stream, and a gauge or a byte count need not break for that.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use crate::{
    grpc::{Code, Role},
    metrics::{
        GrpcType, Histogram, Series, Snapshot,
        family::Family,
        rows::{LabelValues, ProcessLabel, Row, connections, rows},
    },
};

type Result = std::result::Result<(), std::fmt::Error>;

/// Renders the calls of a snapshot.
#[derive(Debug)]
pub struct Calls {
    snapshot: Snapshot,
}

impl Calls {
    /// A collector for the calls in the snapshot.
    pub fn new(snapshot: Snapshot) -> Self {
        Self { snapshot }
    }
}

impl Collector for Calls {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result {
        let values = LabelValues::new(&self.snapshot);
        let rows = rows(&self.snapshot, &values);
        let connections = connections(&self.snapshot, &values);
        let bounds: Vec<f64> = self.snapshot.statistics.buckets().seconds().collect();
        for (role, families) in [(Role::Server, &SERVER), (Role::Client, &CLIENT)] {
            let start = rows.partition_point(|row| row.role < role);
            let end = rows.partition_point(|row| row.role <= role);
            let rows = rows.get(start..end).unwrap_or_default();
            encode_calls(&mut encoder, families, rows, &bounds)?;
            let connections = connections.iter().filter(|connection| connection.0 == role);
            encode_connections(&mut encoder, &families.connections, connections)?;
        }
        Ok(())
    }
}

struct Families {
    started: Family,
    handled: Family,
    msg_received: Family,
    msg_sent: Family,
    handling: Family,
    in_flight: Family,
    first_message: Family,
    msg_received_bytes: Family,
    msg_sent_bytes: Family,
    connections: Family,
}

static SERVER: Families = Families {
    started: Family::new("grpc_server_started", "Total number of RPCs started on the server."),
    handled: Family::new(
        "grpc_server_handled",
        "Total number of RPCs completed on the server, regardless of success or failure.",
    ),
    msg_received: Family::new(
        "grpc_server_msg_received",
        "Total number of RPC stream messages received on the server.",
    ),
    msg_sent: Family::new(
        "grpc_server_msg_sent",
        "Total number of gRPC stream messages sent by the server.",
    ),
    handling: Family::with_unit(
        "grpc_server_handling",
        Unit::Seconds,
        "Histogram of response latency (seconds) of gRPC that had been application-level handled \
         by the server.",
    ),
    in_flight: Family::new(
        "grpc_server_in_flight",
        "RPCs that have begun on the server and not ended.",
    ),
    first_message: Family::with_unit(
        "grpc_server_first_message",
        Unit::Seconds,
        "Histogram of the time from the request headers to the end of the first message sent by \
         the server.",
    ),
    msg_received_bytes: Family::with_unit(
        "grpc_server_msg_received",
        Unit::Bytes,
        "Total length of the messages received on the server, as on the wire.",
    ),
    msg_sent_bytes: Family::with_unit(
        "grpc_server_msg_sent",
        Unit::Bytes,
        "Total length of the messages sent by the server, as on the wire.",
    ),
    connections: Family::new("grpc_server_connections", "Connections open to the server."),
};

static CLIENT: Families = Families {
    started: Family::new("grpc_client_started", "Total number of RPCs started on the client."),
    handled: Family::new(
        "grpc_client_handled",
        "Total number of RPCs completed by the client, regardless of success or failure.",
    ),
    msg_received: Family::new(
        "grpc_client_msg_received",
        "Total number of RPC stream messages received by the client.",
    ),
    msg_sent: Family::new(
        "grpc_client_msg_sent",
        "Total number of gRPC stream messages sent by the client.",
    ),
    handling: Family::with_unit(
        "grpc_client_handling",
        Unit::Seconds,
        "Histogram of response latency (seconds) of the gRPC until it is finished by the \
         application.",
    ),
    in_flight: Family::new(
        "grpc_client_in_flight",
        "RPCs that have begun on the client and not ended.",
    ),
    first_message: Family::with_unit(
        "grpc_client_first_message",
        Unit::Seconds,
        "Histogram of the time from the request headers to the end of the first message received \
         by the client.",
    ),
    msg_received_bytes: Family::with_unit(
        "grpc_client_msg_received",
        Unit::Bytes,
        "Total length of the messages received by the client, as on the wire.",
    ),
    msg_sent_bytes: Family::with_unit(
        "grpc_client_msg_sent",
        Unit::Bytes,
        "Total length of the messages sent by the client, as on the wire.",
    ),
    connections: Family::new("grpc_client_connections", "Connections open from the client."),
};

/// The labels of a series of calls.
struct Labels<'a> {
    /// Only where go-grpc-prometheus has it.
    grpc_type: Option<GrpcType>,
    grpc_service: &'a str,
    grpc_method: &'a str,
    /// Only where calls are told apart by it.
    grpc_code: Option<&'static str>,
    process: &'a ProcessLabel,
}

fn untyped<'a>(row: &'a Row<'_>) -> Labels<'a> {
    Labels {
        grpc_type: None,
        grpc_service: &row.method.service,
        grpc_method: &row.method.method,
        grpc_code: None,
        process: row.process,
    }
}

fn typed<'a>(row: &'a Row<'_>) -> Labels<'a> {
    Labels { grpc_type: Some(row.grpc_type), ..untyped(row) }
}

fn with_code<'a>(row: &'a Row<'_>, code: &'static str) -> Labels<'a> {
    Labels { grpc_code: Some(code), ..typed(row) }
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result {
        let Self { grpc_type, grpc_service, grpc_method, grpc_code, process } = self;
        if let Some(grpc_type) = grpc_type {
            ("grpc_type", grpc_type.as_str()).encode(encoder.encode_label())?;
        }
        ("grpc_service", *grpc_service).encode(encoder.encode_label())?;
        ("grpc_method", *grpc_method).encode(encoder.encode_label())?;
        if let Some(grpc_code) = grpc_code {
            ("grpc_code", *grpc_code).encode(encoder.encode_label())?;
        }
        process.encode(encoder)
    }
}

impl EncodeLabelSet for ProcessLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result {
        let Self { pid, process } = self;
        ("pid", *pid).encode(encoder.encode_label())?;
        ("process", process.as_str()).encode(encoder.encode_label())
    }
}

/// Which labels the series of a family have.
type LabelsOf = for<'a> fn(&'a Row<'_>) -> Labels<'a>;

/// All families of one role but the connections.
fn encode_calls(
    encoder: &mut DescriptorEncoder<'_>,
    families: &Families,
    rows: &[Row<'_>],
    bounds: &[f64],
) -> Result {
    if rows.is_empty() {
        return Ok(());
    }
    counter(encoder, &families.started, rows, typed, |series| series.started)?;
    encode_handled(encoder, &families.handled, rows)?;
    counter(encoder, &families.msg_received, rows, typed, |series| series.received.count)?;
    counter(encoder, &families.msg_sent, rows, typed, |series| series.sent.count)?;
    histogram(encoder, &families.handling, rows, bounds, typed, |series| &series.handling)?;
    encode_in_flight(encoder, &families.in_flight, rows)?;
    histogram(encoder, &families.first_message, rows, bounds, untyped, |series| {
        &series.first_message
    })?;
    let (received, sent) = (&families.msg_received_bytes, &families.msg_sent_bytes);
    counter(encoder, received, rows, untyped, |series| series.received.bytes)?;
    counter(encoder, sent, rows, untyped, |series| series.sent.bytes)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    rows: &[Row<'_>],
    labels: LabelsOf,
    value: fn(&Series) -> u64,
) -> Result {
    let mut encoder = family.describe(encoder, MetricType::Counter)?;
    for row in rows {
        let value = value(&row.series);
        encoder.encode_family(&labels(row))?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}

/// A series per code that was seen.
fn encode_handled(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    rows: &[Row<'_>],
) -> Result {
    if rows.iter().all(|row| row.series.ended() == 0) {
        return Ok(());
    }
    let mut encoder = family.describe(encoder, MetricType::Counter)?;
    for row in rows {
        let codes = Code::ALL.into_iter().map(Code::as_camel_case).zip(row.series.handled);
        let not_seen = ("not_seen", row.series.handled_code_not_seen);
        for (code, count) in codes.chain([not_seen]).filter(|&(_, count)| count > 0) {
            encoder
                .encode_family(&with_code(row, code))?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

/// A series per row that has observations.
fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    rows: &[Row<'_>],
    bounds: &[f64],
    labels: LabelsOf,
    value: fn(&Series) -> &Histogram,
) -> Result {
    let mut observed =
        rows.iter().map(|row| (row, value(&row.series))).filter(|(_, h)| h.count() > 0).peekable();
    if observed.peek().is_none() {
        return Ok(());
    }
    let mut encoder = family.describe(encoder, MetricType::Histogram)?;
    let mut buckets = Vec::with_capacity(bounds.len() + 1);
    for (row, histogram) in observed {
        buckets.clear();
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        buckets.extend(bounds.zip(histogram.counts().iter().copied()));
        encoder.encode_family(&labels(row))?.encode_histogram::<NoLabelSet>(
            histogram.sum_seconds(),
            histogram.count(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}

fn encode_in_flight(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    rows: &[Row<'_>],
) -> Result {
    let mut encoder = family.describe(encoder, MetricType::Gauge)?;
    for row in rows {
        encoder.encode_family(&untyped(row))?.encode_gauge(&row.series.in_flight())?;
    }
    Ok(())
}

fn encode_connections<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    connections: impl Iterator<Item = &'a (Role, &'a ProcessLabel, u64)>,
) -> Result {
    let mut connections = connections.peekable();
    if connections.peek().is_none() {
        return Ok(());
    }
    let mut encoder = family.describe(encoder, MetricType::Gauge)?;
    for (_, process, count) in connections {
        encoder.encode_family(*process)?.encode_gauge(count)?;
    }
    Ok(())
}

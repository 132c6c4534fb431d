//! The families of the service graph: who calls whom. The first four are those that Grafana reads.

use observer_core::{
    call::{CallProtocol, Code},
    edges::{EdgeFigures, EdgeKey, Node},
    names::escape::escape,
    statistics::{EdgeSeries, Method},
};

use super::{
    Histogram, Snapshot,
    exposition::{Counter, Distribution, Family, Kind, Label, Series, Sink, Value},
};

const CALLS: Family = Family::new(
    Kind::Counter,
    "traces_service_graph_request",
    "Total calls from one service to another.",
);

const FAILED: Family = Family::new(
    Kind::Counter,
    "traces_service_graph_request_failed",
    "Total calls from one service to another that ended with a status code other than OK.",
);

const SERVER_SECONDS: Family = Family::new(
    Kind::Histogram,
    "traces_service_graph_request_server_seconds",
    "Time from the request headers to the end of a call, as the server's socket has seen it, in seconds.",
);

const CLIENT_SECONDS: Family = Family::new(
    Kind::Histogram,
    "traces_service_graph_request_client_seconds",
    "Time from the request headers to the end of a call, as the client's socket has seen it, in seconds.",
);

const BY_CODE: Family = Family::new(
    Kind::Counter,
    "grpc_edge_handled",
    "Total calls from one service to another, by method and status code.",
);

const METHOD_SERVER_SECONDS: Family = Family::new(
    Kind::Histogram,
    "grpc_edge_server_handling_seconds",
    "As traces_service_graph_request_server_seconds, by method.",
);

const METHOD_CLIENT_SECONDS: Family = Family::new(
    Kind::Histogram,
    "grpc_edge_client_handling_seconds",
    "As traces_service_graph_request_client_seconds, by method.",
);

/// The services at both ends, escaped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ends {
    client: [String; 2],
    server: [String; 2],
    /// Whether one of the two is not watched.
    pub(super) is_virtual: bool,
}

/// The calls of one method, or of all methods, between two services.
#[derive(Clone, Debug)]
pub(super) struct Row<'a> {
    pub(super) ends: Ends,
    method: Option<Method<'a>>,
    pub(super) series: EdgeSeries,
}

impl Ends {
    fn of(key: &EdgeKey) -> Self {
        let texts = |Node { name, namespace }: &Node| {
            [name, namespace].map(|text| escape(text.as_bytes()).into_owned())
        };
        Self { client: texts(&key.client), server: texts(&key.server), is_virtual: key.is_virtual }
    }

    /// The names of client and server, with their namespaces.
    pub(super) fn names(&self) -> [String; 2] {
        [&self.client, &self.server].map(|[name, namespace]| match &**namespace {
            "" => name.clone(),
            namespace => format!("{namespace}/{name}"),
        })
    }

    fn labels(&self) -> [Label<'_>; 5] {
        let Self { client: [client, client_in], server: [server, server_in], is_virtual } = self;
        [
            ("client", client),
            ("client_service_namespace", client_in),
            ("server", server),
            ("server_service_namespace", server_in),
            ("connection_type", if *is_virtual { "virtual_node" } else { "" }),
        ]
    }
}

/// The rows of all methods, and those of each method, sorted by labels.
fn rows(edges: &[EdgeFigures]) -> (Vec<Row<'_>>, Vec<Row<'_>>) {
    let mut by_method: Vec<Row<'_>> = edges.iter().map(Row::of_method).collect();
    // Names of several nodes, or paths, may read alike.
    by_method.sort_by(|a, b| (&a.ends, a.method).cmp(&(&b.ends, b.method)));
    let add_up = |rows: &mut Vec<Row<'_>>| {
        rows.dedup_by(|row, kept| {
            let is_same = (&row.ends, row.method) == (&kept.ends, kept.method);
            if is_same {
                kept.series.merge(&row.series);
            }
            is_same
        });
    };
    add_up(&mut by_method);
    let mut all: Vec<Row<'_>> =
        by_method.iter().map(|row| Row { method: None, ..row.clone() }).collect();
    add_up(&mut all);
    (all, by_method)
}

/// The calls of all methods between each two services, sorted by their names.
pub(super) fn by_services(edges: &[EdgeFigures]) -> Vec<Row<'_>> {
    rows(edges).0
}

/// Writes the families, if there is a service graph.
pub(super) fn write(snapshot: &Snapshot, sink: &mut dyn Sink) {
    let Some(edges) = &snapshot.edges else { return };
    let (all, by_method) = rows(edges);
    let bounds = snapshot.statistics.buckets().seconds().chain([f64::INFINITY]);
    let bounds: Vec<f64> = bounds.collect();
    let mut counters = |family: &Family, value: fn(&EdgeSeries) -> u64| {
        sink.family(family, &mut |series| {
            for row in &all {
                row.counter(value(&row.series), None, series);
            }
        });
    };
    counters(&CALLS, EdgeSeries::ended);
    counters(&FAILED, EdgeSeries::failed);
    sink.family(&BY_CODE, &mut |series| {
        for row in &by_method {
            for (code, calls) in row.series.codes() {
                row.counter(calls, Some(code), series);
            }
        }
    });
    let mut histograms = |family: &Family, rows: &[Row<'_>], of: fn(&EdgeSeries) -> &Histogram| {
        sink.family(family, &mut |series| {
            for row in rows {
                row.histogram(of(&row.series), &bounds, series);
            }
        });
    };
    histograms(&SERVER_SECONDS, &all, |series| &series.server);
    histograms(&CLIENT_SECONDS, &all, |series| &series.client);
    histograms(&METHOD_SERVER_SECONDS, &by_method, |series| &series.server);
    histograms(&METHOD_CLIENT_SECONDS, &by_method, |series| &series.client);
}

impl<'a> Row<'a> {
    fn of_method(of: &'a EdgeFigures) -> Self {
        let EdgeFigures { key, text, series } = of;
        let method =
            Some(Method::new(CallProtocol::Grpc, key.path, text.as_deref().unwrap_or_default()));
        Self { ends: Ends::of(key), method, series: series.clone() }
    }
}

impl Row<'_> {
    /// Writes a counter, with the label of a code if there is one.
    #[expect(clippy::option_option, reason = "no label, and the label of a code that was not seen")]
    fn counter(&self, value: u64, code: Option<Option<Code>>, to: &mut Series<'_>) {
        let mut labels = self.labels();
        labels.extend(code.map(|code| ("grpc_code", code.map_or("not_seen", Code::as_camel_case))));
        let created = Some(self.series.created_ns);
        to(&labels, Value::Counter(Counter { value: value.into(), exemplar: None, created }));
    }

    /// Writes a histogram, if an end has observed something.
    fn histogram(&self, histogram: &Histogram, bounds: &[f64], to: &mut Series<'_>) {
        if histogram.count() > 0 {
            let created = Some(self.series.created_ns);
            to(&self.labels(), Value::Histogram(Distribution { histogram, bounds, created }));
        }
    }

    fn labels(&self) -> Vec<Label<'_>> {
        let mut labels: Vec<Label<'_>> = self.ends.labels().into();
        match self.method {
            Some(Method { service, method, .. }) => {
                labels.extend([("grpc_service", service), ("grpc_method", method)]);
            }
            // Tempo and other programs publish families with these names.
            None => labels.push(("source", "observer")),
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use observer_core::{call::Role, names::PathId, statistics::Recording};

    use super::*;
    use crate::metrics::{Buckets, Format, Limits, Statistics, render, snapshot_of};
    use observer_core::process::Processes;

    fn node(name: &str, namespace: &str) -> Arc<Node> {
        Arc::new(Node { name: name.into(), namespace: namespace.into() })
    }

    fn recording() -> Recording {
        "0.001,1".parse::<Buckets>().unwrap().into()
    }

    /// An edge to orders with calls that both ends have seen: their codes, each half a second long.
    fn edge(client: &str, path: Option<&str>, codes: &[Option<Code>]) -> EdgeFigures {
        let mut series = EdgeSeries::new(&recording(), 1_000_000_000);
        for code in codes {
            for role in [Role::Client, Role::Server] {
                let counts = role == Role::Client;
                series.add(&recording(), role, counts, *code, Some(500_000_000));
            }
        }
        let path_id = path.map_or(PathId::OTHER, |_| PathId(7));
        let (client, server) = (node(client, "prod"), node("orders\n", ""));
        let key = EdgeKey { client, server, is_virtual: path.is_none(), path: path_id };
        EdgeFigures { key, text: path.map(Into::into), series }
    }

    #[test]
    fn the_text_of_the_families() {
        let edges = vec![
            edge("shop", Some("/s.S/Get"), &[Some(Code::Ok), Some(Code::NotFound), None]),
            edge("shop", Some("/s.S/Put"), &[Some(Code::Ok)]),
            // It reads like the next one.
            edge("web", Some("/other/other"), &[Some(Code::Ok)]),
            EdgeFigures {
                key: EdgeKey { is_virtual: false, ..edge("web", None, &[]).key },
                ..edge("web", None, &[Some(Code::Ok)])
            },
        ];
        let statistics = Statistics::new(recording(), Limits::default());
        let mut snapshot = snapshot_of(statistics, &[""; 0], &Processes::new(1));
        snapshot.edges = Some(Arc::new(edges));
        let text = String::from_utf8(render(&snapshot, Format::PrometheusText)).unwrap();
        let of = |family: &str| {
            let lines = text.lines().filter(|line| line.starts_with(family));
            lines.map(|line| line.replace(family, "")).collect::<Vec<_>>()
        };
        let ends = |client: &str| {
            format!(
                "client=\"{client}\",client_service_namespace=\"prod\",server=\"orders\\\\x0a\",\
                 server_service_namespace=\"\",connection_type=\"\""
            )
        };
        let line =
            |client: &str, more: &str, value: u64| format!("{{{},{more}}} {value}", ends(client));
        let source = "source=\"observer\"";
        let total = [line("shop", source, 4), line("web", source, 2)];
        assert_eq!(of("traces_service_graph_request_total"), total);
        let failed = [line("shop", source, 1), line("web", source, 0)];
        assert_eq!(of("traces_service_graph_request_failed_total"), failed);
        for side in ["client", "server"] {
            let family = format!("traces_service_graph_request_{side}_seconds_count");
            assert_eq!(of(&family), total);
            let family = format!("grpc_edge_{side}_handling_seconds_count");
            assert_eq!(of(&family).len(), 3);
        }
        let method = |method: &str, code: &str| {
            let (service, method) = method.split_once('/').unwrap();
            format!("grpc_service=\"{service}\",grpc_method=\"{method}\",grpc_code=\"{code}\"")
        };
        assert_eq!(
            of("grpc_edge_handled_total"),
            [
                line("shop", &method("s.S/Get", "OK"), 1),
                line("shop", &method("s.S/Get", "NotFound"), 1),
                line("shop", &method("s.S/Get", "not_seen"), 1),
                line("shop", &method("s.S/Put", "OK"), 1),
                line("web", &method("other/other", "OK"), 2),
            ]
        );
        snapshot.edges = None;
        let text = String::from_utf8(render(&snapshot, Format::PrometheusText)).unwrap();
        assert!(!text.contains("service_graph"), "{text}");
    }
}

//! The metric families of the daemon's own figures.

use super::{
    ConnectionsByProtocol, Daemon, DroppedRecords, HttpFigures, OwnProcess, PodRequests, Program,
    TlsFiles,
};
use crate::{
    failures::Dropped,
    metrics::{
        CallsByCoverage, CallsSeen, Snapshot,
        exposition::{Counter, Family, Kind, Label, Number, Sink, Value},
    },
    otlp::{DeliveryFigures, OtlpFigures},
};
use observer_core::{
    call::Coverage, names::escape::escape, pipeline::Connections, process::LookupCounts,
    protocol::Streams,
};

/// Writes the daemon's own figures in a snapshot.
pub(in crate::metrics) fn write(snapshot: &Snapshot, sink: &mut dyn Sink) {
    let Snapshot { statistics, daemon, .. } = snapshot;
    let Daemon {
        backend,
        started_ns,
        clock: _,
        records,
        ring_bytes,
        gaps,
        dropped_records,
        connections,
        connections_seen,
        hpack_unknown_references,
        hpack_errors,
        streams,
        unmeasured,
        processes_overflow,
        edges_overflow,
        lookups: LookupCounts { answered, gone, late },
        memory_limit_bytes,
        memory_is_short,
        programs,
        pod_requests,
        log_errors_dropped,
        otlp,
        otlp_metrics,
        tls_files,
        http,
        own,
    } = daemon.as_ref();
    let mut writer = Writer { sink, created: *started_ns };
    writer.info(
        "observer_build",
        "Version and backend of the daemon.",
        &[("version", env!("CARGO_PKG_VERSION")), ("backend", backend)],
    );
    writer.counter("observer_records", "Total records read from the kernel.", *records);
    writer.counter(
        "observer_ring_bytes",
        "Total bytes of the records read from the kernel.",
        *ring_bytes,
    );
    writer.counters(
        "observer_gaps",
        "Total gaps, by cause: events in which the daemon missed something.",
        "cause",
        gaps.iter().map(|gap| (gap.cause, gap.events)),
    );
    writer.counters(
        "observer_gap_bytes",
        "Total bytes of watched connections that were missed, by cause, where the number is known.",
        "cause",
        gaps.iter().map(|gap| (gap.cause, gap.bytes)),
    );
    writer.dropped_records(dropped_records);
    writer.connections(*connections);
    writer.connections_seen(*connections_seen);
    writer.calls(statistics.calls());
    writer.counter(
        "observer_excluded_calls",
        "Total ended calls of methods that --exclude leaves out; they are in no other metric of \
         calls.",
        statistics.excluded(),
    );
    writer.counter(
        "observer_hpack_unknown_references",
        "Total header fields that refer to a table entry from before the connection was watched.",
        *hpack_unknown_references,
    );
    writer.counter(
        "observer_hpack_errors",
        "Total field blocks (compressed HTTP/2 headers) that could not be decoded.",
        *hpack_errors,
    );
    writer.gauge("observer_streams", "Open HTTP/2 streams.", *streams);
    writer.unmeasured(*unmeasured);
    writer.gauge(
        "observer_series",
        "Series of calls: one per method, process and side (server or client).",
        statistics.len() as u64,
    );
    writer.counter(
        "observer_series_overflow",
        "Total calls counted as method other because a limit on methods was reached.",
        statistics.overflow(),
    );
    writer.counter(
        "observer_series_late_events",
        "Total events of calls whose process was already forgotten; they are in no other series.",
        statistics.late(),
    );
    writer.counter(
        "observer_processes_overflow",
        "Total times that a process was counted as process other because a limit on processes, or \
         on the names of one process, was reached.",
        *processes_overflow,
    );
    if let Some(overflow) = *edges_overflow {
        writer.counter(
            "observer_edges_overflow",
            "Total calls counted between other services, or as other methods, in the service graph \
             because its limit was reached.",
            overflow,
        );
    }
    writer.counters(
        "observer_process_lookups",
        "Total lookups of processes in /proc, by outcome: answered; gone, the process had exited; \
         late, a scrape was answered first, with empty labels.",
        "outcome",
        [("answered", *answered), ("gone", *gone), ("late", *late)],
    );
    writer.gauge_if_known(
        "observer_memory_limit_bytes",
        "Memory limit of the daemon's cgroup.",
        *memory_limit_bytes,
    );
    writer.gauge(
        "observer_memory_short",
        "1 while memory is near the limit and the daemon takes no new method, process or \
         connection, else 0.",
        u64::from(*memory_is_short),
    );
    writer.programs(programs);
    if let Some(PodRequests { answered, failed }) = *pod_requests {
        writer.counters(
            "observer_pod_requests",
            "Total requests for pod names, by outcome.",
            "outcome",
            [("answered", answered), ("failed", failed)],
        );
    }
    if let Some(Dropped { rate_limit, output }) = *log_errors_dropped {
        writer.counters(
            "observer_log_errors_dropped",
            "Total failed calls without a line of --log-errors, because of its rate limit or \
             because stdout was blocked.",
            "reason",
            [("rate_limit", rate_limit), ("output", output)],
        );
    }
    writer.otlp(*otlp, *otlp_metrics);
    if let Some(files) = tls_files {
        writer.tls_files(files);
    }
    if let Some(HttpFigures { password_checks, refused }) = http {
        writer.counter(
            "observer_http_password_checks",
            "Total passwords that the HTTP server hashed, right or wrong. A password that was \
             accepted before is not hashed again.",
            *password_checks,
        );
        writer.counters(
            "observer_http_refused",
            "Total HTTP connections and requests refused, by reason.",
            "reason",
            refused.iter().copied(),
        );
    }
    writer.own_process(own);
}

/// Writes families to a sink.
struct Writer<'a> {
    sink: &'a mut dyn Sink,
    /// The time since when the counters count, if it is known.
    created: Option<u64>,
}

impl Writer<'_> {
    fn info(&mut self, name: &'static str, help: &'static str, labels: &[Label<'_>]) {
        let family = Family::new(Kind::Info, name, help);
        self.sink.family(&family, &mut |series| series(labels, Value::Info));
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: impl Into<Number>) {
        let value = value.into();
        self.family_of_counters(name, help, |count| count(&[], value));
    }

    /// Writes a counter by a label. Without values, the family is left out.
    fn counters<'a, V: Into<Number>>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, V)>,
    ) {
        let mut values = values.into_iter();
        self.family_of_counters(name, help, |count| {
            for (value, number) in &mut values {
                count(&[(label, value)], number.into());
            }
        });
    }

    fn family_of_counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        mut write: impl FnMut(&mut dyn FnMut(&[Label<'_>], Number)),
    ) {
        let created = self.created;
        self.sink.family(&Family::new(Kind::Counter, name, help), &mut |series| {
            write(&mut |labels, value| {
                series(labels, Value::Counter(Counter { value, exemplar: None, created }));
            });
        });
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: impl Into<Number>) {
        let value = value.into();
        let family = Family::new(Kind::Gauge, name, help);
        self.sink.family(&family, &mut |series| series(&[], Value::Gauge(value)));
    }

    /// Writes a gauge, if its value is known.
    fn gauge_if_known(
        &mut self,
        name: &'static str,
        help: &'static str,
        value: Option<impl Into<Number>>,
    ) {
        if let Some(value) = value {
            self.gauge(name, help, value);
        }
    }

    fn dropped_records(&mut self, dropped: &[DroppedRecords]) {
        self.family_of_counters(
            "observer_dropped_records",
            "Total records dropped because the ring buffer was full, for the ten processes with \
             the most.",
            |count| {
                for DroppedRecords { pid, comm, records } in dropped {
                    let (pid, comm) = (pid.to_string(), escape(comm.as_bytes()));
                    count(&[("pid", &pid), ("process", &comm)], (*records).into());
                }
            },
        );
    }

    fn tls_files(&mut self, TlsFiles(files): &TlsFiles) {
        self.family_of_counters(
            "observer_tls_files",
            "Total TLS libraries found in files of processes, and files without one, by result: \
             attached, or why not.",
            |count| {
                for ((library, result), number) in files {
                    count(&[("library", library), ("result", result)], (*number).into());
                }
            },
        );
    }

    fn connections(&mut self, connections: Connections) {
        let Connections { complete, joined_late, gaps, undecodable } = connections;
        let states = [
            (Coverage::Complete.as_str(), complete),
            (Coverage::JoinedLate.as_str(), joined_late),
            (Coverage::Gaps.as_str(), gaps),
            ("undecodable", undecodable),
        ];
        let help = "Open connections, by how completely their calls can be seen.";
        let family = Family::new(Kind::Gauge, "observer_connections", help);
        self.sink.family(&family, &mut |series| {
            for (state, count) in states {
                series(&[("state", state)], Value::Gauge(count.into()));
            }
        });
    }

    fn connections_seen(&mut self, seen: ConnectionsByProtocol) {
        let ConnectionsByProtocol { grpc, http2, http1, tls, thrift, yamux, other } = seen;
        // Not `observer_connections_total`: OpenMetrics names a counter's family without `_total`, and the gauge
        // already has that name.
        self.counters(
            "observer_connections_seen",
            "Total connections, by detected protocol.",
            "protocol",
            [
                ("grpc", grpc),
                ("http2", http2),
                ("http1", http1),
                ("tls", tls),
                ("thrift", thrift),
                ("yamux", yamux),
                ("other", other),
            ],
        );
    }

    fn calls(&mut self, calls: &CallsByCoverage) {
        self.family_of_counters(
            "observer_calls",
            "Total ended calls, by how complete their connection was and by what is known of the \
             call.",
            |count| {
                for connection in Coverage::ALL {
                    let CallsSeen { complete, no_method, no_code, nothing } = calls.of(connection);
                    for (seen, calls) in [
                        ("complete", complete),
                        ("no_method", no_method),
                        ("no_code", no_code),
                        ("nothing", nothing),
                    ] {
                        let labels = [("connection", connection.as_str()), ("seen", seen)];
                        count(&labels, calls.into());
                    }
                }
            },
        );
    }

    fn unmeasured(&mut self, streams: Streams) {
        let Streams { measured: _, not_grpc, unclear, unconfirmed, too_many } = streams;
        // Not `observer_streams_unmeasured`: the name of a family should not start with the name of another.
        self.counters(
            "observer_unmeasured_streams",
            "Total HTTP/2 streams that are in no series, by reason: not gRPC, unclear whether they \
             are, not confirmed by the other end, or too many at once.",
            "reason",
            [
                ("not_grpc", not_grpc),
                ("unclear", unclear),
                ("unconfirmed", unconfirmed),
                ("too_many", too_many),
            ],
        );
    }

    fn otlp(&mut self, spans: Option<OtlpFigures>, points: Option<DeliveryFigures>) {
        if let Some(OtlpFigures { not_sampled, not_seen, queue_full, sent }) = spans {
            let before =
                [("not_sampled", not_sampled), ("not_seen", not_seen), ("queue_full", queue_full)];
            self.counters(
                "observer_otlp_spans",
                "Total ended calls, by what became of their span: exported; not sampled; not \
                 seen, because the start, the end or the trace of the call was not; queue full; \
                 refused or rejected by the receiver; gave up, because the receiver did not answer \
                 in time.",
                "outcome",
                delivered(sent).into_iter().chain(before),
            );
        }
        if let Some(points) = points {
            self.counters(
                "observer_otlp_data_points",
                "Total data points of exported metrics, by outcome, as for spans.",
                "outcome",
                delivered(points),
            );
        }
        let signals = [("traces", spans.map(|spans| spans.sent)), ("metrics", points)];
        if spans.is_none() && points.is_none() {
            return;
        }
        let help = "Total export requests, by outcome. A request that is sent again counts again.";
        self.family_of_counters("observer_otlp_requests", help, |count| {
            for (signal, sent) in signals {
                let Some(sent) = sent else { continue };
                for (outcome, requests) in [("answered", sent.answered), ("failed", sent.failed)] {
                    count(&[("signal", signal), ("outcome", outcome)], requests.into());
                }
            }
        });
    }

    fn programs(&mut self, programs: &[Program]) {
        self.counters(
            "observer_program_runs",
            "Total invocations of a BPF program, while kernel.bpf_stats_enabled is 1.",
            "program",
            programs.iter().map(|program| (program.name.as_str(), program.runs)),
        );
        self.counters(
            "observer_program_misses",
            "Total invocations of a BPF program that the kernel skipped because the program was \
             already running on that CPU.",
            "program",
            programs.iter().map(|program| (program.name.as_str(), program.misses)),
        );
        self.counters(
            "observer_program_run_seconds",
            "Total CPU time spent in a BPF program, while kernel.bpf_stats_enabled is 1.",
            "program",
            programs
                .iter()
                .map(|program| (program.name.as_str(), program.run_time_ns as f64 / 1e9)),
        );
    }

    fn own_process(&mut self, own: &OwnProcess) {
        let OwnProcess {
            cpu_seconds,
            resident_memory_bytes,
            virtual_memory_bytes,
            open_fds,
            max_fds,
            start_time_seconds,
            threads,
        } = *own;
        if let Some(cpu_seconds) = cpu_seconds {
            let help = "Total user and system CPU time spent.";
            self.counter("process_cpu_seconds", help, cpu_seconds);
        }
        let name = "process_resident_memory_bytes";
        self.gauge_if_known(name, "Resident memory size.", resident_memory_bytes);
        let name = "process_virtual_memory_bytes";
        self.gauge_if_known(name, "Virtual memory size.", virtual_memory_bytes);
        self.gauge_if_known("process_open_fds", "Number of open file descriptors.", open_fds);
        self.gauge_if_known("process_max_fds", "Maximum number of open file descriptors.", max_fds);
        let help = "Start time of the process since the Unix epoch.";
        self.gauge_if_known("process_start_time_seconds", help, start_time_seconds);
        self.gauge_if_known("process_threads", "Number of threads.", threads);
    }
}

/// The items that were sent, by outcome.
fn delivered(sent: DeliveryFigures) -> [(&'static str, u64); 4] {
    let DeliveryFigures { exported, refused, rejected, gave_up, answered: _, failed: _ } = sent;
    [("exported", exported), ("refused", refused), ("rejected", rejected), ("gave_up", gave_up)]
}

//! Adds up the daemon's figures of several workers.

use super::{ConnectionsByProtocol, Daemon};

impl Daemon {
    /// Adds the figures of another worker. Figures of the whole daemon stay as they are.
    pub(in crate::metrics) fn merge(&mut self, other: &Self) {
        // Destructured, so that a new figure cannot be forgotten.
        let Self {
            backend: _,
            started_ns: _,
            clock: _,
            records,
            ring_bytes,
            gaps,
            dropped_records: _,
            connections,
            connections_seen,
            hpack_unknown_references,
            hpack_errors,
            streams,
            unmeasured,
            processes_overflow: _,
            edges_overflow: _,
            lookups: _,
            memory_limit_bytes: _,
            memory_is_short: _,
            programs: _,
            pod_requests: _,
            log_errors_dropped: _,
            otlp: _,
            otlp_metrics: _,
            tls_files: _,
            http: _,
            own: _,
        } = other;
        self.records += records;
        self.ring_bytes += ring_bytes;
        for gap in gaps {
            match self.gaps.iter_mut().find(|of| of.cause == gap.cause) {
                Some(of) => {
                    of.events += gap.events;
                    of.bytes += gap.bytes;
                }
                None => self.gaps.push(*gap),
            }
        }
        self.connections += *connections;
        let ConnectionsByProtocol { grpc, http2, http1, tls, thrift, yamux, other } =
            connections_seen;
        let seen = &mut self.connections_seen;
        seen.grpc += grpc;
        // The BPF programs counted the connection as HTTP/2, before its first call.
        seen.http2 = (seen.http2 + http2).saturating_sub(*grpc);
        seen.http1 += http1;
        seen.tls += tls;
        seen.thrift += thrift;
        seen.yamux += yamux;
        seen.other += other;
        self.hpack_unknown_references += hpack_unknown_references;
        self.hpack_errors += hpack_errors;
        self.streams += streams;
        self.unmeasured += *unmeasured;
    }
}

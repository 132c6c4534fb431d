//! The part of the first worker: what it alone does, for all workers.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;
use observer_common::counter::Protocol;
use tracing::{info, warn};

use super::{Request, Requests};
use crate::{
    clock::{Clock, monotonic_ns},
    config::{Config, Tls},
    kernel::Probes,
    memory::Budget,
    metrics::{Daemon, OwnProcess},
};

/// Sweeps take at most 1/`SWEEP_PART` of one CPU's time: with tens of thousands of connections there are fewer sweeps.
const SWEEP_PART: u32 = 200;

/// The longest time between two sweeps.
const SWEEP_LIMIT: Duration = Duration::from_secs(10);

/// Maximum number of processes with dropped records that are published.
const MOST_DROPPED: usize = 10;

/// The part of the first worker. It alone uses the BPF programs, and it decides which processes have expired. The other
/// workers get requests only from it, so that at each snapshot all have dropped the same processes.
pub(super) struct Lead {
    others: Vec<Requests>,
    backend: String,
    /// When the BPF programs were attached, in nanoseconds of the kernel's monotonic clock.
    started_ns: u64,
    /// `None` once they are detached.
    pub(super) probes: Option<Probes>,
    /// The figures of the BPF programs when they were detached.
    last: Daemon,
    sweep_at: Instant,
    /// Exits and renames that may not have been reported, as of the last tick.
    pub(super) ends_unreported: u64,
    /// Protocols to log, once, if a connection carries them instead of one that is watched.
    unexpected: Vec<Protocol>,
    /// Whether TLS connections are to be followed.
    tls: Tls,
    /// Whether gRPC is not watched.
    is_without_grpc: bool,
    pub(super) budget: Budget,
    /// Whether memory was short at the last check.
    pub(super) is_short: bool,
}

impl Lead {
    pub(super) fn new(
        config: &Config,
        probes: Probes,
        others: Vec<Requests>,
        budget: Budget,
    ) -> Self {
        let mut unexpected = Vec::new();
        if !config.filter.selects_all() {
            unexpected.push(Protocol::Tls);
        }
        // A process may have other connections, and usually has.
        if !config.filter.ports.is_empty() {
            unexpected.extend([Protocol::Yamux, Protocol::Other]);
            if !config.relatives.any() {
                unexpected.push(Protocol::Http1);
            }
            if !config.protocols.grpc {
                unexpected.push(Protocol::Http2);
            }
        }
        Self {
            others,
            backend: probes.backend().to_string(),
            started_ns: monotonic_ns(),
            probes: Some(probes),
            last: Daemon::default(),
            sweep_at: Instant::now(),
            ends_unreported: 0,
            unexpected,
            tls: config.tls,
            is_without_grpc: !config.protocols.grpc,
            budget,
            is_short: false,
        }
    }

    pub(super) fn ask_others(&self, request: &Request, pending: &AtomicUsize) {
        for other in &self.others {
            pending.fetch_add(1, Ordering::Relaxed);
            // The caller that waits for the answer notices a worker that has ended.
            let _ = other.send(request.clone());
        }
    }

    /// Sweeps: makes the BPF programs look for connections that ended without a tracepoint.
    pub(super) fn sweep(&mut self) {
        let Some(probes) = &self.probes else { return };
        let begin = Instant::now();
        if begin < self.sweep_at {
            return;
        }
        if let Err(error) = probes.sweep() {
            warn!("cannot sweep for ended connections: {error:#}");
        }
        let pause = begin.elapsed().saturating_mul(SWEEP_PART).min(SWEEP_LIMIT);
        self.sweep_at = begin + pause;
    }

    pub(super) fn detach(&mut self) {
        self.last = self.figures();
        self.probes = None;
    }

    pub(super) fn log_shortage(&self) {
        let limit = self.budget.limit().unwrap_or_default() >> 20;
        if self.is_short {
            warn!(
                "memory is near the limit of {limit} MiB: the daemon takes no new methods, \
                 processes and connections, but counts them (observer_series_overflow_total, \
                 observer_processes_overflow_total, observer_gaps_total{{cause=\"memory_limit\"}})"
            );
        } else {
            info!("memory is no longer near the limit of {limit} MiB: new ones are taken again");
        }
    }

    /// Logs unexpected protocols: a user who selects a port or a process should see why it has no calls.
    pub(super) fn log_protocols(&mut self) {
        let Some(probes) = self.probes.as_ref().filter(|_| !self.unexpected.is_empty()) else {
            return;
        };
        let protocols = probes.protocols().unwrap_or_default();
        self.unexpected.retain(|unexpected| {
            let is_seen =
                protocols.iter().any(|(protocol, seen)| protocol == unexpected && *seen > 0);
            if is_seen {
                let what = match unexpected {
                    Protocol::Tls if self.tls == Tls::Auto => {
                        "TLS that is not followed (`observer connections` shows why)"
                    }
                    Protocol::Tls => {
                        "TLS, which observer follows only with --tls auto and in known TLS libraries"
                    }
                    Protocol::Http1 => "HTTP/1, which is measured only after an upgrade to HTTP/2",
                    Protocol::Thrift => "Thrift",
                    Protocol::Yamux => "yamux, in which connections are not watched",
                    Protocol::Http2 => "HTTP/2, which is not watched without grpc in --protocol",
                    Protocol::Other if self.is_without_grpc => "a protocol other than Thrift",
                    Protocol::Other => "a protocol other than HTTP/2",
                };
                info!(
                    "a selected connection carries {what}: counted in \
                     observer_connections_seen_total{{protocol=\"{}\"}}",
                    unexpected.label()
                );
            }
            !is_seen
        });
    }

    /// The figures of the BPF programs and of the daemon's process.
    pub(super) fn figures(&self) -> Daemon {
        let mut daemon = match &self.probes {
            Some(probes) => of_kernel(probes).unwrap_or_else(|error| {
                warn!("cannot read the statistics of the BPF programs: {error:#}");
                self.last.clone()
            }),
            None => self.last.clone(),
        };
        daemon.backend.clone_from(&self.backend);
        daemon.started_ns = Some(self.started_ns);
        daemon.clock = Clock::read();
        daemon.own = OwnProcess::read();
        daemon.memory_limit_bytes = self.budget.limit();
        daemon.memory_is_short = self.is_short;
        daemon
    }
}

/// The figures of the BPF programs.
fn of_kernel(probes: &Probes) -> Result<Daemon> {
    let mut daemon = Daemon {
        gaps: probes.gaps()?,
        dropped_records: probes.dropped(MOST_DROPPED)?,
        programs: probes.programs()?,
        ..Daemon::default()
    };
    for (protocol, count) in probes.protocols()? {
        let seen = &mut daemon.connections_seen;
        match protocol {
            Protocol::Http2 => seen.http2 = count,
            Protocol::Http1 => seen.http1 = count,
            Protocol::Tls => seen.tls = count,
            Protocol::Thrift => seen.thrift = count,
            Protocol::Yamux => seen.yamux = count,
            Protocol::Other => seen.other = count,
        }
    }
    Ok(daemon)
}

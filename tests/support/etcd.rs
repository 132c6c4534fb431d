//! etcd from Debian's package, whose grpc-go interceptors count calls.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::daemon::{Log, free_address, http_get};
use crate::openmetrics::{Labels, label};
use crate::pace::{self, POLL};
use crate::peer::Identity;
use crate::process::{Process, is_installed};

/// Time for etcd to start or to end.
const LIMIT: Duration = Duration::from_secs(30);

/// Whether etcd is installed. With `CI` in the environment it must be.
pub fn is_there() -> Result<bool> {
    is_installed("etcd", "--version")
}

/// A running etcd, alone in its cluster.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    /// The address for clients.
    pub clients: SocketAddr,
    metrics: SocketAddr,
    log: Log,
    _folder: TempDir,
}

impl Etcd {
    /// Starts an etcd and waits until it serves.
    pub fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("etcd-").context("create a folder")?;
        let [clients, peers, metrics] = [free_address()?, free_address()?, free_address()?];
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .arg(format!("--listen-client-urls=http://{clients}"))
            .arg(format!("--advertise-client-urls=http://{clients}"))
            .arg(format!("--listen-peer-urls=http://{peers}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peers}"))
            .arg(format!("--initial-cluster=default=http://{peers}"))
            .arg(format!("--listen-metrics-urls=http://{metrics}"))
            // It would be a client of etcd.
            .arg("--enable-grpc-gateway=false")
            .args(["--logger=zap", "--log-level=error"])
            .stdout(Stdio::null());
        let (process, log) = Process::logged(&mut command)?;
        let mut etcd = Self { process, clients, metrics, log, _folder: folder };
        let begin = Instant::now();
        while !http_get(metrics, "/health").is_ok_and(|(status, _)| status == 200) {
            let in_time = begin.elapsed() < pace::limit(LIMIT) && etcd.process.is_running()?;
            ensure!(in_time, "etcd does not serve: {}", etcd.log.text());
            sleep(POLL);
        }
        Ok(etcd)
    }

    /// Its process.
    pub fn identity(&self) -> Result<Identity> {
        Ok(Identity { name: "etcd".into(), pid: self.process.pid(), comm: self.process.comm()? })
    }

    /// Its own counters that are not 0, by [`key`].
    pub fn counts(&self) -> Result<BTreeMap<String, f64>> {
        let (status, text) = http_get(self.metrics, "/metrics")?;
        ensure!(status == 200, "etcd's /metrics answers with status {status}");
        let lines = text.lines().filter(|line| line.starts_with("grpc_server_"));
        let counts = lines.map(|line| {
            let (family, rest) = line.split_once('{').context("no labels")?;
            let (labels, value) = rest.rsplit_once("} ").context("no value")?;
            // No label has a quote or a comma in it.
            let labels: Labels = labels
                .split(',')
                .filter_map(|label| label.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
                .collect();
            Ok((key(family, &labels), value.parse::<f64>()?))
        });
        counts.filter(|count| !matches!(count, Ok((_, 0.0)))).collect()
    }

    /// Ends it by SIGTERM.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(LIMIT).with_context(|| self.log.text())?;
        Ok(())
    }
}

/// A series as `family /service/method code`; the code is empty if the family has none.
pub fn key(family: &str, labels: &Labels) -> String {
    let [service, method, code] =
        ["grpc_service", "grpc_method", "grpc_code"].map(|name| label(labels, name));
    format!("{family} /{service}/{method} {code}")
}

//! TLS and passwords of the HTTP server, read again when their files change: certificates are renewed while the daemon
//! runs, and users change.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hyper::HeaderMap;
use rustls::ServerConfig;
use tracing::{info, warn};

use super::auth::{Gate, Users};
use super::tls;
use super::web_config::{TlsConfig, WebConfig};
use crate::sync::lock;

/// The time between two checks of the files.
const INTERVAL: Duration = Duration::from_secs(1);

/// TLS and basic authentication, from the file of `--web-config-file`.
#[derive(Debug)]
pub struct Protection {
    /// `None` without a file: neither TLS nor passwords.
    file: Option<PathBuf>,
    interval: Duration,
    state: Mutex<State>,
    /// One for all passwords, even after users change.
    pub(super) gate: Gate,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    /// The stamps of the files when they were last read, successfully or not.
    stamps: Vec<Stamp>,
    terms: Arc<Terms>,
}

/// The terms for a connection or a request.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) users: Arc<Users>,
    /// Headers that are added to each answer without them.
    pub(super) headers: HeaderMap,
}

/// The stamp of a file: it changes when the file is replaced or written. `None` if the file is not there.
type Stamp = (PathBuf, Option<[i64; 4]>);

impl Protection {
    /// Reads the file, and the files that it names. Without a file, there is no protection.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let (stamps, terms) = match file {
            Some(file) => load(file)?,
            None => (Vec::new(), Terms::none()?),
        };
        let state = State { looked: Instant::now(), stamps, terms: Arc::new(terms) };
        let (file, state) = (file.map(Path::to_owned), Mutex::new(state));
        Ok(Self { file, interval: INTERVAL, state, gate: Gate::default() })
    }

    /// The files that are read again when they change.
    pub fn files(&self) -> Vec<PathBuf> {
        lock(&self.state).stamps.iter().map(|(path, _)| path.clone()).collect()
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if lock(&self.state).terms.tls.is_some() { "https" } else { "http" }
    }

    /// The present terms. Reads the files again if they have changed.
    pub(super) async fn terms(self: &Arc<Self>) -> Arc<Terms> {
        if self.is_due() {
            let protection = Arc::clone(self);
            // The files may be on a slow disk.
            let looked = tokio::task::spawn_blocking(move || protection.look_again()).await;
            if let Err(error) = looked {
                warn!(%error, "cannot check the web config for changes");
            }
        }
        Arc::clone(&lock(&self.state).terms)
    }

    /// Whether the files should be checked now. Then the next check is due after the interval.
    fn is_due(&self) -> bool {
        let mut state = lock(&self.state);
        let due = self.file.is_some() && state.looked.elapsed() >= self.interval;
        if due {
            state.looked = Instant::now();
        }
        due
    }

    /// Reads the files again if they have changed. After an error, everything stays as it was.
    fn look_again(&self) {
        let Some(file) = &self.file else { return };
        let (known, before) = {
            let state = lock(&self.state);
            (state.stamps.clone(), Arc::clone(&state.terms))
        };
        let now: Vec<Stamp> = known.iter().map(|(path, _)| stamp(path)).collect();
        if now == known {
            return;
        }
        let loaded = load(file).and_then(|(stamps, terms)| {
            before.stay_in(&terms)?;
            Ok((stamps, terms))
        });
        let mut state = lock(&self.state);
        match loaded {
            Ok((stamps, terms)) => {
                info!("reloaded {} and the files that it names", file.display());
                state.stamps = stamps;
                state.terms = Arc::new(terms);
            }
            Err(error) => {
                warn!("keeping the previous web config: {error:#}");
                state.stamps = now;
            }
        }
    }
}

impl Terms {
    fn none() -> Result<Self> {
        let users = Arc::new(Users::new([].into())?);
        Ok(Self { tls: None, users, headers: HeaderMap::new() })
    }

    /// Returns an error if `next` drops TLS or passwords, or adds TLS: a file that is being written may be incomplete.
    fn stay_in(&self, next: &Self) -> Result<()> {
        ensure!(
            self.tls.is_some() == next.tls.is_some(),
            "tls_server_config was added or removed: restart the daemon to apply this"
        );
        ensure!(
            self.users.is_empty() || !next.users.is_empty(),
            "basic_auth_users is empty: restart the daemon to serve everyone without a password"
        );
        Ok(())
    }
}

fn load(file: &Path) -> Result<(Vec<Stamp>, Terms)> {
    // Taken before reading: a change in the meantime shows at the next check.
    let mut stamps = vec![stamp(file)];
    let config = WebConfig::read(file)?;
    stamps.extend(config.tls.iter().flat_map(TlsConfig::files).map(stamp));
    let tls = config.tls.as_ref().map(tls::server_config).transpose()?;
    let users = Arc::new(Users::new(config.users)?);
    Ok((stamps, Terms { tls, users, headers: config.headers }))
}

/// The stamp of a file. Follows links: Kubernetes renews secrets by changing a link.
fn stamp(path: &Path) -> Stamp {
    let known = fs::metadata(path)
        .ok()
        .map(|file| [file.ino() as i64, file.len() as i64, file.mtime(), file.mtime_nsec()]);
    (path.to_owned(), known)
}

#[cfg(test)]
impl Protection {
    /// Checks the files at each request.
    pub(super) fn impatient(mut self) -> Self {
        self.interval = Duration::ZERO;
        self
    }
}

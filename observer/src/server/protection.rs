//! What is asked of scrapers, read again when it changes: certificates are renewed while the daemon
//! runs, and users come and go.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hyper::HeaderMap;
use rustls::ServerConfig;
use tracing::{info, warn};

use super::auth::{Gate, Users};
use super::tls;
use super::web_config::{TlsConfig, WebConfig};

/// Between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(1);

/// TLS and basic authentication, as the file of `--web-config-file` has them.
#[derive(Debug)]
pub struct Protection {
    /// `None`: nothing is asked of scrapers.
    file: Option<PathBuf>,
    interval: Duration,
    state: Mutex<State>,
    /// For all passwords, whichever users there are.
    pub(super) gate: Gate,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    /// Of the files when they were last read, whether or not that was successful.
    stamps: Vec<Stamp>,
    terms: Arc<Terms>,
}

/// What holds for a connection, or for a request.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) users: Arc<Users>,
    /// Added to each answer that does not have them itself.
    pub(super) headers: HeaderMap,
}

/// A file that is another one, or written to, has another stamp; none while it is not there.
type Stamp = (PathBuf, Option<[i64; 4]>);

impl Protection {
    /// None where no file is named. An error where the file, or one that it names, is not right.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let (stamps, terms) = match file {
            Some(file) => load(file)?,
            None => (Vec::new(), Terms::none()?),
        };
        let state = State { looked: Instant::now(), stamps, terms: Arc::new(terms) };
        let (file, state) = (file.map(Path::to_owned), Mutex::new(state));
        Ok(Self { file, interval: INTERVAL, state, gate: Gate::default() })
    }

    /// What is read again when it changes.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().stamps.iter().map(|(path, _)| path.clone()).collect()
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.state().terms.tls.is_some() { "https" } else { "http" }
    }

    /// What holds now.
    pub(super) async fn terms(self: &Arc<Self>) -> Arc<Terms> {
        if self.is_due() {
            let protection = Arc::clone(self);
            // Files may be far away.
            let looked = tokio::task::spawn_blocking(move || protection.look_again()).await;
            if let Err(error) = looked {
                warn!(%error, "cannot check the web config for changes");
            }
        }
        Arc::clone(&self.state().terms)
    }

    fn is_due(&self) -> bool {
        self.file.is_some() && {
            let mut state = self.state();
            let due = state.looked.elapsed() >= self.interval;
            if due {
                state.looked = Instant::now();
            }
            due
        }
    }

    /// What cannot be read leaves everything as it was.
    fn look_again(&self) {
        let Some(file) = &self.file else { return };
        let (known, before) = {
            let state = self.state();
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
        let mut state = self.state();
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Terms {
    fn none() -> Result<Self> {
        let users = Arc::new(Users::new([].into())?);
        Ok(Self { tls: None, users, headers: HeaderMap::new() })
    }

    /// A file that is just being written is short: nothing that was asked is dropped by that.
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
    // Before it is read: what changes in the meantime has another one at the next look.
    let mut stamps = vec![stamp(file)];
    let config = WebConfig::read(file)?;
    stamps.extend(config.tls.iter().flat_map(TlsConfig::files).map(stamp));
    let tls = config.tls.as_ref().map(tls::server_config).transpose()?;
    let users = Arc::new(Users::new(config.users)?);
    Ok((stamps, Terms { tls, users, headers: config.headers }))
}

/// Follows links: secrets of Kubernetes are renewed by pointing one elsewhere.
fn stamp(path: &Path) -> Stamp {
    let known = fs::metadata(path)
        .ok()
        .map(|file| [file.ino() as i64, file.len() as i64, file.mtime(), file.mtime_nsec()]);
    (path.to_owned(), known)
}

#[cfg(test)]
impl Protection {
    /// Looks at each request.
    pub(super) fn impatient(mut self) -> Self {
        self.interval = Duration::ZERO;
        self
    }
}

//! Health: whether the workers make progress, and notifications to the supervisor that started the daemon.
//!
//! Each worker counts the iterations of its loop. [`Health::look`] compares these counts at intervals and adds up the
//! intervals without progress. It does not read a clock. So a process that was stopped as a whole, or a virtual machine
//! that was paused, does not look like a worker that hangs.

#![forbid(unsafe_code)]

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tracing::{error, info, warn};

use crate::sync::lock;

/// The time between two calls of [`Health::look`].
pub const PERIOD: Duration = Duration::from_secs(1);

/// Without progress for this long, a worker is late: the daemon is not ready.
const LATE: Duration = Duration::from_secs(3);

/// Without progress for this long, a worker hangs: only a restart will help.
const HANGS: Duration = Duration::from_secs(10);

/// The health of the workers.
#[derive(Debug, Default)]
pub struct Health {
    /// The last count of each worker, and the time without progress since.
    workers: Mutex<Vec<(u64, Duration)>>,
    has_ended: AtomicBool,
    is_stopping: AtomicBool,
}

impl Health {
    /// Compares the counts of all workers with the last ones. To be called every `period`, with `None` once a worker has
    /// ended.
    pub fn look(&self, counts: Option<&[u64]>, period: Duration) {
        let Some(counts) = counts else {
            if !self.has_ended.swap(true, Ordering::Relaxed) {
                error!("a worker has ended: /healthz fails until the daemon is restarted");
            }
            return;
        };
        let mut workers = lock(&self.workers);
        workers.resize(counts.len(), (0, Duration::ZERO));
        for (number, ((last, still), &count)) in workers.iter_mut().zip(counts).enumerate() {
            let hung = *still >= HANGS;
            *still = if *last == count { *still + period } else { Duration::ZERO };
            *last = count;
            match (hung, *still >= HANGS) {
                (true, false) => info!("worker {number} makes progress again"),
                (false, true) => {
                    error!("worker {number} makes no progress: /healthz fails until it does");
                }
                _ => {}
            }
        }
    }

    /// Marks the daemon as stopping: no longer ready, but still healthy.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Returns an error, with the reason, if a worker hangs or has ended.
    pub fn alive(&self) -> Result<(), String> {
        self.within(HANGS)
    }

    /// Returns an error, with the reason, if the daemon is stopping or a worker is late or has ended.
    pub fn ready(&self) -> Result<(), String> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Err("the daemon is stopping".into());
        }
        self.within(LATE)
    }

    fn within(&self, limit: Duration) -> Result<(), String> {
        if self.has_ended.load(Ordering::Relaxed) {
            return Err("a worker has ended".into());
        }
        match lock(&self.workers).iter().position(|(_, still)| *still >= limit) {
            Some(number) => {
                Err(format!("worker {number} has made no progress for {} s", limit.as_secs()))
            }
            None => Ok(()),
        }
    }
}

/// The supervisor that started the daemon: systemd, or another one with its protocol (`sd_notify(3)`).
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// The supervisor ends a daemon that does not notify it for this long.
    pub patience: Option<Duration>,
}

impl Supervisor {
    /// The supervisor in this process's environment, if there is one. Opens its socket, which is not allowed later.
    pub fn of_environment() -> Self {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let socket = connect(&address)
            .inspect_err(|error| warn!("cannot use NOTIFY_SOCKET {}: {error}", address.display()));
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_for_us =
            number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let patience = number("WATCHDOG_USEC").filter(|_| is_for_us).map(Duration::from_micros);
        Self { socket: socket.ok(), patience }
    }

    /// Sends a state: `READY=1`, `WATCHDOG=1`, `STOPPING=1`. Does nothing without a supervisor.
    pub fn notify(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            warn!("cannot send {state} to NOTIFY_SOCKET: {error}");
        }
    }
}

/// Connects to a path, or to an abstract address after an `@`.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    // A supervisor that does not read must not block the daemon.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_is_late_then_hangs_and_may_go_on() {
        let health = Health::default();
        let look = |counts: &[u64]| health.look(Some(counts), PERIOD);
        for count in 1..20 {
            look(&[count, count]);
            assert_eq!((health.alive(), health.ready()), (Ok(()), Ok(())));
        }
        for still in 1..=12 {
            look(&[20 + still, 19]);
            assert_eq!(health.ready().is_ok(), still < 3, "{still} s");
            assert_eq!(health.alive().is_ok(), still < 10, "{still} s");
        }
        assert_eq!(health.alive(), Err("worker 1 has made no progress for 10 s".into()));
        look(&[33, 20]);
        assert_eq!((health.alive(), health.ready()), (Ok(()), Ok(())));
    }

    /// However long the process was stopped, there was no look in that time.
    #[test]
    fn a_process_that_was_stopped_has_no_worker_that_hangs() {
        let health = Health::default();
        health.look(Some(&[1]), PERIOD);
        health.look(Some(&[1]), PERIOD);
        assert_eq!((health.alive(), health.ready()), (Ok(()), Ok(())));
    }

    #[test]
    fn one_that_has_ended_is_never_healthy_again_and_one_that_stops_is_not_ready() {
        let health = Health::default();
        health.look(Some(&[1]), PERIOD);
        health.stop();
        assert_eq!(
            (health.alive(), health.ready()),
            (Ok(()), Err("the daemon is stopping".into()))
        );
        health.look(None, PERIOD);
        health.look(Some(&[2]), PERIOD);
        assert_eq!(health.alive(), Err("a worker has ended".into()));
    }

    #[test]
    fn a_supervisor_is_told_at_a_path_and_at_an_abstract_address() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("notify");
        let name = format!("observer-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, address) in
            [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())]
        {
            let supervisor =
                Supervisor { socket: Some(connect(&address).unwrap()), patience: None };
            supervisor.notify("READY=1");
            let mut text = [0; 64];
            let length = socket.recv(&mut text).unwrap();
            assert_eq!(text.get(..length), Some(&b"READY=1"[..]));
        }
        Supervisor::default().notify("READY=1");
    }
}

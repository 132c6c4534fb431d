//! Whether the daemon does its work: its workers go round, and the process that started it knows.
//!
//! A worker that goes round counts. Whoever looks at these counts does so at intervals, and adds up those in which a
//! count stayed: so a process that was stopped as a whole, or a machine that stood still, is no worker that hangs,
//! whatever the clocks say of it.

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
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tracing::{error, info, warn};

/// Between two looks.
pub const PERIOD: Duration = Duration::from_secs(1);

/// A worker that has not gone round for so long is late: its figures are not to be waited for.
const LATE: Duration = Duration::from_secs(3);

/// One that has not for so long hangs: nothing but a new start will help.
const HANGS: Duration = Duration::from_secs(10);

/// What is known of the workers.
#[derive(Debug, Default)]
pub struct Health {
    /// Of each, its count at the last look, and for how long that has stayed.
    workers: Mutex<Vec<(u64, Duration)>>,
    has_ended: AtomicBool,
    is_stopping: AtomicBool,
}

impl Health {
    /// To be called every `period`, with each worker's count; `None` once one has ended.
    pub fn look(&self, counts: Option<&[u64]>, period: Duration) {
        let Some(counts) = counts else {
            if !self.has_ended.swap(true, Ordering::Relaxed) {
                error!("a worker has ended: /healthz fails until the daemon is restarted");
            }
            return;
        };
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.resize(counts.len(), (0, Duration::ZERO));
        for (number, (worker, &count)) in workers.iter_mut().zip(counts).enumerate() {
            let (last, still) = worker;
            let hung = *still >= HANGS;
            if *last == count {
                *still += period;
            } else {
                *worker = (count, Duration::ZERO);
                if hung {
                    info!("worker {number} makes progress again");
                }
                continue;
            }
            if *still >= HANGS && !hung {
                error!("worker {number} makes no progress: /healthz fails until it does");
            }
        }
    }

    /// From now on it is not ready, and healthy until it has ended.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Whether all workers go round, if slowly. The error says what is wrong.
    pub fn alive(&self) -> Result<(), String> {
        self.within(HANGS)
    }

    /// Whether whoever asks for figures gets them: all workers go round, and the programs are attached.
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
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        match workers.iter().position(|(_, still)| *still >= limit) {
            Some(number) => {
                Err(format!("worker {number} has made no progress for {} s", limit.as_secs()))
            }
            None => Ok(()),
        }
    }
}

/// Who started the daemon and wants to know how it is: systemd, or whoever speaks as it does (`sd_notify(3)`).
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// It ends a daemon that is silent for so long.
    pub patience: Option<Duration>,
}

impl Supervisor {
    /// That of this process's environment, if there is one. Its socket is opened here, as that is not allowed later.
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

    /// Says so: `READY=1`, `WATCHDOG=1`, `STOPPING=1`.
    pub fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            warn!("cannot send {state} to NOTIFY_SOCKET: {error}");
        }
    }
}

/// A path, or an abstract address behind an `@`.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    // A supervisor that does not read must not hold up anything.
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

    /// However long that was, there are no looks in it.
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
            supervisor.tell("READY=1");
            let mut text = [0; 64];
            let length = socket.recv(&mut text).unwrap();
            assert_eq!(text.get(..length), Some(&b"READY=1"[..]));
        }
        Supervisor::default().tell("READY=1");
    }
}

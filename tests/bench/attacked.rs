//! The cost of watching a service that is attacked while other clients call it.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::net::{AddressFamily, SocketType, sockopt};
use support::raw::frames::{Frames, PREFACE, Shape};

use crate::Peers;
use crate::figures::{Bound, Results};
use crate::load::{Client, Load, Until};
use crate::service::Service;
use crate::watch::{Timed, Watch, cpu_ns};

const REPEATS: usize = 7;
const SLICE: Duration = Duration::from_secs(1);

/// Calls at the same time by clients that behave.
const AT_ONCE: usize = 16;

/// Time after which an attacker without an answer connects again.
const PATIENCE: Duration = Duration::from_millis(200);

/// The number of streams in one write.
const STREAMS: u32 = 100;

/// `CANCEL` (RFC 9113 §7).
const CANCEL: u32 = 8;

struct Attack {
    name: &'static str,
    /// The unit of its rate.
    unit: &'static str,
    /// The least time from one connection to the next: otherwise only their number would be compared.
    pace: Duration,
    /// Attacks on one connection until that is over; counts what it did.
    run: fn(&mut TcpStream, &AtomicU64) -> io::Result<()>,
}

const ATTACKS: [Attack; 3] = [
    Attack {
        name: "streams opened and reset at once",
        unit: "streams/s",
        pace: Duration::ZERO,
        run: rapid_reset,
    },
    Attack {
        name: "a new path in each request",
        unit: "streams/s",
        pace: Duration::ZERO,
        run: distinct_paths,
    },
    Attack {
        name: "connections opened and closed",
        unit: "connections/s",
        pace: Duration::from_millis(1),
        run: come_and_go,
    },
];

/// A service that clients call, with or without an attack.
struct Attacked<'a> {
    service: &'a Service,
    attack: Option<&'a Attack>,
}

/// Calls and attacks per second.
struct Slice {
    calls: f64,
    attack: f64,
}

pub(crate) fn costs(peers: &Peers, results: &mut Results) -> Result<()> {
    let service = &Service::fast(peers)?;
    // The cost of watching without an attack.
    let usual = Attacked { service, attack: None }.costs("no attack", results)?;
    for attack in &ATTACKS {
        let attacked = Attacked { service, attack: Some(attack) };
        let share = attacked.costs(attack.name, results)? / usual;
        let name = format!("{}: that share ÷ without an attack", attack.name);
        results.add(name, "", Some(Bound::AtMost(1.1)), vec![share]);
    }
    Ok(())
}

impl Attacked<'_> {
    /// Measures, and returns the share of CPU time that watching takes.
    fn costs(&self, name: &str, results: &mut Results) -> Result<f64> {
        // Clients and attackers would be on other nodes.
        let pid = self.service.server.pid();
        let [mut bare, mut attacks, mut ratios, mut shares] = [(); 4].map(|()| Vec::new());
        for _ in 0..REPEATS {
            let before = self.slice()?;
            let watch = Watch::start(&["--pid", &pid])?;
            let watched = self.slice()?;
            shares.push(self.share(&watch)?);
            watch.stop()?;
            let after = self.slice()?;
            ratios.push(watched.calls / f64::midpoint(before.calls, after.calls));
            bare.push(before.calls);
            attacks.push(before.attack);
        }
        if let Some(attack) = self.attack {
            results.add(format!("{name}: the attack, bare"), attack.unit, None, attacks);
        }
        results.add(format!("{name}: others' calls, bare"), "calls/s", None, bare);
        let calls = format!("{name}: others' calls, watched ÷ bare");
        results.add(calls, "", Some(Bound::AtLeast(0.95)), ratios);
        let share = format!("{name}: CPU time of watching ÷ of the service");
        Ok(results.add(share, "", None, shares))
    }

    /// The CPU time of the BPF programs and the daemon, divided by the service's own.
    fn share(&self, watch: &Watch) -> Result<f64> {
        let pid = self.service.server.pid().parse()?;
        let _timed = Timed::begin()?;
        let (begin, before) = (watch.begin()?, cpu_ns(pid)?);
        self.slice()?;
        let (reading, service) = (watch.since(begin)?, cpu_ns(pid)? - before);
        // The programs run when the service's system calls end, as if they were its own.
        Ok((reading.programs_ns + reading.cpu_ns) / (service - reading.programs_ns))
    }

    fn slice(&self) -> Result<Slice> {
        let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let address = self.service.address;
        thread::scope(|scope| {
            if let Some(attack) = self.attack {
                scope.spawn(|| attack.go_on(address, &over, &done));
            }
            let load = Load::at_once(AT_ONCE);
            let made = Client::connect(address, load.connections)
                .and_then(|mut client| client.call(load, Until::Elapsed(SLICE)));
            over.store(true, Ordering::Relaxed);
            let made = made?;
            let done = done.load(Ordering::Relaxed) as f64;
            ensure!(self.attack.is_none() || done > 0.0, "the attack did nothing");
            Ok(Slice { calls: made.per_second(), attack: done / made.elapsed.as_secs_f64() })
        })
    }
}

impl Attack {
    /// Attacks on one connection after the other until `over`. Services close such connections.
    fn go_on(&self, service: SocketAddr, over: &AtomicBool, done: &AtomicU64) {
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let _ = connect(service, number).and_then(|mut stream| (self.run)(&mut stream, done));
            number += 1;
            thread::sleep(self.pace.saturating_sub(begun.elapsed()));
        }
    }
}

/// Connects from another loopback address each time: the ports of one would be used up, because each is kept for a
/// minute (`TIME_WAIT`).
fn connect(service: SocketAddr, number: u32) -> io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let [_, _, high, low] = number.to_be_bytes();
    let from = Ipv4Addr::new(127, 1, high, low);
    for timeout in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
        sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
    }
    rustix::net::bind(&socket, &SocketAddr::from((from, 0)))?;
    rustix::net::connect(&socket, &service)?;
    Ok(socket.into())
}

fn rapid_reset(stream: &mut TcpStream, done: &AtomicU64) -> io::Result<()> {
    stream.write_all(&opening())?;
    for first in (1..).step_by(2 * STREAMS as usize).take(1000) {
        let mut frames = Frames::of("observer.test.v1.Echo", Shape::default());
        for stream in (first..).step_by(2).take(STREAMS as usize) {
            frames.request(stream, "Unary").reset(stream, CANCEL);
        }
        stream.write_all(&frames.take().0)?;
        done.fetch_add(STREAMS.into(), Ordering::Relaxed);
    }
    Ok(())
}

fn distinct_paths(stream: &mut TcpStream, done: &AtomicU64) -> io::Result<()> {
    stream.write_all(&opening())?;
    let mut answers = vec![0; 64 << 10];
    for first in (1..).step_by(2 * STREAMS as usize).take(1000) {
        let mut frames = Frames::of("attack.Paths", Shape::default());
        for stream in (first..).step_by(2).take(STREAMS as usize) {
            let number = done.fetch_add(1, Ordering::Relaxed);
            frames.request(stream, &number.to_string()).end(stream);
        }
        stream.write_all(&frames.take().0)?;
        // The service has read the requests then.
        if stream.read(&mut answers)? == 0 {
            break;
        }
    }
    Ok(())
}

fn come_and_go(stream: &mut TcpStream, done: &AtomicU64) -> io::Result<()> {
    stream.write_all(&opening())?;
    done.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn opening() -> Vec<u8> {
    Frames::default().bytes(PREFACE).settings(&[]).take().0
}

//! What watching takes of a service while somebody attacks it, and others call it all the same.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tests::raw::frames::{Frames, PREFACE, Shape};

use crate::Peers;
use crate::figures::{Bound, Results};
use crate::load::{Client, Load, Until};
use crate::service::Service;
use crate::watch::Watch;

const REPEATS: usize = 7;
const SLICE: Duration = Duration::from_secs(1);

/// Of those who behave.
const AT_ONCE: usize = 16;

/// An attacker who gets no answer comes back.
const PATIENCE: Duration = Duration::from_millis(200);

/// Streams in one write.
const STREAMS: u32 = 100;

/// `CANCEL` (RFC 9113 §7).
const CANCEL: u32 = 8;

/// What one connection does until it is over; adds to the number of what it did.
type Attack = fn(&mut TcpStream, &AtomicU64) -> std::io::Result<()>;

const ATTACKS: [(&str, &str, Attack); 4] = [
    // What watching takes in any case.
    ("nobody attacks", "", nothing),
    ("streams opened and reset at once", "streams/s", rapid_reset),
    ("a path that nobody had before in each request", "streams/s", distinct_paths),
    ("connections opened and closed", "connections/s", come_and_go),
];

pub(crate) fn costs(peers: &Peers, results: &mut Results) -> Result<()> {
    let service = Service::fast(peers)?;
    // Those who call it, and attack it, would be on other nodes.
    let pid = service.server.pid();
    for (name, unit, attack) in ATTACKS {
        let [mut bare, mut attacks, mut ratios] = [(); 3].map(|()| Vec::new());
        for _ in 0..REPEATS {
            let (before, done) = attacked(service.address, attack)?;
            let watch = Watch::start(&["--pid", &pid])?;
            let (watched, _) = attacked(service.address, attack)?;
            watch.stop()?;
            let (after, _) = attacked(service.address, attack)?;
            ratios.push(watched / f64::midpoint(before, after));
            bare.push(before);
            attacks.push(done);
        }
        if !unit.is_empty() {
            results.add(format!("{name}: the attack, bare"), unit, None, attacks);
        }
        results.add(format!("{name}: others' calls, bare"), "calls/s", None, bare);
        let name = format!("{name}: others' calls, watched ÷ bare");
        results.add(name, "", Some(Bound::AtLeast(0.95)), ratios);
    }
    Ok(())
}

/// What others get of the service a second, and what the attacker does.
fn attacked(service: SocketAddr, attack: Attack) -> Result<(f64, f64)> {
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let attacker = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                let mut stream = TcpStream::connect(service)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                // Services close on who does this.
                let _ = attack(&mut stream, &done);
            }
            Ok(())
        });
        let load = Load::at_once(AT_ONCE);
        let made = Client::connect(service, load.connections)
            .and_then(|mut client| client.call(load, Until::Elapsed(SLICE)));
        over.store(true, Ordering::Relaxed);
        attacker.join().map_err(|_| anyhow!("the attacker panicked"))??;
        let made = made?;
        Ok((made.per_second(), done.load(Ordering::Relaxed) as f64 / made.elapsed.as_secs_f64()))
    })
}

fn nothing(stream: &mut TcpStream, _: &AtomicU64) -> std::io::Result<()> {
    stream.write_all(&opening())?;
    thread::sleep(PATIENCE);
    Ok(())
}

fn rapid_reset(stream: &mut TcpStream, done: &AtomicU64) -> std::io::Result<()> {
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

fn distinct_paths(stream: &mut TcpStream, done: &AtomicU64) -> std::io::Result<()> {
    stream.write_all(&opening())?;
    let mut answers = vec![0; 64 << 10];
    for first in (1..).step_by(2 * STREAMS as usize).take(1000) {
        let mut frames = Frames::of("attack.Paths", Shape::default());
        for stream in (first..).step_by(2).take(STREAMS as usize) {
            let number = done.fetch_add(1, Ordering::Relaxed);
            frames.request(stream, &number.to_string()).end(stream);
        }
        stream.write_all(&frames.take().0)?;
        // Whose number it is has been seen by then.
        if stream.read(&mut answers)? == 0 {
            break;
        }
    }
    Ok(())
}

fn come_and_go(stream: &mut TcpStream, done: &AtomicU64) -> std::io::Result<()> {
    stream.write_all(&opening())?;
    done.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn opening() -> Vec<u8> {
    Frames::default().bytes(PREFACE).settings(&[]).take().0
}

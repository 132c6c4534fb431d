//! Two threads of a process that read and write one socket at the same time.

use std::hint::spin_loop;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use support::daemon::Daemon;
use support::raw::frames::{Frames, PREFACE, Shape};
use support::raw::talk::service_of;

use super::{OK, Table};

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark(
        "tshark cannot tell: in which order a process's calls return is not on the wire.",
    );
    table.case("a new connection is written and read at once", |daemon, name| {
        at_once(daemon, name, First::Settings)
    });
    table.case("a new connection is written and read at once, all in one", |daemon, name| {
        at_once(daemon, name, First::Request)
    });
}

/// The bytes that the client writes while the server's SETTINGS are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// The preface alone.
    Settings,
    /// The preface and a whole request.
    Request,
}

/// The client's first write returns at about the same time as its first read, a little earlier or later from one
/// connection to the next. Every call must be reported at both ends.
fn at_once(daemon: &Daemon, name: &str, first: First) -> Result<()> {
    const CONNECTIONS: u32 = 2000;
    let service = service_of(name);
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    for connection in 0..CONNECTIONS {
        let client = TcpStream::connect(listener.local_addr()?).context("connect")?;
        let (server, _) = listener.accept().context("accept")?;
        client.set_nodelay(true)?;
        call(&client, &server, &service, first, connection % 300 * 4)?;
    }
    let pid = std::process::id().to_string();
    let labels = [("pid", &*pid), ("grpc_service", &*service), ("grpc_code", "OK")];
    daemon.wait_until(|metrics| {
        metrics.expect_sum("grpc_client_handled_total", &labels, CONNECTIONS)?;
        metrics.expect_sum("grpc_server_handled_total", &labels, CONNECTIONS)
    })
}

/// Makes a connection's only call. The reader waits for this many iterations of a loop.
fn call(
    mut client: &TcpStream,
    mut server: &TcpStream,
    service: &str,
    first: First,
    delay: u32,
) -> Result<()> {
    let built = |build: &dyn Fn(&mut Frames)| {
        let mut frames = Frames::of(service, Shape::default());
        build(&mut frames);
        frames.take().0
    };
    let settings = built(&|f| _ = f.settings(&[(3, 100)]));
    let request = built(&|f| _ = f.settings(&[(2, 0)]).request(1, "Get").last_message(1, 5));
    let response = built(&|f| _ = f.response(1).message(1, 6).trailers(1, OK));
    let (now, later): (&[u8], &[u8]) = match first {
        First::Settings => (&[], &request),
        First::Request => (&request, &[]),
    };
    let now = [PREFACE, now].concat();
    server.write_all(&settings)?;
    let (ready, go) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut writer = client;
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = vec![0; settings.len()];
            ready.store(true, Ordering::Release);
            wait_for(&go);
            (0..delay).for_each(|_| spin_loop());
            client.read_exact(&mut read)
        });
        wait_for(&ready);
        go.store(true, Ordering::Release);
        let written = writer.write_all(&now);
        reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        anyhow::Ok(written?)
    })?;
    client.write_all(later)?;
    let mut read = vec![0; now.len() + later.len()];
    server.read_exact(&mut read)?;
    server.write_all(&response)?;
    let mut read = vec![0; response.len()];
    client.read_exact(&mut read)?;
    ensure!(read == response, "another response");
    Ok(())
}

fn wait_for(flag: &AtomicBool) {
    while !flag.load(Ordering::Acquire) {
        spin_loop();
    }
}

//! A server that refuses a stream, and a library that makes the call again without telling its
//! application (gRFC A6, "transparent retries"): two calls on the wire, one to the application.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::json;
use support::daemon::Daemon;
use support::expected::Expected;
use support::peer::{Client, Identity};
use support::raw::frames::{PREFACE, frame};
use support::raw::{Frames, Shape};
use support::report::{self, TSHARK};
use support::stack::Stack;
use support::truth::{CUT, Row, Truth};
use support::tshark::{self, Recording};

const REFUSED_STREAM: u32 = 0x7;
const UNAVAILABLE: i32 = 14;

/// For the client's next bytes.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Of the request's message.
const PAYLOAD: u32 = 100;

/// The refused call is `Unavailable`, the one after it OK.
pub(crate) fn refused_stream_and_retry_count_as_two_calls(stack: &Stack) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let address = listener.local_addr().context("the address")?;
    // Its own, for the server's process is that of all these cases.
    let port = address.port().to_string();
    let daemon = Daemon::start(&["--port", &port])?;
    let recording = if tshark::is_there()? { Some(Recording::of_port(&port)?) } else { None };
    let server = thread::spawn(move || {
        let (connection, _) = listener.accept().context("accept")?;
        serve(connection)
    });
    // Some libraries make no call again without a policy; no attempt of it is used up here.
    let policy = json!({
        "maxAttempts": 2, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
        "retryableStatusCodes": ["ABORTED"],
    });
    let config = json!({"methodConfig": [{"name": [{}], "retryPolicy": policy}]});
    let plan = [vec![json!({"payload": PAYLOAD, "service_config": config})]];
    let (client, did) = Client::start_to(stack, &address.to_string(), &plan)?.finish()?;
    let streams = server.join().map_err(|_| anyhow!("the server panicked"))??;
    ensure!(streams == 2, "{streams} streams");
    let both = with_refused(did)?;
    let server = Identity::of_the_tests("server of the tests")?;
    daemon.settle(&Expected::of_ends(&client, &server, &both))?;
    if let Some(recording) = recording {
        // The refused one has no status.
        let mut wire = both;
        wire.calls.iter_mut().filter(|row| row.code == UNAVAILABLE).for_each(|row| row.code = CUT);
        recording.finish()?.agree(&wire)?;
        report::confirmed(TSHARK);
    }
    Ok(())
}

/// What the client's application knows, and the call that it does not know of: it had its request.
fn with_refused(mut did: Truth) -> Result<Truth> {
    let [ok] = &*did.calls else { bail!("not one method and code: {did:?}") };
    ensure!(ok.code == 0 && ok.sums.calls == 1, "not one call that went well: {did:?}");
    let mut refused = Row { code: UNAVAILABLE, ..ok.clone() };
    refused.sums.received = 0;
    refused.sums.received_bytes = 0;
    refused.sums.most_received = 0;
    refused.sums.any_received = 0;
    did.calls.push(refused);
    Ok(did)
}

/// Refuses the first stream when its request is in, and answers the others with an empty message.
/// How many there were.
fn serve(mut connection: TcpStream) -> Result<u32> {
    connection.set_read_timeout(Some(READ_LIMIT)).context("set a limit")?;
    let mut frames = Frames::of("", Shape::default());
    let mut send = |connection: &mut TcpStream, build: &dyn Fn(&mut Frames)| {
        build(&mut frames);
        connection.write_all(&frames.take().0).context("write")
    };
    connection.read_exact(&mut [0; PREFACE.len()]).context("read the preface")?;
    send(&mut connection, &|f| {
        f.settings(&[]);
    })?;
    let mut streams = 0;
    while let Some(Frame { kind, flags, stream, payload }) = read(&mut connection)? {
        match kind {
            frame::SETTINGS if flags & frame::ACK == 0 => send(&mut connection, &|f| {
                f.frame(frame::SETTINGS, frame::ACK, 0, &[]);
            })?,
            frame::PING if flags & frame::ACK == 0 => send(&mut connection, &|f| {
                f.frame(frame::PING, frame::ACK, 0, &payload);
            })?,
            frame::DATA if flags & frame::END_STREAM != 0 => {
                streams += 1;
                send(&mut connection, &|f| {
                    if streams == 1 {
                        f.reset(stream, REFUSED_STREAM);
                    } else {
                        f.response(stream).message(stream, 0).trailers(stream, 0);
                    }
                })?;
            }
            _ => {}
        }
    }
    Ok(streams)
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// The next one; nothing at the connection's end.
fn read(connection: &mut TcpStream) -> Result<Option<Frame>> {
    let mut header = [0; 9];
    match connection.read(&mut header[..1]) {
        Ok(0) => return Ok(None),
        // Who ends with something unread resets the connection (RFC 1122 section 4.2.2.13).
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
        read => read.context("read")?,
    };
    connection.read_exact(&mut header[1..]).context("read a frame's header")?;
    let [a, b, c, kind, flags, stream @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    connection.read_exact(&mut payload).context("read a frame")?;
    Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload }))
}

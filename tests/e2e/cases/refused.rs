//! A server that refuses a stream, and a library that repeats the call without its application (gRFC A6, "transparent
//! retries"): two calls on the wire, one for the application.

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

use super::UNAVAILABLE;

const REFUSED_STREAM: u32 = 0x7;

/// Time for the client's next bytes.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// The bytes of the request's payload.
const PAYLOAD: u32 = 100;

/// The refused call is `Unavailable`, the second one OK.
pub(crate) fn refused_stream_and_retry_count_as_two_calls(stack: &Stack) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let address = listener.local_addr().context("the address")?;
    // Its own daemon, because the server's process is the same in all these cases.
    let port = address.port().to_string();
    let daemon = Daemon::start(&["--port", &port])?;
    let recording = if tshark::is_there()? { Some(Recording::of_port(&port)?) } else { None };
    let server = thread::spawn(move || {
        let (connection, _) = listener.accept().context("accept")?;
        serve(connection)
    });
    // Some libraries repeat no call without a policy, though the repetition does not count as an attempt of it.
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

/// The client's record with the refused call added, which has a request and no response.
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

/// Refuses the first stream once it has read the request, and answers the others with an empty message. Returns the
/// number of streams.
fn serve(mut connection: TcpStream) -> Result<u32> {
    connection.set_read_timeout(Some(READ_LIMIT)).context("set a limit")?;
    let mut frames = Frames::of("", Shape::default());
    let mut send = |connection: &mut TcpStream, build: &dyn Fn(&mut Frames) -> &mut Frames| {
        connection.write_all(&build(&mut frames).take().0).context("write")
    };
    connection.read_exact(&mut [0; PREFACE.len()]).context("read the preface")?;
    send(&mut connection, &|f| f.settings(&[]))?;
    let mut streams = 0;
    while let Some(Frame { kind, flags, stream, payload }) = read(&mut connection)? {
        match kind {
            frame::SETTINGS if flags & frame::ACK == 0 => {
                send(&mut connection, &|f| f.frame(frame::SETTINGS, frame::ACK, 0, &[]))?;
            }
            frame::PING if flags & frame::ACK == 0 => {
                send(&mut connection, &|f| f.frame(frame::PING, frame::ACK, 0, &payload))?;
            }
            frame::DATA if flags & frame::END_STREAM != 0 => {
                streams += 1;
                send(&mut connection, &|f| match streams {
                    1 => f.reset(stream, REFUSED_STREAM),
                    _ => f.response(stream).message(stream, 0).trailers(stream, 0),
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

/// Reads the next frame; `None` at the end of the connection.
fn read(connection: &mut TcpStream) -> Result<Option<Frame>> {
    let mut header = [0; 9];
    match connection.read(&mut header[..1]) {
        Ok(0) => return Ok(None),
        // A process that ends with unread bytes resets the connection (RFC 1122 section 4.2.2.13).
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
        read => read.context("read")?,
    };
    connection.read_exact(&mut header[1..]).context("read a frame's header")?;
    let [a, b, c, kind, flags, stream @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    connection.read_exact(&mut payload).context("read a frame")?;
    Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload }))
}

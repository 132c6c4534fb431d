//! Asks the daemon for its metrics, as Prometheus would.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

const LIMIT: Duration = Duration::from_secs(5);
const BODY_AT_MOST: u64 = 16 << 20;

/// The body of /metrics.
pub(super) fn metrics(daemon: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&daemon, LIMIT).context("cannot connect")?;
    stream.set_read_timeout(Some(LIMIT))?;
    // HTTP/1.0: the body is neither chunked nor followed by anything.
    let request = format!(
        "GET /metrics HTTP/1.0\r\nHost: {daemon}\r\nAccept: application/openmetrics-text\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).context("cannot ask")?;
    let mut response = String::new();
    stream.take(BODY_AT_MOST).read_to_string(&mut response).context("cannot read the answer")?;
    body(&response).map(str::to_owned)
}

fn body(response: &str) -> Result<&str> {
    let (head, body) = response.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        bail!("the answer is {}: {}", head.lines().next().unwrap_or_default(), body.trim());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_has_a_body() {
        assert_eq!(body("HTTP/1.0 200 OK\r\na: b\r\n\r\nx 1\n").unwrap(), "x 1\n");
        assert!(body("HTTP/1.0 503 Service Unavailable\r\n\r\nnot ready\n").is_err());
        assert!(body("SSH-2.0\r\n").is_err());
    }
}

//! As much HTTP/1.1 as asking a daemon takes.

use std::fmt::{self, Display, Formatter};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Take};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::access::{Access, Refusal};
use super::owner::{self, Owner};
use crate::escape::visible;

/// To connect, and between bytes: a daemon that is watched says something every second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of a line, and of all headers together.
const HEAD_AT_MOST: u64 = 16 << 10;

/// Of an answer: a thousand rows take less than one MiB.
const BODY_AT_MOST: u64 = 64 << 20;

/// The first byte of TLS' answer to what is not TLS: an alert's type (RFC 8446 §5.1).
const ALERT: u8 = 21;

/// Where a daemon listens: `http://HOST:PORT` or `https://HOST:PORT`, perhaps with a path in front of
/// its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    secure: bool,
    /// Host and port.
    authority: String,
    /// Begins with a slash, or is empty.
    path: String,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WRITE: &str = "write it like http://127.0.0.1:9464";
        let (secure, rest) = match text.split_once("://") {
            None | Some(("http", _)) => (false, text.trim_start_matches("http://")),
            Some(("https", rest)) => (true, rest),
            Some((scheme, _)) => {
                return Err(format!("{scheme} is not spoken, only http and https: {WRITE}"));
            }
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(format!("a user is named by --user, not in the address: {WRITE}"));
        }
        if authority.is_empty() || text.contains(|c: char| c.is_control() || c == ' ') {
            return Err(format!("this is no address: {WRITE}"));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
        });
        let port = if secure { 443 } else { 80 };
        let authority = if has_port { authority.into() } else { format!("{authority}:{port}") };
        Ok(Self { secure, authority, path: path.trim_end_matches('/').to_owned() })
    }
}

impl Address {
    /// Of a daemon of this machine that listens there.
    pub fn of_this_machine(listen: SocketAddr, secure: bool) -> Self {
        let mut reachable = listen;
        if listen.ip().is_unspecified() {
            reachable.set_ip(match listen {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        Self { secure, authority: reachable.to_string(), path: String::new() }
    }

    /// The name that a certificate must be for.
    fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { secure, authority, path } = self;
        let scheme = if *secure { "https" } else { "http" };
        write!(f, "{scheme}://{authority}{path}")
    }
}

/// A daemon, and how it is asked.
#[derive(Clone)]
pub struct Remote {
    address: Address,
    /// Where the address says https.
    tls: Option<Arc<ClientConfig>>,
    authorization: Option<String>,
    /// Whether the authorization is sent in any case.
    plaintext: bool,
    /// Whether nothing is said to a listener of another user.
    checked: bool,
}

impl Display for Remote {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// The body of an answer with status 200, as it comes.
pub(super) type Body = BufReader<Box<dyn Read + Send>>;

impl Remote {
    /// Reads the files that the user names; asks nobody yet.
    pub fn new(address: Address, access: &Access) -> Result<Self> {
        let tls = if address.secure { Some(access.tls()?) } else { None };
        ensure!(
            tls.is_some() || access.ca_file.is_none(),
            "--ca-file is for https, and the address is {address}"
        );
        let (authorization, plaintext) = (access.authorization()?, access.plaintext);
        Ok(Self { address, tls, authorization, plaintext, checked: false })
    }

    /// One that is asked only if somebody listens for it who may: it was not named by who asks.
    #[must_use]
    pub fn checked(mut self) -> Self {
        self.checked = self.tls.is_none();
        self
    }

    /// Whether a daemon answers. An error if there is one that tells nothing without something that
    /// its user has to give.
    pub fn answers(&self) -> Result<bool> {
        match self.get("/readyz").and_then(read) {
            Ok(_) => Ok(true),
            Err(error) if error.downcast_ref::<Refusal>().is_some() => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Asks for `path`, which begins with a slash.
    pub(super) fn get(&self, path: &str) -> Result<Body> {
        self.ask(path).with_context(|| format!("no answer from {}{path}", self.address))
    }

    fn ask(&self, path: &str) -> Result<Body> {
        let stream = self.connect()?;
        let Some(tls) = &self.tls else {
            self.trust(stream.peer_addr()?)?;
            return self.ask_by(stream, path);
        };
        let name = ServerName::try_from(self.address.host().to_owned())
            .with_context(|| format!("no certificate is for {:?}", self.address.host()))?;
        let connection = ClientConnection::new(Arc::clone(tls), name)?;
        self.ask_by(StreamOwned::new(connection, stream), path).map_err(|error| {
            let told = error.downcast_ref::<io::Error>().and_then(Refusal::of_tls);
            match told {
                Some(refusal) => anyhow!("{error:#}").context(refusal),
                None => error,
            }
        })
    }

    /// Without TLS, whether who listens there may be told what is to be told. Somebody listens: there is a
    /// connection.
    fn trust(&self, listener: SocketAddr) -> Result<()> {
        let tells = self.authorization.is_some() && !self.plaintext;
        if !self.checked && !tells {
            return Ok(());
        }
        let here = listener.ip().to_canonical().is_loopback();
        match here.then(|| owner::of(listener)).transpose()? {
            None if tells => bail!(Refusal::Plaintext),
            None | Some(Owner::Trusted) => Ok(()),
            Some(Owner::Other(_)) if tells => bail!(Refusal::PlaintextToOther),
            Some(Owner::Other(_)) => bail!(Refusal::OfOther),
        }
    }

    fn ask_by(
        &self,
        mut stream: impl Read + io::Write + Send + 'static,
        path: &str,
    ) -> Result<Body> {
        let Address { authority, path: prefix, .. } = &self.address;
        let authorization = match &self.authorization {
            Some(value) => format!("Authorization: {value}\r\n"),
            None => String::new(),
        };
        // In one write: who speaks TLS answers to the first bytes, and closes; bytes that come later
        // are answered by a reset, which takes the answer away with it.
        let request = format!(
            "GET {prefix}{path} HTTP/1.1\r\nHost: {authority}\r\n{authorization}Connection: \
             close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut stream = BufReader::new(stream);
        if stream.fill_buf()?.first() == Some(&ALERT) {
            bail!(Refusal::SpeaksTls);
        }
        let head = Head::read(&mut stream)?;
        let body: Box<dyn Read + Send> = match head.body {
            Length::Known(length) => Box::new(stream.take(length)),
            Length::Chunked => Box::new(Chunks { stream, left: 0, ended: false }),
            Length::UntilClosed => Box::new(stream),
        };
        let mut body = BufReader::new(body);
        match (head.status, &self.authorization) {
            (200, _) => return Ok(body),
            (401, None) => bail!(Refusal::WantsPassword),
            (401, Some(_)) => bail!(Refusal::WantsOtherPassword),
            _ => {}
        }
        let mut text = String::new();
        let _ = (&mut body).take(1024).read_to_string(&mut text);
        bail!("status {}: {}", head.status, visible(text.trim()))
    }

    fn connect(&self) -> Result<TcpStream> {
        let mut last = anyhow!("the name has no address");
        for address in self.address.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    return Ok(stream);
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}

/// All of a body.
pub(super) fn read(body: Body) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    body.take(BODY_AT_MOST).read_to_end(&mut bytes).context("the answer broke off")?;
    Ok(bytes)
}

struct Head {
    status: u16,
    body: Length,
}

#[derive(Debug, PartialEq, Eq)]
enum Length {
    Known(u64),
    Chunked,
    UntilClosed,
}

impl Head {
    fn read(stream: &mut impl BufRead) -> Result<Self> {
        let mut stream = stream.take(HEAD_AT_MOST);
        let first = line(&mut stream)?;
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
            .context("this is not HTTP/1.1")?;
        let mut body = Length::UntilClosed;
        loop {
            let line = line(&mut stream)?;
            if line.is_empty() {
                return Ok(Self { status, body });
            }
            let (name, value) = line.split_once(':').context("a header without name")?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding") {
                ensure!(value.eq_ignore_ascii_case("chunked"), "unknown encoding {value:?}");
                body = Length::Chunked;
            } else if name.eq_ignore_ascii_case("content-length") && body != Length::Chunked {
                body = Length::Known(value.parse().context("a length that is no number")?);
            }
        }
    }
}

/// Without its end, which must be there.
fn line<R: BufRead>(stream: &mut Take<R>) -> Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    ensure!(line.ends_with('\n'), "the answer broke off");
    Ok(line.trim_end().to_owned())
}

/// Takes a chunked body apart (RFC 9112 §7.1).
struct Chunks<R> {
    stream: R,
    /// Of the chunk that is being read.
    left: u64,
    ended: bool,
}

impl<R: BufRead> Chunks<R> {
    fn begin(&mut self) -> io::Result<()> {
        let bad = || io::Error::new(ErrorKind::InvalidData, "a chunk without length");
        let mut size = String::new();
        // The end of the chunk before is an empty line.
        while size.trim().is_empty() {
            size.clear();
            if (&mut self.stream).take(HEAD_AT_MOST).read_line(&mut size)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let digits = size.split(';').next().unwrap_or_default().trim();
        self.left = u64::from_str_radix(digits, 16).map_err(|_| bad())?;
        self.ended = self.left == 0;
        Ok(())
    }
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            self.begin()?;
        }
        if self.ended {
            return Ok(0);
        }
        let read = (&mut self.stream).take(self.left).read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("http://127.0.0.1:9464", "http://127.0.0.1:9464"),
            ("127.0.0.1:9464", "http://127.0.0.1:9464"),
            ("http://node-7:9464/", "http://node-7:9464"),
            ("http://gate/observer/node-7/", "http://gate:80/observer/node-7"),
            ("http://[::1]:9464", "http://[::1]:9464"),
            ("[::1]", "http://[::1]:80"),
            ("https://node-7:9464", "https://node-7:9464"),
            ("https://gate/node-7", "https://gate:443/node-7"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for bad in ["", "http:///x", "http://a b", "ftp://x", "x\r\nHost: y", "https://u:p@x"] {
            let error = bad.parse::<Address>().unwrap_err();
            assert!(error.contains("write it like"), "{bad}: {error}");
        }
        let everywhere: SocketAddr = "0.0.0.0:9464".parse().unwrap();
        let here = Address::of_this_machine(everywhere, true);
        assert_eq!(
            (here.to_string().as_str(), here.host()),
            ("https://127.0.0.1:9464", "127.0.0.1")
        );
        assert_eq!("https://[::1]:1".parse::<Address>().unwrap().host(), "::1");
    }

    fn body(answer: &str) -> Result<String> {
        let mut stream = answer.as_bytes();
        let head = Head::read(&mut stream)?;
        assert_eq!(head.status, 200);
        let mut text = String::new();
        match head.body {
            Length::Known(length) => stream.take(length).read_to_string(&mut text)?,
            Length::Chunked => {
                Chunks { stream, left: 0, ended: false }.read_to_string(&mut text)?
            }
            Length::UntilClosed => stream.read_to_string(&mut text)?,
        };
        Ok(text)
    }

    #[test]
    fn bodies_of_all_kinds() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
        assert_eq!(body(chunked).unwrap(), "abcd");
        assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabcd").unwrap(), "ab");
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nabcd").unwrap(), "abcd");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bad in [
            "",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nx\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc",
        ] {
            assert!(body(bad).is_err(), "{bad:?}");
        }
    }
}

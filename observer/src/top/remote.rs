//! A daemon as a source, over HTTP.

use std::fmt::{self, Display, Formatter};
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use http_body_util::Full;
use hyper::{Request, StatusCode, header};
use rustls::ClientConfig;

use super::access::{Access, Refusal};
use super::address::Address;
use super::owner::{self, Owner};
use crate::http_client::{Body, Client, Server, SpeaksTls};
use observer_core::names::escape::visible;

/// The time limit to connect, and between bytes: a daemon sends events every second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Maximum size of an answer in bytes; a thousand rows take less than one MiB.
const BODY_AT_MOST: u64 = 64 << 20;

/// A daemon, with its address and credentials.
pub struct Remote {
    client: Client,
    address: Address,
    /// The TLS configuration, for https.
    tls: Option<Arc<ClientConfig>>,
    authorization: Option<String>,
    /// Whether the authorization is sent even without TLS.
    plaintext: bool,
    /// Whether the listener must belong to a trusted user.
    checked: bool,
}

impl Display for Remote {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Remote {
    /// Reads the files of `access`. Does not connect yet.
    pub fn new(address: Address, access: &Access) -> Result<Self> {
        let tls = if address.secure { Some(access.tls()?) } else { None };
        ensure!(
            tls.is_some() || access.ca_file.is_none(),
            "--ca-file needs https, but the address is {address}"
        );
        let (authorization, plaintext) = (access.authorization()?, access.plaintext);
        let client = Client::new(PATIENCE)?;
        Ok(Self { client, address, tls, authorization, plaintext, checked: false })
    }

    /// Requires that the listener belongs to a trusted user, without TLS: for an address that the user did not give.
    #[must_use]
    pub fn checked(mut self) -> Self {
        self.checked = self.tls.is_none();
        self
    }

    /// Whether a daemon answers. A daemon that refuses, for example without a password, is an error.
    pub fn answers(&self) -> Result<bool> {
        match self.get("/readyz").and_then(read) {
            Ok(_) => Ok(true),
            Err(error) if error.downcast_ref::<Refusal>().is_some() => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Requests `path`, which starts with a slash. A status other than 200 is an error.
    pub(super) fn get(&self, path: &str) -> Result<Body<'_>> {
        self.ask(path).with_context(|| format!("no answer from {}{path}", self.address))
    }

    fn ask(&self, path: &str) -> Result<Body<'_>> {
        let Address { port, path: prefix, .. } = &self.address;
        let mut request =
            Request::get(format!("{prefix}{path}")).header(header::HOST, self.address.authority());
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let server = Server { host: self.address.host(), port: *port, tls: self.tls.as_ref() };
        let answer = self
            .client
            .open(&server, request.body(Full::default())?, |listener| self.trust(listener))
            .map_err(explained)?;
        let (head, mut body) = answer.into_parts();
        match (head.status, &self.authorization) {
            (StatusCode::OK, _) => return Ok(body),
            (StatusCode::UNAUTHORIZED, None) => bail!(Refusal::WantsPassword),
            (StatusCode::UNAUTHORIZED, Some(_)) => bail!(Refusal::WantsOtherPassword),
            _ => {}
        }
        let mut text = String::new();
        let _ = (&mut body).take(1024).read_to_string(&mut text);
        bail!("status {}: {}", head.status.as_str(), visible(text.trim()))
    }

    /// Returns an error if the listener must not get the request: it would show a password, or the listener is not
    /// trusted.
    fn trust(&self, listener: SocketAddr) -> Result<()> {
        let shows_password = self.tls.is_none() && self.authorization.is_some() && !self.plaintext;
        if !self.checked && !shows_password {
            return Ok(());
        }
        let here = listener.ip().to_canonical().is_loopback();
        match here.then(|| owner::of(listener)).transpose()? {
            None if shows_password => bail!(Refusal::Plaintext),
            None | Some(Owner::Trusted) => Ok(()),
            Some(Owner::Other(_)) if shows_password => bail!(Refusal::PlaintextToOther),
            Some(Owner::Other(_)) => bail!(Refusal::OfOther),
        }
    }
}

/// The error as a refusal that says what to do, if the cause is known.
fn explained(error: anyhow::Error) -> anyhow::Error {
    if error.is::<SpeaksTls>() {
        return anyhow!(Refusal::SpeaksTls);
    }
    match error.chain().find_map(|cause| Refusal::of_tls(cause.downcast_ref()?)) {
        Some(refusal) => anyhow!("{error:#}").context(refusal),
        None => error,
    }
}

/// Reads a whole body, up to [`BODY_AT_MOST`].
pub(super) fn read(body: Body<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    body.take(BODY_AT_MOST).read_to_end(&mut bytes).context("the answer is incomplete")?;
    Ok(bytes)
}

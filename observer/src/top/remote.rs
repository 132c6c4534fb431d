//! A daemon asked over HTTP.

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

/// To connect, and between bytes: a daemon that is watched says something every second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of an answer: a thousand rows take less than one MiB.
const BODY_AT_MOST: u64 = 64 << 20;

/// A daemon, and how it is asked.
pub struct Remote {
    client: Client,
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

impl Remote {
    /// Reads the files that the user names; asks nobody yet.
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

    /// Asks for `path`, which begins with a slash. The answer has status 200.
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

    /// Without TLS, whether who listens there may be told what is to be told. Somebody listens: there is a
    /// connection.
    fn trust(&self, listener: SocketAddr) -> Result<()> {
        let tells = self.tls.is_none() && self.authorization.is_some() && !self.plaintext;
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
}

/// What its user can do about it, if that is known.
fn explained(error: anyhow::Error) -> anyhow::Error {
    if error.is::<SpeaksTls>() {
        return anyhow!(Refusal::SpeaksTls);
    }
    match error.chain().find_map(|cause| Refusal::of_tls(cause.downcast_ref()?)) {
        Some(refusal) => anyhow!("{error:#}").context(refusal),
        None => error,
    }
}

/// All of a body.
pub(super) fn read(body: Body<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    body.take(BODY_AT_MOST).read_to_end(&mut bytes).context("the answer is incomplete")?;
    Ok(bytes)
}

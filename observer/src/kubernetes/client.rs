//! Requests the list of pods from a server: one connection and one request, over HTTP/1.1.

use std::fmt::{self, Display, Formatter};
use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode, header};
use rustls::ClientConfig;

use super::Choice;
use super::list::{self, Listed};
use crate::certificates::client_config;
use crate::files::text_of;
use crate::http_client::{Client, Server};

/// The time limit of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Maximum size of a list in bytes; some hundred pods take a few MiB.
const BODY_AT_MOST: usize = 32 << 20;

/// Maximum size of a token in bytes; usual is about 1 KiB.
const TOKEN_AT_MOST: usize = 1 << 20;

pub(super) struct PodClient {
    choice: Choice,
    client: Client,
}

impl PodClient {
    pub(super) fn new(choice: Choice) -> Result<Self> {
        Ok(Self { choice, client: Client::new(PATIENCE)? })
    }

    /// A client whose reads wait as long as this.
    pub(super) fn patient(choice: Choice, patience: Duration) -> Result<Self> {
        Ok(Self { choice, client: Client::new(patience)? })
    }

    /// Requests the list. Blocks at most [`PATIENCE`].
    pub(super) fn pods(&self) -> Result<Vec<Listed>> {
        let body = self.get(&self.path());
        body.and_then(|body| list::parse(&body)).with_context(|| self.to_string())
    }

    /// Requests a path, and returns the whole answer.
    pub(super) fn get(&self, path: &str) -> Result<Bytes> {
        let tls = self.tls()?;
        let answer =
            self.client.fetch(&self.server(tls.as_ref()), self.request(path)?, BODY_AT_MOST)?;
        self.check(answer.status())?;
        Ok(answer.into_body())
    }

    /// Requests a path, and has the answer read as it arrives.
    pub(super) fn read<T>(
        &self,
        path: &str,
        read: impl FnOnce(&mut dyn BufRead) -> Result<T>,
    ) -> Result<T> {
        let tls = self.tls()?;
        let server = self.server(tls.as_ref());
        let answer = self.client.open(&server, self.request(path)?, |_| Ok(()))?;
        self.check(answer.status())?;
        read(&mut answer.into_body())
    }

    fn server<'a>(&'a self, tls: Option<&'a Arc<ClientConfig>>) -> Server<'a> {
        let server = &self.choice.server;
        Server {
            host: server.host().unwrap_or_default().trim_matches(['[', ']']),
            port: server.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 }),
            tls,
        }
    }

    fn check(&self, status: StatusCode) -> Result<()> {
        ensure!(status == StatusCode::OK, "the answer is {status}{}", self.hint(status));
        Ok(())
    }

    fn request(&self, path: &str) -> Result<Request<Full<Bytes>>> {
        let host = self.choice.server.authority().map(Authority::as_str);
        let request = Request::get(path)
            .header(header::HOST, host.unwrap_or_default())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("observer/", env!("CARGO_PKG_VERSION")));
        let request = match &self.choice.token_file {
            None => request,
            Some(path) => {
                let token = text_of(path, TOKEN_AT_MOST)
                    .with_context(|| format!("cannot read the token in {}", path.display()))?;
                request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
            }
        };
        Ok(request.body(Full::default())?)
    }

    fn path(&self) -> String {
        match &self.choice.node {
            None => "/pods".into(),
            Some(node) => {
                let all = percent_encoding::NON_ALPHANUMERIC;
                let node = percent_encoding::utf8_percent_encode(node, all);
                format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}")
            }
        }
    }

    fn hint(&self, status: StatusCode) -> &'static str {
        match (status, &self.choice.node) {
            (StatusCode::UNAUTHORIZED, _) => ": is --kubernetes-token-file the right file?",
            (StatusCode::FORBIDDEN, None) => ": the token is not allowed to get nodes/proxy",
            (StatusCode::FORBIDDEN, Some(_)) => ": the token is not allowed to do that",
            (StatusCode::NOT_FOUND, None) => ": for the API server, add --kubernetes-node",
            _ => "",
        }
    }

    fn tls(&self) -> Result<Option<Arc<ClientConfig>>> {
        if self.choice.server.scheme_str() != Some("https") {
            return Ok(None);
        }
        client_config(self.choice.ca_file.as_deref().context("no --kubernetes-ca-file")?).map(Some)
    }
}

/// The URL of the list, for the log.
impl Display for PodClient {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let server = self.choice.server.to_string();
        write!(f, "{}{}", server.trim_end_matches('/'), self.path())
    }
}

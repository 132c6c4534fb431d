//! Requests the list of pods from a server: one connection and one request, over HTTP/1.1.

use std::fmt::{self, Display, Formatter};
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

    /// Requests the list. Blocks at most [`PATIENCE`].
    pub(super) fn pods(&self) -> Result<Vec<Listed>> {
        self.ask().and_then(|body| list::parse(&body)).with_context(|| self.to_string())
    }

    fn ask(&self) -> Result<Bytes> {
        let server = &self.choice.server;
        let is_secure = server.scheme_str() == Some("https");
        let tls = if is_secure { Some(self.tls()?) } else { None };
        let server = Server {
            host: server.host().unwrap_or_default().trim_matches(['[', ']']),
            port: server.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            tls: tls.as_ref(),
        };
        let answer = self.client.fetch(&server, self.request()?, BODY_AT_MOST)?;
        let status = answer.status();
        ensure!(status == StatusCode::OK, "the answer is {status}{}", self.hint(status));
        Ok(answer.into_body())
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let host = self.choice.server.authority().map(Authority::as_str);
        let request = Request::get(self.path())
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
            (StatusCode::FORBIDDEN, Some(_)) => ": the token is not allowed to list pods",
            (StatusCode::NOT_FOUND, None) => ": for the API server, add --kubernetes-node",
            _ => "",
        }
    }

    fn tls(&self) -> Result<Arc<ClientConfig>> {
        client_config(self.choice.ca_file.as_deref().context("no --kubernetes-ca-file")?)
    }
}

/// The URL of the list, for the log.
impl Display for PodClient {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let server = self.choice.server.to_string();
        write!(f, "{}{}", server.trim_end_matches('/'), self.path())
    }
}

//! Asks a server for its list of pods: one connection, one request, by HTTP/1.1.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Choice;
use super::list::{self, Listed};
use crate::certificates::client_config;
use crate::files::all_of;

/// From the first byte to the last.
const PATIENCE: Duration = Duration::from_secs(10);

/// Some hundred pods are a few MiB.
const BODY_AT_MOST: usize = 32 << 20;

/// A token is about 1 KiB.
const TOKEN_AT_MOST: usize = 1 << 20;

pub(super) struct Client {
    choice: Choice,
    runtime: Runtime,
}

impl Client {
    pub(super) fn new(choice: Choice) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .context("cannot start the runtime that asks Kubernetes")?;
        Ok(Self { choice, runtime })
    }

    /// Blocks, at most [`PATIENCE`].
    pub(super) fn pods(&self) -> Result<Vec<Listed>> {
        let asked = self.runtime.block_on(async { timeout(PATIENCE, self.ask()).await });
        let body = asked.context("no answer in time").flatten();
        body.and_then(|body| list::parse(&body)).with_context(|| self.to_string())
    }

    async fn ask(&self) -> Result<Bytes> {
        let server = &self.choice.server;
        let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
        let secret = server.scheme_str() == Some("https");
        let port = server.port_u16().unwrap_or(if secret { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.context("cannot connect")?;
        if !secret {
            return self.ask_over(stream).await;
        }
        let name = ServerName::try_from(host.to_owned()).context("no name for a certificate")?;
        let connector = TlsConnector::from(self.tls()?);
        self.ask_over(connector.connect(name, stream).await.context("no TLS")?).await
    }

    async fn ask_over<S>(&self, stream: S) -> Result<Bytes>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(self.request()?).await?;
        let status = answer.status();
        ensure!(status == StatusCode::OK, "it answers {status}{}", self.hint(status));
        let body = Limited::new(answer.into_body(), BODY_AT_MOST).collect().await;
        connection.abort();
        Ok(body.map_err(|error| anyhow::anyhow!("the answer breaks off: {error}"))?.to_bytes())
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>> {
        let host = self.choice.server.authority().map(Authority::as_str);
        let request = Request::get(self.path())
            .header(header::HOST, host.unwrap_or_default())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("observer/", env!("CARGO_PKG_VERSION")));
        let request = match &self.choice.token_file {
            None => request,
            Some(path) => {
                let token = all_of(path, TOKEN_AT_MOST)
                    .and_then(|text| String::from_utf8(text).map_err(io::Error::other))
                    .with_context(|| format!("cannot read the token in {}", path.display()))?;
                request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
            }
        };
        Ok(request.body(Empty::new())?)
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
            (StatusCode::UNAUTHORIZED, _) => ": is it the right --kubernetes-token-file?",
            (StatusCode::FORBIDDEN, None) => ": the token's account may not get nodes/proxy",
            (StatusCode::FORBIDDEN, Some(_)) => ": the token's account may not list pods",
            (StatusCode::NOT_FOUND, None) => ": the API server also needs --kubernetes-node",
            _ => "",
        }
    }

    fn tls(&self) -> Result<Arc<ClientConfig>> {
        client_config(self.choice.ca_file.as_deref().context("no --kubernetes-ca-file")?)
    }
}

/// Where it asks, for the log.
impl Display for Client {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let server = self.choice.server.to_string();
        write!(f, "{}{}", server.trim_end_matches('/'), self.path())
    }
}

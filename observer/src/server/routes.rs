//! Which path is answered with what.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Body as _;
use hyper::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, VARY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::time::timeout;
use tracing::error;

use super::held::{Held, Reading};
use super::render::Renderer;
use super::{Limits, Pages, Protection, encoding};
use crate::metrics::Format;

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Of a response: what is there at once, or a scrape.
pub(super) type Body = Either<Full<Bytes>, Reading>;

/// All that is served, and how.
pub(super) struct Routes {
    pages: Arc<dyn Pages>,
    protection: Arc<Protection>,
    renderer: Renderer,
    /// For a page to be made.
    patience: Duration,
}

impl Routes {
    pub(super) fn new(pages: Arc<dyn Pages>, protection: Arc<Protection>, limits: Limits) -> Self {
        let renderer = Renderer::new(Arc::clone(&pages), limits.held);
        Self { renderer, pages, protection, patience: limits.page }
    }

    /// Answers a request. HEAD is answered as GET is; hyper leaves the body out. Whoever is not
    /// admitted does not even learn what there is.
    pub(super) async fn answer(&self, request: &Parts) -> Response<Body> {
        let users = Arc::clone(&self.protection.terms().await.users);
        if !users.admit(request.headers.get(AUTHORIZATION)).await {
            return unauthorized();
        }
        let (method, path) = (&request.method, request.uri.path());
        if !["/", "/metrics", "/healthz", "/readyz"].contains(&path) {
            let text = "There is /metrics, /healthz, /readyz and / here.\n";
            return response(StatusCode::NOT_FOUND, PLAIN, text.into());
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let text = "Only GET and HEAD.\n".into();
            let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, text);
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        let made = async {
            match path {
                "/metrics" => self.metrics(&request.headers).await,
                "/healthz" => self.probe(Pages::health).await,
                "/readyz" => self.probe(Pages::ready).await,
                _ => index(),
            }
        };
        timeout(self.patience, made).await.unwrap_or_else(|_| {
            error!(path, "not made in time");
            let text = format!("{path} was not made in {:?}.\n", self.patience);
            response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text.into())
        })
    }

    async fn metrics(&self, headers: &HeaderMap) -> Response<Body> {
        let format = Format::negotiate(accept(headers).as_deref());
        let rendering = match self.renderer.render(format).await {
            Ok(rendering) => rendering,
            Err(reason) => return failure(&reason),
        };
        let packed = encoding::accepts_gzip(headers);
        let text = if packed { rendering.gzip().await } else { Ok(rendering.text()) };
        match text {
            Ok(text) => scrape(text, format, packed),
            Err(error) => failure(&format!("packing failed: {error}")),
        }
    }

    async fn probe(&self, ask: fn(&dyn Pages) -> Result<(), String>) -> Response<Body> {
        let pages = Arc::clone(&self.pages);
        match tokio::task::spawn_blocking(move || ask(&*pages)).await {
            Ok(Ok(())) => response(StatusCode::OK, PLAIN, "ok\n".into()),
            Ok(Err(reason)) => {
                let text = format!("{reason}\n");
                response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text.into())
            }
            Err(panicked) => failure(&panicked.to_string()),
        }
    }
}

fn unauthorized() -> Response<Body> {
    let text = "Unauthorized: this needs a user and a password.\n".into();
    let mut refusal = response(StatusCode::UNAUTHORIZED, PLAIN, text);
    let challenge = HeaderValue::from_static("Basic realm=\"observer\", charset=\"UTF-8\"");
    refusal.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    refusal
}

fn index() -> Response<Body> {
    let mut page = response(StatusCode::OK, HTML, include_str!("index.html").into());
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    page
}

fn failure(reason: &str) -> Response<Body> {
    error!(reason, "an HTTP request could not be served");
    response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{reason}\n").into())
}

/// What stands on several lines is one list (RFC 9110, section 5.3).
fn accept(headers: &HeaderMap) -> Option<String> {
    let lines: Vec<&str> =
        headers.get_all(ACCEPT).into_iter().filter_map(|line| line.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

fn scrape(text: &Arc<Held>, format: Format, packed: bool) -> Response<Body> {
    let content_type = HeaderValue::from_static(format.content_type());
    let mut scrape = with_body(StatusCode::OK, content_type, Either::Right(text.read()));
    let headers = scrape.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if packed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    scrape
}

fn response(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Body> {
    with_body(status, content_type, Either::Left(Full::new(body)))
}

fn with_body(status: StatusCode, content_type: HeaderValue, body: Body) -> Response<Body> {
    let length = body.size_hint().exact();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

//! Which path is answered with what.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response, StatusCode};
use tokio::time::timeout;
use tracing::error;

use super::Pages;
use super::render::Renderer;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// All that is served, and how.
pub(super) struct Routes {
    pages: Arc<dyn Pages>,
    renderer: Renderer,
    /// For a page to be made.
    patience: Duration,
}

impl Routes {
    pub(super) fn new(pages: Arc<dyn Pages>, patience: Duration) -> Self {
        Self { renderer: Renderer::new(Arc::clone(&pages)), pages, patience }
    }

    /// Answers a request. HEAD is answered as GET is; hyper leaves the body out.
    pub(super) async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
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
                "/metrics" => self.metrics().await,
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

    async fn metrics(&self) -> Response<Full<Bytes>> {
        match self.renderer.render().await {
            Ok(text) => response(StatusCode::OK, OPEN_METRICS, text),
            Err(reason) => failure(&reason),
        }
    }

    async fn probe(&self, ask: fn(&dyn Pages) -> Result<(), String>) -> Response<Full<Bytes>> {
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

fn index() -> Response<Full<Bytes>> {
    let mut page = response(StatusCode::OK, HTML, include_str!("index.html").into());
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    page
}

fn failure(reason: &str) -> Response<Full<Bytes>> {
    error!(reason, "an HTTP request could not be served");
    response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{reason}\n").into())
}

fn response(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Full<Bytes>> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

//! Which path is answered with what.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Body as _;
use hyper::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, VARY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::time::timeout;
use tracing::error;

use super::events::{Events, Watchers};
use super::held::{Held, Reading};
use super::live::{Live, Sampled};
use super::render::Renderer;
use super::{Limits, Pages, Protection, encoding, page};
use crate::metrics::Format;

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Where the samples come as events.
pub(super) const EVENTS: &str = "/events";

/// What the page consists of beside itself.
static ASSETS: [(&str, HeaderValue, &str); 8] = [
    ("/view.js", SCRIPT, include_str!("assets/view.js")),
    ("/table.js", SCRIPT, include_str!("assets/table.js")),
    ("/detail.js", SCRIPT, include_str!("assets/detail.js")),
    ("/history.js", SCRIPT, include_str!("assets/history.js")),
    ("/elements.js", SCRIPT, include_str!("assets/elements.js")),
    ("/text.js", SCRIPT, include_str!("assets/text.js")),
    (
        "/view.css",
        HeaderValue::from_static("text/css; charset=utf-8"),
        include_str!("assets/view.css"),
    ),
    ("/icon.svg", HeaderValue::from_static("image/svg+xml"), include_str!("assets/icon.svg")),
];

/// Paths of which the answer has to be made.
const MADE: [&str; 5] = ["/", "/metrics", "/healthz", "/readyz", "/api/v1/view"];

/// Of a response: what is there at once, or a scrape, or samples as they are taken.
pub(super) type Body = Either<Full<Bytes>, Either<Reading, Events>>;

/// All that is served, and how.
pub(super) struct Routes {
    pages: Arc<dyn Pages>,
    protection: Arc<Protection>,
    renderer: Renderer,
    live: Live,
    watchers: Watchers,
    /// For a page to be made.
    patience: Duration,
}

impl Routes {
    pub(super) fn new(pages: Arc<dyn Pages>, protection: Arc<Protection>, limits: Limits) -> Self {
        let live = Live::new(Arc::clone(&pages), limits.period, limits.linger);
        Self {
            renderer: Renderer::new(Arc::clone(&pages), limits.held),
            watchers: Watchers::new(live.clone(), limits.watchers),
            live,
            pages,
            protection,
            patience: limits.page,
        }
    }

    /// Answers a request. HEAD is answered as GET is; hyper leaves the body out. Whoever is not
    /// admitted does not even learn what there is.
    pub(super) async fn answer(&self, request: &Parts) -> Response<Body> {
        let terms = self.protection.terms().await;
        let mut answer = if terms.users.admit(request.headers.get(AUTHORIZATION)).await {
            self.answer_admitted(request).await
        } else {
            unauthorized()
        };
        for (name, value) in &terms.headers {
            answer.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        answer
    }

    async fn answer_admitted(&self, request: &Parts) -> Response<Body> {
        let (method, path) = (&request.method, request.uri.path());
        let asset = ASSETS.iter().find(|(of, ..)| *of == path);
        if asset.is_none() && path != EVENTS && !MADE.contains(&path) {
            let text = format!("There is {}, {EVENTS} here.\n", MADE.join(", "));
            return response(StatusCode::NOT_FOUND, PLAIN, text.into());
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let text = "Only GET and HEAD.\n".into();
            let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, text);
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        if let Some((_, content_type, text)) = asset {
            let body = Bytes::from_static(text.as_bytes());
            return response(StatusCode::OK, content_type.clone(), body);
        }
        let made = async {
            match path {
                EVENTS => self.events().await,
                "/metrics" => self.metrics(&request.headers).await,
                "/healthz" => self.probe(Pages::health).await,
                "/readyz" => self.probe(Pages::ready).await,
                "/api/v1/view" => view(self.live.latest_with_rates().await),
                _ => index(self.live.latest().await),
            }
        };
        timeout(self.patience, made).await.unwrap_or_else(|_| {
            error!(path, "not made in time");
            let text = format!("{path} was not made in {:?}.\n", self.patience);
            response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text.into())
        })
    }

    /// Ends what would never end by itself.
    pub(super) fn end(&self) {
        self.live.end();
    }

    async fn events(&self) -> Response<Body> {
        let Some(events) = self.watchers.admit().await else {
            let text = "As many as may are watching; try again later.\n".into();
            let mut refusal = response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text);
            refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
            return refusal;
        };
        let events = Either::Right(Either::Right(events));
        let mut response = with_body(StatusCode::OK, EVENT_STREAM, events);
        // It does not end before its connection does.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
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

fn index(sampled: Sampled) -> Response<Body> {
    let frame = match sampled {
        Ok(frame) => frame,
        Err(reason) => return failure(&reason),
    };
    let mut page = response(StatusCode::OK, HTML, page::page(&frame.model).into());
    let policy = HeaderValue::from_static(page::POLICY);
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    page
}

fn view(sampled: Sampled) -> Response<Body> {
    match sampled {
        Ok(frame) => response(StatusCode::OK, JSON, frame.json.clone()),
        Err(reason) => failure(&reason),
    }
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
    let mut scrape =
        with_body(StatusCode::OK, content_type, Either::Right(Either::Left(text.read())));
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

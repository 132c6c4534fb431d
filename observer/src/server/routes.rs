//! The answers of each path.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Body as _;
use hyper::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, VARY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::time::timeout;
use tracing::error;

use super::auth::Admission;
use super::connections::{self, List};
use super::counts::{Counts, Refused};
use super::events::{Events, Watchers};
use super::held::{Held, Reading};
use super::live::{Live, Sampled};
use super::protection::Terms;
use super::render::{OneSnapshot, Renderer};
use super::site::Hosts;
use super::socket::Asker;
use super::{Limits, Pages, Protection, encoding, page};
use crate::connections::Model as Connections;
use crate::metrics::Format;

pub(super) const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Pages of other sites must not show or read a response.
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// The path of the samples as events.
pub(super) const EVENTS: &str = "/events";

/// The files that the page loads.
static ASSETS: [(&str, HeaderValue, &str); 9] = [
    ("/view.js", SCRIPT, include_str!("assets/view.js")),
    ("/table.js", SCRIPT, include_str!("assets/table.js")),
    ("/map.js", SCRIPT, include_str!("assets/map.js")),
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

/// Paths whose answer is made for each request.
const MADE: [&str; 7] =
    ["/", "/metrics", "/healthz", "/readyz", "/api/v1/view", "/connections", "/api/v1/connections"];

/// The body of a response: a text, a scrape, or samples as events.
pub(super) type Body = Either<Full<Bytes>, Either<Reading, Events>>;

/// All paths, and the state to answer them.
pub(super) struct Routes {
    pages: Arc<dyn Pages>,
    protection: Arc<Protection>,
    hosts: Hosts,
    counts: Arc<Counts>,
    renderer: Renderer,
    live: Live,
    list: List,
    watchers: Watchers,
    /// How long an answer may take.
    patience: Duration,
}

impl Routes {
    pub(super) fn new(
        pages: Arc<dyn Pages>,
        protection: Arc<Protection>,
        hosts: Hosts,
        counts: Arc<Counts>,
        limits: Limits,
    ) -> Self {
        let one = OneSnapshot::default();
        let live = Live::new(Arc::clone(&pages), Arc::clone(&one), limits.period, limits.linger);
        Self {
            renderer: Renderer::new(Arc::clone(&pages), one, &limits),
            watchers: Watchers::new(live.clone(), limits.watchers),
            live,
            list: List::default(),
            pages,
            protection,
            hosts,
            counts,
            patience: limits.page,
        }
    }

    /// The terms for a new connection or request.
    pub(super) async fn terms(&self) -> Arc<Terms> {
        self.protection.terms().await
    }

    /// Answers a request. HEAD gets the same answer as GET; hyper omits the body. A client without a password cannot even
    /// learn which paths exist.
    pub(super) async fn answer(&self, request: &Parts, asker: &Asker) -> Response<Body> {
        let terms = self.terms().await;
        let mut answer = match self.hosts.refuse(request) {
            Some(reason) => {
                self.counts.refuse(reason);
                of_other_site(reason)
            }
            None => self.answer_ours(request, asker, &terms).await,
        };
        for (name, value) in &terms.headers {
            answer.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        answer
    }

    async fn answer_ours(&self, request: &Parts, asker: &Asker, terms: &Terms) -> Response<Body> {
        let (gate, counts) = (&self.protection.gate, &*self.counts);
        let given = request.headers.get(AUTHORIZATION);
        match terms.users.admit(given, asker, gate, counts).await {
            Admission::Admitted => self.answer_admitted(request, asker).await,
            Admission::Unknown => unauthorized(),
            Admission::TooMany => later(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many passwords are waiting to be checked; try again later.\n",
            ),
        }
    }

    async fn answer_admitted(&self, request: &Parts, asker: &Asker) -> Response<Body> {
        let (method, path) = (&request.method, request.uri.path());
        let asset = ASSETS.iter().find(|(of, ..)| *of == path);
        if asset.is_none() && path != EVENTS && !MADE.contains(&path) {
            let text = format!("Not found. Available: {}, {EVENTS}.\n", MADE.join(", "));
            return response(StatusCode::NOT_FOUND, PLAIN, text.into());
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let text = "Only GET and HEAD are allowed.\n".into();
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
                "/metrics" => self.metrics(&request.headers, asker).await,
                "/healthz" => self.probe(Pages::health).await,
                "/readyz" => self.probe(Pages::ready).await,
                "/api/v1/view" => view(self.live.latest(2).await),
                "/connections" => self.connections(in_html).await,
                "/api/v1/connections" => self.connections(in_json).await,
                _ => index(self.live.latest(1).await).await,
            }
        };
        timeout(self.patience, made).await.unwrap_or_else(|_| {
            error!(path, "the response was not ready in time");
            let text = format!("{path} was not ready within {:?}.\n", self.patience);
            response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text.into())
        })
    }

    /// Ends the responses that would never end.
    pub(super) fn end(&self) {
        self.live.end();
    }

    async fn events(&self) -> Response<Body> {
        let Some(events) = self.watchers.admit().await else {
            let text = "Too many viewers are connected; try again later.\n";
            return later(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        let events = Either::Right(Either::Right(events));
        let mut response = with_body(StatusCode::OK, EVENT_STREAM, events);
        // It ends only with its connection.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    async fn metrics(&self, headers: &HeaderMap, asker: &Asker) -> Response<Body> {
        let format = Format::negotiate(accept(headers).as_deref());
        match self.renderer.render(format, asker).await {
            Ok(text) => scrape(&text, format, encoding::accepts_gzip(headers)),
            // The client has gone: not worth a line in the log.
            Err(reason) if asker.is_gone() => {
                response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, reason.into())
            }
            Err(reason) => failure(&reason),
        }
    }

    async fn connections(&self, write: fn(&Connections) -> Response<Body>) -> Response<Body> {
        match self.list.latest(&self.pages).await {
            Ok(connections) => write(&connections),
            Err(reason) => failure(&reason),
        }
    }

    async fn probe(&self, ask: fn(&dyn Pages) -> Result<(), String>) -> Response<Body> {
        let pages = Arc::clone(&self.pages);
        match tokio::task::spawn_blocking(move || ask(&*pages)).await {
            Ok(outcome) => probed(outcome),
            Err(panicked) => failure(&panicked.to_string()),
        }
    }
}

/// The answer to a probe.
pub(super) fn probed(outcome: Result<(), String>) -> Response<Body> {
    match outcome {
        Ok(()) => response(StatusCode::OK, PLAIN, "ok\n".into()),
        Err(reason) => {
            response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{reason}\n").into())
        }
    }
}

fn later(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut refusal = response(status, PLAIN, text.into());
    refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
    refusal
}

fn of_other_site(reason: Refused) -> Response<Body> {
    let (status, text) = match reason {
        Refused::Host => (
            StatusCode::MISDIRECTED_REQUEST,
            "This host name is not allowed: use an IP address or localhost, or start the daemon \
             with --allow-host.\n",
        ),
        _ => (StatusCode::FORBIDDEN, "Requests from pages of other sites are not allowed.\n"),
    };
    response(status, PLAIN, text.into())
}

fn unauthorized() -> Response<Body> {
    let text = "Unauthorized: a user name and a password are needed.\n".into();
    let mut refusal = response(StatusCode::UNAUTHORIZED, PLAIN, text);
    let challenge = HeaderValue::from_static("Basic realm=\"observer\", charset=\"UTF-8\"");
    refusal.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    refusal
}

/// The page of a sample. It is made once, on a thread for blocking work.
async fn index(sampled: Sampled) -> Response<Body> {
    let frame = match sampled {
        Ok(frame) => frame,
        Err(reason) => return failure(&reason),
    };
    let made = tokio::task::spawn_blocking(move || {
        frame.page.get_or_init(|| page::page(&frame.model).into()).clone()
    });
    let text = match made.await {
        Ok(text) => text,
        Err(panicked) => return failure(&panicked.to_string()),
    };
    html(text)
}

fn html(text: Bytes) -> Response<Body> {
    let mut page = response(StatusCode::OK, HTML, text);
    let policy = HeaderValue::from_static(page::POLICY);
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    page
}

fn in_html(connections: &Connections) -> Response<Body> {
    html(connections::page(connections).into())
}

fn in_json(connections: &Connections) -> Response<Body> {
    match serde_json::to_vec(connections) {
        Ok(json) => response(StatusCode::OK, JSON, json.into()),
        Err(error) => failure(&error.to_string()),
    }
}

fn view(sampled: Sampled) -> Response<Body> {
    match sampled {
        Ok(frame) => response(StatusCode::OK, JSON, frame.json.clone()),
        Err(reason) => failure(&reason),
    }
}

fn failure(reason: &str) -> Response<Body> {
    error!(reason, "cannot answer an HTTP request");
    response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{reason}\n").into())
}

/// The `accept` header. Several lines are one list (RFC 9110, section 5.3).
fn accept(headers: &HeaderMap) -> Option<String> {
    let lines: Vec<&str> =
        headers.get_all(ACCEPT).into_iter().filter_map(|line| line.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

fn scrape(text: &Arc<Held>, format: Format, packed: bool) -> Response<Body> {
    let content_type = HeaderValue::from_static(format.content_type());
    let text = if packed { text.read_packed() } else { text.read() };
    let mut scrape = with_body(StatusCode::OK, content_type, Either::Right(Either::Left(text)));
    let headers = scrape.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if packed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    scrape
}

pub(super) fn response(
    status: StatusCode,
    content_type: HeaderValue,
    body: Bytes,
) -> Response<Body> {
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
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

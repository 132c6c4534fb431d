//! Refuses requests that a browser makes for pages of other sites.
//!
//! Two checks keep other sites out. A page whose name is made to resolve to this machine (DNS rebinding) has that name in
//! `Host`. So if only this machine can connect, `Host` must be an address, localhost or a name of `--allow-host`. If
//! others can connect too, any name is allowed. And a browser marks requests for a page of another origin
//! (`Sec-Fetch-Site`, `Origin`).

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use tokio::net::TcpListener;

use super::counts::Refused;
use super::routes::EVENTS;

/// A host name that requests may use, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(format!("'{text}' is not a host name: write e.g. node-7.example.org"));
        }
        Ok(Self(name))
    }
}

/// The host names that requests may use; `None` for any name, if other machines can connect.
#[derive(Debug)]
pub(super) struct Hosts(Option<Vec<HostName>>);

impl Hosts {
    pub(super) fn of(listener: &TcpListener, allowed: Vec<HostName>) -> Self {
        let local =
            listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        Self(local.then_some(allowed))
    }

    /// The reason to refuse a request; `None` if it is allowed.
    pub(super) fn refuse(&self, request: &Parts) -> Option<Refused> {
        let of_uri = request.uri.authority().map(|authority| authority.as_str().as_bytes());
        let headers = &request.headers;
        let mut hosts = headers.get_all(HOST).into_iter().map(HeaderValue::as_bytes).chain(of_uri);
        if !hosts.all(|host| self.allow(host)) {
            return Some(Refused::Host);
        }
        let is_ours = comes_from_here(headers, request.uri.path() != EVENTS);
        (!is_ours).then_some(Refused::CrossSite)
    }

    fn allow(&self, host: &[u8]) -> bool {
        let Some(allowed) = &self.0 else { return true };
        let Ok(host) = str::from_utf8(host) else { return false };
        if let Some(rest) = host.strip_prefix('[') {
            let address = rest.split_once(']').map(|(address, _)| address);
            return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
        }
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        // Names below localhost resolve to this machine (RFC 6761 §6.3).
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse::<IpAddr>().is_ok()
            || allowed.iter().any(|HostName(allowed)| *allowed == name)
    }
}

/// Whether a request is not from a page of another origin. Such a page may link here: then a person sees the answer, not
/// the page. That does not hold for events, which would take a place.
fn comes_from_here(headers: &HeaderMap, may_be_visited: bool) -> bool {
    let says = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    let visits =
        may_be_visited && says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document");
    let same_site = !headers.contains_key("sec-fetch-site")
        || says("sec-fetch-site", "same-origin")
        || says("sec-fetch-site", "none");
    let of_host = |origin: &[u8]| {
        let authority = str::from_utf8(origin).ok().and_then(|origin| origin.split_once("://"));
        let host = headers.get(HOST).map(HeaderValue::as_bytes);
        authority.is_some_and(|(_, authority)| {
            host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_bytes()))
        })
    };
    let same_origin = headers.get(ORIGIN).is_none_or(|origin| of_host(origin.as_bytes()));
    same_origin && (visits || same_site)
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn refused(hosts: &Hosts, uri: &str, headers: &[(&str, &str)]) -> Option<Refused> {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        hosts.refuse(&request.body(()).expect("a request").into_parts().0)
    }

    #[test]
    fn a_name_of_somebody_else_is_refused_on_this_machine() {
        let local = Hosts(Some(vec!["Node-7.example.org".parse().expect("a name")]));
        for host in [
            "127.0.0.1",
            "127.0.0.1:9464",
            "localhost",
            "LocalHost:9464",
            "localhost.",
            "a.localhost:1",
            "[::1]",
            "[::1]:9464",
            "10.0.0.7:80",
            "node-7.example.org",
            "NODE-7.example.org.:9464",
        ] {
            assert_eq!(refused(&local, "/metrics", &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "[evil]",
            "[::1",
            "",
            ":9464",
            "node-7.example.org.evil.example",
            "x@localhost",
        ] {
            let headers = [("host", host)];
            assert_eq!(refused(&local, "/metrics", &headers), Some(Refused::Host), "{host}");
            assert_eq!(refused(&Hosts(None), "/metrics", &headers), None, "{host}");
        }
        // Browsers always send it. A host in the request line counts too.
        assert_eq!(refused(&local, "/metrics", &[]), None);
        let both = refused(&local, "http://evil.example/metrics", &[("host", "localhost")]);
        assert_eq!(both, Some(Refused::Host));
    }

    #[test]
    fn what_a_page_of_another_site_asks_is_refused() {
        let site = |site| ("sec-fetch-site", site);
        let host = ("host", "localhost:9464");
        let visit = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        for path in ["/events", "/api/v1/view", "/view.js", "/metrics", "/"] {
            let hosts = Hosts(None);
            let refused = |more: &[_]| refused(&hosts, path, &[&[host], more].concat());
            for ours in [
                &[][..],
                &[site("none")],
                &[site("same-origin")],
                &[("origin", "http://localhost:9464")],
                &[site("same-origin"), ("origin", "https://LOCALHOST:9464")],
            ] {
                assert_eq!(refused(ours), None, "{path} {ours:?}");
            }
            for theirs in [
                &[site("cross-site")][..],
                &[site("same-site")],
                &[site("something new")],
                &[site("cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
                &[("origin", "http://evil.example")],
                &[("origin", "http://localhost:3000")],
                &[("origin", "null")],
                &[site("same-origin"), ("origin", "http://evil.example")],
            ] {
                assert_eq!(refused(theirs), Some(Refused::CrossSite), "{path} {theirs:?}");
            }
            let visited = refused(&[&[site("cross-site")][..], &visit].concat());
            assert_eq!(visited.is_some(), path == "/events", "{path}");
        }
    }

    #[test]
    fn names_are_names() {
        for bad in ["", ".", "a b", "http://x", "x:1", "[::1]", "*"] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }
}

//! Requests of a browser for a page of another site.

use super::*;

/// A request with this host, and more headers.
fn ask(served: &Served, path: &str, host: &str, more: &str) -> Answer {
    let mut client = served.connect();
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"));
    client.answer(false)
}

#[test]
fn a_name_that_is_made_to_resolve_to_this_machine_reads_nothing() {
    let served = Served::start(GENEROUS, Stub::default());
    for path in ["/", "/metrics", "/events", "/api/v1/view", "/connections", "/view.js", "/healthz"]
    {
        assert_eq!(ask(&served, path, "rebound.example:9464", "").status(), 421, "{path}");
        let host = served.address.to_string();
        assert_eq!(ask(&served, path, &host, "").status(), 200, "{path}");
    }
    assert_eq!((served.refused("host"), served.refused("cross_site")), (7, 0));
}

#[test]
fn pages_of_other_sites_read_nothing() {
    let served = Served::start(GENEROUS, Stub::default());
    let paths = ["/", "/metrics", "/events", "/api/v1/view", "/connections", "/view.js"];
    for path in paths {
        for headers in ["Sec-Fetch-Site: cross-site\r\n", "Origin: http://evil.example\r\n"] {
            let refusal = ask(&served, path, "localhost", headers);
            assert_eq!(refusal.status(), 403, "{path} {headers}");
            assert_eq!(refusal.header("cross-origin-resource-policy"), Some("same-origin"));
        }
        let ours = ask(&served, path, "localhost", "Sec-Fetch-Site: same-origin\r\n");
        assert_eq!(ours.status(), 200, "{path}");
        assert_eq!(ours.header("cross-origin-resource-policy"), Some("same-origin"), "{path}");
    }
    assert_eq!(served.refused("cross_site"), 12);
    let link =
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    for path in paths {
        let status = if path == "/events" { 403 } else { 200 };
        assert_eq!(ask(&served, path, "localhost", link).status(), status, "{path}");
    }
}

//! The address of a daemon, as users write it.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The address of a daemon: `http://HOST:PORT` or `https://HOST:PORT`, with an optional prefix of its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(super) secure: bool,
    /// The host as in the URL: an IPv6 address has brackets.
    host: String,
    pub(super) port: u16,
    /// The prefix of paths: it starts with a slash, or is empty.
    pub(super) path: String,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WRITE: &str = "write for example http://127.0.0.1:9464";
        let (secure, rest) = match text.split_once("://") {
            None | Some(("http", _)) => (false, text.trim_start_matches("http://")),
            Some(("https", rest)) => (true, rest),
            Some((scheme, _)) => {
                return Err(format!("{scheme} is not supported, only http and https: {WRITE}"));
            }
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(format!("the user name belongs in --user, not in the address: {WRITE}"));
        }
        if authority.is_empty() || text.contains(|c: char| c.is_control() || c == ' ') {
            return Err(format!("this is not an address: {WRITE}"));
        }
        let named = authority.rsplit_once(':').and_then(|(host, port)| {
            let is_whole = !host.contains(':') || host.ends_with(']');
            port.parse().ok().filter(|_| is_whole).map(|port| (host, port))
        });
        let (host, port) = named.unwrap_or((authority, if secure { 443 } else { 80 }));
        Ok(Self { secure, host: host.into(), port, path: path.trim_end_matches('/').to_owned() })
    }
}

impl Address {
    /// The address of this machine's daemon, if it listens at `listen`.
    pub fn of_this_machine(listen: SocketAddr, secure: bool) -> Self {
        let host = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
            IpAddr::V6(ip) if ip.is_unspecified() => format!("[{}]", Ipv6Addr::LOCALHOST),
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { secure, host, port: listen.port(), path: String::new() }
    }

    /// The host without brackets: the certificate must be for this name.
    pub(super) fn host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// Host and port, for the `Host` header.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("http://127.0.0.1:9464", "http://127.0.0.1:9464"),
            ("127.0.0.1:9464", "http://127.0.0.1:9464"),
            ("http://node-7:9464/", "http://node-7:9464"),
            ("http://gate/observer/node-7/", "http://gate:80/observer/node-7"),
            ("http://[::1]:9464", "http://[::1]:9464"),
            ("[::1]", "http://[::1]:80"),
            ("https://node-7:9464", "https://node-7:9464"),
            ("https://gate/node-7", "https://gate:443/node-7"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for bad in ["", "http:///x", "http://a b", "ftp://x", "x\r\nHost: y", "https://u:p@x"] {
            let error = bad.parse::<Address>().unwrap_err();
            assert!(error.contains("write for example"), "{bad}: {error}");
        }
        let everywhere: SocketAddr = "0.0.0.0:9464".parse().unwrap();
        let here = Address::of_this_machine(everywhere, true);
        assert_eq!(
            (here.to_string().as_str(), here.host()),
            ("https://127.0.0.1:9464", "127.0.0.1")
        );
        assert_eq!("https://[::1]:1".parse::<Address>().unwrap().host(), "::1");
    }
}

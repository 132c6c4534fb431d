//! The host and port of an `:authority` (RFC 3986 section 3.2).

/// The longest host: that of a domain name.
const AT_MOST: usize = 253;

/// The host and port of an authority, as far as they are those of a server: a name, or an address without brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    /// The host.
    pub host: &'a str,
    /// The port, if there is one.
    pub port: Option<u16>,
}

impl<'a> Host<'a> {
    /// Splits an authority; `None` if it is not that of a server, such as `%2Ftmp%2Fsocket`.
    pub fn of(authority: &'a str) -> Option<Self> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                (host, rest.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = port.filter(|port| !port.is_empty()).map(str::parse).transpose().ok()?;
        let may_have = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_v6 = authority.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok();
        let is_host = is_v6 || !host.is_empty() && host.chars().all(may_have);
        (is_host && host.len() <= AT_MOST).then_some(Self { host, port })
    }

    /// The name of the host in lower case; `None` for an address, in any form, and for this machine.
    pub fn name(self) -> Option<String> {
        let name = self.host.trim_end_matches('.').to_ascii_lowercase();
        let last = name.rsplit('.').next().unwrap_or_default();
        // As in the URL standard: a host whose last label is a number is an IPv4 address, if it is anything.
        let is_number = |label: &str| {
            let digits = label.strip_prefix("0x").unwrap_or(label);
            digits.chars().all(|c| c.is_ascii_hexdigit())
                && (digits.len() < label.len() || digits.chars().all(|c| c.is_ascii_digit()))
        };
        // `10-0-7-1.shop.pod.cluster.local`
        let first = name.split('.').next().unwrap_or_default();
        let is_dashed = first.replace('-', ".").parse::<std::net::Ipv4Addr>().is_ok();
        let is_address = name.contains(':') || is_number(last) || is_dashed;
        (!is_address && name != "localhost" && !name.is_empty()).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::Host;

    #[test]
    fn authorities_have_hosts_and_ports() {
        let rows = [
            ("shop", Some(("shop", None))),
            ("shop:", Some(("shop", None))),
            ("shop.prod.svc:50051", Some(("shop.prod.svc", Some(50051)))),
            ("10.0.0.1:80", Some(("10.0.0.1", Some(80)))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("[::1]", Some(("::1", None))),
            ("[shop]", Some(("shop", None))),
            ("shop:70000", None),
            ("::1", None),
            ("[::1", None),
            ("user@shop", None),
            ("%2Ftmp%2Fsocket", None),
            ("a b", None),
            ("", None),
            (":80", None),
        ];
        for (authority, want) in rows {
            let host = Host::of(authority).map(|Host { host, port }| (host, port));
            assert_eq!(host, want, "{authority}");
        }
        assert_eq!(Host::of(&"x".repeat(254)), None);
    }

    #[test]
    fn an_address_is_not_a_name() {
        let name = |authority: &str| Host::of(authority).and_then(Host::name);
        assert_eq!(name("Shop.Prod.svc.:80").as_deref(), Some("shop.prod.svc"));
        assert_eq!(name("db1").as_deref(), Some("db1"));
        assert_eq!(name("cafe").as_deref(), Some("cafe"));
        for address in [
            "10.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "1.2.3.0x4",
            "[::1]",
            "[::ffff:1.2.3.4]",
            "10-0-7-1.shop.pod.cluster.local",
            "localhost:80",
            "LOCALHOST",
            ".",
        ] {
            assert_eq!(name(address), None, "{address}");
        }
    }
}

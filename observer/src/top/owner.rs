//! Who listens on this machine: any user may, where the daemon does not run.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use rustix::process::geteuid;

/// Who listens at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Root, whoever runs this, or the daemon's user.
    Trusted,
    /// Somebody else, or nobody whom the kernel tells of.
    Other(Option<u32>),
}

/// Users that systemd gives to services while they run (`DynamicUser=`), and nobody else gives to anybody.
///
/// Source: "Users, Groups, UIDs and GIDs on systemd Systems".
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// The daemon's user, where it has one that is always there.
const NAME: &str = "observer";

/// The state of a socket that listens, `TCP_LISTEN` (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// Who listens at that address of this machine.
pub(super) fn of(listener: SocketAddr) -> Result<Owner> {
    let mut owners = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match File::open(table) {
            Ok(file) => owners.extend(listeners(BufReader::new(file), listener)),
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {table}")),
        }
    }
    Ok(judge(&owners, geteuid().as_raw(), &fs::read_to_string("/etc/passwd").unwrap_or_default()))
}

/// All must be trusted: which of several gets a connection is not for us to know.
fn judge(owners: &[u32], own: u32, passwd: &str) -> Owner {
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(NAME)).then(|| fields.nth(1)?.parse::<u32>().ok()).flatten()
    });
    let is_trusted =
        |uid: &u32| *uid == 0 || *uid == own || Some(*uid) == named || DYNAMIC.contains(uid);
    match owners.iter().find(|uid| !is_trusted(uid)) {
        Some(other) => Owner::Other(Some(*other)),
        None if owners.is_empty() => Owner::Other(None),
        None => Owner::Trusted,
    }
}

/// The users of the sockets that listen there (proc(5), `/proc/net/tcp`), or at every address with that port.
fn listeners(table: impl BufRead, at: SocketAddr) -> Vec<u32> {
    let listener = |line: String| {
        let mut cells = line.split_whitespace().skip(1);
        let (address, port) = cells.next()?.split_once(':')?;
        let state = cells.nth(1)?;
        // Behind it: queues, timer, timeouts.
        let uid = cells.nth(3)?.parse().ok()?;
        let address = parse_address(address)?;
        let is_there = address == at.ip().to_canonical() || address.is_unspecified();
        let is_port = u16::from_str_radix(port, 16).ok()? == at.port();
        (state == LISTEN && is_there && is_port).then_some(uid)
    };
    table.lines().map_while(Result::ok).filter_map(listener).collect()
}

/// Words of 32 bits, each as this machine stores what has the network's order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    if text.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (at, place) in bytes.chunks_exact_mut(4).enumerate() {
        place.copy_from_slice(&word(at)?);
    }
    Some(Ipv6Addr::from(bytes).to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn whoever_runs_this_is_found_where_it_listens() {
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut at = listener.local_addr().unwrap();
            at.set_ip(Ipv4Addr::LOCALHOST.into());
            // A connection has the same address, and is not who listens.
            let _connected = TcpStream::connect(at).unwrap();
            assert_eq!(of(at).unwrap(), Owner::Trusted);
            drop(listener);
            assert_eq!(of(at).unwrap(), Owner::Other(None));
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn only_who_listens_there_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:24F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1\n   \
            1: 0100007F:24F8 0100007F:1234 01 00000000:00000000 00:00000000 00000000     1        0 1\n   \
            2: 0100007F:24F9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     2        0 1\n   \
            3: 00000000:24F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     3        0 1\n   \
            4: 0A000007:24F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     4        0 1\n   \
            5: 00000000000000000000000000000000:24F8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 5 0 1\n   \
            6: 00000000000000000000000001000000:24F8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 6 0 1\n\
            nonsense\n";
        let at = |address: &str| listeners(table.as_bytes(), address.parse().unwrap());
        assert_eq!(at("127.0.0.1:9464"), [1000, 3, 5]);
        assert_eq!(at("[::1]:9464"), [3, 5, 6]);
        assert!(at("127.0.0.1:1").is_empty());
    }

    #[test]
    fn root_who_asks_and_the_daemons_user_are_trusted() {
        let passwd =
            "root:x:0:0::/:/bin/sh\nobserver:x:998:998::/:/bin/false\nwww:x:33:33::/:/bin/sh\n";
        for (owners, trusted) in [
            (&[0][..], true),
            (&[1000], true),
            (&[998], true),
            (&[61_184], true),
            (&[0, 1000], true),
            (&[33], false),
            (&[65_534], false),
            (&[0, 33], false),
            (&[], false),
        ] {
            assert_eq!(judge(owners, 1000, passwd) == Owner::Trusted, trusted, "{owners:?}");
        }
    }
}

//! The owner of a listener on this machine: if the daemon does not run, any user may listen at its address.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use procfs::ProcError;
use procfs::net::{TcpNetEntry, TcpState, tcp, tcp6};
use rustix::process::geteuid;

/// The owner of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Root, the user that runs this, or the daemon's user.
    Trusted,
    /// Another user, by its ID; `None` if the kernel does not show a listener.
    Other(Option<u32>),
}

/// IDs of users that systemd creates for a service while it runs (`DynamicUser=`). They are used for nothing else.
///
/// Source: "Users, Groups, UIDs and GIDs on systemd Systems".
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// The name of the daemon's user, if it has one of its own.
const NAME: &str = "observer";

/// The owner of the listener at an address of this machine.
pub(super) fn of(listener: SocketAddr) -> Result<Owner> {
    let mut sockets = Vec::new();
    for table in [tcp(), tcp6()] {
        match table {
            Ok(entries) => sockets.extend(entries),
            // A kernel without IPv6.
            Err(ProcError::NotFound(_)) => {}
            Err(error) => {
                return Err(error).context("cannot read the kernel's list of TCP sockets");
            }
        }
    }
    let owners = listeners(&sockets, listener);
    Ok(judge(&owners, geteuid().as_raw(), &fs::read_to_string("/etc/passwd").unwrap_or_default()))
}

/// Judges the owners of all listeners at an address. All must be trusted: the kernel may pass a connection to any of them.
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

/// The users of the sockets that listen at an address, or at every address with its port.
fn listeners(sockets: &[TcpNetEntry], at: SocketAddr) -> Vec<u32> {
    let is_it = |socket: &&TcpNetEntry| {
        let address = socket.local_address.ip().to_canonical();
        socket.state == TcpState::Listen
            && socket.local_address.port() == at.port()
            && (address == at.ip().to_canonical() || address.is_unspecified())
    };
    sockets.iter().filter(is_it).map(|socket| socket.uid).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use procfs::{ExplicitSystemInfo, FromBufReadSI as _, net::TcpNetEntries};

    use super::*;

    #[test]
    fn whoever_runs_this_is_found_where_it_listens() {
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut at = listener.local_addr().unwrap();
            at.set_ip(Ipv4Addr::LOCALHOST.into());
            // A connection has the same address, but does not listen.
            let _connected = TcpStream::connect(at).unwrap();
            assert_eq!(of(at).unwrap(), Owner::Trusted);
            drop(listener);
            assert_eq!(of(at).unwrap(), Owner::Other(None));
        }
    }

    #[test]
    fn only_who_listens_there_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:24F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1\n   \
            1: 0100007F:24F8 0100007F:1234 01 00000000:00000000 00:00000000 00000000     1        0 1\n   \
            2: 0100007F:24F9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     2        0 1\n   \
            3: 00000000:24F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     3        0 1\n   \
            4: 0A000007:24F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     4        0 1\n   \
            5: 00000000000000000000000000000000:24F8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 5 0 1\n   \
            6: 00000000000000000000000001000000:24F8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 6 0 1\n";
        let system = ExplicitSystemInfo {
            boot_time_secs: 0,
            ticks_per_second: 100,
            page_size: 4096,
            is_little_endian: true,
        };
        let TcpNetEntries(sockets) =
            TcpNetEntries::from_buf_read(table.as_bytes(), &system).unwrap();
        let at = |address: &str| listeners(&sockets, address.parse().unwrap());
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

//! The services at the ends of calls, and the names of those that are not watched.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use super::Addresses;
use crate::{
    names::{Host, Network},
    process::{Comm, Process, Service},
};

/// The longest name of a peer in bytes.
const AT_MOST: usize = 255;

/// A service at an end of calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// The name of the service, or a word for several.
    pub name: Box<str>,
    /// The namespace of the name; empty if there is none.
    pub namespace: Box<str>,
}

impl Node {
    /// The word for services that are not watched and have no name.
    pub const UNKNOWN: &'static str = "unknown";
    /// The word for services without room.
    pub const OTHER: &'static str = "other";
    /// The word for processes that exited before they were looked up.
    pub const NOT_SEEN: &'static str = "not_seen";

    /// A node with this name, without a namespace.
    pub(super) fn named(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.into(), namespace: Box::default() })
    }

    /// The server that an authority names, if it is not an address.
    pub(super) fn of_authority(authority: &str) -> Option<Arc<Self>> {
        Some(Self::named(&Host::of(authority)?.name()?))
    }

    /// The service of a process.
    pub(super) fn of(process: &Process) -> Arc<Self> {
        let Process { pid, comm, service, .. } = process;
        if service.name.is_empty() && *pid == 0 && *comm == Comm::OTHER {
            return Self::named(Self::OTHER);
        }
        Arc::new(Self::of_service(service))
    }

    /// A service.
    pub(super) fn of_service(service: &Service) -> Self {
        let Service { name, namespace, .. } = service;
        let name = if name.is_empty() { Self::NOT_SEEN.into() } else { name.clone() };
        Self { name, namespace: namespace.clone() }
    }
}

/// The names of services at addresses, and the networks that other daemons watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    names: Arc<[(Network, Arc<Node>)]>,
    watched: Arc<[Network]>,
    /// What the cluster says.
    learned: Arc<[Addresses]>,
}

impl Peers {
    /// Creates them from the configuration. All clients in the networks `watched` are watched by other daemons.
    pub fn new(names: &[PeerName], watched: &[Network]) -> Self {
        let names = names.iter().map(|PeerName { network, name }| (*network, Node::named(name)));
        Self { names: names.collect(), watched: watched.into(), ..Self::default() }
    }

    /// The same, and the first of these with an address names it, if the configuration does not.
    #[must_use]
    pub fn learning(self, learned: &[Addresses]) -> Self {
        Self { learned: learned.into(), ..self }
    }

    /// The service at an address: the first network that has the address counts, or what was learned of it.
    pub(super) fn at(&self, address: Option<IpAddr>) -> Option<Arc<Node>> {
        let address = address?;
        let given = self.names.iter().find(|(network, _)| network.contains(address));
        let given = given.map(|(_, name)| Arc::clone(name));
        given.or_else(|| self.learned.iter().find_map(|learned| learned.at(address)))
    }

    /// Whether another daemon watches the processes at an address.
    pub(super) fn are_watched_at(&self, address: Option<IpAddr>) -> bool {
        address.is_some_and(|address| self.watched.iter().any(|it| it.contains(address)))
    }
}

/// A name for the services in a network: `NETWORK=NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName {
    network: Network,
    name: Box<str>,
}

impl FromStr for PeerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WRITE: &str = "write NETWORK=NAME, such as 10.0.7.0/24=billing";
        let Some((network, name)) = text.split_once('=') else {
            return Err(format!("'{text}' has no '=': {WRITE}"));
        };
        let (network, name) = (network.trim(), name.trim());
        // An address alone is a network of one.
        let network = match network.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => format!("{address}/32"),
            Ok(IpAddr::V6(address)) => format!("{address}/128"),
            Err(_) => network.to_owned(),
        };
        let network = network.parse().map_err(|error| format!("{error}; {WRITE}"))?;
        if name.is_empty() || name.len() > AT_MOST {
            return Err(format!("the name has {} bytes: write 1 to {AT_MOST}", name.len()));
        }
        Ok(Self { network, name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_network_with_the_address_names_it() {
        let names = ["10.0.7.1=db", "10.0.7.0/24=billing", "fd00::1 = v6"];
        let names: Vec<PeerName> = names.iter().map(|text| text.parse().unwrap()).collect();
        let peers = Peers::new(&names, &["10.0.0.0/16".parse().unwrap()]);
        let at = |text: &str| {
            let node = peers.at(Some(text.parse().unwrap()));
            node.map(|node| node.name.to_string())
        };
        assert_eq!(at("10.0.7.1").as_deref(), Some("db"));
        assert_eq!(at("::ffff:10.0.7.2").as_deref(), Some("billing"));
        assert_eq!(at("fd00::1").as_deref(), Some("v6"));
        assert_eq!(at("10.0.8.1"), None);
        assert_eq!(peers.at(None), None);
        let learned = Addresses::default();
        let peers = peers.learning(std::slice::from_ref(&learned));
        let node = |name: &str| Node { name: name.into(), namespace: "prod".into() };
        for (number, address) in ["10.0.7.1", "10.0.8.1"].into_iter().enumerate() {
            learned.set(&number.to_string(), &[address.parse().unwrap()], node("pod"));
        }
        let at = |text: &str| {
            let node = peers.at(Some(text.parse().unwrap()));
            node.map(|node| node.name.to_string())
        };
        assert_eq!(at("10.0.7.1").as_deref(), Some("db"));
        assert_eq!(at("10.0.8.1").as_deref(), Some("pod"));
        assert!(peers.are_watched_at(Some("10.0.9.9".parse().unwrap())));
        assert!(!peers.are_watched_at(Some("10.1.0.0".parse().unwrap())));
        assert!(!peers.are_watched_at(None));
    }

    #[test]
    fn a_name_has_a_network() {
        let error = |text: &str| text.parse::<PeerName>().unwrap_err();
        assert!(error("billing").contains("no '='"));
        assert!(error("shop=billing").contains("not a network"));
        assert!(error("10.0.0.0/40=billing").contains("at most 32"));
        assert!(error("10.0.0.0/8= ").contains("has 0 bytes"));
        assert!(error(&format!("10.0.0.0/8={}", "x".repeat(256))).contains("has 256 bytes"));
    }
}

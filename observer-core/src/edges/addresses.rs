//! The services at addresses of a cluster, which change while the daemon runs.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use super::Node;

/// Bound on the addresses that are known.
const AT_MOST: usize = 65_536;

/// The services at addresses, each of which has an owner, such as a pod. All workers share them.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<RwLock<Known>>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    services: HashMap<IpAddr, (Arc<str>, Arc<Node>)>,
    owners: HashMap<Arc<str>, Vec<IpAddr>>,
}

impl PartialEq for Addresses {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.with(|own| other.with(|other| own == other))
    }
}

impl Eq for Addresses {}

impl Addresses {
    /// An owner has these addresses from now on, and no others. Returns false if there is no room for all of them: the
    /// others stay unknown.
    pub fn set(&self, owner: &str, addresses: &[IpAddr], service: Node) -> bool {
        self.change(|known| known.set(owner, addresses, &Arc::new(service)))
    }

    /// Only these owners have addresses from now on; the last one of an address has it. Returns false if there is no room
    /// for all of them.
    pub fn replace(&self, owners: Vec<(Box<str>, Vec<IpAddr>, Node)>) -> bool {
        let (mut known, mut has_room) = (Known::default(), true);
        for (owner, addresses, service) in owners {
            has_room &= known.set(&owner, &addresses, &Arc::new(service));
        }
        self.change(|before| *before = known);
        has_room
    }

    /// An owner has no addresses any more.
    pub fn remove(&self, owner: &str) {
        self.change(|known| known.remove(owner));
    }

    /// Number of addresses.
    pub fn len(&self) -> usize {
        self.with(|known| known.services.len())
    }

    /// Whether there is no address.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The service at an address.
    pub fn at(&self, address: IpAddr) -> Option<Arc<Node>> {
        let address = address.to_canonical();
        self.with(|known| known.services.get(&address).map(|(_, node)| Arc::clone(node)))
    }

    fn with<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known {
    fn set(&mut self, owner: &str, addresses: &[IpAddr], service: &Arc<Node>) -> bool {
        self.remove(owner);
        let (owner, mut has_room): (Arc<str>, _) = (owner.into(), true);
        let mut own = Vec::new();
        for address in addresses.iter().map(IpAddr::to_canonical) {
            if self.services.len() >= AT_MOST && !self.services.contains_key(&address) {
                has_room = false;
                continue;
            }
            self.services.insert(address, (Arc::clone(&owner), Arc::clone(service)));
            own.push(address);
        }
        if !own.is_empty() {
            self.owners.insert(owner, own);
        }
        has_room
    }

    fn remove(&mut self, owner: &str) {
        for address in self.owners.remove(owner).into_iter().flatten() {
            // Another one may have it by now.
            if self.services.get(&address).is_some_and(|(of, _)| **of == *owner) {
                self.services.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        Node { name: name.into(), namespace: "prod".into() }
    }

    fn at(known: &Addresses, address: &str) -> Option<String> {
        known.at(address.parse().unwrap()).map(|node| node.name.to_string())
    }

    fn all(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_is_its_last_owners() {
        let known = Addresses::default();
        assert!(known.set("a", &all(&["10.0.0.1", "fd00::1"]), node("shop")));
        assert_eq!(at(&known, "::ffff:10.0.0.1").as_deref(), Some("shop"));
        assert_eq!(at(&known, "fd00::1").as_deref(), Some("shop"));
        known.set("b", &all(&["10.0.0.1"]), node("orders"));
        known.remove("a");
        assert_eq!(at(&known, "10.0.0.1").as_deref(), Some("orders"));
        assert_eq!((at(&known, "fd00::1"), known.len()), (None, 1));
        // It has another address now.
        known.set("b", &all(&["10.0.0.2"]), node("orders"));
        assert_eq!((at(&known, "10.0.0.1"), known.len()), (None, 1));
        known.replace(vec![("c".into(), all(&["10.0.0.3"]), node("db"))]);
        assert_eq!((at(&known, "10.0.0.2"), at(&known, "10.0.0.3")), (None, Some("db".into())));
        known.remove("c");
        assert!(known.is_empty());
        assert_eq!(known, Addresses::default());
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let known = Addresses::default();
        let address = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        let (all, more): (Vec<_>, _) = ((0..AT_MOST).map(address).collect(), address(AT_MOST));
        assert!(known.set("a", &all, node("shop")));
        assert!(!known.set("b", &[more], node("orders")));
        assert_eq!((known.at(more), known.len()), (None, AT_MOST));
        // A known address may get another owner.
        assert!(known.set("b", &[address(0)], node("orders")));
        known.remove("a");
        assert_eq!(known.len(), 1);
        assert!(known.set("c", &[more], node("db")));
    }
}

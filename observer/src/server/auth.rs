//! HTTP basic authentication (RFC 7617) against bcrypt hashes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, Weak};

use anyhow::{Result, anyhow};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bcrypt::HashParts;
use hyper::header::HeaderValue;
use rustls::crypto::ring;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::counts::{Counts, Refused};
use super::socket::Asker;
use crate::sync::lock;

/// Maximum number of passwords that wait to be checked.
const WAITING: usize = 16;
/// Maximum number of them from one address, so that others get their turn.
const WAITING_EACH: usize = 8;

/// Lets one password be checked at a time, for all clients: a check takes tens of milliseconds to seconds, and cannot be
/// aborted. A client that guesses passwords uses at most one CPU, and nothing is checked after it hangs up.
#[derive(Debug)]
pub(super) struct Gate {
    turn: Arc<Semaphore>,
    /// The clients that wait. A place is free once it is dropped, or its client has gone.
    waiting: Mutex<Vec<Weak<Asker>>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), waiting: Mutex::default() }
    }
}

impl Gate {
    /// A place among those that wait; `None` if there are too many.
    fn enter(&self, asker: &Asker) -> Option<Arc<Asker>> {
        let mut waiting = lock(&self.waiting);
        waiting.retain(|place| place.upgrade().is_some_and(|other| !other.is_gone()));
        let is_own = |place: &&Weak<Asker>| {
            place.upgrade().is_some_and(|other| other.origin == asker.origin)
        };
        if waiting.len() >= WAITING || waiting.iter().filter(is_own).count() >= WAITING_EACH {
            return None;
        }
        let place = Arc::new(asker.clone());
        waiting.push(Arc::downgrade(&place));
        Some(place)
    }
}

/// The users and the hashes of their passwords. Without users, every request is admitted.
pub(super) struct Users {
    hashes: BTreeMap<String, HashParts>,
    /// Hashes of passwords that were accepted, one for each user. They are dropped when the web configuration changes.
    known: Mutex<HashMap<String, Hash>>,
    /// The key of the hashes in `known`: without it, passwords cannot be tried against them.
    key: [u8; 32],
}

/// SHA-256 of the key and a password.
type Hash = [u8; 32];

impl Debug for Users {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hashes.keys()).finish()
    }
}

/// Whether a request is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    Unknown,
    /// Too many passwords wait to be checked.
    TooMany,
}

impl Users {
    pub(super) fn new(hashes: BTreeMap<String, HashParts>) -> Result<Self> {
        let mut key = [0; 32];
        let random = ring::default_provider().secure_random;
        random.fill(&mut key).map_err(|_| anyhow!("cannot get random numbers from the system"))?;
        Ok(Self { hashes, known: Mutex::default(), key })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Checks the value of an `Authorization` header. A password that was accepted before does not wait.
    pub(super) async fn admit(
        self: &Arc<Self>,
        authorization: Option<&HeaderValue>,
        asker: &Asker,
        gate: &Gate,
        counts: &Counts,
    ) -> Admission {
        if self.is_empty() {
            return Admission::Admitted;
        }
        let Some((user, password)) = authorization.and_then(credentials) else {
            return Admission::Unknown;
        };
        let given = self.hash(&password);
        if self.knows(&user, &given) {
            return Admission::Admitted;
        }
        let Some(waiting) = gate.enter(asker) else {
            counts.refuse(Refused::PasswordQueue);
            return Admission::TooMany;
        };
        let turn = Arc::clone(&gate.turn).acquire_owned().await.expect("never closed");
        drop(waiting);
        if asker.is_gone() {
            return Admission::Unknown;
        }
        // Another connection of the same user may have been first.
        if self.knows(&user, &given) {
            return Admission::Admitted;
        }
        counts.check_password();
        let users = Arc::clone(self);
        let verified = tokio::task::spawn_blocking(move || {
            // The turn ends with the check, even if its caller has gone.
            let _turn = turn;
            let right = users.verify(&user, &password);
            if right {
                lock(&users.known).insert(user, given);
            }
            right
        });
        match verified.await {
            Ok(true) => Admission::Admitted,
            Ok(false) | Err(_) => Admission::Unknown,
        }
    }

    fn hash(&self, password: &[u8]) -> Hash {
        Sha256::new().chain_update(self.key).chain_update(password).finalize().into()
    }

    /// Whether the password was accepted before. The time that it takes reveals nothing: without the key, an attacker does
    /// not know a password's hash.
    fn knows(&self, user: &str, given: &Hash) -> bool {
        lock(&self.known).get(user) == Some(given)
    }

    /// Checks a password. It takes as long for unknown users, so that the time does not reveal names.
    fn verify(&self, user: &str, password: &[u8]) -> bool {
        let own = self.hashes.get(user);
        let Some(hash) = own.or_else(|| self.hashes.values().next()) else { return false };
        let same = bcrypt::verify(password, &hash.to_string()).unwrap_or(false);
        same && own.is_some()
    }
}

/// User and password of `Basic …`.
fn credentials(value: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    let (user, password) = (decoded.get(..colon)?, decoded.get(colon + 1..)?);
    Some((str::from_utf8(user).ok()?.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::server::socket::Socket;

    fn users() -> Arc<Users> {
        let hash = |password: &str| bcrypt::hash_with_salt(password, 4, [7; 16]).expect("hashed");
        let users = BTreeMap::from([
            ("alice".to_owned(), hash("secret")),
            ("bob".to_owned(), hash("pass:word")),
        ]);
        Arc::new(Users::new(users).expect("random numbers"))
    }

    /// Both ends of a connection, the server's first, and the client's address.
    struct Connected(Socket, TcpStream, SocketAddr);

    impl Connected {
        async fn new() -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            let client = TcpStream::connect(listener.local_addr().expect("bound")).await;
            let (stream, peer) = listener.accept().await.expect("accepted");
            Self(Socket::new(stream), client.expect("connected"), peer)
        }

        fn asker(&self) -> Asker {
            self.0.asker(self.2)
        }
    }

    struct Door {
        users: Arc<Users>,
        gate: Gate,
        counts: Counts,
        connected: Connected,
    }

    impl Door {
        async fn of(users: Arc<Users>) -> Self {
            let connected = Connected::new().await;
            Self { users, gate: Gate::default(), counts: Counts::default(), connected }
        }

        async fn admit(&self, given: Option<&HeaderValue>) -> bool {
            let Self { users, gate, counts, connected } = self;
            users.admit(given, &connected.asker(), gate, counts).await == Admission::Admitted
        }
    }

    fn basic(text: &str) -> HeaderValue {
        let value = format!("Basic {}", BASE64_STANDARD.encode(text));
        HeaderValue::from_str(&value).expect("visible")
    }

    #[tokio::test]
    async fn admits_who_knows_the_password() {
        let users = Door::of(users()).await;
        // Each twice: the second time it is known.
        for given in ["alice:secret", "alice:secret", "bob:pass:word", "bob:pass:word"] {
            assert!(users.admit(Some(&basic(given))).await, "{given}");
        }
        let wrong = [
            "alice:Secret",
            "alice:",
            "bob:secret",
            "carol:secret",
            "alice",
            "",
            ":",
            "alice:pass:word",
        ];
        for given in wrong {
            assert!(!users.admit(Some(&basic(given))).await, "{given}");
        }
        assert!(!users.admit(None).await);
        for value in ["Basic", "Basic !", "Bearer YWxpY2U6c2VjcmV0", "YWxpY2U6c2VjcmV0"] {
            assert!(!users.admit(Some(&HeaderValue::from_static(value))).await, "{value}");
        }
        let lower = HeaderValue::from_static("basic YWxpY2U6c2VjcmV0");
        assert!(users.admit(Some(&lower)).await, "schemes have no case");
        // The two right ones, once each, and all wrong ones that have a colon.
        assert_eq!(users.counts.figures().password_checks, 2 + 6);
    }

    #[tokio::test]
    async fn admits_everybody_where_nobody_is_named() {
        let users = Arc::new(Users::new(BTreeMap::new()).expect("random numbers"));
        let users = Door::of(users).await;
        assert!(users.admit(None).await && users.admit(Some(&basic("x:y"))).await);
    }

    #[tokio::test]
    async fn whoever_hangs_up_gets_nothing_checked() {
        let door = Door::of(users()).await;
        let busy = Arc::clone(&door.gate.turn).acquire_owned().await.expect("open");
        let gone = Connected::new().await;
        let wrong = basic("alice:wrong");
        let asker = gone.asker();
        let waits = door.users.admit(Some(&wrong), &asker, &door.gate, &door.counts);
        // It has sent another request, which is not read yet.
        gone.1.try_write(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
        let goes = async {
            tokio::task::yield_now().await;
            assert_eq!(lock(&door.gate.waiting).len(), 1);
            drop(gone.1);
            while !asker.is_gone() {
                tokio::task::yield_now().await;
            }
            // Others find its place.
            let places: Vec<_> =
                (0..WAITING_EACH).map(|_| door.gate.enter(&door.connected.asker())).collect();
            assert!(places.iter().all(Option::is_some));
            drop(busy);
        };
        let (admission, ()) = tokio::join!(waits, goes);
        assert_eq!(admission, Admission::Unknown);
        assert_eq!(door.counts.figures().password_checks, 0);
        assert!(door.admit(Some(&basic("alice:secret"))).await);
        assert_eq!(door.counts.figures().password_checks, 1);
    }

    #[tokio::test]
    async fn few_wait_and_who_is_known_does_not() {
        let door = Door::of(users()).await;
        assert!(door.admit(Some(&basic("alice:secret"))).await);
        let busy = Arc::clone(&door.gate.turn).acquire_owned().await.expect("open");
        let one = door.connected.asker();
        let mut waiting: Vec<_> = (0..WAITING_EACH).map(|_| door.gate.enter(&one)).collect();
        assert!(waiting.iter().all(Option::is_some));
        let bob = basic("bob:pass:word");
        let admission = door.users.admit(Some(&bob), &one, &door.gate, &door.counts).await;
        assert_eq!(admission, Admission::TooMany);
        assert!(door.admit(Some(&basic("alice:secret"))).await, "known, and need not wait");
        let enter = |last| {
            let origin = [192, 0, 2, last].into();
            door.gate.enter(&Asker { origin, ..one.clone() })
        };
        waiting.extend((0..8).map(enter));
        assert!(waiting.iter().all(Option::is_some) && enter(9).is_none());
        drop((waiting, busy));
        assert!(lock(&door.gate.waiting).iter().all(|place| place.strong_count() == 0));
        assert!(door.admit(Some(&bob)).await);
    }
}

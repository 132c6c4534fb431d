//! HTTP basic authentication (RFC 7617) against bcrypt hashes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bcrypt::HashParts;
use hyper::header::HeaderValue;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

/// Who may scrape; with nobody in it, everybody may.
#[derive(Debug)]
pub(super) struct Users {
    hashes: BTreeMap<String, HashParts>,
    /// What was right last time, by user: a hash takes tens of milliseconds, at each scrape.
    known: Mutex<HashMap<String, Hash>>,
    /// One hash at a time: whoever guesses passwords gets no more of the processors than that.
    turn: Semaphore,
}

/// SHA-256 of a password.
type Hash = [u8; 32];

impl Users {
    pub(super) fn new(hashes: BTreeMap<String, HashParts>) -> Self {
        Self { hashes, known: Mutex::default(), turn: Semaphore::new(1) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether the value of an `Authorization` header is that of one of them.
    pub(super) async fn admit(self: &Arc<Self>, authorization: Option<&HeaderValue>) -> bool {
        if self.is_empty() {
            return true;
        }
        let Some((user, password)) = authorization.and_then(credentials) else { return false };
        let given: Hash = Sha256::digest(&password).into();
        if self.known().get(&user) == Some(&given) {
            return true;
        }
        let _turn = self.turn.acquire().await.expect("never closed");
        let users = Arc::clone(self);
        let verified = tokio::task::spawn_blocking(move || {
            let right = users.verify(&user, &password);
            if right {
                users.known().insert(user, given);
            }
            right
        });
        verified.await.unwrap_or(false)
    }

    /// Takes as long for users that there are not, so that trying names tells nothing.
    fn verify(&self, user: &str, password: &[u8]) -> bool {
        let own = self.hashes.get(user);
        let Some(hash) = own.or_else(|| self.hashes.values().next()) else { return false };
        let same = bcrypt::verify(password, &hash.to_string()).unwrap_or(false);
        same && own.is_some()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Hash>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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
    use super::*;

    fn users() -> Arc<Users> {
        let hash = |password: &str| bcrypt::hash_with_salt(password, 4, [7; 16]).expect("hashed");
        Arc::new(Users::new(BTreeMap::from([
            ("alice".to_owned(), hash("secret")),
            ("bob".to_owned(), hash("pass:word")),
        ])))
    }

    fn basic(text: &str) -> HeaderValue {
        let value = format!("Basic {}", BASE64_STANDARD.encode(text));
        HeaderValue::from_str(&value).expect("visible")
    }

    #[tokio::test]
    async fn admits_who_knows_the_password() {
        let users = users();
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
    }

    #[tokio::test]
    async fn admits_everybody_where_nobody_is_named() {
        let users = Arc::new(Users::new(BTreeMap::new()));
        assert!(users.admit(None).await && users.admit(Some(&basic("x:y"))).await);
    }
}

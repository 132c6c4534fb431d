//! Access to a protected daemon: TLS with a certificate to verify, and a password.

use std::fmt::{self, Debug, Display, Formatter};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::ClientConfig;

use crate::certificates::client_config;

/// Maximum bytes that are read of a password file.
const PASSWORD_AT_MOST: u64 = 4096;

/// The environment variable that may hold the password.
pub const PASSWORD_VARIABLE: &str = "OBSERVER_PASSWORD";

/// The credentials for a protected daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The file with CA certificates (PEM) for the daemon's certificate.
    pub ca_file: Option<PathBuf>,
    /// The user name.
    pub user: Option<String>,
    /// The password of the user.
    pub password: Option<Password>,
    /// Whether the password is sent even without TLS, to any listener.
    pub plaintext: bool,
}

/// The source of a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The first line of a file.
    File(PathBuf),
    /// The password itself.
    Is(String),
}

impl Debug for Password {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Is(_) => f.write_str("Is(…)"),
        }
    }
}

/// The reason why a running daemon cannot be asked. The user has to do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    SpeaksTls,
    SpeaksNoTls,
    /// No password was given.
    WantsPassword,
    /// The user or the password is wrong.
    WantsOtherPassword,
    /// The daemon's certificate is not trusted, or the daemon wants a client certificate.
    DistrustsOrIsDistrusted,
    /// The password would be readable on the network.
    Plaintext,
    /// The password would be sent to a process of another user.
    PlaintextToOther,
    /// A process of another user listens at the address of this machine's daemon.
    OfOther,
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SpeaksTls => {
                "the daemon uses TLS: add --ca-file FILE with its CA certificate, and write \
                 https:// in --address"
            }
            Self::SpeaksNoTls => "the daemon does not use TLS: write http://, without --ca-file",
            Self::WantsPassword => {
                "the daemon asks for a password: add --user NAME, and --password-file FILE or the \
                 environment variable OBSERVER_PASSWORD"
            }
            Self::WantsOtherPassword => "the daemon does not accept this user and password",
            Self::Plaintext => {
                "the password is not sent without TLS: write https:// with --ca-file FILE, or add \
                 --allow-plaintext-password"
            }
            Self::PlaintextToOther => {
                "the password is not sent, because the process that listens there belongs neither \
                 to root, observer nor you: find out whose it is, or add --allow-plaintext-password"
            }
            Self::OfOther => {
                "the process that listens there belongs neither to root, observer nor you: if you \
                 trust it, give its address with --address"
            }
            Self::DistrustsOrIsDistrusted => {
                "the TLS handshake failed: --ca-file must have the CA certificate of the daemon, \
                 and its certificate must be valid for the name in --address; observer top has no \
                 client certificate"
            }
        })
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// The refusal behind a TLS error, if there is one.
    pub(super) fn of_tls(error: &io::Error) -> Option<Self> {
        match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::InvalidMessage(_) => Some(Self::SpeaksNoTls),
            rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_) => {
                Some(Self::DistrustsOrIsDistrusted)
            }
            _ => None,
        }
    }
}

impl Access {
    /// The value of the `Authorization` header; `None` without a user.
    pub(super) fn authorization(&self) -> Result<Option<String>> {
        let Some(user) = &self.user else { return Ok(None) };
        let password = match &self.password {
            Some(Password::Is(password)) => password.clone(),
            Some(Password::File(path)) => first_line(path)?,
            None => anyhow::bail!(
                "--user without a password: add --password-file FILE, or set {PASSWORD_VARIABLE}"
            ),
        };
        ensure!(!user.contains(':'), "a user name cannot contain a colon");
        Ok(Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))))
    }

    /// The TLS configuration. Without a CA file it is an error.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>> {
        let path = self.ca_file.as_deref().context(
            "https needs --ca-file FILE: the CA certificate (PEM) that signed the daemon's \
             certificate",
        )?;
        client_config(path)
    }
}

/// The first line of a file, without its line feed.
fn first_line(path: &Path) -> Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(PASSWORD_AT_MOST).read_to_string(&mut text))
        .with_context(|| format!("cannot read the password in {}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    ensure!(!line.is_empty(), "there is no password in the first line of {}", path.display());
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn access(password: Option<Password>) -> Access {
        Access { user: Some("prometheus".into()), password, ..Access::default() }
    }

    #[test]
    fn a_password_comes_from_the_first_line_of_a_file_or_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "secret\nsomething else\n").unwrap();
        let header = Some("Basic cHJvbWV0aGV1czpzZWNyZXQ=".to_owned());
        for password in [Password::File(path.clone()), Password::Is("secret".into())] {
            assert_eq!(access(Some(password)).authorization().unwrap(), header);
        }
        assert_eq!(Access::default().authorization().unwrap(), None);
        fs::write(&path, "\n").unwrap();
        let error = access(Some(Password::File(path))).authorization().unwrap_err();
        assert!(error.to_string().contains("no password"), "{error}");
        let error = access(None).authorization().unwrap_err();
        assert!(error.to_string().contains("--password-file"), "{error}");
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = format!("{:?}", access(Some(Password::Is("secret".into()))));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn tls_needs_an_authority() {
        let error = Access::default().tls().unwrap_err();
        assert!(error.to_string().contains("--ca-file"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        for (text, told) in
            [("", "no PEM certificate"), ("-----BEGIN CERTIFICATE-----\n", "cannot read")]
        {
            fs::write(&path, text).unwrap();
            let access = Access { ca_file: Some(path.clone()), ..Access::default() };
            let error = access.tls().unwrap_err();
            assert!(error.to_string().contains(told), "{text:?}: {error}");
        }
    }
}

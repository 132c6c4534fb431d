//! Certificates for gRPC stacks that talk over TLS. They are made for one case and are valid for a day.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tempfile::TempDir;

use crate::stack::Stack;

/// The clocks of both ends are the same, but the wall clock may jump during the tests.
const VALID_BEFORE: Duration = Duration::from_hours(1);
const VALID_AFTER: Duration = Duration::from_hours(24);

/// A folder with an authority, and the certificates that it has signed, of a server and of a client.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    /// Deletes the folder.
    _temporary: Option<TempDir>,
}

/// Who shows a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The server.
    ByServer,
    /// Both ends (mutual TLS).
    ByBoth,
}

impl Certificates {
    /// Makes an authority and certificates of ECDSA keys.
    pub fn new() -> Result<Self> {
        let temporary = TempDir::with_prefix("certificates-").context("create a folder")?;
        let of = Self::in_folder(temporary.path())?;
        Ok(Self { _temporary: Some(temporary), ..of })
    }

    /// Makes them in a folder that stays.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        let mut params = params("authority", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write("ca.crt", &authority.pem())?;
        for name in ["server", "client"] {
            let key = KeyPair::generate()?;
            let params = self::params(name, &["localhost", "127.0.0.1", "::1"])?;
            write(&format!("{name}.crt"), &params.signed_by(&key, &authority)?.pem())?;
            write(&format!("{name}.key"), &key.serialize_pem())?;
        }
        Ok(Self { folder: folder.to_owned(), _temporary: None })
    }

    /// The file with the authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// The files with the server's certificate and its key.
    pub fn of_server(&self) -> [PathBuf; 2] {
        ["crt", "key"].map(|kind| self.folder.join(format!("server.{kind}")))
    }

    /// The stack over TLS. Each end must be one, with the same certificates.
    #[must_use]
    pub fn stack(&self, stack: &Stack, shown: Shown) -> Stack {
        let file = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        let authority = ["--tls-ca".into(), file("ca.crt")];
        let own = |name: &str| {
            let [cert, key] = ["crt", "key"].map(|kind| file(&format!("{name}.{kind}")));
            ["--tls-cert".into(), cert, "--tls-key".into(), key]
        };
        let mut stack = stack.clone();
        stack.server.extend(own("server"));
        stack.client.extend(authority.clone());
        if shown == Shown::ByBoth {
            stack.server.extend(authority);
            stack.client.extend(own("client"));
        }
        stack
    }
}

#[expect(clippy::disallowed_types, reason = "libraries compare the dates with the wall clock")]
fn params(name: &str, hosts: &[&str]) -> Result<CertificateParams> {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    // OpenSSL takes a certificate for its own issuer if both have the same name.
    params.distinguished_name.push(DnType::CommonName, format!("observer test {name}"));
    let now =
        std::time::SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    let now = date_time_ymd(1970, 1, 1) + now;
    (params.not_before, params.not_after) = (now - VALID_BEFORE, now + VALID_AFTER);
    Ok(params)
}

//! TLS, if the arguments name files for it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use rustls::crypto::{CryptoProvider, ring};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

#[derive(clap::Args)]
pub(crate) struct Tls {
    /// A PEM file with the authority that signs the other end's certificate. A server asks its clients for one.
    #[arg(long)]
    tls_ca: Option<PathBuf>,
    /// A PEM file with this end's certificate.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// A PEM file with the certificate's key.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The only cipher suite, by the name that rustls has for it.
    #[arg(long)]
    tls_suite: Option<String>,
}

impl Tls {
    /// The configuration of a server, which needs a certificate.
    pub(crate) fn server(&self) -> anyhow::Result<Option<ServerTlsConfig>> {
        let Some(identity) = self.identity()? else { return Ok(None) };
        self.install()?;
        let config = ServerTlsConfig::new().identity(identity);
        Ok(Some(match self.authority()? {
            Some(authority) => config.client_ca_root(authority),
            None => config,
        }))
    }

    /// The configuration of a client, which needs an authority.
    pub(crate) fn client(&self) -> anyhow::Result<Option<ClientTlsConfig>> {
        let Some(authority) = self.authority()? else { return Ok(None) };
        self.install()?;
        let config = ClientTlsConfig::new().ca_certificate(authority);
        Ok(Some(match self.identity()? {
            Some(identity) => config.identity(identity),
            None => config,
        }))
    }

    /// Has the whole process use these ciphers.
    fn install(&self) -> anyhow::Result<()> {
        let mut provider: CryptoProvider = ring::default_provider();
        if let Some(name) = &self.tls_suite {
            provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()) == *name);
            ensure!(!provider.cipher_suites.is_empty(), "there is no cipher suite {name}");
        }
        provider.install_default().map_err(|_| anyhow!("there is another default already"))
    }

    fn authority(&self) -> anyhow::Result<Option<Certificate>> {
        self.tls_ca.as_deref().map(|path| Ok(Certificate::from_pem(read(path)?))).transpose()
    }

    fn identity(&self) -> anyhow::Result<Option<Identity>> {
        let Some((cert, key)) = self.tls_cert.as_deref().zip(self.tls_key.as_deref()) else {
            return Ok(None);
        };
        Ok(Some(Identity::from_pem(read(cert)?, read(key)?)))
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

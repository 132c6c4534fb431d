//! TLS as a web configuration asks for it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};

use super::web_config::{ClientAuth, TlsConfig};

/// Reads certificates and key, and sees that they belong together.
pub(super) fn server_config(config: &TlsConfig) -> Result<Arc<ServerConfig>> {
    let TlsConfig { cert_file, key_file, client_auth, only_tls13 } = config;
    let chain = certificates(cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| match error {
        pem::Error::NoItemsFound => anyhow::anyhow!(
            "there is no private key in {}: PEM is read, and no key that is encrypted",
            key_file.display()
        ),
        error => anyhow::anyhow!("cannot read the key in {}: {error}", key_file.display()),
    })?;
    let versions: &[_] = if *only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .context("no version of TLS is left")?
        .with_client_cert_verifier(verifier(client_auth)?)
        .with_single_cert(chain, key)
        .with_context(|| {
            format!("{} and {} do not go together", cert_file.display(), key_file.display())
        })?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

fn verifier(client_auth: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>> {
    let (path, required) = match client_auth {
        ClientAuth::None => return Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuth::IfGiven(path) => (path, false),
        ClientAuth::Required(path) => (path, true),
    };
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(path)? {
        authorities
            .add(certificate)
            .with_context(|| format!("a certificate in {} is no authority's", path.display()))?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().with_context(|| format!("cannot verify clients by {}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| {
            anyhow::anyhow!("cannot read the certificate in {}: {error}", path.display())
        })?;
    ensure!(!certificates.is_empty(), "there is no PEM certificate in {}", path.display());
    Ok(certificates)
}

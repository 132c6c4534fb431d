//! Certificates in files, for TLS servers and clients.

#![forbid(unsafe_code)]

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Reads all certificates of a PEM file. A file without one is an error.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| anyhow!("cannot read the certificate in {}: {error}", path.display()))?;
    ensure!(!certificates.is_empty(), "there is no PEM certificate in {}", path.display());
    Ok(certificates)
}

/// Reads the CA certificates of a PEM file.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(path)? {
        authorities.add(certificate).with_context(|| {
            format!("a certificate in {} is not a CA certificate", path.display())
        })?;
    }
    Ok(authorities)
}

/// The configuration of a TLS client that trusts the CA certificates in a file and has no certificate of its own.
pub(crate) fn client_config(authorities_in: &Path) -> Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities(authorities_in)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

//! Certificates in files, for both ends of TLS.

#![forbid(unsafe_code)]

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// All that a file in PEM has, at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| anyhow!("cannot read the certificate in {}: {error}", path.display()))?;
    ensure!(!certificates.is_empty(), "there is no PEM certificate in {}", path.display());
    Ok(certificates)
}

/// Those of a file as authorities, whose certificates are believed.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(path)? {
        authorities.add(certificate).with_context(|| {
            format!("a certificate in {} is not a CA certificate", path.display())
        })?;
    }
    Ok(authorities)
}

/// How a client speaks TLS that believes these authorities and has no certificate of its own.
pub(crate) fn client_config(authorities_in: &Path) -> Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities(authorities_in)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

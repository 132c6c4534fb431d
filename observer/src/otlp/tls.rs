//! TLS of the connection to a receiver.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, anyhow};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};

use super::config::{Protocol, Receiver};
use crate::certificates::{authorities, certificates};

/// Where systems have the certificates of all CAs that they trust: Debian and Alpine; Fedora and RHEL; SUSE.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The file with the CA certificates that the system trusts, if it has one.
pub(super) fn authorities_of_the_system() -> Option<PathBuf> {
    SYSTEM.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Reads the certificates, which may have been renewed.
pub(super) fn client_config(receiver: &Receiver) -> Result<Arc<ClientConfig>> {
    let roots = match &receiver.ca_file {
        Some(file) => authorities(file)?,
        None => roots_of_the_system()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match &receiver.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
                anyhow!("cannot read the key in {}: {error}", key_file.display())
            })?;
            builder
                .with_client_auth_cert(certificates(certificate)?, key)
                .context("the certificate and the key of this client do not match")?
        }
    };
    if receiver.protocol == Protocol::Grpc {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(Arc::new(config))
}

fn roots_of_the_system() -> Result<RootCertStore> {
    let file = authorities_of_the_system().context(
        "this system has no file of CA certificates: set OTEL_EXPORTER_OTLP_CERTIFICATE",
    )?;
    let mut roots = RootCertStore::empty();
    // Systems have old ones among them that rustls does not take.
    roots.add_parsable_certificates(certificates(&file)?);
    Ok(roots)
}

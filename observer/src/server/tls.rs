//! The TLS configuration of the server, from a web configuration.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{NamedGroup, ServerConfig, SupportedCipherSuite};

use super::web_config::{ClientAuth, TlsConfig};
use crate::certificates::{authorities, certificates};

/// Reads the certificates and the key. They must belong together.
pub(super) fn server_config(config: &TlsConfig) -> Result<Arc<ServerConfig>> {
    let TlsConfig { cert_file, key_file, client_auth, own_order, versions, .. } = config;
    let chain = certificates(cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| match error {
        pem::Error::NoItemsFound => anyhow::anyhow!(
            "there is no private key in {}: use an unencrypted key in PEM format",
            key_file.display()
        ),
        error => anyhow::anyhow!("cannot read the key in {}: {error}", key_file.display()),
    })?;
    let mut server = ServerConfig::builder_with_provider(Arc::new(provider(config)?))
        .with_protocol_versions(versions)
        .context("no TLS version is enabled")?
        .with_client_cert_verifier(verifier(client_auth)?)
        .with_single_cert(chain, key)
        .with_context(|| {
            format!("{} and {} do not match", cert_file.display(), key_file.display())
        })?;
    server.ignore_client_order = *own_order;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

/// The cipher suites and curves that are chosen. A name that is not supported is an error.
fn provider(config: &TlsConfig) -> Result<CryptoProvider> {
    let mut provider = ring::default_provider();
    if !config.cipher_suites.is_empty() {
        let (always, to_choose): (Vec<_>, Vec<_>) =
            provider.cipher_suites.into_iter().partition(|suite| suite.tls13().is_some());
        // The list may have Go's names of suites for TLS 1.3, but these are always on, like in Go.
        let names = config.cipher_suites.iter().filter(|name| !OF_TLS13.contains(&name.as_str()));
        let chosen = chosen("cipher_suites", names, &to_choose, |suite: &SupportedCipherSuite| {
            suite.suite().as_str().unwrap_or_default()
        })?;
        provider.cipher_suites = always.into_iter().chain(chosen).collect();
    }
    if !config.curves.is_empty() {
        let groups = provider.kx_groups;
        provider.kx_groups = chosen("curve_preferences", config.curves.iter(), &groups, |group| {
            curve(group.name())
        })?;
    }
    Ok(provider)
}

/// The items with these names, in the order of the names.
fn chosen<'a, T: Copy>(
    key: &str,
    names: impl Iterator<Item = &'a String>,
    all: &[T],
    name_of: impl Fn(&T) -> &'static str,
) -> Result<Vec<T>> {
    let find = |name: &String| {
        let found = all.iter().find(|one| name_of(one) == name).copied();
        found.with_context(|| {
            let known = all.iter().map(&name_of).collect::<Vec<_>>().join(", ");
            format!(
                "'{name}' in {key} of tls_server_config is not supported: write some of {known}"
            )
        })
    };
    names.map(find).collect()
}

/// Go's names for the suites of TLS 1.3.
const OF_TLS13: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Go's name of a curve.
fn curve(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::secp256r1 => "CurveP256",
        NamedGroup::secp384r1 => "CurveP384",
        NamedGroup::X25519 => "X25519",
        _ => "",
    }
}

fn verifier(client_auth: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>> {
    let (path, required) = match client_auth {
        ClientAuth::None => return Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuth::IfGiven(path) => (path, false),
        ClientAuth::Required(path) => (path, true),
    };
    let authorities = Arc::new(authorities(path)?);
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(authorities, provider);
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().with_context(|| format!("cannot verify clients with {}", path.display()))
}

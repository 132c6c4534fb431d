//! The file of `--web-config-file`: TLS and basic authentication, in the format of Prometheus' own exporters
//! (exporter-toolkit, `docs/web-configuration.md`).
//!
//! A key of that format that is not supported is an error: the user would rely on protection that is not there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bcrypt::HashParts;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use saphyr::{LoadableYamlNode as _, Yaml};

use crate::files::text_of;

/// Maximum size of the file in bytes; a larger file is another one by mistake.
const FILE_AT_MOST: usize = 1 << 20;

/// The highest cost of a hash. A higher one takes some seconds, and a scrape would time out.
const COST_AT_MOST: u32 = 16;

/// The content of the file. An empty one asks for neither TLS nor passwords.
#[derive(Debug, Default)]
pub(super) struct WebConfig {
    pub(super) tls: Option<TlsConfig>,
    /// Hashes of passwords, by user.
    pub(super) users: BTreeMap<String, HashParts>,
    /// Headers that are added to each answer without them.
    pub(super) headers: HeaderMap,
}

/// `tls_server_config`. Relative paths are already joined to the file's folder.
#[derive(Debug)]
pub(super) struct TlsConfig {
    pub(super) cert_file: PathBuf,
    pub(super) key_file: PathBuf,
    pub(super) client_auth: ClientAuth,
    /// Go's names of cipher suites for TLS 1.2; all secure ones if empty. Those for TLS 1.3 cannot be chosen, like in Go.
    pub(super) cipher_suites: Vec<String>,
    /// Go's names of curves for the key exchange; all if empty.
    pub(super) curves: Vec<String>,
    /// Whether the server's order of suites counts, not the client's.
    pub(super) own_order: bool,
    /// TLS versions from `min_version` to `max_version`.
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
}

/// `client_auth_type`, with the `client_ca_file` that it needs.
#[derive(Debug)]
pub(super) enum ClientAuth {
    None,
    IfGiven(PathBuf),
    Required(PathBuf),
}

impl WebConfig {
    /// Reads the file. An error names the file and the key.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = text_of(path, FILE_AT_MOST)
            .with_context(|| format!("cannot read {shown}: correct --web-config-file"))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).with_context(|| format!("in {shown}"))
    }

    fn parse(text: &str, folder: &Path) -> Result<Self> {
        let documents = Yaml::load_from_str(text).map_err(|error| anyhow!("not YAML: {error}"))?;
        let mut config = Self::default();
        let Some(document) = documents.first() else { return Ok(config) };
        let mut sections = Section::of("", document)?;
        if let Some(tls) = sections.take("tls_server_config") {
            config.tls = Some(TlsConfig::parse(Section::of("tls_server_config", tls)?, folder)?);
        }
        if let Some(users) = sections.take("basic_auth_users") {
            config.users = Section::of("basic_auth_users", users)?.hashes()?;
        }
        if let Some(http) = sections.take("http_server_config") {
            config.headers = headers(Section::of("http_server_config", http)?)?;
        }
        sections.end("tls_server_config, http_server_config and basic_auth_users")?;
        Ok(config)
    }
}

impl TlsConfig {
    fn parse(mut section: Section<'_>, folder: &Path) -> Result<Self> {
        let cert_file = section.file("cert_file", folder)?;
        let key_file = section.file("key_file", folder)?;
        let ca_file = section.file("client_ca_file", folder)?;
        let kind = section.text("client_auth_type")?;
        let versions = versions(section.text("min_version")?, section.text("max_version")?)?;
        let cipher_suites = section.texts("cipher_suites")?;
        let curves = section.texts("curve_preferences")?;
        let own_order = section.boolean("prefer_server_cipher_suites")?.unwrap_or(true);
        // Before the required keys: one of them may be misspelt.
        section.end(
            "cert_file, key_file, client_auth_type, client_ca_file, min_version, max_version, \
             cipher_suites, curve_preferences and prefer_server_cipher_suites",
        )?;
        let cert_file = cert_file.context(
            "tls_server_config has no cert_file: add the file with the certificate and its chain",
        )?;
        let key_file = key_file
            .context("tls_server_config has no key_file: add the file with the private key")?;
        let client_auth = ClientAuth::parse(kind, ca_file)?;
        Ok(Self { cert_file, key_file, client_auth, cipher_suites, curves, own_order, versions })
    }

    /// The files with certificates and the key.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let ca_file = match &self.client_auth {
            ClientAuth::None => None,
            ClientAuth::IfGiven(path) | ClientAuth::Required(path) => Some(path),
        };
        [&self.cert_file, &self.key_file].into_iter().chain(ca_file).map(PathBuf::as_path)
    }
}

/// The TLS versions from `min_version` to `max_version`. Versions before TLS 1.2 are not supported.
fn versions(
    min: Option<&str>,
    max: Option<&str>,
) -> Result<Vec<&'static SupportedProtocolVersion>> {
    let is_13 = |key, version| match version {
        "TLS12" => Ok(false),
        "TLS13" => Ok(true),
        other => bail!("'{other}' is not a {key} of tls_server_config: write TLS12 or TLS13"),
    };
    let from_13 = min.map_or(Ok(false), |version| is_13("min_version", version))?;
    let to_13 = max.map_or(Ok(true), |version| is_13("max_version", version))?;
    match (from_13, to_13) {
        (false, true) => Ok(vec![&TLS13, &TLS12]),
        (true, true) => Ok(vec![&TLS13]),
        (false, false) => Ok(vec![&TLS12]),
        (true, false) => bail!("max_version of tls_server_config is below its min_version"),
    }
}

/// Headers that the format allows, with their allowed values; an empty list for any value.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

/// The headers of `http_server_config`. `http2` has no effect: the server does not support HTTP/2, and clients learn that
/// when they ask for it.
fn headers(mut section: Section<'_>) -> Result<HeaderMap> {
    section.boolean("http2")?;
    let mut headers = HeaderMap::new();
    if let Some(given) = section.take("headers") {
        let mut given = Section::of("headers", given)?;
        for (name, values) in HEADERS {
            let Some(value) = given.text(name)?.filter(|value| !value.is_empty()) else { continue };
            let may_be = values.is_empty() || values.contains(&value.to_lowercase().as_str());
            ensure!(may_be, "the header {name} may be {}, not '{value}'", values.join(" or "));
            let value = HeaderValue::from_str(value);
            let value =
                value.with_context(|| format!("the header {name} has control characters"))?;
            headers.insert(HeaderName::from_bytes(name.as_bytes())?, value);
        }
        given.end(&HEADERS.map(|(name, _)| name).join(", "))?;
    }
    section.end("http2 and headers")?;
    Ok(headers)
}

impl ClientAuth {
    fn parse(kind: Option<&str>, ca_file: Option<PathBuf>) -> Result<Self> {
        const NO_FILE: &str = "this client_auth_type verifies certificates: add client_ca_file \
                               with the CA certificate";
        match (kind, ca_file) {
            (None | Some("NoClientCert" | ""), None) => Ok(Self::None),
            (None | Some("NoClientCert" | ""), Some(_)) => bail!(
                "client_ca_file has no effect without client_auth_type: add \
                 RequireAndVerifyClientCert, or remove client_ca_file"
            ),
            (Some("VerifyClientCertIfGiven"), ca) => Ok(Self::IfGiven(ca.context(NO_FILE)?)),
            (Some("RequireAndVerifyClientCert"), ca) => Ok(Self::Required(ca.context(NO_FILE)?)),
            (Some("RequestClientCert" | "RequireAnyClientCert"), _) => bail!(
                "a client_auth_type that does not verify certificates is not supported: write \
                 RequireAndVerifyClientCert, VerifyClientCertIfGiven or NoClientCert"
            ),
            (Some(other), _) => bail!(
                "'{other}' is not a valid client_auth_type: write RequireAndVerifyClientCert, \
                 VerifyClientCertIfGiven or NoClientCert"
            ),
        }
    }
}

/// A mapping whose entries are taken out one by one. The keys that are left are unknown.
struct Section<'a> {
    name: &'static str,
    entries: Vec<(&'a str, &'a Yaml<'a>)>,
}

impl<'a> Section<'a> {
    fn of(name: &'static str, yaml: &'a Yaml<'a>) -> Result<Self> {
        if yaml.is_null() {
            return Ok(Self { name, entries: Vec::new() });
        }
        let Some(mapping) = yaml.as_mapping() else {
            let what = if name.is_empty() { "the file" } else { name };
            bail!("{what} is not a mapping: write lines such as 'key: value'");
        };
        let entries = mapping.iter().map(|(key, value)| {
            let key = key
                .as_str()
                .with_context(|| format!("a key of {name} is not a string: quote it"))?;
            Ok((key, value))
        });
        Ok(Self { name, entries: entries.collect::<Result<_>>()? })
    }

    /// Takes the value of a key. An empty one counts as not set.
    fn take(&mut self, key: &str) -> Option<&'a Yaml<'a>> {
        let at = self.entries.iter().position(|(name, _)| *name == key)?;
        Some(self.entries.swap_remove(at).1).filter(|value| !value.is_null())
    }

    fn text(&mut self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let text = value.as_str();
        text.map(Some).with_context(|| format!("{key} of {} is not a string: quote it", self.name))
    }

    fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        let list = value.as_sequence().map(|list| list.iter().map(Yaml::as_str));
        let texts = list.and_then(Iterator::collect::<Option<Vec<&str>>>);
        let texts = texts.with_context(|| {
            format!("{key} of {} is not a list of strings: write for example [a, b]", self.name)
        })?;
        Ok(texts.into_iter().map(str::to_owned).collect())
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let truth = value.as_bool();
        truth.map(Some).with_context(|| format!("{key} of {} is not true or false", self.name))
    }

    fn file(&mut self, key: &str, folder: &Path) -> Result<Option<PathBuf>> {
        let path = self.text(key)?.filter(|path| !path.is_empty());
        Ok(path.map(|path| folder.join(path)))
    }

    fn hashes(self) -> Result<BTreeMap<String, HashParts>> {
        let hash = |(user, value): (&str, &Yaml<'_>)| {
            let hash = value.as_str().and_then(|text| text.parse::<HashParts>().ok());
            // The text is not repeated: it may be a password.
            let hash = hash.with_context(|| {
                format!(
                    "basic_auth_users has no bcrypt hash for '{user}': make one with htpasswd -nBC \
                     10 '{user}', and quote the text after the colon"
                )
            })?;
            ensure!(
                hash.get_cost() <= COST_AT_MOST,
                "the hash of '{user}' in basic_auth_users takes too long to check (cost {}): make \
                 one with a cost from 10 to {COST_AT_MOST}",
                hash.get_cost()
            );
            Ok((user.to_owned(), hash))
        };
        self.entries.into_iter().map(hash).collect()
    }

    fn end(self, known: &str) -> Result<()> {
        let Some((key, _)) = self.entries.first() else { return Ok(()) };
        let place = if self.name.is_empty() { String::new() } else { format!(" of {}", self.name) };
        bail!("unknown key '{key}'{place}: remove it; valid keys are {known}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash of the password "secret".
    const HASH: &str = "$2y$04$l3KC3bYZGPVmPxzBsmTnkOR8KzV1JXUNVjPhcCTuOAiQHfYx.F3zq";

    fn parse(text: &str) -> Result<WebConfig> {
        WebConfig::parse(text, Path::new("/etc/observer"))
    }

    fn refused(text: &str) -> String {
        format!("{:#}", parse(text).expect_err(text))
    }

    #[test]
    fn reads_the_exporter_toolkits_format() {
        let text = format!(
            "tls_server_config:\n  cert_file: node.crt\n  key_file: /keys/node.key\n  \
             client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n  \
             min_version: TLS13\nbasic_auth_users:\n  alice: {HASH}\n  'bob': '{HASH}'\n"
        );
        let config = parse(&text).expect("valid");
        let tls = config.tls.expect("there");
        let files: Vec<_> = tls.files().collect();
        assert_eq!(
            files,
            ["/etc/observer/node.crt", "/keys/node.key", "/etc/observer/ca.crt"].map(Path::new)
        );
        assert!(matches!(tls.client_auth, ClientAuth::Required(_)));
        assert_eq!(tls.versions, [&TLS13]);
        assert_eq!(config.users.keys().collect::<Vec<_>>(), ["alice", "bob"]);
    }

    #[test]
    fn nothing_said_is_nothing_asked() {
        for text in ["", "\n# none\n", "basic_auth_users:\n", "{}", "tls_server_config: ~"] {
            let config = parse(text).expect(text);
            assert!(config.tls.is_none() && config.users.is_empty(), "{text}");
        }
    }

    #[test]
    fn unknown_keys_are_named() {
        for (text, key) in [
            ("tls_config: {}", "'tls_config'"),
            ("http_server_config: {http3: true}", "'http3' of http_server_config"),
            ("http_server_config: {headers: {Server: x}}", "'Server' of headers"),
            (
                "tls_server_config: {cert_file: a, key_file: b, client_allowed_sans: [a]}",
                "'client_allowed_sans' of tls_server_config",
            ),
            ("tls_server_config: {cert_file: a, keyfile: b}", "'keyfile' of tls_server_config"),
        ] {
            assert!(refused(text).contains(key), "{}", refused(text));
        }
    }

    #[test]
    fn versions_are_a_range() {
        for (range, versions) in [
            ("min_version: TLS12", &[&TLS13, &TLS12][..]),
            ("max_version: TLS13", &[&TLS13, &TLS12]),
            ("max_version: TLS12", &[&TLS12]),
            ("min_version: TLS13, max_version: TLS13", &[&TLS13]),
        ] {
            let text = format!("tls_server_config: {{cert_file: a, key_file: b, {range}}}");
            assert_eq!(parse(&text).expect(range).tls.expect("there").versions, versions);
        }
    }

    #[test]
    fn headers_are_those_that_the_format_knows() {
        let text = "http_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: DENY\n    \
                    Strict-Transport-Security: max-age=31536000\n    X-XSS-Protection: ''\n";
        let headers = parse(text).expect("valid").headers;
        let told: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(
            told,
            [
                ("strict-transport-security", &HeaderValue::from_static("max-age=31536000")),
                ("x-frame-options", &HeaderValue::from_static("DENY")),
            ]
        );
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        for (text, told) in [
            ("tls_server_config: 1", "tls_server_config is not a mapping"),
            ("[]", "the file is not a mapping"),
            ("a: b: c", "not YAML"),
            ("a: 1\na: 2", "not YAML"),
            ("tls_server_config: {cert_file: 1, key_file: b}", "cert_file of tls_server_config"),
            ("tls_server_config: {key_file: b}", "no cert_file"),
            ("tls_server_config: {cert_file: a, key_file: b, min_version: TLS11}", "TLS12"),
            (
                "tls_server_config: {cert_file: a, key_file: b, min_version: TLS13, max_version: TLS12}",
                "below",
            ),
            ("tls_server_config: {cert_file: a, key_file: b, cipher_suites: a}", "list of strings"),
            ("http_server_config: {http2: maybe}", "not true or false"),
            ("http_server_config: {headers: {X-Frame-Options: sometimes}}", "deny or sameorigin"),
            (
                "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}",
                "client_auth_type",
            ),
            (
                "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAnyClientCert}",
                "does not verify",
            ),
            (
                "tls_server_config: {cert_file: a, key_file: b, client_auth_type: VerifyClientCertIfGiven}",
                "client_ca_file",
            ),
            ("basic_auth_users: {1: x}", "not a string"),
            (
                "basic_auth_users: {alice: $2y$31$l3KC3bYZGPVmPxzBsmTnkOR8KzV1JXUNVjPhcCTuOAiQHfYx.F3zq}",
                "cost 31",
            ),
        ] {
            assert!(refused(text).contains(told), "{told:?} is not in: {}", refused(text));
        }
    }

    #[test]
    fn a_password_that_is_no_hash_is_not_repeated() {
        let told = refused("basic_auth_users: {alice: hunter2}");
        assert!(told.contains("'alice'") && told.contains("htpasswd") && !told.contains("hunter2"));
    }
}

//! `observer top` and daemons that require TLS, a password, or both.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use support::daemon::{Daemon, command};
use support::look::terminal::Terminal;
use support::nobody;
use tempfile::TempDir;

/// The user of daemons that require a password.
pub(crate) const USER: &str = "prometheus";
/// The user's password.
pub(crate) const PASSWORD: &str = "secret";
/// The bcrypt hash of the password.
const HASH: &str = "$2b$04$elYrzlYaAztjcLIk2lnSfOKcl4T0Qb.6y/gWGrs3aaJD1myXfjDhe";

/// The part of a web configuration that enables TLS.
const TLS: &str = "tls_server_config:\n  cert_file: daemon.crt\n  key_file: daemon.key\n";
/// The part of a web configuration that requires client certificates.
pub(crate) const ONLY_CLIENTS_WITH_CERTIFICATES: &str = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n  min_version: TLS13\n";

/// A folder with a web configuration, its certificates and passwords.
pub(crate) struct Protected(TempDir);

impl Protected {
    /// A configuration with TLS, `more` of it, and a password.
    pub(crate) fn by_tls(more: &str) -> Result<Self> {
        Self::new(&format!("{TLS}{more}{}", users()))
    }

    /// A configuration with a password, without TLS.
    pub(crate) fn by_password() -> Result<Self> {
        Self::new(&users())
    }

    fn new(config: &str) -> Result<Self> {
        let folder = TempDir::with_prefix("protected-").context("create a folder")?;
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate with its issuer's name for a self-signed one.
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let authority = CertifiedIssuer::self_signed(params.clone(), KeyPair::generate()?)?;
        let other = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write("ca.crt", &authority.pem())?;
        write("other.crt", &other.pem())?;
        for name in ["daemon", "scraper"] {
            let key = KeyPair::generate()?;
            let names = [format!("{name}.test"), "localhost".into(), "127.0.0.1".into()];
            let params = CertificateParams::new(names)?;
            write(&format!("{name}.crt"), &params.signed_by(&key, &authority)?.pem())?;
            write(&format!("{name}.key"), &key.serialize_pem())?;
        }
        write("web.yml", config)?;
        write("password", &format!("{PASSWORD}\n"))?;
        write("wrong", "wrong\n")?;
        Ok(Self(folder))
    }

    /// The path of a file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str) -> Result<String> {
        self.path(name).into_os_string().into_string().ok().context("a path that is not UTF-8")
    }

    /// The path of the web configuration, as an argument.
    pub(crate) fn config(&self) -> Result<String> {
        self.file("web.yml")
    }

    /// Starts a daemon with this configuration.
    pub(crate) fn daemon(&self) -> Result<Daemon> {
        Daemon::start(&["--port", "1", "--web-config-file", &self.config()?])
    }
}

fn users() -> String {
    format!("basic_auth_users:\n  {USER}: {HASH}\n")
}

fn top(args: &[&str]) -> Result<Command> {
    let mut top = command(&["top"])?;
    top.args(args).env_remove("OBSERVER_PASSWORD");
    Ok(top)
}

/// An error unless it prints a snapshot as JSON.
fn prints(command: &mut Command) -> Result<()> {
    let done = command.args(["--once", "--json"]).stdin(Stdio::null()).output()?;
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success() && error.is_empty(), "{}: {error}", done.status);
    let model: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    ensure!(model.pointer("/daemon/version").is_some(), "this is not a snapshot: {model}");
    Ok(())
}

/// An error unless it fails with one line that contains `what_to_do`, and prints nothing.
fn refuses(command: &mut Command, what_to_do: &str) -> Result<()> {
    let done = command.args(["--once", "--table"]).stdin(Stdio::null()).output()?;
    let error = String::from_utf8_lossy(&done.stderr);
    let fails = done.status.code() == Some(1) && done.stdout.is_empty();
    ensure!(fails, "{command:?} ends with {}: {error}", done.status);
    ensure!(error.lines().count() == 1, "{command:?} prints more than a line: {error}");
    ensure!(error.contains(what_to_do), "{command:?} does not print {what_to_do:?}: {error}");
    ensure!(!error.contains(PASSWORD), "it prints the password: {error}");
    Ok(())
}

pub(crate) fn top_asks_by_tls_with_a_password() -> Result<()> {
    let protected = Protected::by_tls("")?;
    let daemon = protected.daemon()?;
    let address = daemon.address();
    let (https, http) = (format!("https://{address}"), format!("http://{address}"));
    let [ca, other, file, wrong] = ["ca.crt", "other.crt", "password", "wrong"]
        .map(|name| protected.file(name))
        .map(Result::unwrap_or_default);
    let to = ["--address", &https, "--ca-file", &ca];
    let good = [&to[..], &["--user", USER, "--password-file", &file]].concat();
    prints(&mut top(&good)?)?;
    let by_variable = [&to[..], &["--user", USER]].concat();
    prints(top(&by_variable)?.env("OBSERVER_PASSWORD", PASSWORD))?;
    // The daemon of this machine, without an address.
    let here = ["--listen", &address, "--ca-file", &ca, "--user", USER, "--password-file", &file];
    prints(&mut top(&here)?)?;
    let terminal = Terminal::start(&mut top(&good)?, 80, 24)?;
    terminal.shows(" live")?;
    terminal.end(Some("q"))?;
    let with = |more: &[&'static str]| [&to[..], more].concat();
    for (args, what_to_do) in [
        (vec!["--address", &http], "the daemon uses TLS: add --ca-file FILE"),
        (vec!["--address", &https], "https needs --ca-file FILE"),
        (vec!["--address", &https, "--ca-file", &other], "the TLS handshake failed: --ca-file"),
        (vec!["--address", &https, "--ca-file", &wrong], "there is no PEM certificate"),
        (vec!["--address", &http, "--ca-file", &ca], "--ca-file needs https"),
        (to.to_vec(), "the daemon asks for a password: add --user NAME"),
        (with(&["--user", USER]), "add --password-file FILE, or set OBSERVER_PASSWORD"),
        (
            [&to[..], &["--user", USER, "--password-file", &wrong]].concat(),
            "the daemon does not accept this user and password",
        ),
        // It does not watch itself instead.
        (vec!["--listen", &address], "the daemon uses TLS: add --ca-file FILE"),
        (vec!["--listen", &address, "--ca-file", &ca], "the daemon asks for a password"),
    ] {
        refuses(&mut top(&args)?, what_to_do)?;
    }
    // Live as well, before it draws in the terminal.
    let terminal = Terminal::start(&mut top(&to)?, 200, 24)?;
    terminal.shows("the daemon asks for a password: add --user NAME")?;
    drop(terminal);
    daemon.stop()
}

pub(crate) fn top_asks_with_a_password_alone() -> Result<()> {
    let protected = Protected::by_password()?;
    let daemon = protected.daemon()?;
    let (address, file) = (daemon.address(), protected.file("password")?);
    let (ca, https) = (protected.file("ca.crt")?, format!("https://{address}"));
    for to in [["--address", &address], ["--listen", &address]] {
        prints(&mut top(&[&to[..], &["--user", USER, "--password-file", &file]].concat())?)?;
        refuses(&mut top(&to)?, "the daemon asks for a password: add --user NAME")?;
    }
    let args = ["--address", &https, "--ca-file", &ca];
    refuses(&mut top(&args)?, "the daemon does not use TLS: write http://")?;
    daemon.stop()
}

pub(crate) fn top_is_refused_without_a_client_certificate() -> Result<()> {
    let protected = Protected::by_tls(ONLY_CLIENTS_WITH_CERTIFICATES)?;
    let daemon = protected.daemon()?;
    let (https, ca) = (format!("https://{}", daemon.address()), protected.file("ca.crt")?);
    let args = ["--address", &https, "--ca-file", &ca];
    refuses(&mut top(&args)?, "observer top has no client certificate")?;
    daemon.stop()
}

/// The user nobody listens at the address of this machine's daemon. It must not get the password or a request, unless
/// the user allows that.
pub(crate) fn top_refuses_a_listener_of_another_user() -> Result<()> {
    let protected = Protected::by_password()?;
    let file = protected.file("password")?;
    let listener = nobody::in_a_thread(|| TcpListener::bind("127.0.0.1:0"))?.context("listen")?;
    let address = listener.local_addr()?.to_string();
    let heard = thread::spawn(move || -> Result<String> {
        let mut heard = String::new();
        while !heard.contains("Basic ") {
            let (mut stream, _) = listener.accept().context("accept")?;
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).context("hear")?;
            heard.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()));
            // A client without a request has closed the connection.
            let _ = stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
        }
        Ok(heard)
    });
    let password = ["--user", USER, "--password-file", &file];
    let [named, here] = [["--address", &address], ["--listen", &address]];
    refuses(&mut top(&[&named[..], &password].concat())?, "the password is not sent, because")?;
    refuses(&mut top(&[&here[..], &password].concat())?, "the password is not sent, because")?;
    refuses(&mut top(&here)?, "give its address with --address")?;
    let allowed = [&named[..], &password, &["--allow-plaintext-password"]].concat();
    refuses(&mut top(&allowed)?, "status 500")?;
    let heard = heard.join().map_err(|_| anyhow!("the listener panicked"))??;
    let requests = heard.matches("GET ").count();
    ensure!(requests == 1, "it got {requests} requests: {heard}");
    Ok(())
}

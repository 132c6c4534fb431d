//! A process that forks, executes programs, and loads and unloads a TLS library, while it serves TLS.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use support::tls::Certificates;

use crate::load::{PYTHON, script};

/// The folders with Debian's libssl.
const LIBRARIES: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];

/// The running process. It ends if its stdin is closed, so it does not outlive this one.
pub(crate) struct Churn(Child);

impl Churn {
    pub(crate) fn start(certificates: &Certificates) -> Result<Self> {
        let mut paths = LIBRARIES.iter().map(|folder| Path::new(folder).join("libssl.so.3"));
        let library = paths.find(|path| path.is_file()).context("libssl.so.3 is not installed")?;
        let mut command = Command::new(PYTHON);
        command.args([&script("churn.py"), "serve"]).args(certificates.of_server());
        command.arg(certificates.authority()).arg(library);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Ok(Self(child.context("start churn.py")?))
    }

    /// Ends it, and returns its counts. An error if something has failed in it.
    pub(crate) fn stop(self) -> Result<String> {
        // Its stdin is closed before the wait.
        let output = self.0.wait_with_output().context("wait for churn.py")?;
        ensure!(output.status.success(), "churn.py ended with {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

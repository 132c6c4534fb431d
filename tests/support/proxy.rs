//! Proxies and load balancers from Debian's packages, between a client and a server: HTTP/2 or HTTP/1.1 without TLS on both
//! sides.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::daemon::{Log, free_address};
use crate::pace::{self, POLL};
use crate::peer::Identity;
use crate::process::{Process, is_installed};

/// Time for a proxy to start, to reload its configuration, or to end.
const LIMIT: Duration = Duration::from_secs(20);

/// A proxy's program, and how it is run in the foreground.
#[derive(Debug)]
pub struct Program {
    /// The name of the program and of its processes.
    pub name: &'static str,
    /// The argument that prints its version.
    version: &'static str,
    /// Its arguments; `{config}` is the file with its configuration.
    args: &'static [&'static str],
    /// Its configuration; `{listen}` and `{server}` are addresses, `{folder}` is a folder to write to, `{admin}` is
    /// the address of its own API.
    config: &'static str,
    /// How its configuration is reloaded.
    reload: Reload,
}

#[derive(Clone, Copy, Debug)]
enum Reload {
    /// By a signal: new processes take over, and the old ones finish their calls.
    Signal(Signal),
    /// By the program, run with these arguments: its only process goes on.
    Run(&'static str),
}

/// All proxies.
pub const ALL: [Program; 4] = [NGINX, HAPROXY, NGHTTPX, CADDY];

const NGINX: Program = Program {
    name: "nginx",
    version: "-v",
    args: &["-e", "stderr", "-c", "{config}"],
    config: include_str!("proxies/nginx.conf"),
    reload: Reload::Signal(Signal::HUP),
};

const HAPROXY: Program = Program {
    name: "haproxy",
    version: "-v",
    // A master and its workers.
    args: &["-W", "-f", "{config}"],
    config: include_str!("proxies/haproxy.cfg"),
    reload: Reload::Signal(Signal::USR2),
};

/// Three HAProxies in one process, in a row: the first sends a PROXY header of version 1 to the next, the second one
/// of version 2.
pub const HAPROXY_CHAIN: Program =
    Program { config: include_str!("proxies/haproxy-chain.cfg"), ..HAPROXY };

/// Proxies with HTTP/1.1 on both sides. They use a connection to the server for the requests of several clients.
pub const HTTP1: [Program; 2] = [
    Program { config: include_str!("proxies/nginx-http1.conf"), ..NGINX },
    Program { config: include_str!("proxies/haproxy-http1.cfg"), ..HAPROXY },
];

const NGHTTPX: Program = Program {
    name: "nghttpx",
    version: "--version",
    args: &["--conf={config}"],
    config: include_str!("proxies/nghttpx.conf"),
    reload: Reload::Signal(Signal::HUP),
};

const CADDY: Program = Program {
    name: "caddy",
    version: "version",
    args: &["run", "--adapter", "caddyfile", "--config", "{config}"],
    config: include_str!("proxies/Caddyfile"),
    reload: Reload::Run("reload --force --adapter caddyfile --config {config} --address {admin}"),
};

impl Program {
    /// Whether the program is installed. With `CI` in the environment it must be.
    pub fn is_there(&self) -> Result<bool> {
        is_installed(self.name, self.version)
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    program: &'static Program,
    process: Process,
    address: SocketAddr,
    words: Words,
    log: Log,
    /// All its processes so far.
    pids: BTreeSet<u32>,
}

impl Proxy {
    /// Starts a proxy for the server at this address, and waits until it listens.
    pub fn start(program: &'static Program, server: &str) -> Result<Self> {
        let words = Words::new(server)?;
        let [address, ..] = words.listens;
        fs::write(&words.config, words.replace(program.config)).context("write a configuration")?;
        let mut command = words.command(program, program.args);
        let (process, log) = Process::logged(&mut command)?;
        let pids = BTreeSet::from([process.pid()]);
        let mut proxy = Self { program, process, address, words, log, pids };
        proxy.wait_until("it does not listen", |proxy| {
            Ok(TcpStream::connect(proxy.address).is_ok())
        })?;
        // It listens before its workers have started.
        proxy.wait_until("it has no workers", |proxy| {
            proxy.look()?;
            Ok(proxy.pids.len() > 1 || !proxy.is_taken_over())
        })?;
        Ok(proxy)
    }

    /// The address that it listens on.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// All ports that it listens on, as an argument.
    pub fn ports(&self) -> String {
        let ports = self.words.listens.iter().map(|address| address.port().to_string());
        ports.collect::<Vec<_>>().join(",")
    }

    /// Its main process.
    pub fn identity(&self) -> Result<Identity> {
        let name = format!("{} proxy", self.program.name);
        Ok(Identity { name, pid: self.process.pid(), comm: self.process.comm()? })
    }

    /// All its processes, including those that have ended.
    pub fn pids(&self) -> &BTreeSet<u32> {
        &self.pids
    }

    /// Reloads its configuration, and waits until a process has taken over, if one does.
    pub fn reload(&mut self) -> Result<()> {
        match self.program.reload {
            Reload::Signal(signal) => {
                self.look()?;
                let before = self.pids.len();
                self.process.signal(signal)?;
                self.wait_until("no process has taken over", |proxy| {
                    proxy.look()?;
                    Ok(proxy.pids.len() > before)
                })
            }
            Reload::Run(args) => {
                let args: Vec<&str> = args.split(' ').collect();
                let mut command = self.words.command(self.program, &args);
                let status = command.stderr(Stdio::null()).status()?;
                ensure!(status.success(), "the proxy does not reload its configuration: {status}");
                Ok(())
            }
        }
    }

    /// Whether new processes take over at [`Self::reload`].
    pub fn is_taken_over(&self) -> bool {
        matches!(self.program.reload, Reload::Signal(_))
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(LIMIT).with_context(|| self.log.text())?;
        Ok(())
    }

    /// Adds new processes to [`Self::pids`].
    fn look(&mut self) -> Result<()> {
        let pid = self.process.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        self.pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        Ok(())
    }

    fn wait_until(
        &mut self,
        otherwise: &'static str,
        condition: impl Fn(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let begin = Instant::now();
        while !condition(self)? {
            let in_time = begin.elapsed() < pace::limit(LIMIT) && self.process.is_running()?;
            ensure!(in_time, "{}: {otherwise}: {}", self.program.name, self.log.text());
            sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // A main process that is killed leaves its workers behind, and one that is not starts others. Each of these
        // fails only if it has ended.
        let _ = self.process.signal(Signal::STOP);
        let _ = self.look();
        let main = self.process.pid();
        for pid in self.pids.iter().filter(|pid| **pid != main) {
            let _ = kill_child(*pid, main);
        }
    }
}

/// Kills a process if it still is a child of `parent`.
fn kill_child(pid: u32, parent: u32) -> Result<()> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, in parentheses: its state and its parent (proc(5)).
    let (_, rest) = stat.rsplit_once(')').context("no name")?;
    let is_child = rest.split_whitespace().nth(1) == Some(&*parent.to_string());
    let pid = Pid::from_raw(i32::try_from(pid)?).filter(|_| is_child).context("another process")?;
    kill_process(pid, Signal::KILL).context("kill a worker")
}

/// The configuration of a proxy, and the words in it that are replaced.
#[derive(Debug)]
struct Words {
    folder: TempDir,
    config: PathBuf,
    /// The addresses for clients, and for the proxy itself.
    listens: [SocketAddr; 3],
    words: Vec<(&'static str, String)>,
}

impl Words {
    fn new(server: &str) -> Result<Self> {
        let folder = TempDir::with_prefix("proxy-").context("create a folder")?;
        let config = folder.path().join("config");
        let shown = |path: &Path| path.display().to_string();
        let listens = [free_address()?, free_address()?, free_address()?];
        let [listen, second, third] = listens;
        let words = vec![
            ("{listen}", listen.to_string()),
            ("{second}", second.to_string()),
            ("{third}", third.to_string()),
            ("{listen_port}", listen.to_string().replace(':', ",")),
            ("{server}", server.to_owned()),
            ("{server_port}", server.replace(':', ",")),
            ("{admin}", free_address()?.to_string()),
            ("{folder}", shown(folder.path())),
            ("{config}", shown(&config)),
        ];
        Ok(Self { folder, config, listens, words })
    }

    fn replace(&self, text: &str) -> String {
        self.words.iter().fold(text.to_owned(), |text, (word, with)| text.replace(word, with))
    }

    fn command(&self, program: &Program, args: &[&str]) -> Command {
        let mut command = Command::new(program.name);
        command.args(args.iter().map(|arg| self.replace(arg)));
        // It keeps its state there.
        for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(name, self.folder.path());
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

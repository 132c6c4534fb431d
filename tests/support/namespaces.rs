//! Network namespaces for peers, connected by veth.
//!
//! In a [`Pair`], client and server see each other's addresses. In a [`Translation`], a node is between them and
//! translates both: the server's as kube-proxy does for a Service, the client's as it does with masquerade.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::stack::Stack;

/// A network namespace, for a daemon or a receiver in it. Their mounts stay those of the tests, unlike with
/// `ip netns exec`.
#[derive(Clone, Debug)]
pub struct Network(PathBuf);

impl Network {
    /// A command that runs this program in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.0.display())).arg(program);
        command
    }

    /// Does something in a thread that is in the namespace.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let enter = || {
            let link = File::open(&self.0).with_context(|| self.0.display().to_string())?;
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(link.as_fd(), network).context("enter a namespace")
        };
        let done = thread::scope(|scope| scope.spawn(|| enter().and_then(|()| act())).join());
        done.map_err(|_| anyhow!("a thread in {} panicked", self.0.display()))?
    }
}

/// A namespace, which is deleted with its interfaces.
#[derive(Debug)]
struct Namespace(String);

impl Namespace {
    fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let this = Self(format!("observer-{}-{number}", std::process::id()));
        run(&["ip", "netns", "add", &this.0], "")?;
        this.run(&["ip", "link", "set", "lo", "up"], "")?;
        Ok(this)
    }

    /// It, for others than peers.
    fn network(&self) -> Network {
        Network(Path::new("/run/netns").join(&self.0))
    }

    /// Runs a command in it.
    fn run(&self, words: &[&str], input: &str) -> Result<()> {
        run(&[&["ip", "netns", "exec", &self.0], words].concat(), input)
    }

    /// Connects two of them: each gets an interface of this name with this address.
    fn connect(ends: [(&Self, &str, &str); 2]) -> Result<()> {
        let [(one, of_one, _), (other, of_other, _)] = ends;
        let veth = ["ip", "link", "add", of_one, "netns", &one.0, "type", "veth"];
        run(&[&veth[..], &["peer", of_other, "netns", &other.0]].concat(), "")?;
        for (namespace, device, address) in ends {
            namespace.run(&["ip", "address", "add", address, "dev", device], "")?;
            namespace.run(&["ip", "link", "set", device, "up"], "")?;
        }
        Ok(())
    }

    /// The words of a command that runs in it.
    fn within(&self, words: &[String]) -> Vec<String> {
        [&["ip", "netns", "exec", &*self.0].map(str::to_owned), words].concat()
    }

    fn client(&self, stack: &Stack) -> Stack {
        Stack { client: self.within(&stack.client), ..stack.clone() }
    }

    fn server(&self, stack: &Stack) -> Stack {
        Stack { server: self.within(&stack.server), ..stack.clone() }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It fails if it was not added.
        let _ = run(&["ip", "netns", "delete", &self.0], "");
    }
}

fn run(words: &[&str], input: &str) -> Result<()> {
    let (program, args) = words.split_first().context("a program")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {program}"))?;
    child.stdin.take().context("its stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", words.join(" "));
    Ok(())
}

/// A client's namespace and a server's.
#[derive(Debug)]
pub struct Pair {
    client: Namespace,
    server: Namespace,
}

impl Pair {
    /// The network of both addresses.
    pub const NETWORK: &str = "198.18.47.0/30";
    /// The server's address.
    pub const SERVER: &str = "198.18.47.1";
    /// The client's address.
    pub const CLIENT: &str = "198.18.47.2";

    /// Adds both.
    pub fn new() -> Result<Self> {
        let (client, server) = (Namespace::new()?, Namespace::new()?);
        let [of_client, of_server] = [Self::CLIENT, Self::SERVER].map(|at| format!("{at}/30"));
        Namespace::connect([(&client, "eth0", &of_client), (&server, "eth0", &of_server)])?;
        Ok(Self { client, server })
    }

    /// The stack with its client in the client's namespace.
    pub fn client(&self, stack: &Stack) -> Stack {
        self.client.client(stack)
    }

    /// The stack with its server in the server's namespace.
    pub fn server(&self, stack: &Stack) -> Stack {
        self.server.server(stack)
    }
}

/// A client's namespace and a server's, and between them a node that translates addresses.
#[derive(Debug)]
pub struct Translation {
    client: Namespace,
    node: Namespace,
    server: Namespace,
}

impl Translation {
    /// The address and port of the service, at which the client finds the server.
    pub const SERVICE: &str = "198.18.49.1:7080";
    /// The client's address, which the server does not see.
    pub const CLIENT: &str = "198.18.48.1";
    /// The node's address, which the server sees instead.
    pub const NODE: &str = "198.18.48.5";
    /// The network of that address alone.
    pub const OF_NODE: &str = "198.18.48.5/32";
    /// The server's address, which the client does not see.
    pub const SERVER: &str = "198.18.48.6";

    /// Adds them. There is no service yet.
    pub fn new() -> Result<Self> {
        let (client, node, server) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        let [of_client, of_node, of_server] =
            [Self::CLIENT, Self::NODE, Self::SERVER].map(|address| format!("{address}/30"));
        let inside = "198.18.48.2";
        let at_client = format!("{inside}/30");
        Namespace::connect([(&client, "eth0", &of_client), (&node, "client", &at_client)])?;
        Namespace::connect([(&node, "server", &of_node), (&server, "eth0", &of_server)])?;
        client.run(&["ip", "route", "add", "default", "via", inside], "")?;
        node.run(&["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], "")?;
        Ok(Self { client, node, server })
    }

    /// The stack with its client in the client's namespace.
    pub fn client(&self, stack: &Stack) -> Stack {
        self.client.client(stack)
    }

    /// The stack with its server in the server's namespace.
    pub fn server(&self, stack: &Stack) -> Stack {
        self.server.server(stack)
    }

    /// The client's namespace, and the server's.
    pub fn networks(&self) -> [Network; 2] {
        [&self.client, &self.server].map(Namespace::network)
    }

    /// From now on, the node sends connections for the service to this port of the server's address, from its own.
    pub fn serve(&self, port: &str) -> Result<()> {
        let (service, number) = Self::SERVICE.split_once(':').context("a port")?;
        let target = format!("{}:{port}", Self::SERVER);
        let rules = format!(
            "table ip observer {{
                chain services {{
                    type nat hook prerouting priority dstnat;
                    ip daddr {service} tcp dport {number} dnat to {target}
                }}
                chain sources {{
                    type nat hook postrouting priority srcnat;
                    oifname \"server\" masquerade
                }}
            }}"
        );
        self.node.run(&["nft", "-f", "-"], &rules)
    }
}

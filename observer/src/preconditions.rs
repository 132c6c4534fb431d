//! Checks the preconditions for loading BPF programs one by one, so that an error says what to do instead of what a
//! system call returned.
//!
//! [`findings`] is for `observer check`, [`verify`] for the start, [`bind`] for both: the address is checked before the
//! kernel, because it is the likelier mistake.

#![forbid(unsafe_code)]

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::{
    config::{Config, HealthListen},
    files::first_of,
    kernel::Preemption,
    server::HealthListener,
    system_paths::SystemPaths,
};

/// A precondition, and whether it is met.
#[derive(Debug)]
pub struct Finding {
    /// The name of the precondition, in a word or two.
    pub subject: &'static str,
    /// The state that was found, or an error that says what to do: one line each.
    pub outcome: Result<String>,
    /// Whether the state is known. If not, the outcome says what is assumed.
    pub is_known: bool,
}

impl Finding {
    fn new(subject: &'static str, outcome: Result<String>) -> Self {
        Self { subject, outcome, is_known: true }
    }
}

/// Checks every precondition except the address.
pub fn findings(config: &Config, places: &SystemPaths) -> Vec<Finding> {
    let mut findings = vec![
        Finding::new("privileges", own_privileges(&places.proc)),
        Finding::new("lockdown", lockdown(&places.lockdown)),
        Finding::new(
            "kernel types",
            btf(&config.btf).map(|()| format!("BTF in {}", config.btf.display())),
        ),
        preemption(places),
    ];
    findings.extend(config.filter.pids.iter().map(|&pid| {
        Finding::new("process", process(&places.proc, pid).map(|()| format!("{pid} is running")))
    }));
    findings
}

/// Returns the error of the first precondition that is not met.
pub fn verify(config: &Config, places: &SystemPaths) -> Result<()> {
    findings(config, places).into_iter().try_for_each(|finding| finding.outcome.map(drop))
}

/// Listens on `address`, with a non-blocking socket for tokio.
pub fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "another observer or another program already listens on {address}: stop it, or choose \
             another --listen address"
        ),
        ErrorKind::AddrNotAvailable => anyhow!(
            "{} is not an address of this machine: use one of its addresses, or 0.0.0.0, for \
             --listen",
            address.ip()
        ),
        ErrorKind::PermissionDenied => anyhow!(
            "port {} is below 1024, so it needs CAP_NET_BIND_SERVICE: use a higher port for \
             --listen",
            address.port()
        ),
        _ => anyhow!("cannot listen on {address}: {error}; choose another --listen address"),
    })?;
    listener.set_nonblocking(true).context("cannot make the listening socket non-blocking")?;
    Ok(listener)
}

/// Creates the listener for probes, non-blocking. Every user may connect to a Unix socket: the answers are not secret.
pub fn bind_health(address: &HealthListen) -> Result<HealthListener> {
    let path = match address {
        HealthListen::Tcp(address) => {
            return bind(*address).map(HealthListener::Tcp).context("--health-listen");
        }
        HealthListen::Unix(path) => path,
    };
    let shown = path.display();
    // An earlier daemon may have left its socket. A running one must not lose it.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let is_refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(is_refused) {
        fs::remove_file(path).with_context(|| format!("cannot remove {shown}, which is unused"))?;
    }
    let listener = UnixListener::bind(path).with_context(|| {
        format!("cannot listen on {shown}: use another --health-listen, in a directory that exists")
    })?;
    fs::set_permissions(path, Permissions::from_mode(0o666))
        .with_context(|| format!("cannot allow every user to connect to {shown}"))?;
    listener.set_nonblocking(true).context("cannot make the listening socket non-blocking")?;
    Ok(HealthListener::Unix(listener))
}

/// Whether the kernel preempts BPF programs. Both are allowed: it decides which backend is the best.
fn preemption(places: &SystemPaths) -> Finding {
    let preemption = Preemption::of(places);
    let is_known = preemption != Preemption::Unknown;
    let text = if is_known {
        preemption.to_string()
    } else {
        format!(
            "{preemption}: the kernel does not report whether it preempts. observer assumes that \
             it does, and uses a backend that would miss transfers only if no other works. To find \
             out, run as root, with {} readable (mount -t debugfs debugfs /sys/kernel/debug)",
            places.sched_preempt.display()
        )
    };
    Finding { is_known, ..Finding::new("preemption", Ok(text)) }
}

fn own_privileges(proc: &Path) -> Result<String> {
    let read = |name: &str| {
        let path = proc.join("self").join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    privileges(&read("status")?, &read("uid_map")?).map(str::to_owned)
}

/// Checks the texts of `/proc/self/status` and `/proc/self/uid_map`. Returns the capabilities that suffice.
///
/// `CAP_BPF` allows to load programs and create maps, `CAP_PERFMON` to attach programs that read kernel memory
/// (capabilities(7), Linux 5.8). `CAP_SYS_ADMIN` includes both.
fn privileges(status: &str, uid_map: &str) -> Result<&'static str> {
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;
    let effective = field(status, "CapEff:")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .context("/proc/self/status does not show the capabilities: is /proc mounted?")?;
    let sufficient = if effective & SYS_ADMIN != 0 {
        "CAP_SYS_ADMIN"
    } else {
        for (name, bit) in [("CAP_BPF", BPF), ("CAP_PERFMON", PERFMON)] {
            ensure!(
                effective & bit != 0,
                "not permitted to load BPF programs without {name}: run as root (sudo observer …), \
                 or add CAP_BPF, CAP_PERFMON and CAP_DAC_READ_SEARCH"
            );
        }
        "CAP_BPF and CAP_PERFMON"
    };
    // user_namespaces(7): only the initial namespace maps everything to itself. The kernel honours these
    // capabilities only there.
    if !uid_map.split_whitespace().eq(["0", "0", "4294967295"]) {
        bail!(
            "this process is root only in a user namespace (a rootless container?): run it on the \
             host, or in a privileged container of a runtime that runs as root"
        );
    }
    Ok(sufficient)
}

/// The first word after `name` in a text of lines such as `Tgid:\t12`.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

/// The mode of lockdown (kernel_lockdown(7)). In confidentiality mode BPF programs must not read kernel memory, and all
/// of observer's do.
fn lockdown(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(modes) if modes.contains("[confidentiality]") => bail!(
            "kernel lockdown is in confidentiality mode, where BPF programs cannot read kernel \
             memory: boot with lockdown=integrity or without lockdown"
        ),
        Ok(modes) if modes.contains("[integrity]") => Ok("integrity, which is sufficient".into()),
        // Unreadable or absent: loading will show it.
        Ok(_) | Err(_) => Ok("off".into()),
    }
}

/// Returns an error if the file does not start like raw BTF (`include/uapi/linux/btf.h`).
fn btf(path: &Path) -> Result<()> {
    const MAGIC: u16 = 0xeb9f;
    let shown = path.display();
    let mut magic = [0; 2];
    match File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) if u16::from_ne_bytes(magic) == MAGIC => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "the kernel's type information (BTF) is not at {shown}: use a kernel with \
             CONFIG_DEBUG_INFO_BTF=y, or give a BTF file of this kernel with --btf"
        ),
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
            bail!("{shown} cannot be read: {error}; give a BTF file of this kernel with --btf")
        }
        Ok(()) | Err(_) => bail!(
            "{shown} is not raw BTF in this machine's byte order: give a BTF file of this kernel \
             with --btf"
        ),
    }
}

/// Returns an error if `pid` is not a running process but a thread, a zombie or not there.
fn process(proc: &Path, pid: u32) -> Result<()> {
    let gone = || {
        anyhow!(
            "there is no process {pid}: correct --pid, or select by name with --comm, which also \
             finds processes that start later"
        )
    };
    // The fields stand before the list of groups, which may have 65,536 entries.
    let status = match first_of(&proc.join(pid.to_string()).join("status"), 4096) {
        Ok(status) => String::from_utf8_lossy(&status).into_owned(),
        // ESRCH: it exited between open and read.
        Err(error) if error.kind() == ErrorKind::NotFound || is_esrch(&error) => {
            return Err(gone());
        }
        Err(error) => bail!("cannot read the status of process {pid}: {error}; run as root"),
    };
    // A zombie has exited, and its parent has not waited for it yet.
    if let Some("Z" | "X") = field(&status, "State:") {
        return Err(gone());
    }
    match field(&status, "Tgid:") {
        Some(process) if process != pid.to_string() => {
            bail!("{pid} is a thread of process {process}: write --pid {process}")
        }
        _ => Ok(()),
    }
}

fn is_esrch(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use tempfile::TempDir;

    use super::*;

    const INITIAL: &str = "         0          0 4294967295\n";

    fn status(effective: &str) -> String {
        format!("Name:\tobserver\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\nCapBnd:\t0\n")
    }

    /// Checks the error's text: one line that contains all parts.
    fn told<T: std::fmt::Debug>(outcome: Result<T>, parts: &[&str]) {
        let text = format!("{:#}", outcome.expect_err("not met"));
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }

    #[test]
    fn root_or_two_capabilities_suffice() {
        let root = status("000001fffeffffff");
        assert_eq!(privileges(&root, INITIAL).expect("root"), "CAP_SYS_ADMIN");
        let two = status("000000c000000000");
        assert_eq!(privileges(&two, INITIAL).expect("two"), "CAP_BPF and CAP_PERFMON");
        for (effective, missing) in [
            ("0000000000000000", "without CAP_BPF:"),
            ("0000008000000000", "without CAP_PERFMON:"),
            ("0000004000000000", "without CAP_BPF:"),
        ] {
            told(privileges(&status(effective), INITIAL), &["run as root", missing]);
        }
        told(privileges("Name:\tx\n", INITIAL), &["/proc"]);
    }

    #[test]
    fn root_of_a_user_namespace_is_not_root() {
        let root = status("000001fffeffffff");
        told(privileges(&root, "         0       1000          1\n"), &["user namespace"]);
        told(privileges(&root, "0 100000 65536\n"), &["user namespace"]);
    }

    #[test]
    fn lockdown_forbids_only_in_confidentiality_mode() {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("lockdown");
        assert_eq!(lockdown(&path).expect("absent"), "off");
        for (modes, allowed) in [
            ("[none] integrity confidentiality\n", true),
            ("none [integrity] confidentiality\n", true),
            ("none integrity [confidentiality]\n", false),
        ] {
            fs::write(&path, modes).expect("written");
            assert_eq!(lockdown(&path).is_ok(), allowed, "{modes}");
        }
    }

    #[test]
    fn btf_is_known_by_its_magic() {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("vmlinux");
        told(btf(&path), &["CONFIG_DEBUG_INFO_BTF", "--btf"]);
        for not_btf in [&b""[..], b"\x9f", b"\x7fELF"] {
            fs::write(&path, not_btf).expect("written");
            told(btf(&path), &["not raw BTF", "--btf"]);
        }
        told(btf(dir.path()), &["cannot be read", "--btf"]);
        fs::write(&path, 0xeb9f_u16.to_ne_bytes()).expect("written");
        btf(&path).expect("the magic");
    }

    #[test]
    fn this_process_runs() {
        process(Path::new("/proc"), std::process::id()).expect("it does");
    }

    #[test]
    fn an_ended_process_does_not() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "read line"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let pid = child.id();
        process(Path::new("/proc"), pid).expect("it waits for its input");
        drop(child.stdin.take());
        child.wait().expect("it ends");
        told(process(Path::new("/proc"), pid), &["no process", "--pid", "--comm"]);
    }

    #[test]
    fn zombies_and_threads_are_not_processes() {
        let proc = TempDir::new().expect("a directory");
        let write = |pid: u32, text: &str| {
            fs::create_dir(proc.path().join(pid.to_string())).expect("created");
            fs::write(proc.path().join(format!("{pid}/status")), text).expect("written");
        };
        write(7, "Name:\tx\nState:\tS (sleeping)\nTgid:\t7\n");
        write(8, "Name:\tx\nState:\tS (sleeping)\nTgid:\t7\n");
        write(9, "Name:\tx\nState:\tZ (zombie)\nTgid:\t9\n");
        process(proc.path(), 7).expect("a process");
        told(process(proc.path(), 8), &["thread of process 7", "--pid 7"]);
        told(process(proc.path(), 9), &["no process 9", "--pid"]);
    }

    #[test]
    fn an_address_is_bound_once() {
        let first = bind("127.0.0.1:0".parse().expect("valid")).expect("a free port");
        let taken = first.local_addr().expect("bound");
        told(bind(taken), &["another observer", &taken.to_string(), "--listen"]);
        drop(first);
        bind(taken).expect("free again");
        // RFC 5737: for documentation, so no machine has it.
        told(bind("192.0.2.1:9464".parse().expect("valid")), &["not an address", "--listen"]);
    }

    #[test]
    fn what_is_not_known_is_not_told_as_if_it_were() {
        let dir = TempDir::new().expect("a directory");
        fs::create_dir_all(dir.path().join("sys/kernel")).expect("created");
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.159-1 (2025-12-30)\n";
        fs::write(dir.path().join("sys/kernel/version"), dynamic).expect("written");
        let sched_preempt = dir.path().join("preempt");
        let places =
            SystemPaths { proc: dir.path().into(), sched_preempt, ..SystemPaths::default() };
        let unknown = preemption(&places);
        let told = unknown.outcome.expect("it will do");
        assert!(!unknown.is_known && told.starts_with("not known: "), "{told}");
        for part in ["assumes that it does", "mount -t debugfs debugfs /sys/kernel/debug"] {
            assert!(told.contains(part) && told.lines().count() == 1, "{told}");
        }
        fs::write(&places.sched_preempt, "none (voluntary) full").expect("written");
        let known = preemption(&places);
        assert!(known.is_known);
        assert_eq!(known.outcome.expect("it will do"), "no (PREEMPT_DYNAMIC, voluntary)");
    }

    #[test]
    fn findings_name_every_pid_and_verify_the_first_fault() {
        let dir = TempDir::new().expect("a directory");
        fs::create_dir(dir.path().join("self")).expect("created");
        fs::write(dir.path().join("self/status"), status("000001fffeffffff")).expect("written");
        fs::write(dir.path().join("self/uid_map"), INITIAL).expect("written");
        let places = SystemPaths {
            proc: dir.path().into(),
            tracefs: vec![dir.path().into()],
            lockdown: dir.path().join("lockdown"),
            sched_preempt: dir.path().join("preempt"),
        };
        let mut config = Config { btf: dir.path().join("btf"), ..Config::default() };
        told(verify(&config, &places), &["CONFIG_DEBUG_INFO_BTF"]);
        fs::write(&config.btf, 0xeb9f_u16.to_ne_bytes()).expect("written");
        verify(&config, &places).expect("all are met");
        config.filter.pids = vec![1, 2];
        let findings = findings(&config, &places);
        assert_eq!(findings.iter().filter(|finding| finding.outcome.is_err()).count(), 2);
        told(verify(&config, &places), &["no process 1"]);
    }
}

//! The files in which `--tls auto` looks for TLS libraries, and the processes that open and parse them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::breakpoints;
use support::daemon::{Daemon, User};
use support::footprint::{children, status};
use tempfile::TempDir;

use super::Table;
use super::connections::list;
use super::privileges::has_only_capabilities;

/// The interpreter of the processes that map files, and the library that it is given.
const PYTHON: &str = "/usr/bin/python3";
pub(super) const LIBSSL: &str = "libssl.so.3";

/// The capabilities that the daemon needs with `--tls auto`.
const LEAST: &[&str] = &["bpf", "perfmon", "dac_read_search", "sys_ptrace", "checkpoint_restore"];

/// `CAP_DAC_READ_SEARCH`, `CAP_SYS_PTRACE` and `CAP_CHECKPOINT_RESTORE`, which the opener keeps.
const OPENS_FILES: u64 = 1 << 2 | 1 << 19 | 1 << 40;

/// Time for files to be searched, and for probes to appear and disappear.
const LIMIT: Duration = Duration::from_secs(20);

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark("tshark cannot tell: files of processes are not on the wire.");
    let is_here = libssl().is_ok();
    for (name, run) in [
        ("a deleted file is probed, and not once the daemon is killed", deleted as fn(&str) -> _),
        ("a file of another mount namespace is probed", other_namespace),
        ("one file on overlayfs and below it is probed once", overlay),
        ("the daemon keeps no capability, the process that opens files three", capabilities),
    ] {
        table.alone_if(is_here && has_links(), name, run);
    }
    table.alone_if(has_links(), "files that cannot be probed are counted by reason", refused);
    table.alone_if(has_links(), "without a capability for TLS, the rest is watched", missing);
}

/// Whether this kernel has uprobe links: before that, more capabilities are needed.
pub(super) fn has_links() -> bool {
    super::backends::is_since(6, 6)
}

/// The path of Debian's library.
pub(super) fn libssl() -> Result<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let mut paths = folders.iter().map(|folder| Path::new(folder).join(LIBSSL));
    paths.find(|path| path.is_file()).context("no libssl")
}

/// A process that has files mapped. It is killed when this is dropped.
struct Mapping {
    child: Child,
}

impl Mapping {
    /// Starts `shell`, which ends with a command that prints a line once the files are mapped.
    fn start(shell: &str) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-euc", shell]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().context("start unshare")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("a process without stdout")?;
        let mapping = Self { child };
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == "mapped", "the process did not start");
        Ok(mapping)
    }

    /// Loads a library of this path.
    fn loading(before: &str, path: &Path) -> Result<Self> {
        let path = path.display();
        let code = "import sys; print(\"mapped\", flush=True); sys.stdin.read()";
        Self::start(&format!("{before}\nLD_PRELOAD={path} exec {PYTHON} -Sc '{code}'"))
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// The breakpoints in the library's code.
    fn breakpoints(&self) -> Result<usize> {
        Ok(breakpoints::addresses(self.child.id(), LIBSSL)?.len())
    }

    fn wait_for_breakpoints(&self, wanted: bool) -> Result<()> {
        wait_until(|| {
            let found = self.breakpoints()?;
            ensure!((found > 0) == wanted, "{found} bytes of the code are not those of the file");
            Ok(())
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(condition: impl Fn() -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    loop {
        match condition() {
            Err(error) if begin.elapsed() > LIMIT => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)),
            Ok(()) => return Ok(()),
        }
    }
}

/// The daemon, which looks at these processes alone.
fn daemon(of: &[&Mapping]) -> Result<Daemon> {
    let pids: Vec<String> = of.iter().map(|mapping| mapping.pid()).collect();
    Daemon::start(&["--tls", "auto", "--pid", &pids.join(",")])
}

/// Waits until so many files with this library, or without one, have this result.
fn counted(daemon: &Daemon, library: &str, result: &str, files: f64) -> Result<()> {
    let labels = [("library", library), ("result", result)];
    daemon.wait_for_sum("observer_tls_files_total", &labels, files..=files)
}

/// A copy of the library in a folder.
fn copy() -> Result<(TempDir, PathBuf)> {
    let folder = TempDir::with_prefix("tls-files-").context("create a folder")?;
    let path = folder.path().join(LIBSSL);
    fs::copy(libssl()?, &path).context("copy the library")?;
    Ok((folder, path))
}

fn deleted(_: &str) -> Result<()> {
    let (_folder, path) = copy()?;
    let mapping = Mapping::loading("", &path)?;
    fs::remove_file(&path).context("delete the library")?;
    ensure!(mapping.breakpoints()? == 0, "there are breakpoints without a daemon");
    let daemon = daemon(&[&mapping])?;
    mapping.wait_for_breakpoints(true)?;
    counted(&daemon, "openssl", "attached", 1.0)?;
    let opener = children(daemon.pid())?;
    ensure!(opener.len() == 1, "the daemon has the children {opener:?}");
    daemon.kill()?;
    mapping.wait_for_breakpoints(false)?;
    // It ends with the daemon.
    wait_until(|| {
        let is_left = |pid: &u32| status(*pid, *pid, "State").is_ok_and(|of| !of.starts_with('Z'));
        let is_left = opener.iter().any(is_left);
        ensure!(!is_left, "the process that opens files is left");
        Ok(())
    })
}

fn other_namespace(_: &str) -> Result<()> {
    let original = libssl()?;
    let folder = TempDir::with_prefix("tls-files-").context("create a folder")?;
    let place = folder.path().display();
    let mount = format!("mount -t tmpfs none {place}; cp {} {place}", original.display());
    let path = folder.path().join(LIBSSL);
    let mapping = Mapping::loading(&mount, &path)?;
    ensure!(!path.exists(), "the file is visible here");
    let daemon = daemon(&[&mapping])?;
    mapping.wait_for_breakpoints(true)?;
    counted(&daemon, "openssl", "attached", 1.0)?;
    // The library is in the list of the process, once it has connections; the path is that in its namespace.
    daemon.wait_for_log(&path.display().to_string(), 1..)?;
    daemon.stop()?;
    mapping.wait_for_breakpoints(false)
}

fn overlay(_: &str) -> Result<()> {
    let (lower, path) = copy()?;
    let upper = TempDir::with_prefix("tls-files-").context("create a folder")?;
    let (lower, place) = (lower.path().display(), upper.path().display());
    // Another file system on top: the upper directory of an overlay must not be on an overlay.
    let mount = format!(
        "mount -t tmpfs none {place}; mkdir {place}/up {place}/work {place}/all
        mount -t overlay overlay -o lowerdir={lower},upperdir={place}/up,workdir={place}/work \
         {place}/all"
    );
    let through = Mapping::loading(&mount, &upper.path().join("all").join(LIBSSL))?;
    let below = Mapping::loading("", &path)?;
    let daemon = daemon(&[&through, &below])?;
    for mapping in [&through, &below] {
        mapping.wait_for_breakpoints(true)?;
    }
    // Both were looked at, and one link is enough for both.
    sleep(Duration::from_secs(3));
    counted(&daemon, "openssl", "attached", 1.0)?;
    daemon.stop()?;
    for mapping in [&through, &below] {
        mapping.wait_for_breakpoints(false)?;
    }
    Ok(())
}

// Values of the ELF header: classes, and machines.
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const I386: u8 = 3;
const X86_64: u8 = 62;
const RISCV: u8 = 243;

/// The start of an ELF file, up to the position of its program headers, and 4 KiB of `rest`.
fn elf(class: u8, machine: u8, rest: u8) -> Vec<u8> {
    let head = [0x7f, b'E', b'L', b'F', class, 1, 1];
    let mut bytes = [&head[..], &[0; 11], &[machine], &[0; 21]].concat();
    bytes.extend([rest; 4096]);
    bytes
}

/// Files that a process has mapped as code, with what is counted for each.
fn refused(_: &str) -> Result<()> {
    let folder = TempDir::with_prefix("tls-files-").context("create a folder")?;
    let mut paths = Vec::new();
    for (name, bytes, length) in [
        ("text", b"#!/bin/sh\n".to_vec(), None),
        ("32-bit", elf(CLASS_32, I386, 0), None),
        ("riscv", elf(CLASS_64, RISCV, 0), None),
        ("hostile", elf(CLASS_64, X86_64, 0xff), None),
        ("large", elf(CLASS_64, X86_64, 0), Some((512 << 20) + 1)),
        ("libjvm.so", fs::read("/bin/true").context("read a program")?, None),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).context("write a file")?;
        if let Some(length) = length {
            File::options().write(true).open(&path)?.set_len(length)?;
        }
        paths.push(format!("open(\"{}\", \"rb\")", path.display()));
    }
    let code = format!(
        "import mmap, sys
files = [{}]
maps = [mmap.mmap(file.fileno(), 1, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        for file in files]
print(\"mapped\", flush=True)
sys.stdin.read()",
        paths.join(", ")
    );
    let mapping = Mapping::start(&format!("exec {PYTHON} -Sc '{code}'"))?;
    let daemon = daemon(&[&mapping])?;
    counted(&daemon, "none", "architecture", 2.0)?;
    counted(&daemon, "none", "malformed", 1.0)?;
    counted(&daemon, "none", "too_large", 1.0)?;
    counted(&daemon, "none", "not_elf", 1.0)?;
    counted(&daemon, "none", "jvm", 1.0)?;
    daemon.wait_for_sum("observer_tls_files_total", &[("result", "attached")], 0.0..=0.0)?;
    daemon.stop()
}

/// With exactly the capabilities that the documents name.
fn capabilities(_: &str) -> Result<()> {
    let (_folder, path) = copy()?;
    let mapping = Mapping::loading("", &path)?;
    let flags = ["--tls", "auto", "--pid", &mapping.pid()];
    let daemon = Daemon::start_as(&flags, User::With(LEAST))?;
    mapping.wait_for_breakpoints(true)?;
    has_only_capabilities(&daemon, 0)?;
    let opener = children(daemon.pid())?;
    let [opener] = *opener else { anyhow::bail!("the daemon has the children {opener:?}") };
    for (field, expected) in
        [("CapPrm", OPENS_FILES), ("CapEff", OPENS_FILES), ("CapInh", 0), ("CapAmb", 0)]
    {
        let set = u64::from_str_radix(&status(opener, opener, field)?, 16)?;
        ensure!(set == expected, "the process that opens files: {field} is {set:#x}");
    }
    for (field, expected) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let found = status(opener, opener, field)?;
        ensure!(found == expected, "the process that opens files: {field} is {found}");
    }
    let uids: BTreeSet<String> = [daemon.pid(), opener]
        .map(|pid| status(pid, pid, "Uid"))
        .into_iter()
        .collect::<Result<_>>()?;
    ensure!(uids.len() == 1, "the two processes have the users {uids:?}");
    daemon.stop()?;
    mapping.wait_for_breakpoints(false)?;
    // Without TLS there is no such process.
    let daemon = Daemon::start(&["--tls", "off"])?;
    let none = children(daemon.pid())?;
    ensure!(none.is_empty(), "with --tls off the daemon has the children {none:?}");
    daemon.stop()
}

/// Without one of the capabilities the daemon starts, says what is missing, and follows no TLS.
fn missing(_: &str) -> Result<()> {
    for (name, others) in [
        ("CAP_CHECKPOINT_RESTORE", &["bpf", "perfmon", "dac_read_search", "sys_ptrace"]),
        ("CAP_SYS_PTRACE", &["bpf", "perfmon", "dac_read_search", "checkpoint_restore"]),
    ] {
        let daemon = Daemon::start_as(&["--tls", "auto"], User::With(others))?;
        daemon.wait_for_log(&format!("TLS connections are not followed: add {name};"), 1..=1)?;
        let none = children(daemon.pid())?;
        ensure!(none.is_empty(), "the daemon has the children {none:?}");
        let tls = list(&daemon)?.get("tls").and_then(Value::as_str).map(str::to_owned);
        ensure!(tls.as_deref() == Some("unavailable"), "TLS is listed as {tls:?}");
        daemon.stop()?;
    }
    Ok(())
}

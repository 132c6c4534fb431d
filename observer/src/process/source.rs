//! `/proc` as the source of details about processes.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use observer_core::process::{Comm, Identity, Key, ProcessSource, Resource, Runs, Texts};

use super::{container, package};
use crate::{clock::monotonic_ns, files::first_of};

/// Maximum bytes that are read of a file of `/proc`. A process can make most of these files as long as it likes:
/// `cmdline` may have gigabytes.
const AT_MOST: usize = 4096;

/// Maximum bytes that are read of `environ`, and of a `cmdline` whose end may matter: the class of a Java process comes
/// after its class path.
const LONG: usize = 128 << 10;

/// A source that reads `/proc`.
#[derive(Clone, Debug, Default)]
pub struct ProcFs {
    key: Key,
    /// The id of this boot.
    boot: Vec<u8>,
}

impl ProcFs {
    /// A source whose hashes differ from those of other nodes: the machine's id is their key.
    pub fn of_this_node() -> Self {
        let [machine, boot] =
            ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"].map(|path| id(Path::new(path)));
        let boot = boot.unwrap_or_default();
        Self { key: Key::new(machine.as_ref().unwrap_or(&boot)), boot }
    }
}

/// The machine's id, if the file has one (machine-id(5): during the first boot it may be empty or a word).
fn id(path: &Path) -> Option<Vec<u8>> {
    let text = first_of(path, AT_MOST).ok()?;
    let digits: Vec<u8> = text.into_iter().filter(u8::is_ascii_hexdigit).collect();
    (digits.len() == 32).then_some(digits)
}

impl ProcessSource for ProcFs {
    fn comm(&self, pid: u32) -> Option<Comm> {
        let text = read(pid, "comm")?;
        Some(Comm::truncated(text.strip_suffix(b"\n").unwrap_or(&text)))
    }

    fn began(&self, pid: u32) -> Option<u64> {
        // The name is in parentheses and may have any characters, even parentheses.
        let text = read(pid, "stat")?;
        let after = text.rsplit(|&byte| byte == b')').next()?;
        // Field 22 of proc(5); the first one here is field 3.
        str::from_utf8(after).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
    }

    fn identity(&self, pid: u32) -> Identity {
        use std::os::unix::ffi::OsStrExt as _;
        // Readable for the process's own user, or with CAP_SYS_PTRACE (ptrace(2)).
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let [cmdline, cgroup, status] = ["cmdline", "cgroup", "status"].map(|name| read(pid, name));
        let texts = Texts {
            exe: exe.as_ref().map(|exe| exe.as_os_str().as_bytes()),
            cmdline: cmdline.as_deref(),
            cgroup: cgroup.as_deref().map(whole_lines),
            status: status.as_deref(),
        };
        let mut identity = Identity::new(&self.key, texts);
        identity.environment = environment(pid).unwrap_or_default();
        if let Some(name) = cmdline.and_then(|cmdline| runs(pid, cmdline)) {
            identity.runs = name;
        }
        let id = &identity.cgroup.container_id;
        if !id.is_empty() {
            identity.container = container::service(id).unwrap_or_default();
        }
        if let Some(began) = self.began(pid) {
            identity.instance_id = self.key.instance_id(&self.boot, pid, began);
        }
        identity
    }

    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

fn read(pid: u32, name: &str) -> Option<Vec<u8>> {
    first_of(Path::new(&format!("/proc/{pid}/{name}")), AT_MOST).ok()
}

/// The service that the environment of a process names; `None` if it is not readable. That needs the same user, or
/// `CAP_SYS_PTRACE` (ptrace(2)).
fn environment(pid: u32) -> Option<Resource> {
    let file = File::open(format!("/proc/{pid}/environ")).ok()?;
    let mut environ = BufReader::with_capacity(AT_MOST, file.take(LONG as u64));
    let [mut name, mut attributes] = [None, None];
    let mut variable = Vec::new();
    // The first of several variables with one name counts, as in getenv(3).
    while name.is_none() || attributes.is_none() {
        variable.clear();
        let read = environ.read_until(0, &mut variable).ok()?;
        // Without a NUL, it was cut.
        if read == 0 || variable.pop() != Some(0) {
            break;
        }
        let value = |of: &str| Some(variable.strip_prefix(of.as_bytes())?.to_owned());
        name = name.or_else(|| value("OTEL_SERVICE_NAME="));
        attributes = attributes.or_else(|| value("OTEL_RESOURCE_ATTRIBUTES="));
    }
    Some(Resource::of_environment(name.as_deref(), attributes.as_deref()))
}

/// The name of what a process runs, if more can be known than from the start of its arguments.
fn runs(pid: u32, mut cmdline: Vec<u8>) -> Option<Box<str>> {
    if cmdline.len() == AT_MOST {
        cmdline = first_of(Path::new(&format!("/proc/{pid}/cmdline")), LONG).ok()?;
    }
    let Runs { name, script } = Runs::of_cmdline(&cmdline);
    script.and_then(|script| package::name(pid, &script)).or(Some(name))
}

/// The text without a last line that was cut: it could be mistaken for another one.
fn whole_lines(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| byte == b'\n');
    end.and_then(|end| text.get(..=end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{ProcFs, ProcessSource as _, whole_lines};

    #[test]
    fn proc_tells_of_this_process() {
        let (source, own) = (ProcFs::default(), std::process::id());
        let stat = procfs::process::Process::myself().unwrap().stat().unwrap();
        assert_eq!(source.began(own), Some(stat.starttime));
        assert_eq!(source.began(u32::MAX), None);
        assert_eq!(source.comm(own).unwrap().as_bytes(), stat.comm.as_bytes());
        let identity = source.identity(own);
        let uid = rustix::process::getuid().as_raw().to_string();
        assert_eq!((&*identity.uid, identity.cmdline_hash.len()), (&*uid, 16));
        let exe = std::env::current_exe().unwrap();
        assert_eq!(identity.exe, exe.as_os_str().as_encoded_bytes()[..].into());
    }

    #[test]
    fn a_line_that_is_cut_is_none() {
        assert_eq!(whole_lines(b"1:a:/b\n0::/c"), b"1:a:/b\n");
        assert_eq!(whole_lines(b"0::/c"), b"");
    }
}

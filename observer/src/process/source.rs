//! `/proc` as the source of details about processes.

use std::{fs, path::Path};

use observer_core::process::{Comm, Identity, Key, ProcessSource, Texts};

use crate::{clock::monotonic_ns, files::first_of};

/// Maximum bytes that are read of a file of `/proc`. A process can make most of these files as long as it likes:
/// `cmdline` may have gigabytes.
const AT_MOST: usize = 4096;

/// A source that reads `/proc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcFs {
    key: Key,
}

impl ProcFs {
    /// A source whose hashes differ from those of other nodes: the machine's id is their key.
    pub fn of_this_node() -> Self {
        let ids = ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"];
        let id = ids.iter().find_map(|path| id(Path::new(path)));
        Self { key: Key::new(&id.unwrap_or_default()) }
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
        Identity::new(&self.key, texts)
    }

    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

fn read(pid: u32, name: &str) -> Option<Vec<u8>> {
    first_of(Path::new(&format!("/proc/{pid}/{name}")), AT_MOST).ok()
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

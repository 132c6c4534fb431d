//! Gives up what the daemon was started with, once the kernel programs are attached.
//!
//! What is attached stays attached, and maps are used through descriptors that are open: from here
//! on the daemon reads a ring, files of `/proc`, and what scrapers send, and none of that takes a
//! capability, or root's files. So a mistake in it is worth little to whoever finds it.
//!
//! All of it is a thread's own but for the limit on core dumps and who may look into its memory, and a thread has what
//! the one has that started it: [`give_up`] comes before there is another thread.

#![forbid(unsafe_code)]

use std::fmt::{self, Display, Formatter};
use std::fs;

use anyhow::{Context as _, Result, bail};
use rustix::io;
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Uid, geteuid, getrlimit, set_dumpable_behavior,
    setrlimit,
};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    capability_is_in_bounding_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_keep_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use tracing::debug;

use crate::process::ProcFs;
use observer_core::process::{Detail, ProcessSource as _};

/// Where users are.
const PASSWD: &str = "/etc/passwd";

/// Who it is where nobody said, in this order.
const USUAL: [&str; 2] = ["observer", "nobody"];

/// The number of `nobody`, where there is no file of users: an image that has nothing but the daemon.
const NOBODY: u32 = 65_534;

/// Whom a daemon that root has started goes on as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// The user of `--run-as`, or the usual one; `None` where the daemon stays who it is.
    pub fn of(asked_for: Option<&str>) -> Result<Option<Self>> {
        let users = fs::read_to_string(PASSWD).unwrap_or_default();
        Self::among(&users, asked_for, geteuid().as_raw())
    }

    fn among(users: &str, asked_for: Option<&str>, own: u32) -> Result<Option<Self>> {
        let found = match asked_for {
            None if own != 0 => return Ok(None),
            None => USUAL
                .iter()
                .find_map(|name| Self::named(users, name))
                .unwrap_or_else(|| Self { name: "nobody".into(), uid: NOBODY, gid: NOBODY }),
            Some("root") => Self { name: "root".into(), uid: 0, gid: 0 },
            Some(text) => match Self::named(users, text).or_else(|| Self::numbered(text)) {
                Some(account) => account,
                None => bail!(
                    "--run-as: there is no user {text} in {PASSWD}: create it (useradd --system \
                     {text}), or write a UID, or UID:GID such as 65534:65534"
                ),
            },
        };
        if found.uid == own {
            return Ok(None);
        }
        if own != 0 {
            bail!("--run-as {found}: only root can become another user; start it as that user");
        }
        Ok(Some(found))
    }

    /// `name:password:UID:GID:…` (passwd(5)).
    fn named(users: &str, name: &str) -> Option<Self> {
        let mut words =
            users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.split(':');
        let (uid, gid) = (words.nth(1)?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { name: name.to_owned(), uid, gid })
    }

    /// `UID` or `UID:GID`.
    fn numbered(text: &str) -> Option<Self> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        Some(Self { name: text.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    }

    /// Its capabilities stay, to be given up one by one.
    fn assume(&self) -> Result<()> {
        const HINT: &str = "add CAP_SETUID and CAP_SETGID, which are given up afterwards, or stay \
                            root with --run-as root";
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_keep_capabilities(true)
            .and_then(|()| set_thread_groups(&[]))
            .and_then(|()| set_thread_res_gid(gid, gid, gid))
            .and_then(|()| set_thread_res_uid(uid, uid, uid))
            .with_context(|| format!("cannot run as user {self}: {HINT}"))
    }
}

impl Display for Account {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.name, self.uid, self.gid)
    }
}

/// Becomes `account`, and gives up every capability that this kernel does not go on asking for to tell these labels,
/// for good: not even a program that this process executed would have them again. Nobody but root can look into its
/// memory any more, dead or alive. Says which capabilities are left.
///
/// `sweep` is what the daemon goes on doing with bpf(2).
pub fn give_up(
    sweep: impl Fn() -> Result<()>,
    labels: &[Detail],
    account: Option<&Account>,
) -> Result<CapabilitySet> {
    // They are read from /proc/self/auxv when they are first asked for, which is root's later.
    let _ = (procfs::page_size(), procfs::ticks_per_second());
    no_core_dumps()?;
    set_no_new_privs(true).context("cannot set no_new_privs")?;
    let had = capabilities(None).context("cannot read the process's capabilities")?.permitted;
    if let Some(account) = account {
        account.assume()?;
    }
    // The last use of them.
    set(had, had).context("cannot use the process's capabilities")?;
    if had.contains(CapabilitySet::SETPCAP) {
        empty_bounding_set().context("cannot give up capabilities of the bounding set")?;
        let bits = CapabilitiesSecureBits::from_bits_retain(SECURE_BITS);
        set_capabilities_secure_bits(bits).context("cannot set secure bits")?;
    } else {
        debug!("without CAP_SETPCAP the bounding set stays; no_new_privs makes it ineffective");
    }
    // Asked for without them, and while they can still be had back.
    set(CapabilitySet::empty(), had).context("cannot give up capabilities")?;
    let left = asked_for(sweep, labels) & had;
    set(left, left).context("cannot give up capabilities")?;
    // A change of the user sets it as well, to what the system says.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot unset dumpable")?;
    Ok(left)
}

/// Of a limit that cannot be set, it is enough that it is so.
fn no_core_dumps() -> Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    match setrlimit(Resource::Core, none) {
        Err(_) if getrlimit(Resource::Core).current == Some(0) => Ok(()),
        outcome => outcome.context("cannot disable core dumps"),
    }
}

/// uid 0 is no reason for capabilities, nor is a change of the user; none is for a program that is executed. Locked
/// (linux/securebits.h).
const SECURE_BITS: u32 = CapabilitiesSecureBits::NO_ROOT.bits()
    | CapabilitiesSecureBits::NO_ROOT_LOCKED.bits()
    | CapabilitiesSecureBits::NO_SETUID_FIXUP.bits()
    | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED.bits()
    | CapabilitiesSecureBits::KEEP_CAPS_LOCKED.bits()
    | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE.bits()
    | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED.bits();

fn empty_bounding_set() -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // The kernel has no more.
            Err(_) => break,
        }
    }
    Ok(())
}

fn asked_for(sweep: impl Fn() -> Result<()>, labels: &[Detail]) -> CapabilitySet {
    let mut asked_for = CapabilitySet::empty();
    // Before Linux 5.19, with `kernel.unprivileged_bpf_disabled`, for every bpf(2).
    if sweep().is_err() {
        asked_for |= CapabilitySet::BPF;
    }
    // Where proc(5) is mounted with `hidepid`, for the names of other users' processes; everywhere,
    // for their programs.
    if ProcFs::default().comm(1).is_none() || labels.contains(&Detail::Exe) {
        asked_for |= CapabilitySet::SYS_PTRACE;
    }
    asked_for
}

/// Takes the ambient ones along: they are never more than the permitted and inheritable ones.
fn set(effective: CapabilitySet, permitted: CapabilitySet) -> io::Result<()> {
    set_capabilities(
        None,
        CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/bash\nobserver2:x:7:7::/:/bin/false\n\
                         nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n";

    fn told(users: &str, asked_for: Option<&str>, own: u32) -> Result<String, String> {
        match Account::among(users, asked_for, own) {
            Ok(account) => Ok(account.map(|account| account.to_string()).unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn root_becomes_somebody_without_rights() {
        let with_own = format!("{USERS}observer:x:998:997::/:/bin/false\n");
        assert_eq!(told(&with_own, None, 0), Ok("observer (998:997)".into()));
        assert_eq!(told(USERS, None, 0), Ok("nobody (65534:65533)".into()));
        assert_eq!(told("", None, 0), Ok("nobody (65534:65534)".into()));
        assert_eq!(told(USERS, Some("observer2"), 0), Ok("observer2 (7:7)".into()));
        assert_eq!(told("", Some("12:13"), 0), Ok("12:13 (12:13)".into()));
        assert_eq!(told("", Some("12"), 0), Ok("12 (12:12)".into()));
        for stays in [told(USERS, Some("root"), 0), told(USERS, Some("0"), 0), told(USERS, None, 7)]
        {
            assert_eq!(stays, Ok(String::new()));
        }
        assert_eq!(told(USERS, Some("observer2"), 7), Ok(String::new()));
    }

    #[test]
    fn a_user_that_it_cannot_be_is_an_error() {
        let unknown = told(USERS, Some("prometheus"), 0).unwrap_err();
        assert!(unknown.contains("there is no user prometheus in /etc/passwd"), "{unknown}");
        assert!(told(USERS, Some(""), 0).is_err());
        let other = told(USERS, Some("nobody"), 1000).unwrap_err();
        assert!(other.contains("only root can become another user"), "{other}");
    }
}

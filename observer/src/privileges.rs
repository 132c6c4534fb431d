//! Drops the daemon's privileges once the BPF programs are attached.
//!
//! Attached programs stay attached, and maps are used through open file descriptors. From then on the daemon reads rings,
//! files of `/proc` and requests of scrapers. That needs neither a capability nor root's files. So an attacker gains
//! little from a bug in it.
//!
//! Apart from the limit on core dumps and the dumpable flag, privileges belong to a thread, and a new thread inherits
//! them. So [`give_up`] must be called before there is another thread.

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
use observer_core::process::ProcessSource as _;

/// The file of users.
const PASSWD: &str = "/etc/passwd";

/// The users to run as without `--run-as`: the first one that exists.
const USUAL: [&str; 2] = ["observer", "nobody"];

/// The UID of `nobody` without a file of users, as in an image that has only the daemon.
const NOBODY: u32 = 65_534;

/// The user that a daemon runs as after root has started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// The user of `--run-as`, or the usual one; `None` if the daemon does not change its user.
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

    /// Finds the user in lines of `name:password:UID:GID:…` (passwd(5)).
    fn named(users: &str, name: &str) -> Option<Self> {
        let mut words =
            users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.split(':');
        let (uid, gid) = (words.nth(1)?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { name: name.to_owned(), uid, gid })
    }

    /// Parses `UID` or `UID:GID`.
    fn numbered(text: &str) -> Option<Self> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        Some(Self { name: text.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    }

    /// Becomes this user. The permitted capabilities stay.
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

/// Becomes `account`, and drops every capability that this kernel does not require later for `sweep`, the daemon's use
/// of bpf(2), except those that are `wanted`. Returns the capabilities that are left.
///
/// This cannot be undone: even a program that this process executes does not get them back. Only root can read the
/// memory of this process, and it leaves no core dump.
pub fn give_up(
    sweep: impl Fn() -> Result<()>,
    wanted: CapabilitySet,
    account: Option<&Account>,
) -> Result<CapabilitySet> {
    // Their first use reads /proc/self/auxv, which belongs to root later.
    let _ = (procfs::page_size(), procfs::ticks_per_second());
    let had = renounce(account)?;
    // Checks what works without capabilities, while they can still be restored.
    set(CapabilitySet::empty(), had).context("cannot give up capabilities")?;
    let left = asked_for(sweep, wanted) & had;
    keep_only(left)
}

/// Becomes `account`, and drops all capabilities but those of `kept` that this process has. Returns these. This cannot
/// be undone either.
pub fn reduce_to(kept: CapabilitySet, account: Option<&Account>) -> Result<CapabilitySet> {
    let had = renounce(account)?;
    keep_only(kept & had)
}

/// Becomes `account`, and makes sure that no capability can be gained. Returns those that this process has.
fn renounce(account: Option<&Account>) -> Result<CapabilitySet> {
    no_core_dumps()?;
    set_no_new_privs(true).context("cannot set no_new_privs")?;
    let had = capabilities(None).context("cannot read the process's capabilities")?.permitted;
    if let Some(account) = account {
        account.assume()?;
    }
    // The last use of the capabilities.
    set(had, had).context("cannot use the process's capabilities")?;
    if had.contains(CapabilitySet::SETPCAP) {
        empty_bounding_set().context("cannot give up capabilities of the bounding set")?;
        // UID 0 and a change of the user give no capabilities; no program gets ambient ones. Locked
        // (linux/securebits.h).
        let bits = CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
        set_capabilities_secure_bits(bits).context("cannot set secure bits")?;
    } else {
        debug!("without CAP_SETPCAP the bounding set stays; no_new_privs makes it ineffective");
    }
    Ok(had)
}

/// Drops all capabilities but these.
fn keep_only(left: CapabilitySet) -> Result<CapabilitySet> {
    set(left, left).context("cannot give up capabilities")?;
    // A change of the user sets it too, but to fs.suid_dumpable.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot unset dumpable")?;
    Ok(left)
}

/// Sets the limit of core dumps to 0. If it cannot be set but is 0, that is enough.
fn no_core_dumps() -> Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    match setrlimit(Resource::Core, none) {
        Err(_) if getrlimit(Resource::Core).current == Some(0) => Ok(()),
        outcome => outcome.context("cannot disable core dumps"),
    }
}

fn empty_bounding_set() -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // The kernel has no further capabilities.
            Err(_) => break,
        }
    }
    Ok(())
}

/// The capabilities that are wanted, and those that this kernel requires for `sweep` and for the names of processes.
fn asked_for(sweep: impl Fn() -> Result<()>, wanted: CapabilitySet) -> CapabilitySet {
    let mut asked_for = wanted;
    // Before Linux 5.19, every bpf(2) needs it with `kernel.unprivileged_bpf_disabled`.
    if sweep().is_err() {
        asked_for |= CapabilitySet::BPF;
    }
    // Names of other users' processes need it if proc(5) is mounted with `hidepid`.
    if ProcFs::default().comm(1).is_none() {
        asked_for |= CapabilitySet::SYS_PTRACE;
    }
    asked_for
}

/// Sets the effective and permitted capabilities. That also clears the ambient ones, which must be inheritable.
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

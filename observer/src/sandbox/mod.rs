//! Confines the daemon once it watches, in case it is taken over: to some files (Landlock, if the kernel has it) and to
//! some system calls (seccomp).
//!
//! Both belong to a thread, and a new thread inherits them. So [`confine_files`] and [`confine_calls`] must be called
//! before there is another thread.
//!
//! A system call that is not allowed fails with EPERM and does not end the process: a library may try a new one and go on
//! without it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope, make_bitflags,
};
use rustix::fs;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use tracing::{debug, warn};

use crate::privileges::Account;

/// What this daemon needs beyond what every daemon may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files that are read again. The whole folder of each is readable, because a file is renewed by a new one with its
    /// name, or by changing a link.
    pub reads: Vec<PathBuf>,
    /// Files that are opened again for writing. New files can be created in the folder of each.
    pub writes: Vec<PathBuf>,
    /// Whether it connects to others over TCP.
    pub connects: bool,
    /// Whether it draws on a terminal.
    pub terminal: bool,
}

impl Needs {
    /// Logs the files that the user may not read again, and the folders of files that it may not reopen.
    pub fn log_inaccessible(&self, account: &Account) {
        for path in &self.reads {
            if File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
                warn!(
                    "{} cannot be read again: user {account} has no permission. Restart the daemon \
                     after a change, give the user's group read access, or choose another user \
                     with --run-as",
                    path.display()
                );
            }
        }
        for folder in folders(&self.writes) {
            if fs::access(&folder, fs::Access::WRITE_OK | fs::Access::EXEC_OK).is_err() {
                warn!(
                    "SIGHUP cannot reopen files in {}: user {account} has no write permission \
                     there. Rotate them with copytruncate, or choose another user with --run-as",
                    folder.display()
                );
            }
        }
    }
}

/// Folders that every daemon reads: processes and its own figures, the number of CPUs, the limits of its cgroup.
const ALWAYS_READ: [&str; 3] = ["/proc", "/sys/devices/system/cpu", "/sys/fs/cgroup"];

/// Files that are read to resolve a host name.
const RESOLVER: [&str; 6] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
];

/// The version of Landlock; rights that a kernel does not have are left out.
const LANDLOCK: ABI = ABI::V6;

/// Confines this thread to the files of `needs` and those of every daemon. Returns `false` if this kernel does not have
/// Landlock.
pub fn confine_files(needs: &Needs) -> Result<bool> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = make_bitflags!(AccessFs::{WriteFile | MakeReg});
    let mut allowed: Vec<(PathBuf, BitFlags<AccessFs>)> =
        ALWAYS_READ.iter().map(|path| (path.into(), read)).collect();
    if needs.connects {
        allowed.extend(RESOLVER.iter().map(|path| (path.into(), read)));
    }
    if needs.terminal {
        let both = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
        allowed.push(("/dev/tty".into(), both));
    }
    allowed.extend(folders(&needs.reads).into_iter().map(|folder| (folder, read)));
    allowed.extend(folders(&needs.writes).into_iter().map(|folder| (folder, write)));
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()
        .context("cannot create a Landlock ruleset")?;
    for (path, access) in allowed {
        match PathFd::new(&path) {
            Ok(file) => ruleset = ruleset.add_rule(PathBeneath::new(file, access))?,
            Err(error) => debug!("cannot allow access to {}: {error}", path.display()),
        }
    }
    let status = ruleset.restrict_self().context("cannot enforce a Landlock ruleset")?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// The folders of these files, and of the files that they link to.
fn folders(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let named = files.iter().cloned();
    let linked = files.iter().filter_map(|path| path.canonicalize().ok());
    let folder = |path: PathBuf| match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => ".".into(),
    };
    named.chain(linked).map(folder).collect()
}

/// Confines this thread to the system calls of a daemon that watches, with these `needs`.
pub fn confine_calls(needs: &Needs) -> Result<()> {
    let mut calls = Calls::new(&[EVERY_THREAD, DAEMON]);
    calls.memory()?;
    calls.own_process()?;
    // To read counters, and to sweep for ended connections. Other uses of maps and programs are over.
    for command in [BPF_MAP_LOOKUP_ELEM, BPF_MAP_GET_NEXT_KEY, BPF_PROG_TEST_RUN] {
        calls.when(libc::SYS_bpf, &[equal(0, command)])?;
    }
    // For the opener of TLS libraries, once it has ended.
    calls.always(&[libc::SYS_wait4]);
    let threads = libc::CLONE_THREAD as u64;
    calls.when(libc::SYS_clone, &[masked(0, threads, threads)])?;
    if needs.writes.is_empty() && !needs.terminal {
        calls.open_to_read()?;
    } else {
        calls.always(OPEN);
    }
    if needs.connects {
        calls.always(CONNECT);
        for family in [libc::AF_INET, libc::AF_INET6] {
            calls.when(libc::SYS_socket, &[equal(0, family as u64)])?;
        }
    }
    let of_terminal = SETS_TERMINAL.iter().filter(|_| needs.terminal);
    for request in IOCTLS.iter().chain(of_terminal) {
        calls.when(libc::SYS_ioctl, &[equal(1, *request)])?;
    }
    if needs.terminal {
        // crossterm waits for keys and signals with a socket pair.
        calls.when(libc::SYS_socketpair, &[equal(0, libc::AF_UNIX as u64)])?;
    }
    // A filter cannot see its flags. With ENOSYS glibc falls back to clone.
    install([(libc::SYS_clone3, Vec::new())], SeccompAction::Allow, SeccompAction::Errno(ENOSYS))?;
    calls.always(&[libc::SYS_clone3]);
    calls.install()
}

/// Confines this thread to the system calls that read files, for the thread with the programs' figures.
pub(crate) fn confine_reader() -> Result<()> {
    let mut calls = Calls::new(&[EVERY_THREAD]);
    calls.memory()?;
    calls.own_process()?;
    calls.open_to_read()?;
    calls.install()
}

/// Confines this process to the system calls of the opener of TLS libraries: it reads files, starts parsers and creates
/// links. `by_perf_events` if its links are those of perf events.
pub(crate) fn confine_opener(by_perf_events: bool) -> Result<()> {
    let mut calls = Calls::new(&[EVERY_THREAD, OPENER]);
    calls.memory()?;
    calls.own_process()?;
    calls.open_to_read()?;
    calls.when(libc::SYS_bpf, &[equal(0, BPF_LINK_CREATE)])?;
    if by_perf_events {
        calls.always(&[libc::SYS_perf_event_open]);
    }
    // A process, in the same namespaces.
    calls.when(libc::SYS_clone, &[masked(0, NEW_NAMESPACES, 0)])?;
    // A parser confines itself further.
    calls.always(&[libc::SYS_prlimit64]);
    for option in [libc::PR_SET_PDEATHSIG, libc::PR_SET_NO_NEW_PRIVS, libc::PR_SET_SECCOMP] {
        calls.when(libc::SYS_prctl, &[equal(0, option as u64)])?;
    }
    install([(libc::SYS_clone3, Vec::new())], SeccompAction::Allow, SeccompAction::Errno(ENOSYS))?;
    calls.always(&[libc::SYS_clone3]);
    calls.install()
}

/// Confines this process to the system calls that compute a result and write it to a pipe, for a parser.
pub(crate) fn confine_parser() -> Result<()> {
    let mut calls = Calls::new(&[PARSER]);
    calls.memory()?;
    calls.own_process()?;
    calls.install()
}

const EPERM: u32 = libc::EPERM as u32;
const ENOSYS: u32 = libc::ENOSYS as u32;

// enum bpf_cmd (linux/bpf.h).
const BPF_MAP_LOOKUP_ELEM: u64 = 1;
const BPF_MAP_GET_NEXT_KEY: u64 = 4;
const BPF_PROG_TEST_RUN: u64 = 10;
const BPF_LINK_CREATE: u64 = 28;

/// Flags of clone(2) that a new process of the opener may not have.
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// FIONBIO, FIONREAD; and for the kind and size of a terminal TCGETS, TCGETS2 (glibc since 2.42), TIOCGWINSZ
/// (asm-generic/ioctls.h).
const IOCTLS: [u64; 5] = [0x5421, 0x541b, 0x5401, 0x802c_542a, 0x5413];

/// TCSETS, TCSETSW, TCSETSF, TCSETS2, TCSETSW2, TCSETSF2 (asm-generic/ioctls.h).
const SETS_TERMINAL: [u64; 6] = [0x5402, 0x5403, 0x5404, 0x402c_542b, 0x402c_542c, 0x402c_542d];

/// System calls of every thread: to compute, to wait, to read and write open files, to end.
const EVERY_THREAD: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
];

/// System calls of the daemon: for open sockets, events, file names, its own use of resources.
const DAEMON: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getrusage,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_getuid,
    libc::SYS_ppoll,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// System calls of the opener: for its socket, folders, and its parsers.
const OPENER: &[i64] = &[
    libc::SYS_capset,
    libc::SYS_close_range,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_getppid,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_seccomp,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setitimer,
    libc::SYS_wait4,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// System calls of a parser: to compute, to write its result, to end.
const PARSER: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_munmap,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

const CONNECT: &[i64] =
    &[libc::SYS_bind, libc::SYS_connect, libc::SYS_recvmmsg, libc::SYS_sendmmsg];

const OPEN: &[i64] = &[
    libc::SYS_openat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
];

/// Allowed system calls: without rules always, else if one of the rules matches.
struct Calls(Vec<(i64, Vec<SeccompRule>)>);

impl Calls {
    fn new(always: &[&[i64]]) -> Self {
        let mut calls = Self(Vec::new());
        for always in always {
            calls.always(always);
        }
        calls
    }

    fn always(&mut self, calls: &[i64]) {
        self.0.extend(calls.iter().map(|call| (*call, Vec::new())));
    }

    /// Allows a system call if all of these conditions hold.
    fn when(&mut self, call: i64, conditions: &[Condition]) -> Result<()> {
        let rule = SeccompRule::new(conditions.iter().map(condition).collect::<Result<_>>()?)?;
        match self.0.iter_mut().find(|(known, _)| *known == call) {
            Some((_, rules)) => rules.push(rule),
            None => self.0.push((call, vec![rule])),
        }
        Ok(())
    }

    /// Allows memory that is not executable.
    fn memory(&mut self) -> Result<()> {
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            self.when(call, &[masked(2, libc::PROT_EXEC as u64, 0)])?;
        }
        self.always(&[libc::SYS_mremap]);
        Ok(())
    }

    /// Allows signals to this process (abort(3)), names of threads and of memory, and reading limits.
    fn own_process(&mut self) -> Result<()> {
        let (own, abort) = (u64::from(std::process::id()), libc::SIGABRT as u64);
        self.when(libc::SYS_tgkill, &[equal(0, own)])?;
        self.when(libc::SYS_tkill, &[equal(1, abort)])?;
        for option in [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA] {
            self.when(libc::SYS_prctl, &[equal(0, option as u64)])?;
        }
        self.when(libc::SYS_prlimit64, &[whole(2, 0)])
    }

    fn open_to_read(&mut self) -> Result<()> {
        let writing = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
        self.when(libc::SYS_openat, &[masked(2, writing, 0)])?;
        #[cfg(target_arch = "x86_64")]
        self.when(libc::SYS_open, &[masked(1, writing, 0)])?;
        Ok(())
    }

    fn install(self) -> Result<()> {
        install(self.0, SeccompAction::Errno(EPERM), SeccompAction::Allow)
    }
}

/// A condition on an argument: its position, its length, the comparison, the value.
type Condition = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

fn equal(argument: u8, value: u64) -> Condition {
    (argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// Compares all 64 bits.
fn whole(argument: u8, value: u64) -> Condition {
    (argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    (argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}

fn condition((argument, length, operator, value): &Condition) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(*argument, length.clone(), operator.clone(), *value)?)
}

fn install(
    calls: impl IntoIterator<Item = (i64, Vec<SeccompRule>)>,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> Result<()> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let calls = calls.into_iter().collect();
    let filter = SeccompFilter::new(calls, otherwise, action, architecture)?;
    let program = BpfProgram::try_from(filter)?;
    seccompiler::apply_filter(&program).context("cannot install the system call filter (seccomp)")
}

#[cfg(test)]
mod tests;

//! Loads and attaches the programs that a backend has, and those that every backend has.

use std::any::Any;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use anyhow::{Error, Result, anyhow};
use aya::{
    Btf, Ebpf, Endianness,
    programs::{FExit, KProbe, Program, RawTracePoint, TracePoint},
    sys::SyscallError,
};

use super::{children, layout::Layout};
use crate::config::{Backend, Config};

/// The system calls of the tracepoint backend, which has one program for all.
const CALLS: [&str; 12] = [
    "read", "readv", "preadv2", "recvfrom", "recvmsg", "recvmmsg", "write", "writev", "pwritev2",
    "sendto", "sendmsg", "sendmmsg",
];

/// The program at the exits of the [`CALLS`].
const EXIT: &str = "exit";

/// The functions of the other backends; each has programs `fexit_<function>` and
/// `kprobe_<function>`.
const FUNCTIONS: [&str; 4] =
    ["tcp_sendmsg", "tcp_recvmsg", "unix_stream_sendmsg", "unix_stream_recvmsg"];

/// The functions of MPTCP, for the same programs, if the kernel has them.
const MPTCP_FUNCTIONS: [&str; 2] = ["mptcp_sendmsg", "mptcp_recvmsg"];

/// The program at the returns of all functions.
const KRETPROBE: &str = "kretprobe_leave";

/// Programs of the socket backend, and their raw tracepoints. The program for sent bytes is attached first. So bytes
/// cannot be seen when they are received and be missed when they were sent.
const SOCKET: [(&str, &str); 2] =
    [("socket_sent", "sock_send_length"), ("socket_received", "sock_recv_length")];

/// Programs of every backend, and their raw tracepoints.
const LIFECYCLE: [(&str, &str); 5] = [
    ("sock_state", "inet_sock_set_state"),
    ("process_exit", "sched_process_exit"),
    ("process_exec", "sched_process_exec"),
    ("process_rename", "task_rename"),
    ("process_fork", "sched_process_fork"),
];

/// The program that looks for ended connections. It is not attached; the daemon runs it.
pub(super) const SWEEP: &str = "sweep";

/// An attachment of a program. When this is dropped, the program is detached.
pub(super) type Link = Box<dyn Any + Send>;

/// Loads all programs that the backend uses, then attaches them. After an error, all of them are detached.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    backend: Backend,
    config: &Config,
    layout: &Layout,
) -> Result<Vec<Link>> {
    let functions = || {
        let mptcp = if layout.mptcp { &MPTCP_FUNCTIONS[..] } else { &[] };
        FUNCTIONS.iter().chain(mptcp).copied()
    };
    match backend {
        Backend::Fentry => {
            let btf = Btf::parse_file(&config.btf, Endianness::default())?;
            try_fentry(ebpf, &btf)?;
            functions().try_for_each(|function| load_fentry(ebpf, &btf, function))?;
        }
        Backend::Kprobe => {
            try_kprobe(ebpf)?;
            load_kprobe(ebpf, KRETPROBE)?;
            functions().try_for_each(|function| load_kprobe(ebpf, &kprobe(function)))?;
        }
        Backend::Socket => {
            try_raw(ebpf)?;
            load_raw(ebpf, &SOCKET.map(|(name, _)| name))?;
        }
        Backend::Tracepoint | Backend::Auto => load_tracepoint(ebpf)?,
    }
    load_raw(ebpf, &[&LIFECYCLE.map(|(name, _)| name)[..], &[SWEEP]].concat())?;
    let mut links = Vec::new();
    attach_raw(ebpf, &LIFECYCLE, &mut links)?;
    children::select(ebpf, &config.filter)?;
    match backend {
        Backend::Socket => attach_raw(ebpf, &SOCKET, &mut links)?,
        Backend::Fentry => {
            functions().try_for_each(|function| attach_fentry(ebpf, function, &mut links))?;
        }
        Backend::Kprobe => {
            functions().try_for_each(|function| attach_kprobes(ebpf, function, &mut links))?;
        }
        Backend::Tracepoint | Backend::Auto => {
            CALLS.iter().try_for_each(|call| attach_tracepoint(ebpf, call, &mut links))?;
        }
    }
    Ok(links)
}

/// Attaches a program that does nothing to the return of a function. That costs less than verifying a real one on a
/// kernel that refuses them.
fn try_fentry(ebpf: &mut Ebpf, btf: &Btf) -> Result<()> {
    let refused = |error| refused("fexit programs", error);
    let program: &mut FExit = program(ebpf, "fexit_try")?;
    program.load("tcp_sendmsg", btf).map_err(|error| refused(error.into()))?;
    program.attach().map_err(|error| refused(error.into()))?;
    Ok(program.unload()?)
}

fn load_fentry(ebpf: &mut Ebpf, btf: &Btf, function: &str) -> Result<()> {
    let name = format!("fexit_{function}");
    let program: &mut FExit = program(ebpf, &name)?;
    program.load(function, btf).map_err(|error| refused_program(&name, error.into()))
}

fn attach_fentry(ebpf: &mut Ebpf, function: &str, links: &mut Vec<Link>) -> Result<()> {
    let program: &mut FExit = program(ebpf, &format!("fexit_{function}"))?;
    let id = program.attach().map_err(|error| refused_target(function, error.into()))?;
    links.push(Box::new(program.take_link(id)?));
    Ok(())
}

/// Does the same as [`try_fentry`] with a kprobe.
fn try_kprobe(ebpf: &mut Ebpf) -> Result<()> {
    let refused = |error| refused("kprobes", error);
    let program: &mut KProbe = program(ebpf, "kretprobe_try")?;
    program.load().map_err(|error| refused(error.into()))?;
    program.attach("tcp_sendmsg", 0).map_err(|error| refused(error.into()))?;
    Ok(program.unload()?)
}

fn load_kprobe(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program: &mut KProbe = program(ebpf, name)?;
    program.load().map_err(|error| refused_program(name, error.into()))
}

/// Attaches the program at the return first: it does nothing for a call that was entered before.
fn attach_kprobes(ebpf: &mut Ebpf, function: &str, links: &mut Vec<Link>) -> Result<()> {
    for name in [KRETPROBE, &kprobe(function)] {
        let program: &mut KProbe = program(ebpf, name)?;
        let id = program.attach(function, 0);
        let id = id.map_err(|error| refused_target(function, error.into()))?;
        links.push(Box::new(program.take_link(id)?));
    }
    Ok(())
}

fn kprobe(function: &str) -> String {
    format!("kprobe_{function}")
}

fn load_tracepoint(ebpf: &mut Ebpf) -> Result<()> {
    let program: &mut TracePoint = program(ebpf, EXIT)?;
    program.load().map_err(|error| refused_program(EXIT, error.into()))
}

fn attach_tracepoint(ebpf: &mut Ebpf, call: &str, links: &mut Vec<Link>) -> Result<()> {
    let tracepoint = format!("sys_exit_{call}");
    let program: &mut TracePoint = program(ebpf, EXIT)?;
    let id = program
        .attach("syscalls", &tracepoint)
        .map_err(|error| refused_target(&tracepoint, error.into()))?;
    links.push(Box::new(program.take_link(id)?));
    Ok(())
}

/// Does the same as [`try_fentry`] with a raw tracepoint of sockets: kernels before 6.3 do not have it.
fn try_raw(ebpf: &mut Ebpf) -> Result<()> {
    let (_, tracepoint) = SOCKET[0];
    let program: &mut RawTracePoint = program(ebpf, "socket_try")?;
    program.load().map_err(|error| refused_program("socket_try", error.into()))?;
    if let Err(error) = program.attach(tracepoint) {
        let has_no = "this kernel has no tracepoint sock_send_length: Linux 6.3 or later is needed";
        return Err(Error::from(error).context(has_no));
    }
    Ok(program.unload()?)
}

/// Loads programs of raw tracepoints, all at once: the verifier takes a tenth of a second for a large one.
fn load_raw(ebpf: &mut Ebpf, names: &[&str]) -> Result<()> {
    let programs = ebpf.programs_mut().filter(|(name, _)| names.contains(name));
    let programs: Vec<_> = programs.map(|(name, program)| (name.to_owned(), program)).collect();
    thread::scope(|scope| {
        let load = |(name, program): (String, &mut Program)| {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load().map_err(|error| refused_program(&name, error.into()))
        };
        let loading: Vec<_> =
            programs.into_iter().map(|program| scope.spawn(move || load(program))).collect();
        loading.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a panic while a program was loaded")))
        })
    })
}

fn attach_raw(ebpf: &mut Ebpf, programs: &[(&str, &str)], links: &mut Vec<Link>) -> Result<()> {
    for (name, tracepoint) in programs {
        let program: &mut RawTracePoint = program(ebpf, name)?;
        let id = program.attach(tracepoint);
        let id = id.map_err(|error| refused_target(tracepoint, error.into()))?;
        links.push(Box::new(program.take_link(id)?));
    }
    Ok(())
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program>,
    <&'a mut P as TryFrom<&'a mut Program>>::Error: Into<Error>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("there is no program {name}"))?;
    program.try_into().map_err(Into::into)
}

fn refused_program(name: &str, error: Error) -> Error {
    refused(&format!("the program {name}"), error)
}

fn refused_target(name: &str, error: Error) -> Error {
    refused(&format!("a program at {name}"), error)
}

/// Adds a short text to an error: what the kernel refused, its error number, and a remedy if one is known.
fn refused(what: &str, error: Error) -> Error {
    let number = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    let number = number.map(|number| format!(" ({number})")).unwrap_or_default();
    let remedy = remedy(&error, Path::new(PARANOID)).unwrap_or_default();
    error.context(format!("the kernel refused {what}{number}{remedy}"))
}

/// The setting that limits `perf_event_open`.
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

/// The remedy for a setting that mainline does not have: above 2, Debian's and other kernels allow `perf_event_open` only
/// with CAP_SYS_ADMIN.
fn remedy(error: &Error, paranoid: &Path) -> Option<String> {
    let refused = error.chain().find_map(|cause| cause.downcast_ref::<SyscallError>())?;
    let is_access = refused.io_error.kind() == io::ErrorKind::PermissionDenied;
    let level = fs::read_to_string(paranoid).ok()?.trim().parse::<i32>().ok()?;
    (refused.call == "perf_event_open" && is_access && level > 2).then(|| {
        format!(": kernel.perf_event_paranoid is {level}; set it to 2, or add CAP_SYS_ADMIN")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;

    use anyhow::Error;
    use aya::sys::SyscallError;

    use super::remedy;

    #[test]
    fn a_setting_that_asks_for_more_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let told = |call, number, level: &str| {
            fs::write(file.path(), level).unwrap();
            let io_error = io::Error::from_raw_os_error(number);
            let error = Error::new(SyscallError { call, io_error }).context("attach");
            remedy(&error, file.path())
        };
        let asks = ": kernel.perf_event_paranoid is 3; set it to 2, or add CAP_SYS_ADMIN";
        assert_eq!(told("perf_event_open", libc::EACCES, "3\n").as_deref(), Some(asks));
        for (call, number, level) in [
            ("perf_event_open", libc::EACCES, "2\n"),
            ("perf_event_open", libc::ENOENT, "3\n"),
            ("bpf_prog_load", libc::EACCES, "3\n"),
            ("perf_event_open", libc::EACCES, "?"),
        ] {
            assert_eq!(told(call, number, level), None, "{call}, {number}, {level}");
        }
    }
}

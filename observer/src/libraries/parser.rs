//! Parses a file in a process of its own, which ends with it.
//!
//! Files come from containers and may be hostile. So whatever parses one has no capability, no open file but a pipe for its
//! result, hardly any system call, and little time and memory. If it is taken over, it can only lie about where places to
//! probe are; the opener [checks](Found::read) what it says, and compares the instructions with the file.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use observer_tls::{Machine, Refusal};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
    process::{
        Pid, Resource, Rlimit, Signal, WaitOptions, set_parent_process_death_signal, setrlimit,
        waitpid,
    },
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};
use zerocopy::IntoBytes as _;

use super::messages::{Failure, Found, MAX_PIECES, Piece};
use crate::{descriptors, sandbox, tls};

/// The longest file that is parsed: its bytes are mapped.
const MAX_FILE: u64 = 512 << 20;

/// How long a parser may take; a second is much.
const MAX_TIME: Duration = Duration::from_secs(20);

/// The memory that a parser may have besides the file and what it has from the opener.
const MAX_MEMORY: u64 = 1 << 30;

/// The architecture of this machine.
const MACHINE: Machine =
    if cfg!(target_arch = "aarch64") { Machine::Aarch64 } else { Machine::X86_64 };

/// Parses a file of `length` bytes. To be called by a process with one thread.
pub(super) fn parse(file: BorrowedFd<'_>, length: u64) -> Result<Found, Failure> {
    if length > MAX_FILE {
        return Err(Failure::TooLarge);
    }
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|_| Failure::Limit)?;
    // SAFETY: this process has one thread, so no lock is held that the new one needs.
    match unsafe { libc::fork() } {
        0 => be_parser(file, length, write),
        pid => {
            drop(write);
            let pid = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(Failure::Limit)?;
            let bytes = collect(read, Instant::now() + MAX_TIME + Duration::from_secs(1));
            // It has closed the pipe because it has ended, or its timer ends it. If somebody has stopped it, it is left.
            let options = if bytes.is_ok() { WaitOptions::empty() } else { WaitOptions::NOHANG };
            let _ = waitpid(Some(pid), options);
            let bytes = bytes?;
            if bytes.is_empty() {
                return Err(Failure::Crashed);
            }
            Found::read(&bytes, length).ok_or(Failure::Crashed)
        }
    }
}

/// Reads what a parser writes until it ends.
fn collect(pipe: OwnedFd, deadline: Instant) -> Result<Vec<u8>, Failure> {
    let mut pipe = std::fs::File::from(pipe);
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut ready = [PollFd::new(&pipe, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) => return Err(Failure::TimedOut),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return Err(Failure::Crashed),
        }
        match pipe.read(&mut part) {
            Ok(0) => return Ok(bytes),
            Ok(read) => bytes.extend_from_slice(part.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(Failure::Crashed),
        }
        if bytes.len() > MAX_PIECES {
            return Err(Failure::Limit);
        }
    }
}

/// The parser: writes what it finds and ends.
fn be_parser(file: BorrowedFd<'_>, length: u64, pipe: OwnedFd) -> ! {
    let code = match confined_parser(file, length, pipe) {
        Some(()) => 0,
        None => 1,
    };
    // SAFETY: ends this process, without what the opener has to do at its end.
    unsafe { libc::_exit(code) }
}

fn confined_parser(file: BorrowedFd<'_>, length: u64, pipe: OwnedFd) -> Option<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).ok()?;
    let length = usize::try_from(length).ok().filter(|length| *length > 0)?;
    // Shared, because the kernel writes the breakpoints of others' uprobes into private mappings (`valid_vma`).
    // SAFETY: a new mapping, which nothing else refers to.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: `length` bytes are mapped, and stay so. Another process may write the file meanwhile, or cut it: then this
    // process ends by SIGBUS, or its result is wrong, as that of a hostile file may be.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) };
    descriptors::keep_only(&[pipe.as_fd()], 0).ok()?;
    set_timer();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).ok()?;
    let limit = |resource, most: u64| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }).ok()
    };
    limit(Resource::Data, MAX_MEMORY)?;
    limit(Resource::Cpu, MAX_TIME.as_secs())?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Nofile, 0)?;
    sandbox::confine_parser().ok()?;
    let located = observer_tls::locate(bytes).and_then(|located| {
        let runs_here = located.machine == MACHINE;
        if runs_here { Ok(located) } else { Err(Refusal::Architecture) }
    });
    let pieces = Piece::of(&located, observer_tls::build_id(bytes), tls::cookie);
    std::fs::File::from(pipe).write_all(pieces.as_bytes()).ok()
}

/// Ends this process in time, even if nobody waits for it.
fn set_timer() {
    let time = libc::timeval { tv_sec: MAX_TIME.as_secs().cast_signed(), tv_usec: 0 };
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: none, it_value: time };
    // SAFETY: reads the timer. SIGALRM ends the process, because nothing handles it.
    unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0) };
}

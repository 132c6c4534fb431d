//! The process that opens the files of other processes and probes them: the only one with capabilities while the daemon
//! runs, and it exists only with `--tls auto`.
//!
//! It is a fork of the daemon from before that gave up its privileges, and has open only its end of a socket and the BPF
//! program. The daemon asks it to look at a process, by pid; it decides by itself what to open: what the process has
//! mapped as code. It reads nothing of these files but the bytes that are about to be probed: [`parser`] has a process
//! for each. It probes only what a parser has reported for that very file. It ends when the daemon does, and with it the
//! probes: the kernel closes its links.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufReader, ErrorKind},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use observer_tls::Refusal;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode, OFlags, fstat, openat},
    io::{Errno, pread},
    net::{RecvFlags, SendFlags, recv, send},
};
use zerocopy::IntoBytes as _;

use super::{
    builds::Builds,
    files::{Files, Identity, MAX_PROBED, Mapped},
    maps::{self, Mapping},
    messages::{Bytes, Failure, Found, Outcome, Report, Request},
    parser,
};
use crate::kernel::{FileLinks, Uprobes};

/// The time between two sweeps over the files that are probed.
const SWEEP: Duration = Duration::from_secs(30);

/// The most files that are parsed for one request.
const MAX_PARSED: usize = 64;

/// Answers requests until the daemon closes its end of the socket.
pub(super) fn run(socket: BorrowedFd<'_>, uprobes: Uprobes) {
    let mut opener = Opener { socket, uprobes, files: Files::default(), builds: Builds::default() };
    let mut sweep_at = Instant::now() + SWEEP;
    loop {
        let left = sweep_at.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                opener.sweep();
                sweep_at = Instant::now() + SWEEP;
            }
            Ok(_) => {
                // One more than a message may have: a longer one shows.
                let mut message = [0_u8; size_of::<Request>() + 1];
                let length = match recv(socket, &mut message, RecvFlags::empty()) {
                    Ok((0, _)) => return,
                    Ok((_, length)) => length,
                    Err(Errno::INTR | Errno::AGAIN) => continue,
                    Err(_) => return,
                };
                let told = match Request::pid_of(message.get(..length).unwrap_or(&message)) {
                    Some(pid) => opener.answer(pid),
                    None => opener.tell(&Report::file(
                        0,
                        None,
                        Outcome::Failed(Failure::BadRequest),
                        "",
                        b"",
                        0,
                    )),
                };
                if told.is_err() {
                    return;
                }
                if Instant::now() >= sweep_at {
                    opener.sweep();
                    sweep_at = Instant::now() + SWEEP;
                }
            }
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

struct Opener<'a> {
    socket: BorrowedFd<'a>,
    uprobes: Uprobes,
    files: Files,
    builds: Builds,
}

/// The daemon is gone.
struct Gone;

/// A process, by its folder in `/proc`: if it ends, nothing in the folder is that of the next one with its pid.
struct Process {
    pid: u32,
    folder: OwnedFd,
}

impl Process {
    fn open(pid: u32) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?;
        Ok(Self { pid, folder })
    }

    fn file(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        openat(&self.folder, name, flags, Mode::empty())
    }

    /// The files that it has mapped as code, each once. Those that are likely to have a TLS library come first: until they
    /// are probed, connections go by.
    fn mappings(&self) -> Result<Vec<Mapping>, Errno> {
        let mut mappings = Vec::new();
        let mut seen: HashSet<Mapped> = HashSet::new();
        let file = File::from(self.file("maps")?);
        // What was read before an error is what the process had.
        let _ = maps::read(BufReader::new(file), |mapping| {
            if seen.len() < MAX_MAPPED && seen.insert((mapping.device.clone(), mapping.inode)) {
                mappings.push(mapping);
            }
        });
        mappings.sort_by_key(|mapping| !is_likely(&mapping.path));
        Ok(mappings)
    }

    /// Whether other bytes are where a file has this instruction: a breakpoint. `None` if that cannot be read.
    fn has_breakpoint(&self, mapping: &Mapping, found: &Found) -> Option<bool> {
        let mut at = found.places.iter().map(|place| &place.instruction);
        let (address, bytes) =
            at.find_map(|at| Some((mapping.address_of(at.offset)?, &at.bytes)))?;
        let memory = File::from(self.file("mem").ok()?);
        let mut present = vec![0; bytes.len()];
        memory.read_exact_at(&mut present, address).ok()?;
        Some(present != *bytes)
    }
}

/// The most files of one process.
const MAX_MAPPED: usize = 4096;

impl Opener<'_> {
    /// Looks at all files of a process, and tells what is new.
    fn answer(&mut self, pid: u32) -> Result<(), Gone> {
        let opened = Process::open(pid).and_then(|process| {
            let mappings = process.mappings()?;
            Ok((process, mappings))
        });
        match opened {
            Ok((process, mappings)) => {
                let mut parsed = 0;
                for mapping in mappings {
                    if parsed == MAX_PARSED {
                        let limit = Outcome::Failed(Failure::Limit);
                        self.tell(&Report::file(pid, None, limit, "", &mapping.path, 0))?;
                        break;
                    }
                    let reports = self.look(&process, mapping);
                    parsed += usize::from(!reports.iter().all(Report::is_again));
                    reports.iter().try_for_each(|report| self.tell(report))?;
                }
            }
            // It has exited.
            Err(Errno::NOENT | Errno::SRCH) => {}
            Err(error) => {
                let outcome = Outcome::Failed(failure(error));
                self.tell(&Report::file(pid, None, outcome, "", b"", 0))?;
            }
        }
        self.tell(&Report::done(pid))
    }

    /// Looks at a file. Returns what is to be told.
    fn look(&mut self, process: &Process, mapping: Mapping) -> Vec<Report> {
        let (pid, path) = (process.pid, mapping.path.clone());
        let failed =
            |failure| vec![Report::file(pid, None, Outcome::Failed(failure), "", &path, 0)];
        // It is this very mapping's file, whatever its path leads to now.
        let file = match process.file(&format!("map_files/{}", mapping.name())) {
            Ok(file) => file,
            // The process has exited, or no longer has it mapped.
            Err(Errno::NOENT | Errno::SRCH) => return Vec::new(),
            Err(error) => return failed(failure(error)),
        };
        let Ok(stat) = fstat(&file) else { return failed(Failure::Unreadable) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return failed(Failure::Unreadable);
        }
        let identity = Identity::of(&stat);
        if let Some(told) = self.files.known(&identity, pid) {
            return told;
        }
        for (other, found) in self.files.twins(&identity) {
            // If that cannot be found out, it is not probed twice.
            if process.has_breakpoint(&mapping, &found).unwrap_or(true) {
                let told = reports(pid, &found, None, &path);
                self.files.add_same(&identity, other, found, pid, &told);
                return told.into_iter().map(|report| report.again(pid)).collect();
            }
        }
        let found = match self.find(&file, identity.size()) {
            Ok(found) => found,
            Err(failure) => {
                let told = failed(failure);
                self.files.add_without(&identity, &told);
                return told;
            }
        };
        let attached = self.attach(&file, &identity, &found);
        let outcome = attached.as_ref().err().map(|failure| Outcome::Failed(*failure));
        let told = reports(pid, &found, outcome, &path);
        match attached {
            Ok(Some(links)) => {
                let mapped = (mapping.device, mapping.inode);
                self.files.add_probed(&identity, found, links, file, (mapped, pid), &told);
            }
            Ok(None) | Err(_) => self.files.add_without(&identity, &told),
        }
        told
    }

    /// Finds what is in a file of this size: as in a copy of it that was parsed, or by a parser.
    fn find(&mut self, file: &OwnedFd, size: u64) -> Result<Arc<Found>, Failure> {
        if let Some(found) = self.builds.find(size, |bytes| has(file, bytes)) {
            return Ok(found);
        }
        let found = Arc::new(parser::parse(file.as_fd(), size)?);
        self.builds.add(size, &found);
        Ok(found)
    }

    /// Probes what was found in a file, if there is anything to probe.
    fn attach(
        &self,
        file: &OwnedFd,
        identity: &Identity,
        found: &Found,
    ) -> Result<Option<FileLinks>, Failure> {
        if found.places.is_empty() {
            return Ok(None);
        }
        if self.files.probed() >= MAX_PROBED {
            return Err(Failure::Limit);
        }
        let now = fstat(file).map_err(|_| Failure::Unreadable)?;
        if Identity::of(&now) != *identity || !found.has_instructions(|bytes| has(file, bytes)) {
            return Err(Failure::Changed);
        }
        let places: Vec<_> =
            found.places.iter().map(|at| (at.instruction.offset, at.cookie)).collect();
        match self.uprobes.attach(file.as_fd(), &places) {
            Ok(links) => Ok(Some(links)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(Failure::Denied),
            Err(_) => Err(Failure::Kernel),
        }
    }

    fn tell(&self, report: &Report) -> Result<(), Gone> {
        loop {
            match send(self.socket, report.as_bytes(), SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    fn sweep(&mut self) {
        let is_running = |pid: u32| fs::exists(format!("/proc/{pid}")).unwrap_or(true);
        self.files.sweep(is_running, search);
    }
}

/// Whether the file has these bytes.
fn has(file: &OwnedFd, Bytes { offset, bytes }: &Bytes) -> bool {
    let mut present = vec![0; bytes.len()];
    matches!(pread(file, &mut present, *offset), Ok(read) if read == bytes.len())
        && present == *bytes
}

/// What is to be told about a file with these libraries. `failed` is why they are not probed.
fn reports(pid: u32, found: &Found, failed: Option<Outcome>, path: &[u8]) -> Vec<Report> {
    if let Some(refusal) = found.refusal {
        let is_jvm = refusal == Outcome::Refused(Refusal::NoLibrary) && is_jvm(path);
        let refusal = if is_jvm { Outcome::Failed(Failure::Jvm) } else { refusal };
        return vec![Report::file(pid, None, refusal, "", path, 0)];
    }
    let of = |library: &super::messages::FoundLibrary| {
        let outcome = library.refusal.or(failed).unwrap_or(Outcome::Attached);
        let version = &library.version;
        Report::file(pid, Some(library.kind), outcome, version, path, library.places)
    };
    found.libraries.iter().map(of).collect()
}

/// Whether the name of a file suggests that it has a TLS library.
fn is_likely(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let has = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    [&b"ssl"[..], b"tls", b"grpc", b"tcnative"].into_iter().any(has)
}

/// Whether the file is the Java virtual machine, by its name.
fn is_jvm(path: &[u8]) -> bool {
    path.ends_with(b"/libjvm.so")
}

fn failure(error: Errno) -> Failure {
    match error {
        Errno::ACCESS | Errno::PERM => Failure::Denied,
        Errno::MFILE | Errno::NFILE => Failure::Limit,
        _ => Failure::Unreadable,
    }
}

/// The processes that have one of these files mapped.
fn search(files: &HashSet<Mapped>) -> Vec<(u32, Mapped)> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(mappings) = Process::open(pid).and_then(|process| process.mappings()) else {
            continue;
        };
        let mapped = mappings.into_iter().map(|mapping| (mapping.device, mapping.inode));
        found.extend(mapped.filter(|file| files.contains(file)).map(|file| (pid, file)));
    }
    found
}

/// Raises the number of descriptors that this process may have: perf events need two for each place.
pub(super) fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    // Without it fewer files can be probed, which is counted.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_named_after_tls_come_first() {
        for path in
            ["/usr/lib/libssl.so.3", "/venv/grpc/_cython/cygrpc.so", "/tmp/libnetty_tcnative7.so"]
        {
            assert!(is_likely(path.as_bytes()), "{path}");
        }
        for path in ["", "/", "/usr/lib/libc.so.6", "/opt/grpc/python3"] {
            assert!(!is_likely(path.as_bytes()), "{path}");
        }
    }
}

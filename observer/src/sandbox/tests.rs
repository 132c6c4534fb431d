use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;

/// The error of a system call, if it fails. Only for calls that are harmless if they are allowed.
fn refusal(call: i64, arguments: [u64; 5]) -> Option<i32> {
    let [first, second, third, fourth, fifth] = arguments;
    // SAFETY: the pointers among them are of texts that end with NUL, or none.
    let result = unsafe { libc::syscall(call, first, second, third, fourth, fifth) };
    (result < 0).then(|| io::Error::last_os_error().raw_os_error()).flatten()
}

fn text(text: &'static std::ffi::CStr) -> u64 {
    text.as_ptr() as u64
}

const NO_FOLDER: u64 = libc::AT_FDCWD as u64;
const NOBODY: u64 = 0x7fff_ffff;

/// System calls that an attacker would make next. Each has no effect if it is allowed, even for root.
fn forbidden() -> Vec<(&'static str, i64, [u64; 5])> {
    let dev_null = text(c"/dev/null");
    let write_only = libc::O_WRONLY as u64;
    let (read, exec) = (libc::PROT_READ as u64, libc::PROT_EXEC as u64);
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let stream = libc::SOCK_STREAM as u64;
    vec![
        ("execute a program", libc::SYS_execve, [text(c"/nonexistent"), 0, 0, 0, 0]),
        ("likewise", libc::SYS_execveat, [NO_FOLDER, text(c"/nonexistent"), 0, 0, 0]),
        ("look into a process", libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), NOBODY, 0, 0, 0]),
        ("read its memory", libc::SYS_process_vm_readv, [NOBODY, 0, 0, 0, 0]),
        ("open a file for writing", libc::SYS_openat, [NO_FOLDER, dev_null, write_only, 0, 0]),
        (
            "make a file",
            libc::SYS_openat,
            [NO_FOLDER, text(c"/nonexistent/file"), libc::O_CREAT as u64, 0, 0],
        ),
        ("connect to a service", libc::SYS_socket, [libc::AF_UNIX as u64, stream, 0, 0, 0]),
        ("connect to a host", libc::SYS_socket, [libc::AF_INET as u64, stream, 0, 0, 0]),
        (
            "hear of routes",
            libc::SYS_socket,
            [libc::AF_NETLINK as u64, libc::SOCK_RAW as u64, 0, 0, 0],
        ),
        (
            "run code that is not the daemon's",
            libc::SYS_mmap,
            [0, 4096, read | exec, private, u64::MAX],
        ),
        ("end another process", libc::SYS_kill, [u64::from(std::process::id()), 0, 0, 0, 0]),
        (
            "rename a file",
            libc::SYS_renameat2,
            [NO_FOLDER, text(c"/nonexistent"), NO_FOLDER, text(c"/nonexistent2"), 0],
        ),
        ("raise a limit", libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), 1, 0, 0]),
        (
            "become another user",
            libc::SYS_setresuid,
            [u64::from(u32::MAX), u64::from(u32::MAX), u64::from(u32::MAX), 0, 0],
        ),
        ("wait for others' memory", libc::SYS_userfaultfd, [u64::MAX, 0, 0, 0, 0]),
        ("measure", libc::SYS_perf_event_open, [0, 0, 0, u64::MAX, 0]),
        (
            "start a process",
            libc::SYS_clone,
            [libc::CLONE_SETTLS as u64 | libc::CLONE_SIGHAND as u64, 0, 0, 0, 0],
        ),
        ("leave its namespace", libc::SYS_unshare, [0, 0, 0, 0, 0]),
    ]
}

/// Runs a function in a thread that is confined.
fn confined<T: Send + 'static>(needs: Needs, then: impl FnOnce(bool) -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        let landlock = confine_files(&needs).unwrap();
        confine_calls(&needs).unwrap();
        then(landlock)
    });
    thread.join().unwrap()
}

#[test]
fn what_a_daemon_does_not_do_is_refused() {
    // Without confinement, none of these calls fails with EPERM. Otherwise the test would prove nothing.
    let free: Vec<_> =
        forbidden().into_iter().map(|(what, call, a)| (what, refusal(call, a))).collect();
    let (refused, without) = confined(Needs::default(), |_| {
        let refused = forbidden().into_iter().map(|(what, call, a)| (what, refusal(call, a)));
        let without = File::create("/tmp/observer-must-not-be-there");
        (refused.collect::<Vec<_>>(), without.map(drop).map_err(|error| error.raw_os_error()))
    });
    for ((what, free), (_, refused)) in free.into_iter().zip(refused) {
        assert_ne!(free, Some(libc::EPERM), "{what}: without a filter");
        assert_eq!(refused, Some(libc::EPERM), "{what}");
    }
    assert_eq!(without, Err(Some(libc::EPERM)));
}

/// Checks each command. Without root, the kernel itself refuses bpf(2).
#[test]
fn of_bpf_only_reading_and_sweeping_are_left() {
    const TOO_LONG: u64 = 1 << 16;
    let said = |command: u64| refusal(libc::SYS_bpf, [command, 0, TOO_LONG, 0, 0]);
    let free: Vec<_> = (0..40).map(said).collect();
    let confined = confined(Needs::default(), move |_| (0..40).map(said).collect::<Vec<_>>());
    let left = [BPF_MAP_LOOKUP_ELEM, BPF_MAP_GET_NEXT_KEY, BPF_PROG_TEST_RUN];
    for (command, (free, confined)) in free.into_iter().zip(confined).enumerate() {
        if left.contains(&(command as u64)) {
            assert_eq!(confined, free, "command {command}");
        } else {
            assert_eq!(confined, Some(libc::EPERM), "command {command}");
        }
    }
}

#[test]
fn what_a_daemon_does_goes_on() {
    let folder = tempfile::TempDir::new().unwrap();
    let (certificate, elsewhere) = (folder.path().join("a/node.crt"), folder.path().join("b"));
    std::fs::create_dir(folder.path().join("a")).unwrap();
    std::fs::write(&certificate, "old").unwrap();
    std::fs::write(&elsewhere, "secret").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let needs = Needs { reads: vec![certificate.clone()], ..Needs::default() };
    // Renewed by one that is moved to its place.
    let renewed = certificate.with_extension("new");
    std::fs::write(&renewed, "new").unwrap();
    std::fs::rename(&renewed, &certificate).unwrap();
    let (landlock, other) = confined(needs, move |landlock| {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.write_all(b"OK").unwrap();
        assert_eq!(std::fs::read_to_string(&certificate).unwrap(), "new");
        assert!(procfs::process::Process::myself().unwrap().fd_count().unwrap() > 2);
        assert!(std::fs::read("/proc/1/comm").is_ok());
        assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
        let mut closed = Vec::new();
        drop(stream.read_to_end(&mut closed));
        (landlock, std::fs::read(&elsewhere).map_err(|error| error.kind()))
    });
    let mut text = [0; 2];
    io::Read::read_exact(&mut client, &mut text).unwrap();
    assert_eq!(&text, b"OK");
    if landlock {
        assert_eq!(other, Err(ErrorKind::PermissionDenied));
    }
}

#[test]
fn what_only_some_daemons_do_is_theirs() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("lines");
    let socket = [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0];
    let needs = Needs { writes: vec![path.clone()], connects: true, ..Needs::default() };
    let (here, there) = confined(needs, move |_| {
        assert_eq!(refusal(libc::SYS_socket, socket), None);
        let write = |path: &Path| std::fs::write(path, "x").map_err(|error| error.kind());
        (write(&path), write(Path::new("/dev/full")))
    });
    assert_eq!(here, Ok(()));
    assert!(there.is_err());
}

/// The confinement of the thread that has the programs open.
#[test]
fn a_reader_can_neither_call_bpf_nor_give_away_what_it_has() {
    let refused = thread::spawn(|| {
        confine_reader().unwrap();
        assert!(std::fs::read("/proc/thread-self/fdinfo/0").is_ok());
        [libc::SYS_bpf, libc::SYS_sendmsg, libc::SYS_dup, libc::SYS_pidfd_getfd, libc::SYS_clone]
            .map(|call| refusal(call, [BPF_PROG_TEST_RUN, 0, 0, 0, 0]))
    });
    assert_eq!(refused.join().unwrap(), [Some(libc::EPERM); 5]);
}

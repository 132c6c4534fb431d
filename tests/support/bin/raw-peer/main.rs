//! The process of a raw peer: carries out the commands on its stdin ([`support::raw::command`]), and does nothing
//! else with its sockets, so that its system calls are exactly known.

mod aio;
mod calls;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_compat.rs")]
mod compat;
mod ring;
mod sockets;
mod tls;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{self, ExitCode};
use std::thread::JoinHandle;
use std::{env, fs, thread};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::fd::{AsRawFd as _, FromRawFd as _};
use rustix::io::Errno;
use support::raw::command::{Action, Answer, Command, Read, Through, Write};

fn main() -> ExitCode {
    match State::of_arguments().and_then(State::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "raw-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, Default)]
struct State {
    listener: Option<OwnedFd>,
    sockets: Vec<Option<OwnedFd>>,
    /// The thread of [`Action::WriteUnmapped`] or [`Action::Mount`].
    writer: Option<JoinHandle<Result<()>>>,
    /// From the first connection over TLS.
    tls: Option<tls::Tls>,
    /// Ends of TLS connections, by the number of the socket.
    sessions: BTreeMap<usize, tls::Session>,
}

impl State {
    /// Parses the arguments: the sockets' descriptors after [`Action::Exec`]; before them `listener` and the
    /// descriptor of an inherited listener.
    fn of_arguments() -> Result<Self> {
        let mut state = Self::default();
        let mut arguments = env::args().skip(1).peekable();
        let descriptor = |text: String| -> Result<OwnedFd> {
            let fd = text.parse().context("a descriptor")?;
            // SAFETY: the parent passes an open descriptor that nothing else in this process uses.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        };
        if arguments.next_if(|argument| argument == "listener").is_some() {
            state.listener = Some(descriptor(arguments.next().context("a descriptor")?)?);
        }
        for argument in arguments {
            state.sockets.push(Some(descriptor(argument)?));
        }
        Ok(state)
    }

    fn run(mut self) -> Result<()> {
        // Byte for byte: a child after a fork would not have the bytes that are read too early.
        let mut input = io::stdin().lock();
        let mut line = String::new();
        while input.read_line(&mut line)? > 0 {
            let command: Command = serde_json::from_str(&line).context("a command")?;
            let mut payload = vec![0; command.payload];
            input.read_exact(&mut payload)?;
            if matches!(command.action, Action::Thread) {
                drop(input);
                let other = thread::Builder::new().spawn(move || {
                    answer(Ok(Answer::default()))?;
                    self.run()
                });
                return other?.join().map_err(|_| anyhow!("the thread panicked"))?;
            }
            answer(self.act(&command, &payload))?;
            line.clear();
        }
        Ok(())
    }

    fn act(&mut self, command: &Command, payload: &[u8]) -> Result<Answer> {
        if !matches!(command.action, Action::Read { .. })
            && let Some(writer) = self.writer.take()
        {
            writer.join().map_err(|_| anyhow!("the writer panicked"))??;
        }
        match &command.action {
            Action::Listen(address) => {
                let (listener, address) = sockets::listen(address)?;
                self.listener = Some(listener);
                return Ok(Answer { address: Some(address), ..Answer::default() });
            }
            Action::Connect(address) => return Ok(self.add(Some(sockets::connect(address)?))),
            Action::ConnectFrom(port, address) => {
                return Ok(self.add(Some(sockets::connect_from(*port, address)?)));
            }
            Action::Accept => {
                let listener = self.listener.as_ref().context("no listener")?;
                return Ok(self.add(sockets::accept(listener)?));
            }
            Action::Write(Write::Tls(through, size)) => {
                self.session(command)?.write(self.socket(command)?, *through, *size, payload)?;
            }
            Action::Write(how) => calls::write(self.socket(command)?, *how, payload)?,
            Action::WriteUnmapped => {
                self.writer = Some(calls::write_unmapped(self.socket(command)?, payload)?);
            }
            Action::Mount => self.writer = Some(calls::mount(self.socket(command)?)?),
            Action::Read { how: Read::Tls(through, size), length } => {
                self.session(command)?.read(self.socket(command)?, *through, *size, *length)?;
            }
            Action::Read { how, length } => calls::read(self.socket(command)?, *how, *length)?,
            Action::ReadEnd if self.sessions.contains_key(&command.socket) => {
                let read = self.session(command)?.read(self.socket(command)?, Through::Plain, 1, 1);
                ensure!(read.is_err(), "the connection has not ended");
            }
            Action::ReadEnd => match rustix::io::read(self.socket(command)?, &mut [0; 1]) {
                Ok(0) | Err(Errno::CONNRESET) => {}
                other => bail!("the connection has not ended: {other:?}"),
            },
            Action::Secure(how) => {
                let mut tls = match self.tls.take().filter(|_| how.resumed.is_some()) {
                    Some(tls) => tls,
                    None => tls::Tls::new(how)?,
                };
                let session = tls.begin(how, self.socket(command)?, payload)?;
                self.sessions.insert(command.socket, session);
                self.tls = Some(tls);
            }
            Action::Protocol(protocol) => {
                let (session, socket) = (self.session(command)?, self.socket(command)?);
                session.act(socket, *protocol)?;
                session.write(socket, Through::Plain, payload.len().max(1), payload)?;
            }
            Action::Close => {
                let socket = self.take(command)?;
                if let Some(session) = self.sessions.remove(&command.socket) {
                    session.end(&socket);
                    if let Some(tls) = &mut self.tls {
                        tls.remember(&session);
                    }
                }
            }
            Action::Reset => {
                let socket = self.take(command)?;
                rustix::net::sockopt::set_socket_linger(&socket, Some(std::time::Duration::ZERO))?;
            }
            Action::Shutdown => {
                rustix::net::shutdown(self.socket(command)?, rustix::net::Shutdown::Write)?;
            }
            Action::Fork => {
                if let Some(child) = calls::fork()? {
                    // The child has the standard input and output to itself.
                    calls::wait_for(child)?;
                    process::exit(0);
                }
            }
            Action::Exec(name) => return Err(self.exec(name)),
            Action::Rename(name) => {
                rustix::thread::set_name(&CString::new(name.as_str())?)?;
            }
            Action::Arguments(length) => calls::set_arguments(*length)?,
            Action::RenameMain(name) => fs::write("/proc/self/comm", name)?,
            Action::Thread => {}
        }
        Ok(Answer::default())
    }

    fn add(&mut self, socket: Option<OwnedFd>) -> Answer {
        let number = socket.is_some().then_some(self.sockets.len());
        self.sockets.extend(socket.map(Some));
        Answer { socket: number, ..Answer::default() }
    }

    fn socket(&self, command: &Command) -> Result<&OwnedFd> {
        let socket = self.sockets.get(command.socket).and_then(Option::as_ref);
        socket.context("no such socket")
    }

    fn session(&self, command: &Command) -> Result<&tls::Session> {
        self.sessions.get(&command.socket).context("no TLS on this socket")
    }

    fn take(&mut self, command: &Command) -> Result<OwnedFd> {
        let socket = self.sockets.get_mut(command.socket).and_then(Option::take);
        socket.context("no such socket")
    }

    /// Runs another program; returns only if that fails. The new program does not answer this command.
    fn exec(&self, name: &str) -> anyhow::Error {
        let mut program = process::Command::new(name);
        for fd in self.sockets.iter().flatten() {
            if let Err(error) = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()) {
                return error.into();
            }
            program.arg(fd.as_raw_fd().to_string());
        }
        if let Err(error) = answer(Ok(Answer::default())) {
            return error;
        }
        program.exec().into()
    }
}

fn answer(result: Result<Answer>) -> Result<()> {
    let mut answer = match result {
        Ok(answer) => answer,
        Err(error) => Answer { error: Some(format!("{error:#}")), ..Answer::default() },
    };
    answer.pid = process::id();
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()?;
    ensure!(answer.error.is_none(), "{}", answer.error.unwrap_or_default());
    Ok(())
}

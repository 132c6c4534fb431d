//! A terminal whose screen and keyboard are the tests.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::OFlags;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{LIMIT, html, wait_for};
use crate::process::Process;

/// A program in a terminal.
pub struct Terminal {
    process: Process,
    keyboard: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Starts a program in a terminal of this many columns and lines.
    pub fn start(command: &mut Command, columns: u16, lines: u16) -> Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("open a terminal")?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        tcsetwinsize(&ours, size(columns, lines))?;
        let name = ptsname(&ours, Vec::new())?;
        let path = name.to_str().context("a terminal's name")?.to_owned();
        let theirs = || -> Result<Stdio> {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits().cast_signed());
            Ok(options.open(&path).with_context(|| format!("open {path}"))?.into())
        };
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let process = Process::spawn(command.stdin(theirs()?).stdout(theirs()?).stderr(theirs()?))?;
        let keyboard = File::from(ours);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(lines, columns, 0)));
        let (mut output, written) = (keyboard.try_clone()?, Arc::clone(&screen));
        // Reading fails once the program has ended.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let bytes = buffer.get(..length).unwrap_or_default();
                written.lock().unwrap_or_else(PoisonError::into_inner).process(bytes);
            }
        });
        Ok(Self { process, keyboard, screen })
    }

    /// The lines on the screen.
    pub fn lines(&self) -> Vec<String> {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, columns) = screen.screen().size();
        screen.screen().rows(0, columns).collect()
    }

    /// The screen as an HTML page, in its colours.
    pub fn html(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        html::page(screen.screen())
    }

    /// Changes its size, and notifies the program.
    pub fn resize(&self, columns: u16, lines: u16) -> Result<()> {
        tcsetwinsize(&self.keyboard, size(columns, lines))?;
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.screen_mut().set_size(lines, columns);
        drop(screen);
        // It is not the terminal's session leader, so the kernel does not signal it.
        self.process.signal(Signal::WINCH)
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("press a key")
    }

    /// Waits until `is` accepts the screen's lines, for 20 s at most; then its last error is returned, with the
    /// screen.
    pub fn wait_until(&self, is: impl Fn(&[String]) -> Result<()>) -> Result<()> {
        wait_for(|| {
            let lines = self.lines();
            Ok(is(&lines).with_context(|| format!("on the screen:\n{}", lines.join("\n"))))
        })
    }

    /// Waits until a line on the screen contains this text.
    pub fn shows(&self, text: &str) -> Result<()> {
        self.wait_until(|lines| {
            ensure!(lines.iter().any(|line| line.contains(text)), "{text:?} is not shown");
            Ok(())
        })
    }

    /// Ends it by a key or, without one, by SIGTERM; an error unless it ends with success and restores the screen.
    pub fn end(mut self, key: Option<&str>) -> Result<()> {
        match key {
            Some(key) => self.press(key)?,
            None => self.process.signal(Signal::TERM)?,
        }
        let status = self.process.wait(LIMIT)?;
        ensure!(status.success(), "it ended with {status}: {}", self.lines().join("\n"));
        self.wait_until(|lines| {
            let is_empty = lines.iter().all(|line| line.trim().is_empty());
            ensure!(is_empty, "it does not restore the screen");
            Ok(())
        })
    }
}

fn size(columns: u16, lines: u16) -> Winsize {
    Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

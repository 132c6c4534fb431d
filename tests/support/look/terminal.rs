//! A terminal of which the tests are the screen and the keyboard.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
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
    /// Starts it, in a terminal of this many columns and lines.
    pub fn start(command: &mut Command, columns: u16, lines: u16) -> Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("open a terminal")?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size)?;
        let name = ptsname(&ours, Vec::new())?;
        let path = name.to_str().context("a terminal's name")?.to_owned();
        let theirs = || -> Result<Stdio> {
            let mut options = OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::custom_flags(
                options.read(true).write(true),
                OFlags::NOCTTY.bits().cast_signed(),
            );
            Ok(options.open(&path).with_context(|| format!("open {path}"))?.into())
        };
        let child = command
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(theirs()?)
            .stdout(theirs()?)
            .stderr(theirs()?)
            .spawn()
            .context("start a program in a terminal")?;
        let keyboard = File::from(ours);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(lines, columns, 0)));
        let (mut output, written) = (keyboard.try_clone()?, Arc::clone(&screen));
        // It ends with an error when the program has.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let bytes = buffer.get(..length).unwrap_or_default();
                written.lock().unwrap_or_else(PoisonError::into_inner).process(bytes);
            }
        });
        Ok(Self { process: Process::new(child), keyboard, screen })
    }

    /// What is on the screen, line by line.
    pub fn lines(&self) -> Vec<String> {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, columns) = screen.screen().size();
        screen.screen().rows(0, columns).collect()
    }

    /// The screen as a page, in its colours: for a browser to make a picture of.
    pub fn html(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        html::page(screen.screen())
    }

    /// Makes it another size, of which the program is told.
    pub fn resize(&self, columns: u16, lines: u16) -> Result<()> {
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keyboard, size)?;
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.screen_mut().set_size(lines, columns);
        drop(screen);
        // It is not the terminal's session leader, so the kernel does not tell it.
        self.process.signal(Signal::WINCH)
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("press a key")
    }

    /// Waits until the screen is as it is to be; what it says otherwise is the error.
    pub fn wait_until(&self, is: impl Fn(&[String]) -> Result<(), String>) -> Result<()> {
        wait_for(|| {
            let lines = self.lines();
            Ok(is(&lines).map_err(|error| format!("{error}; on the screen:\n{}", lines.join("\n"))))
        })
    }

    /// Waits until this is on the screen.
    pub fn shows(&self, text: &str) -> Result<()> {
        self.wait_until(|lines| {
            let there = lines.iter().any(|line| line.contains(text));
            if there { Ok(()) } else { Err(format!("{text:?} is not shown")) }
        })
    }

    /// Ends it by a key or, without one, by SIGTERM; the screen that was there before is back.
    pub fn end(mut self, key: Option<&str>) -> Result<()> {
        match key {
            Some(key) => self.press(key)?,
            None => self.process.signal(Signal::TERM)?,
        }
        let status = self.process.wait(LIMIT)?;
        ensure!(status.success(), "it ended with {status}: {}", self.lines().join("\n"));
        self.wait_until(|lines| {
            let empty = lines.iter().all(|line| line.trim().is_empty());
            if empty { Ok(()) } else { Err("it leaves something behind".into()) }
        })
    }
}

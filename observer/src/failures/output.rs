//! Lines to stdout, by a thread of their own: whoever reads them may be slow, or stop.

use std::{
    io::{self, Write},
    sync::mpsc::{self, Receiver},
    thread,
};

use anyhow::{Context as _, Result};
use tracing::warn;

use super::Take;

/// Lines that wait to be written.
const WAITING: usize = 1024;

/// Where lines go.
#[derive(Clone, Copy, Debug)]
pub struct Output;

impl Output {
    /// Starts the thread that writes to stdout. It ends with what is returned.
    pub fn stdout() -> Result<Take> {
        let (lines, waiting) = mpsc::sync_channel(WAITING);
        thread::Builder::new()
            .name("failures".into())
            .spawn(move || write(&waiting, io::stdout()))
            .context("cannot start the thread that writes failed calls")?;
        Ok(Box::new(move |line| lines.try_send(line).is_ok()))
    }
}

fn write(lines: &Receiver<String>, mut output: impl Write) {
    for mut line in lines {
        line.push('\n');
        if let Err(error) = output.write_all(line.as_bytes()).and_then(|()| output.flush()) {
            warn!("failed calls are told no more, stdout cannot be written: {error}");
            return;
        }
    }
}

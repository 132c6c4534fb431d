//! Writes lines to stdout with a thread of its own: the reader may be slow or stop.

use std::{
    io::{self, ErrorKind, Write},
    sync::mpsc::{self, Receiver},
    thread::{self, sleep},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::stdio::stdout;
use tracing::{info, warn};

use super::Take;

/// Maximum number of lines that wait to be written.
const WAITING: usize = 1024;

/// The time between attempts to write while stdout fails: the disk is full, or the reader is gone.
const PAUSE: Duration = Duration::from_millis(200);

/// Starts the thread that writes to stdout. It ends when the returned function is dropped.
pub fn to_stdout() -> Result<Take> {
    let (lines, waiting) = mpsc::sync_channel(WAITING);
    thread::Builder::new()
        .name("failures".into())
        .spawn(move || write(&waiting, Stdout, PAUSE))
        .context("cannot start the thread that writes failed calls")?;
    Ok(Box::new(move |line| lines.try_send(line).is_ok()))
}

/// The process's stdout without a buffer: it is known to the byte what was written.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes each line whole, and retries until that succeeds. Meanwhile lines wait; the caller counts those without room.
fn write(lines: &Receiver<String>, mut output: impl Write, pause: Duration) {
    let mut fails = false;
    for mut line in lines {
        line.push('\n');
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let error = match output.write(rest) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            if !fails {
                fails = true;
                warn!(
                    "cannot write to stdout: {error}. At most {WAITING} lines of --log-errors wait \
                     until it works again; further ones are counted in \
                     observer_log_errors_dropped_total"
                );
            }
            sleep(pause);
        }
        if fails {
            fails = false;
            info!("stdout works again: lines of --log-errors are written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with `room` bytes, and unlimited room after `refusals` failed writes.
    struct Disk {
        text: Vec<u8>,
        room: usize,
        refusals: usize,
    }

    impl Write for &mut Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                self.refusals -= 1;
                self.room = if self.refusals == 0 { usize::MAX } else { 0 };
                return Err(ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(self.room);
            self.text.extend_from_slice(&bytes[..taken]);
            self.room -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_is_full_for_a_while_costs_no_line_that_could_wait() {
        for room in 0..12 {
            let mut disk = Disk { text: Vec::new(), room, refusals: 3 };
            let (lines, waiting) = mpsc::sync_channel(4);
            for line in ["one", "two", "three"] {
                lines.try_send(line.to_owned()).unwrap();
            }
            drop(lines);
            write(&waiting, &mut disk, Duration::ZERO);
            assert_eq!(
                String::from_utf8(disk.text).unwrap(),
                "one\ntwo\nthree\n",
                "room for {room}"
            );
        }
    }
}

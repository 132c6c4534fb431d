//! Whether a process reads at once what arrives on a connection.

use crate::{
    call::Direction,
    record::{Bytes, Waited},
};

/// How long bytes may have waited without the kernel showing it, in microseconds: two ticks of its clock, at the slowest
/// rate (100 a second).
const UNNOTICED_US: u32 = 20_000;

/// After this many reads in a row that were not late, the process is believed to read at once.
const ENOUGH: u32 = 64;

/// How many reads in a row were not late, as far as the kernel notices.
///
/// A thread that waits for bytes reads them at once. One that sleeps in a handler does not, and looks the same
/// in the kernel if it wakes up just after the bytes came. But then it has slept too long at other times.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prompt(u32);

impl Prompt {
    /// Counts a read. `late`: its bytes had certainly waited at the socket.
    pub(super) fn read(&mut self, late: bool) {
        self.0 = if late { 0 } else { self.0.saturating_add(1) };
    }

    /// How long these bytes may have waited.
    pub(super) fn waited(self, bytes: &Bytes<'_>) -> Waited {
        let Waited { least_us, most_us } = bytes.waited;
        let is_sure = self.0 >= ENOUGH || bytes.direction == Direction::Sent;
        Waited { least_us, most_us: if is_sure { most_us } else { most_us.max(UNNOTICED_US) } }
    }
}

//! Which process: an id for each, and its name. Who it is, is for others to find out.

use std::fmt;

/// A process by one of its names, for as long as the daemon runs: a pid that is used again is another
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u32);

impl ProcessId {
    /// More processes than the bound; all that came after share this one.
    pub const OTHER: Self = Self(0);
}

/// A process's name as the kernel keeps it: at most 15 bytes, any bytes, then NULs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Comm([u8; 16]);

impl Comm {
    /// Of [`ProcessId::OTHER`].
    pub const OTHER: Self = Self(*b"other\0\0\0\0\0\0\0\0\0\0\0");

    /// Nobody has said which.
    pub const NONE: Self = Self([0; 16]);

    /// Takes what the kernel has in `task_struct.comm`; what follows the first NUL is not kept,
    /// because the kernel does not clear it, so that equal names are equal.
    pub fn new(task_comm: [u8; 16]) -> Self {
        Self::truncated(&task_comm)
    }

    /// Takes a name of any length; what is beyond the kernel's own bound is not kept.
    pub fn truncated(name: &[u8]) -> Self {
        let mut comm = [0; 16];
        let name = name.iter().take_while(|&&byte| byte != 0);
        for (to, from) in comm.iter_mut().zip(name) {
            *to = *from;
        }
        Self(comm)
    }

    /// The name without the NULs.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

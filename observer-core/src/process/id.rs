//! Ids and names of processes.

use std::fmt;

/// The id of a process under one of its names. A process that uses a pid again is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u32);

impl ProcessId {
    /// The id of all processes beyond the bound of the table.
    pub const OTHER: Self = Self(0);
}

/// A process's name as the kernel keeps it (`task_struct.comm`): at most 15 bytes, any bytes, then NULs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Comm([u8; 16]);

impl Comm {
    /// The name of [`ProcessId::OTHER`].
    pub const OTHER: Self = Self(*b"other\0\0\0\0\0\0\0\0\0\0\0");

    /// The empty name, of processes whose name is not known yet.
    pub const NONE: Self = Self([0; 16]);

    /// Takes a `task_struct.comm` up to its first NUL: the kernel does not clear the rest, and equal names have to be
    /// equal.
    pub fn new(task_comm: [u8; 16]) -> Self {
        Self::truncated(&task_comm)
    }

    /// Takes a name of any length, up to its first NUL, and cuts it to 16 bytes.
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

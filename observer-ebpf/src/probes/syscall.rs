//! The system call that a task is in: its number and arguments show the buffers of a transfer.

#[cfg(bpf_target_arch = "x86_64")]
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::{bindings::pt_regs, helpers::generated::bpf_task_pt_regs};
use observer_common::{
    layout::Field,
    record::direction::{RECEIVED, SENT},
};

use crate::{
    buffers::{Iovecs, Shape},
    kernel::{current_task, load},
};

/// A system call and its arguments.
pub struct Syscall {
    number: u32,
    arguments: Arguments,
    /// Not 0 for one of a 32-bit process.
    #[cfg(bpf_target_arch = "x86_64")]
    compat: u32,
}

/// The meaning of a system call that moves bytes of a stream.
#[derive(Clone, Copy)]
pub struct Meaning {
    pub fd: u32,
    /// One of `record::direction`.
    pub sent: u8,
    pub shape: Shape,
    /// Its flags; 0 if it has no such argument.
    pub flags: u32,
    /// For [`Shape::Messages`]: the number of messages.
    pub messages: u64,
    /// For [`Shape::Messages`]: it may end between two messages without an error.
    pub has_timeout: bool,
}

impl Syscall {
    /// The system call with this number that the current task is leaving. At its exit, the argument registers are as
    /// they were at its entry.
    #[inline(always)]
    pub fn left(number: u32) -> Self {
        Self {
            number,
            arguments: Arguments::native(registers()),
            #[cfg(bpf_target_arch = "x86_64")]
            compat: 0,
        }
    }

    /// The file descriptor argument of a 64-bit process.
    #[inline(always)]
    pub const fn fd(&self) -> u32 {
        let [fd, ..] = self.arguments.0;
        fd as u32
    }

    /// The system call that the current task is in. `None` for a kernel thread, a worker of io_uring, and work for
    /// io_uring that runs at the end of another system call.
    #[inline(always)]
    pub fn current() -> Option<Self> {
        const PF_IO_WORKER: u32 = 0x10;
        const PF_USER_WORKER: u32 = 0x4000;
        const PF_KTHREAD: u32 = 0x20_0000;
        let flags: u32 = load(current_task().cast(), Field::TaskFlags);
        if flags & (PF_KTHREAD | PF_IO_WORKER | PF_USER_WORKER) != 0 {
            return None;
        }
        Self::under_way(registers())
    }

    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn under_way(registers: *const pt_regs) -> Option<Self> {
        // `TS_COMPAT` of `thread_info.status` (asm/thread_info.h).
        const COMPAT: u32 = 2;
        // The return value until there is one. Work that runs for the task after the system call finds another value
        // (entry_SYSCALL_64, do_int80_emulation).
        const ENOSYS: i64 = 38;
        // SAFETY: the verifier knows the pointer's type.
        let (number, value) = unsafe { ((*registers).orig_rax as u32, (*registers).rax as i64) };
        if value as i32 != -ENOSYS as i32 {
            return None;
        }
        let compat = load::<u32>(current_task().cast(), Field::TaskAbi) & COMPAT;
        let arguments =
            if compat != 0 { Arguments::compat(registers) } else { Arguments::native(registers) };
        Some(Self { number, arguments, compat })
    }

    #[cfg(bpf_target_arch = "aarch64")]
    #[inline(always)]
    fn under_way(registers: *const pt_regs) -> Option<Self> {
        // `TIF_32BIT` of `thread_info.flags` (asm/thread_info.h).
        const COMPAT: u32 = 1 << 22;
        if load::<u32>(current_task().cast(), Field::TaskAbi) & COMPAT != 0 {
            return None;
        }
        let arguments = Arguments::native(registers);
        // The register of the first argument is also that of the return value, which work that runs for the task after
        // the system call finds.
        // SAFETY: the verifier knows the pointer's type.
        if unsafe { (*registers).regs[0] } != arguments.0[0] {
            return None;
        }
        // `syscallno`, after `orig_x0`.
        // SAFETY: likewise.
        let number = unsafe { *registers.add(1).cast::<u32>().add(2) };
        Some(Self { number, arguments })
    }

    /// Its meaning; `None` for other system calls.
    #[inline(always)]
    pub fn meaning(&self) -> Option<Meaning> {
        #[cfg(bpf_target_arch = "x86_64")]
        if self.compat != 0 {
            return Meaning::compat(self.number, &self.arguments);
        }
        let (sent, kind) = by_number(self.number)?;
        Some(Meaning::new(sent, kind, &self.arguments, Iovecs::Native))
    }

    /// Whether it is one on several messages.
    #[inline(always)]
    pub fn is_on_messages(&self) -> bool {
        matches!(self.meaning(), Some(Meaning { shape: Shape::Messages { .. }, .. }))
    }
}

impl Meaning {
    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn compat(number: u32, arguments: &Arguments) -> Option<Self> {
        const SOCKETCALL: u32 = 102;
        if number == SOCKETCALL {
            return Self::socketcall(arguments);
        }
        let (sent, kind) = by_compat_number(number)?;
        Some(Self::new(sent, kind, arguments, Iovecs::Compat))
    }

    /// `socketcall(call, args)`, with which 32-bit programs make socket calls.
    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn socketcall(arguments: &Arguments) -> Option<Self> {
        let [call, pointer, ..] = arguments.0;
        let (sent, kind) = by_socketcall(call as u32)?;
        // SAFETY: the helper checks the address.
        let given = unsafe { bpf_probe_read_user(pointer as *const [u32; 4]) }.ok()?;
        // The fifth argument, a timeout, is not worth another read: there may be one.
        let [fd, second, third, fourth] = given.map(u64::from);
        let arguments = Arguments([fd, second, third, fourth, 1]);
        Some(Self::new(sent, kind, &arguments, Iovecs::Compat))
    }

    #[inline(always)]
    fn new(sent: u8, kind: Kind, arguments: &Arguments, iovecs: Iovecs) -> Self {
        let [fd, second, third, fourth, fifth] = arguments.0;
        let (shape, flags) = match kind {
            Kind::Read => (Shape::Flat { base: second }, 0),
            Kind::Buffer => (Shape::Flat { base: second }, fourth),
            Kind::Vector => (Shape::Vector { iov: second, iovecs }, 0),
            Kind::Message => (Shape::Message { header: second, iovecs }, third),
            Kind::Messages => (Shape::Messages { headers: second, iovecs }, fourth),
        };
        let has_timeout = sent == RECEIVED && fifth != 0;
        Self { fd: fd as u32, sent, shape, flags: flags as u32, messages: third, has_timeout }
    }
}

/// Direction and arguments of a system call, by its number (asm/unistd_64.h).
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
const fn by_number(number: u32) -> Option<(u8, Kind)> {
    Some(match number {
        0 => (RECEIVED, Kind::Read),          // read
        1 => (SENT, Kind::Read),              // write
        19 | 327 => (RECEIVED, Kind::Vector), // readv, preadv2
        20 | 328 => (SENT, Kind::Vector),     // writev, pwritev2
        45 => (RECEIVED, Kind::Buffer),       // recvfrom
        44 => (SENT, Kind::Buffer),           // sendto
        47 => (RECEIVED, Kind::Message),      // recvmsg
        46 => (SENT, Kind::Message),          // sendmsg
        299 => (RECEIVED, Kind::Messages),    // recvmmsg
        307 => (SENT, Kind::Messages),        // sendmmsg
        _ => return None,
    })
}

/// Direction and arguments of a system call, by its number (asm-generic/unistd.h).
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
const fn by_number(number: u32) -> Option<(u8, Kind)> {
    Some(match number {
        63 => (RECEIVED, Kind::Read),         // read
        64 => (SENT, Kind::Read),             // write
        65 | 286 => (RECEIVED, Kind::Vector), // readv, preadv2
        66 | 287 => (SENT, Kind::Vector),     // writev, pwritev2
        207 => (RECEIVED, Kind::Buffer),      // recvfrom
        206 => (SENT, Kind::Buffer),          // sendto
        212 => (RECEIVED, Kind::Message),     // recvmsg
        211 => (SENT, Kind::Message),         // sendmsg
        243 => (RECEIVED, Kind::Messages),    // recvmmsg
        269 => (SENT, Kind::Messages),        // sendmmsg
        _ => return None,
    })
}

/// Direction and arguments of a system call of a 32-bit process on x86-64, by its number (asm/unistd_32.h).
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
const fn by_compat_number(number: u32) -> Option<(u8, Kind)> {
    Some(match number {
        3 => (RECEIVED, Kind::Read),             // read
        4 => (SENT, Kind::Read),                 // write
        145 | 378 => (RECEIVED, Kind::Vector),   // readv, preadv2
        146 | 379 => (SENT, Kind::Vector),       // writev, pwritev2
        371 => (RECEIVED, Kind::Buffer),         // recvfrom
        369 => (SENT, Kind::Buffer),             // sendto
        372 => (RECEIVED, Kind::Message),        // recvmsg
        370 => (SENT, Kind::Message),            // sendmsg
        337 | 417 => (RECEIVED, Kind::Messages), // recvmmsg, recvmmsg_time64
        345 => (SENT, Kind::Messages),           // sendmmsg
        _ => return None,
    })
}

/// Direction and arguments of a `socketcall`, by its first argument (linux/net.h).
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
const fn by_socketcall(number: u32) -> Option<(u8, Kind)> {
    Some(match number {
        10 | 12 => (RECEIVED, Kind::Buffer), // recv, recvfrom
        9 | 11 => (SENT, Kind::Buffer),      // send, sendto
        17 => (RECEIVED, Kind::Message),     // recvmsg
        16 => (SENT, Kind::Message),         // sendmsg
        19 => (RECEIVED, Kind::Messages),    // recvmmsg
        20 => (SENT, Kind::Messages),        // sendmmsg
        _ => return None,
    })
}

/// Kinds of system calls, by their arguments.
#[derive(Clone, Copy)]
enum Kind {
    /// `(fd, buf, count)`
    Read,
    /// `(fd, buf, len, flags, …)`
    Buffer,
    /// `(fd, iov, iovcnt, …)`
    Vector,
    /// `(fd, msg, flags)`
    Message,
    /// `(fd, msgvec, vlen, flags, timeout)`
    Messages,
}

/// The first five arguments of a system call.
struct Arguments([u64; 5]);

impl Arguments {
    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn native(registers: *const pt_regs) -> Self {
        // SAFETY: the verifier knows the pointer's type.
        unsafe {
            let registers = &*registers;
            Self([registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8])
        }
    }

    /// For 32-bit system calls, which leave the registers' upper halves as they were.
    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn compat(registers: *const pt_regs) -> Self {
        // SAFETY: the verifier knows the pointer's type.
        let all = unsafe {
            let registers = &*registers;
            [registers.rbx, registers.rcx, registers.rdx, registers.rsi, registers.rdi]
        };
        Self(all.map(|register| register & 0xffff_ffff))
    }

    #[cfg(bpf_target_arch = "aarch64")]
    #[inline(always)]
    fn native(registers: *const pt_regs) -> Self {
        // The first register holds the return value once there is one; `orig_x0`, right after
        // `user_pt_regs` in `struct pt_regs`, holds the first argument.
        // SAFETY: the verifier knows the pointer's type.
        unsafe {
            let first = *registers.add(1).cast::<u64>();
            let registers = &*registers;
            let [_, second, third, fourth, fifth, ..] = registers.regs;
            Self([first, second, third, fourth, fifth])
        }
    }
}

#[inline(always)]
fn registers() -> *const pt_regs {
    // SAFETY: every task has registers; those of a kernel thread hold no system call.
    (unsafe { bpf_task_pt_regs(current_task().cast_mut()) }) as *const pt_regs
}

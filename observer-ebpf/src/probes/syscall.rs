//! The system call that a task is in: its number and arguments say where the bytes are.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{bpf_probe_read_user, generated::bpf_task_pt_regs},
};
use observer_common::{layout::Field, record::direction};

use crate::{
    buffers::{Iovecs, Shape},
    kernel::{current_task, load},
};

/// Numbers of the calls (asm/unistd_64.h).
#[cfg(bpf_target_arch = "x86_64")]
mod number {
    pub(super) const READ: u32 = 0;
    pub(super) const WRITE: u32 = 1;
    pub(super) const READV: u32 = 19;
    pub(super) const WRITEV: u32 = 20;
    pub(super) const SENDTO: u32 = 44;
    pub(super) const RECVFROM: u32 = 45;
    pub(super) const SENDMSG: u32 = 46;
    pub(super) const RECVMSG: u32 = 47;
    pub(super) const RECVMMSG: u32 = 299;
    pub(super) const SENDMMSG: u32 = 307;
    pub(super) const PREADV2: u32 = 327;
    pub(super) const PWRITEV2: u32 = 328;
}

/// Numbers of the calls (asm-generic/unistd.h).
#[cfg(bpf_target_arch = "aarch64")]
mod number {
    pub(super) const READ: u32 = 63;
    pub(super) const WRITE: u32 = 64;
    pub(super) const READV: u32 = 65;
    pub(super) const WRITEV: u32 = 66;
    pub(super) const SENDTO: u32 = 206;
    pub(super) const RECVFROM: u32 = 207;
    pub(super) const SENDMSG: u32 = 211;
    pub(super) const RECVMSG: u32 = 212;
    pub(super) const RECVMMSG: u32 = 243;
    pub(super) const SENDMMSG: u32 = 269;
    pub(super) const PREADV2: u32 = 286;
    pub(super) const PWRITEV2: u32 = 287;
}

/// Numbers of the calls of 32-bit processes on x86-64 (asm/unistd_32.h).
#[cfg(bpf_target_arch = "x86_64")]
mod compat_number {
    pub(super) const READ: u32 = 3;
    pub(super) const WRITE: u32 = 4;
    pub(super) const SOCKETCALL: u32 = 102;
    pub(super) const READV: u32 = 145;
    pub(super) const WRITEV: u32 = 146;
    pub(super) const RECVMMSG: u32 = 337;
    pub(super) const SENDMMSG: u32 = 345;
    pub(super) const SENDTO: u32 = 369;
    pub(super) const SENDMSG: u32 = 370;
    pub(super) const RECVFROM: u32 = 371;
    pub(super) const RECVMSG: u32 = 372;
    pub(super) const PREADV2: u32 = 378;
    pub(super) const PWRITEV2: u32 = 379;
    pub(super) const RECVMMSG_TIME64: u32 = 417;
}

/// What `socketcall` is asked for (linux/net.h).
#[cfg(bpf_target_arch = "x86_64")]
mod socketcall {
    pub(super) const SEND: u32 = 9;
    pub(super) const RECV: u32 = 10;
    pub(super) const SENDTO: u32 = 11;
    pub(super) const RECVFROM: u32 = 12;
    pub(super) const SENDMSG: u32 = 16;
    pub(super) const RECVMSG: u32 = 17;
    pub(super) const RECVMMSG: u32 = 19;
    pub(super) const SENDMMSG: u32 = 20;
}

/// A system call that moves bytes of a stream.
#[derive(Clone, Copy)]
pub struct Syscall {
    pub fd: u32,
    /// One of `record::direction`.
    pub sent: u8,
    pub shape: Shape,
    /// The flags that it was given; 0 if it takes none.
    pub flags: u32,
    /// For [`Shape::Messages`]: how many there are.
    pub messages: u64,
    /// For [`Shape::Messages`]: it may end between two of them for another reason than an error.
    pub has_timeout: bool,
}

impl Syscall {
    /// The call with this number that the current task is leaving. At its exit the argument registers
    /// are as they were at its entry.
    #[inline(always)]
    pub fn left(number: u32) -> Option<Self> {
        Self::native(number, &Arguments::native(registers()))
    }

    /// The call that the current task is in. `None` if it is in none that is known here: a thread of the
    /// kernel, a worker of io_uring, and what is run for io_uring on the way back from another call.
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
        // What a call's return value is until it has one: work that is done for the task after the call
        // finds another (entry_SYSCALL_64, do_int80_emulation).
        const ENOSYS: i64 = 38;
        // SAFETY: the verifier knows the pointer's type.
        let (number, value) = unsafe { ((*registers).orig_rax as u32, (*registers).rax as i64) };
        if value as i32 != -ENOSYS as i32 {
            return None;
        }
        if load::<u32>(current_task().cast(), Field::TaskAbi) & COMPAT != 0 {
            return Self::compat(number, &Arguments::compat(registers));
        }
        Self::native(number, &Arguments::native(registers))
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
        // The register of the first argument is that of the return value: work that is done for the
        // task after the call finds that.
        // SAFETY: the verifier knows the pointer's type.
        if unsafe { (*registers).regs[0] } != arguments.0[0] {
            return None;
        }
        // `syscallno`, behind `orig_x0`.
        // SAFETY: likewise.
        let number = unsafe { *registers.add(1).cast::<u32>().add(2) };
        Self::native(number, &arguments)
    }

    #[inline(always)]
    fn native(number: u32, arguments: &Arguments) -> Option<Self> {
        let (sent, kind) = match number {
            number::READ => (direction::RECEIVED, Kind::Read),
            number::WRITE => (direction::SENT, Kind::Read),
            number::READV | number::PREADV2 => (direction::RECEIVED, Kind::Vector),
            number::WRITEV | number::PWRITEV2 => (direction::SENT, Kind::Vector),
            number::RECVFROM => (direction::RECEIVED, Kind::Buffer),
            number::SENDTO => (direction::SENT, Kind::Buffer),
            number::RECVMSG => (direction::RECEIVED, Kind::Message),
            number::SENDMSG => (direction::SENT, Kind::Message),
            number::RECVMMSG => (direction::RECEIVED, Kind::Messages),
            number::SENDMMSG => (direction::SENT, Kind::Messages),
            _ => return None,
        };
        Some(Self::new(sent, kind, arguments, Iovecs::Native))
    }

    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn compat(number: u32, arguments: &Arguments) -> Option<Self> {
        use compat_number as number;
        let (sent, kind) = match number {
            number::READ => (direction::RECEIVED, Kind::Read),
            number::WRITE => (direction::SENT, Kind::Read),
            number::READV | number::PREADV2 => (direction::RECEIVED, Kind::Vector),
            number::WRITEV | number::PWRITEV2 => (direction::SENT, Kind::Vector),
            number::RECVFROM => (direction::RECEIVED, Kind::Buffer),
            number::SENDTO => (direction::SENT, Kind::Buffer),
            number::RECVMSG => (direction::RECEIVED, Kind::Message),
            number::SENDMSG => (direction::SENT, Kind::Message),
            number::RECVMMSG | number::RECVMMSG_TIME64 => (direction::RECEIVED, Kind::Messages),
            number::SENDMMSG => (direction::SENT, Kind::Messages),
            number::SOCKETCALL => return Self::socketcall(arguments),
            _ => return None,
        };
        Some(Self::new(sent, kind, arguments, Iovecs::Compat))
    }

    /// `socketcall(call, args)`, where 32-bit programs have the socket calls from.
    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn socketcall(arguments: &Arguments) -> Option<Self> {
        let [call, pointer, ..] = arguments.0;
        let (sent, kind) = match call as u32 {
            socketcall::RECV | socketcall::RECVFROM => (direction::RECEIVED, Kind::Buffer),
            socketcall::SEND | socketcall::SENDTO => (direction::SENT, Kind::Buffer),
            socketcall::RECVMSG => (direction::RECEIVED, Kind::Message),
            socketcall::SENDMSG => (direction::SENT, Kind::Message),
            socketcall::RECVMMSG => (direction::RECEIVED, Kind::Messages),
            socketcall::SENDMMSG => (direction::SENT, Kind::Messages),
            _ => return None,
        };
        // SAFETY: the helper checks the address.
        let given = unsafe { bpf_probe_read_user(pointer as *const [u32; 4]) }.ok()?;
        // The fifth, a timeout, is not worth another read: it may be there.
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
        let has_timeout = sent == direction::RECEIVED && fifth != 0;
        Self { fd: fd as u32, sent, shape, flags: flags as u32, messages: third, has_timeout }
    }
}

/// What the arguments of a call are.
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

    /// Of the 32-bit ways into the kernel, which leave the registers' upper halves as they were.
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
    // SAFETY: every task has registers; those of a thread of the kernel are of no call.
    (unsafe { bpf_task_pt_regs(current_task().cast_mut()) }) as *const pt_regs
}

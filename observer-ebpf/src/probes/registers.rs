//! The registers of a process at a probe.

use core::{arch::asm, mem::offset_of};

use aya_ebpf::{bindings::pt_regs, programs::ProbeContext};

#[cfg(bpf_target_arch = "x86_64")]
use crate::kernel::copy_user;

/// The registers.
pub struct Registers(*const pt_regs);

impl Registers {
    /// Those of the current process.
    #[inline(always)]
    pub const fn of(ctx: &ProbeContext) -> Self {
        Self(ctx.regs)
    }

    /// The register at an offset. In assembler, as in the fentry backend: the compiler would merge loads of several
    /// registers into one at a computed address.
    #[inline(always)]
    fn at<const OFFSET: usize>(&self) -> u64 {
        const { assert!(OFFSET < size_of::<pt_regs>()) };
        let value: u64;
        // SAFETY: only reads, within the context.
        unsafe {
            asm!("{value} = *(u64 *)({registers} + {at})", value = out(reg) value, registers = in(reg) self.0, at = const OFFSET, options(pure, readonly, nostack));
        }
        value
    }
}

#[cfg(bpf_target_arch = "x86_64")]
impl Registers {
    /// The first arguments of a C function. The last one is on the stack: see [`Self::seventh`].
    #[inline(always)]
    pub fn arguments(&self) -> [u64; 7] {
        [
            self.at::<{ offset_of!(pt_regs, rdi) }>(),
            self.at::<{ offset_of!(pt_regs, rsi) }>(),
            self.at::<{ offset_of!(pt_regs, rdx) }>(),
            self.at::<{ offset_of!(pt_regs, rcx) }>(),
            self.at::<{ offset_of!(pt_regs, r8) }>(),
            self.at::<{ offset_of!(pt_regs, r9) }>(),
            0,
        ]
    }

    /// The seventh argument of a C function that has put so many bytes on the stack: behind the return address.
    #[inline(always)]
    pub fn seventh(&self, pushed: u32) -> Option<u64> {
        let stack = self.at::<{ offset_of!(pt_regs, rsp) }>();
        copy_user(stack + u64::from(pushed) + 8)
    }

    /// The first arguments of a Go function.
    #[inline(always)]
    pub fn go_arguments(&self) -> [u64; 7] {
        let first = self.at::<{ offset_of!(pt_regs, rax) }>();
        let second = self.at::<{ offset_of!(pt_regs, rbx) }>();
        [first, second, self.at::<{ offset_of!(pt_regs, rcx) }>(), 0, 0, 0, 0]
    }

    /// A function's result.
    #[inline(always)]
    pub fn result(&self) -> u64 {
        self.at::<{ offset_of!(pt_regs, rax) }>()
    }

    /// The goroutine.
    #[inline(always)]
    pub fn goroutine(&self) -> u64 {
        self.at::<{ offset_of!(pt_regs, r14) }>()
    }
}

/// Offset of a numbered register.
#[cfg(bpf_target_arch = "aarch64")]
const fn numbered(number: usize) -> usize {
    offset_of!(pt_regs, regs) + 8 * number
}

#[cfg(bpf_target_arch = "aarch64")]
impl Registers {
    /// The first arguments of a function.
    #[inline(always)]
    pub fn arguments(&self) -> [u64; 7] {
        [
            self.at::<{ numbered(0) }>(),
            self.at::<{ numbered(1) }>(),
            self.at::<{ numbered(2) }>(),
            self.at::<{ numbered(3) }>(),
            self.at::<{ numbered(4) }>(),
            self.at::<{ numbered(5) }>(),
            self.at::<{ numbered(6) }>(),
        ]
    }

    /// The seventh argument of a C function.
    #[expect(clippy::unnecessary_wraps, reason = "on x86-64 it is read from the stack")]
    #[inline(always)]
    pub fn seventh(&self, _: u32) -> Option<u64> {
        Some(self.at::<{ numbered(6) }>())
    }

    /// The first arguments of a Go function.
    #[inline(always)]
    pub fn go_arguments(&self) -> [u64; 7] {
        self.arguments()
    }

    /// A function's result.
    #[inline(always)]
    pub fn result(&self) -> u64 {
        self.at::<{ numbered(0) }>()
    }

    /// The goroutine.
    #[inline(always)]
    pub fn goroutine(&self) -> u64 {
        self.at::<{ numbered(28) }>()
    }
}

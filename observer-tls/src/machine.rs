//! Architectures: their registers, and how C uses them.

/// The architecture that a file was compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Machine {
    /// x86-64.
    X86_64,
    /// aarch64.
    Aarch64,
}

/// A general-purpose register: its number in the instruction set. On aarch64, 31 is the stack pointer.
pub(crate) type Register = u8;

/// The register of a C function's result, on all of them: rax, x0.
pub(crate) const RESULT: Register = 0;

impl Machine {
    /// The registers of a C function's arguments.
    pub(crate) fn arguments(self) -> &'static [Register] {
        match self {
            // rdi, rsi, rdx, rcx, r8, r9
            Self::X86_64 => &[7, 6, 2, 1, 8, 9],
            Self::Aarch64 => &[0, 1, 2, 3, 4, 5, 6, 7],
        }
    }

    /// The registers of a C function's first arguments. Others are on the stack.
    pub(crate) fn first_arguments(self, count: usize) -> &'static [Register] {
        let all = self.arguments();
        all.get(..count).unwrap_or(all)
    }

    pub(crate) fn stack_pointer(self) -> Register {
        match self {
            Self::X86_64 => 4,
            Self::Aarch64 => 31,
        }
    }

    /// The registers that a C function may change, as a bitmap.
    pub(crate) fn scratch(self) -> u32 {
        match self {
            // rax, rcx, rdx, rsi, rdi, r8 to r11
            Self::X86_64 => 0b1111_1100_0111,
            // x0 to x18, x30
            Self::Aarch64 => 0x4007_ffff,
        }
    }

    /// How many bytes lie on the stack at a function's entry that are not arguments: the return address.
    pub(crate) fn return_address(self) -> i32 {
        match self {
            Self::X86_64 => 8,
            Self::Aarch64 => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_are_in_registers() {
        assert_eq!(Machine::X86_64.first_arguments(2), [7, 6]);
        assert_eq!(Machine::X86_64.first_arguments(7), Machine::X86_64.arguments());
        assert_eq!(Machine::Aarch64.first_arguments(7), [0, 1, 2, 3, 4, 5, 6]);
    }
}

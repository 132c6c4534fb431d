//! Keeps invocations of the program for TLS libraries from sharing a stack.
//!
//! Since Linux 6.13, a function of a program that needs 64 bytes of stack has them in memory of its own, one for each CPU
//! (`bpf_enable_priv_stack`). That holds for each type of program whose invocations the kernel does not nest: it skips one
//! that begins during another one on the same CPU. But it does not skip invocations of uprobes, which have the same type as
//! kprobes. If one sleeps, or is preempted, another one overwrites its stack, and the kernel may crash.
//!
//! So where functions may have such stacks, preemption is disabled during an invocation (`bpf_preempt_disable`, Linux 6.10).
//! Then it cannot wait for memory that is not present: such bytes are a gap, as they are without TLS.

use anyhow::{Context as _, Result};
use aya_obj::generated::bpf_insn;

use super::btf::Btf;

/// The kernel's functions that disable and enable preemption, by their numbers in its BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreemptionControl {
    disable: u32,
    enable: u32,
}

// Opcodes (RFC 9669), and `src_reg` of calls and of addresses of functions.
const CALL: u8 = 0x85;
const JUMP: u8 = 0x05;
pub(super) const EXIT: u8 = 0x95;
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const LOAD_ADDRESS: u8 = 0x18;
const OF_HELPER: u8 = 0;
const OF_FUNCTION: u8 = 1;
const OF_KERNEL: u8 = 2;
const ADDRESS_OF_FUNCTION: u8 = 4;

// Numbers of helper functions, which have the same parameters (`include/uapi/linux/bpf.h`).
const COPY_FROM_USER: i32 = 148;
const PROBE_READ_USER: i32 = 112;

impl PreemptionControl {
    /// What this kernel has, if its programs may have a stack for each CPU.
    pub(super) fn needed(btf: &Btf<'_>) -> Result<Option<Self>, String> {
        if btf.function("bpf_jit_supports_private_stack").is_none() {
            return Ok(None);
        }
        let number = |name| btf.function(name).ok_or_else(|| format!("this kernel has no {name}"));
        let [disable, enable] = ["bpf_preempt_disable", "bpf_preempt_enable"].map(number);
        Ok(Some(Self { disable: disable?, enable: enable? }))
    }

    /// Disables preemption from the first instruction of a program to its end. `records` are those of its functions
    /// (`struct bpf_func_info`), of this length each. The program begins with its main function.
    pub(super) fn disable_in(
        self,
        instructions: &mut Vec<bpf_insn>,
        records: &mut [u8],
        record_length: usize,
    ) -> Result<()> {
        // Nothing uses the registers that calls keep, before the program begins.
        let before = [register(6, 1), call(self.disable), register(1, 6)];
        let after = [call(self.enable), number(0, 0), instruction(EXIT)];
        let main = main_function(instructions).context("a program without an end")?;
        for (at, it) in instructions.iter_mut().enumerate() {
            if it.code == CALL && it.src_reg() == OF_HELPER && it.imm == COPY_FROM_USER {
                it.imm = PROBE_READ_USER;
            }
            if at >= main {
                continue;
            }
            if target(at, *it).is_some() {
                it.imm += after.len() as i32;
            } else if it.code == EXIT {
                *it = instruction(JUMP);
                it.off =
                    i16::try_from(main - at - 1).context("a main function that is too long")?;
            }
        }
        instructions.splice(main..main, after);
        instructions.splice(0..0, before);
        let added = (before.len() + after.len()) as u32;
        // The first record is the main function's.
        for record in records.chunks_exact_mut(record_length.max(4)).skip(1) {
            let Some(offset) = record.first_chunk_mut() else { continue };
            *offset = (u32::from_ne_bytes(*offset) + added).to_ne_bytes();
        }
        Ok(())
    }
}

/// The number of instructions of the main function: the first of the others comes after it.
fn main_function(instructions: &[bpf_insn]) -> Option<usize> {
    let others = instructions.iter().enumerate().filter_map(|(at, it)| target(at, *it));
    let main = others.min().unwrap_or(instructions.len());
    (1..=instructions.len()).contains(&main).then_some(main)
}

/// The function that an instruction calls, or whose address it loads.
fn target(at: usize, it: bpf_insn) -> Option<usize> {
    let is_call = it.code == CALL && it.src_reg() == OF_FUNCTION;
    let is_address = it.code == LOAD_ADDRESS && it.src_reg() == ADDRESS_OF_FUNCTION;
    (is_call || is_address).then_some(())?;
    (at + 1).checked_add_signed(isize::try_from(it.imm).ok()?)
}

pub(super) fn instruction(code: u8) -> bpf_insn {
    // SAFETY: a struct of integers, where 0 is valid for each.
    let mut instruction: bpf_insn = unsafe { std::mem::zeroed() };
    instruction.code = code;
    instruction
}

fn register(to: u8, from: u8) -> bpf_insn {
    let mut it = instruction(MOVE);
    it.set_dst_reg(to);
    it.set_src_reg(from);
    it
}

pub(super) fn number(to: u8, number: i32) -> bpf_insn {
    let mut it = instruction(MOVE_NUMBER);
    it.set_dst_reg(to);
    it.imm = number;
    it
}

/// A call of a function of the kernel.
fn call(function: u32) -> bpf_insn {
    let mut it = instruction(CALL);
    it.set_src_reg(OF_KERNEL);
    it.imm = function.cast_signed();
    it
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opcode, source register, offset and number of each instruction.
    fn shown(instructions: &[bpf_insn]) -> Vec<(u8, u8, i16, i32)> {
        instructions.iter().map(|it| (it.code, it.src_reg(), it.off, it.imm)).collect()
    }

    fn function_call(by: i32) -> bpf_insn {
        let mut it = instruction(CALL);
        it.set_src_reg(OF_FUNCTION);
        it.imm = by;
        it
    }

    fn helper_call(number: i32) -> bpf_insn {
        let mut it = instruction(CALL);
        it.imm = number;
        it
    }

    #[test]
    fn preemption_is_disabled_until_each_exit() {
        const JUMP_IF: u8 = 0x15;
        let mut branch = instruction(JUMP_IF);
        branch.off = 2;
        let mut instructions = vec![
            branch,
            function_call(3),
            instruction(EXIT),
            helper_call(COPY_FROM_USER),
            instruction(EXIT),
            // Another function, which calls itself, and another one.
            function_call(-1),
            function_call(1),
            instruction(EXIT),
            helper_call(14),
            instruction(EXIT),
        ];
        let mut records: Vec<u8> =
            [0_u32, 1, 5, 2, 8, 3].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let preemption = PreemptionControl { disable: 70_001, enable: 70_002 };
        preemption.disable_in(&mut instructions, &mut records, 8).unwrap();
        let expected = [
            (MOVE, 1, 0, 0),
            (CALL, OF_KERNEL, 0, 70_001),
            (MOVE, 6, 0, 0),
            (JUMP_IF, 0, 2, 0),
            (CALL, OF_FUNCTION, 0, 6),
            (JUMP, 0, 2, 0),
            (CALL, OF_HELPER, 0, PROBE_READ_USER),
            (JUMP, 0, 0, 0),
            (CALL, OF_KERNEL, 0, 70_002),
            (MOVE_NUMBER, 0, 0, 0),
            (EXIT, 0, 0, 0),
            (CALL, OF_FUNCTION, 0, -1),
            (CALL, OF_FUNCTION, 0, 1),
            (EXIT, 0, 0, 0),
            (CALL, OF_HELPER, 0, 14),
            (EXIT, 0, 0, 0),
        ];
        assert_eq!(shown(&instructions), expected);
        let words: Vec<u32> =
            records.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        assert_eq!(words, [0, 1, 11, 2, 14, 3]);
    }

    #[test]
    fn a_program_without_instructions_is_refused() {
        let preemption = PreemptionControl { disable: 1, enable: 2 };
        assert!(preemption.disable_in(&mut Vec::new(), &mut [], 8).is_err());
        assert!(preemption.disable_in(&mut vec![function_call(-1)], &mut [], 8).is_err());
    }
}

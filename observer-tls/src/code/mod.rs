//! Machine code: what the locators need to know of each instruction, and functions decoded to their end.

mod aarch64;
#[cfg(test)]
mod tests;
mod walk;
mod x86_64;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::ops::Range;

pub(crate) use walk::{Pointer, Source, Walk};

use crate::elf::Elf;
use crate::machine::{Machine, Register};
use crate::refusal::Refusal;

/// The most bytes that a function may have. The longest that the locators decode have a few thousand.
pub const MAX_FUNCTION: u64 = 64 << 10;

/// The most entries of all tables of a function.
const MAX_TABLE_ENTRIES: usize = 512;

/// How far into a function a probe is placed at most, in instructions.
const MAX_PROLOGUE: usize = 32;

/// What is known about an instruction. What is not known is in `writes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) address: u64,
    pub(crate) length: u8,
    pub(crate) flow: Flow,
    /// The registers that it may change, as a bitmap.
    pub(crate) writes: u32,
    /// What it sets one of them to.
    pub(crate) effect: Option<Effect>,
    pub(crate) access: Option<Access>,
    /// The kernel emulates it under a probe.
    pub(crate) is_emulated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Return,
    /// A return that the kernel refuses to probe.
    SignedReturn,
    Jump(u64),
    IndirectJump,
    /// Jumps to one of the addresses in a table, which are relative to the table: `switch`.
    TableJump {
        table: u64,
        /// Where the instruction is that has the table's address.
        since: u64,
    },
    /// Jumps or goes on.
    Branch(u64),
    /// Calls a function, or what a word at this address has the address of.
    Call(Option<u64>),
    /// Ends the process.
    Trap,
}

impl Flow {
    /// If the next instruction may run after it.
    pub(crate) fn goes_on(self) -> bool {
        matches!(self, Self::Next | Self::Branch(_) | Self::Call(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) register: Register,
    pub(crate) value: Setting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    /// A number, or an address.
    Constant(u64),
    /// Another register, and a number.
    Sum(Register, i32),
    /// The 64-bit word at another register and a number.
    Word(Register, i32),
}

/// Memory that an instruction uses through a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) base: Register,
    pub(crate) displacement: i32,
    pub(crate) is_write: bool,
    /// In bytes.
    pub(crate) size: u8,
}

/// A function, decoded to its end.
pub(crate) struct Function {
    pub(crate) machine: Machine,
    pub(crate) range: Range<u64>,
    pub(crate) instructions: Vec<Instruction>,
    /// The addresses in the tables of jumps, by table.
    tables: BTreeMap<u64, Vec<u64>>,
}

impl Function {
    /// Decodes a function.
    ///
    /// The last instruction ends where the function does, and whatever jumps within the function jumps to the start
    /// of an instruction. So the instructions are those that run.
    pub(crate) fn decode(elf: &Elf, range: Range<u64>) -> Result<Self, Refusal> {
        let length = range.end.checked_sub(range.start).ok_or(Refusal::Extent)?;
        if length > MAX_FUNCTION {
            return Err(Refusal::TooLong);
        }
        let bytes = elf.code(range.start, length).ok_or(Refusal::Extent)?;
        let instructions = match elf.machine {
            Machine::X86_64 => x86_64::decode(bytes, range.start),
            Machine::Aarch64 => aarch64::decode(bytes, range.start),
        };
        let instructions = instructions.ok_or(Refusal::Undecodable)?;
        let tables = BTreeMap::new();
        let mut function = Self { machine: elf.machine, range, instructions, tables };
        function.read_tables(elf)?;
        let goes_on = function.instructions.last().is_none_or(|last| match last.flow {
            // Nothing returns from what it calls.
            Flow::Call(_) => false,
            flow => flow.goes_on(),
        });
        let targets = function.instructions.iter().flat_map(|it| function.inner_targets(it));
        let targets: BTreeSet<u64> = targets.collect();
        if goes_on || targets.iter().any(|target| function.index_of(*target).is_none()) {
            return Err(Refusal::Undecodable);
        }
        // What jumps by a table has come past the instruction that has the table's address.
        let is_by_table = |instruction: &Instruction| match instruction.flow {
            Flow::TableJump { since, .. } => {
                targets.range((Excluded(since), Included(instruction.address))).next().is_none()
            }
            _ => true,
        };
        if !function.instructions.iter().all(is_by_table) {
            return Err(Refusal::IndirectJump);
        }
        Ok(function)
    }

    /// Reads the tables that the function jumps by.
    ///
    /// Only the code before a jump knows how long its table is. The table ends at the latest where another one starts, or
    /// where an entry leads to no instruction of the function. What is read too much adds ways through the function,
    /// and at worst has it refused.
    fn read_tables(&mut self, elf: &Elf) -> Result<(), Refusal> {
        let starts = self.instructions.iter().filter_map(|it| match it.flow {
            Flow::TableJump { table, .. } => Some(table),
            _ => None,
        });
        let starts: BTreeSet<u64> = starts.collect();
        let mut left = MAX_TABLE_ENTRIES;
        for &table in &starts {
            let next = starts
                .range((Excluded(table), Unbounded))
                .next()
                .map_or(u64::MAX, |next| next - table);
            let most = left.min(usize::try_from(next / 4).unwrap_or(usize::MAX));
            let bytes = elf.bytes_from(table).ok_or(Refusal::IndirectJump)?;
            let entries = bytes.as_chunks::<4>().0.iter().map(|entry| i32::from_le_bytes(*entry));
            let targets = entries.map(|entry| table.wrapping_add_signed(i64::from(entry)));
            let is_inner = |target: &u64| self.index_of(*target).is_some();
            let targets: Vec<u64> = targets.take_while(is_inner).take(most).collect();
            left -= targets.len();
            if targets.is_empty() {
                return Err(Refusal::IndirectJump);
            }
            self.tables.insert(table, targets);
        }
        Ok(())
    }

    /// Where an instruction jumps to in the function.
    fn inner_targets(&self, instruction: &Instruction) -> impl Iterator<Item = u64> {
        let (target, table) = match instruction.flow {
            Flow::Jump(target) | Flow::Branch(target) => (Some(target), None),
            Flow::TableJump { table, .. } => (None, self.tables.get(&table)),
            _ => (None, None),
        };
        let target = target.filter(|target| self.range.contains(target));
        target.into_iter().chain(table.into_iter().flatten().copied())
    }

    pub(crate) fn index_of(&self, address: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&address, |it| it.address).ok()
    }

    /// Where the function jumps out of itself.
    pub(crate) fn outer_targets(&self) -> BTreeSet<u64> {
        let targets = self.instructions.iter().filter_map(|it| match it.flow {
            Flow::Jump(target) | Flow::Branch(target) => Some(target),
            _ => None,
        });
        targets.filter(|target| !self.range.contains(target)).collect()
    }

    /// All return instructions, if these are all exits but for jumps out of the function.
    pub(crate) fn returns(&self) -> Result<Vec<Instruction>, Refusal> {
        let mut returns = Vec::new();
        for instruction in &self.instructions {
            match instruction.flow {
                Flow::Return => returns.push(*instruction),
                Flow::SignedReturn => return Err(Refusal::SignedReturn),
                Flow::IndirectJump => return Err(Refusal::IndirectJump),
                _ => {}
            }
        }
        if returns.is_empty() { Err(Refusal::NoReturn) } else { Ok(returns) }
    }

    /// If nothing that enters this function returns from it, or goes anywhere but back into `whole`.
    pub(crate) fn is_dead_end_of(&self, whole: &Range<u64>) -> bool {
        self.instructions.iter().all(|it| match it.flow {
            Flow::Return | Flow::SignedReturn | Flow::IndirectJump => false,
            Flow::Jump(target) | Flow::Branch(target) => {
                self.range.contains(&target) || whole.contains(&target)
            }
            Flow::Next | Flow::TableJump { .. } | Flow::Call(_) | Flow::Trap => true,
        })
    }

    /// What the function calls and where it jumps; of calls through a word at a fixed place, that word.
    pub(crate) fn targets(&self) -> impl Iterator<Item = u64> {
        self.instructions.iter().filter_map(|it| match it.flow {
            Flow::Call(target) => target,
            Flow::Jump(target) | Flow::Branch(target) => Some(target),
            _ => None,
        })
    }

    /// Where a probe sees the arguments once for each call of the function, and how many bytes the function has on
    /// its stack there: the entry, or an instruction behind it that costs less.
    ///
    /// Whatever enters the function passes there, because nothing before it branches, and nothing jumps between.
    /// The registers of the arguments still have them, because nothing before it changes them.
    pub(crate) fn entry(&self, arguments: &[Register]) -> Result<(Instruction, u32), Refusal> {
        let first = self.instructions.first().ok_or(Refusal::Prologue)?;
        let kept = arguments.iter().fold(0, |kept, register| kept | 1 << register);
        let stack = self.machine.stack_pointer();
        // A jump to the entry or behind it would be one more pass of the same call.
        let targets = self.instructions.iter().flat_map(|it| self.inner_targets(it));
        let first_target = targets.min().unwrap_or(u64::MAX);
        if first_target <= first.address {
            return Err(Refusal::Prologue);
        }
        let (mut pushed, mut is_known) = (0_i32, true);
        for instruction in self.instructions.iter().take(MAX_PROLOGUE) {
            if first_target <= instruction.address {
                break;
            }
            if instruction.is_emulated && is_known {
                return Ok((*instruction, pushed.unsigned_abs()));
            }
            if instruction.flow != Flow::Next || instruction.writes & kept != 0 {
                break;
            }
            match instruction.effect {
                Some(Effect { register, value: Setting::Sum(from, sum) })
                    if (register, from) == (stack, stack) =>
                {
                    pushed = pushed.saturating_add(sum);
                    is_known &= pushed <= 0;
                }
                _ => is_known &= instruction.writes >> stack & 1 == 0,
            }
        }
        Ok((*first, 0))
    }

    /// The instructions from an address on, in the order of addresses.
    pub(crate) fn from(&self, address: u64) -> Option<&[Instruction]> {
        self.instructions.get(self.index_of(address)?..)
    }
}

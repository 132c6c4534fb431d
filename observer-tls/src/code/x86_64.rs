//! x86-64, decoded by iced-x86.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction as Decoded, InstructionInfo,
    InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register as Name,
};

use super::{Access, Effect, Flow, Instruction, Setting};

/// rsp
const STACK: u8 = 4;

/// Decodes all of the bytes, if that is possible.
pub(super) fn decode(bytes: &[u8], address: u64) -> Option<Vec<Instruction>> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let mut facts = InstructionInfoFactory::new();
    let mut instructions = Vec::new();
    let mut tables = Tables::default();
    while decoder.can_decode() {
        let decoded = decoder.decode();
        if decoded.is_invalid() {
            return None;
        }
        let mut instruction = instruction(&decoded, facts.info(&decoded))?;
        tables.step(&decoded, &mut instruction);
        instructions.push(instruction);
    }
    Some(instructions)
}

/// Finds the jumps by tables. GCC and LLVM write for a `switch`, and for nothing else:
///
/// ```text
/// lea base, [rip + table]; movsxd to, dword [base + index * 4]; add to, base; jmp to
/// ```
#[derive(Default)]
struct Tables([Option<Step>; 16]);

/// What a register has.
#[derive(Clone, Copy)]
struct Step {
    table: u64,
    /// Where `lea` is.
    since: u64,
    kind: StepKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StepKind {
    Table,
    Entry,
    Target,
}

impl Tables {
    fn step(&mut self, decoded: &Decoded, instruction: &mut Instruction) {
        let set = self.set(decoded);
        if instruction.flow == Flow::IndirectJump
            && decoded.op0_kind() == OpKind::Register
            && let Some(step) = self.of(decoded.op0_register())
            && step.kind == StepKind::Target
        {
            let Step { table, since, .. } = step;
            instruction.flow = Flow::TableJump { table, since };
        }
        for (register, step) in self.0.iter_mut().enumerate() {
            if instruction.writes >> register & 1 == 1 || instruction.flow != Flow::Next {
                *step = None;
            }
        }
        if let Some(step) = set
            && let Some(register) = number(decoded.op0_register())
            && let Some(place) = self.0.get_mut(usize::from(register))
        {
            *place = Some(step);
        }
    }

    fn of(&self, register: Name) -> Option<Step> {
        let register = number(register).filter(|_| register.size() == 8)?;
        self.0.get(usize::from(register)).copied().flatten()
    }

    /// What an instruction puts into the register of its first operand.
    fn set(&self, decoded: &Decoded) -> Option<Step> {
        match decoded.code() {
            Code::Lea_r64_m if decoded.is_ip_rel_memory_operand() => {
                let table = decoded.ip_rel_memory_address();
                Some(Step { table, since: decoded.ip(), kind: StepKind::Table })
            }
            Code::Movsxd_r64_rm32 if decoded.op1_kind() == OpKind::Memory => {
                let base = self.of(decoded.memory_base())?;
                let is_entry = base.kind == StepKind::Table
                    && decoded.memory_index_scale() == 4
                    && decoded.memory_displacement64() == 0;
                is_entry.then_some(Step { kind: StepKind::Entry, ..base })
            }
            Code::Add_rm64_r64 | Code::Add_r64_rm64 if decoded.op1_kind() == OpKind::Register => {
                let (to, with) =
                    (self.of(decoded.op0_register())?, self.of(decoded.op1_register())?);
                let kinds = [to.kind, with.kind];
                let is_sum = kinds == [StepKind::Entry, StepKind::Table]
                    || kinds == [StepKind::Table, StepKind::Entry];
                let is_same = (to.table, to.since) == (with.table, with.since);
                (is_sum && is_same).then_some(Step { kind: StepKind::Target, ..to })
            }
            _ => None,
        }
    }
}

fn instruction(decoded: &Decoded, facts: &InstructionInfo) -> Option<Instruction> {
    let mut writes = 0;
    for used in facts.used_registers() {
        if !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None) {
            writes |= number(used.register()).map_or(0, |number| 1 << number);
        }
    }
    Some(Instruction {
        address: decoded.ip(),
        length: decoded.len() as u8,
        flow: flow(decoded)?,
        writes,
        effect: effect(decoded),
        access: access(decoded, facts),
        is_emulated: is_emulated(decoded),
    })
}

/// The number of a general-purpose register, or of the one that it is a part of.
fn number(register: Name) -> Option<u8> {
    register.is_gpr().then(|| register.full_register().number() as u8)
}

fn flow(decoded: &Decoded) -> Option<Flow> {
    let target = (decoded.op0_kind() == OpKind::NearBranch64).then(|| decoded.near_branch_target());
    Some(match decoded.flow_control() {
        FlowControl::Next => Flow::Next,
        FlowControl::UnconditionalBranch => Flow::Jump(target?),
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => Flow::Branch(target?),
        FlowControl::IndirectBranch => Flow::IndirectJump,
        // A return that takes arguments off the stack is none of C's.
        FlowControl::Return => (decoded.code() == Code::Retnq).then_some(Flow::Return)?,
        FlowControl::Call => Flow::Call(target),
        FlowControl::IndirectCall => {
            let is_fixed = decoded.is_ip_rel_memory_operand();
            Flow::Call(is_fixed.then(|| decoded.ip_rel_memory_address()))
        }
        FlowControl::Interrupt | FlowControl::Exception => Flow::Trap,
    })
}

fn effect(decoded: &Decoded) -> Option<Effect> {
    let stack = |sum| Some(Effect { register: STACK, value: Setting::Sum(STACK, sum) });
    match decoded.code() {
        Code::Push_r64 => return stack(-8),
        Code::Pop_r64 if decoded.op0_register() != Name::RSP => return stack(8),
        // Where it returns, the return address is off the stack again.
        Code::Call_rel32_64 | Code::Call_rm64 => return stack(0),
        _ => {}
    }
    if decoded.op0_kind() != OpKind::Register || decoded.op_count() != 2 {
        return None;
    }
    let register = number(decoded.op0_register())?;
    let size = decoded.op0_register().size();
    let from = (decoded.op1_kind() == OpKind::Register).then(|| decoded.op1_register());
    let value = match (decoded.mnemonic(), size) {
        (Mnemonic::Mov, 4 | 8) if is_immediate(decoded.op1_kind()) => {
            let value = decoded.immediate(1);
            Setting::Constant(if size == 4 { value & 0xffff_ffff } else { value })
        }
        (Mnemonic::Xor, 4 | 8) if from == Some(decoded.op0_register()) => Setting::Constant(0),
        (Mnemonic::Mov, 8) if decoded.op1_kind() == OpKind::Memory => {
            let (base, displacement) = place(decoded)?;
            Setting::Word(base, displacement)
        }
        (Mnemonic::Mov, 8) => Setting::Sum(number(from?)?, 0),
        (Mnemonic::Lea, 8) if decoded.is_ip_rel_memory_operand() => {
            Setting::Constant(decoded.ip_rel_memory_address())
        }
        (Mnemonic::Lea, 8) => {
            let (base, displacement) = place(decoded)?;
            Setting::Sum(base, displacement)
        }
        (Mnemonic::Add, 8) if is_immediate(decoded.op1_kind()) => {
            Setting::Sum(register, i32::try_from(decoded.immediate(1) as i64).ok()?)
        }
        (Mnemonic::Sub, 8) if is_immediate(decoded.op1_kind()) => {
            let number = i32::try_from(decoded.immediate(1) as i64).ok()?;
            Setting::Sum(register, number.checked_neg()?)
        }
        _ => return None,
    };
    Some(Effect { register, value })
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// The base and the displacement of a memory operand that has nothing else.
fn place(decoded: &Decoded) -> Option<(u8, i32)> {
    let is_plain = decoded.memory_index() == Name::None
        && decoded.segment_prefix() == Name::None
        && decoded.memory_base().size() == 8;
    let base = number(decoded.memory_base()).filter(|_| is_plain)?;
    Some((base, decoded.memory_displacement64() as i64 as i32))
}

fn access(decoded: &Decoded, facts: &InstructionInfo) -> Option<Access> {
    if decoded.memory_base() == Name::None {
        return None;
    }
    // A no-op and `lea` have an operand in memory, and do not use it.
    let used = facts.used_memory().iter().find(|used| used.base() == decoded.memory_base())?;
    let (base, displacement) = place(decoded)?;
    let is_write = matches!(
        used.access(),
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    );
    let size = decoded.memory_size().size().min(255) as u8;
    Some(Access { base, displacement, is_write, size })
}

/// If every kernel emulates the instruction under a probe (arch/x86/kernel/uprobes.c, `push_setup_xol_ops` and
/// `branch_setup_xol_ops`, since 3.15 and 4.18): pushes of registers, jumps, branches, the one-byte no-op.
///
/// Calls too, but the kernel does not write their return address to a shadow stack.
fn is_emulated(decoded: &Decoded) -> bool {
    match decoded.code() {
        Code::Push_r64 => true,
        Code::Nopd => decoded.len() == 1,
        code => code.is_jcc_short_or_near() || code.is_jmp_short_or_near(),
    }
}

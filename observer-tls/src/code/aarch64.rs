//! aarch64: the few instructions whose meaning the locators need, from the Arm Architecture Reference Manual
//! (DDI 0487), section C4.1. Of all others only the registers that they can change are taken from the word, and
//! rather too many.

use super::{Access, Effect, Flow, Instruction, Setting};

/// In the place of a register: the stack pointer or the zero register.
const NO_31: u32 = 31;

/// Decodes all of the bytes, if they are whole words of allocated encodings.
pub(super) fn decode(bytes: &[u8], address: u64) -> Option<Vec<Instruction>> {
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || !address.is_multiple_of(4) {
        return None;
    }
    let addresses = (address..).step_by(4);
    words
        .iter()
        .zip(addresses)
        .map(|(word, at)| instruction(u32::from_le_bytes(*word), at))
        .collect()
}

fn instruction(word: u32, address: u64) -> Option<Instruction> {
    let flow = flow(word, address)?;
    let effect = effect(word, address);
    let access = access(word);
    let writes = match flow {
        Flow::Next => written(word),
        // The link register.
        Flow::Call(_) => 1 << 30,
        _ => 0,
    };
    // "Simulated" in arch/arm64/kernel/probes/decode-insn.c.
    let is_emulated = !matches!(flow, Flow::Next | Flow::Trap | Flow::SignedReturn | Flow::Call(_));
    Some(Instruction { address, length: 4, flow, writes, effect, access, is_emulated })
}

/// A field of a word.
fn field(word: u32, low: u32, bits: u32) -> u32 {
    word >> low & ((1 << bits) - 1)
}

/// A field of a word, with its sign.
fn signed(word: u32, low: u32, bits: u32) -> i32 {
    (field(word, low, bits) << (32 - bits)) as i32 >> (32 - bits)
}

fn flow(word: u32, address: u64) -> Option<Flow> {
    let relative = |low, bits| address.wrapping_add_signed(i64::from(signed(word, low, bits)) * 4);
    Some(match word {
        // UDF, BRK
        _ if word >> 16 == 0 || word & 0xffe0_001f == 0xd420_0000 => Flow::Trap,
        // RET
        _ if word & 0xffff_fc1f == 0xd65f_0000 => Flow::Return,
        // RETAA, RETAB
        _ if word & 0xffff_fbff == 0xd65f_0bff => Flow::SignedReturn,
        // BR, BRAA and its like
        _ if word & 0xfeff_f000 == 0xd61f_0000 => Flow::IndirectJump,
        // BLR, BLRAA and its like
        _ if word & 0xfeff_f000 == 0xd63f_0000 => Flow::Call(None),
        // Other branches to registers: ERET and its like.
        _ if word & 0xfe00_0000 == 0xd600_0000 => return None,
        // B, BL
        _ if word & 0xfc00_0000 == 0x1400_0000 => Flow::Jump(relative(0, 26)),
        _ if word & 0xfc00_0000 == 0x9400_0000 => Flow::Call(Some(relative(0, 26))),
        // B.cond
        _ if word & 0xff00_0000 == 0x5400_0000 => Flow::Branch(relative(5, 19)),
        // CBZ, CBNZ
        _ if word & 0x7e00_0000 == 0x3400_0000 => Flow::Branch(relative(5, 19)),
        // TBZ, TBNZ
        _ if word & 0x7e00_0000 == 0x3600_0000 => Flow::Branch(relative(5, 14)),
        // Reserved and unallocated groups of encodings.
        _ if matches!(field(word, 25, 4), 0 | 1 | 3) => return None,
        _ => Flow::Next,
    })
}

fn effect(word: u32, address: u64) -> Option<Effect> {
    let register = field(word, 0, 5) as u8;
    let from = field(word, 5, 5) as u8;
    let immediate = field(word, 10, 12) as i32;
    let value = match word {
        // ADRP, ADR
        _ if word & 0x1f00_0000 == 0x1000_0000 => {
            let number = i64::from(signed(word, 5, 19)) << 2 | i64::from(field(word, 29, 2));
            let (base, scale) = if word >> 31 == 1 { (address & !0xfff, 12) } else { (address, 0) };
            Setting::Constant(base.wrapping_add_signed(number << scale))
        }
        // ADD, SUB of a 64-bit register and a number
        _ if word & 0xff80_0000 == 0x9100_0000 => {
            Setting::Sum(from, immediate << (12 * field(word, 22, 1)))
        }
        _ if word & 0xff80_0000 == 0xd100_0000 => {
            Setting::Sum(from, -(immediate << (12 * field(word, 22, 1))))
        }
        // MOV of a 64-bit register. 31 is the zero register.
        _ if word & 0xffe0_ffe0 == 0xaa00_03e0 && field(word, 16, 5) != NO_31 => {
            Setting::Sum(field(word, 16, 5) as u8, 0)
        }
        // MOVZ
        _ if word & 0x7f80_0000 == 0x5280_0000 => {
            Setting::Constant(u64::from(field(word, 5, 16)) << (16 * field(word, 21, 2)))
        }
        // LDR of 64 bits, at a multiple of 8 and at any number
        _ if word & 0xffc0_0000 == 0xf940_0000 => Setting::Word(from, immediate * 8),
        _ if word & 0xffe0_0c00 == 0xf840_0000 => Setting::Word(from, signed(word, 12, 9)),
        // A pair or a single register to the stack, which moves the stack pointer first.
        _ if is_pushing_pair(word) => {
            return Some(Effect {
                register: from,
                value: Setting::Sum(from, signed(word, 15, 7) * 8),
            });
        }
        _ if is_pushing(word) => {
            return Some(Effect { register: from, value: Setting::Sum(from, signed(word, 12, 9)) });
        }
        _ => return None,
    };
    // ADD and SUB take the stack pointer as 31, the others the zero register.
    let is_zero_register = register == 31 && !matches!(value, Setting::Sum(..));
    (!is_zero_register).then_some(Effect { register, value })
}

/// STP of 64-bit registers, pre-indexed.
fn is_pushing_pair(word: u32) -> bool {
    word & 0xffc0_0000 == 0xa980_0000
}

/// STR of a 64-bit register, pre-indexed.
fn is_pushing(word: u32) -> bool {
    word & 0xffe0_0c00 == 0xf800_0c00
}

fn access(word: u32) -> Option<Access> {
    let scaled = |scale: i32| field(word, 10, 12) as i32 * scale;
    let paired = |scale: i32| signed(word, 15, 7) * scale;
    let (size, displacement, is_write) = match word {
        // LDR, STR of 64, 32 and 128 bits
        _ if word & 0xffc0_0000 == 0xf940_0000 => (8, scaled(8), false),
        _ if word & 0xffc0_0000 == 0xf900_0000 => (8, scaled(8), true),
        _ if word & 0xffc0_0000 == 0xb940_0000 => (4, scaled(4), false),
        _ if word & 0xffc0_0000 == 0xb900_0000 => (4, scaled(4), true),
        _ if word & 0xffc0_0000 == 0x3940_0000 => (1, scaled(1), false),
        _ if word & 0xffc0_0000 == 0x3dc0_0000 => (16, scaled(16), false),
        _ if word & 0xffc0_0000 == 0x3d80_0000 => (16, scaled(16), true),
        // LDUR, STUR of 64 bits
        _ if word & 0xffe0_0c00 == 0xf840_0000 => (8, signed(word, 12, 9), false),
        _ if word & 0xffe0_0c00 == 0xf800_0000 => (8, signed(word, 12, 9), true),
        // LDP, STP of two times 64 and 128 bits
        _ if word & 0xffc0_0000 == 0xa940_0000 => (16, paired(8), false),
        _ if word & 0xffc0_0000 == 0xa900_0000 => (16, paired(8), true),
        _ if word & 0xffc0_0000 == 0xad40_0000 => (32, paired(16), false),
        _ if word & 0xffc0_0000 == 0xad00_0000 => (32, paired(16), true),
        _ => return None,
    };
    Some(Access { base: field(word, 5, 5) as u8, displacement, is_write, size })
}

/// The registers that an instruction may change.
fn written(word: u32) -> u32 {
    let one = |low| 1_u32 << field(word, low, 5);
    match word {
        // CMP and TST: the result goes to the zero register.
        _ if field(word, 0, 5) == NO_31 && is_comparison(word) => 0,
        // HINT: no-op, BTI. Those that sign the link register change it.
        _ if word & 0xffff_f01f == 0xd503_201f => 1 << 30,
        // STR, STP without a change of the base.
        _ if word & 0x3fc0_0000 == 0x3900_0000 || word & 0x3fe0_0c00 == 0x3800_0000 => 0,
        _ if word & 0x3fc0_0000 == 0x2900_0000 => 0,
        // Vector registers to and from memory, the same.
        _ if word & 0x3f00_0000 == 0x3d00_0000 || word & 0x3f80_0000 == 0x2d00_0000 => 0,
        _ if word & 0x3f20_0c00 == 0x3c00_0000 => 0,
        _ if is_pushing(word) || is_pushing_pair(word) => one(5),
        // LDR of one general register.
        _ if word & 0x3fc0_0000 == 0x3940_0000 || word & 0x3fe0_0c00 == 0x3840_0000 => {
            no_zero(word)
        }
        // LDP of two.
        _ if word & 0x7fc0_0000 == 0x2940_0000 => one(0) | one(10),
        // Arithmetic with numbers: ADD, SUB, AND, ORR, MOVZ, MOVK, bit fields, addresses.
        _ if word & 0x1c00_0000 == 0x1000_0000 => one(0),
        // ADD and SUB of an extended register take 31 as the stack pointer, other arithmetic with registers does not.
        _ if word & 0x1fe0_0000 == 0x0b20_0000 => one(0),
        _ if word & 0x0e00_0000 == 0x0a00_0000 => no_zero(word),
        _ => one(0) | one(5) | one(10) | one(16),
    }
}

/// The destination, unless it is the zero register.
fn no_zero(word: u32) -> u32 {
    if field(word, 0, 5) == NO_31 { 0 } else { 1 << field(word, 0, 5) }
}

/// SUBS, ADDS and ANDS, of numbers and of registers.
fn is_comparison(word: u32) -> bool {
    matches!(word & 0x7f80_0000, 0x7100_0000 | 0x3100_0000 | 0x7200_0000)
        || matches!(word & 0x7f20_0000, 0x6b00_0000 | 0x2b00_0000)
        || matches!(word & 0x7fe0_0000, 0x6b20_0000 | 0x2b20_0000)
        || word & 0x7f20_0000 == 0x6a00_0000
}

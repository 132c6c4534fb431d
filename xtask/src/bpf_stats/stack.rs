//! The stack of the BPF programs, from the object file. The verifier prints it only in its log.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};

/// Register 10, the frame pointer.
const FRAME: u8 = 10;

/// `src_reg` of a call to another function of the programs (`BPF_PSEUDO_CALL`).
const PSEUDO_CALL: u8 = 1;

// Instruction classes and opcodes (RFC 9669).
const CLASS: u8 = 0x07;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const ADD_IMMEDIATE: u8 = 0x07;
const MOVE: u8 = 0xbf;
const CALL: u8 = 0x85;
const LOAD_ADDRESS: u8 = 0x18;

/// The kernel rounds the stack of each function up to this. Since 6.8, with a JIT compiler, it rounds to 16, which is
/// never more.
const ROUNDED_TO: u32 = 32;

/// The start of a function: its section, and the offset in it.
type Place = (usize, u64);

/// The stack of a function itself, and the functions that it may call.
#[derive(Debug, Default)]
struct Function {
    name: String,
    own: u32,
    calls: Vec<Place>,
}

/// The stack of each program with its longest chain of calls, in bytes, as the verifier of Linux 6.1 adds it up. It allows
/// 512.
pub(super) fn of(object: &Path) -> Result<BTreeMap<String, u32>> {
    let bytes = std::fs::read(object).with_context(|| object.display().to_string())?;
    let file = object::File::parse(&*bytes).context("the BPF object is not an ELF file")?;
    let functions = functions(&file)?;
    let deepest = |place: &Place| deepest(&functions, *place, MOST_CALLS);
    Ok(functions.iter().map(|(place, function)| (function.name.clone(), deepest(place))).collect())
}

/// The kernel allows chains of 8 functions.
const MOST_CALLS: u32 = 8;

fn deepest(functions: &BTreeMap<Place, Function>, from: Place, left: u32) -> u32 {
    let Some(function) = functions.get(&from).filter(|_| left > 0) else { return 0 };
    let above = function.calls.iter().map(|&callee| deepest(functions, callee, left - 1));
    function.own + above.max().unwrap_or(0)
}

fn functions(file: &object::File<'_>) -> Result<BTreeMap<Place, Function>> {
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let Some(section) = symbol.section_index().filter(|_| symbol.size() > 0) else { continue };
        let code = file.section_by_index(section)?;
        let data = code.data_range(symbol.address(), symbol.size())?.context("a short section")?;
        let end = symbol.address() + symbol.size();
        let mut targets = BTreeMap::new();
        for (at, relocation) in code.relocations() {
            if (symbol.address()..end).contains(&at)
                && let RelocationTarget::Symbol(target) = relocation.target()
            {
                let target = file.symbol_by_index(target)?;
                if let Some(section) = target.section_index() {
                    targets.insert(at, (section.0, target.address()));
                }
            }
        }
        let function = Function {
            name: symbol.name()?.to_owned(),
            own: own(data).next_multiple_of(ROUNDED_TO).max(ROUNDED_TO),
            calls: calls(data, (section.0, symbol.address()), &targets),
        };
        functions.insert((section.0, symbol.address()), function);
    }
    Ok(functions)
}

/// The opcode, registers, offset and immediate value of each instruction.
fn instructions(code: &[u8]) -> impl Iterator<Item = (u8, u8, u8, i16, i32)> {
    code.as_chunks().0.iter().map(|&[opcode, registers, o0, o1, i0, i1, i2, i3]| {
        let (offset, immediate) =
            (i16::from_le_bytes([o0, o1]), i32::from_le_bytes([i0, i1, i2, i3]));
        (opcode, registers & 15, registers >> 4, offset, immediate)
    })
}

/// The number of bytes below the frame pointer that a function reads, writes or points to.
fn own(code: &[u8]) -> u32 {
    let mut lowest = 0;
    // The register to which the last instruction copied the frame pointer.
    let mut copy = None;
    for (opcode, destination, source, offset, immediate) in instructions(code) {
        let through = match opcode & CLASS {
            LDX => Some(source),
            ST | STX => Some(destination),
            _ => None,
        };
        if through == Some(FRAME) {
            lowest = lowest.min(i32::from(offset));
        }
        if opcode == ADD_IMMEDIATE && copy == Some(destination) {
            lowest = lowest.min(immediate);
        }
        if opcode == MOVE && source == FRAME {
            copy = Some(destination);
        } else if copy == Some(destination) {
            copy = None;
        }
    }
    lowest.unsigned_abs()
}

/// The functions that are called, or passed to a helper that calls them.
fn calls(code: &[u8], (section, begin): Place, targets: &BTreeMap<u64, Place>) -> Vec<Place> {
    let mut calls = Vec::new();
    for (at, (opcode, _, source, _, immediate)) in (begin..).step_by(8).zip(instructions(code)) {
        let target = targets.get(&at);
        match opcode {
            // The offset counts instructions from the next one, or from the target if there is one.
            CALL if source == PSEUDO_CALL => {
                let ahead = (i64::from(immediate) + 1) * 8;
                let (section, from) = target.copied().unwrap_or((section, at));
                calls.push((section, from.wrapping_add_signed(ahead)));
            }
            LOAD_ADDRESS => {
                calls.extend(target.map(|&(section, from)| {
                    (section, from.wrapping_add_signed(i64::from(immediate)))
                }));
            }
            _ => {}
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_place_counts_however_it_is_reached() {
        let store = [0x7b, 0x1a, 0xf8, 0xff, 0, 0, 0, 0]; // *(u64 *)(r10 - 8) = r1
        assert_eq!(own(&store), 8);
        let copy = [0xbf, 0xa2, 0, 0, 0, 0, 0, 0]; // r2 = r10
        let add = [0x07, 0x02, 0, 0, 0xd0, 0xff, 0xff, 0xff]; // r2 += -48
        assert_eq!(own(&[store, copy, add].concat()), 48);
        // A subtraction from another register does not use the stack.
        let other = [0x07, 0x03, 0, 0, 0, 0xff, 0xff, 0xff];
        assert_eq!(own(&[store, copy, other].concat()), 8);
    }

    #[test]
    fn what_runs_on_top_is_added_to_the_deepest() {
        let section = 1;
        let function = |own, calls: &[u64]| Function {
            name: String::new(),
            own,
            calls: calls.iter().map(|&at| (section, at)).collect(),
        };
        let functions = BTreeMap::from([
            ((section, 0), function(64, &[8, 16])),
            ((section, 8), function(32, &[])),
            ((section, 16), function(32, &[24])),
            ((section, 24), function(96, &[])),
        ]);
        assert_eq!(deepest(&functions, (section, 0), MOST_CALLS), 192);
    }

    #[test]
    fn calls_are_found_with_and_without_a_target() {
        let section = 1;
        let call = [0x85, 0x10, 0, 0, 2, 0, 0, 0];
        assert_eq!(calls(&call, (section, 80), &BTreeMap::new()), [(section, 104)]);
        let call = [0x85, 0x10, 0, 0, 0xff, 0xff, 0xff, 0xff];
        let targets = BTreeMap::from([(80, (2, 16))]);
        assert_eq!(calls(&call, (section, 80), &targets), [(2, 16)]);
    }
}

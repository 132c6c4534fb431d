//! Functions that are called by name: the loader puts their addresses into words of the file, and code calls them
//! through these words. Even a function of the same file may be called in this way, so that another file can put its
//! own in its place.

use std::collections::BTreeMap;

use crate::bytes::{i32_at, u32_at};
use crate::code::Function;
use crate::elf::Elf;
use crate::machine::Machine;

/// The functions that a function calls or jumps to through these words.
pub(crate) fn called_through(
    elf: &Elf,
    function: &Function,
    slots: &BTreeMap<u64, usize>,
) -> Vec<usize> {
    let slot = |target: u64| {
        slots.get(&target).or_else(|| slots.get(&slot_of_stub(elf, target)?)).copied()
    };
    function.targets().filter_map(slot).collect()
}

/// The word that a stub of the procedure linkage table jumps through.
///
/// ```text
/// endbr64; bnd jmp [rip + distance]            bti c; adrp x16, page; ldr x17, [x16, offset]; …
/// ```
///
/// `endbr64`, `bnd` and `bti` may be missing.
fn slot_of_stub(elf: &Elf, stub: u64) -> Option<u64> {
    let bytes = elf.code(stub, 12)?;
    match elf.machine {
        Machine::X86_64 => {
            let rest = bytes.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(bytes);
            let rest = rest.strip_prefix(&[0xf2]).unwrap_or(rest);
            let distance = i32_at(rest.strip_prefix(&[0xff, 0x25])?, 0)?;
            let length = (bytes.len() - rest.len()) as u64 + 6;
            Some(stub.wrapping_add(length).wrapping_add_signed(i64::from(distance)))
        }
        Machine::Aarch64 => {
            const BTI_C: u32 = 0xd503_245f;
            let at = if u32_at(bytes, 0)? == BTI_C { 4 } else { 0 };
            let (page, load) = (u32_at(bytes, at)?, u32_at(bytes, at + 4)?);
            // adrp x16; ldr x17, [x16, …]
            if page & 0x9f00_001f != 0x9000_0010 || load & 0xffc0_03ff != 0xf940_0211 {
                return None;
            }
            let distance = ((page >> 5 & 0x7_ffff) << 2 | page >> 29 & 3) as i32;
            let distance = i64::from(distance << 11 >> 11) << 12;
            let page = (stub.wrapping_add(at) & !0xfff).wrapping_add_signed(distance);
            Some(page.wrapping_add(u64::from(load >> 10 & 0xfff) * 8))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::{CODE, Fixture};

    fn slot(machine: Machine, code: &[u8]) -> Option<u64> {
        let mut fixture = Fixture::new(machine);
        let stub = fixture.function(code);
        slot_of_stub(&Elf::parse(&fixture.build()).unwrap(), stub)
    }

    #[test]
    fn stubs_of_x86_64() {
        let slot = |code: &[u8]| slot(Machine::X86_64, code);
        // jmp [rip + 0x100]; push 0; jmp
        let jump = [0xff, 0x25, 0, 1, 0, 0, 0x68, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0];
        assert_eq!(slot(&jump), Some(CODE + 6 + 0x100));
        // endbr64; bnd jmp [rip - 0x100]
        let jump = [0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0, 0xff, 0xff, 0xff, 0x90];
        assert_eq!(slot(&jump), Some(CODE + 11 - 0x100));
        // push rbp
        assert_eq!(slot(&[0x55; 16]), None);
    }

    #[test]
    fn stubs_of_aarch64() {
        let slot = |words: &[u32]| {
            let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            slot(Machine::Aarch64, &code)
        };
        // adrp x16, one page on; ldr x17, [x16, #24]; add x16, x16, #24; br x17
        let stub = [0xb000_0010, 0xf940_0e11, 0x9100_6210, 0xd61f_0220];
        assert_eq!(slot(&stub), Some(CODE + 0x1000 + 24));
        let [page, load, ..] = stub;
        assert_eq!(slot(&[0xd503_245f, page, load]), Some(CODE + 0x1000 + 24));
        assert_eq!(slot(&[page, page, load]), None);
    }
}

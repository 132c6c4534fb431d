//! Go's crypto/tls, of programs that Go 1.18 and later have linked.
//!
//! The runtime needs the names and the addresses of all functions, so they are in each program, stripped or not:
//! `.gopclntab` (`runtime/symtab.go`, `debug/gosym`). Probes go into `(*Conn).Read` and `(*Conn).Write`.
//!
//! Addresses in that table count from the start of the code, which is not in the table since Go 1.26. It is in the
//! runtime's `moduledata`, which starts with a pointer to the table; it is believed if its other pointers fit the table.
//!
//! A function starts with a check of its stack. If there is not enough, it calls `morestack` and then starts again.
//! So the probe is behind the check, where each call passes once. Arguments are in registers since Go 1.17 (amd64)
//! and 1.18 (arm64) (`src/cmd/compile/abi-internal.md`).
//!
//! Return probes (`uretprobe`) replace the return address, which ends the program when the runtime copies the
//! stack. Probes at the return instructions do not.

use std::ops::Range;

use memchr::memmem;

use crate::bytes::{part, u32_at, u64_at, varint};
use crate::code::{Flow, Function, Instruction};
use crate::elf::{Elf, Relocations};
use crate::hook::{Hook, Routine};
use crate::library::{Kind, Layout, Library};
use crate::machine::Machine;
use crate::refusal::Refusal;

/// Go 1.18 and 1.20 changed the table (`internal/abi/symtab.go`).
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];

const ROUTINES: [(&[u8], Routine); 2] = [
    (b"\0crypto/tls.(*Conn).Read\0", Routine::GoRead),
    (b"\0crypto/tls.(*Conn).Write\0", Routine::GoWrite),
];

/// The most places that are looked at for the `moduledata`.
const MAX_PLACES: usize = 64;

/// How many instructions the check of the stack has at most.
const MAX_CHECK: usize = 16;

/// Probes for a Go program. `None` if the file is not one, or has no TLS.
pub(crate) fn locate(elf: &Elf) -> Option<Result<Library, Refusal>> {
    let names = [".gopclntab", ".data.rel.ro.gopclntab"];
    let (address, bytes) = names.iter().find_map(|name| elf.section(name))?;
    let has_names = ROUTINES.iter().any(|(name, _)| memmem::find(bytes, name).is_some());
    has_names.then(|| in_table(elf, address, bytes))
}

fn in_table(elf: &Elf, address: u64, bytes: &[u8]) -> Result<Library, Refusal> {
    let table = Table::parse(elf.machine, address, bytes)?;
    let found = table.find()?;
    let text = table.text(elf)?;
    let mut hooks = Vec::new();
    for (range, (_, routine)) in found.into_iter().zip(ROUTINES) {
        let add = |offset: u32| text.checked_add(u64::from(offset)).ok_or(Refusal::Malformed);
        let function = Function::decode(elf, add(range.start)?..add(range.end)?)?;
        let entry = behind_check(&function).ok_or(Refusal::Prologue)?;
        hooks.push(Hook::entry_at(elf, entry, routine)?);
        hooks.append(&mut Hook::returns(elf, None, &function, routine)?);
    }
    Ok(Library { kind: Kind::Go, version: version(elf), layout: Layout::Go, hooks })
}

/// The table of functions.
///
/// ```text
/// +---------+-----+---------+-----------+---------+---------+----------+---------------------------------------+
/// | magic 4 | 0 2 | quantum | pointer 8 | count 8 | files 8 | unused 8 | where: names, units, files, pcs, functions |
/// +---------+-----+---------+-----------+---------+---------+----------+---------------------------------------+
/// ```
struct Table<'a> {
    address: u64,
    bytes: &'a [u8],
    count: u64,
    names: u64,
    units: u64,
    functions: u64,
}

impl<'a> Table<'a> {
    fn parse(machine: Machine, address: u64, bytes: &'a [u8]) -> Result<Self, Refusal> {
        let magic = u32_at(bytes, 0).ok_or(Refusal::Malformed)?;
        if !MAGICS.contains(&magic) {
            return Err(Refusal::Version);
        }
        let quantum = match machine {
            Machine::X86_64 => 1,
            Machine::Aarch64 => 4,
        };
        if bytes.get(4..8) != Some(&[0, 0, quantum, 8]) {
            return Err(Refusal::Malformed);
        }
        let word = |at| u64_at(bytes, at).ok_or(Refusal::Malformed);
        Ok(Self {
            address,
            bytes,
            count: word(8)?,
            names: word(32)?,
            units: word(40)?,
            functions: word(64)?,
        })
    }

    /// A function's start in the code and where it is described, or the end of the last.
    fn entry(&self, index: u64) -> Option<(u32, u32)> {
        let at = self.functions.checked_add(index.checked_mul(8)?)?;
        Some((u32_at(self.bytes, at)?, u32_at(self.bytes, at + 4).unwrap_or_default()))
    }

    /// Where the functions of [`ROUTINES`] are, relative to the code.
    fn find(&self) -> Result<[Range<u32>; 2], Refusal> {
        let length = self.units.checked_sub(self.names).ok_or(Refusal::Malformed)?;
        let names = part(self.bytes, self.names, length).ok_or(Refusal::Malformed)?;
        let mut wanted = [0; 2];
        for (wanted, (name, _)) in wanted.iter_mut().zip(ROUTINES) {
            *wanted = memmem::find(names, name).ok_or(Refusal::NotFound)? as u64 + 1;
        }
        // All entries have 8 bytes, so there are not more than fit.
        if self.count > self.bytes.len() as u64 / 8 {
            return Err(Refusal::Malformed);
        }
        let mut found = [const { Vec::new() }; 2];
        for index in 0..self.count {
            let (start, described) = self.entry(index).ok_or(Refusal::Malformed)?;
            let at = self.functions.checked_add(u64::from(described)).ok_or(Refusal::Malformed)?;
            let name = u32_at(self.bytes, at.saturating_add(4)).ok_or(Refusal::Malformed)?;
            if let Some(at) = wanted.iter().position(|wanted| *wanted == u64::from(name))
                && let Some(found) = found.get_mut(at)
            {
                let (end, _) = self.entry(index + 1).ok_or(Refusal::Malformed)?;
                found.push(start..end);
            }
        }
        let one = |found: &Vec<Range<u32>>| match &**found {
            [range] => Ok(range.clone()),
            [] => Err(Refusal::NotFound),
            _ => Err(Refusal::Ambiguous),
        };
        let [read, write] = &found;
        Ok([one(read)?, one(write)?])
    }

    /// The start of the code, from the `moduledata`.
    fn text(&self, elf: &Elf) -> Result<u64, Refusal> {
        let relocations = Relocations::read(elf)?;
        let pointers = relocations.pointers_to(self.address..self.address.saturating_add(1));
        let mut places: Vec<u64> = pointers.iter().take(MAX_PLACES).map(|(_, at)| *at).collect();
        places.append(&mut elf.words_equal(self.address, MAX_PLACES));
        let mut texts: Vec<u64> =
            places.into_iter().filter_map(|at| self.text_in(&relocations, at)).collect();
        texts.sort_unstable();
        texts.dedup();
        match *texts {
            [text] => Ok(text),
            [] => Err(Refusal::NotFound),
            _ => Err(Refusal::Ambiguous),
        }
    }

    /// The start of the code in a `moduledata`, if that is one of this table.
    fn text_in(&self, relocations: &Relocations, place: u64) -> Option<u64> {
        let word = |index: u64| relocations.word_at(place.checked_add(index * 8)?);
        let within = |offset: u64| self.address.checked_add(offset);
        let text = word(22)?;
        let (first, _) = self.entry(0)?;
        let (end, _) = self.entry(self.count)?;
        let fits = word(0)? == self.address
            // funcnametab, cutab
            && word(1)? == within(self.names)?
            && word(4)? == within(self.units)?
            // ftab: its address and its length, with the end of the last function
            && word(16)? == within(self.functions)?
            && word(17)? == self.count.checked_add(1)?
            // minpc, maxpc
            && word(20)? == text.checked_add(u64::from(first))?
            && word(21)? == text.checked_add(u64::from(end))?;
        fits.then_some(text)
    }
}

/// The instruction behind the check of the stack.
///
/// ```text
/// start:  cmp rsp, [r14+16]     ldr x16, [x28, #16]
///                               cmp sp, x16
///         jbe more              b.ls more
///         push rbp              str x30, [sp, #-32]!   <- here
///         …                     …
/// more:   call morestack        bl morestack
///         jmp start             b start
/// ```
///
/// With a large frame there are two branches. Nothing in it changes the arguments, the goroutine or the stack pointer.
fn behind_check(function: &Function) -> Option<&Instruction> {
    let kept = match function.machine {
        // rax, rbx, rcx, rsp, r14
        Machine::X86_64 => 0b0100_0000_0001_1011,
        // x0, x1, x2, x28, sp
        Machine::Aarch64 => 1 << 28 | 1 << 31 | 0b111,
    };
    let check = function.instructions.get(..MAX_CHECK).unwrap_or(&function.instructions);
    let last = check.iter().take_while(|it| {
        let goes_on = matches!(it.flow, Flow::Next | Flow::Branch(_));
        goes_on && it.writes & kept == 0
    });
    let last = last.enumerate().filter(|(_, it)| it.flow != Flow::Next).last()?.0;
    let check = function.instructions.get(..=last)?;
    let starts_again = check.iter().all(|it| match it.flow {
        Flow::Branch(target) => leads_back(function, target),
        _ => true,
    });
    let behind = function.instructions.get(last + 1)?;
    // Nothing else comes back to the check.
    let inner = |it: &Instruction| match it.flow {
        Flow::Jump(target) | Flow::Branch(target) => {
            target > function.range.start && target <= behind.address
        }
        _ => false,
    };
    (starts_again && !function.instructions.iter().any(inner)).then_some(behind)
}

/// If what is at an address calls something and then jumps to the start of the function.
fn leads_back(function: &Function, address: u64) -> bool {
    let Some(rest) = function.from(address) else { return false };
    let mut rest = rest.iter().skip_while(|it| it.flow == Flow::Next);
    let calls = rest.next().is_some_and(|it| matches!(it.flow, Flow::Call(_)));
    let jump = rest.find(|it| it.flow != Flow::Next);
    calls && jump.is_some_and(|it| it.flow == Flow::Jump(function.range.start))
}

/// The version of Go, from what `go version` reads (`debug/buildinfo`), since Go 1.18.
fn version(elf: &Elf) -> Option<String> {
    const HEADER: usize = 32;
    const MAX_VERSION: u64 = 64;
    let (_, bytes) = elf.section(".go.buildinfo")?;
    let is_inline = bytes.starts_with(b"\xff Go buildinf:") && bytes.get(15)? & 2 != 0;
    let rest = bytes.get(HEADER..).filter(|_| is_inline)?;
    let (length, at) = varint(rest)?;
    let text = part(rest, at as u64, length).filter(|_| length <= MAX_VERSION)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

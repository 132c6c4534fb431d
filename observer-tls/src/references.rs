//! Which functions refer to an address: a string, a `Location`, another function.

use std::collections::BTreeMap;
use std::ops::Range;

use memchr::{memchr_iter, memmem};

use crate::bytes::{i32_at, u32_at};
use crate::code::{Flow, Function, Instruction, Setting};
use crate::elf::{Elf, Segment};
use crate::functions::Functions;
use crate::machine::{Machine, Register};

/// The most places that are looked at. TLS libraries refer to the names of their files less than 1,000 times.
const MAX_PLACES: usize = 1 << 14;

/// The most bytes of functions that are decoded for one set of addresses.
const MAX_DECODED: u64 = 1 << 20;

/// The most copies of a string that are looked at.
pub(crate) const MAX_STRINGS: usize = 64;

/// Where the names of source files with this end start.
pub(crate) fn names_of_files(elf: &Elf, end: &[u8]) -> Vec<u64> {
    /// The longest path that a compiler was given.
    const MAX_PATH: usize = 4096;
    let found = memmem::find_iter(elf.file, end).take(MAX_STRINGS);
    let mut starts: Vec<u64> = found
        .filter_map(|at| {
            let before = elf.file.get(at.saturating_sub(MAX_PATH)..at)?;
            let length = before.iter().rev().position(|byte| *byte == 0)?;
            elf.address_of((at - length) as u64)
        })
        .collect();
    starts.sort_unstable();
    starts
}

/// The most ways to one instruction that are told apart, and to all of those ahead.
const MAX_WAYS: usize = 8;
const MAX_AHEAD: usize = 1 << 10;

/// The functions that refer to one of these addresses, which must be sorted, in the order of their own.
///
/// First all code is searched for bytes that would be such a reference. Then the functions around these are decoded.
/// Those that do not decode, or have no such instruction, are left out.
pub(crate) fn functions_that_refer(
    elf: &Elf,
    functions: &Functions,
    targets: &[u64],
) -> Vec<Function> {
    let search = match elf.machine {
        Machine::X86_64 => places_x86_64,
        Machine::Aarch64 => places_aarch64,
    };
    let places = places_in_code(elf, targets, search);
    decode_around(elf, functions, places, |function| {
        constants(function).any(|(_, value)| targets.binary_search(&value).is_ok())
    })
}

/// The functions that call one of these addresses, which must be sorted, in the order of their own.
pub(crate) fn functions_that_call(
    elf: &Elf,
    functions: &Functions,
    targets: &[u64],
) -> Vec<Function> {
    let search = match elf.machine {
        Machine::X86_64 => calls_x86_64,
        Machine::Aarch64 => calls_aarch64,
    };
    let places = places_in_code(elf, targets, search);
    decode_around(elf, functions, places, |function| {
        function.targets().any(|target| targets.binary_search(&target).is_ok())
    })
}

/// Adds the places in a segment that may refer to one of the addresses, up to [`MAX_PLACES`] in all.
type Search = fn(&Elf, &Segment, &[u64], &mut Vec<u64>);

/// Searches all code of the file.
fn places_in_code(elf: &Elf, targets: &[u64], search: Search) -> Vec<u64> {
    let mut places = Vec::new();
    for segment in elf.segments().iter().filter(|segment| segment.is_code) {
        search(elf, segment, targets, &mut places);
    }
    places
}

/// Decodes the functions around these places, and leaves out those that do not decode or are not wanted.
fn decode_around(
    elf: &Elf,
    functions: &Functions,
    places: Vec<u64>,
    is_wanted: impl Fn(&Function) -> bool,
) -> Vec<Function> {
    let ranges: BTreeMap<u64, Range<u64>> = places
        .into_iter()
        .filter_map(|place| functions.around(place))
        .map(|range| (range.start, range))
        .collect();
    let mut left = MAX_DECODED;
    let mut found = Vec::new();
    for range in ranges.into_values() {
        left = left.saturating_sub(range.end - range.start);
        if left > 0
            && let Ok(function) = Function::decode(elf, range)
            && is_wanted(&function)
        {
            found.push(function);
        }
    }
    found
}

/// The numbers and addresses that a function puts into registers, and the index of the instruction.
///
/// On aarch64 an address takes two instructions, `adrp` and `add`, with others between.
pub(crate) fn constants(function: &Function) -> impl Iterator<Item = (usize, u64)> {
    let mut known = Known::default();
    function.instructions.iter().enumerate().filter_map(move |(index, instruction)| {
        known = known.after(instruction);
        let set = instruction.effect?.register;
        Some((index, known.value(set)?))
    })
}

/// A call that a function makes, or a jump out of it, with the arguments that are constants.
pub(crate) struct CallSite {
    arguments: Known,
    machine: Machine,
}

impl CallSite {
    pub(crate) fn argument(&self, number: usize) -> Option<u64> {
        self.arguments.value(*self.machine.arguments().get(number)?)
    }
}

/// Shows each call of a function. One that is reached from several places with other arguments is there several
/// times: compilers share the ends of branches that are the same.
///
/// One pass in the order of addresses; jumps backwards add nothing.
pub(crate) fn for_each_call(function: &Function, mut show: impl FnMut(&CallSite)) {
    let mut ahead: BTreeMap<u64, Vec<Known>> = BTreeMap::new();
    let mut room = MAX_AHEAD;
    let mut ways = vec![Known::default()];
    for instruction in &function.instructions {
        for way in ahead.remove(&instruction.address).unwrap_or_default() {
            room += 1;
            if ways.len() < MAX_WAYS && !ways.contains(&way) {
                ways.push(way);
            }
        }
        let (is_exit, target) = match instruction.flow {
            Flow::Jump(target) | Flow::Branch(target) => {
                let is_inner = function.range.contains(&target);
                (!is_inner, Some(target).filter(|_| is_inner && target > instruction.address))
            }
            flow => (matches!(flow, Flow::Call(_)), None),
        };
        if let Some(target) = target {
            let arriving = ahead.entry(target).or_default();
            let most = room.min(MAX_WAYS.saturating_sub(arriving.len()));
            let count = ways.len().min(most);
            arriving.extend(ways.iter().take(count));
            room -= count;
        }
        for way in ways.iter().filter(|_| is_exit) {
            show(&CallSite { arguments: *way, machine: function.machine });
        }
        if instruction.flow.goes_on() {
            for way in &mut ways {
                *way = way.after(instruction);
                if let Flow::Call(_) = instruction.flow {
                    way.forget(function.machine.scratch());
                }
            }
            ways.dedup();
        } else {
            ways.clear();
        }
    }
}

/// The registers that hold numbers or addresses.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Known([Option<u64>; 32]);

impl Known {
    fn value(&self, register: Register) -> Option<u64> {
        self.0.get(usize::from(register)).copied().flatten()
    }

    fn after(mut self, instruction: &Instruction) -> Self {
        let set = instruction.effect.and_then(|effect| {
            let value = match effect.value {
                Setting::Constant(value) => value,
                Setting::Sum(from, number) => {
                    self.value(from)?.wrapping_add_signed(i64::from(number))
                }
                Setting::Word(..) => return None,
            };
            Some((usize::from(effect.register), value))
        });
        self.forget(instruction.writes);
        if let Some((register, value)) = set
            && let Some(known) = self.0.get_mut(register)
        {
            *known = Some(value);
        }
        self
    }

    fn forget(&mut self, registers: u32) {
        for (register, known) in self.0.iter_mut().enumerate() {
            if registers >> register & 1 == 1 {
                *known = None;
            }
        }
    }
}

/// `lea register, [rip + distance]`, and in files with fixed addresses `mov register, address`.
fn places_x86_64(elf: &Elf, segment: &Segment, targets: &[u64], places: &mut Vec<u64>) {
    let bytes = elf.bytes_of(segment);
    for at in memchr_iter(0x8d, bytes) {
        if places.len() == MAX_PLACES {
            return;
        }
        let is_relative = bytes.get(at + 1).is_some_and(|operands| operands & 0xc7 == 0x05);
        let Some(distance) = i32_at(bytes, at as u64 + 2).filter(|_| is_relative) else { continue };
        let next = segment.address + at as u64 + 6;
        if targets.binary_search(&next.wrapping_add_signed(i64::from(distance))).is_ok() {
            places.push(segment.address + at as u64);
        }
    }
    if elf.has_fixed_addresses {
        for target in targets.iter().filter_map(|target| u32::try_from(*target).ok()) {
            let target = target.to_le_bytes();
            let found = memmem::find_iter(bytes, &target);
            let room = MAX_PLACES - places.len();
            places.extend(found.take(room).map(|at| segment.address + at as u64));
        }
    }
}

/// `adrp register, page` and `add register, register, number`, with at most `BETWEEN` others between. There may be
/// another `add`: GCC takes the addresses of several objects from one.
///
/// What other instructions do to a register is not looked at: these are places to decode, not results.
fn places_aarch64(elf: &Elf, segment: &Segment, targets: &[u64], places: &mut Vec<u64>) {
    /// Instructions between the two: compilers move them apart.
    const BETWEEN: usize = 64;
    let mut known = [(0_u64, usize::MAX); 32];
    let first = (4 - segment.address % 4) % 4;
    let bytes = elf.bytes_of(segment).get(first as usize..).unwrap_or_default();
    for (index, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
        let word = u32_at(word, 0).unwrap_or_default();
        let address = segment.address + first + index as u64 * 4;
        let (to, from) = ((word & 31) as usize, (word >> 5 & 31) as usize);
        let (value, since) = if word & 0x9f00_0000 == 0x9000_0000 {
            let distance = ((word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3) as i32;
            let distance = i64::from(distance << 11 >> 11) << 12;
            ((address & !0xfff).wrapping_add_signed(distance), index)
        } else if word & 0xffc0_0000 == 0x9100_0000
            && let Some((value, since)) = known.get(from)
            && index.checked_sub(*since).is_some_and(|between| between <= BETWEEN)
        {
            (value.wrapping_add(u64::from(word >> 10 & 0xfff)), *since)
        } else {
            continue;
        };
        if let Some(known) = known.get_mut(to) {
            *known = (value, since);
        }
        if targets.binary_search(&value).is_ok() && places.len() < MAX_PLACES {
            places.push(address);
        }
    }
}

/// `call distance`
fn calls_x86_64(elf: &Elf, segment: &Segment, targets: &[u64], places: &mut Vec<u64>) {
    let bytes = elf.bytes_of(segment);
    for at in memchr_iter(0xe8, bytes) {
        let Some(distance) = i32_at(bytes, at as u64 + 1) else { continue };
        let next = segment.address.wrapping_add(at as u64 + 5);
        let target = next.wrapping_add_signed(i64::from(distance));
        if targets.binary_search(&target).is_ok() && places.len() < MAX_PLACES {
            places.push(segment.address + at as u64);
        }
    }
}

/// `bl distance`
fn calls_aarch64(elf: &Elf, segment: &Segment, targets: &[u64], places: &mut Vec<u64>) {
    let first = (4 - segment.address % 4) % 4;
    let bytes = elf.bytes_of(segment).get(first as usize..).unwrap_or_default();
    for (index, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
        let word = u32_at(word, 0).unwrap_or_default();
        if word & 0xfc00_0000 == 0x9400_0000 {
            let address = segment.address + first + index as u64 * 4;
            let distance = i64::from((word << 6) as i32 >> 6) * 4;
            let target = address.wrapping_add_signed(distance);
            if targets.binary_search(&target).is_ok() && places.len() < MAX_PLACES {
                places.push(address);
            }
        }
    }
}

//! What a function does with its arguments: all paths through it, with registers as pointers into its arguments.
//!
//! Offsets of fields come from this: a getter of a library reads the field that it returns.

use std::collections::{BTreeSet, HashMap};

use super::{Flow, Function, Instruction, Setting};
use crate::machine::RESULT;

/// The most steps of all paths together, for a bound of time and memory: a step keeps about 400 bytes. Getters take
/// less than 100.
const MAX_STEPS: usize = 1 << 13;

/// The most ways that wait to be followed.
const MAX_OPEN: usize = 1 << 12;

/// The most different states that are followed from one instruction.
const MAX_STATES: usize = 8;

const REGISTERS: usize = 32;

/// An address, as far as it is known: a place near what a function was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pointer {
    pub(crate) source: Source,
    pub(crate) offset: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    /// An argument, by its number.
    Argument(u8),
    /// The 64-bit word in what an argument points to.
    Field(u8, i32),
    /// The first argument on the stack.
    Stack,
}

/// A place that a function reads, writes, or takes the address of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Touch {
    pub(crate) pointer: Pointer,
    /// In bytes; 0 for an address.
    pub(crate) size: u8,
    pub(crate) is_write: bool,
}

type State = [Option<Pointer>; REGISTERS];

/// What was seen on all paths.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) touched: BTreeSet<Touch>,
    /// What the function returns, where that is known.
    pub(crate) returned: BTreeSet<Pointer>,
    /// The functions that it calls with its own first three arguments.
    pub(crate) forwarded_to: BTreeSet<u64>,
    /// No path was left out.
    pub(crate) is_complete: bool,
}

impl Walk {
    /// Follows all paths from a function's entry, as far as the bounds allow.
    pub(crate) fn over(function: &Function) -> Self {
        let mut walk = Self { is_complete: true, ..Self::default() };
        let mut seen: HashMap<usize, Vec<State>> = HashMap::new();
        let mut open = vec![(0, start(function))];
        let mut steps = 0;
        while let Some((at, state)) = open.pop() {
            let Some(instruction) = function.instructions.get(at) else { continue };
            let states = seen.entry(at).or_default();
            if states.contains(&state) {
                continue;
            }
            if states.len() == MAX_STATES || steps == MAX_STEPS {
                walk.is_complete = false;
                continue;
            }
            if open.len() > MAX_OPEN {
                walk.is_complete = false;
                break;
            }
            states.push(state);
            steps += 1;
            let after = walk.step(function, instruction, &state);
            if instruction.flow.goes_on() {
                open.push((at + 1, after));
            }
            let targets = function.inner_targets(instruction);
            open.extend(targets.filter_map(|it| Some((function.index_of(it)?, after))));
        }
        walk
    }

    fn step(&mut self, function: &Function, instruction: &Instruction, state: &State) -> State {
        let value = |register: u8| state.get(usize::from(register)).copied().flatten();
        if let Some(access) = instruction.access
            && let Some(base) = value(access.base)
        {
            let pointer = base.plus(access.displacement);
            self.touched.insert(Touch { pointer, size: access.size, is_write: access.is_write });
        }
        let machine = function.machine;
        if let Flow::Call(Some(target)) = instruction.flow {
            let own = |number: u8| Pointer { source: Source::Argument(number), offset: 0 };
            let mut arguments = (0..).zip(machine.first_arguments(3));
            if arguments.all(|(number, register)| value(*register) == Some(own(number))) {
                self.forwarded_to.insert(target);
            }
        }
        if instruction.flow == Flow::Return {
            self.returned.extend(value(RESULT));
        }
        let set = instruction.effect.and_then(|effect| {
            let value = match effect.value {
                Setting::Constant(_) => None,
                Setting::Sum(from, number) => value(from).map(|from| from.plus(number)),
                Setting::Word(from, number) => value(from).and_then(|from| from.word(number)),
            };
            Some((effect.register, value?))
        });
        if let (Some((_, pointer)), Some(Setting::Sum(_, number))) =
            (set, instruction.effect.map(|effect| effect.value))
            && number != 0
            && pointer.source != Source::Stack
        {
            self.touched.insert(Touch { pointer, size: 0, is_write: false });
        }
        let changes = match instruction.flow {
            Flow::Call(_) => instruction.writes | machine.scratch(),
            _ => instruction.writes,
        };
        let mut after = *state;
        for (register, value) in after.iter_mut().enumerate() {
            let is_kept = changes >> register & 1 == 0;
            let is_set = set.filter(|&(set, _)| usize::from(set) == register);
            *value = is_set.map(|(_, value)| value).or(value.filter(|_| is_kept));
        }
        after
    }

    /// If the function touches this place.
    pub(crate) fn touches(&self, pointer: Pointer) -> bool {
        self.touched.iter().any(|touch| touch.pointer == pointer)
    }
}

/// The registers at a function's entry.
fn start(function: &Function) -> State {
    let machine = function.machine;
    let mut state = [None; REGISTERS];
    let mut set = |register: u8, pointer| {
        if let Some(value) = state.get_mut(usize::from(register)) {
            *value = Some(pointer);
        }
    };
    for (number, register) in machine.arguments().iter().enumerate() {
        set(*register, Pointer { source: Source::Argument(number as u8), offset: 0 });
    }
    let offset = -machine.return_address();
    set(machine.stack_pointer(), Pointer { source: Source::Stack, offset });
    state
}

impl Pointer {
    fn plus(self, number: i32) -> Self {
        Self { offset: self.offset.wrapping_add(number), ..self }
    }

    /// The word at this place and a number.
    fn word(self, number: i32) -> Option<Self> {
        match self.source {
            Source::Argument(argument) => {
                let field = Source::Field(argument, self.plus(number).offset);
                Some(Self { source: field, offset: 0 })
            }
            Source::Field(..) | Source::Stack => None,
        }
    }
}

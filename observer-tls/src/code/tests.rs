use super::*;
use crate::tests::fixture::{Assembler, CODE, Fixture, TEXTS};

/// A function of these bytes, in a file.
fn decode(machine: Machine, code: &[u8]) -> Result<Function, Refusal> {
    let mut fixture = Fixture::new(machine);
    let start = fixture.function(code);
    let file = fixture.build();
    Function::decode(&Elf::parse(&file).unwrap(), start..start + code.len() as u64)
}

fn x86(code: &[u8]) -> Function {
    decode(Machine::X86_64, code).unwrap()
}

fn arm(words: &[u32]) -> Function {
    let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    decode(Machine::Aarch64, &code).unwrap()
}

/// Where the entry probe is and how many bytes are on the stack there, for a function of two arguments.
fn entry(function: &Function) -> Result<(u64, u32), Refusal> {
    let arguments = function.machine.arguments().get(..2).unwrap();
    function.entry(arguments).map(|(instruction, pushed)| (instruction.address - CODE, pushed))
}

fn addresses(returns: &[Instruction]) -> Vec<u64> {
    returns.iter().map(|it| it.address - CODE).collect()
}

#[test]
fn all_returns_are_found() {
    // test edi, edi; je; ret; rep ret; mov eax, 0xc3c3c3c3 ; ret
    let code = [0x85, 0xff, 0x74, 0x01, 0xc3, 0xf3, 0xc3, 0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3];
    assert_eq!(x86(&code).returns().map(|it| addresses(&it)), Ok(vec![4, 5, 12]));
}

#[test]
fn a_function_must_decode_to_its_end() {
    let decode = |code| decode(Machine::X86_64, code).map(|_| ());
    assert_eq!(decode(&[0x31, 0xc0, 0xc3]), Ok(()));
    // Cut off in an instruction; runs on behind its end; invalid; jumps into an instruction.
    for code in
        [&[0xc3, 0x48][..], &[0x31, 0xc0], &[0x06, 0xc3], &[0xeb, 0x01, 0xb8, 0, 0, 0, 0, 0xc3]]
    {
        assert_eq!(decode(code), Err(Refusal::Undecodable));
    }
    // Ends with a call that does not return.
    assert_eq!(decode(&[0xe8, 0, 0, 0, 0]), Ok(()));
}

#[test]
fn a_function_that_is_too_long_is_not_decoded() {
    let fixture = Fixture::new(Machine::X86_64).build();
    let elf = Elf::parse(&fixture).unwrap();
    let decode = |range| Function::decode(&elf, range).map(|_| ());
    assert_eq!(decode(CODE..CODE + MAX_FUNCTION + 1), Err(Refusal::TooLong));
    assert_eq!(decode(CODE..CODE + MAX_FUNCTION), Err(Refusal::Extent));
    #[expect(clippy::reversed_empty_ranges, reason = "hostile tables have them")]
    let reversed = CODE..CODE - 1;
    assert_eq!(decode(reversed), Err(Refusal::Extent));
}

#[test]
fn exits_that_are_no_returns_are_refused() {
    let returns = |code| x86(code).returns().map(|_| ());
    // jmp rax; ud2; ret 8
    assert_eq!(returns(&[0xff, 0xe0]), Err(Refusal::IndirectJump));
    assert_eq!(returns(&[0x0f, 0x0b]), Err(Refusal::NoReturn));
    assert!(decode(Machine::X86_64, &[0xc2, 8, 0]).is_err());
}

/// `cmp edi, 1; ja end; mov edi, edi; lea rax, [rip + table]; movsxd rdx, [rax + rdi * 4]; …; ret; mov eax, 1; ret`
fn switch(before_jump: &[u8], entries: &[i32]) -> Result<Function, Refusal> {
    let mut fixture = Fixture::new(Machine::X86_64);
    let table = fixture.text(&entries.iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<_>>());
    let start = fixture.next_function();
    let mut code = Assembler::at(start);
    code.bytes(&[0x83, 0xff, 0x01, 0x77, before_jump.len() as u8 + 15, 0x89, 0xff]);
    code.relative(&[0x48, 0x8d, 0x05], table).bytes(&[0x48, 0x63, 0x14, 0xb8]);
    code.bytes(before_jump).bytes(&[0xff, 0xe2, 0xc3, 0xb8, 1, 0, 0, 0, 0xc3]);
    let length = code.code.len() as u64;
    fixture.function(&code.code);
    let file = fixture.build();
    Function::decode(&Elf::parse(&file).unwrap(), start..start + length)
}

#[test]
fn a_switch_is_no_exit() {
    // The code is at CODE, the table at TEXTS + 1.
    let distance = (CODE - TEXTS - 1) as i32;
    let (ends, others) = (distance + 23, distance + 24);
    let returns = |function: Result<Function, Refusal>| {
        function.and_then(|it| it.returns()).map(|it| addresses(&it))
    };
    // add rdx, rax
    let add = [0x48, 0x01, 0xc2];
    assert_eq!(returns(switch(&add, &[ends, others])), Ok(vec![23, 29]));
    // With another instruction before the jump: mov ecx, esi.
    let (ends, others) = (ends + 2, others + 2);
    let apart = [0x48, 0x01, 0xc2, 0x89, 0xf1];
    assert_eq!(returns(switch(&apart, &[ends, others])), Ok(vec![25, 31]));
    // The first entry leads out of the function, or into an instruction.
    assert_eq!(returns(switch(&apart, &[0])), Err(Refusal::IndirectJump));
    assert_eq!(returns(switch(&apart, &[others + 1])), Err(Refusal::IndirectJump));
    // An entry leads behind the instruction that has the table's address.
    assert_eq!(returns(switch(&apart, &[ends, distance + 18])), Err(Refusal::IndirectJump));
    // The sum is not that of the table and the entry: add rdx, rcx; mov rdx, [rdx].
    assert_eq!(returns(switch(&[0x48, 0x01, 0xca], &[ends])), Err(Refusal::IndirectJump));
    let loads = [0x48, 0x01, 0xc2, 0x48, 0x8b, 0x12];
    assert_eq!(returns(switch(&loads, &[ends])), Err(Refusal::IndirectJump));
}

#[test]
fn a_part_that_does_not_return_is_no_exit() {
    let whole = CODE - 0x100..CODE;
    let is_dead_end = |code: &[u8]| x86(code).is_dead_end_of(&whole);
    // call; jmp back; ret; jmp elsewhere; jmp rax
    assert!(is_dead_end(&[0xe8, 0, 0, 0, 0]));
    assert!(is_dead_end(&[0xe9, 0xf0, 0xff, 0xff, 0xff]));
    assert!(!is_dead_end(&[0x90, 0xc3]));
    assert!(!is_dead_end(&[0xe9, 0, 1, 0, 0]));
    assert!(!is_dead_end(&[0xff, 0xe0]));
}

#[test]
fn what_a_function_calls() {
    let targets = |code| x86(code).targets().collect::<Vec<u64>>();
    // mov r8, rcx; xor ecx, ecx; jmp
    let code = [0x49, 0x89, 0xc8, 0x31, 0xc9, 0xe9, 0, 1, 0, 0];
    assert_eq!(targets(&code), [CODE + 10 + 0x100]);
    // call; call [rip + 0x100]; call rax; ret
    let code = [0xe8, 0, 1, 0, 0, 0xff, 0x15, 0, 1, 0, 0, 0xff, 0xd0, 0xc3];
    assert_eq!(targets(&code), [CODE + 5 + 0x100, CODE + 11 + 0x100]);
}

#[test]
fn jumps_out_of_a_function() {
    let targets = |code| Vec::from_iter(x86(code).outer_targets());
    // jmp; je and ret
    assert_eq!(targets(&[0xe9, 0, 1, 0, 0]), [CODE + 0x105]);
    assert_eq!(targets(&[0x0f, 0x84, 0, 1, 0, 0, 0xc3]), [CODE + 0x106]);
    assert_eq!(targets(&[0x74, 0, 0xc3]), []);
}

#[test]
fn the_entry_is_the_first_cheap_instruction() {
    // push rbp
    assert_eq!(entry(&x86(&[0x55, 0xc3])), Ok((0, 0)));
    // endbr64; mov rax, rdi; push rbp
    assert_eq!(entry(&x86(&[0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x89, 0xf8, 0x55, 0xc3])), Ok((7, 0)));
    // sub rsp, 24; test edx, edx; js
    let code = [0x48, 0x83, 0xec, 0x18, 0x85, 0xd2, 0x78, 0x00, 0xc3];
    assert_eq!(entry(&x86(&code)), Ok((6, 24)));
    // mov rdi, rsi: the first argument is gone before push
    assert_eq!(entry(&x86(&[0x48, 0x89, 0xf7, 0x55, 0xc3])), Ok((0, 0)));
    // mov edi, esi
    assert_eq!(entry(&x86(&[0x89, 0xf7, 0x55, 0xc3])), Ok((0, 0)));
    // mov sil, 1
    assert_eq!(entry(&x86(&[0x40, 0xb6, 1, 0x55, 0xc3])), Ok((0, 0)));
    // and rsp, -16: where arguments on the stack are is no longer known
    assert_eq!(entry(&x86(&[0x48, 0x83, 0xe4, 0xf0, 0x55, 0xc3])), Ok((0, 0)));
    // A call is emulated, too, but not with a shadow stack.
    assert_eq!(entry(&x86(&[0x90, 0xe8, 0, 0, 0, 0, 0xc3])), Ok((0, 0)));
    assert_eq!(entry(&x86(&[0x31, 0xc0, 0xe8, 0, 0, 0, 0, 0xc3])), Ok((0, 0)));
}

#[test]
fn a_jump_to_the_entry_is_not_another_call() {
    // xor eax, eax; push rbp; jmp to push rbp
    assert_eq!(entry(&x86(&[0x31, 0xc0, 0x55, 0xeb, 0xfd])), Ok((0, 0)));
    // xor eax, eax; push rbp; jmp to the start
    assert_eq!(entry(&x86(&[0x31, 0xc0, 0x55, 0xeb, 0xfb])), Err(Refusal::Prologue));
}

#[test]
fn aarch64_exits() {
    // cbz x0; ret; ret x1
    let function = arm(&[0xb400_0040, 0xd65f_03c0, 0xd65f_0020]);
    assert_eq!(function.returns().map(|it| addresses(&it)), Ok(vec![4, 8]));
    // retaa; br x16; b out; tbz out; udf
    let returns = |word| arm(&[word, 0xd65f_03c0]).returns().map(|_| ());
    assert_eq!(returns(0xd65f_0bff), Err(Refusal::SignedReturn));
    assert_eq!(returns(0xd61f_0200), Err(Refusal::IndirectJump));
    assert_eq!(Vec::from_iter(arm(&[0x1400_0100]).outer_targets()), [CODE + 0x400]);
    let branch = arm(&[0x3600_0800, 0xd65f_03c0]);
    assert_eq!(Vec::from_iter(branch.outer_targets()), [CODE + 0x100]);
    assert_eq!(arm(&[0]).returns().map(|_| ()), Err(Refusal::NoReturn));
    assert!(decode(Machine::Aarch64, &[0xc0, 0x03, 0x5f]).is_err());
    // An unallocated encoding.
    assert!(decode(Machine::Aarch64, &0x0600_0000_u32.to_le_bytes()).is_err());
}

#[test]
fn aarch64_writes_what_it_may_write() {
    let writes = |word| arm(&[word, 0xd65f_03c0]).instructions[0].writes;
    // cmp sp, x16; str x0, [sp, #8]; nop signs at most
    assert_eq!(writes(0xeb30_63ff), 0);
    assert_eq!(writes(0xf900_07e0), 0);
    assert_eq!(writes(0xd503_201f), 1 << 30);
    // ldp x29, x30, [sp], #16 changes the base, too
    let pair = writes(0xa8c1_7bfd);
    assert_eq!(pair & (1 << 29 | 1 << 30 | 1 << 31), 1 << 29 | 1 << 30 | 1 << 31);
    // stp x29, x30, [sp, #-16]!
    assert_eq!(writes(0xa9bf_7bfd), 1 << 31);
    // ldr x16, [x28, #16]
    assert_eq!(writes(0xf940_0b90), 1 << 16);
    // add sp, sp, w1, uxtw
    assert_eq!(writes(0x8b21_43ff), 1 << 31);
    // swp x1, x2, [x3]
    assert_ne!(writes(0xf821_8062) & 1 << 2, 0);
}

#[test]
fn fields_that_getters_read() {
    let field = |argument, at| Source::Field(argument, at);
    let read = |code: &[u8]| Walk::over(&x86(code));
    // mov rax, [rdi + 0x10]; ret
    let walk = read(&[0x48, 0x8b, 0x47, 0x10, 0xc3]);
    assert!(walk.is_complete);
    assert_eq!(Vec::from_iter(walk.returned), [Pointer { source: field(0, 0x10), offset: 0 }]);
    // mov rax, [rdi + 0xa8]; lea rsi, [rax + 0xc4]; ret
    let walk = read(&[0x48, 0x8b, 0x87, 0xa8, 0, 0, 0, 0x48, 0x8d, 0xb0, 0xc4, 0, 0, 0, 0xc3]);
    assert!(walk.touches(Pointer { source: field(0, 0xa8), offset: 0xc4 }));
    // push rbp; mov rbp, rsp; mov rax, [rbp + 16]; ret: the first argument on the stack
    let walk = read(&[0x55, 0x48, 0x89, 0xe5, 0x48, 0x8b, 0x45, 0x10, 0xc3]);
    assert!(walk.touches(Pointer { source: Source::Stack, offset: 0 }));
    // mov rdi, rsi; mov rax, [rdi + 8]: of the second argument
    let walk = read(&[0x48, 0x89, 0xf7, 0x48, 0x8b, 0x47, 8, 0xc3]);
    assert_eq!(Vec::from_iter(walk.returned), [Pointer { source: field(1, 8), offset: 0 }]);
    // A call takes the arguments with it, but not rbx: push rbx; mov rbx, rdi; call; mov rax, [rdi]; mov rax, [rbx]
    let walk =
        read(&[0x53, 0x48, 0x89, 0xfb, 0xe8, 0, 0, 0, 0, 0x48, 0x8b, 0x07, 0x48, 0x8b, 0x03, 0xc3]);
    let touched: Vec<Source> = walk.touched.iter().map(|touch| touch.pointer.source).collect();
    assert_eq!(touched, [Source::Argument(0)]);
}

#[test]
fn fields_that_aarch64_getters_read() {
    // ldr x0, [x0, #80]; ret
    let walk = Walk::over(&arm(&[0xf940_2800, 0xd65f_03c0]));
    let field = Pointer { source: Source::Field(0, 80), offset: 0 };
    assert_eq!(Vec::from_iter(walk.returned), [field]);
    // add x1, x0, #0x188; ret
    let walk = Walk::over(&arm(&[0x9106_2001, 0xd65f_03c0]));
    assert!(walk.touches(Pointer { source: Source::Argument(0), offset: 0x188 }));
}

#[test]
fn loops_end() {
    // add rdi, 1; mov rax, [rdi]; jmp to the start
    let walk = Walk::over(&x86(&[0x48, 0x83, 0xc7, 0x01, 0x48, 0x8b, 0x07, 0xeb, 0xf7]));
    assert!(!walk.is_complete);
}

//! `cargo xtask bpf-stats`: the cost of the BPF programs to the verifier, by kernel.

mod stack;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::verifier::{Parts, Program, within_bounds};
use crate::{build, exec, generated, setup, vm};

/// Bound on the stack of a program, in bytes: that of kernels before 6.13. Later ones give large programs a stack of their
/// own.
const MOST_STACK: u32 = 512;

const HEAD: &str = "# What the verifier takes\n\nThe largest program of each backend: the instructions that the \
    verifier follows, and the bytes of machine code. [kernels.md](../kernels.md#what-the-verifier-takes) has the \
    bounds.\n\n";

const HEAD_OF_ALL: &str = "\nWith `--tls auto` and all protocols:\n\n";

/// Kernels and backends, and the form of the output.
#[derive(clap::Args)]
pub(crate) struct Selection {
    #[command(flatten)]
    place: vm::Where,
    /// Writes docs/generated/verifier.md: the largest program of each kernel and backend.
    #[arg(long, conflicts_with_all = ["kernels", "backends"])]
    document: bool,
}

pub(crate) fn run(selection: &Selection) -> Result<()> {
    setup::ensure()?;
    let daemon = build::daemon(true)?;
    let stacks = stack::of(&build::bpf_object()?)?;
    let mut outputs = vm::check(&selection.place, &daemon)?;
    if selection.document {
        outputs.extend(on_this_machine(&daemon)?);
        let [of_default, of_all] = Parts::BOTH.map(|parts| table(&outputs, parts));
        let text = format!("{HEAD}{of_default}{HEAD_OF_ALL}{of_all}");
        return generated::write("verifier.md", "bpf-stats --document", &text);
    }
    let mut is_good = true;
    println!(
        "{:<7} {:<10} {:<7} {:<30} {:>8} {:>9} {:>9} {:>6}",
        "kernel", "backend", "parts", "program", "insns", "verified", "JITed", "stack"
    );
    for vm::Check { kernel, backend, parts, output } in outputs {
        let named = || format!("{kernel} {backend} {parts:?}");
        match within_bounds(&output, parts).with_context(named) {
            Ok(programs) => {
                for program in programs {
                    print(&kernel, backend, parts, &program, stacks.get(&program.name).copied());
                }
            }
            Err(error) => {
                println!("{error:#}");
                is_good = false;
            }
        }
    }
    stack_within_bounds(&stacks)?;
    ensure!(is_good, "not all programs are within the bounds");
    Ok(())
}

/// Returns an error if a program costs this machine's verifier more than the bound, or takes more stack.
pub(crate) fn host() -> Result<()> {
    stack_within_bounds(&stack::of(&build::bpf_object()?)?)?;
    let daemon = build::daemon(true)?;
    for parts in Parts::BOTH {
        let programs = within_bounds(&check_here(&daemon, "auto", parts)?, parts)?;
        let largest = largest(&programs).context("no program was verified")?;
        println!("bpf-stats: the largest, {parts:?} parts: {}, {}", largest.name, cell(largest));
    }
    Ok(())
}

fn stack_within_bounds(stacks: &BTreeMap<String, u32>) -> Result<()> {
    ensure!(!stacks.is_empty(), "the object file has no program");
    let deep: Vec<_> = stacks.iter().filter(|(_, stack)| **stack > MOST_STACK).collect();
    ensure!(deep.is_empty(), "more than {MOST_STACK} bytes of stack: {deep:?}");
    Ok(())
}

/// The output of `observer check` on this machine, for each backend.
fn on_this_machine(daemon: &Path) -> Result<Vec<vm::Check>> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("cannot read the kernel's version")?;
    let kernel = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let places = vm::BACKENDS.iter().flat_map(|backend| Parts::BOTH.map(|parts| (*backend, parts)));
    let check = |(backend, parts)| {
        let output = check_here(daemon, backend, parts)?;
        Ok(vm::Check { kernel: kernel.clone(), backend, parts, output })
    };
    places.map(check).collect()
}

/// The output of `observer check`, which may find that the kernel lacks something.
fn check_here(daemon: &Path, backend: &str, parts: Parts) -> Result<String> {
    let mut check = exec::daemon(daemon)?;
    check.args(["check", "--listen", "127.0.0.1:0", "--backend", backend]).args(parts.flags());
    let output = check.output().context("cannot run observer check")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The program with the most verified instructions.
fn largest(programs: &[Program]) -> Option<&Program> {
    programs
        .iter()
        .filter(|program| program.verified.is_some())
        .max_by_key(|program| program.verified)
}

/// Verified instructions and bytes of machine code.
fn cell(program: &Program) -> String {
    let figure = |figure: Option<u64>| figure.map_or("-".into(), thousands);
    format!("{}; {}", figure(program.verified), figure(program.machine_code))
}

fn thousands(number: u64) -> String {
    match number / 1000 {
        0 => number.to_string(),
        more => format!("{},{:03}", thousands(more), number % 1000),
    }
}

/// The table of these parts in Markdown: a row for each kernel, a column for each backend.
fn table(outputs: &[vm::Check], of: Parts) -> String {
    let mut rows = BTreeMap::<Vec<u32>, BTreeMap<&str, String>>::new();
    for vm::Check { kernel, backend, parts, output } in outputs.iter().filter(|it| it.parts == of) {
        let numbers = kernel.split('.').filter_map(|number| number.parse().ok()).collect();
        let text = match within_bounds(output, *parts) {
            Ok(programs) => largest(&programs).map_or_else(String::new, cell),
            Err(_) => "not allowed there".into(),
        };
        rows.entry(numbers).or_default().insert(backend, text);
    }
    let mut text = format!("| kernel | {} |\n", vm::BACKENDS.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(vm::BACKENDS.len()));
    for (kernel, cells) in rows {
        let kernel = kernel.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
        let cells =
            vm::BACKENDS.iter().map(|backend| cells.get(backend).map_or("", String::as_str));
        let _ = writeln!(text, "| {kernel} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    text
}

fn print(kernel: &str, backend: &str, parts: Parts, program: &Program, stack: Option<u32>) {
    let figure = |figure: Option<u64>| figure.map_or("-".into(), |figure| figure.to_string());
    println!(
        "{kernel:<7} {backend:<10} {:<7} {:<30} {:>8} {:>9} {:>9} {:>6}",
        format!("{parts:?}"),
        program.name,
        program.instructions,
        figure(program.verified),
        figure(program.machine_code),
        figure(stack.map(u64::from))
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_largest_of_each_kernel_and_backend() {
        let check = |kernel: &str, backend, output: &str| vm::Check {
            kernel: kernel.into(),
            backend,
            parts: Parts::Default,
            output: output.into(),
        };
        let two = "ok  program       a: 9 instructions, 12 verified, 90 bytes of machine code\n\
                   ok  program       b: 9 instructions, 25145 verified, 37475 bytes of machine code\n";
        let all = [
            check("6.12", "kprobe", two),
            check("6.1", "fentry", "ok  program       a: 9 instructions, 1012 verified\n"),
            check("6.1", "kprobe", "NO  backend       no kprobes\n"),
        ];
        assert_eq!(
            table(&all, Parts::Default),
            "| kernel | socket | fentry | kprobe | tracepoint |\n|---|---|---|---|---|\n\
             | 6.1 |  | 1,012; - | not allowed there |  |\n\
             | 6.12 |  |  | 25,145; 37,475 |  |\n"
        );
    }

    #[test]
    fn too_much_stack_is_named() {
        let of = |stack| BTreeMap::from([("deep".to_owned(), stack)]);
        stack_within_bounds(&of(MOST_STACK)).unwrap();
        let error = stack_within_bounds(&of(MOST_STACK + 8)).unwrap_err();
        assert!(error.to_string().contains("deep"));
        assert!(stack_within_bounds(&BTreeMap::new()).is_err());
    }
}

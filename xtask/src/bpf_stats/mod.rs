//! `cargo xtask bpf-stats`: what the kernel programs take of the verifier, by kernel.

mod stack;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::verifier::{Program, within_bounds};
use crate::{build, exec, setup, vm};

/// The most stack that a program may take, of the 512 bytes that the kernel allows.
const MOST_STACK: u32 = 480;

/// What to look at, and how to tell it.
#[derive(clap::Args)]
pub(crate) struct Selection {
    #[command(flatten)]
    place: vm::Where,
    /// Prints the table of docs/kernels.md: the largest program of each kernel and backend.
    #[arg(long)]
    document: bool,
}

/// What `observer check` says of one kernel and backend.
struct Told {
    kernel: String,
    backend: &'static str,
    said: String,
}

pub(crate) fn run(selection: &Selection) -> Result<ExitCode> {
    setup::ensure()?;
    let daemon = build::daemon(true)?;
    let stacks = stack::of(&build::kernel_programs()?)?;
    let of_guest =
        |(kernel, backend, said): (&str, _, _)| Told { kernel: kernel.into(), backend, said };
    let mut told: Vec<Told> =
        vm::check(&selection.place, &daemon)?.into_iter().map(of_guest).collect();
    if selection.document {
        told.extend(of_host(&daemon)?);
        print!("{}", table(&told));
        return Ok(ExitCode::SUCCESS);
    }
    let mut good = true;
    println!(
        "{:<7} {:<10} {:<30} {:>8} {:>9} {:>9} {:>6}",
        "kernel", "backend", "program", "insns", "verified", "JITed", "stack"
    );
    for Told { kernel, backend, said } in told {
        match within_bounds(&said).with_context(|| format!("{kernel} {backend}")) {
            Ok(programs) => {
                for program in programs {
                    print(&kernel, backend, &program, stacks.get(&program.name).copied());
                }
            }
            Err(error) => {
                println!("{error:#}");
                good = false;
            }
        }
    }
    if let Err(error) = stack_within_bounds(&stacks) {
        println!("{error:#}");
        good = false;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An error if the programs that this machine's kernel allows take more than they may of its verifier,
/// or any of them of the stack.
pub(crate) fn host() -> Result<()> {
    stack_within_bounds(&stack::of(&build::kernel_programs()?)?)?;
    let said = check_here(&build::daemon(true)?, "auto")?;
    let programs = within_bounds(&said)?;
    let largest = largest(&programs).context("no program is verified")?;
    println!("bpf-stats: the largest program here: {}, {}", largest.name, cell(largest));
    Ok(())
}

fn stack_within_bounds(stacks: &BTreeMap<String, u32>) -> Result<()> {
    ensure!(!stacks.is_empty(), "the object file has no program");
    let deep: Vec<_> = stacks.iter().filter(|(_, stack)| **stack > MOST_STACK).collect();
    ensure!(deep.is_empty(), "more than {MOST_STACK} bytes of stack: {deep:?}");
    Ok(())
}

/// What each backend takes on this machine.
fn of_host(daemon: &Path) -> Result<Vec<Told>> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel is it?")?;
    let kernel = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let of = |backend| {
        let said = check_here(daemon, backend)?;
        Ok(Told { kernel: kernel.clone(), backend, said })
    };
    vm::BACKENDS.iter().copied().map(of).collect()
}

/// What `observer check` says here, whether or not it finds all that it needs.
fn check_here(daemon: &Path, backend: &str) -> Result<String> {
    let mut check = exec::daemon(daemon)?;
    let check = check.args(["check", "--listen", "127.0.0.1:0", "--backend", backend]);
    let output = check.output().context("run observer check")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The one of which the verifier follows the most.
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

/// In Markdown: a row for each kernel, a column for each backend.
fn table(told: &[Told]) -> String {
    let mut rows = BTreeMap::<Vec<u32>, BTreeMap<&str, String>>::new();
    for Told { kernel, backend, said } in told {
        let numbers = kernel.split('.').filter_map(|number| number.parse().ok()).collect();
        let text = match within_bounds(said) {
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

fn print(kernel: &str, backend: &str, program: &Program, stack: Option<u32>) {
    let figure = |figure: Option<u64>| figure.map_or("-".into(), |figure| figure.to_string());
    println!(
        "{kernel:<7} {backend:<10} {:<30} {:>8} {:>9} {:>9} {:>6}",
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
        let told = |kernel: &str, backend, said: &str| Told {
            kernel: kernel.into(),
            backend,
            said: said.into(),
        };
        let two = "ok  program       a: 9 instructions, 12 verified, 90 bytes of machine code\n\
                   ok  program       b: 9 instructions, 25145 verified, 37475 bytes of machine code\n";
        let all = [
            told("6.12", "kprobe", two),
            told("6.1", "fentry", "ok  program       a: 9 instructions, 1012 verified\n"),
            told("6.1", "kprobe", "NO  backend       no kprobes\n"),
        ];
        assert_eq!(
            table(&all),
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

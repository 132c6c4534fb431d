//! The cost of each BPF program to the kernel's verifier, as `observer check` prints it, and the bound on it.

use anyhow::{Result, ensure};

/// Bound on the instructions that the verifier follows. The kernel refuses a program at a million. The number differs from
/// kernel to kernel, so the bound leaves room for kernels that were not tried.
const MOST_VERIFIED: u64 = 100_000;

/// The same with [`ALL_PARTS`].
const MOST_VERIFIED_OF_ALL: u64 = 350_000;

/// The flags of `observer check` with which the verifier follows all parts of the programs.
const ALL_PARTS: [&str; 6] =
    ["--tls", "auto", "--protocol", "grpc,thrift,grpc-web,connect", "--thrift-port", "9090"];

/// The parts of the programs that are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Those that are always there.
    Default,
    /// All, by [`ALL_PARTS`].
    All,
}

impl Parts {
    pub(crate) const BOTH: [Self; 2] = [Self::Default, Self::All];

    /// The flags of `observer check`.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Default => &[],
            Self::All => &ALL_PARTS,
        }
    }

    fn most_verified(self) -> u64 {
        match self {
            Self::Default => MOST_VERIFIED,
            Self::All => MOST_VERIFIED_OF_ALL,
        }
    }
}

/// A loaded program and its cost.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) instructions: u64,
    pub(crate) verified: Option<u64>,
    pub(crate) machine_code: Option<u64>,
}

impl Program {
    /// Reads a line of `observer check`: `ok  program  NAME: 5 instructions, 7 verified, …`.
    fn parse(line: &str) -> Option<Self> {
        let (name, figures) = line.strip_prefix("ok  program")?.trim().split_once(": ")?;
        let figure = |unit: &str| {
            let figures = figures.split(", ").find_map(|figure| figure.strip_suffix(unit));
            figures?.trim().parse().ok()
        };
        Some(Self {
            name: name.to_owned(),
            instructions: figure("instructions")?,
            verified: figure("verified"),
            machine_code: figure("bytes of machine code"),
        })
    }
}

/// The programs in the output of `observer check`. An error names those above the bound.
pub(crate) fn within_bounds(output: &str, parts: Parts) -> Result<Vec<Program>> {
    let most = parts.most_verified();
    let programs: Vec<_> = output.lines().filter_map(Program::parse).collect();
    ensure!(!programs.is_empty(), "no program was loaded: {}", output.trim());
    let above: Vec<_> = programs
        .iter()
        .filter(|program| program.verified.is_some_and(|verified| verified > most))
        .map(|program| format!("{} ({})", program.name, program.verified.unwrap_or_default()))
        .collect();
    ensure!(
        above.is_empty(),
        "the verifier follows more than {most} instructions in {}",
        above.join(", ")
    );
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_check_is_read() {
        let output = "ok  backend       fentry would be used\n\
                    ok  program       sweep: 10 instructions, 12 verified, 90 bytes of machine code\n\
                    ok  program       old: 7 instructions\n";
        let sweep = Program {
            name: "sweep".into(),
            instructions: 10,
            verified: Some(12),
            machine_code: Some(90),
        };
        let old =
            Program { name: "old".into(), instructions: 7, verified: None, machine_code: None };
        assert_eq!(within_bounds(output, Parts::Default).unwrap(), [sweep, old]);
    }

    #[test]
    fn a_program_above_the_bound_is_named() {
        let output = "ok  program       fat: 9 instructions, 400001 verified\n";
        for parts in Parts::BOTH {
            let error = within_bounds(output, parts).unwrap_err();
            assert!(error.to_string().contains("fat (400001)"));
            assert!(within_bounds("NO  backend  refused", parts).is_err());
        }
        let output = "ok  program       large: 9 instructions, 200001 verified\n";
        assert!(within_bounds(output, Parts::Default).is_err());
        assert!(within_bounds(output, Parts::All).is_ok());
    }
}

//! `cargo xtask vm`: end-to-end tests on other kernels, in QEMU.
//!
//! Debian's kernels, which apt fetches, boot in a virtual machine with this machine's root, mounted read-only. So the
//! tests run there as they were built here. QEMU emulates in software: that needs no KVM, and is some ten times slower.

mod filters;
mod guest;
mod image;
mod kernels;
mod matrix;
mod places;
mod report;

use anyhow::{Result, ensure};

use crate::{generated, setup};
pub(crate) use filters::FEW;
use filters::FILTER;
pub(crate) use kernels::BACKENDS;
pub(crate) use matrix::{Check, check};
pub(crate) use places::Where;

const HEAD: &str = "# Tests on other kernels\n\nEnd-to-end cases that passed and failed in virtual machines. \
    [kernels.md](../kernels.md#tested-kernels) says which cases these are.\n\n";

/// The cases, kernels and backends to run.
#[derive(clap::Args)]
pub(crate) struct Selection {
    #[command(flatten)]
    place: Where,
    /// Runs everything, and writes the table to docs/generated/vm.md.
    #[arg(long, conflicts_with_all = ["kernels", "backends", "filter"])]
    document: bool,
    /// Which cases, after `--`: parts of their names, with `|` between them.
    #[arg(last = true, value_name = "FILTER")]
    filter: Option<String>,
}

impl Selection {
    /// All kernels and backends, and the cases that are meant for them.
    pub(crate) fn everything() -> Self {
        let all = || vec!["all".to_owned()];
        Self { place: Where { kernels: all(), backends: all() }, document: false, filter: None }
    }

    /// For `cargo xtask ci`: the oldest kernel that is watched and one that is refused, with backends that this machine
    /// may not have. Each kernel takes minutes.
    pub(crate) fn of_ci() -> Self {
        Self {
            place: Where {
                kernels: vec!["5.10".into(), "6.1".into()],
                backends: vec!["fentry".into(), "kprobe".into()],
            },
            document: false,
            filter: Some(FEW.into()),
        }
    }
}

/// Runs the matrix and prints its table. Returns an error unless everything passed.
pub(crate) fn run(Selection { place, document, filter }: &Selection) -> Result<()> {
    setup::ensure()?;
    let cells = matrix::run(place, filter.as_deref().unwrap_or(FILTER))?;
    let table = report::table(&cells);
    print!("{table}");
    if *document {
        generated::write("vm.md", "vm --document", &format!("{HEAD}{table}"))?;
    }
    let passed = !cells.is_empty() && cells.iter().all(report::Cell::is_good);
    ensure!(passed, "not all cases passed: see the table");
    Ok(())
}

//! `cargo xtask vm`: the end-to-end tests on other kernels than this machine's, in QEMU.
//!
//! Debian's kernels, fetched by apt, boot in a virtual machine whose root is this machine's, read
//! only, so that the tests run there as they were built here. Emulation in software suffices, so
//! neither KVM nor a nested virtual machine is needed; it is some ten times slower.

mod filters;
mod guest;
mod image;
mod kernels;
mod matrix;
mod places;
mod report;

use std::process::ExitCode;

use anyhow::Result;

use crate::setup;
pub(crate) use filters::FEW;
use filters::FILTER;
pub(crate) use kernels::BACKENDS;
pub(crate) use matrix::check;
pub(crate) use places::Where;

/// What to run where.
#[derive(clap::Args)]
pub(crate) struct Selection {
    #[command(flatten)]
    place: Where,
    /// Which cases, after `--`: parts of their names, with `|` between them.
    #[arg(last = true, value_name = "FILTER")]
    filter: Option<String>,
}

impl Selection {
    /// All kernels and backends, and the cases that are meant for them.
    pub(crate) fn everything() -> Self {
        let all = || vec!["all".to_owned()];
        Self { place: Where { kernels: all(), backends: all() }, filter: None }
    }

    /// For `cargo xtask ci`: an old and a new kernel, and the backends that this machine's kernel
    /// need not have.
    pub(crate) fn of_ci() -> Self {
        Self {
            place: Where {
                kernels: vec!["5.10".into(), "6.1".into(), "6.12".into()],
                backends: vec!["fentry".into(), "kprobe".into()],
            },
            filter: Some(FEW.into()),
        }
    }
}

pub(crate) fn run(selection: &Selection) -> Result<ExitCode> {
    setup::ensure()?;
    Ok(if matrix(selection)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the matrix, prints its table, and says whether all of it passed.
pub(crate) fn matrix(Selection { place, filter }: &Selection) -> Result<bool> {
    matrix::run(place, filter.as_deref().unwrap_or(FILTER))
}

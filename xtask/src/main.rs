//! The project's commands: `cargo xtask COMMAND`.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "saying what it does is what this program is for"
)]

mod advisories;
mod apt;
mod bench;
mod bpf_stats;
mod build;
mod ci;
mod correctness;
mod demo;
mod deploy;
mod exec;
mod first_run;
mod fuzz;
mod release;
mod run;
mod setup;
mod test;
mod tools;
mod verifier;
mod vm;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

/// The project's commands. Each but `setup` and `fuzz` runs `setup` first.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Xtask {
    /// Finds or installs what compiles the BPF programs.
    Setup,
    /// Builds the daemon with its BPF programs.
    Build {
        /// Optimised, as it is meant to be used.
        #[arg(long)]
        release: bool,
        /// Likewise, and linked statically, for an image with nothing else in it.
        #[arg(long = "static", conflicts_with = "release")]
        linked_statically: bool,
    },
    /// Builds the daemon and runs it, by sudo if need be.
    Run {
        /// The BPF programs say in the log what they decide and why: a build for who debugs them, not optimized.
        #[arg(long)]
        kernel_log: bool,
        /// What the daemon is given, after `--`.
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Shows live what the daemon sees of a small gRPC service and its clients: `observer top`, and
    /// the address of the page.
    Demo {
        /// Stop after so many seconds; else at Ctrl-C.
        #[arg(long = "for", value_name = "SECONDS")]
        seconds: Option<u64>,
    },
    /// Runs all tests: first those that need nothing, then those that need root, by sudo if need be.
    Test {
        /// Runs nothing, but lists all cases in docs/correctness.md.
        #[arg(long)]
        document: bool,
        /// Makes the pictures in docs/images anew, and nothing else.
        #[arg(long, conflicts_with_all = ["document", "args"])]
        screenshots: bool,
        /// Only those that need neither root nor a gRPC stack, and few runs of the simulator: half a minute, once it is
        /// built.
        #[arg(long, conflicts_with_all = ["document", "screenshots"])]
        fast: bool,
        /// A part of the names of the tests to run, and flags for the test binaries after it or `--`.
        #[arg(trailing_var_arg = true, value_name = "FILTER")]
        args: Vec<OsString>,
    },
    /// Measures what watching costs, beside the same work unwatched and beside other ways.
    Bench {
        /// Benchmarks, `--json FILE`, `--plot`; `--help` names all.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Fuzzes what reads bytes that others choose: all targets, or those that are named.
    Fuzz {
        /// Of `fuzz/targets`.
        targets: Vec<String>,
        /// So long for each.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Where the random numbers begin; 0: somewhere else each time.
        #[arg(long, default_value_t = 0)]
        seed: u32,
        /// Runs the target once, with this file.
        #[arg(long, value_name = "FILE")]
        replay: Option<PathBuf>,
    },
    /// Runs end-to-end tests on other kernels, in virtual machines, with every backend.
    Vm(vm::Selection),
    /// Prints what the kernel programs take of the verifier, by kernel; fails above a bound.
    BpfStats(bpf_stats::Selection),
    /// Has what is in deploy/ read by the programs that it is for.
    CheckDeploy {
        /// Also the Helm chart, for which Helm is built, and the Debian package.
        #[arg(long)]
        all: bool,
    },
    /// Takes the security advisories of what is depended on from a checkout of RustSec's advisory-db.
    Advisories {
        /// The checkout.
        database: PathBuf,
    },
    /// Builds the Debian package, by cargo-deb.
    Deb,
    /// Builds what a release consists of: the daemon, linked statically, the Debian package, a bill of materials,
    /// checksums.
    Release,
    /// Runs the README's first commands in a fresh clone, where tracefs is not mounted.
    FirstRun,
    /// Everything a change must pass: formatting, lints, licenses, tests.
    Ci {
        /// Also another architecture, and other kernels in virtual machines.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    match carry_out(Xtask::parse()) {
        Ok(code) => code,
        // Not main's result: with RUST_BACKTRACE set it would bury the message.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Xtask) -> Result<ExitCode> {
    let done = match command {
        Xtask::Setup => setup::run(),
        Xtask::Build { linked_statically: true, .. } => build::run_static(),
        Xtask::Build { release, .. } => build::run(release),
        Xtask::Run { kernel_log, args } => run::run(kernel_log, &args),
        Xtask::Demo { seconds } => demo::run(seconds.map(Duration::from_secs)),
        Xtask::Bench { args } => bench::run(&args),
        Xtask::CheckDeploy { all } => deploy::run(all),
        Xtask::Advisories { database } => advisories::take(&database),
        Xtask::Deb => deploy::deb(),
        Xtask::Release => release::run(),
        Xtask::FirstRun => setup::ensure().and_then(|()| first_run::check()),
        Xtask::Fuzz { targets, seconds, seed, replay } => {
            let effort =
                fuzz::Effort { each: fuzz::Much::Time(Duration::from_secs(seconds)), seed };
            fuzz::run(&targets, effort, replay.as_deref())
        }
        Xtask::Test { screenshots: true, .. } => return test::screenshots(),
        Xtask::Test { fast: true, args, .. } => return test::fast(&args),
        Xtask::Test { document, args, .. } => return test::run(document, &args),
        Xtask::Vm(selection) => return vm::run(&selection),
        Xtask::BpfStats(selection) => return bpf_stats::run(&selection),
        Xtask::Ci { all } => return ci::run(all),
    };
    done.map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::{Result, ensure};
    use clap::Parser as _;

    use super::{Xtask, exec};

    #[test]
    fn commands_in_documents_exist() -> Result<()> {
        let root = exec::workspace();
        let folders = [root.clone(), root.join("docs"), root.join(".github")];
        let mut commands = 0;
        let entries = folders.iter().map(fs::read_dir).collect::<Result<Vec<_>, _>>()?;
        for entry in entries.into_iter().flatten() {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = fs::read_to_string(&path)?;
            for command in text.split("cargo xtask ").skip(1) {
                let command = command.split(['`', '\n', '#', '|']).next().unwrap_or_default();
                // What is in quotes is one word.
                let parts =
                    command.split('\'').enumerate().flat_map(|(number, part)| match number % 2 {
                        0 => part.split_whitespace().collect(),
                        _ => vec![part],
                    });
                if let Err(error) = Xtask::try_parse_from(["xtask"].into_iter().chain(parts)) {
                    // `help` is one that ends with a text, not a mistake.
                    ensure!(!error.use_stderr(), "{}: {command}: {error}", path.display());
                }
                commands += 1;
            }
        }
        ensure!(commands > 20, "only {commands} commands");
        Ok(())
    }
}

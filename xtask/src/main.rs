//! The project's commands: `cargo xtask COMMAND`.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this program reports what it does")]

mod advisories;
mod apt;
mod bench;
mod bpf_stats;
mod build;
mod cases;
mod ci;
mod demo;
mod deploy;
mod exec;
mod first_run;
mod fuzz;
mod generated;
mod release;
mod run;
mod setup;
mod soak;
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

/// The project's commands. All except `setup` and `fuzz` run `setup` first.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Xtask {
    /// Finds or installs the toolchain that compiles the BPF programs.
    Setup,
    /// Builds the daemon with its BPF programs.
    Build {
        /// Optimizes, as for users.
        #[arg(long)]
        release: bool,
        /// Optimizes and links statically, for an image without other files.
        #[arg(long = "static", conflicts_with = "release")]
        linked_statically: bool,
    },
    /// Builds the daemon and runs it, with sudo if necessary.
    Run {
        /// Has the BPF programs log what they decide and why. The build is not optimized.
        #[arg(long)]
        kernel_log: bool,
        /// Arguments of the daemon, after `--`.
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Shows live what the daemon sees of a small gRPC service and its clients.
    ///
    /// It starts `observer top`, and prints the address of the page.
    Demo {
        /// Stops after this many seconds. Without it, Ctrl-C stops the demo.
        #[arg(long = "for", value_name = "SECONDS")]
        seconds: Option<u64>,
        /// Shows services over TLS, of three languages: Go, Python and Node.js.
        ///
        /// These languages must be installed.
        #[arg(long)]
        tls: bool,
    },
    /// Runs all tests: first those that need no root, then the others, with sudo if necessary.
    Test {
        /// Runs nothing, and writes docs/generated/cases.md from the last run of all tests.
        #[arg(long)]
        document: bool,
        /// Runs nothing, and takes the pictures in docs/images again.
        #[arg(long, conflicts_with_all = ["document", "args"])]
        screenshots: bool,
        /// Runs only tests that need neither root nor a gRPC stack, with few seeds of the simulator.
        ///
        /// Takes half a minute once everything is built.
        #[arg(long, conflicts_with_all = ["document", "screenshots"])]
        fast: bool,
        /// A part of the names of the tests to run. Flags of the test binaries follow it, or `--`.
        #[arg(trailing_var_arg = true, value_name = "FILTER")]
        args: Vec<OsString>,
    },
    /// Measures the cost of watching, next to the same work unwatched and to other ways to measure.
    Bench {
        /// Names of benchmarks, `--json FILE`, `--plot`; `--help` lists all.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Runs services of all stacks over TLS, while daemons with `--tls auto` come and go.
    ///
    /// Fails if a call fails, a process crashes, or a probe is left behind. CI does not run it.
    Soak {
        /// How long daemons come and go. A last daemon is left in peace for a tenth of that.
        #[arg(long, default_value_t = 30)]
        minutes: u64,
    },
    /// Fuzzes the code that reads bytes of other programs.
    Fuzz {
        /// Names of files in `fuzz/targets`, without their extension. Without them, all targets.
        targets: Vec<String>,
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Seed of the random numbers; 0: another one each time.
        #[arg(long, default_value_t = 0)]
        seed: u32,
        /// Runs the target once, with this file as its input.
        #[arg(long, value_name = "FILE")]
        replay: Option<PathBuf>,
    },
    /// Runs end-to-end tests on other kernels, in virtual machines, with every backend.
    Vm(vm::Selection),
    /// Prints what the BPF programs cost the verifier, by kernel. Fails if one is above the bound.
    BpfStats(bpf_stats::Selection),
    /// Checks the files in deploy/ with the programs that read them.
    CheckDeploy {
        /// Also checks the Helm chart, which builds Helm, and the Debian package.
        #[arg(long)]
        all: bool,
    },
    /// Copies the security advisories of dependencies from a checkout of RustSec's advisory-db.
    Advisories {
        /// The checkout.
        database: PathBuf,
    },
    /// Builds the Debian package, with cargo-deb.
    Deb,
    /// Builds the files of a release.
    ///
    /// These are the daemon, linked statically, the Debian package, a bill of materials and checksums.
    Release,
    /// Runs the README's first commands in a fresh clone, without tracefs.
    FirstRun,
    /// Runs everything that a change must pass: formatting, lints, licenses, tests.
    Ci {
        /// Also checks another architecture, and all cases on other kernels.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    match carry_out(Xtask::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // With RUST_BACKTRACE set, an error as the result of main is printed with a backtrace.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Xtask) -> Result<()> {
    match command {
        Xtask::Setup => setup::run(),
        Xtask::Build { release, linked_statically } => build::run(release, linked_statically),
        Xtask::Run { kernel_log, args } => run::run(kernel_log, &args),
        Xtask::Demo { seconds, tls } => demo::run(seconds.map(Duration::from_secs), tls),
        Xtask::Bench { args } => bench::run(&args),
        Xtask::Soak { minutes } => soak::run(minutes),
        Xtask::CheckDeploy { all } => deploy::run(all),
        Xtask::Advisories { database } => advisories::take(&database),
        Xtask::Deb => deploy::deb(),
        Xtask::Release => release::run(),
        Xtask::FirstRun => setup::ensure().and_then(|()| first_run::check()),
        Xtask::Fuzz { targets, seconds, seed, replay } => {
            let each = fuzz::Much::Time(Duration::from_secs(seconds));
            fuzz::run(&targets, fuzz::Effort { each, seed }, replay.as_deref())
        }
        Xtask::Test { screenshots: true, .. } => test::screenshots(),
        Xtask::Test { fast: true, args, .. } => test::fast(&args),
        Xtask::Test { document, args, .. } => test::run(document, &args),
        Xtask::Vm(selection) => vm::run(&selection),
        Xtask::BpfStats(selection) => bpf_stats::run(&selection),
        Xtask::Ci { all } => ci::run(all),
    }
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
        let folders = ["", "docs", "docs/generated", ".github"].map(|folder| root.join(folder));
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
                // Text in quotes is one argument.
                let parts =
                    command.split('\'').enumerate().flat_map(|(number, part)| match number % 2 {
                        0 => part.split_whitespace().collect(),
                        _ => vec![part],
                    });
                if let Err(error) = Xtask::try_parse_from(["xtask"].into_iter().chain(parts)) {
                    // `help` ends with a text on stdout, which is not a mistake.
                    ensure!(!error.use_stderr(), "{}: {command}: {error}", path.display());
                }
                commands += 1;
            }
        }
        ensure!(commands > 20, "only {commands} commands");
        Ok(())
    }
}

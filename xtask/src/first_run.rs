//! The README's first commands as somebody runs them who has just cloned the repository, on a machine
//! that has not mounted tracefs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{getgid, getuid};

use crate::{build, exec};

const AT_ONCE: Duration = Duration::from_mins(1);

/// Each ends by itself. Of the tests a few are enough: all others are run in CI anyway.
const COMMANDS: [&[&str]; 2] = [&["demo", "--for", "10"], &["test", "tonic -> tonic"]];

/// Leaves no tracefs in this mount namespace, not even the one that debugfs mounts when it is looked
/// into, and goes on as the user who built the rest.
const WITHOUT_TRACEFS: &str = include_str!("without_tracefs.sh");

/// Runs them in a copy of what git has. What the commands build is built here before, and used there: cargo
/// builds anew only what was built from a file that the copy lacks, and that fails.
pub(crate) fn check() -> Result<()> {
    build::for_demo()?;
    let copy = Copy::new()?;
    for arguments in COMMANDS {
        let mut command = exec::cargo(&["xtask"]);
        command.args(arguments).current_dir(&copy.0).env("CARGO_TARGET_DIR", exec::target()?);
        // The other stacks take minutes to prepare.
        command.env("OBSERVER_TEST_PEERS", "rust");
        println!("$ cargo xtask {}", arguments.join(" "));
        let status = exec::by(without_tracefs()?, &command).status().context("cannot run it")?;
        ensure!(status.success(), "cargo xtask {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// A directory with the files that git has, changes that are not committed included. They are older than all
/// that was built. It is not in the target directory: cargo would then look there for the sources.
struct Copy(PathBuf);

impl Copy {
    fn new() -> Result<Self> {
        let place = env::temp_dir().join(format!("observer-first-run-{}", process::id()));
        fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let copy = Self(place);
        let changed = exec::output(git().args(["stash", "create"]), AT_ONCE)?;
        let commit = if changed.trim().is_empty() { "HEAD" } else { changed.trim() };
        let mut archive = git();
        archive.args(["archive", "--format=tar", commit]).stdout(Stdio::piped());
        let mut archive = archive.spawn().context("cannot run git")?;
        let files = archive.stdout.take().context("git has no output")?;
        exec::run(Command::new("tar").arg("-x").arg("-C").arg(&copy.0).stdin(files))?;
        let status = archive.wait().context("cannot wait for git")?;
        ensure!(status.success(), "git archive failed ({status})");
        let touch = ["-exec", "touch", "--no-dereference", "--date=@0", "{}", "+"];
        exec::run(Command::new("find").arg(&copy.0).args(touch))?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn git() -> Command {
    let mut git = Command::new("git");
    // The files may be another user's, as in a container, and nobody need be known to git.
    let settings = ["safe.directory=*", "user.name=observer", "user.email=observer@localhost"];
    git.args(settings.map(|setting| ["-c", setting]).as_flattened()).current_dir(exec::workspace());
    git
}

/// Runs the command that is added to it where tracefs is not mounted, for it alone.
fn without_tracefs() -> Result<Command> {
    let mut command = exec::root_command(Path::new("unshare"))?;
    command.args(["--mount", "sh", "-ec", WITHOUT_TRACEFS, "sh"]);
    command.args([getuid().as_raw().to_string(), getgid().as_raw().to_string()]);
    Ok(command)
}

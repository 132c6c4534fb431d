//! The README's first commands in a fresh clone, on a machine that has not mounted tracefs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{getgid, getuid};

use crate::{build, exec};

/// Commands that end by themselves. A few tests are enough, because CI runs all of them anyway.
const COMMANDS: [&[&str]; 2] = [&["demo", "--for", "10"], &["test", "tonic -> tonic"]];

/// Unmounts tracefs in this mount namespace, also the one that debugfs mounts on access, and goes on as the user who
/// built the rest.
const WITHOUT_TRACEFS: &str = include_str!("without_tracefs.sh");

/// Runs the commands in a copy of the files that git has. Everything is built here before, and used there. cargo builds
/// again only if the copy lacks a file, and then the build fails.
pub(crate) fn check() -> Result<()> {
    build::for_demo()?;
    let copy = Copy::new()?;
    for arguments in COMMANDS {
        let mut command = exec::cargo(&["xtask"]);
        command.args(arguments).current_dir(&copy.0).env("CARGO_TARGET_DIR", exec::target()?);
        // The other stacks take minutes to prepare.
        command.env("OBSERVER_TEST_PEERS", "rust");
        println!("$ cargo xtask {}", arguments.join(" "));
        let status = exec::by(without_tracefs()?, &command).status().context("cannot run cargo")?;
        ensure!(status.success(), "cargo xtask {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// A directory with the files that git has and the changes that are not committed. The files are older than all builds.
/// It is outside of the target directory, because cargo would otherwise take that for the sources.
struct Copy(PathBuf);

impl Copy {
    fn new() -> Result<Self> {
        let place = env::temp_dir().join(format!("observer-first-run-{}", process::id()));
        fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let copy = Self(place);
        // It fails if files have other times than git knows, unless git looks at them first.
        exec::output(git().arg("status"))?;
        let changed = exec::output(git().args(["stash", "create"]))?;
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
    // The files may belong to another user, as in a container, and git may not know this user.
    let settings = ["safe.directory=*", "user.name=observer", "user.email=observer@localhost"];
    git.args(settings.map(|setting| ["-c", setting]).as_flattened()).current_dir(exec::workspace());
    git
}

/// A command that runs the command after it in a mount namespace without tracefs.
fn without_tracefs() -> Result<Command> {
    let mut command = exec::root_command(Path::new("unshare"))?;
    command.args(["--mount", "sh", "-ec", WITHOUT_TRACEFS, "sh"]);
    command.args([getuid().as_raw().to_string(), getgid().as_raw().to_string()]);
    Ok(command)
}

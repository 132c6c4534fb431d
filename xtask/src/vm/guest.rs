//! One run of the virtual machine.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::image::Image;
use crate::{apt, exec};

/// For what is built and prepared here.
pub(super) const PREPARE_LIMIT: Duration = Duration::from_mins(10);

/// For a guest to say something: a case is over in a minute, or in ten on a machine that is busy with
/// other things. How many cases there are makes no difference.
const SILENCE_LIMIT: Duration = Duration::from_mins(30);

const AT_ONCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(200);

const QEMU: &str = "qemu-system-x86_64";
const BUSYBOX: &str = "/bin/busybox";

/// The guest's first process: mounts this machine's root, read only, and what must not be its own,
/// and runs the script there.
const INIT: &str = include_str!("init.sh");

/// Installs what runs the virtual machine, unless it is there.
pub(super) fn install() -> Result<()> {
    if exec::find(QEMU).is_some() && Path::new(BUSYBOX).is_file() {
        return Ok(());
    }
    println!("vm: installing qemu-system-x86 and busybox-static by apt-get, about a minute");
    apt::install(&["qemu-system-x86", "busybox-static"])
        .context("Debian's packages of an emulator cannot be fetched")
}

/// A directory that the guest writes to.
pub(super) struct Share(PathBuf);

impl Share {
    pub(super) fn new(name: &str) -> Result<Self> {
        let directory = exec::target()?.join("vm/runs").join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self(directory))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    /// What the guest has left there; nothing if it has not.
    pub(super) fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.0.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Of all that the guest has left there so far.
    fn length(&self) -> u64 {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }
}

/// A virtual machine that runs one script.
pub(super) struct Guest<'a> {
    pub(super) image: &'a Image,
    pub(super) share: &'a Share,
}

impl Guest<'_> {
    /// Runs the script to its end. What it prints, and what the kernel does, is in `console`.
    pub(super) fn run(&self, script: &str) -> Result<()> {
        fs::write(self.share.0.join("script"), script)?;
        let initramfs = self.initramfs()?;
        let console = File::create(self.share.0.join("console"))?;
        let mut qemu = Command::new(QEMU);
        // Two processors: programs must be seen to run at once.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.image.kernel)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", "console=ttyS0 panic=-1 quiet"])
            .args(share("root", Path::new("/"), ",readonly=on,multidevs=remap"))
            .args(share("out", &self.share.0, ""))
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console);
        let mut child = qemu.spawn().with_context(|| format!("cannot run {QEMU}"))?;
        let mut heard = (self.share.length(), Instant::now());
        while child.try_wait()?.is_none() {
            let length = self.share.length();
            if length != heard.0 {
                heard = (length, Instant::now());
            }
            if heard.1.elapsed() > SILENCE_LIMIT {
                child.kill()?;
                child.wait()?;
                bail!("the virtual machine has said nothing for {} s", SILENCE_LIMIT.as_secs());
            }
            thread::sleep(POLL);
        }
        fs::remove_file(initramfs)?;
        if self.share.read("status").is_empty() {
            bail!("the virtual machine ended without a result: {}", self.last_words());
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let console = self.share.read("console");
        let lines: Vec<&str> = console.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    fn initramfs(&self) -> Result<PathBuf> {
        let root = self.share.0.join("initramfs.d");
        for part in ["bin", "modules", "proc", "sys", "dev", "host"] {
            fs::create_dir_all(root.join(part))?;
        }
        fs::copy(BUSYBOX, root.join("bin/busybox"))?;
        for module in &self.image.modules {
            let name = module.file_name().context("a module without a name")?;
            fs::copy(module, root.join("modules").join(name))?;
        }
        fs::write(root.join("init"), INIT)?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        let archive = self.share.0.join("initramfs");
        let mut pack = Command::new(BUSYBOX);
        pack.args(["sh", "-c", "busybox find . | busybox cpio -o -H newc >../initramfs"]);
        exec::output(pack.current_dir(&root), AT_ONCE)?;
        fs::remove_dir_all(root)?;
        Ok(archive)
    }
}

/// A directory of this machine, as the guest mounts it.
fn share(name: &str, directory: &Path, more: &str) -> [String; 4] {
    let directory = directory.display();
    [
        "-fsdev".into(),
        format!("local,id={name},path={directory},security_model=none{more}"),
        "-device".into(),
        format!("virtio-9p-pci,fsdev={name},mount_tag={name}"),
    ]
}

//! A run of a virtual machine.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::image::Image;
use crate::{apt, exec};

/// Time limit to build and prepare the tests here.
pub(super) const PREPARE_LIMIT: Duration = Duration::from_mins(10);

/// Time limit for a guest to write something. A case takes a minute, or ten on a busy machine.
const SILENCE_LIMIT: Duration = Duration::from_mins(30);

const POLL: Duration = Duration::from_millis(200);

const QEMU: &str = "qemu-system-x86_64";
const BUSYBOX: &str = "/bin/busybox";

/// The first process of the guest. It mounts this machine's root read-only, and filesystems of its own over some
/// directories, and runs the script there.
const INIT: &str = include_str!("init.sh");

/// Installs QEMU and busybox if they are missing.
pub(super) fn install() -> Result<()> {
    if exec::find(QEMU).is_some() && Path::new(BUSYBOX).is_file() {
        return Ok(());
    }
    println!("vm: installing qemu-system-x86 and busybox-static with apt-get, about a minute");
    apt::install(&["qemu-system-x86", "busybox-static"]).context("cannot install QEMU")
}

/// A directory that a virtual machine writes to.
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

    /// The contents of a file of the guest; empty if there is none.
    pub(super) fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.0.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Boots a virtual machine that runs the script to its end. Its output and that of the kernel go to `console`.
    pub(super) fn run(&self, image: &Image, script: &str) -> Result<()> {
        fs::write(self.0.join("script"), script)?;
        let initramfs = self.initramfs(image)?;
        let console = File::create(self.0.join("console"))?;
        let mut qemu = Command::new(QEMU);
        // Two CPUs, so that programs run at the same time.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", "console=ttyS0 panic=-1 quiet"])
            .args(share("root", Path::new("/"), ",readonly=on,multidevs=remap"))
            .args(share("out", &self.0, ""))
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console);
        let mut child = qemu.spawn().with_context(|| format!("cannot run {QEMU}"))?;
        let mut heard = (self.length(), Instant::now());
        while child.try_wait()?.is_none() {
            let length = self.length();
            if length != heard.0 {
                heard = (length, Instant::now());
            }
            if heard.1.elapsed() > SILENCE_LIMIT {
                child.kill()?;
                child.wait()?;
                bail!("the virtual machine has written nothing for {} s", SILENCE_LIMIT.as_secs());
            }
            thread::sleep(POLL);
        }
        fs::remove_file(initramfs)?;
        if self.read("status").is_empty() {
            bail!("the virtual machine ended without a result: {}", self.last_lines());
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let console = self.read("console");
        let lines: Vec<&str> = console.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    fn initramfs(&self, image: &Image) -> Result<PathBuf> {
        let root = self.0.join("initramfs.d");
        for part in ["bin", "modules", "proc", "sys", "dev", "host"] {
            fs::create_dir_all(root.join(part))?;
        }
        fs::copy(BUSYBOX, root.join("bin/busybox"))?;
        for module in &image.modules {
            let name = module.file_name().context("a module without a name")?;
            fs::copy(module, root.join("modules").join(name))?;
        }
        fs::write(root.join("init"), INIT)?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        let archive = self.0.join("initramfs");
        let mut pack = Command::new(BUSYBOX);
        pack.args(["sh", "-c", "busybox find . | busybox cpio -o -H newc >../initramfs"]);
        exec::output(pack.current_dir(&root))?;
        fs::remove_dir_all(root)?;
        Ok(archive)
    }

    /// The length of all files together, in bytes.
    fn length(&self) -> u64 {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }
}

/// The options of QEMU for a directory that the guest mounts.
fn share(name: &str, directory: &Path, more: &str) -> [String; 4] {
    let directory = directory.display();
    [
        "-fsdev".into(),
        format!("local,id={name},path={directory},security_model=none{more}"),
        "-device".into(),
        format!("virtio-9p-pci,fsdev={name},mount_tag={name}"),
    ]
}

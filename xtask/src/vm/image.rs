//! A kernel and the modules that the guest needs, from Debian's packages.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::kernels::Kernel;
use crate::exec;

/// Time limit for apt to fetch packages, at most some 200 MB.
const FETCH_LIMIT: Duration = Duration::from_mins(5);

/// The modules that mount the root, and those for 9P over any socket, with which a case has the kernel itself write. Some
/// kernels have some of them built in.
const MODULES: [&str; 11] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "fscache",
    "netfs",
    "9pnet",
    "9pnet_fd",
    "9pnet_virtio",
    "9p",
];

/// The files of a kernel, in cargo's target directory.
pub(super) struct Image {
    pub(super) kernel: PathBuf,
    pub(super) modules: Vec<PathBuf>,
}

impl Image {
    /// The files of a kernel, which are fetched once.
    pub(super) fn of(kernel: &Kernel) -> Result<Self> {
        let directory = exec::target()?.join("vm").join(kernel.name);
        let done = directory.join("fetched");
        let wanted = format!("{} {}\n", kernel.version, MODULES.join(" "));
        if fs::read_to_string(&done).ok().as_ref() != Some(&wanted) {
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir_all(&directory)?;
            // A mirror may fail for a moment.
            fetch(kernel, &directory)
                .or_else(|error| {
                    println!("vm: {error:#}; trying again");
                    fetch(kernel, &directory)
                })
                .context("cannot fetch Debian's package of the kernel")?;
            fs::write(&done, wanted)?;
        }
        let mut modules: Vec<_> = files(&directory.join("modules"))?;
        modules.sort();
        Ok(Self { kernel: directory.join("vmlinuz"), modules })
    }
}

fn fetch(kernel: &Kernel, directory: &Path) -> Result<()> {
    let apt = Apt::new(kernel.suite, &directory.join("apt"))?;
    let packages = apt.packages(kernel)?;
    println!("vm: fetching {}", packages.join(", "));
    let unpacked = directory.join("unpacked");
    for package in apt.download(&packages)? {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(package).arg(&unpacked);
        exec::output_within(&mut unpack, FETCH_LIMIT)?;
    }
    let all = all_files(&unpacked)?;
    let named = |wanted: &dyn Fn(&str) -> bool| {
        all.iter().find(|path| path.file_name().and_then(OsStr::to_str).is_some_and(wanted))
    };
    let image = named(&|name| name.starts_with("vmlinuz")).context("the package has no kernel")?;
    fs::copy(image, directory.join("vmlinuz"))?;
    fs::create_dir_all(directory.join("modules"))?;
    for (position, module) in MODULES.iter().enumerate() {
        let plain = format!("{module}.ko");
        let packed = format!("{module}.ko.xz");
        let to = directory.join("modules").join(format!("{position:02}-{plain}"));
        if let Some(found) = named(&|name| name == plain) {
            fs::copy(found, to)?;
        } else if let Some(found) = named(&|name| name == packed) {
            unpack(found, &to)?;
        }
    }
    fs::remove_dir_all(unpacked)?;
    Ok(fs::remove_dir_all(directory.join("apt"))?)
}

fn unpack(from: &Path, to: &Path) -> Result<()> {
    let packed = to.with_extension("ko.xz");
    fs::copy(from, &packed)?;
    exec::output(Command::new("busybox").arg("unxz").arg(&packed)).map(drop)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// The files of the directory and of those in it.
fn all_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in files(directory)? {
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            all.extend(all_files(&path)?);
        } else {
            all.push(path);
        }
    }
    Ok(all)
}

/// apt with lists of its own, for one suite, from the mirror of this machine. It checks signatures and hashes as always.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn new(suite: &str, directory: &Path) -> Result<Self> {
        let apt = Self { directory: directory.to_path_buf() };
        for part in ["lists/partial", "cache/archives/partial", "etc"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let (mirror, keys) = mirror()?;
        let source = format!("deb [signed-by={keys}] {mirror} {suite} main\n");
        fs::write(directory.join("sources.list"), source)?;
        fs::write(directory.join("status"), "")?;
        exec::output_within(apt.command("apt-get").arg("update"), FETCH_LIMIT)?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (option, path) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::Etc::SourceParts", "etc"),
            ("Dir::State::Lists", "lists"),
            ("Dir::State::Status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            let mut assignment = OsStr::new(&format!("{option}=")).to_owned();
            assignment.push(self.directory.join(path));
            command.arg("-o").arg(assignment);
        }
        for option in ["Acquire::Languages=none", "APT::Sandbox::User=root", "Debug::NoLocking=1"] {
            command.args(["-o", option]);
        }
        command.current_dir(&self.directory);
        command
    }

    /// The packages of the newest kernel of this version. Since 7 a kernel is in two packages.
    fn packages(&self, kernel: &Kernel) -> Result<Vec<String>> {
        let known = exec::output(self.command("apt-cache").arg("pkgnames").arg("linux-"))?;
        let names: Vec<&str> = known.lines().collect();
        let begin = format!("linux-image-{}", kernel.version);
        let end = format!("{}-amd64", kernel.flavour);
        let image = names
            .iter()
            .filter_map(|name| Some((name.strip_prefix(&begin)?.strip_suffix(&end)?, name)))
            .filter(|(rest, _)| !rest.contains("-rt") && !rest.contains("-cloud"))
            .max_by_key(|(rest, _)| numbers(rest))
            .map(|(_, name)| *name)
            .with_context(|| format!("{} has no {begin}…", kernel.suite))?;
        let parts = ["binary", "modules"].map(|part| image.replacen("image", part, 1));
        if parts.iter().all(|part| names.contains(&part.as_str())) {
            return Ok(parts.to_vec());
        }
        Ok(vec![image.to_owned()])
    }

    fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        exec::output_within(self.command("apt-get").arg("download").args(packages), FETCH_LIMIT)?;
        let mut fetched = files(&self.directory)?;
        fetched.retain(|path| path.extension() == Some(OsStr::new("deb")));
        ensure!(fetched.len() == packages.len(), "apt-get has not fetched {}", packages.join(", "));
        Ok(fetched)
    }
}

/// `[0, 50]` from `0-50`.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

/// This machine's mirror of Debian, and the keys that it trusts.
fn mirror() -> Result<(String, String)> {
    const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let format = "$(REPO_URI) $(ORIGIN) $(LABEL) $(COMPONENT)";
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let sources = exec::output(&mut targets).context("Debian's kernels are needed")?;
    let mirror = sources
        .lines()
        .find_map(|line| line.strip_suffix(" Debian Debian main"))
        .context("apt has no source of Debian, or no package list: run apt-get update")?;
    Ok((mirror.to_owned(), KEYS.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_ordered_by_number() {
        assert!(numbers("0-50") > numbers("0-9"));
        assert!(numbers("100+deb12") > numbers("94+deb13"));
    }
}

//! A kernel and the modules that the guest needs, out of Debian's packages.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::kernels::Kernel;
use crate::exec;

/// For apt to fetch: some 200 MB at most.
const FETCH_LIMIT: Duration = Duration::from_mins(5);

const AT_ONCE: Duration = Duration::from_mins(1);

/// What mounts the root, and 9P over any socket, by which a case has the kernel itself write; some kernels have
/// some of it built in.
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

/// The files, below cargo's target directory.
pub(super) struct Image {
    pub(super) kernel: PathBuf,
    pub(super) modules: Vec<PathBuf>,
}

impl Image {
    /// Those of a kernel: fetched, unless they have been before.
    pub(super) fn of(kernel: &Kernel) -> Result<Self> {
        let directory = exec::target()?.join("vm").join(kernel.name);
        let done = directory.join("fetched");
        let wanted = format!("{} {}\n", kernel.version, MODULES.join(" "));
        if fs::read_to_string(&done).ok().as_ref() != Some(&wanted) {
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir_all(&directory)?;
            // Mirrors have their moments.
            fetch(kernel, &directory)
                .or_else(|error| {
                    println!("vm: {error:#}; once more");
                    fetch(kernel, &directory)
                })
                .context(
                    "Debian's package of it cannot be fetched, without which nothing is tried",
                )?;
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
        exec::output(&mut unpack, FETCH_LIMIT)?;
    }
    let all = all_files(&unpacked)?;
    let named = |wanted: &dyn Fn(&str) -> bool| {
        all.iter().find(|path| path.file_name().and_then(OsStr::to_str).is_some_and(wanted))
    };
    let image = named(&|name| name.starts_with("vmlinuz")).context("a package without a kernel")?;
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
    exec::output(Command::new("busybox").arg("unxz").arg(&packed), AT_ONCE).map(drop)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Of the directory and those in it.
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

/// apt with lists of its own, of one suite, from the mirror that this machine uses. It checks what
/// it fetches as always: the suite's signature, then hashes.
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
        exec::output(apt.command("apt-get").arg("update"), FETCH_LIMIT)?;
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

    /// Those of the newest kernel of this version. Since 7 a kernel is in two packages.
    fn packages(&self, kernel: &Kernel) -> Result<Vec<String>> {
        let known = exec::output(self.command("apt-cache").arg("pkgnames").arg("linux-"), AT_ONCE)?;
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
        exec::output(self.command("apt-get").arg("download").args(packages), FETCH_LIMIT)?;
        let mut fetched = files(&self.directory)?;
        fetched.retain(|path| path.extension() == Some(OsStr::new("deb")));
        ensure!(fetched.len() == packages.len(), "apt-get has not left {}", packages.join(", "));
        Ok(fetched)
    }
}

/// `[0, 50]` of `0-50`.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

/// Where this machine has Debian from, and the keys that it trusts for it.
fn mirror() -> Result<(String, String)> {
    const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let format = "$(REPO_URI) $(ORIGIN) $(LABEL) $(COMPONENT)";
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let told = exec::output(&mut targets, AT_ONCE).context("Debian's kernels are needed")?;
    let mirror = told
        .lines()
        .find_map(|line| line.strip_suffix(" Debian Debian main"))
        .context("this machine's apt has no source of Debian, or no list of it: apt-get update")?;
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

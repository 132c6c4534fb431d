//! The name of the package that a script of Node.js or Bun belongs to: `name` in the nearest `package.json` upward.
//!
//! Files of a process are read as the process sees them, and it chooses what they are. So no symbolic link is followed:
//! it could lead to a file outside of the process's root, which the process may not read.

use std::{
    fs::{self, File},
    io::Read as _,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use serde::Deserialize;

/// Maximum size of a `package.json` in bytes; a longer one has no name.
const AT_MOST: usize = 64 << 10;

/// Maximum number of folders in the path of a script.
const MAX_FOLDERS: usize = 32;

/// Maximum length of a package's name (npm: 214 characters).
const NAME_AT_MOST: usize = 255;

const FILE: &str = "package.json";

#[derive(Deserialize)]
struct Package {
    #[serde(default)]
    name: String,
}

/// The name of the package of this script, in the arguments of a process; `None` if there is none that can be read.
/// That needs the same user, or `CAP_SYS_PTRACE` (ptrace(2)).
pub(super) fn name(pid: u32, script: &str) -> Option<Box<str>> {
    let script = match script.strip_prefix('/') {
        Some(_) => PathBuf::from(script),
        None => fs::read_link(format!("/proc/{pid}/cwd")).ok()?.join(script),
    };
    let folder = folders(script.parent()?)?;
    let root = open(format!("/proc/{pid}/root"), FOLDER, Mode::empty()).ok()?;
    nearest(root, &folder)
}

/// A folder, to look into it.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The names of the folders of an absolute path. `None` if there are too many, or if a path leads above the root.
fn folders(path: &Path) -> Option<Vec<&Path>> {
    let mut folders = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => folders.push(Path::new(name)),
            Component::ParentDir => drop(folders.pop()?),
            Component::RootDir | Component::CurDir => {}
            Component::Prefix(_) => return None,
        }
    }
    (folders.len() <= MAX_FOLDERS).then_some(folders)
}

/// The name in the nearest `package.json` from the last of these folders up to the root.
fn nearest(root: OwnedFd, path: &[&Path]) -> Option<Box<str>> {
    let mut folders = vec![root];
    for name in path {
        let folder = openat(folders.last()?, *name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
        folders.push(folder.ok()?);
    }
    folders.iter().rev().find_map(name_in)
}

/// The name in the `package.json` of this folder.
fn name_in(folder: &OwnedFd) -> Option<Box<str>> {
    // Opening a named pipe must not wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(folder, FILE, flags, Mode::empty()).ok()?;
    if FileType::from_raw_mode(fstat(&file).ok()?.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut text = Vec::new();
    File::from(file).take(AT_MOST as u64 + 1).read_to_end(&mut text).ok()?;
    if text.len() > AT_MOST {
        return None;
    }
    let Package { name } = serde_json::from_slice(&text).ok()?;
    let name = name.trim();
    (!name.is_empty() && name.len() <= NAME_AT_MOST).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, mknodat};

    use super::*;

    /// The name for a script in the folder `a/b/c` of a root with these files.
    fn name_with(files: &[(&str, &str)]) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b/c")).unwrap();
        for (path, text) in files {
            fs::write(root.path().join(path), text).unwrap();
        }
        name_below(root.path(), "/a/b/x/../c")
    }

    fn name_below(root: &Path, folder: &str) -> Option<String> {
        let path = folders(Path::new(folder)).unwrap();
        let root = open(root, FOLDER, Mode::empty()).unwrap();
        nearest(root, &path).map(Into::into)
    }

    #[test]
    fn the_nearest_package_with_a_name_counts() {
        let shop = r#"{"name": "@acme/shop", "type": "module"}"#;
        assert_eq!(name_with(&[("a/b/c/package.json", shop)]), Some("@acme/shop".into()));
        assert_eq!(name_with(&[("package.json", shop)]), Some("@acme/shop".into()));
        let other = r#"{"name": "other"}"#;
        let two = [("a/b/package.json", shop), ("a/package.json", other)];
        assert_eq!(name_with(&two), Some("@acme/shop".into()));
        for nameless in ["{}", r#"{"name": " "}"#, "not json", r#"{"name": 1}"#] {
            let two = [("a/b/package.json", nameless), ("a/package.json", other)];
            assert_eq!(name_with(&two), Some("other".into()), "{nameless}");
        }
        assert_eq!(name_with(&[]), None);
        let long = format!(r#"{{"name": "shop", "x": "{}"}}"#, "x".repeat(AT_MOST));
        assert_eq!(name_with(&[("package.json", &long)]), None);
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join(FILE), r#"{"name": "secret"}"#).unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        symlink(outside.path(), root.path().join("b")).unwrap();
        symlink(outside.path().join(FILE), root.path().join("a").join(FILE)).unwrap();
        assert_eq!(name_below(root.path(), "/a"), None);
        assert_eq!(name_below(root.path(), "/b"), None);
        assert!(folders(Path::new("/a/../..")).is_none());
        assert!(folders(Path::new(&"/a".repeat(33))).is_none());
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, root.path().join(FILE), FileType::Fifo, mode, 0).unwrap();
        assert_eq!(name_below(root.path(), "/"), None);
    }

    #[test]
    fn a_script_is_found_from_the_folder_of_its_process() {
        // The tests run in the folder of this crate, which has no package.json upward.
        assert_eq!(name(std::process::id(), "src/x.js"), None);
        assert_eq!(name(u32::MAX, "/x.js"), None);
    }
}

//! Where the fields of the running kernel's structs are, from its BTF.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, anyhow};
use observer_common::layout::Field;

use super::btf::Btf;

/// The offset of each [`Field`], in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// By the field's position.
    pub offsets: [u32; Field::COUNT],
}

impl Layout {
    /// Looks all fields up. The error names the one that is not there.
    pub fn read(path: &Path) -> Result<Self> {
        let unreadable = || format!("cannot read the kernel's types from {}", path.display());
        let bytes = fs::read(path).with_context(unreadable)?;
        let btf = Btf::parse(&bytes).with_context(unreadable)?;
        let mut offsets = [0; Field::COUNT];
        for (place, field) in offsets.iter_mut().zip(Field::ALL) {
            let (container, path) = field.place();
            *place = btf.offset(container, path).ok_or_else(|| {
                anyhow!(
                    "this kernel's {container} has no {path}, which the kernel programs read: \
                     please report the kernel's version"
                )
            })?;
        }
        Ok(Self { offsets })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Layout;

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = format!("{:#}", Layout::read(Path::new("/nonexistent")).unwrap_err());
        assert!(error.contains("/nonexistent"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_btf_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not BTF, but long enough to be its header").unwrap();
        let error = format!("{:#}", Layout::read(file.path()).unwrap_err());
        assert!(error.contains("not BTF"), "{error}");
    }
}

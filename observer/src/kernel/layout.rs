//! Where the fields of the running kernel's structs are, from its BTF.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use btf_rs::{Btf, Type};
use observer_common::layout::Field;

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
        let btf = Btf::from_file_with_backend(path, btf_rs::Backend::Mmap)
            .map_err(|error| anyhow!("{error}"))
            .with_context(unreadable)?;
        let mut offsets = [0; Field::COUNT];
        for (place, field) in offsets.iter_mut().zip(Field::ALL) {
            let (container, path) = field.place();
            *place = offset(&btf, container, path).with_context(|| {
                format!(
                    "this kernel's {container} has no {path}, which the kernel programs read: \
                     please report the kernel's version"
                )
            })?;
        }
        Ok(Self { offsets })
    }
}

fn offset(btf: &Btf, container: &str, path: &str) -> Result<u32> {
    let types = btf.resolve_types_by_name(container).map_err(|error| anyhow!("{error}"))?;
    let mut at = types
        .into_iter()
        .find(|found| matches!(found, Type::Struct(members) if members.size() > 0))
        .ok_or_else(|| anyhow!("no struct {container}"))?;
    let mut bits = 0;
    for name in path.split('.') {
        let (Type::Struct(container) | Type::Union(container)) = &at else {
            bail!("{name} is looked for in something that has no members");
        };
        let (member_bits, member) =
            find(btf, container, name)?.ok_or_else(|| anyhow!("no member {name}"))?;
        bits += member_bits;
        at = member;
    }
    Ok(bits / 8)
}

/// Finds a member in a struct or union, through those without a name that are part of it.
fn find(btf: &Btf, container: &btf_rs::Struct, name: &str) -> Result<Option<(u32, Type)>> {
    for member in &container.members {
        let found = btf.resolve_name(member).map_err(|error| anyhow!("{error}"))?;
        let type_of = || btf.resolve_chained_type(member).map_err(|error| anyhow!("{error}"));
        if found == name {
            return Ok(Some((member.bit_offset(), type_of()?)));
        }
        if found.is_empty()
            && let Type::Struct(inner) | Type::Union(inner) = type_of()?
            && let Some((bits, member_type)) = find(btf, &inner, name)?
        {
            return Ok(Some((member.bit_offset() + bits, member_type)));
        }
    }
    Ok(None)
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
}

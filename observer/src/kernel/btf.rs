//! A reader of BTF (BPF Type Format) that finds the offset of a member, the parameters of a function and the value of an
//! enumerator.
//!
//! Source: the kernel's `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h`. The file is not trusted: every offset
//! and length in it is checked.

use anyhow::{Context as _, Result, ensure};
use rustc_hash::FxHashMap;

const MAGIC: u16 = 0xeb9f;
/// Length of `struct btf_header`.
const HEADER_LENGTH: usize = 24;
/// Maximum depth of nested anonymous structs and unions, and of qualifiers.
const MAX_DEPTH: u32 = 16;

/// Kinds of types (`BTF_KIND_*`).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
    pub(super) const LAST: u32 = ENUM64;
}

/// Parsed BTF: an index of its types.
pub(super) struct Btf<'a> {
    strings: &'a [u8],
    types: &'a [u8],
    /// Offsets in `types`, by type identifier less 1; identifier 0 is `void`. A kernel has some 100,000.
    begins: Vec<u32>,
    /// Identifiers of structs with members, by name.
    structs: FxHashMap<&'a [u8], u32>,
}

/// `struct btf_type` and what follows it.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    info: u32,
    /// The size, or the type that this one refers to.
    size_or_type: u32,
    rest: &'a [u8],
}

impl<'a> Type<'a> {
    /// Reads the first type of the bytes. Returns it and the bytes after it.
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (name, info, size_or_type) = (word(bytes, 0)?, word(bytes, 4)?, word(bytes, 8)?);
        let length = rest_length((info >> 24) & 0x1f, (info & 0xffff) as usize)?;
        let (rest, after) = bytes.get(12..)?.split_at_checked(length)?;
        Some((Self { name, info, size_or_type, rest }, after))
    }

    fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    fn is_composite(&self) -> bool {
        matches!(self.kind(), kind::STRUCT | kind::UNION)
    }

    /// Members as (name, type, offset in bits).
    fn members(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        // With the kind flag the upper byte is the size of a bit field.
        let mask = if self.info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
        self.rest.chunks_exact(12).filter_map(move |member| {
            Some((word(member, 0)?, word(member, 4)?, word(member, 8)? & mask))
        })
    }
}

impl<'a> Btf<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let magic = bytes.first_chunk().map(|magic| u16::from_ne_bytes(*magic));
        ensure!(magic == Some(MAGIC), "not BTF in this machine's byte order");
        let section = |offset: usize, length: usize| {
            let header = word(bytes, 4)? as usize;
            let begin = header.checked_add(word(bytes, offset)? as usize)?;
            bytes.get(begin..)?.get(..word(bytes, length)? as usize)
        };
        ensure!(bytes.len() >= HEADER_LENGTH, "not BTF: too short");
        let types = section(8, 12).context("not BTF: the type section is outside of the file")?;
        let strings =
            section(16, 20).context("not BTF: the string section is outside of the file")?;
        let mut btf = Self {
            strings,
            types,
            begins: Vec::with_capacity(types.len() / 32),
            structs: FxHashMap::default(),
        };
        btf.index().context("not BTF: a type is cut off or its kind is not known")?;
        Ok(btf)
    }

    fn index(&mut self) -> Option<()> {
        let mut left = self.types;
        while !left.is_empty() {
            let (found, after) = Type::parse(left)?;
            self.begins.push(u32::try_from(self.types.len() - left.len()).ok()?);
            if found.kind() == kind::STRUCT && !found.rest.is_empty() {
                self.structs.entry(self.name(found.name)).or_insert(self.begins.len() as u32);
            }
            left = after;
        }
        Some(())
    }

    fn type_of(&self, id: u32) -> Option<Type<'a>> {
        let begin = *self.begins.get((id as usize).checked_sub(1)?)?;
        Some(Type::parse(self.types.get(begin as usize..)?)?.0)
    }

    /// The offset of a member in bytes. `path` has the names of nested members, separated by dots.
    pub(super) fn offset(&self, container: &str, path: &str) -> Option<u32> {
        let mut at = self.type_of(*self.structs.get(container.as_bytes())?)?;
        let mut bits = 0;
        for name in path.split('.') {
            let (member_bits, member) = self.find(&at, name.as_bytes(), MAX_DEPTH)?;
            bits += member_bits;
            at = self.behind(member)?;
        }
        Some(bits / 8)
    }

    /// The identifier of a function.
    pub(super) fn function(&self, name: &str) -> Option<u32> {
        self.id_of(kind::FUNC, name)
    }

    /// The names of a function's parameters.
    pub(super) fn parameters(&self, function: &str) -> Option<Vec<&'a [u8]>> {
        let prototype = self.named(kind::FUNC, function)?.size_or_type;
        let prototype = self.type_of(prototype).filter(|found| found.kind() == kind::FUNC_PROTO)?;
        let parameters = prototype.rest.chunks_exact(8);
        parameters.map(|parameter| Some(self.name(word(parameter, 0)?))).collect()
    }

    /// The value of an enumerator of the enum `container`.
    pub(super) fn enumerator(&self, container: &str, name: &str) -> Option<u32> {
        let values = self.named(kind::ENUM, container)?.rest.chunks_exact(8);
        values
            .filter_map(|value| Some((word(value, 0)?, word(value, 4)?)))
            .find_map(|(its_name, value)| (self.name(its_name) == name.as_bytes()).then_some(value))
    }

    /// The first type with this kind and name. O(types).
    fn named(&self, kind: u32, name: &str) -> Option<Type<'a>> {
        self.type_of(self.id_of(kind, name)?)
    }

    /// The identifier of the first type with this kind and name. O(types).
    fn id_of(&self, kind: u32, name: &str) -> Option<u32> {
        // Identifier 0 is `void`.
        (1..).zip(&self.begins).find_map(|(id, &begin)| {
            let (found, _) = Type::parse(self.types.get(begin as usize..)?)?;
            (found.kind() == kind && self.name(found.name) == name.as_bytes()).then_some(id)
        })
    }

    /// Finds a member of a struct or union, or of anonymous ones in it. Returns its offset in bits and its type.
    fn find(&self, container: &Type<'_>, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        if !container.is_composite() || depth == 0 {
            return None;
        }
        container.members().find_map(|(member_name, member, bits)| {
            let found = self.name(member_name);
            if found == name {
                return Some((bits, member));
            }
            if !found.is_empty() {
                return None;
            }
            let (inner, member) = self.find(&self.behind(member)?, name, depth - 1)?;
            Some((bits + inner, member))
        })
    }

    /// The type behind typedefs and qualifiers.
    fn behind(&self, mut id: u32) -> Option<Type<'a>> {
        for _ in 0..MAX_DEPTH {
            let found = self.type_of(id)?;
            match found.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::TYPE_TAG => {
                    id = found.size_or_type;
                }
                _ => return Some(found),
            }
        }
        None
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let text = self.strings.get(offset as usize..).unwrap_or_default();
        text.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

/// Length of the bytes after `struct btf_type`, by kind and count; `None` if the kind is not known.
fn rest_length(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
        kind::ENUM | kind::FUNC_PROTO => 8 * count,
        0 => return None,
        _ if kind <= kind::LAST => 0,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Btf, MAGIC, kind};

    const STRINGS: &[u8] = b"\0outer\0plain\0inner\0deep\0read\0";
    const OUTER: u32 = 1;
    const PLAIN: u32 = 7;
    const INNER: u32 = 13;
    const DEEP: u32 = 19;
    const READ: u32 = 24;

    fn composite(kind: u32, flag: u32, name: u32, members: &[[u32; 3]]) -> Vec<u32> {
        let info = flag << 31 | kind << 24 | members.len() as u32;
        [vec![name, info, 64], members.concat()].concat()
    }

    /// `struct outer { int plain; struct { union inner { int deep; } inner; }; }`, with a forward
    /// declaration of the same name before it.
    fn btf(flag: u32) -> Vec<u8> {
        let types = [
            composite(kind::STRUCT, 0, OUTER, &[]),
            vec![0, kind::INT << 24, 4, 32],
            composite(kind::UNION, 0, 0, &[[PLAIN, 2, 0], [DEEP, 2, 64]]),
            vec![INNER, kind::TYPEDEF << 24, 3],
            composite(kind::STRUCT, 0, 0, &[[INNER, 4, 128]]),
            composite(kind::STRUCT, flag, OUTER, &[[PLAIN, 2, flag << 28 | 32], [0, 5, 256]]),
            vec![READ, kind::FUNC << 24, 8],
            vec![0, kind::FUNC_PROTO << 24 | 2, 2, PLAIN, 2, DEEP, 2],
            vec![INNER, kind::ENUM << 24 | 2, 4, PLAIN, 3, DEEP, 5],
        ]
        .concat();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let length = types.len() as u32 * 4;
        for word in [24, 0, length, length, STRINGS.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(STRINGS);
        bytes
    }

    #[test]
    fn offsets_add_up_through_names_and_anonymous_members() {
        for flag in [0, 1] {
            let bytes = btf(flag);
            let btf = Btf::parse(&bytes).unwrap();
            assert_eq!(btf.offset("outer", "plain"), Some(4), "kind flag {flag}");
            assert_eq!(btf.offset("outer", "inner"), Some(32 + 16));
            assert_eq!(btf.offset("outer", "inner.deep"), Some(32 + 16 + 8));
            assert_eq!(btf.offset("outer", "deep"), None);
            assert_eq!(btf.offset("outer", "plain.deep"), None);
            assert_eq!(btf.offset("inner", "deep"), None, "a union is not a struct");
        }
    }

    #[test]
    fn functions_and_enumerators_are_found_by_name() {
        let bytes = btf(0);
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.parameters("read"), Some(vec![&b"plain"[..], b"deep"]));
        assert_eq!(btf.parameters("inner"), None, "an enum is not a function");
        assert_eq!(btf.enumerator("inner", "deep"), Some(5));
        assert_eq!(btf.enumerator("inner", "outer"), None);
        assert_eq!(btf.enumerator("read", "deep"), None);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let bytes = btf(0);
        for length in 0..bytes.len() {
            assert!(Btf::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(mut bytes in prop::collection::vec(any::<u8>(), 24..400), flips: bool) {
            if flips {
                let whole = btf(0);
                let at = usize::from(bytes[0]) % whole.len();
                let flip = bytes[1];
                bytes = whole;
                bytes[at] ^= flip;
            } else {
                bytes[..2].copy_from_slice(&MAGIC.to_ne_bytes());
            }
            if let Ok(btf) = Btf::parse(&bytes) {
                let _ = btf.offset("outer", "inner.deep");
                let _ = btf.parameters("read");
                let _ = btf.enumerator("inner", "deep");
            }
        }
    }
}

//! HPACK (RFC 7541), for one who only listens and may have come late.

#![forbid(unsafe_code)]

/// An interned `:path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId(pub u32);

impl PathId {
    /// The path could not be decoded.
    pub const NOT_SEEN: Self = Self(0);
    /// More distinct paths than the bound; all that came after share this one.
    pub const OTHER: Self = Self(1);
}

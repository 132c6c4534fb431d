//! Label values from what peers and processes call themselves.
//!
//! Neither is trusted: a path is whatever a peer sends, a name whatever a process sets. What is
//! written here is printable and unambiguous; the exposition's own escaping of `"`, `\` and line
//! feeds comes on top of it, where text is written (`exposition::text`).

use std::{borrow::Cow, fmt::Write};

use super::statistics::GrpcType;
use crate::hpack::PathId;

/// Bytes as text: valid UTF-8 without control characters stays as it is, `\` becomes `\\`, every
/// byte of a control character and of invalid UTF-8 becomes `\xNN`. Different bytes give different
/// texts.
pub(super) fn escape(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains(needs_escape)
    {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => escaped.push_str("\\\\"),
                c if needs_escape(c) => {
                    push_hex(&mut escaped, c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                c => escaped.push(c),
            }
        }
        push_hex(&mut escaped, chunk.invalid());
    }
    Cow::Owned(escaped)
}

fn needs_escape(c: char) -> bool {
    c == '\\' || c.is_control()
}

fn push_hex(escaped: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(escaped, "\\x{byte:02x}");
    }
}

/// A method as the labels name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Method {
    pub(crate) service: String,
    pub(crate) method: String,
    /// All of it: `/pkg.Service/Method`.
    pub(super) path: String,
}

impl Method {
    const NOT_SEEN: &str = "not_seen";
    const OTHER: &str = "other";

    /// `/pkg.Service/Method` is split at its last slash. What has not this form (no slash in front,
    /// an empty service or method) has an empty service and is its own method, so that different
    /// paths never get the same labels.
    pub(crate) fn new(path: PathId, bytes: &[u8]) -> Self {
        match path {
            PathId::NOT_SEEN => Self::both(Self::NOT_SEEN),
            PathId::OTHER => Self::both(Self::OTHER),
            _ => Self::split(&escape(bytes)),
        }
    }

    fn is_word(text: &str) -> bool {
        text == Self::NOT_SEEN || text == Self::OTHER
    }

    fn both(word: &str) -> Self {
        Self { service: word.into(), method: word.into(), path: word.into() }
    }

    fn split(path: &str) -> Self {
        match path.strip_prefix('/').and_then(|rest| rest.rsplit_once('/')) {
            // Peers may use words of ours: their calls are told with those that the words are for.
            Some((service, method)) if service == method && Self::is_word(method) => {
                Self::both(method)
            }
            Some((service, method)) if !service.is_empty() && !method.is_empty() => {
                Self { service: service.into(), method: method.into(), path: path.into() }
            }
            _ => Self { service: String::new(), method: path.into(), path: path.into() },
        }
    }

    /// The type that goes with these labels. What stands for several methods has none, and neither
    /// has a real method that a peer calls by the same words: the two share their series, and a
    /// method has one type.
    pub(super) fn grpc_type(&self, derived: GrpcType) -> GrpcType {
        if self.service == self.method && Self::is_word(&self.method) {
            GrpcType::Unknown
        } else {
            derived
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Method, escape};
    use crate::hpack::PathId;

    #[test]
    fn escapes_what_is_not_printable() {
        let rows: [(&[u8], &str); 9] = [
            (b"/pkg.Service/Method", "/pkg.Service/Method"),
            ("/größe/✓".as_bytes(), "/größe/✓"),
            (b"say \"hi\"", "say \"hi\""),
            (b"a\\b", "a\\\\b"),
            (b"a\nb\0", "a\\x0ab\\x00"),
            (b"\xff/\xc3(", "\\xff/\\xc3("),
            (b"\xe2\x9c", "\\xe2\\x9c"),
            ("\u{85}".as_bytes(), "\\xc2\\x85"),
            (b"", ""),
        ];
        for (bytes, want) in rows {
            assert_eq!(escape(bytes), want, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_escape_cannot_be_imitated() {
        assert_ne!(escape(b"\\x0a"), escape(b"\n"));
        assert_ne!(escape(b"\\\\"), escape(b"\\"));
    }

    #[test]
    fn splits_paths() {
        let rows = [
            ("/pkg.Service/Method", "pkg.Service", "Method"),
            ("/a/b/c", "a/b", "c"),
            ("//m", "", "//m"),
            ("/s/", "", "/s/"),
            ("/m", "", "/m"),
            ("m", "", "m"),
            ("s/m", "", "s/m"),
            ("/", "", "/"),
            ("", "", ""),
            ("*", "", "*"),
        ];
        for (path, service, method) in rows {
            let got = Method::new(PathId(7), path.as_bytes());
            assert_eq!((got.service.as_str(), got.method.as_str()), (service, method), "{path}");
            assert_eq!(got.path, path);
        }
        assert_eq!(Method::new(PathId::NOT_SEEN, b"/a/b"), Method::both("not_seen"));
        assert_eq!(Method::new(PathId::OTHER, b"/a/b"), Method::both("other"));
        assert_eq!(Method::new(PathId(7), b"/other/other"), Method::both("other"));
    }
}

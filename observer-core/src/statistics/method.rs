//! The labels of methods.

use super::GrpcType;
use crate::names::PathId;

/// The labels of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Method<'a> {
    /// The service: `pkg.Service`; empty if the path has no such part.
    pub service: &'a str,
    /// The method: the path after its last slash, or all of it if it has no service.
    pub method: &'a str,
    /// The whole path: `/pkg.Service/Method`.
    pub path: &'a str,
}

impl<'a> Method<'a> {
    const NOT_SEEN: &'static str = "not_seen";
    const OTHER: &'static str = "other";

    /// Splits `/pkg.Service/Method` at its last slash.
    ///
    /// A path without this form (no slash in front, an empty service or method) has an empty service and is its own
    /// method, so that different paths do not get the same labels.
    pub fn new(path: PathId, text: &'a str) -> Self {
        match path {
            PathId::NOT_SEEN => Self::both(Self::NOT_SEEN),
            PathId::OTHER => Self::both(Self::OTHER),
            _ => Self::split(text),
        }
    }

    fn is_word(text: &str) -> bool {
        text == Self::NOT_SEEN || text == Self::OTHER
    }

    fn both(word: &'a str) -> Self {
        Self { service: word, method: word, path: word }
    }

    fn split(path: &'a str) -> Self {
        match path.strip_prefix('/').and_then(|rest| rest.rsplit_once('/')) {
            // Peers may use our words: such calls are counted with those that the words are for.
            Some((service, method)) if service == method && Self::is_word(method) => {
                Self::both(method)
            }
            Some((service, method)) if !service.is_empty() && !method.is_empty() => {
                Self { service, method, path }
            }
            _ => Self { service: "", method: path, path },
        }
    }

    /// Whether it is a single method: not one of the words for several.
    #[must_use]
    pub fn is_known(self) -> bool {
        self.service != self.method || !Self::is_word(self.method)
    }

    /// The type of the method with these labels, given the type that its calls have shown.
    ///
    /// It is unknown for labels of several methods; also for a real method that a peer gives the same words, because
    /// the two share their series.
    #[must_use]
    pub fn grpc_type(self, derived: GrpcType) -> GrpcType {
        if self.is_known() { derived } else { GrpcType::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::Method;
    use crate::names::PathId;

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
            let got = Method::new(PathId(7), path);
            assert_eq!((got.service, got.method), (service, method), "{path}");
            assert_eq!(got.path, path);
        }
        assert_eq!(Method::new(PathId::NOT_SEEN, "/a/b"), Method::both("not_seen"));
        assert_eq!(Method::new(PathId::OTHER, "/a/b"), Method::both("other"));
        assert_eq!(Method::new(PathId(7), "/other/other"), Method::both("other"));
    }
}

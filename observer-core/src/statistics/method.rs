//! The labels of methods.

use std::borrow::Cow;

use super::GrpcType;
use crate::{call::CallProtocol, names::PathId};

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
    ///
    /// A Thrift method is `method`, or `service:method` on a connection with several services.
    pub fn new(protocol: CallProtocol, path: PathId, text: &'a str) -> Self {
        match (path, protocol) {
            (PathId::NOT_SEEN, _) => Self::both(Self::NOT_SEEN),
            (PathId::OTHER, _) => Self::both(Self::OTHER),
            (_, CallProtocol::Grpc | CallProtocol::GrpcWeb | CallProtocol::Connect) => {
                Self::split(text)
            }
            (_, CallProtocol::Thrift) => Self::split_thrift(text),
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

    fn split_thrift(name: &'a str) -> Self {
        match name.split_once(':') {
            Some((service, method)) if service == method && Self::is_word(method) => {
                Self::both(method)
            }
            Some((service, method)) if !service.is_empty() && !method.is_empty() => {
                Self { service, method, path: name }
            }
            _ => Self { service: "", method: name, path: name },
        }
    }

    /// Service and method, as OpenTelemetry has them in one text: `service/method`.
    #[must_use]
    pub fn qualified(self) -> Cow<'a, str> {
        match self.path.strip_prefix('/') {
            Some(rest) => Cow::Borrowed(rest),
            None if self.service.is_empty() || !self.is_known() => Cow::Borrowed(self.method),
            None => Cow::Owned(format!("{}/{}", self.service, self.method)),
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
    use crate::{
        call::CallProtocol::{Grpc, Thrift},
        names::PathId,
    };

    #[test]
    fn qualified_names_have_no_slash_in_front() {
        let of = |protocol, path| Method::new(protocol, PathId(7), path).qualified();
        assert_eq!(of(Grpc, "/pkg.Service/Method"), "pkg.Service/Method");
        assert_eq!(of(Grpc, "m"), "m");
        assert_eq!((of(Thrift, "Shop:add"), of(Thrift, "add")), ("Shop/add".into(), "add".into()));
        assert_eq!(Method::new(Thrift, PathId::NOT_SEEN, "").qualified(), "not_seen");
        assert_eq!(Method::new(Grpc, PathId::OTHER, "/a/b").qualified(), "other");
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
            let got = Method::new(Grpc, PathId(7), path);
            assert_eq!((got.service, got.method), (service, method), "{path}");
            assert_eq!(got.path, path);
        }
        assert_eq!(Method::new(Grpc, PathId::NOT_SEEN, "/a/b"), Method::both("not_seen"));
        assert_eq!(Method::new(Thrift, PathId::OTHER, "/a/b"), Method::both("other"));
        assert_eq!(Method::new(Grpc, PathId(7), "/other/other"), Method::both("other"));
    }

    #[test]
    fn splits_names_of_thrift_methods() {
        let rows = [
            ("add", "", "add"),
            ("Calculator:add", "Calculator", "add"),
            ("a:b:c", "a", "b:c"),
            (":add", "", ":add"),
            ("Calculator:", "", "Calculator:"),
            ("/pkg.Service/Method", "", "/pkg.Service/Method"),
            ("other:other", "other", "other"),
        ];
        for (name, service, method) in rows {
            let got = Method::new(Thrift, PathId(7), name);
            assert_eq!(
                (got.service, got.method, got.path.len()),
                (service, method, name.len().min(got.path.len())),
                "{name}"
            );
        }
    }
}

//! Heads of messages, line by line.

use super::Headers;
use crate::{
    names::{Interner, PathId},
    protocol::hpack::{ContentType, Field, field_of_text},
};

/// The longest line that is kept, in bytes. The rest of a longer one, which has a query or a value that does not matter, is
/// dropped.
const MAX_LINE: usize = 16 << 10;

/// A head that is being read.
#[derive(Debug)]
pub(super) struct Head {
    stream: u32,
    /// The line that is not complete.
    line: Vec<u8>,
    /// Whether the start line is complete.
    has_started: bool,
    headers: Headers,
}

impl Head {
    /// Creates a head without its bytes.
    pub(super) fn new(stream: u32) -> Self {
        Self { stream, line: Vec::new(), has_started: false, headers: Headers::default() }
    }

    /// The number of its message.
    pub(super) fn stream(&self) -> u32 {
        self.stream
    }

    /// The memory that it has allocated, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.line.capacity()
    }

    /// The paths that it refers to.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathId> {
        [self.headers.path, self.headers.authority].into_iter().flatten()
    }

    /// Takes its next bytes. Returns its fields once its last line is complete, which is empty.
    pub(super) fn take(
        &mut self,
        mut bytes: &[u8],
        is_request: bool,
        interner: &mut Interner,
    ) -> Option<Headers> {
        while let Some(at) = bytes.iter().position(|&octet| octet == b'\n') {
            let (now, rest) = bytes.split_at(at);
            bytes = rest.get(1..).unwrap_or_default();
            self.keep(now);
            let mut line = std::mem::take(&mut self.line);
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if !self.has_started {
                self.has_started = true;
                self.start_line(&line, is_request, interner);
            } else if line.is_empty() {
                return Some(self.headers);
            } else {
                self.field(&line, interner);
            }
            line.clear();
            self.line = line;
        }
        self.keep(bytes);
        None
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Reads a request line or a status line (RFC 9112 §3, §4).
    fn start_line(&mut self, line: &[u8], is_request: bool, interner: &mut Interner) {
        let mut words = line.split(|&octet| octet == b' ');
        let [Some(first), Some(second)] = [words.next(), words.next()] else { return };
        if !is_request {
            self.headers.add(field_of_text(b":status", second, interner));
            return;
        }
        self.headers.add(field_of_text(b":method", first, interner));
        self.headers.add(field_of_text(b":path", path(second), interner));
    }

    /// Reads a field line (RFC 9112 §5).
    fn field(&mut self, line: &[u8], interner: &mut Interner) {
        let Some(colon) = line.iter().position(|&octet| octet == b':') else { return };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let name: &[u8] = if name.eq_ignore_ascii_case(b"host") { b":authority" } else { name };
        let mut field = field_of_text(name, value, interner);
        // gRPC itself needs HTTP/2.
        if field == Field::ContentType(ContentType::Grpc) {
            field = Field::ContentType(ContentType::Other);
        }
        self.headers.add(field);
    }
}

/// The path in a request's target, which has a scheme and an authority before it if it is for a proxy (RFC 9112 §3.2.2).
fn path(target: &[u8]) -> &[u8] {
    let Some(at) = target.windows(3).position(|part| part == b"://") else { return target };
    let is_scheme = target.iter().take(at).all(u8::is_ascii_alphanumeric);
    let after = target.get(at + 3..).unwrap_or_default();
    match after.iter().position(|&octet| octet == b'/') {
        Some(slash) if is_scheme && at > 0 => after.get(slash..).unwrap_or_default(),
        _ => target,
    }
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn a_target_for_a_proxy_has_its_path_behind_the_authority() {
        for (target, want) in [
            ("/a.B/C", "/a.B/C"),
            ("/a.B/C?u=http://x/y", "/a.B/C?u=http://x/y"),
            ("http://host:80/a.B/C", "/a.B/C"),
            ("https://host/a.B/C?q", "/a.B/C?q"),
            ("http://host", "http://host"),
            ("://host/a", "://host/a"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(path(target.as_bytes()), want.as_bytes(), "{target}");
        }
    }
}

//! Names that peers and processes choose, as texts: of paths, and of processes.
//!
//! Neither is trusted: a path is whatever a peer sends, a name whatever a process sets. A text is
//! printable, and different bytes have different texts. What a format needs escaped (`"` and `\` in an
//! exposition, in JSON) is escaped once more where it is written.

#![forbid(unsafe_code)]

use std::{borrow::Cow, fmt::Write as _};

/// Bytes as text. Valid UTF-8 that can be seen stays as it is; every byte of anything else (control
/// characters, those that are invisible or attach to others, invalid UTF-8) becomes `\xNN`. A `\` stays
/// one, except where it would read as such an escape: there it is `\x5c`.
pub(crate) fn escape(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes)
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid().chars();
        while let Some(c) = rest.next() {
            if is_visible(c) && !(c == '\\' && begins_like_hex(rest.as_str())) {
                escaped.push(c);
            } else {
                push_hex(&mut escaped, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        push_hex(&mut escaped, chunk.invalid());
    }
    Cow::Owned(escaped)
}

/// Rust's own rule for what a reader can tell from something else.
fn is_visible(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

/// Whether that would be an escape, with a `\` before it.
fn begins_like_hex(text: &str) -> bool {
    matches!(text.as_bytes(), [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

fn push_hex(escaped: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(escaped, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::escape;

    #[test]
    fn what_can_be_seen_stays() {
        let rows: [(&[u8], &str); 16] = [
            (b"/pkg.Service/Method", "/pkg.Service/Method"),
            ("/größe/✓ 中".as_bytes(), "/größe/✓ 中"),
            (b"/caf%C3%A9", "/caf%C3%A9"),
            ("/café".as_bytes(), "/café"),
            (b"say \"hi\", it's", "say \"hi\", it's"),
            (b"a\\b", "a\\b"),
            (b"a\\\\b\\", "a\\\\b\\"),
            (b"a\\x0a", "a\\x5cx0a"),
            (b"a\\xFF\\x0", "a\\x5cxFF\\x0"),
            (b"a\nb\0", "a\\x0ab\\x00"),
            (b"\xff/\xc3(", "\\xff/\\xc3("),
            (b"\xe2\x9c", "\\xe2\\x9c"),
            ("\u{85}".as_bytes(), "\\xc2\\x85"),
            // Would turn around what follows; takes no place; looks like a space; attaches itself.
            ("\u{202e}\u{200b}".as_bytes(), "\\xe2\\x80\\xae\\xe2\\x80\\x8b"),
            ("\u{a0}e\u{301}".as_bytes(), "\\xc2\\xa0e\\xcc\\x81"),
            (b"", ""),
        ];
        for (bytes, want) in rows {
            assert_eq!(escape(bytes), want, "{}", bytes.escape_ascii());
        }
    }

    /// What a reader takes a text for.
    fn unescape(text: &str) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
        while let [first, after @ ..] = rest {
            let digits = (rest.len() >= 4 && rest.starts_with(b"\\x"))
                .then(|| str::from_utf8(&rest[2..4]).ok())
                .flatten()
                .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            if let Some(digits) = digits {
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &rest[4..];
            } else {
                bytes.push(*first);
                rest = after;
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn a_text_says_which_bytes_it_was(
            pieces in proptest::collection::vec(
                prop_oneof![
                    Just(b"\\".to_vec()), Just(b"x".to_vec()), Just(b"0".to_vec()), Just(b"fF".to_vec()),
                    Just(b"%5c".to_vec()), Just("é".as_bytes().to_vec()), Just("\u{200b}".as_bytes().to_vec()),
                    proptest::collection::vec(any::<u8>(), 0..4),
                ],
                0..12,
            ),
        ) {
            let bytes = pieces.concat();
            let text = escape(&bytes).into_owned();
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(unescape(&text), bytes, "{}", text);
        }
    }
}

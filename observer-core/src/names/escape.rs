//! Names that peers and processes choose, as texts: of paths, and of processes; and other texts, for who reads
//! them.
//!
//! Neither is trusted: a path is whatever a peer sends, a name whatever a process sets. A text is
//! printable, and different bytes have different texts. What a format needs escaped (`"` and `\` in an
//! exposition, in JSON) is escaped once more where it is written.
//!
//! Where a text is only read (the log, a terminal, the page), [`visible`] shows what a reader could not see, or
//! what would change what they see of the rest: control characters, those that turn the direction of writing
//! around, ends of lines. In JSON ([`json`]) it is spelled out as JSON does that, so that it stays what it was.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// Bytes as text. Valid UTF-8 that can be seen stays as it is; every byte of anything else (control
/// characters, those that are invisible or attach to others, invalid UTF-8) becomes `\xNN`. A `\` stays
/// one, except where it would read as such an escape: there it is `\x5c`.
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
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

/// A text for a reader: what cannot be seen becomes `\u{202e}`, a line feed `\n`.
pub fn visible(text: &str) -> Cow<'_, str> {
    spelled(text, |c, to| match c {
        '\n' | '\r' | '\t' => write!(to, "{}", c.escape_default()),
        c => write!(to, "{}", c.escape_unicode()),
    })
}

/// JSON that means the same: what cannot be seen becomes `\u202e`. It is in texts, as it is nowhere else in JSON
/// that has no line feeds.
pub fn json(text: &str) -> Cow<'_, str> {
    spelled(text, |c, to| {
        c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(to, "\\u{unit:04x}"))
    })
}

fn spelled(text: &str, spell: impl Fn(char, &mut String) -> fmt::Result) -> Cow<'_, str> {
    if text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    let mut spelled = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_visible(c) {
            spelled.push(c);
        } else {
            // Writing to a String does not fail.
            let _ = spell(c, &mut spelled);
        }
    }
    Cow::Owned(spelled)
}

/// Rust's own rule for what a reader can tell from something else, which takes some letters for visible that are
/// not: Hangul's fillers, and Braille without a dot.
fn is_visible(c: char) -> bool {
    match c {
        '"' | '\'' | '\\' => true,
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{2800}' => false,
        c => c.escape_debug().len() == 1,
    }
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

    use super::{escape, json, visible};

    /// What changes how the rest is read, or is not seen: C0, C1, ends of lines, directions, joiners, marks of
    /// byte order, tags, fillers, variation selectors.
    const UNSEEN: &str = "\0\u{1b}\r\n\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{180e}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\
        \u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}\
        \u{fff9}\u{e0001}\u{e0041}\u{e007f}\u{fe0f}\u{3164}\u{115f}\u{2800}";

    #[test]
    fn what_cannot_be_seen_is_spelled_out() {
        for c in UNSEEN.chars() {
            let text = format!("a{c}b");
            let texts = [visible(&text), json(&text), escape(text.as_bytes())];
            for seen in texts {
                let plain = |c: char| c.is_ascii_graphic();
                assert!(
                    seen.chars().all(plain) && seen.len() > 3,
                    "{}: {seen}",
                    c.escape_unicode()
                );
            }
        }
        assert_eq!(visible("a\u{202e}\n\u{1b}[31m"), "a\\u{202e}\\n\\u{1b}[31m");
        for plain in ["größe ✓ 中 \"it's\" a\\b", ""] {
            assert_eq!((visible(plain), json(plain)), (plain.into(), plain.into()));
        }
    }

    #[test]
    fn json_means_what_it_meant() {
        let value = serde_json::json!({ UNSEEN: format!("grün \"{UNSEEN}\" 🦀") });
        let text = value.to_string();
        let seen = json(&text);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&seen).unwrap(), value);
        assert!(!seen.contains('\u{202e}') && seen.contains("\\u202e") && seen.contains("\\udb40"));
    }

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

//! Printable texts for names that peers and processes choose, and for other texts that people read.
//!
//! Neither is trusted: a path is whatever a peer sends, a name whatever a process sets. [`escape`] makes a printable
//! text, and different texts for different bytes. Characters that a format needs escaped (`"` and `\` in an
//! exposition, in JSON) are escaped once more where the format is written.
//!
//! For texts that are only read (the log, a terminal, the page), [`visible`] spells out the characters that a reader
//! cannot see, or that change how the rest looks: control characters, line ends, and those that change the direction
//! of writing. [`json`] spells them out as JSON does, so that the value stays the same.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// Makes printable text of bytes; different bytes become different texts.
///
/// Visible characters of valid UTF-8 stay as they are. Every byte of anything else (control characters, characters
/// that are invisible or attach to others, invalid UTF-8) becomes `\xNN`. A `\` stays, except where it would read as
/// such an escape: there it becomes `\x5c`.
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

/// Spells out the invisible characters of a text, for a reader: as `\u{202e}`, `\n`, `\r`, `\t`.
pub fn visible(text: &str) -> Cow<'_, str> {
    spelled(text, |c, to| match c {
        '\n' | '\r' | '\t' => write!(to, "{}", c.escape_default()),
        c => write!(to, "{}", c.escape_unicode()),
    })
}

/// Spells out the invisible characters of JSON on one line, as `\u202e`: its value stays the same, because such
/// characters are only in strings.
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

/// Whether a reader can see the character and distinguish it. That is Rust's own rule for `Debug`, without some
/// letters that it takes for visible: Hangul's fillers, and Braille without a dot.
fn is_visible(c: char) -> bool {
    match c {
        '"' | '\'' | '\\' => true,
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{2800}' => false,
        c => c.escape_debug().len() == 1,
    }
}

/// Whether the text would read as an escape with a `\` before it.
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

    /// Characters that change how the rest is read, or are invisible: C0, C1, ends of lines, directions, joiners,
    /// byte order marks, tags, fillers, variation selectors.
    const UNSEEN: &str = "\0\u{1b}\r\n\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{180e}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\
        \u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}\
        \u{fff9}\u{e0001}\u{e0041}\u{e007f}\u{fe0f}\u{3164}\u{115f}\u{2800}";

    #[test]
    fn invisible_characters_are_spelled_out() {
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
    fn visible_characters_stay() {
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

    /// The bytes that a reader takes a text for.
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

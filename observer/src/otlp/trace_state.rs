//! `tracestate`, which tracing systems pass on with a trace.
//!
//! Source: W3C Trace Context Level 2, §3.3.1.

/// Maximum number of members of a list.
const MAX_MEMBERS: usize = 32;

/// Maximum length of a key, and of a value.
const MAX_LEN: usize = 256;

/// The text of a list, if it is valid. One that is not must not be passed on.
pub(super) fn valid(list: &[u8]) -> Option<&str> {
    let text = str::from_utf8(list).ok()?;
    let mut keys = Vec::new();
    // Empty members are allowed.
    for member in text.split(',').map(trimmed).filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=')?;
        if keys.len() == MAX_MEMBERS || keys.contains(&key) || !is_key(key) || !is_value(value) {
            return None;
        }
        keys.push(key);
    }
    (!keys.is_empty()).then_some(text)
}

fn trimmed(member: &str) -> &str {
    member.trim_matches([' ', '\t'])
}

fn is_key(key: &str) -> bool {
    let is_first = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit();
    let is_other = |octet: u8| is_first(octet) || b"_-*/@".contains(&octet);
    key.len() <= MAX_LEN && key.bytes().next().is_some_and(is_first) && key.bytes().all(is_other)
}

/// Its last character is not a space, for members are trimmed.
fn is_value(value: &str) -> bool {
    let is_allowed = |octet: u8| matches!(octet, b' '..=b'~') && octet != b'=';
    (1..=MAX_LEN).contains(&value.len()) && value.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_valid_are_passed_on_as_they_are() {
        let keys: Vec<String> = (0..32).map(|number| format!("k{number}=v")).collect();
        let long = "v".repeat(256);
        for list in [
            "congo=t61rcWkgMzE",
            "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE ,\t,x=a b",
            "fw529a3039@dt=FfAw==".trim_end_matches('='),
            "1a-2f@foo=bar1:/;!~",
            &format!("a={long}"),
            &format!("{}=1", "a".repeat(256)),
            &keys.join(","),
        ] {
            assert_eq!(valid(list.as_bytes()), Some(list));
        }
    }

    #[test]
    fn others_are_not() {
        let keys: Vec<String> = (0..33).map(|number| format!("k{number}=v")).collect();
        for list in [
            &b""[..],
            b" , ",
            b"foo",
            b"foo=",
            b"=1",
            b"Foo=1",
            b"@foo=1",
            b"foo =1",
            b"foo=1,foo=2",
            b"foo=a=b",
            b"foo=\x7f",
            b"foo=\xc3\xa9",
            b"foo=\xff",
            b"foo=a\tb",
            format!("a={}", "v".repeat(257)).as_bytes(),
            format!("{}=1", "a".repeat(257)).as_bytes(),
            keys.join(",").as_bytes(),
        ] {
            assert_eq!(valid(list), None, "{}", list.escape_ascii());
        }
    }
}

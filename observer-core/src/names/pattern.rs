//! Patterns for names.

use std::{fmt, str::FromStr};

/// A pattern for names: `*` stands for any characters, also for none; all other characters for themselves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// The longest pattern in bytes.
    const AT_MOST: usize = 512;

    /// Whether the pattern stands for the whole text. O(pattern · text).
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
            return false;
        };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // The first place of each part leaves the most room for the next ones.
        for part in parts {
            match rest.split_once(part) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    /// Whether it stands for every text.
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An empty text, and one of more than 512 bytes, is an error.
impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.len() {
            0 => Err("the pattern is empty: write a name, in which * stands for any text".into()),
            1..=Self::AT_MOST => Ok(Self(text.into())),
            length => Err(format!(
                "the pattern has {length} bytes: write at most {}, with * for the rest",
                Self::AT_MOST
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Pattern;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (is, text, matches) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "ba", false),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("a*a", "a", false),
            ("*b*", "abc", true),
            ("*b*b*", "abc", false),
            ("a**c", "abc", true),
            ("a*bc*bcd", "abcd", false),
            ("grpc.health.v1.*", "grpc.health.v1.Health/Check", true),
            ("grpc.health.v1.*", "grpc.health.v1alpha.Health/Check", false),
            ("a.c", "abc", false),
            ("é*", "éa", true),
        ] {
            assert_eq!(pattern(is).matches(text), matches, "{is} {text}");
        }
        assert!(pattern("**").is_any() && !pattern("*a").is_any());
    }

    #[test]
    fn a_pattern_has_a_length() {
        assert!("".parse::<Pattern>().unwrap_err().contains("empty"));
        assert!("x".repeat(513).parse::<Pattern>().unwrap_err().contains("513 bytes"));
        assert_eq!(pattern(&"x".repeat(512)).as_str().len(), 512);
    }

    /// The definition, letter by letter.
    fn stands_for(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => {
                (0..=text.len()).any(|skipped| stands_for(rest, &text[skipped..]))
            }
            ([one, rest @ ..], [other, after @ ..]) => one == other && stands_for(rest, after),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_is_as_defined(is in "[ab*]{1,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(pattern(&is).matches(&text), stands_for(is.as_bytes(), text.as_bytes()));
        }
    }
}

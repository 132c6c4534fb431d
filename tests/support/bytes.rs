//! Searches in bytes.

/// Whether `wanted`, which is not empty, occurs in `bytes`.
pub fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn a_leak_would_be_found() {
        assert!(contains(b"..ababab", b"ababab"));
        assert!(!contains(b"..ababa", b"ababab"));
        assert!(!contains(b"", b"ab"));
    }
}

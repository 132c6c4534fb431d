//! Reads files up to a bound: others choose their length.

#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    path::Path,
};

/// Reads the first bytes of a file, at most `at_most`.
pub(crate) fn first_of(path: &Path, at_most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(at_most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a whole file. A file of more than `at_most` bytes is an error.
pub(crate) fn all_of(path: &Path, at_most: usize) -> io::Result<Vec<u8>> {
    let bytes = first_of(path, at_most.saturating_add(1))?;
    if bytes.len() > at_most {
        let error = format!("the file is longer than {} MiB", at_most >> 20);
        return Err(io::Error::new(ErrorKind::FileTooLarge, error));
    }
    Ok(bytes)
}

/// Reads a whole file of text. A file of more than `at_most` bytes, or one that is not UTF-8, is an error.
pub(crate) fn text_of(path: &Path, at_most: usize) -> io::Result<String> {
    String::from_utf8(all_of(path, at_most)?)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::{all_of, first_of};

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"12345").unwrap();
        assert_eq!(first_of(file.path(), 3).unwrap(), b"123");
        assert_eq!(first_of(file.path(), 9).unwrap(), b"12345");
        assert_eq!(all_of(file.path(), 5).unwrap(), b"12345");
        assert!(all_of(file.path(), 4).unwrap_err().to_string().contains("longer"));
        assert_eq!(first_of("/dev/zero".as_ref(), 4096).unwrap().len(), 4096);
    }
}
